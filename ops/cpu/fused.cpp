#include "ops/cpu/fused.h"

#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>

#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>
#include <torch/library.h>

#include "ops/hints.h"

namespace ptyle::cpu {
namespace {

// Scratch comes from torch's allocator, so that it is counted as tensors are. What a call gives
// back is kept for the next one: memory fresh from the system costs more than a few positions do.
class Scratch {
 public:
  std::shared_ptr<void> allocate(std::size_t bytes) {
    at::DataPtr block;
    {
      const std::lock_guard lock(mutex_);
      if (const auto found = kept_.find(bytes); found != kept_.end()) {
        block = std::move(found->second);
        kept_.erase(found);
        kept_bytes_ -= bytes;
      }
    }
    if (!block) block = c10::GetCPUAllocator()->allocate(bytes);
    void* data = block.get();
    auto held = std::make_shared<at::DataPtr>(std::move(block));
    return {data, [this, bytes, held](void*) { give_back(bytes, std::move(*held)); }};
  }

 private:
  void give_back(std::size_t bytes, at::DataPtr block) {
    const std::lock_guard lock(mutex_);
    if (kept_bytes_ + bytes > kMostBytes) return;
    kept_bytes_ += bytes;
    kept_.emplace(bytes, std::move(block));
  }

  static constexpr std::size_t kMostBytes = std::size_t{64} << 20;
  std::mutex mutex_;
  std::multimap<std::size_t, at::DataPtr> kept_;
  std::size_t kept_bytes_ = 0;
};

[[maybe_unused]] const bool kTorchAllocates = [] {
  set_allocate([](std::size_t bytes) {
    static Scratch* const scratch = new Scratch;  // outlives every static
    return scratch->allocate(bytes);
  });
  return true;
}();

const InstructionSet& chosen_instruction_set() {
  try {
    return instruction_set();
  } catch (const std::invalid_argument& error) {
    TORCH_CHECK_VALUE(false, error.what());
  }
}

void warn_of_slow_size(int64_t height, int64_t width) {
  if (!(is_slow(height) || is_slow(width)) || !is_first(Hint::kSlowSize)) return;
  const auto better = [](int64_t n, bool down) { return is_slow(n) ? good_size(n, down) : n; };
  TORCH_WARN("ptyle: windows of ", height, " x ", width,
             " take 1.5 to 4 times as long as sizes with no prime factors but 2, 3 and 5: crop to ",
             better(height, true), " x ", better(width, true), " or pad to ", better(height, false),
             " x ", better(width, false), " (ptyle.good_size). This is said once.");
}

}  // namespace

const InstructionSet& fused_kernels(const char* name, int64_t height, int64_t width) {
  TORCH_CHECK_VALUE(height <= kLargestSize && width <= kLargestSize, "ptyle::", name,
                    ": windows must be at most ", kLargestSize, " pixels high and wide, got ",
                    height, " x ", width);
  warn_of_slow_size(height, width);
  return chosen_instruction_set();
}

namespace {

std::string cpu_kernels(int64_t height, int64_t width) {
  TORCH_CHECK_VALUE(height > 0 && width > 0,
                    "ptyle::cpu_kernels: height and width must be at least 1, got ", height,
                    " and ", width);
  return std::string("fused ") + chosen_instruction_set().name;
}

int64_t nearest_good_size(int64_t size, bool down) {
  const int64_t nearest = size < 1 ? 0 : good_size(size, down);
  TORCH_CHECK_VALUE(nearest > 0, "ptyle::good_size: size must be from 1 to 16777216, got ", size);
  return nearest;
}

}  // namespace
}  // namespace ptyle::cpu

TORCH_LIBRARY_IMPL(ptyle, CompositeImplicitAutograd, library) {
  library.impl("cpu_kernels", &ptyle::cpu::cpu_kernels);
  library.impl("good_size", &ptyle::cpu::nearest_good_size);
}
