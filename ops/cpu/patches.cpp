#include <cmath>

#include <torch/library.h>

#include "ops/checks.h"
#include "ops/cpu/multislice.h"

namespace ptyle::cpu {
namespace {

std::vector<Footprint> footprints_of(const std::vector<std::pair<int64_t, int64_t>>& corners,
                                     int64_t height, int64_t width, int64_t rows, int64_t columns) {
  std::vector<Footprint> all;
  all.reserve(corners.size());
  for (const auto& [row, column] : corners) {
    all.push_back(footprint(row, column, height, width, rows, columns));
  }
  return all;
}

// Corners in the array's frame, of positions that must be whole pixels.
std::vector<std::pair<int64_t, int64_t>> whole_corners(const char* name,
                                                       const at::Tensor& positions,
                                                       at::IntArrayRef origin) {
  const at::Tensor memory = plain(positions);
  const double* p = memory.const_data_ptr<double>();
  std::vector<std::pair<int64_t, int64_t>> corners;
  for (int64_t n = 0; n < positions.size(0); ++n) {
    const auto [row, column] = window_corner(name, p + 2 * n, n);
    for (int axis = 0; axis < 2; ++axis) {
      TORCH_CHECK_VALUE(p[2 * n + axis] == std::floor(p[2 * n + axis]), "ptyle::", name,
                        ": positions must be whole pixels, got ", p[2 * n + axis], " at [", n, ", ",
                        axis, "]");
    }
    corners.emplace_back(row - origin[0], column - origin[1]);
  }
  return corners;
}

template <typename Work>
void with_type(const at::Tensor& image, const Work& work) {
  switch (image.scalar_type()) {
    case at::kFloat:
      return work.template operator()<float>();
    case at::kDouble:
      return work.template operator()<double>();
    case at::kComplexFloat:
      return work.template operator()<Complex<float>>();
    default:
      return work.template operator()<Complex<double>>();
  }
}

at::Tensor extract_patches(const at::Tensor& object, const at::Tensor& positions,
                           at::IntArrayRef window, at::IntArrayRef origin) {
  check_patches("extract_patches", "object", object, 3, positions, "window",
                c10::fromIntArrayRefSlow(window), c10::fromIntArrayRefSlow(origin));
  const auto corners = whole_corners("extract_patches", positions, origin);
  const int64_t slices = object.size(0), rows = object.size(1), columns = object.size(2);
  const auto footprints = footprints_of(corners, window[0], window[1], rows, columns);
  const at::Tensor memory = plain(object);
  at::Tensor patches =
      at::zeros({positions.size(0), slices, window[0], window[1]}, memory.options());
  with_type(memory, [&]<typename V>() {
    const V* from = static_cast<const V*>(memory.const_data_ptr());
    V* to = static_cast<V*>(patches.data_ptr());
    at::parallel_for(
        0, positions.size(0), grain(positions.size(0), patches.numel()),
        [&](int64_t begin, int64_t end) {
          for (int64_t n = begin; n < end; ++n) {
            const auto& [row, column] = corners[static_cast<size_t>(n)];
            const Footprint& in = footprints[static_cast<size_t>(n)];
            for (int64_t s = 0; s < slices; ++s) {
              for (int64_t y = in.row_begin; y < in.row_end; ++y) {
                const V* line = from + (s * rows + row + y) * columns + column;
                std::copy(line + in.column_begin, line + in.column_end,
                          to + ((n * slices + s) * window[0] + y) * window[1] + in.column_begin);
              }
            }
          }
        });
  });
  return patches;
}

at::Tensor add_patches(const at::Tensor& patches, const at::Tensor& positions,
                       at::IntArrayRef shape, at::IntArrayRef origin) {
  check_patches("add_patches", "patches", patches, 4, positions, "shape",
                c10::fromIntArrayRefSlow(shape), c10::fromIntArrayRefSlow(origin));
  const auto corners = whole_corners("add_patches", positions, origin);
  const int64_t slices = patches.size(1), height = patches.size(2), width = patches.size(3);
  const auto footprints = footprints_of(corners, height, width, shape[0], shape[1]);
  const at::Tensor memory = plain(patches);
  at::Tensor sums = at::zeros({slices, shape[0], shape[1]}, memory.options());
  with_type(memory, [&]<typename V>() {
    const V* from = static_cast<const V*>(memory.const_data_ptr());
    V* to = static_cast<V*>(sums.data_ptr());
    // Each thread owns rows of all slices and goes through the positions in order.
    at::parallel_for(0, shape[0], grain(shape[0], patches.numel()),
                     [&](int64_t begin, int64_t end) {
                       for (int64_t n = 0; n < positions.size(0); ++n) {
                         const auto& [row, column] = corners[static_cast<size_t>(n)];
                         const Footprint& in = footprints[static_cast<size_t>(n)];
                         for (int64_t s = 0; s < slices; ++s) {
                           for (int64_t y = std::max(in.row_begin, begin - row);
                                y < std::min(in.row_end, end - row); ++y) {
                             const V* patch = from + ((n * slices + s) * height + y) * width;
                             V* sum = to + (s * shape[0] + row + y) * shape[1] + column;
                             for (int64_t x = in.column_begin; x < in.column_end; ++x)
                               sum[x] += patch[x];
                           }
                         }
                       }
                     });
  });
  return sums;
}

}  // namespace
}  // namespace ptyle::cpu

TORCH_LIBRARY_IMPL(ptyle, CPU, library) {
  library.impl("extract_patches", &ptyle::cpu::extract_patches);
  library.impl("add_patches", &ptyle::cpu::add_patches);
}
