// Reading ahead in a thread of its own; also under the thread sanitizer.
#include "driver/io/prefetch.h"

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace ptyle::driver {
namespace {

using Reader = Prefetch<int, std::string>;

struct Counted {
  std::atomic<int> reads{0}, at_once{0};
  std::string operator()(int request) {
    EXPECT_EQ(at_once.fetch_add(1), 0);  // one reader at a time
    ++reads;
    std::this_thread::sleep_for(std::chrono::microseconds(50));
    at_once.fetch_sub(1);
    if (request < 0) throw std::runtime_error("no " + std::to_string(request));
    return "block " + std::to_string(request);
  }
};

TEST(Prefetch, GivesWhatWasAskedForReadOnce) {
  Counted read;
  Reader ahead([&](const int& request) { return read(request); }, 2);
  ahead.expect({1, 2, 3});
  ahead.expect({4, 5});
  for (const int request : {1, 2, 3, 4, 5}) {
    EXPECT_EQ(ahead.take(request), "block " + std::to_string(request));
  }
  EXPECT_EQ(read.reads, 5);
  EXPECT_EQ(ahead.take(9), "block 9");  // nobody expected it
}

TEST(Prefetch, AnyOrderEnds) {
  for (const std::size_t ready : {1, 2, 3}) {
    Counted read;
    Reader ahead([&](const int& request) { return read(request); }, ready);
    ahead.expect({1, 2, 3, 4, 5, 6});
    for (const int request : {6, 5, 1, 4, 2, 3}) {
      EXPECT_EQ(ahead.take(request), "block " + std::to_string(request));
    }
  }
}

TEST(Prefetch, WhatReadingThrowsIsThrownByItsOwnTake) {
  Counted read;
  Reader ahead([&](const int& request) { return read(request); }, 3);
  ahead.expect({1, -2, 3});
  EXPECT_EQ(ahead.take(1), "block 1");
  EXPECT_EQ(ahead.take(3), "block 3");
  EXPECT_THROW(ahead.take(-2), std::runtime_error);
  EXPECT_THROW(ahead.take(-7), std::runtime_error);
}

TEST(Prefetch, ForgottenRequestsAreNotRead) {
  Counted read;
  Reader ahead([&](const int& request) { return read(request); }, 2);
  ahead.expect({1, 2, 3, 4, 5, 6, 7, 8, 9});
  ahead.forget();
  const int reads = read.reads;
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(read.reads, reads);
  EXPECT_LE(reads, 3);
  ahead.expect({4});
  EXPECT_EQ(ahead.take(4), "block 4");
  ahead.expect({1, 2, 3});  // and nobody takes them
}

TEST(Prefetch, SeveralThreadsTake) {
  Counted read;
  Reader ahead([&](const int& request) { return read(request); }, 2);
  std::vector<int> all;
  for (int k = 0; k < 60; ++k) all.push_back(k);
  ahead.expect(all);
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      for (int k = t; k < 60; k += 3) EXPECT_EQ(ahead.take(k), "block " + std::to_string(k));
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace ptyle::driver
