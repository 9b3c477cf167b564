#include <tuple>

#include <torch/library.h>

#include "ops/checks.h"
#include "ops/cpu/fused.h"
#include "ops/gradients.h"

namespace ptyle::cpu {
namespace {

at::Tensor diffraction(const at::Tensor& object, const at::Tensor& probe,
                       const at::Tensor& positions, const std::optional<at::Tensor>& propagator,
                       at::IntArrayRef origin, const std::optional<at::Tensor>& detector) {
  check_model("diffraction", object, probe, positions, propagator,
              c10::fromIntArrayRefSlow(origin));
  check_detector("diffraction", probe, detector);
  return with_precision(probe, [&]<typename T>() {
    const Fused<T> fused("diffraction", object, probe, positions, propagator, origin, detector, {});
    at::Tensor out = at::empty({positions.size(0), probe.size(1), probe.size(2)},
                               probe.options().dtype(at::toRealValueType(probe.scalar_type())));
    T* to = out.data_ptr<T>();
    const int64_t pixels = probe.size(1) * probe.size(2);
    fused.run([&](const auto& model, auto& worker, int64_t n) {
      model.diffraction(worker, fused.window(n), to + n * pixels);
    });
    return out;
  });
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> diffraction_backward(
    const at::Tensor& gradient, const at::Tensor& object, const at::Tensor& probe,
    const at::Tensor& positions, const std::optional<at::Tensor>& propagator,
    at::IntArrayRef origin, const std::optional<at::Tensor>& detector, Needs needs) {
  const char* name = "diffraction_backward";
  check_model(name, object, probe, positions, propagator, c10::fromIntArrayRefSlow(origin));
  check_detector(name, probe, detector);
  check_gradient(name, "gradient", gradient,
                 {positions.sym_size(0), probe.sym_size(1), probe.sym_size(2)},
                 probe.options().dtype(at::toRealValueType(probe.scalar_type())));
  const Gradients out = zero_gradients(object, probe, positions, propagator, needs);
  with_precision(probe, [&]<typename T>() {
    Fused<T> fused(name, object, probe, positions, propagator, origin, detector, out);
    const at::Tensor slopes = plain(gradient);
    const T* slope = slopes.const_data_ptr<T>();
    const int64_t pixels = probe.size(1) * probe.size(2);
    fused.run_ordered([&](auto& model, auto& worker, int64_t n, Turns* turns) {
      model.diffraction_adjoint(worker, fused.window(n), slope + n * pixels, fused.sums(), n,
                                turns);
    });
    return 0;
  });
  return as_tuple(out, probe);
}

}  // namespace
}  // namespace ptyle::cpu

TORCH_LIBRARY_IMPL(ptyle, CPU, library) {
  library.impl("diffraction", &ptyle::cpu::diffraction);
  library.impl("diffraction_backward", &ptyle::cpu::diffraction_backward);
}
