#include "driver/memory.h"

#include <atomic>
#include <cstdio>
#include <fstream>
#include <limits>
#include <memory>

#include <c10/core/CPUAllocator.h>

namespace ptyle::driver {
namespace {

std::atomic<std::int64_t> alive{0}, most{0};

// Torch's own allocator with a count.
class CountingAllocator final : public c10::Allocator {
 public:
  explicit CountingAllocator(c10::Allocator* inner) : inner_(inner) {}

  c10::DataPtr allocate(std::size_t bytes) override {
    auto block =
        std::make_unique<Block>(Block{inner_->allocate(bytes), static_cast<std::int64_t>(bytes)});
    const std::int64_t now = alive += block->bytes;
    std::int64_t before = most;
    while (before < now && !most.compare_exchange_weak(before, now)) {
    }
    void* data = block->memory.get();
    const c10::Device device = block->memory.device();
    return {data, block.release(), &free_block, device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

 private:
  struct Block {
    c10::DataPtr memory;
    std::int64_t bytes;
  };
  static void free_block(void* context) {
    const std::unique_ptr<Block> block(static_cast<Block*>(context));
    alive -= block->bytes;
  }
  c10::Allocator* inner_;
};

}  // namespace

void count_tensor_bytes() {
  static CountingAllocator allocator(c10::GetCPUAllocator());
  constexpr std::uint8_t kBeforeOthers = 100;
  c10::SetCPUAllocator(&allocator, kBeforeOthers);
}

std::int64_t most_tensor_bytes() { return most; }

void restart_most_tensor_bytes() { most.store(alive); }

std::int64_t available_bytes() {
  std::ifstream in("/proc/meminfo");
  std::string word;
  while (in >> word && word != "MemAvailable:") {
  }
  std::int64_t available_KiB = 0;
  if (!(in >> available_KiB)) return std::numeric_limits<std::int64_t>::max();
  return available_KiB * 1024;
}

std::string gigabytes(double bytes) {
  char text[40];
  std::snprintf(text, sizeof(text), "%.3g GB", bytes / 1e9);
  return text;
}

}  // namespace ptyle::driver
