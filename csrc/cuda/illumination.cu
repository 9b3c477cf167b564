#include "csrc/cuda/illumination.h"
#include "csrc/scalar.h"

namespace ptyle::cuda {
namespace {

template <typename T>
__global__ void illumination_kernel(const Complex<T>* probe, int64_t modes, int64_t height,
                                    int64_t width, const int64_t* corners, int64_t positions,
                                    T* sums, int64_t rows, int64_t columns) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < rows * columns;
       i += stride) {
    T sum = 0;
    for (int64_t n = 0; n < positions; ++n) {
      const int64_t y = i / columns - corners[2 * n];
      const int64_t x = i % columns - corners[2 * n + 1];
      if (y < 0 || y >= height || x < 0 || x >= width) continue;
      T intensity = 0;
      for (int64_t m = 0; m < modes; ++m) {
        intensity += abs_squared(probe[(m * height + y) * width + x]);
      }
      sum += intensity;
    }
    sums[i] = sum;
  }
}

}  // namespace

template <typename T>
cudaError_t illumination(const T* probe, int64_t modes, int64_t height, int64_t width,
                         const int64_t* corners, int64_t positions, T* sums, int64_t rows,
                         int64_t columns, cudaStream_t stream) {
  if (rows * columns == 0) return cudaSuccess;
  constexpr int kThreads = 256;
  constexpr int64_t kMostBlocks = 1 << 16;
  const int64_t blocks = (rows * columns + kThreads - 1) / kThreads;
  illumination_kernel<T>
      <<<static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks), kThreads, 0, stream>>>(
          reinterpret_cast<const Complex<T>*>(probe), modes, height, width, corners, positions,
          sums, rows, columns);
  return cudaGetLastError();
}

template cudaError_t illumination<float>(const float*, int64_t, int64_t, int64_t, const int64_t*,
                                         int64_t, float*, int64_t, int64_t, cudaStream_t);
template cudaError_t illumination<double>(const double*, int64_t, int64_t, int64_t, const int64_t*,
                                          int64_t, double*, int64_t, int64_t, cudaStream_t);

}  // namespace ptyle::cuda
