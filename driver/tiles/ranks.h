// What ranks tell one another besides halos: sums, maxima, copies. On one rank nothing is sent. Of
// tensors on the CPU by Gloo, which blocks until it is done; of those on a GPU by NCCL, where the
// current stream waits and the thread goes on.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include "ops/halo/messages.h"

namespace ptyle::driver {

// Groups take no complex numbers: [...] complex -> [..., 2] real, a view.
at::Tensor as_real(const at::Tensor& tensor);

class Ranks {
 public:
  Ranks() = default;  // one rank
  explicit Ranks(c10::intrusive_ptr<c10d::ProcessGroup> group);

  std::int64_t rank() const { return group_ ? group_->getRank() : 0; }
  std::int64_t size() const { return group_ ? group_->getSize() : 1; }
  bool first() const { return rank() == 0; }
  const c10::intrusive_ptr<c10d::ProcessGroup>& group() const { return group_; }

  // Each rank's own entries of `values`, zeros elsewhere -> everybody's. Adding zeros is exact: the
  // bits do not depend on the ranks. float64 or int64.
  void gather(at::Tensor values) const;
  void sum(at::Tensor values) const;      // int64, exact; or float, to rounding
  void maximum(at::Tensor values) const;  // real

  // Sum over tiles of a float tensor [...] of each (`values`, this rank's, overwritten), along a
  // binary tree over tile numbers, and so with the same bits whatever the ranks; owners: the rank
  // of every tile, ascending. The result is the same on every rank; undefined without tiles.
  at::Tensor sum_over_tiles(std::vector<at::Tensor> values,
                            const std::vector<std::int64_t>& owners) const;

  void broadcast(at::Tensor values) const;  // from rank 0
  void send(const at::Tensor& values, std::int64_t to, int tag) const;
  void receive(at::Tensor values, std::int64_t from, int tag) const;
  void barrier() const;

  // Since the start: seconds of waiting in these calls, and bytes that this rank sent in them (of
  // collectives, its own contribution).
  double wait_seconds() const { return clock_.seconds(); }
  std::int64_t bytes_sent() const { return bytes_sent_; }

  // Tags of messages. Gloo matches them in any order.
  static constexpr int kTreeTag = 1 << 24, kHaloTag = 1 << 25, kFileTag = 1 << 26,
                       kPassTag = 1 << 27;

 private:
  void reduce(at::Tensor values, c10d::ReduceOp::RedOpType operation) const;

  c10::intrusive_ptr<c10d::ProcessGroup> group_;
  mutable WaitClock clock_;
  mutable std::int64_t bytes_sent_ = 0;
};

}  // namespace ptyle::driver
