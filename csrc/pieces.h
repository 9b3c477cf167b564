// Parts of tiles that are copied to or added to other tiles or messages, many at a time.
#pragma once

#include <cstdint>

#include "csrc/scalar.h"

namespace ptyle {

// A part [slices, rows, columns] of what lies at `from`, for the same part of what lies at `to`;
// both of unit stride in columns. Strides and places count elements.
struct Move {
  const void* from;
  void* to;
  int64_t from_slice, from_row;  // strides
  int64_t to_slice, to_row;
  int64_t row, column;    // of the part, within the tensor at `to`
  int64_t rows, columns;  // of the part
  int64_t first;          // elements of a slice in the moves before it
  int64_t begin, end;     // the moves to the same tensor, which may overlap where they add

  friend bool operator==(const Move&, const Move&) = default;
};

// Element `item` of the `slices * elements` ones of all moves. Where several add to one element,
// the first of them adds all, in order: the sum has the same bits however the work is shared.
template <typename V, typename Read, typename Write>
PTYLE_HOST_DEVICE void move_element(const Move* moves, int64_t count, int64_t elements,
                                    int64_t item, bool add, const Read& read, const Write& write) {
  const int64_t slice = item / elements, place = item % elements;
  int64_t low = 0, high = count;  // moves[low].first <= place < moves[high].first
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (moves[middle].first <= place) {
      low = middle;
    } else {
      high = middle;
    }
  }
  const Move& move = moves[low];
  const int64_t y = (place - move.first) / move.columns, x = (place - move.first) % move.columns;
  const int64_t row = move.row + y, column = move.column + x;
  V* to = static_cast<V*>(move.to) + slice * move.to_slice + row * move.to_row + column;
  const auto source = [&](const Move& one) {
    return static_cast<const V*>(one.from) + slice * one.from_slice +
           (row - one.row) * one.from_row + (column - one.column);
  };
  if (!add) {
    write(to, read(source(move)));
    return;
  }
  const auto covers = [&](const Move& one) {
    return row >= one.row && row < one.row + one.rows && column >= one.column &&
           column < one.column + one.columns;
  };
  for (int64_t k = move.begin; k < low; ++k) {
    if (covers(moves[k])) return;
  }
  V sum = read(static_cast<const V*>(to));
  for (int64_t k = low; k < move.end; ++k) {
    if (covers(moves[k])) sum += read(source(moves[k]));
  }
  write(to, sum);
}

}  // namespace ptyle
