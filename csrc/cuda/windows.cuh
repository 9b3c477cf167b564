// Sums of windows on an image, in the order of the windows, and the windows of an image.
#pragma once

#include <cstdint>

#include "csrc/cuda/memory.cuh"
#include "csrc/cuda/sums.cuh"

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
template <typename V>
__global__ void add_windows(Windows w, const V* patches, int64_t patch_stride, int64_t planes,
                            V* sums) {
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
      sum += read(patches + n * patch_stride + (plane * w.height + y) * w.width + x);
    });
    if (any) write(to, sum);
  }
}

// patches [count, planes, h, w] = planes [planes, rows, columns] there, 0 outside
template <typename V>
__global__ void take_windows(Windows w, const V* image, int64_t planes, V* patches) {
  const int64_t pixels = w.height * w.width;
  for (int64_t i = first_item(); i < w.count * planes * pixels; i += item_step()) {
    const int64_t n = i / (planes * pixels), plane = i / pixels % planes;
    const int64_t row = read_small(w.corners + 2 * n) + i % pixels / w.width;
    const int64_t column = read_small(w.corners + 2 * n + 1) + i % w.width;
    const bool inside = row >= 0 && row < w.rows && column >= 0 && column < w.columns;
    write(patches + i, inside ? read(image + (plane * w.rows + row) * w.columns + column) : V{});
  }
}

}  // namespace ptyle::cuda
