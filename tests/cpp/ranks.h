// Threads that act as ranks: one store, one Gloo group a thread, registered as ptyle/<rank>.
#pragma once

#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include <torch/csrc/distributed/c10d/GroupRegistry.hpp>
#include <torch/csrc/distributed/c10d/HashStore.hpp>

#include "driver/tiles/gloo.h"

namespace ptyle::tests {

// work(rank, group's name) on every rank, in threads; "" for one rank.
inline void as_ranks(std::int64_t ranks,
                     const std::function<void(std::int64_t, const std::string&)>& work) {
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

}  // namespace ptyle::tests
