#include "driver/tiles/groups.h"

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include "ops/device.h"

namespace ptyle::driver {

c10::intrusive_ptr<c10d::ProcessGroup> gloo_group(const c10::intrusive_ptr<c10d::Store>& store,
                                                  std::int64_t rank, std::int64_t size,
                                                  std::chrono::milliseconds timeout,
                                                  const std::string& hostname) {
  auto options = c10d::ProcessGroupGloo::Options::create(timeout);
  options->devices.push_back(hostname.empty()
                                 ? c10d::ProcessGroupGloo::createDefaultDevice()
                                 : c10d::ProcessGroupGloo::createDeviceForHostname(hostname));
  options->threads = 2;
  const auto here = static_cast<int>(rank), ranks = static_cast<int>(size);
  const auto backend = c10::make_intrusive<c10d::ProcessGroupGloo>(
      c10::make_intrusive<c10d::PrefixStore>("gloo", store), here, ranks, options);
  auto group = c10::make_intrusive<c10d::ProcessGroup>(store, here, ranks);
  group->setBackend(c10::DeviceType::CPU, c10d::ProcessGroup::BackendType::GLOO, backend);
  group->setDefaultBackend(c10d::ProcessGroup::BackendType::GLOO);
  return group;
}

void add_nccl(const c10::intrusive_ptr<c10d::ProcessGroup>& group,
              const c10::intrusive_ptr<c10d::Store>& store, std::chrono::milliseconds timeout,
              const at::Device& device) {
  const auto backend =
      cuda_services().nccl(store, group->getRank(), group->getSize(), timeout, device.index());
  group->setBoundDeviceId(device);
  group->setBackend(c10::DeviceType::CUDA, c10d::ProcessGroup::BackendType::NCCL, backend);
}

}  // namespace ptyle::driver
