// Where ranks meet: a store that all reach, the process group, and a watch over all of them.
//
// Each rank counts upwards in the store once a second and looks whether its neighbour does. The
// first failure is written there, and every rank ends with it: nobody waits for a rank that is
// gone.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <thread>

#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "driver/tiles/launch.h"

namespace ptyle::driver {

class Meeting {
 public:
  // Meets the other ranks. `agreement`: what must be the same on all of them, "key = value" lines.
  // ConfigError naming the difference; PeerError naming ranks that did not come within `timeout`,
  // or what failed on another one.
  Meeting(const Launch& launch, const std::string& agreement, std::chrono::seconds timeout);
  Meeting(const Meeting&) = delete;
  Meeting& operator=(const Meeting&) = delete;
  ~Meeting();

  const c10::intrusive_ptr<c10d::ProcessGroup>& group() const { return group_; }
  // From now on the group also takes tensors of this rank's GPU; all ranks call it.
  void connect(const at::Device& device);

  // Tells the others what failed here; they end.
  void report(const std::string& failure);
  // After a failed exchange: waits until it is known whose fault it was, and says it.
  std::string find_failure(const std::string& symptom);
  // All ranks are done.
  void leave();

 private:
  void come();
  void agree(const std::string& agreement);
  // After a refusal: rank 0 holds the store until every rank has come and read why, or the
  // timeout since the meeting began.
  void let_others_know();
  void watch();
  // Looks after the watch: an operation of the store may never return.
  void guard();
  void end_watch();
  std::string failure_written();
  [[noreturn]] void end_with(const std::string& failure) const;

  Launch launch_;
  std::chrono::seconds timeout_;
  std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
  c10::intrusive_ptr<c10d::Store> store_, watch_store_;
  c10::intrusive_ptr<c10d::ProcessGroup> group_;
  bool on_device_ = false;
  std::thread watch_, guard_;
  std::atomic<std::int64_t> watch_rounds_{0};
  std::atomic<bool> over_{false};
  // While the main thread finds out what failed, the watch leaves the last word to it.
  std::atomic<bool> ending_{false};
};

// For a rank that fails before it meets the others: they learn why, as far as they can be reached.
void report_before_meeting(const Launch& launch, const std::string& failure);

}  // namespace ptyle::driver
