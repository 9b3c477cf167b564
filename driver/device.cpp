#include "driver/device.h"

#include <cstdlib>
#include <cstring>
#include <dlfcn.h>

#include <ATen/Parallel.h>
#include <c10/core/DeviceGuard.h>

#include <ptyle/ops.h>

#include "driver/errors.h"
#include "driver/memory.h"
#include "ops/device.h"

namespace ptyle::driver {
namespace {

// Without a driver nothing need be loaded to know that there is no GPU.
bool has_driver() {
  void* const library = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  if (library == nullptr) return false;
  dlclose(library);
  return true;
}

// Why a rank can have no GPU, in words; empty where it can.
std::string why_not(const Launch& launch) {
  const CudaServices* services = nullptr;
  try {
    services = &cuda_services();
  } catch (const c10::Error& error) {
    return std::string(error.what_without_backtrace()) +
           "; `PTYLE_CUDA=on ./dev build` builds with CUDA";
  }
  if (const std::string why = services->why_no_device(); !why.empty()) return why;
  if (launch.local_rank < services->devices()) return {};
  const char* const shared = std::getenv("NCCL_MULTI_RANK_GPU_ENABLE");
  if (shared != nullptr && std::strcmp(shared, "1") == 0) return {};
  return "this machine has " + std::to_string(services->devices()) + " GPUs for ranks 0 to " +
         std::to_string(services->devices() - 1) + " of its ranks, and this one is its rank " +
         std::to_string(launch.local_rank) +
         " (start fewer, or let ranks share with NCCL_MULTI_RANK_GPU_ENABLE=1)";
}

}  // namespace

at::Device choose_device(const Config& config, const Launch& launch) {
  if (config.device == "cpu" || (config.device == "auto" && !has_driver())) return at::kCPU;
  const std::string why = why_not(launch);
  if (why.empty()) {
    return {at::kCUDA,
            static_cast<c10::DeviceIndex>(launch.local_rank % cuda_services().devices())};
  }
  if (config.device == "auto") return at::kCPU;
  throw ConfigError("device: must be \"cpu\" or \"auto\" here, got \"cuda\": " + why);
}

std::string words_for(const at::Device& device, IntegerPair window) {
  if (!device.is_cpu()) {
    return "GPU " + std::to_string(device.index()) + " (" + cuda_services().name(device.index()) +
           ")";
  }
  const int threads = at::get_num_threads();
  return "the CPU (" + cpu_kernels(window[0], window[1]) + ", " + std::to_string(threads) +
         (threads == 1 ? " thread)" : " threads)");
}

std::string words_for(const Config& config, IntegerPair window) {
  try {
    return words_for(choose_device(config, Launch{}), window);
  } catch (const ConfigError& error) {
    return std::string("a GPU, but not here: ") + error.what();
  }
}

std::int64_t free_bytes(const at::Device& device) {
  return device.is_cpu() ? available_bytes() : cuda_services().free_bytes(device.index());
}

std::int64_t most_bytes(const at::Device& device) {
  return device.is_cpu() ? most_tensor_bytes() : cuda_services().most_bytes(device.index());
}

void restart_most_bytes(const at::Device& device) {
  restart_most_tensor_bytes();
  if (!device.is_cpu()) cuda_services().restart_most_bytes(device.index());
}

}  // namespace ptyle::driver
