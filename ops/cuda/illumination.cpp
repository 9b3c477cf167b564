#include "csrc/cuda/illumination.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "ops/checks.h"

namespace ptyle::cuda {
namespace {

at::Tensor illumination_cuda(const at::Tensor& probe, const at::Tensor& positions,
                             at::IntArrayRef shape, at::IntArrayRef origin) {
  check_illumination(probe, positions, c10::fromIntArrayRefSlow(shape),
                     c10::fromIntArrayRefSlow(origin));
  const c10::cuda::CUDAGuard device(probe.device());
  const at::Tensor waves = probe.resolve_conj().resolve_neg().contiguous();
  at::Tensor corners = positions.floor().to(at::kLong);
  corners.select(1, 0).sub_(origin[0]);
  corners.select(1, 1).sub_(origin[1]);
  corners = corners.contiguous();
  const at::ScalarType real = at::toRealValueType(probe.scalar_type());
  at::Tensor sums = at::empty(shape, probe.options().dtype(real));
  const auto launch = [&]<typename T>() {
    C10_CUDA_CHECK(illumination<T>(static_cast<const T*>(waves.const_data_ptr()), waves.size(0),
                                   waves.size(1), waves.size(2), corners.const_data_ptr<int64_t>(),
                                   corners.size(0), sums.data_ptr<T>(), shape[0], shape[1],
                                   c10::cuda::getCurrentCUDAStream()));
  };
  if (real == at::kFloat) {
    launch.template operator()<float>();
  } else {
    launch.template operator()<double>();
  }
  return sums;
}

}  // namespace
}  // namespace ptyle::cuda

TORCH_LIBRARY_IMPL(ptyle, CUDA, library) {
  library.impl("illumination", &ptyle::cuda::illumination_cuda);
}
