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
#else
#define PTYLE_DEVICE __device__ __forceinline__
template <typename V>
PTYLE_DEVICE V read(const V* from) {
  return *from;
}
template <typename V>
PTYLE_DEVICE void write(V* to, V value) {
  *to = value;
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

// This thread's items of a loop over `count`: for (int64_t i = first_item(); i < count; i +=
// item_step()).
PTYLE_DEVICE int64_t first_item() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
PTYLE_DEVICE int64_t item_step() { return static_cast<int64_t>(gridDim.x) * blockDim.x; }

}  // namespace ptyle::cuda
