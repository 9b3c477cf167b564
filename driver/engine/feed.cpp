#include "driver/engine/feed.h"

#include <algorithm>
#include <utility>

#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

namespace ptyle::driver {

Feed::Feed(const Problem& problem, const at::Device& device) : problem_(problem), device_(device) {
  if (problem.mask && problem.mask->dim() == 2) mask_ = problem.mask->to(device);
  if (!device.is_cpu()) {
    copies_ = c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device);
  }
}

void Feed::expect(const std::vector<at::Tensor>& rows) {
  expected_.assign(rows.begin(), rows.end());
  problem_.source->expect(rows);
  if (!device_.is_cpu() && !expected_.empty()) next_ = copy(expected_.front());
}

void Feed::forget() {
  expected_.clear();
  next_.reset();
  problem_.source->forget();
}

PatternBlock Feed::on_host(const at::Tensor& rows) const {
  PatternBlock block = problem_.source->rows(rows);
  if (!block.mask && problem_.mask && problem_.mask->dim() == 3) {
    block.mask = problem_.mask->index_select(0, rows);
  }
  return block;
}

Feed::Copied Feed::copy(const at::Tensor& rows) const {
  const c10::impl::VirtualGuardImpl devices(device_.type());
  const c10::Stream work = devices.getStream(device_);
  const c10::StreamGuard on(*copies_);
  const auto copied = [&](const at::Tensor& tensor) {
    const at::Tensor there =
        tensor.pin_memory().to(device_, tensor.scalar_type(), /*non_blocking=*/true);
    there.record_stream(work);  // its memory is used again when that stream is done with it
    return there;
  };
  const PatternBlock host = on_host(rows);
  Copied result{rows, {copied(host.patterns), std::nullopt}, c10::Event(device_.type())};
  if (host.mask) result.block.mask = copied(*host.mask);
  result.arrived.record(*copies_);
  return result;
}

PatternBlock Feed::take(const at::Tensor& rows) {
  if (device_.is_cpu()) {
    PatternBlock block = on_host(rows);
    if (!block.mask) block.mask = mask_;
    return block;
  }
  Copied now = next_ && next_->rows.is_same(rows) ? std::move(*next_) : copy(rows);
  next_.reset();
  const c10::Stream work = c10::impl::VirtualGuardImpl(device_.type()).getStream(device_);
  now.arrived.block(work);
  // All that was queued before the block before this one is done: the host is not further ahead.
  if (before_) before_->synchronize();
  before_.emplace(device_.type());
  before_->record(work);
  const auto here = std::find_if(expected_.begin(), expected_.end(),
                                 [&](const at::Tensor& one) { return one.is_same(rows); });
  if (here != expected_.end()) expected_.erase(expected_.begin(), here + 1);
  if (!expected_.empty()) next_ = copy(expected_.front());
  if (!now.block.mask) now.block.mask = mask_;
  return now.block;
}

}  // namespace ptyle::driver
