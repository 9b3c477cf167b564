// Under autocast real inputs in half precision or bfloat16 are taken in float32: there are no
// complex waves of 16 bits to go with them.
#include <ATen/autocast_mode.h>
#include <torch/library.h>

#include "ops/dispatch.h"

namespace ptyle::autocast {
namespace {

using dispatch::OptionalTensor;

template <c10::DeviceType kDevice>
struct Autocast {
  static constexpr c10::DispatchKey kKey =
      kDevice == c10::kCUDA ? c10::DispatchKey::AutocastCUDA : c10::DispatchKey::AutocastCPU;

  static at::Tensor single(const at::Tensor& tensor) {
    const bool low = tensor.scalar_type() == at::kHalf || tensor.scalar_type() == at::kBFloat16;
    return low ? at::autocast::cached_cast(at::kFloat, tensor, kDevice) : tensor;
  }
  static OptionalTensor single(const OptionalTensor& tensor) {
    return tensor ? OptionalTensor(single(*tensor)) : std::nullopt;
  }

  static at::Tensor exit_waves(const at::Tensor& object, const at::Tensor& probe,
                               const at::Tensor& positions, const OptionalTensor& propagator,
                               c10::SymIntArrayRef origin) {
    const c10::impl::ExcludeDispatchKeyGuard once(kKey);
    return dispatch::exit_waves(single(object), probe, positions, propagator, origin);
  }

  static at::Tensor diffraction(const at::Tensor& object, const at::Tensor& probe,
                                const at::Tensor& positions, const OptionalTensor& propagator,
                                c10::SymIntArrayRef origin, const OptionalTensor& detector) {
    const c10::impl::ExcludeDispatchKeyGuard once(kKey);
    return dispatch::diffraction(single(object), probe, positions, propagator, origin, detector);
  }

  static std::tuple<at::Tensor, at::Tensor> diffraction_loss(const LossArguments& given) {
    const c10::impl::ExcludeDispatchKeyGuard once(kKey);
    LossArguments a = given;
    a.object = single(a.object);
    a.patterns = single(a.patterns);
    a.weights = single(a.weights);
    a.background = single(a.background);
    return dispatch::diffraction_loss(a);
  }

  static at::Tensor extract_patches(const at::Tensor& object, const at::Tensor& positions,
                                    c10::SymIntArrayRef window, c10::SymIntArrayRef origin,
                                    double outside, at::IntArrayRef derivative) {
    const c10::impl::ExcludeDispatchKeyGuard once(kKey);
    return dispatch::extract_patches(single(object), positions, window, origin, outside,
                                     derivative);
  }

  static at::Tensor add_patches(const at::Tensor& patches, const at::Tensor& positions,
                                c10::SymIntArrayRef shape, c10::SymIntArrayRef origin,
                                at::IntArrayRef derivative) {
    const c10::impl::ExcludeDispatchKeyGuard once(kKey);
    return dispatch::add_patches(single(patches), positions, shape, origin, derivative);
  }

  static void add_to(torch::Library& library) {
    library.impl("exit_waves", &exit_waves);
    library.impl("diffraction", &diffraction);
    library.impl("diffraction_loss", &Unpacked<&diffraction_loss>::call);
    library.impl("extract_patches", &extract_patches);
    library.impl("add_patches", &add_patches);
  }
};

}  // namespace
}  // namespace ptyle::autocast

TORCH_LIBRARY_IMPL(ptyle, AutocastCPU, library) {
  ptyle::autocast::Autocast<c10::kCPU>::add_to(library);
}
TORCH_LIBRARY_IMPL(ptyle, AutocastCUDA, library) {
  ptyle::autocast::Autocast<c10::kCUDA>::add_to(library);
}
