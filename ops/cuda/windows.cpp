// illumination, extract_patches and add_patches on CUDA.
#include <array>
#include <type_traits>

#include <ATen/core/Tensor.h>
#include <ATen/ops/_assert_async.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "csrc/cuda/arrays.h"
#include "csrc/interpolation.h"
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

// Windows of positions between whole pixels, and the memory of their weights.
template <typename T>
struct PlacedWindows {
  PlacedWindows(const at::Tensor& positions, at::IntArrayRef origin, at::IntArrayRef derivative,
                const at::TensorOptions& options, std::array<int64_t, 5> sizes) {
    constexpr double kLimit = 4503599627370496.0;  // 2^52: beyond it there are no fractions
    if (positions.numel() > 0) {
      at::_assert_async(positions.abs().lt(kLimit).all(),
                        "ptyle: positions must be finite and below 2^52");
    }
    const at::Tensor whole = positions.floor();
    corners = corners_of(whole, origin);
    first_corners = corners.sub(kInterpolationBefore);
    fractions = positions.sub(whole).contiguous();
    weights =
        at::empty({positions.size(0), 2, kInterpolationTaps},
                  options.dtype(at::toRealValueType(c10::typeMetaToScalarType(options.dtype()))));
    patches = {corners.const_data_ptr<int64_t>(),
               fractions.const_data_ptr<double>(),
               positions.size(0),
               sizes[0],
               sizes[1],
               sizes[2],
               sizes[3],
               sizes[4],
               derivative[0],
               derivative[1],
               weights.template data_ptr<T>()};
  }
  at::Tensor corners, first_corners, fractions, weights;
  Patches<T> patches;
};

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
                                at::IntArrayRef window, at::IntArrayRef origin, double outside,
                                at::IntArrayRef derivative) {
  check_patches("extract_patches", "object", object, 3, positions, "window",
                c10::fromIntArrayRefSlow(window), c10::fromIntArrayRefSlow(origin), derivative);
  const c10::cuda::CUDAGuard device(object.device());
  const at::Tensor image = plain(object);
  const at::Tensor patches =
      at::empty({positions.size(0), object.size(0), window[0], window[1]}, image.options());
  // A derivative of what lies outside is 0.
  const double vacuum = derivative[0] == 0 && derivative[1] == 0 ? outside : 0.0;
  with_type(image, [&]<typename V, typename T>() {
    const PlacedWindows<T> windows(
        positions, origin, derivative, image.options(),
        {image.size(0), window[0], window[1], image.size(1), image.size(2)});
    V level{};
    if constexpr (std::is_same_v<V, T>) {
      level = static_cast<T>(vacuum);
    } else {
      level.re = static_cast<T>(vacuum);
    }
    checked([&] {
      extract_patches<V, T>(windows.patches, static_cast<const V*>(image.const_data_ptr()), level,
                            static_cast<V*>(patches.data_ptr()), c10::cuda::getCurrentCUDAStream());
    });
  });
  return patches;
}

at::Tensor add_patches_cuda(const at::Tensor& patches, const at::Tensor& positions,
                            at::IntArrayRef shape, at::IntArrayRef origin,
                            at::IntArrayRef derivative) {
  check_patches("add_patches", "patches", patches, 4, positions, "shape",
                c10::fromIntArrayRefSlow(shape), c10::fromIntArrayRefSlow(origin), derivative);
  const c10::cuda::CUDAGuard device(patches.device());
  const at::Tensor memory = plain(patches);
  const at::Tensor sums = at::zeros({patches.size(1), shape[0], shape[1]}, memory.options());
  with_type(memory, [&]<typename V, typename T>() {
    const PlacedWindows<T> windows(
        positions, origin, derivative, memory.options(),
        {patches.size(1), patches.size(2), patches.size(3), shape[0], shape[1]});
    checked([&] {
      add_patches<V, T>(windows.patches, static_cast<const V*>(memory.const_data_ptr()),
                        windows.first_corners.template const_data_ptr<int64_t>(),
                        static_cast<V*>(sums.data_ptr()), c10::cuda::getCurrentCUDAStream());
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
