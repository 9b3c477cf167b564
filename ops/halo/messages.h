// Messages between ranks, and the time that waiting for them takes.
#pragma once

#include <cstdint>
#include <deque>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>
#include <c10/util/Exception.h>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

namespace ptyle {

// What `exchange` throws, as a c10::DistBackendError that names it: that a peer is gone is found
// out where something is waited for, or, where it is known by then, at once where something is
// posted.
template <typename Exchange>
auto exchanging(const std::string& what, const Exchange& exchange) {
  try {
    return exchange();
  } catch (const std::exception& error) {
    C10_THROW_ERROR(DistBackendError, what + " failed: " + error.what());
  }
}

// Seconds in which there was nothing to do but wait: of this thread, or of a device's current
// stream, which waits while the thread goes on.
class WaitClock {
 public:
  // Waits for `work` about tensors of `device`; `what` names it. Throws c10::DistBackendError with
  // the name. On a device the current stream waits.
  void wait(const c10::intrusive_ptr<c10d::Work>& work, const std::string& what,
            const at::Device& device);
  // Waits for what a device's stream has waited for.
  double seconds() const;

 private:
  mutable double seconds_ = 0;
  mutable std::deque<std::pair<c10::Event, c10::Event>> on_device_;
};

// The messages of one step: all receives and sends are posted together, as one group where the
// backend has groups (NCCL, which matches messages by their order), else receives first (Gloo,
// which matches them by tag). Nothing blocks before `wait`.
class Messages {
 public:
  explicit Messages(c10::intrusive_ptr<c10d::ProcessGroup> group) : group_(std::move(group)) {}

  // Plain tensors, not empty, all on one device; they are kept until `wait` is over. Two ranks name
  // their messages in the same order.
  void receive(const at::Tensor& buffer, std::int64_t from, int tag);
  void send(const at::Tensor& message, std::int64_t to, int tag);
  void post();
  void wait(WaitClock& clock);

  // Since the start.
  std::int64_t sent() const { return sent_; }
  std::int64_t bytes_sent() const { return bytes_sent_; }

 private:
  struct Message {
    at::Tensor tensor;
    std::int64_t peer;
    int tag;
  };
  struct Posted {
    c10::intrusive_ptr<c10d::Work> work;
    std::string what;
  };
  void start(const c10::intrusive_ptr<c10d::Backend>& backend, const Message& message, bool sends,
             bool grouped);

  c10::intrusive_ptr<c10d::ProcessGroup> group_;
  std::vector<Message> receives_, sends_;
  std::vector<Posted> posted_;
  std::int64_t sent_ = 0, bytes_sent_ = 0;
};

}  // namespace ptyle
