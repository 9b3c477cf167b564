// How launch functions fail.
#pragma once

namespace ptyle::cuda {

// The runtime's code (a cudaError_t).
struct CudaError {
  int code;
};

}  // namespace ptyle::cuda
