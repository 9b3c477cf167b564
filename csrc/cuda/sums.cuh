// Sums over the threads of a block, in a fixed order.
#pragma once

#include "csrc/cuda/memory.cuh"

namespace ptyle::cuda {

// Threads of every block that is launched.
constexpr int kBlockThreads = 256;

// The sum of every thread's `value`, by a tree of fixed shape, for thread 0; all threads must call
// it.
PTYLE_DEVICE double block_sum(double value) {
  __shared__ double sums[kBlockThreads];
  __syncthreads();  // an earlier sum may still be read
  sums[threadIdx.x] = value;
  for (int half = kBlockThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  return sums[0];
}

}  // namespace ptyle::cuda
