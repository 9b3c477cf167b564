// How kernels touch global memory. On the host, where their bodies run under an emulator in the
// tests, every access is counted.
#pragma once

#include <cstdint>

#include "csrc/scalar.h"

namespace ptyle::cuda {

#if defined(PTYLE_CUDA_EMULATED)
#define PTYLE_DEVICE static inline
template <typename V>
inline V read(const V* from) {
  emulator::Machine::get().counters.bytes_read += static_cast<int64_t>(sizeof(V));
  return *from;
}
template <typename V>
inline void write(V* to, V value) {
  emulator::Machine::get().counters.bytes_written += static_cast<int64_t>(sizeof(V));
  *to = value;
}
#define PTYLE_UNROLL
#else
#define PTYLE_DEVICE __device__ __forceinline__
#define PTYLE_UNROLL _Pragma("unroll")
template <typename V>
PTYLE_DEVICE V read(const V* from) {
  return *from;
}
template <typename V>
PTYLE_DEVICE void write(V* to, V value) {
  *to = value;
}
// Complex numbers in one access: a device's memory of them is aligned to their size.
PTYLE_DEVICE Complex<float> read(const Complex<float>* from) {
  const float2 value = *reinterpret_cast<const float2*>(from);
  return {value.x, value.y};
}
PTYLE_DEVICE Complex<double> read(const Complex<double>* from) {
  const double2 value = *reinterpret_cast<const double2*>(from);
  return {value.x, value.y};
}
PTYLE_DEVICE void write(Complex<float>* to, Complex<float> value) {
  *reinterpret_cast<float2*>(to) = {value.re, value.im};
}
PTYLE_DEVICE void write(Complex<double>* to, Complex<double> value) {
  *reinterpret_cast<double2*>(to) = {value.re, value.im};
}
#endif

// Of a table of a few bytes a position, which stays in the nearest cache: not counted.
template <typename V>
PTYLE_DEVICE V read_small(const V* from) {
  return *from;
}

template <typename V>
PTYLE_DEVICE void add(V* to, V value) {
  write(to, read(static_cast<const V*>(to)) + value);
}

// sum + load(0) + load(1) + ..., in this order. Several loads are under way at a time: a thread
// that sums waits for memory, not for the addition before.
template <typename V, typename Load>
PTYLE_DEVICE V sum_in_order(V sum, int64_t count, const Load& load) {
  constexpr int kAtOnce = 8;
  for (int64_t k = 0; k < count; k += kAtOnce) {
    V values[kAtOnce];
    PTYLE_UNROLL
    for (int j = 0; j < kAtOnce; ++j) values[j] = k + j < count ? load(k + j) : V{};
    PTYLE_UNROLL
    for (int j = 0; j < kAtOnce; ++j) {
      if (k + j < count) sum += values[j];
    }
  }
  return sum;
}

// This thread's items of a loop over `count`: for (int64_t i = first_item(); i < count; i +=
// item_step()).
PTYLE_DEVICE int64_t first_item() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
PTYLE_DEVICE int64_t item_step() { return static_cast<int64_t>(gridDim.x) * blockDim.x; }

}  // namespace ptyle::cuda
