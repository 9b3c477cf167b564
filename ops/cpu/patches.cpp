#include <algorithm>
#include <array>

#include <torch/library.h>

#include "csrc/interpolation.h"
#include "csrc/wave.h"
#include "ops/checks.h"
#include "ops/cpu/windows.h"
#include "ops/gradients.h"

namespace ptyle::cpu {
namespace {

// One axis of a window on an image: its first pixel in the image's array, and the weights of the
// pixels around each of its own; one weight, 1, where it lies on whole pixels.
template <typename T>
struct AxisTaps {
  int64_t corner;
  int64_t before = 0, count = 1;  // taps: from -before to count - 1 - before
  std::array<T, kInterpolationTaps> weights{T(1)};
};

template <typename T>
struct WindowTaps {
  AxisTaps<T> rows, columns;
  bool whole() const { return rows.count == 1 && columns.count == 1; }
};

template <typename T>
AxisTaps<T> axis_taps(double position, int64_t whole, int64_t origin, int64_t derivative) {
  AxisTaps<T> taps{whole - origin};
  const double fraction = position - static_cast<double>(whole);
  if (fraction == 0 && derivative == 0) return taps;
  taps.before = kInterpolationBefore;
  taps.count = kInterpolationTaps;
  for (int k = 0; k < kInterpolationTaps; ++k) {
    taps.weights[static_cast<size_t>(k)] =
        static_cast<T>(interpolation_weight(k, fraction, derivative));
  }
  return taps;
}

template <typename T>
std::vector<WindowTaps<T>> taps_of(const char* name, const at::Tensor& positions,
                                   at::IntArrayRef origin, at::IntArrayRef derivative) {
  const at::Tensor memory = plain(positions);
  const double* p = memory.const_data_ptr<double>();
  std::vector<WindowTaps<T>> all;
  for (int64_t n = 0; n < positions.size(0); ++n) {
    const auto [row, column] = window_corner(name, p + 2 * n, n);
    all.push_back({axis_taps<T>(p[2 * n], row, origin[0], derivative[0]),
                   axis_taps<T>(p[2 * n + 1], column, origin[1], derivative[1])});
  }
  return all;
}

// to += weight x from
template <typename T>
void add_weighed(T weight, const T* from, int64_t numbers, T* to) {
  for (int64_t i = 0; i < numbers; ++i) to[i] += weight * from[i];
}

// to[i] = sum over taps of weight x from[i + tap]; `from` begins at the first tap of to[0]. C
// numbers T to an element. Tap by tap: loops that compilers turn into vectors.
template <int C, typename T>
void weigh_along(const AxisTaps<T>& taps, const T* from, int64_t elements, T* to) {
  std::copy(from, from + C * elements, to);
  if (taps.count == 1) return;
  for (int64_t i = 0; i < C * elements; ++i) to[i] *= taps.weights[0];
  for (int64_t k = 1; k < kInterpolationTaps; ++k) {
    add_weighed(taps.weights[static_cast<size_t>(k)], from + C * k, C * elements, to);
  }
}

at::Tensor extract_patches(const at::Tensor& object, const at::Tensor& positions,
                           at::IntArrayRef window, at::IntArrayRef origin, double outside,
                           at::IntArrayRef derivative) {
  check_patches("extract_patches", "object", object, 3, positions, "window",
                c10::fromIntArrayRefSlow(window), c10::fromIntArrayRefSlow(origin), derivative);
  const int64_t slices = object.size(0), rows = object.size(1), columns = object.size(2);
  const int64_t height = window[0], width = window[1];
  const at::Tensor memory = plain(object);
  at::Tensor patches = at::empty({positions.size(0), slices, height, width}, memory.options());
  with_type(memory, [&]<typename V, typename T>() {
    constexpr int C = sizeof(V) / sizeof(T);  // numbers to an element
    const auto windows = taps_of<T>("extract_patches", positions, origin, derivative);
    const T* from = static_cast<const T*>(memory.const_data_ptr());
    T* to = static_cast<T*>(patches.data_ptr());
    // A derivative of what lies outside is 0.
    const T vacuum = derivative[0] == 0 && derivative[1] == 0 ? static_cast<T>(outside) : T(0);
    at::parallel_for(
        0, positions.size(0), grain(positions.size(0), patches.numel()),
        [&](int64_t begin, int64_t end) {
          // the image's row around a window, relative to vacuum, and such rows put together along
          // columns
          std::vector<T> line(static_cast<size_t>(C * (width + kInterpolationTaps - 1)));
          std::vector<T> across(static_cast<size_t>(C * width));
          for (int64_t item = begin * slices; item < end * slices; ++item) {
            const WindowTaps<T>& taps = windows[static_cast<size_t>(item / slices)];
            const T* image = from + C * (item % slices) * rows * columns;
            T* patch = to + C * item * height * width;
            const int64_t first = taps.columns.corner - taps.columns.before;
            const int64_t length = width + taps.columns.count - 1;
            const int64_t x0 = clamp_index(-first, 0, length);
            const int64_t x1 = clamp_index(columns - first, x0, length);
            const T level = taps.whole() ? T(0) : vacuum;
            for (int64_t i = 0; i < height * width; ++i) {
              patch[C * i] = vacuum;
              for (int c = 1; c < C; ++c) patch[C * i + c] = T(0);
            }
            if (x0 >= x1) continue;
            for (int64_t y = 0; y < height + taps.rows.count - 1; ++y) {
              const int64_t row = taps.rows.corner - taps.rows.before + y;
              if (row < 0 || row >= rows) continue;
              const T* source = image + C * (row * columns + first);
              if (taps.whole()) {
                std::copy(source + C * x0, source + C * x1, patch + C * (y * width + x0));
                continue;
              }
              std::fill(line.begin(), line.end(), T(0));
              for (int64_t x = x0; x < x1; ++x) {
                line[static_cast<size_t>(C * x)] = source[C * x] - level;
                for (int c = 1; c < C; ++c) {
                  line[static_cast<size_t>(C * x + c)] = source[C * x + c];
                }
              }
              weigh_along<C>(taps.columns, line.data(), width, across.data());
              for (int64_t k = 0; k < taps.rows.count; ++k) {
                if (y - k < 0 || y - k >= height) continue;
                add_weighed(taps.rows.weights[static_cast<size_t>(k)], across.data(), C * width,
                            patch + C * (y - k) * width);
              }
            }
          }
        });
  });
  return patches;
}

at::Tensor add_patches(const at::Tensor& patches, const at::Tensor& positions,
                       at::IntArrayRef shape, at::IntArrayRef origin, at::IntArrayRef derivative) {
  check_patches("add_patches", "patches", patches, 4, positions, "shape",
                c10::fromIntArrayRefSlow(shape), c10::fromIntArrayRefSlow(origin), derivative);
  const int64_t slices = patches.size(1), height = patches.size(2), width = patches.size(3);
  const int64_t rows = shape[0], columns = shape[1];
  const at::Tensor memory = plain(patches);
  at::Tensor sums = at::zeros({slices, rows, columns}, memory.options());
  with_type(memory, [&]<typename V, typename T>() {
    constexpr int C = sizeof(V) / sizeof(T);  // numbers to an element
    const auto windows = taps_of<T>("add_patches", positions, origin, derivative);
    const T* from = static_cast<const T*>(memory.const_data_ptr());
    T* to = static_cast<T*>(sums.data_ptr());
    // Each thread owns rows of all slices and goes through the positions in order.
    at::parallel_for(0, rows, grain(rows, patches.numel()), [&](int64_t begin, int64_t end) {
      // rows of a patch put together, with room for the taps on both sides; and spread
      constexpr int64_t kRoom = kInterpolationTaps - 1;
      std::vector<T> line(static_cast<size_t>(C * (width + 2 * kRoom)));
      std::vector<T> across(static_cast<size_t>(C * (width + kRoom)));
      for (size_t n = 0; n < windows.size(); ++n) {
        const AxisTaps<T>&down = windows[n].rows, &along = windows[n].columns;
        const int64_t top = down.corner - down.before, first = along.corner - along.before;
        const int64_t length = width + along.count - 1;
        const int64_t x0 = clamp_index(-first, 0, length);
        const int64_t x1 = clamp_index(columns - first, x0, length);
        if (x0 >= x1) continue;
        AxisTaps<T> mirrored = along;
        if (along.count > 1) std::reverse(mirrored.weights.begin(), mirrored.weights.end());
        const int64_t last = std::min(top + height + down.count - 1, end);
        for (int64_t s = 0; s < slices; ++s) {
          const T* patch = from + C * (static_cast<int64_t>(n) * slices + s) * height * width;
          for (int64_t row = std::max(top, begin); row < last; ++row) {
            std::fill(line.begin(), line.end(), T(0));
            for (int64_t k = 0; k < down.count; ++k) {
              const int64_t y = row - top - k;
              if (y < 0 || y >= height) continue;
              add_weighed(down.weights[static_cast<size_t>(k)], patch + C * y * width, C * width,
                          line.data() + C * kRoom);
            }
            // line[kRoom + x] goes to first + x + tap
            weigh_along<C>(mirrored, line.data() + C * (along.count > 1 ? 0 : kRoom), length,
                           across.data());
            add_weighed(T(1), across.data() + C * x0, C * (x1 - x0),
                        to + C * ((s * rows + row) * columns + first + x0));
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
