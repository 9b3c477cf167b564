// Process groups: Gloo for the CPU, NCCL beside it for GPUs. The one place that sees Gloo's names.
#pragma once

#include <chrono>
#include <cstdint>

#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

namespace ptyle::driver {

// The group of ranks that meet in `store`; CPU tensors. `hostname`: by which the other ranks reach
// this one; empty: this machine's own. Operations that take longer than `timeout` throw.
c10::intrusive_ptr<c10d::ProcessGroup> gloo_group(const c10::intrusive_ptr<c10d::Store>& store,
                                                  std::int64_t rank, std::int64_t size,
                                                  std::chrono::milliseconds timeout,
                                                  const std::string& hostname = "127.0.0.1");
// Adds NCCL for tensors of a GPU to a group; all ranks call it.
void add_nccl(const c10::intrusive_ptr<c10d::ProcessGroup>& group,
              const c10::intrusive_ptr<c10d::Store>& store, std::chrono::milliseconds timeout,
              const at::Device& device);

}  // namespace ptyle::driver
