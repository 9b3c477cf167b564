#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "ops/autograd/guards.h"
#include "ops/autograd/recompute.h"
#include "ops/composite.h"
#include "ops/dispatch.h"

namespace ptyle::autograd {
namespace {

using dispatch::FourTensors;
using dispatch::OptionalTensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct ExitWaves : torch::autograd::Function<ExitWaves> {
  static constexpr bool is_traceable = true;

  static at::Tensor forward(AutogradContext* context, const at::Tensor& object,
                            const at::Tensor& probe, const at::Tensor& positions,
                            const OptionalTensor& propagator, std::vector<c10::SymInt> origin,
                            Needs needs) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->save_for_backward({object, probe, positions, propagator.value_or(at::Tensor())});
    keep(context, origin, needs);
    return dispatch::exit_waves(object, probe, positions, propagator, origin);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const auto origin = context->saved_data["origin"].toSymIntVector();
    const Needs needs = kept_needs(context);
    return if_needed(needs,
                     dispatch::exit_waves_backward(gradients[0], saved[0], saved[1], saved[2],
                                                   if_defined(saved[3]), origin, needs),
                     6);
  }
};

at::Tensor exit_waves(const at::Tensor& object, const at::Tensor& probe,
                      const at::Tensor& positions, const OptionalTensor& propagator,
                      c10::SymIntArrayRef origin) {
  const Needs needs = checked_needs("exit_waves", object, probe, positions, propagator);
  if (needs == Needs{}) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    return dispatch::exit_waves(object, probe, positions, propagator, origin);
  }
  forbid_functorch("exit_waves");
  return ExitWaves::apply(object, probe, positions, propagator, origin.vec(), needs);
}

FourTensors exit_waves_backward(const at::Tensor& gradient, const at::Tensor& object,
                                const at::Tensor& probe, const at::Tensor& positions,
                                const OptionalTensor& propagator, c10::SymIntArrayRef origin,
                                Needs needs) {
  forbid_tangent("exit_waves_backward", "gradient", gradient);
  const Needs wanted = checked_needs("exit_waves_backward", object, probe, positions, propagator);
  const std::vector<c10::SymInt> corner = origin.vec();
  if (wants_gradient(gradient) || wanted != Needs{}) {
    return differentiable_gradients(
        {gradient, object, probe, positions, propagator}, needs,
        [=] {
          return dispatch::exit_waves_backward(gradient, object, probe, positions, propagator,
                                               corner, needs);
        },
        [=](const DifferentiableInputs& in, const c10::SymInt&, const c10::SymInt&) {
          return composite::exit_waves_gradients(in.gradient, in.object, in.probe, in.positions,
                                                 in.propagator, corner, needs);
        });
  }
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return dispatch::exit_waves_backward(gradient, object, probe, positions, propagator, origin,
                                       needs);
}

}  // namespace
}  // namespace ptyle::autograd

TORCH_LIBRARY_IMPL(ptyle, Autograd, library) {
  library.impl("exit_waves", &ptyle::autograd::exit_waves);
  library.impl("exit_waves_backward", &ptyle::autograd::exit_waves_backward);
}
