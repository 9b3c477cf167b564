#include <algorithm>
#include <utility>
#include <vector>

#include <torch/library.h>

#include "csrc/wave.h"
#include "ops/checks.h"
#include "ops/cpu/windows.h"
#include "ops/gradients.h"

namespace ptyle::cpu {
namespace {

at::Tensor illumination(const at::Tensor& probe, const at::Tensor& positions, at::IntArrayRef shape,
                        at::IntArrayRef origin) {
  check_illumination(probe, positions, c10::fromIntArrayRefSlow(shape),
                     c10::fromIntArrayRefSlow(origin));
  return with_precision(probe, [&]<typename T>() {
    const at::Tensor waves = plain(probe);
    const at::Tensor corners = plain(positions);
    const double* corner = corners.const_data_ptr<double>();
    const int64_t height = probe.size(1), width = probe.size(2);
    std::vector<T> intensity(static_cast<size_t>(height * width));
    const Complex<T>* wave = complex_data<T>(waves);
    for (int64_t m = 0; m < probe.size(0); ++m) {
      for (T& sum : intensity) sum += abs_squared(*wave++);
    }
    std::vector<std::pair<int64_t, int64_t>> windows;
    for (int64_t n = 0; n < positions.size(0); ++n) {
      const auto [row, column] = window_corner("illumination", corner + 2 * n, n);
      windows.emplace_back(row - origin[0], column - origin[1]);
    }
    at::Tensor out =
        at::zeros(shape, probe.options().dtype(at::toRealValueType(probe.scalar_type())));
    T* sums = out.data_ptr<T>();
    // Each thread owns rows and goes through the positions in order.
    at::parallel_for(0, shape[0], grain(shape[0], positions.size(0) * height * width),
                     [&](int64_t begin, int64_t end) {
                       for (const auto& [row, column] : windows) {
                         const Footprint in =
                             footprint(row, column, height, width, shape[0], shape[1]);
                         for (int64_t y = std::max(in.row_begin, begin - row);
                              y < std::min(in.row_end, end - row); ++y) {
                           T* sum = sums + (row + y) * shape[1] + column;
                           const T* from = intensity.data() + y * width;
                           for (int64_t x = in.column_begin; x < in.column_end; ++x)
                             sum[x] += from[x];
                         }
                       }
                     });
    return out;
  });
}

}  // namespace
}  // namespace ptyle::cpu

TORCH_LIBRARY_IMPL(ptyle, CPU, library) { library.impl("illumination", &ptyle::cpu::illumination); }
