#include "ops/halo/messages.h"

#include <chrono>

#include <ATen/ops/view_as_real.h>
#include <c10/core/impl/VirtualGuardImpl.h>

namespace ptyle {

void WaitClock::wait(const c10::intrusive_ptr<c10d::Work>& work, const std::string& what,
                     const at::Device& device) {
  const auto wait = [&] { exchanging(what, [&] { return work->wait(); }); };
  if (device.is_cpu()) {
    const auto begin = std::chrono::steady_clock::now();
    wait();
    seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    return;
  }
  const auto timed = [&] {
    c10::Event event(device.type(), c10::EventFlag::BACKEND_DEFAULT);
    event.record(c10::impl::VirtualGuardImpl(device.type()).getStream(device));
    return event;
  };
  c10::Event begin = timed();
  wait();
  on_device_.emplace_back(std::move(begin), timed());
}

double WaitClock::seconds() const {
  for (const auto& [begin, end] : on_device_) {
    end.synchronize();
    seconds_ += begin.elapsedTime(end) / 1000;
  }
  on_device_.clear();
  return seconds_;
}

void Messages::receive(const at::Tensor& buffer, std::int64_t from, int tag) {
  receives_.push_back({buffer, from, tag});
}

void Messages::send(const at::Tensor& message, std::int64_t to, int tag) {
  sends_.push_back({message, to, tag});
  ++sent_;
  bytes_sent_ += static_cast<std::int64_t>(message.nbytes());
}

void Messages::start(const c10::intrusive_ptr<c10d::Backend>& backend, const Message& message,
                     bool sends, bool grouped) {
  // Groups take no complex numbers.
  std::vector<at::Tensor> tensors{message.tensor.is_complex() ? at::view_as_real(message.tensor)
                                                              : message.tensor};
  const auto peer = static_cast<int>(message.peer);
  const std::string what = "the exchange with rank " + std::to_string(message.peer);
  const auto work = exchanging(what, [&] {
    return sends ? backend->send(tensors, peer, message.tag)
                 : backend->recv(tensors, peer, message.tag);
  });
  if (!grouped) posted_.push_back({work, what});
}

void Messages::post() {
  if (receives_.empty() && sends_.empty()) return;
  const at::Device device = (receives_.empty() ? sends_ : receives_).front().tensor.device();
  const c10::intrusive_ptr<c10d::Backend> backend = group_->getBackend(device.type());
  const bool grouped = backend->supportsCoalescing();
  if (grouped) backend->startCoalescing();
  for (const Message& message : receives_) start(backend, message, false, grouped);
  for (const Message& message : sends_) start(backend, message, true, grouped);
  if (!grouped) return;
  const std::string what = "the exchange between ranks";
  if (const auto work = exchanging(what, [&] { return backend->endCoalescing(); })) {
    posted_.push_back({work, what});
  }
}

void Messages::wait(WaitClock& clock) {
  if (receives_.empty() && sends_.empty()) return;
  const at::Device device = (receives_.empty() ? sends_ : receives_).front().tensor.device();
  for (const Posted& one : posted_) clock.wait(one.work, one.what, device);
  posted_.clear();
  receives_.clear();
  sends_.clear();
}

}  // namespace ptyle
