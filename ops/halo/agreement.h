// Whether all ranks of a group make the same call: where they do not, messages have other sizes
// than those who wait for them expect, which Gloo answers by ending the process, or nobody sends
// them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

namespace ptyle {

// What must be the same on all ranks.
struct HaloCall {
  const char* name;      // halo_insert | halo_add
  const char* argument;  // its tensors: owned | extended
  at::IntArrayRef row_cuts, column_cuts, halo, owners;
  at::TensorList tensors;  // of this rank; none: whatever the others have
  bool recorded;           // for a gradient
};

// Throws the same ValueError on all ranks, which names the first argument that is not the same, and
// two ranks with what they have. A call of a rank is compared with that of every other one, in one
// small message; ranks wait for the slowest. Groups without a backend for the CPU (NCCL alone) are
// not compared: that would stop the calling thread.
void check_agreement(const HaloCall& call, const c10::intrusive_ptr<c10d::ProcessGroup>& group);

}  // namespace ptyle
