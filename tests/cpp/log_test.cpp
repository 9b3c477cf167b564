// Lines of several threads; also under the thread sanitizer.
#include "driver/log.h"

#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace ptyle::driver {
namespace {

TEST(Logger, SeveralThreadsWriteWholeLines) {
  testing::internal::CaptureStderr();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([t] {
      for (int k = 0; k < 50; ++k) log_info() << "thread " << t << " says " << k << " and ends";
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::istringstream all(testing::internal::GetCapturedStderr());
  int lines = 0;
  for (std::string line; std::getline(all, line); ++lines) {
    EXPECT_NE(line.find("] thread "), std::string::npos) << line;
    EXPECT_TRUE(line.ends_with(" and ends")) << line;
    EXPECT_EQ(line.find("thread"), line.rfind("thread")) << line;
  }
  EXPECT_EQ(lines, 200);
}

}  // namespace
}  // namespace ptyle::driver
