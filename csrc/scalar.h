// Arithmetic that every formula of ptyle is written in: real functions and a complex type that
// work for a scalar on the host, a scalar on a device and (later) a vector of lanes alike.
//
// Formulae are templates over the real type and branch-free through `select`, so that one source
// serves scalar, SIMD and CUDA code.
#pragma once

#include <cmath>

#if defined(__CUDACC__)
#define PTYLE_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define PTYLE_HOST_DEVICE inline __attribute__((always_inline))
#endif

namespace ptyle {

template <typename T>
inline constexpr T kPi = T(3.14159265358979323846264338327950288L);

// condition ? a : b, without a branch in vector code.
PTYLE_HOST_DEVICE float select(bool condition, float a, float b) { return condition ? a : b; }
PTYLE_HOST_DEVICE double select(bool condition, double a, double b) { return condition ? a : b; }

PTYLE_HOST_DEVICE float sqrt(float x) { return ::sqrtf(x); }
PTYLE_HOST_DEVICE double sqrt(double x) { return ::sqrt(x); }
PTYLE_HOST_DEVICE float log(float x) { return ::logf(x); }
PTYLE_HOST_DEVICE double log(double x) { return ::log(x); }
PTYLE_HOST_DEVICE float sin(float x) { return ::sinf(x); }
PTYLE_HOST_DEVICE double sin(double x) { return ::sin(x); }
PTYLE_HOST_DEVICE float cos(float x) { return ::cosf(x); }
PTYLE_HOST_DEVICE double cos(double x) { return ::cos(x); }

// Two reals, laid out as std::complex and c10::complex are. Unlike std::complex its product has no
// rescue path for infinities, so that loops over it vectorise.
template <typename T>
struct Complex {
  T re;
  T im;
};

template <typename T>
PTYLE_HOST_DEVICE Complex<T> operator+(Complex<T> a, Complex<T> b) {
  return {a.re + b.re, a.im + b.im};
}
template <typename T>
PTYLE_HOST_DEVICE Complex<T> operator-(Complex<T> a, Complex<T> b) {
  return {a.re - b.re, a.im - b.im};
}
template <typename T>
PTYLE_HOST_DEVICE Complex<T> operator*(Complex<T> a, Complex<T> b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
template <typename T>
PTYLE_HOST_DEVICE Complex<T> operator*(T a, Complex<T> b) {
  return {a * b.re, a * b.im};
}
template <typename T>
PTYLE_HOST_DEVICE Complex<T>& operator+=(Complex<T>& a, Complex<T> b) {
  a.re += b.re;
  a.im += b.im;
  return a;
}
// conj(a) * b
template <typename T>
PTYLE_HOST_DEVICE Complex<T> conj_times(Complex<T> a, Complex<T> b) {
  return {a.re * b.re + a.im * b.im, a.re * b.im - a.im * b.re};
}
// |a|^2
template <typename T>
PTYLE_HOST_DEVICE T abs_squared(Complex<T> a) {
  return a.re * a.re + a.im * a.im;
}
// exp(i phase)
template <typename T>
PTYLE_HOST_DEVICE Complex<T> unit_phasor(T phase) {
  return {cos(phase), sin(phase)};
}

}  // namespace ptyle
