// Where windows lie, and how much work on them is worth a thread.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>

namespace ptyle::cpu {

// The whole-pixel part of position n.
inline std::pair<int64_t, int64_t> window_corner(const char* name, const double* position,
                                                 int64_t n) {
  constexpr double kLimit = 4503599627370496.0;  // 2^52: beyond it there are no fractions
  for (int axis = 0; axis < 2; ++axis) {
    TORCH_CHECK_VALUE(std::abs(position[axis]) < kLimit, "ptyle::", name,
                      ": positions must be finite and below 2^52, got ", position[axis], " at [", n,
                      ", ", axis, "]");
  }
  return {static_cast<int64_t>(std::floor(position[0])),
          static_cast<int64_t>(std::floor(position[1]))};
}

// The grain of a parallel loop over `items` that touches `elements` in all: waking a thread takes
// longer than 2^17 of them.
inline int64_t grain(int64_t items, int64_t elements) {
  constexpr int64_t kWorthAThread = int64_t{1} << 17;
  return std::max<int64_t>(1, items * kWorthAThread / std::max<int64_t>(1, elements));
}

}  // namespace ptyle::cpu
