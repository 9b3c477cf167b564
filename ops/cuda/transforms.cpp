#include "ops/cuda/transforms.h"

#include <list>
#include <mutex>
#include <tuple>
#include <utility>

#include <cufft.h>

#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/Exception.h>

namespace ptyle::cuda {
namespace {

using Key = std::tuple<int, int64_t, int64_t, int64_t, bool>;  // device, h, w, count, precise

void check(cufftResult code, const char* what, const Key& key) {
  TORCH_CHECK(code == CUFFT_SUCCESS, "ptyle: cuFFT could not ", what, " ", std::get<3>(key),
              " transforms of ", std::get<1>(key), " x ", std::get<2>(key), " (code ",
              static_cast<int>(code), ")");
}

struct Plan {
  Key key;
  cufftHandle handle = 0;
  size_t work_bytes = 0;
};

// The plans used last, over all devices. A plan and its work area serve one call at a time: the
// lock is held until the call is queued, which takes microseconds.
class Plans {
 public:
  static Plans& get() {
    static Plans* const plans = new Plans;  // never destroyed: CUDA may be gone by then
    return *plans;
  }

  void transform(void* waves, const Key& key, bool inverse) {
    const std::lock_guard lock(mutex_);
    const Plan& plan = find(key);
    const auto stream = c10::cuda::getCurrentCUDAStream();
    // Freed when the call is queued: torch's allocator hands it out again on this stream alone.
    const auto work = c10::cuda::CUDACachingAllocator::get()->allocate(plan.work_bytes);
    check(cufftSetStream(plan.handle, stream), "use a stream for", key);
    if (plan.work_bytes > 0) {
      check(cufftSetWorkArea(plan.handle, work.get()), "set the work area of", key);
    }
    const int direction = inverse ? CUFFT_INVERSE : CUFFT_FORWARD;
    if (std::get<4>(key)) {
      auto* data = static_cast<cufftDoubleComplex*>(waves);
      check(cufftExecZ2Z(plan.handle, data, data, direction), "run", key);
    } else {
      auto* data = static_cast<cufftComplex*>(waves);
      check(cufftExecC2C(plan.handle, data, data, direction), "run", key);
    }
  }

 private:
  const Plan& find(const Key& key) {
    for (auto plan = plans_.begin(); plan != plans_.end(); ++plan) {
      if (plan->key != key) continue;
      plans_.splice(plans_.begin(), plans_, plan);
      return plans_.front();
    }
    Plan made{key, 0, 0};
    check(cufftCreate(&made.handle), "make a plan of", key);
    const auto& [device, height, width, count, precise] = key;
    long long size[2] = {height, width};
    cufftResult code = cufftSetAutoAllocation(made.handle, 0);
    if (code == CUFFT_SUCCESS) {
      code = cufftMakePlanMany64(made.handle, 2, size, nullptr, 1, height * width, nullptr, 1,
                                 height * width, precise ? CUFFT_Z2Z : CUFFT_C2C, count,
                                 &made.work_bytes);
    }
    if (code != CUFFT_SUCCESS) cufftDestroy(made.handle);
    check(code, "make a plan of", key);
    if (plans_.size() == kMost) {
      cufftDestroy(plans_.back().handle);
      plans_.pop_back();
    }
    plans_.push_front(made);
    return plans_.front();
  }

  static constexpr size_t kMost = 32;
  std::mutex mutex_;
  std::list<Plan> plans_;
};

constexpr int64_t kMostBytes = int64_t{64} << 20;

}  // namespace

void transform(void* waves, int64_t height, int64_t width, int64_t count, bool precise,
               bool inverse) {
  if (height * width == 0) return;
  const int64_t wave_bytes = height * width * (precise ? 16 : 8);
  auto* next = static_cast<char*>(waves);
  // In powers of two: few plans, whatever the number of positions; and parts that do not depend on
  // how many positions there was memory for, as their last bits might.
  int64_t most = 1;
  while (2 * most * wave_bytes <= kMostBytes) most *= 2;
  for (int64_t part = most; part > 0; part /= 2) {
    for (; count >= part; count -= part, next += part * wave_bytes) {
      Plans::get().transform(next, {c10::cuda::current_device(), height, width, part, precise},
                             inverse);
    }
  }
}

}  // namespace ptyle::cuda
