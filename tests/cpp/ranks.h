// Threads that act as ranks: one store, one Gloo group a thread, registered as ptyle/<rank>.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include <torch/csrc/distributed/c10d/GroupRegistry.hpp>
#include <torch/csrc/distributed/c10d/HashStore.hpp>

#include "driver/tiles/groups.h"
#include "tests/cpp/recording_backend.h"

namespace ptyle::tests {

// Torch's recorder of collectives is one for a process and, in 2.11, not made for threads that are
// ranks each: without a buffer it records nothing. Read when the first group is made.
[[maybe_unused]] inline const int kNoRecorder = setenv("TORCH_FR_BUFFER_SIZE", "0", 0);

// work(rank, group's name) on every rank, in threads; "" for one rank. wrap: what is done with a
// rank's group before.
inline void as_ranks(std::int64_t ranks,
                     const std::function<void(std::int64_t, const std::string&)>& work,
                     const std::function<void(std::int64_t, c10d::ProcessGroup&)>& wrap = {}) {
  if (ranks == 1) {
    work(0, "");
    return;
  }
  const auto store = c10::make_intrusive<c10d::HashStore>();
  std::vector<std::thread> threads;
  for (std::int64_t rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      const std::string name = "ptyle/" + std::to_string(rank);
      try {
        // the registry does not own groups
        const auto group = driver::gloo_group(store, rank, ranks, std::chrono::seconds(20));
        if (wrap) wrap(rank, *group);
        c10d::register_process_group(name, group);
        work(rank, name);
      } catch (const std::exception& error) {
        ADD_FAILURE() << "rank " << rank << ": " << error.what();
      }
      c10d::unregister_process_group(name);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// As ranks whose groups have groups of messages, as NCCL has; then the schedule must be one that
// NCCL can carry out. One record a rank.
inline std::vector<Record> as_recorded_ranks(
    std::int64_t ranks, const std::function<void(std::int64_t, const std::string&)>& work) {
  std::vector<Record> records(static_cast<std::size_t>(ranks));
  as_ranks(ranks, work, [&records](std::int64_t rank, c10d::ProcessGroup& group) {
    group.setBackend(
        c10::DeviceType::CPU, c10d::ProcessGroup::BackendType::CUSTOM,
        c10::make_intrusive<RecordingBackend>(group.getBackend(c10::DeviceType::CPU),
                                              records[static_cast<std::size_t>(rank)]));
  });
  EXPECT_EQ(play(records), "");
  return records;
}

}  // namespace ptyle::tests
