// NCCL as a c10d backend. The one place that sees NCCL's names; part of the CUDA library.
#pragma once

#include <chrono>
#include <cstdint>

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

namespace ptyle::cuda {

// The ranks that meet in `store`, each with its `device`: connected before it returns, so that
// later not all of them need take part in a message. Its messages travel on a stream of high
// priority of its own, beside the work of the current one.
c10::intrusive_ptr<c10d::Backend> nccl_backend(const c10::intrusive_ptr<c10d::Store>& store,
                                               std::int64_t rank, std::int64_t size,
                                               std::chrono::milliseconds timeout,
                                               std::int64_t device);

}  // namespace ptyle::cuda
