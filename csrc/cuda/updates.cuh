// Updates of object and probe, sums over them, and moves between tiles: one kernel each over the
// formulae of csrc/updates.h and csrc/pieces.h.
#pragma once

#include <cstdint>

#include "csrc/cuda/memory.cuh"
#include "csrc/cuda/sums.cuh"
#include "csrc/pieces.h"
#include "csrc/updates.h"

namespace ptyle::cuda {

template <typename Formula>
__global__ void update(ImageSize size, Formula formula) {
  const int64_t count = size.planes * size.rows * size.columns;
  for (int64_t i = first_item(); i < count; i += item_step()) {
    const int64_t line = i / size.columns;
    formula(line / size.rows, line % size.rows, i % size.columns);
  }
}

// sums [planes x rows]: a block a row
template <typename Term>
__global__ void sum_rows(ImageSize size, Term term, double* sums) {
  for (int64_t line = blockIdx.x; line < size.planes * size.rows; line += gridDim.x) {
    double sum = 0;
    for (int64_t column = threadIdx.x; column < size.columns; column += blockDim.x) {
      sum += term(line / size.rows, line % size.rows, column);
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) write(sums + line, sum);
  }
}

// All moves at once; `elements` of them in a slice.
template <typename V>
__global__ void move_pieces(const Move* moves, int64_t count, int64_t elements, int64_t slices,
                            bool add) {
  for (int64_t i = first_item(); i < slices * elements; i += item_step()) {
    move_element<V>(
        moves, count, elements, i, add, [](const V* from) { return read(from); },
        [](V* to, V value) { write(to, value); });
  }
}

}  // namespace ptyle::cuda
