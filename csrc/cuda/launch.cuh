// The one place where kernels are launched.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

#include "csrc/cuda/error.h"
#include "csrc/cuda/sums.cuh"

namespace ptyle::cuda {

inline void check(cudaError_t code) {
  if (code != cudaSuccess) throw CudaError{static_cast<int>(code)};
}

// `blocks` blocks of kBlockThreads; kernels stride over what a grid does not hold.
template <typename... Parameters, typename... Arguments>
void launch_blocks(void* stream, void (*kernel)(Parameters...), int64_t blocks,
                   Arguments... arguments) {
  if (blocks <= 0) return;
  constexpr int64_t kMostBlocks = 1 << 20;
  kernel<<<static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks), kBlockThreads, 0,
           static_cast<cudaStream_t>(stream)>>>(arguments...);
  check(cudaGetLastError());
}

// A thread for each of `items`.
template <typename... Parameters, typename... Arguments>
void launch_items(void* stream, void (*kernel)(Parameters...), int64_t items,
                  Arguments... arguments) {
  launch_blocks(stream, kernel, (items + kBlockThreads - 1) / kBlockThreads, arguments...);
}

}  // namespace ptyle::cuda
