// A `Device` of csrc/cuda/sequence.cuh on the host: kernels under the emulator, transforms by the
// CPU's kernels behind the same calls.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>

// The emulator says what the kernels' words mean: it comes first.
// clang-format off
#include "tests/emulator/cuda_emulator.h"
#include "csrc/cpu/plan.h"
#include "csrc/cuda/sequence.cuh"
// clang-format on

namespace ptyle::emulator {

template <typename T>
class EmulatedDevice {
 public:
  // Few threads and blocks, so that grid-stride loops have more than one turn.
  EmulatedDevice(int64_t height, int64_t width)
      : kernels_(cpu::kernels<T>(*cpu::instruction_sets().front())),
        plan_(cpu::plan_for<T>(height, width, kernels_.lanes)),
        panels_(plan_->shape().panel_wave()),
        line_(plan_->shape().line()) {}

  template <typename... Parameters, typename... Arguments>
  void launch(void (*kernel)(Parameters...), int64_t items, Arguments... arguments) {
    if (items == 0) return;
    constexpr int64_t kThreads = 64, kMostBlocks = 5;
    const int64_t blocks = std::min(kMostBlocks, (items + kThreads - 1) / kThreads);
    Machine::get().launch(
        static_cast<unsigned>(blocks), kThreads, [&] { kernel(arguments...); }, address_of(kernel));
  }
  template <typename... Parameters, typename... Arguments>
  void launch_blocks(void (*kernel)(Parameters...), int64_t blocks, Arguments... arguments) {
    if (blocks == 0) return;
    constexpr int64_t kMostBlocks = 3;
    Machine::get().launch(
        static_cast<unsigned>(std::min(kMostBlocks, blocks)), cuda::kBlockThreads,
        [&] { kernel(arguments...); }, address_of(kernel));
  }

  // Not cleared, as on a device; of the exact size, so that a sanitizer sees what lies beyond.
  template <typename V>
  std::unique_ptr<V[]> allocate(int64_t count) {
    return std::unique_ptr<V[]>(new V[static_cast<std::size_t>(count)]);
  }

  void transform(Complex<T>* waves, int64_t count, bool inverse) {
    const int64_t pixels = plan_->shape().height() * plan_->shape().width();
    const auto to = allocate<Complex<T>>(pixels);
    ++transforms_;
    for (int64_t k = 0; k < count; ++k) {
      kernels_.transform(plan_->shape(), inverse, &waves[k * pixels].re, &to[0].re, panels_.data(),
                         line_.data());
      std::copy_n(to.get(), pixels, waves + k * pixels);
      transformed_bytes_ += 32 / 8 * pixels * static_cast<int64_t>(sizeof(Complex<T>));
    }
  }
  template <typename V>
  void copy(const V* from, V* to, int64_t count) {
    std::copy_n(from, count, to);
  }

  // What a 2-D transform in two passes reads and writes.
  int64_t transformed_bytes() const { return transformed_bytes_; }
  int64_t transforms() const { return transforms_; }

 private:
  template <typename... Parameters>
  static const void* address_of(void (*kernel)(Parameters...)) {
    return reinterpret_cast<const void*>(kernel);
  }

  const cpu::Kernels<T>& kernels_;
  std::shared_ptr<const cpu::Plan<T>> plan_;
  cpu::Numbers<T> panels_, line_;
  int64_t transformed_bytes_ = 0, transforms_ = 0;
};

}  // namespace ptyle::emulator
