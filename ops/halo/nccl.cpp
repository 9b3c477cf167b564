#include "ops/halo/nccl.h"

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

static_assert(NCCL_VERSION_CODE == PTYLE_NCCL_VERSION,
              "the wheel's NCCL must be included, not that of a toolkit");

namespace ptyle::cuda {

c10::intrusive_ptr<c10d::Backend> nccl_backend(const c10::intrusive_ptr<c10d::Store>& store,
                                               std::int64_t rank, std::int64_t size,
                                               std::chrono::milliseconds timeout,
                                               std::int64_t device) {
  const auto options = c10d::ProcessGroupNCCL::Options::create(/*is_high_priority_stream=*/true);
  options->timeout = timeout;
  options->config.blocking = 1;  // connected means connected
  const auto backend = c10::make_intrusive<c10d::ProcessGroupNCCL>(
      c10::make_intrusive<c10d::PrefixStore>("nccl", store), static_cast<int>(rank),
      static_cast<int>(size), options);
  const at::Device here(at::kCUDA, static_cast<c10::DeviceIndex>(device));
  backend->setBoundDeviceId(here);
  backend->eagerConnectSingleDevice(here);
  return backend;
}

}  // namespace ptyle::cuda
