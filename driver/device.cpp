#include "driver/device.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <functional>
#include <map>
#include <unistd.h>

#include <ATen/Parallel.h>
#include <ATen/ops/zeros.h>
#include <c10/core/DeviceGuard.h>

#include <ptyle/ops.h>

#include "driver/errors.h"
#include "driver/log.h"
#include "driver/memory.h"
#include "driver/words.h"
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

// Why there can be no GPU, in words; empty where there can.
std::string why_no_gpu() {
  try {
    return cuda_services().why_no_device();
  } catch (const c10::Error& error) {
    return std::string(error.what_without_backtrace()) +
           "; `PTYLE_CUDA=on ./dev build` builds with CUDA";
  }
}

bool may_share() {
  const char* const shared = std::getenv("NCCL_MULTI_RANK_GPU_ENABLE");
  return shared != nullptr && std::strcmp(shared, "1") == 0;
}

std::int64_t number_of(const std::string& name) {
  return static_cast<std::int64_t>(std::hash<std::string>{}(name) >> 1);
}

std::string host_name() {
  char name[256] = "";
  gethostname(name, sizeof(name) - 1);
  return name;
}

// Everybody's number, by rank.
std::vector<std::int64_t> of_all(std::int64_t mine, const Ranks& ranks) {
  const at::Tensor all = at::zeros({ranks.size()}, at::kLong);
  auto* numbers = all.data_ptr<std::int64_t>();
  numbers[ranks.rank()] = mine;
  ranks.gather(all);
  return {numbers, numbers + ranks.size()};
}

at::Device gpu(std::int64_t index) { return {at::kCUDA, static_cast<c10::DeviceIndex>(index)}; }

}  // namespace

std::string refused_device(const Config& config) {
  if (config.device != "cuda") return "";
  const std::string why = why_no_gpu();
  return why.empty() ? "" : "device: must be \"cpu\" or \"auto\" here, got \"cuda\": " + why;
}

at::Device choose_device(const Config& config) {
  if (config.device == "cpu" || (config.device == "auto" && !has_driver())) return at::kCPU;
  if (const std::string text = refused_device(config); !text.empty()) throw ConfigError(text);
  if (config.device == "cuda") return gpu(0);
  const std::string why = why_no_gpu();
  if (why.empty()) return gpu(0);
  log_warning() << "there is a driver, but no GPU is used: " << why;
  return at::kCPU;
}

std::vector<std::int64_t> gpus_of_ranks(const std::vector<std::int64_t>& hosts,
                                        const std::vector<std::int64_t>& devices) {
  std::map<std::int64_t, std::int64_t> ranks_there;
  std::vector<std::int64_t> gpus;
  for (std::size_t rank = 0; rank < hosts.size(); ++rank) {
    // A launcher may show each rank its own GPU alone: then that one is number 0.
    gpus.push_back(ranks_there[hosts[rank]]++ % std::max<std::int64_t>(1, devices[rank]));
  }
  return gpus;
}

at::Device agree_on_device(const Config& config, const at::Device& mine, const Ranks& ranks) {
  const bool has_gpu = !mine.is_cpu();
  const std::vector<std::int64_t> devices = of_all(has_gpu ? cuda_services().devices() : 0, ranks);
  const std::vector<std::int64_t> hosts = of_all(number_of(host_name()), ranks);
  if (std::count(devices.begin(), devices.end(), 0) > 0) {
    if (has_gpu) log_info() << "another rank has no GPU: all take the CPU";
    return at::kCPU;
  }
  const auto rank = static_cast<std::size_t>(ranks.rank());
  const std::int64_t index = gpus_of_ranks(hosts, devices)[rank];
  const std::vector<std::int64_t> uuids =
      of_all(number_of(host_name() + cuda_services().uuid(index)), ranks);
  for (std::size_t other = 0; other < uuids.size(); ++other) {
    const auto first = static_cast<std::size_t>(
        std::find(uuids.begin(), uuids.end(), uuids[other]) - uuids.begin());
    if (first == other || may_share()) continue;
    const std::string what = "ranks " + std::to_string(first) + " and " + std::to_string(other) +
                             " have one GPU between them (start fewer ranks, or let them share "
                             "with NCCL_MULTI_RANK_GPU_ENABLE=1)";
    if (config.device == "cuda") {
      throw ConfigError("device: must be \"cpu\" or \"auto\" here, got \"cuda\": " + what);
    }
    if (ranks.first()) log_warning() << what << ": all take the CPU";
    return at::kCPU;
  }
  return gpu(index);
}

std::string words_for(const at::Device& device, IntegerPair window) {
  if (!device.is_cpu()) {
    return "GPU " + std::to_string(device.index()) + " (" + cuda_services().name(device.index()) +
           ")";
  }
  const int threads = at::get_num_threads();
  return "the CPU (" + cpu_kernels(window[0], window[1]) + ", " +
         words::counted(threads, "thread") + ")";
}

std::string words_for(const Config& config, IntegerPair window) {
  if (config.device == "cuda") {
    if (const std::string why = why_no_gpu(); !why.empty()) return "a GPU, but not here: " + why;
  }
  return words_for(choose_device(config), window);
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
