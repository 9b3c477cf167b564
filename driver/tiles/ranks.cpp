#include "driver/tiles/ranks.h"

#include <chrono>
#include <exception>
#include <string>
#include <utility>

#include <ATen/ops/empty_like.h>
#include <ATen/ops/view_as_real.h>
#include <c10/util/Exception.h>

namespace ptyle::driver {
namespace {

// What all ranks enter: posted and waited for, under one name.
template <typename Post>
void meet(WaitClock& clock, const std::string& what, const at::Device& device, const Post& post) {
  clock.wait(exchanging(what, post), what, device);
}

}  // namespace

at::Tensor as_real(const at::Tensor& tensor) {
  return tensor.is_complex() ? at::view_as_real(tensor) : tensor;
}

Ranks::Ranks(c10::intrusive_ptr<c10d::ProcessGroup> group) : group_(std::move(group)) {
  if (group_ && group_->getSize() == 1) group_.reset();
}

void Ranks::reduce(at::Tensor values, c10d::ReduceOp::RedOpType operation) const {
  if (!group_ || values.numel() == 0) return;
  std::vector<at::Tensor> list{as_real(values)};
  c10d::AllreduceOptions options;
  options.reduceOp = operation;
  bytes_sent_ += static_cast<std::int64_t>(values.nbytes());
  meet(clock_, "a sum over all ranks", values.device(),
       [&] { return group_->allreduce(list, options); });
}

void Ranks::gather(at::Tensor values) const { reduce(values, c10d::ReduceOp::SUM); }
void Ranks::sum(at::Tensor values) const { reduce(values, c10d::ReduceOp::SUM); }
void Ranks::maximum(at::Tensor values) const { reduce(values, c10d::ReduceOp::MAX); }

at::Tensor Ranks::sum_over_tiles(std::vector<at::Tensor> values,
                                 const std::vector<std::int64_t>& owners) const {
  std::vector<Messages> sent;
  std::size_t next = 0;  // of `values`
  const auto owner = [&owners](std::int64_t tile) {
    return owners[static_cast<std::size_t>(tile)];
  };
  // The sum of tiles [begin, end) where this rank owns the first of them; else what is here is sent
  // to who does. Left before right: a rank waits for higher ones alone, so nobody waits in a
  // circle.
  const std::function<at::Tensor(std::int64_t, std::int64_t)> sum_of =
      [&](std::int64_t begin, std::int64_t end) -> at::Tensor {
    if (owner(begin) > rank() || owner(end - 1) < rank()) return {};
    if (end - begin == 1) return values[next++];
    const std::int64_t middle = begin + (end - begin) / 2;
    at::Tensor left = sum_of(begin, middle);
    at::Tensor right = sum_of(middle, end);
    if (owner(begin) == rank()) {
      if (owner(middle) != rank()) {
        right = at::empty_like(left);
        receive(right, owner(middle), kTreeTag);
      }
      return left.add_(right);
    }
    if (owner(middle) == rank()) {
      sent.emplace_back(group_);
      sent.back().send(right, owner(begin), kTreeTag);
      sent.back().post();
      bytes_sent_ += sent.back().bytes_sent();
    }
    return {};
  };
  if (values.empty()) return {};
  at::Tensor result = sum_of(0, static_cast<std::int64_t>(owners.size()));
  for (Messages& message : sent) message.wait(clock_);
  if (!group_) return result;
  if (!result.defined()) result = at::empty_like(values.front());
  broadcast(result);
  return result;
}

void Ranks::broadcast(at::Tensor values) const {
  if (!group_ || values.numel() == 0) return;
  std::vector<at::Tensor> list{as_real(values)};
  c10d::BroadcastOptions options;
  options.rootRank = 0;
  if (first()) bytes_sent_ += static_cast<std::int64_t>(values.nbytes());
  meet(clock_, "a copy from rank 0", values.device(),
       [&] { return group_->broadcast(list, options); });
}

void Ranks::send(const at::Tensor& values, std::int64_t to, int tag) const {
  Messages message(group_);
  message.send(values, to, tag);
  message.post();
  message.wait(clock_);
  bytes_sent_ += message.bytes_sent();
}

void Ranks::receive(at::Tensor values, std::int64_t from, int tag) const {
  Messages message(group_);
  message.receive(values, from, tag);
  message.post();
  message.wait(clock_);
}

void Ranks::barrier() const {
  if (!group_) return;
  c10d::BarrierOptions options;
  options.device = at::Device(at::kCPU);
  meet(clock_, "a meeting of all ranks", at::kCPU, [&] { return group_->barrier(options); });
}

}  // namespace ptyle::driver
