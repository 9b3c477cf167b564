#include "ops/cpu/fused.h"

#include <memory>
#include <stdexcept>

#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>

namespace ptyle::cpu {
namespace {

// Scratch is counted, limited and freed as tensors are.
[[maybe_unused]] const bool kTorchAllocates = [] {
  set_allocate([](std::size_t bytes) -> std::shared_ptr<void> {
    auto memory = std::make_shared<at::DataPtr>(c10::GetCPUAllocator()->allocate(bytes));
    return {memory, memory->get()};
  });
  return true;
}();

}  // namespace

const InstructionSet* fused_kernels(int64_t height, int64_t width) {
  const InstructionSet* set = nullptr;
  try {
    set = instruction_set();
  } catch (const std::invalid_argument& error) {
    TORCH_CHECK_VALUE(false, error.what());
  }
  return has_plan(height) && has_plan(width) ? set : nullptr;
}

}  // namespace ptyle::cpu
