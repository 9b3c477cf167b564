#include "driver/memory.h"

#include <atomic>
#include <cstdio>
#include <fstream>
#include <limits>
#include <optional>
#include <sys/resource.h>

#include <malloc.h>

#include <c10/core/CPUAllocator.h>

namespace ptyle::driver {
namespace {

std::atomic<std::int64_t> alive{0}, most{0};

// Torch's own allocator with a count, of what the system's gives for each block. Its blocks are
// freed by their address alone, as some of torch's callers expect (Allocator::raw_allocate).
class CountingAllocator final : public c10::Allocator {
 public:
  explicit CountingAllocator(c10::Allocator* inner) : inner_(inner) {
    free_inner = inner->raw_deleter();
  }

  c10::DataPtr allocate(std::size_t bytes) override {
    c10::DataPtr block = inner_->allocate(bytes);
    TORCH_INTERNAL_ASSERT(block.get() == block.get_context());
    const c10::Device device = block.device();
    void* const data = block.release_context();
    const std::int64_t now = alive += size_of(data);
    std::int64_t before = most;
    while (before < now && !most.compare_exchange_weak(before, now)) {
    }
    return {data, data, &free_block, device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_block; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

 private:
  static std::int64_t size_of(void* data) {
    return static_cast<std::int64_t>(malloc_usable_size(data));
  }
  static void free_block(void* data) {
    alive -= size_of(data);
    free_inner(data);
  }
  static inline c10::DeleterFnPtr free_inner = nullptr;
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

namespace {

// What one of /proc's tables says in KiB.
std::optional<std::int64_t> kibibytes(const char* table, const std::string& row) {
  std::ifstream in(table);
  std::string word;
  while (in >> word && word != row) {
  }
  std::int64_t value = 0;
  if (!(in >> value)) return std::nullopt;
  return value;
}

}  // namespace

std::int64_t available_bytes() {
  const auto available = kibibytes("/proc/meminfo", "MemAvailable:");
  return available ? *available * 1024 : std::numeric_limits<std::int64_t>::max();
}

std::int64_t peak_resident_bytes() {
  // Not getrusage: its peak is also that of the process that started this one, a torchrun with
  // all of torch for instance.
  if (const auto peak = kibibytes("/proc/self/status", "VmHWM:")) return *peak * 1024;
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::int64_t>(usage.ru_maxrss) * 1024;  // Linux counts in KiB
}

std::string gigabytes(double bytes) {
  char text[40];
  std::snprintf(text, sizeof(text), "%.3g GB", bytes / 1e9);
  return text;
}

}  // namespace ptyle::driver
