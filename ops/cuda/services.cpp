#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "csrc/cuda/arrays.h"
#include "ops/cuda/errors.h"
#include "ops/device.h"
#include "ops/halo/nccl.h"

namespace ptyle::cuda {
namespace {

c10::DeviceIndex index_of(std::int64_t device) { return static_cast<c10::DeviceIndex>(device); }

constexpr int kLeastCapability = 8;  // what the kernels are compiled for

cudaDeviceProp properties_of(int device) {
  cudaDeviceProp properties{};
  C10_CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
  return properties;
}

class Services final : public CudaServices {
 public:
  void update(const ImageSize& size, const Update<float>& formula) const override {
    checked([&] { cuda::update(size, formula, stream()); });
  }
  void update(const ImageSize& size, const Update<double>& formula) const override {
    checked([&] { cuda::update(size, formula, stream()); });
  }
  void sum_rows(const ImageSize& size, const SumOf<float>& term, double* sums) const override {
    checked([&] { cuda::sum_rows(size, term, sums, stream()); });
  }
  void sum_rows(const ImageSize& size, const SumOf<double>& term, double* sums) const override {
    checked([&] { cuda::sum_rows(size, term, sums, stream()); });
  }

  void move_pieces(at::ScalarType type, const Move* moves, std::int64_t count,
                   std::int64_t elements, std::int64_t slices, bool add) const override {
    const auto move = [&]<typename V>() {
      checked([&] { cuda::move_pieces<V>(moves, count, elements, slices, add, stream()); });
    };
    switch (type) {
      case at::kFloat:
        return move.template operator()<float>();
      case at::kDouble:
        return move.template operator()<double>();
      case at::kComplexFloat:
        return move.template operator()<Complex<float>>();
      default:
        return move.template operator()<Complex<double>>();
    }
  }

  std::string why_no_device() const override {
    int count = 0;
    const cudaError_t code = cudaGetDeviceCount(&count);
    if (code == cudaSuccess && count > 0) {
      for (int device = 0; device < count; ++device) {
        const cudaDeviceProp properties = properties_of(device);
        if (properties.major < kLeastCapability) {
          return std::string(properties.name) + " is of compute capability " +
                 std::to_string(properties.major) + "." + std::to_string(properties.minor) +
                 ", and " + std::to_string(kLeastCapability) +
                 ".0 is needed (CUDA_VISIBLE_DEVICES hides a GPU)";
        }
      }
      return {};
    }
    (void)cudaGetLastError();  // it is told, not kept
    if (code == cudaErrorInsufficientDriver) {
      return "there is no NVIDIA driver, or one that is too old for CUDA " +
             std::to_string(CUDART_VERSION / 1000) + ": install NVIDIA's driver 580 or newer";
    }
    if (code == cudaErrorNoDevice || code == cudaSuccess) {
      return "there is no NVIDIA GPU, or CUDA_VISIBLE_DEVICES hides it";
    }
    return std::string("CUDA says: ") + cudaGetErrorString(code);
  }
  std::int64_t devices() const override { return c10::cuda::device_count(); }
  std::string name(std::int64_t device) const override {
    return properties_of(static_cast<int>(device)).name;
  }
  std::string uuid(std::int64_t device) const override {
    const cudaUUID_t uuid = properties_of(static_cast<int>(device)).uuid;
    return {uuid.bytes, sizeof(uuid.bytes)};
  }
  std::int64_t free_bytes(std::int64_t device) const override {
    const c10::cuda::CUDAGuard guard(index_of(device));
    std::size_t free = 0, total = 0;
    C10_CUDA_CHECK(cudaMemGetInfo(&free, &total));
    return static_cast<std::int64_t>(free);
  }
  std::int64_t most_bytes(std::int64_t device) const override {
    constexpr auto kAll = static_cast<std::size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    return c10::cuda::CUDACachingAllocator::getDeviceStats(index_of(device))
        .allocated_bytes[kAll]
        .peak;
  }
  void restart_most_bytes(std::int64_t device) const override {
    c10::cuda::CUDACachingAllocator::resetPeakStats(index_of(device));
  }

  c10::intrusive_ptr<c10d::Backend> nccl(const c10::intrusive_ptr<c10d::Store>& store,
                                         std::int64_t rank, std::int64_t size,
                                         std::chrono::milliseconds timeout,
                                         std::int64_t device) const override {
    return nccl_backend(store, rank, size, timeout, device);
  }

 private:
  static void* stream() { return c10::cuda::getCurrentCUDAStream().stream(); }
};

// Offered when the library is loaded.
const Services services;
const bool offered = [] {
  offer_cuda_services(&services);
  return true;
}();

}  // namespace
}  // namespace ptyle::cuda
