// Sums of windows on an image, in the order of the windows, and the windows of an image.
#pragma once

#include <cstdint>

#include "csrc/cuda/memory.cuh"
#include "csrc/cuda/sums.cuh"
#include "csrc/interpolation.h"

namespace ptyle::cuda {

// `count` windows [height, width] on planes [rows, columns].
struct Windows {
  const int64_t* corners;  // [count, 2] in the planes' arrays
  int64_t count, height, width, rows, columns;
};

// A block works on so many pixels of a plane, a thread a pixel.
constexpr int kAreaRows = 8, kAreaColumns = kBlockThreads / kAreaRows;

PTYLE_DEVICE int64_t areas_down(int64_t rows) { return (rows + kAreaRows - 1) / kAreaRows; }
PTYLE_DEVICE int64_t areas_across(int64_t columns) {
  return (columns + kAreaColumns - 1) / kAreaColumns;
}

// visit(n, y, x): this thread's pixel is (y, x) of window n; for all windows that have it, by
// ascending n. Windows that miss the block's area are left out by all threads together, so that a
// thread does not go through all of them. All threads of the block must call it.
template <typename Visit>
PTYLE_DEVICE void for_each_window(const Windows& w, int64_t area_row, int64_t area_column,
                                  const Visit& visit) {
  __shared__ int places[kBlockThreads];
  __shared__ int met[kBlockThreads];
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t row = area_row + thread / kAreaColumns,
                column = area_column + thread % kAreaColumns;
  for (int64_t base = 0; base < w.count; base += kBlockThreads) {
    const int64_t n = base + thread;
    bool meets = n < w.count;
    if (meets) {
      const int64_t y = area_row - read_small(w.corners + 2 * n);
      const int64_t x = area_column - read_small(w.corners + 2 * n + 1);
      meets = y > -kAreaRows && y < w.height && x > -kAreaColumns && x < w.width;
    }
    __syncthreads();  // what an earlier round left may still be read
    places[thread] = meets ? 1 : 0;
    for (int step = 1; step < kBlockThreads; step *= 2) {
      __syncthreads();
      const int before = thread >= step ? places[thread - step] : 0;
      __syncthreads();
      places[thread] += before;
    }
    if (meets) met[places[thread] - 1] = thread;
    __syncthreads();
    const int found = places[kBlockThreads - 1];
    for (int k = 0; k < found; ++k) {
      const int64_t window = base + met[k];
      const int64_t y = row - read_small(w.corners + 2 * window);
      const int64_t x = column - read_small(w.corners + 2 * window + 1);
      if (y >= 0 && y < w.height && x >= 0 && x < w.width) visit(window, y, x);
    }
  }
}

// sums [planes, rows, columns] += patches by ascending window; window n's patch [planes, h, w]
// begins at n x patch_stride (0: all have the same one).
template <typename V, typename Value>
PTYLE_DEVICE void add_in_order(const Windows& w, int64_t planes, V* sums, const Value& value) {
  const int64_t across = areas_across(w.columns), areas = areas_down(w.rows) * across;
  for (int64_t block = blockIdx.x; block < planes * areas; block += gridDim.x) {
    const int64_t plane = block / areas, area = block % areas;
    const int64_t area_row = area / across * kAreaRows, area_column = area % across * kAreaColumns;
    const int64_t row = area_row + threadIdx.x / kAreaColumns;
    const int64_t column = area_column + threadIdx.x % kAreaColumns;
    const bool inside = row < w.rows && column < w.columns;
    V* to = sums + (plane * w.rows + row) * w.columns + column;
    bool any = false;
    V sum{};
    for_each_window(w, area_row, area_column, [&](int64_t n, int64_t y, int64_t x) {
      if (!inside) return;
      if (!any) sum = read(static_cast<const V*>(to));
      any = true;
      sum += value(n, plane, y, x);
    });
    if (any) write(to, sum);
  }
}

template <typename V>
__global__ void add_windows(Windows w, const V* patches, int64_t patch_stride, int64_t planes,
                            V* sums) {
  add_in_order(w, planes, sums, [&](int64_t n, int64_t plane, int64_t y, int64_t x) {
    return read(patches + n * patch_stride + (plane * w.height + y) * w.width + x);
  });
}

// ---- windows between whole pixels (csrc/interpolation.h) ----

// weights [count, 2, taps] of windows with fractions [count, 2], along rows and columns.
template <typename T>
__global__ void fill_weights(int64_t count, const double* fractions, int64_t row_derivative,
                             int64_t column_derivative, T* weights) {
  constexpr int64_t kTaps = kInterpolationTaps;
  for (int64_t i = first_item(); i < count * 2 * kTaps; i += item_step()) {
    const int64_t axis = i / kTaps;
    write(weights + i, static_cast<T>(interpolation_weight(
                           static_cast<int>(i % kTaps), read_small(fractions + axis),
                           axis % 2 == 0 ? row_derivative : column_derivative)));
  }
}

// visit(weight, k, l): the taps whose weight is not 0: of whole pixels one, to the bit.
template <typename T, typename Visit>
PTYLE_DEVICE void for_each_tap(const T* weights, const Visit& visit) {
  for (int k = 0; k < kInterpolationTaps; ++k) {
    const T down = read_small(weights + k);
    if (down == T(0)) continue;
    for (int l = 0; l < kInterpolationTaps; ++l) {
      const T along = read_small(weights + kInterpolationTaps + l);
      if (along != T(0)) visit(down * along, k, l);
    }
  }
}

// patches [count, planes, h, w] = planes [planes, rows, columns] there, `outside` beyond them
template <typename V, typename T>
__global__ void take_windows(Windows w, const V* image, int64_t planes, const T* weights, V outside,
                             V* patches) {
  const int64_t pixels = w.height * w.width;
  for (int64_t i = first_item(); i < w.count * planes * pixels; i += item_step()) {
    const int64_t n = i / (planes * pixels), plane = i / pixels % planes;
    const int64_t row = read_small(w.corners + 2 * n) + i % pixels / w.width - kInterpolationBefore;
    const int64_t column = read_small(w.corners + 2 * n + 1) + i % w.width - kInterpolationBefore;
    V sum{};
    for_each_tap(weights + n * 2 * kInterpolationTaps, [&](T weight, int k, int l) {
      const int64_t y = row + k, x = column + l;
      const bool inside = y >= 0 && y < w.rows && x >= 0 && x < w.columns;
      sum += weight * (inside ? read(image + (plane * w.rows + y) * w.columns + x) : outside);
    });
    write(patches + i, sum);
  }
}

// The adjoint in the planes: sums [planes, rows, columns] += patches by ascending window.
template <typename V, typename T>
__global__ void spread_windows(Windows w, const V* patches, int64_t planes, const T* weights,
                               const int64_t* first_corners, V* sums) {
  Windows reached = w;  // with all pixels that taps reach
  reached.corners = first_corners;
  reached.height += kInterpolationTaps - 1;
  reached.width += kInterpolationTaps - 1;
  add_in_order(reached, planes, sums, [&](int64_t n, int64_t plane, int64_t y, int64_t x) {
    const V* patch = patches + (n * planes + plane) * w.height * w.width;
    V sum{};
    for_each_tap(weights + n * 2 * kInterpolationTaps, [&](T weight, int k, int l) {
      const int64_t row = y - k, column = x - l;
      const bool inside = row >= 0 && row < w.height && column >= 0 && column < w.width;
      if (inside) sum += weight * read(patch + row * w.width + column);
    });
    return sum;
  });
}

}  // namespace ptyle::cuda
