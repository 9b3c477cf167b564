// Many parts of tensors copied or added at once, on the CPU by its threads, on a device by one
// kernel.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "csrc/pieces.h"
#include "csrc/tiles.h"

namespace ptyle {

class Pieces {
 public:
  // `area` of the tensor [slices, rows, columns] `from`, whose corner lies at that of `from_frame`,
  // to the same area of `to`. Unit stride in columns, all of one type on one device.
  void add(const at::Tensor& from, const Rectangle& from_frame, const at::Tensor& to,
           const Rectangle& to_frame, const Rectangle& area);
  // Copies them all; no two to the same place.
  void copy() { run(false); }
  // Adds them all; to one tensor in the order in which they were given, which must be together.
  void sum() { run(true); }

 private:
  void run(bool adds);
  void run_on_cpu(bool adds) const;
  void run_on_device(bool adds);

  std::vector<Move> moves_;
  at::ScalarType type_ = at::kFloat;
  at::Device device_ = at::kCPU;
  std::int64_t slices_ = 0, elements_ = 0;
  // The moves as a device has them: they are mostly those of the last time.
  std::vector<Move> on_device_;
  at::Tensor table_;
};

}  // namespace ptyle
