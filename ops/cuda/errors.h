// What csrc/cuda throws, as torch says it.
#pragma once

#include <c10/cuda/CUDAException.h>

#include "csrc/cuda/error.h"

namespace ptyle::cuda {

// Runs work(); a launch that failed becomes a c10::Error.
template <typename Work>
void checked(const Work& work) {
  try {
    work();
  } catch (const CudaError& error) {
    C10_CUDA_CHECK(static_cast<cudaError_t>(error.code));
  }
}

}  // namespace ptyle::cuda
