// Illumination on CUDA: launch functions without torch types.
#pragma once

#include <cstdint>

#include <cuda_runtime_api.h>

namespace ptyle::cuda {

// sums [rows, columns] = sum over positions and modes of |probe|^2; probe: interleaved complex
// [modes, height, width]; corners [n, 2]: whole-pixel window corners in the array's frame. Every
// pixel adds its positions in order, so that the result has the same bits every time.
template <typename T>
cudaError_t illumination(const T* probe, int64_t modes, int64_t height, int64_t width,
                         const int64_t* corners, int64_t positions, T* sums, int64_t rows,
                         int64_t columns, cudaStream_t stream);

}  // namespace ptyle::cuda
