// illumination, extract_patches and add_patches on CUDA.
#include <ATen/core/Tensor.h>
#include <ATen/ops/_assert_async.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "csrc/cuda/arrays.h"
#include "ops/checks.h"
#include "ops/cuda/errors.h"
#include "ops/gradients.h"

namespace ptyle::cuda {
namespace {

// Whole-pixel corners [n, 2] in the frame of an array whose corner lies at `origin`.
at::Tensor corners_of(const at::Tensor& whole_positions, at::IntArrayRef origin) {
  at::Tensor corners = whole_positions.to(at::kLong);
  corners.select(1, 0).sub_(origin[0]);
  corners.select(1, 1).sub_(origin[1]);
  return corners.contiguous();
}

// Of positions that must be whole pixels. Asking whether they are would wait for the device: it
// stops by itself where they are not.
at::Tensor whole_corners(const char* name, const at::Tensor& positions, at::IntArrayRef origin) {
  if (positions.numel() > 0) {
    at::_assert_async(positions.eq(positions.floor()).all(),
                      std::string("ptyle::") + name + ": positions must be whole pixels");
  }
  return corners_of(positions, origin);
}

template <typename Work>
void with_type(const at::Tensor& image, const Work& work) {
  switch (image.scalar_type()) {
    case at::kFloat:
      return work.template operator()<float>();
    case at::kDouble:
      return work.template operator()<double>();
    case at::kComplexFloat:
      return work.template operator()<Complex<float>>();
    default:
      return work.template operator()<Complex<double>>();
  }
}

at::Tensor illumination_cuda(const at::Tensor& probe, const at::Tensor& positions,
                             at::IntArrayRef shape, at::IntArrayRef origin) {
  check_illumination(probe, positions, c10::fromIntArrayRefSlow(shape),
                     c10::fromIntArrayRefSlow(origin));
  const c10::cuda::CUDAGuard device(probe.device());
  const at::Tensor waves = plain(probe);
  const at::Tensor corners = corners_of(positions.floor(), origin);
  const at::TensorOptions real = probe.options().dtype(at::toRealValueType(probe.scalar_type()));
  const at::Tensor sums = at::zeros(shape, real);
  const at::Tensor intensity = at::empty({probe.size(1), probe.size(2)}, real);
  with_precision(probe, [&]<typename T>() {
    checked([&] {
      illumination<T>(complex_data<T>(waves), waves.size(0), waves.size(1), waves.size(2),
                      corners.const_data_ptr<int64_t>(), corners.size(0), intensity.data_ptr<T>(),
                      sums.data_ptr<T>(), shape[0], shape[1], c10::cuda::getCurrentCUDAStream());
    });
    return 0;
  });
  return sums;
}

at::Tensor extract_patches_cuda(const at::Tensor& object, const at::Tensor& positions,
                                at::IntArrayRef window, at::IntArrayRef origin) {
  check_patches("extract_patches", "object", object, 3, positions, "window",
                c10::fromIntArrayRefSlow(window), c10::fromIntArrayRefSlow(origin));
  const c10::cuda::CUDAGuard device(object.device());
  const at::Tensor image = plain(object);
  const at::Tensor corners = whole_corners("extract_patches", positions, origin);
  const at::Tensor patches =
      at::empty({positions.size(0), object.size(0), window[0], window[1]}, image.options());
  with_type(image, [&]<typename V>() {
    checked([&] {
      extract_patches<V>(static_cast<const V*>(image.const_data_ptr()),
                         corners.const_data_ptr<int64_t>(), corners.size(0), image.size(0),
                         window[0], window[1], static_cast<V*>(patches.data_ptr()), image.size(1),
                         image.size(2), c10::cuda::getCurrentCUDAStream());
    });
  });
  return patches;
}

at::Tensor add_patches_cuda(const at::Tensor& patches, const at::Tensor& positions,
                            at::IntArrayRef shape, at::IntArrayRef origin) {
  check_patches("add_patches", "patches", patches, 4, positions, "shape",
                c10::fromIntArrayRefSlow(shape), c10::fromIntArrayRefSlow(origin));
  const c10::cuda::CUDAGuard device(patches.device());
  const at::Tensor memory = plain(patches);
  const at::Tensor corners = whole_corners("add_patches", positions, origin);
  const at::Tensor sums = at::zeros({patches.size(1), shape[0], shape[1]}, memory.options());
  with_type(memory, [&]<typename V>() {
    checked([&] {
      add_patches<V>(static_cast<const V*>(memory.const_data_ptr()),
                     corners.const_data_ptr<int64_t>(), corners.size(0), patches.size(1),
                     patches.size(2), patches.size(3), static_cast<V*>(sums.data_ptr()), shape[0],
                     shape[1], c10::cuda::getCurrentCUDAStream());
    });
  });
  return sums;
}

}  // namespace
}  // namespace ptyle::cuda

TORCH_LIBRARY_IMPL(ptyle, CUDA, library) {
  library.impl("illumination", &ptyle::cuda::illumination_cuda);
  library.impl("extract_patches", &ptyle::cuda::extract_patches_cuda);
  library.impl("add_patches", &ptyle::cuda::add_patches_cuda);
}
