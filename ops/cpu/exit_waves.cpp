#include <tuple>

#include <torch/library.h>

#include "ops/checks.h"
#include "ops/cpu/fused.h"
#include "ops/gradients.h"

namespace ptyle::cpu {
namespace {

at::Tensor exit_waves(const at::Tensor& object, const at::Tensor& probe,
                      const at::Tensor& positions, const std::optional<at::Tensor>& propagator,
                      at::IntArrayRef origin) {
  check_model("exit_waves", object, probe, positions, propagator, c10::fromIntArrayRefSlow(origin));
  return with_precision(probe, [&]<typename T>() {
    const Fused<T> fused("exit_waves", object, probe, positions, propagator, origin, {}, {});
    at::Tensor out = at::empty({positions.size(0), probe.size(0), probe.size(1), probe.size(2)},
                               probe.options());
    T* to = static_cast<T*>(out.data_ptr());
    const int64_t size = 2 * probe.numel();
    fused.run([&](const auto& model, auto& worker, int64_t n) {
      model.exit_waves(worker, fused.window(n), to + n * size);
    });
    return out;
  });
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> exit_waves_backward(
    const at::Tensor& gradient, const at::Tensor& object, const at::Tensor& probe,
    const at::Tensor& positions, const std::optional<at::Tensor>& propagator,
    at::IntArrayRef origin, Needs needs) {
  const char* name = "exit_waves_backward";
  check_model(name, object, probe, positions, propagator, c10::fromIntArrayRefSlow(origin));
  check_gradient(name, "gradient", gradient,
                 {positions.sym_size(0), probe.sym_size(0), probe.sym_size(1), probe.sym_size(2)},
                 probe.options());
  const Gradients out = zero_gradients(object, probe, positions, propagator, needs);
  with_precision(probe, [&]<typename T>() {
    Fused<T> fused(name, object, probe, positions, propagator, origin, {}, out);
    const at::Tensor exit_gradient = plain(gradient);
    const T* from = static_cast<const T*>(exit_gradient.const_data_ptr());
    const int64_t size = 2 * probe.numel();
    fused.run_ordered([&](auto& model, auto& worker, int64_t n, Turns* turns) {
      model.exit_waves_adjoint(worker, fused.window(n), from + n * size, fused.sums(), n, turns);
    });
    return 0;
  });
  return as_tuple(out, probe);
}

}  // namespace
}  // namespace ptyle::cpu

TORCH_LIBRARY_IMPL(ptyle, CPU, library) {
  library.impl("exit_waves", &ptyle::cpu::exit_waves);
  library.impl("exit_waves_backward", &ptyle::cpu::exit_waves_backward);
}
