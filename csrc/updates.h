// Arithmetic on object and probe between two evaluations, an element at a time: what optimisers do
// with gradients, and sums over images. One source for host and device.
#pragma once

#include <cstdint>
#include <variant>

#include "csrc/scalar.h"

namespace ptyle {

// [planes, rows, columns]
struct ImageSize {
  int64_t planes, rows, columns;
};

// An image of unit stride in columns, whole or a part of a larger one. plane_stride 0: all planes
// share one.
template <typename V>
struct Image {
  V* data;
  int64_t plane_stride, row_stride;
  PTYLE_HOST_DEVICE V& at(int64_t plane, int64_t row, int64_t column) const {
    return data[plane * plane_stride + row * row_stride + column];
  }
};

// y += factor x
template <typename T>
struct AddScaled {
  Image<Complex<T>> y;
  Image<const Complex<T>> x;
  T factor;
  PTYLE_HOST_DEVICE void operator()(int64_t p, int64_t r, int64_t c) const {
    y.at(p, r, c) += factor * x.at(p, r, c);
  }
};

// y = factor y
template <typename T>
struct Scale {
  Image<Complex<T>> y;
  T factor;
  PTYLE_HOST_DEVICE void operator()(int64_t p, int64_t r, int64_t c) const {
    y.at(p, r, c) = factor * y.at(p, r, c);
  }
};

// y = weight y
template <typename T>
struct Multiply {
  Image<Complex<T>> y;
  Image<const T> weight;
  PTYLE_HOST_DEVICE void operator()(int64_t p, int64_t r, int64_t c) const {
    y.at(p, r, c) = weight.at(p, r, c) * y.at(p, r, c);
  }
};

// weight = step / (2 (illumination + floor)); 0 where floor is 0
template <typename T>
struct Precondition {
  Image<const T> illumination, floor;  // floor [planes, 1, 1]
  Image<T> weight;
  T step;
  PTYLE_HOST_DEVICE void operator()(int64_t p, int64_t r, int64_t c) const {
    const T least = floor.at(p, 0, 0);
    weight.at(p, r, c) =
        select(least > T(0), step / (T(2) * (illumination.at(p, r, c) + least)), T(0));
  }
};

// A step down a gradient, in units of what illuminates a pixel (driver/engine/descent.cpp has the
// rule): sum += illumination, and x += d with
//   d = -step gradient / (illumination + share before + floor), its part along x shortened to
//   `amplitude` of it, nowhere longer than `longest`.
// Without `before` that is the new `sum`.
template <typename T>
struct IlluminatedStep {
  Image<Complex<T>> x;
  Image<const Complex<T>> gradient;
  Image<const T> illumination, before, floor;  // floor [planes, 1, 1]
  Image<T> sum;
  T step, share, amplitude, longest;

  PTYLE_HOST_DEVICE Complex<T> moved(Complex<T> o, Complex<T> g, T light, T known, T least) const {
    const T weight = select(least > T(0), step / (light + share * known + least), T(0));
    // Re(conj(o) g) / |o|^2 o is what of g lies along o
    const T along = (T(1) - amplitude) * (o.re * g.re + o.im * g.im) / (abs_squared(o) + kTiny);
    const Complex<T> d{weight * (along * o.re - g.re), weight * (along * o.im - g.im)};
    const T square = abs_squared(d);
    const T factor = select(square > longest * longest, longest / ptyle::sqrt(square), T(1));
    const bool finite = square < kHuge;  // false for NaN
    return {o.re + select(finite, factor * d.re, T(0)), o.im + select(finite, factor * d.im, T(0))};
  }
  PTYLE_HOST_DEVICE void operator()(int64_t p, int64_t r, int64_t c) const {
    const T light = illumination.at(p, r, c), all = sum.at(p, r, c) + light;
    sum.at(p, r, c) = all;
    x.at(p, r, c) = moved(x.at(p, r, c), gradient.at(p, r, c), light,
                          before.data != nullptr ? before.at(p, r, c) : all, floor.at(p, 0, 0));
  }
  // The same of a whole row, for compilers that cannot know that nothing overlaps.
  void row(int64_t p, int64_t r, int64_t columns) const {
    Complex<T>* __restrict to = &x.at(p, r, 0);
    const Complex<T>* __restrict g = &gradient.at(p, r, 0);
    const T* __restrict light = &illumination.at(p, r, 0);
    T* __restrict all = &sum.at(p, r, 0);
    const T least = floor.at(p, 0, 0);
    const IlluminatedStep here = *this;
    if (before.data != nullptr) {
      const T* __restrict known = &before.at(p, r, 0);
      for (int64_t c = 0; c < columns; ++c) {
        all[c] += light[c];
        to[c] = here.moved(to[c], g[c], light[c], known[c], least);
      }
    } else {
      for (int64_t c = 0; c < columns; ++c) {
        all[c] += light[c];
        to[c] = here.moved(to[c], g[c], light[c], all[c], least);
      }
    }
  }
  static constexpr T kTiny = T(1e-20), kHuge = T(1e36);
};

// Between two iterations: x + beta (x - last), where `last` is what x was one iteration before;
// begin = x before that.
template <typename T>
struct Extrapolate {
  Image<Complex<T>> x, begin;
  Image<const Complex<T>> last;
  T beta;
  PTYLE_HOST_DEVICE void operator()(int64_t p, int64_t r, int64_t c) const {
    const Complex<T> now = x.at(p, r, c);
    begin.at(p, r, c) = now;
    x.at(p, r, c) = now + beta * (now - last.at(p, r, c));
  }
};

// A step of Adam (Kingma & Ba 2015) with the second moment of a complex number taken as |g|^2, so
// that a rotation of the phase rotates the step. by_first = rate / (1 - beta1^t), by_second = 1 /
// (1 - beta2^t).
template <typename T>
struct AdamStep {
  Image<Complex<T>> x, first;
  Image<T> second;
  Image<const Complex<T>> gradient;
  T beta1, beta2, epsilon, by_first, by_second;
  PTYLE_HOST_DEVICE void operator()(int64_t p, int64_t r, int64_t c) const {
    const Complex<T> g = gradient.at(p, r, c);
    Complex<T>& m = first.at(p, r, c);
    T& v = second.at(p, r, c);
    m = beta1 * m + (T(1) - beta1) * g;
    v = beta2 * v + (T(1) - beta2) * abs_squared(g);
    x.at(p, r, c) += (-by_first / (ptyle::sqrt(v * by_second) + epsilon)) * m;
  }
};

// gradient += weight (x - 1)
template <typename T>
struct PullToVacuum {
  Image<Complex<T>> gradient;
  Image<const Complex<T>> x;
  T weight;
  PTYLE_HOST_DEVICE void operator()(int64_t p, int64_t r, int64_t c) const {
    const Complex<T> from = x.at(p, r, c);
    gradient.at(p, r, c) += weight * Complex<T>{from.re - T(1), from.im};
  }
};

// x = x / |x|, or `share` of the way there; 0 stays.
template <typename T>
struct PurePhase {
  Image<Complex<T>> x;
  T share;
  PTYLE_HOST_DEVICE void operator()(int64_t p, int64_t r, int64_t c) const {
    const T amplitude = ptyle::sqrt(abs_squared(x.at(p, r, c)));
    const T factor = select(amplitude > T(0), T(1) - share + share / amplitude, T(1));
    x.at(p, r, c) = factor * x.at(p, r, c);
  }
};

// sum [h, w] = sum over windows, in order, of |transmission|^2, vacuum (1) outside it. corners
// [windows, 2] in its array.
template <typename T>
struct WindowedPower {
  Image<const Complex<T>> transmission;
  int64_t rows, columns;  // of the transmission
  const int64_t* corners;
  int64_t windows;
  Image<T> sum;
  PTYLE_HOST_DEVICE void operator()(int64_t p, int64_t r, int64_t c) const {
    T total = 0;
    for (int64_t n = 0; n < windows; ++n) {
      const int64_t row = corners[2 * n] + r, column = corners[2 * n + 1] + c;
      const bool inside = row >= 0 && row < rows && column >= 0 && column < columns;
      total += inside ? abs_squared(transmission.at(p, row, column)) : T(1);
    }
    sum.at(p, r, c) = total;
  }
};

template <typename T>
using Update =
    std::variant<AddScaled<T>, Scale<T>, Multiply<T>, Precondition<T>, IlluminatedStep<T>,
                 Extrapolate<T>, AdamStep<T>, PullToVacuum<T>, PurePhase<T>, WindowedPower<T>>;

// ---- terms of sums, added in double ----

// Re(conj(a) b)
template <typename T>
struct InnerProduct {
  Image<const Complex<T>> a, b;
  PTYLE_HOST_DEVICE double operator()(int64_t p, int64_t r, int64_t c) const {
    const Complex<T> x = a.at(p, r, c), y = b.at(p, r, c);
    return static_cast<double>(x.re) * static_cast<double>(y.re) +
           static_cast<double>(x.im) * static_cast<double>(y.im);
  }
};

// Re(conj(begin - x) (x - last)): whether an iteration went back against the one before
template <typename T>
struct Overshoot {
  Image<const Complex<T>> begin, x, last;
  PTYLE_HOST_DEVICE double operator()(int64_t p, int64_t r, int64_t c) const {
    const Complex<T> now = x.at(p, r, c);
    const Complex<T> back = begin.at(p, r, c) - now, on = now - last.at(p, r, c);
    return static_cast<double>(back.re) * static_cast<double>(on.re) +
           static_cast<double>(back.im) * static_cast<double>(on.im);
  }
};

// |x - 1|^2
template <typename T>
struct DistanceToVacuum {
  Image<const Complex<T>> x;
  PTYLE_HOST_DEVICE double operator()(int64_t p, int64_t r, int64_t c) const {
    const double re = static_cast<double>(x.at(p, r, c).re) - 1.0;
    const double im = static_cast<double>(x.at(p, r, c).im);
    return re * re + im * im;
  }
};

template <typename T>
using SumOf = std::variant<InnerProduct<T>, Overshoot<T>, DistanceToVacuum<T>>;

}  // namespace ptyle
