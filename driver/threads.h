// Work that must not depend on the number of threads.
#pragma once

#include <ATen/Parallel.h>

namespace ptyle::driver {

// One thread while it lives. Operations of ATen split by threads, reductions and vector code alike:
// their last bits would depend on how many.
class OneThread {
 public:
  OneThread() : threads_(at::get_num_threads()) { at::set_num_threads(1); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;
  ~OneThread() { at::set_num_threads(threads_); }

 private:
  int threads_;
};

}  // namespace ptyle::driver
