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

struct Diffraction : torch::autograd::Function<Diffraction> {
  static constexpr bool is_traceable = true;

  static at::Tensor forward(AutogradContext* context, const at::Tensor& object,
                            const at::Tensor& probe, const at::Tensor& positions,
                            const OptionalTensor& propagator, std::vector<c10::SymInt> origin,
                            const OptionalTensor& detector, Needs needs) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->save_for_backward({object, probe, positions, propagator.value_or(at::Tensor()),
                                detector.value_or(at::Tensor())});
    keep(context, origin, needs);
    return dispatch::diffraction(object, probe, positions, propagator, origin, detector);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const auto origin = context->saved_data["origin"].toSymIntVector();
    const Needs needs = kept_needs(context);
    return if_needed(
        needs,
        dispatch::diffraction_backward(gradients[0], saved[0], saved[1], saved[2],
                                       if_defined(saved[3]), origin, if_defined(saved[4]), needs),
        7);
  }
};

at::Tensor diffraction(const at::Tensor& object, const at::Tensor& probe,
                       const at::Tensor& positions, const OptionalTensor& propagator,
                       c10::SymIntArrayRef origin, const OptionalTensor& detector) {
  const Needs needs = checked_needs("diffraction", object, probe, positions, propagator);
  forbid_gradient("diffraction", "detector", detector);
  if (needs == Needs{}) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    return dispatch::diffraction(object, probe, positions, propagator, origin, detector);
  }
  forbid_functorch("diffraction");
  return Diffraction::apply(object, probe, positions, propagator, origin.vec(), detector, needs);
}

FourTensors diffraction_backward(const at::Tensor& gradient, const at::Tensor& object,
                                 const at::Tensor& probe, const at::Tensor& positions,
                                 const OptionalTensor& propagator, c10::SymIntArrayRef origin,
                                 const OptionalTensor& detector, Needs needs) {
  forbid_tangent("diffraction_backward", "gradient", gradient);
  const Needs wanted = checked_needs("diffraction_backward", object, probe, positions, propagator);
  forbid_gradient("diffraction_backward", "detector", detector);
  const std::vector<c10::SymInt> corner = origin.vec();
  if (wants_gradient(gradient) || wanted != Needs{}) {
    return differentiable_gradients(
        {gradient, object, probe, positions, propagator}, needs,
        [=] {
          return dispatch::diffraction_backward(gradient, object, probe, positions, propagator,
                                                corner, detector, needs);
        },
        [=](const DifferentiableInputs& in, const c10::SymInt&, const c10::SymInt&) {
          return composite::diffraction_gradients(in.gradient, in.object, in.probe, in.positions,
                                                  in.propagator, corner, detector, needs);
        });
  }
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return dispatch::diffraction_backward(gradient, object, probe, positions, propagator, origin,
                                        detector, needs);
}

}  // namespace
}  // namespace ptyle::autograd

TORCH_LIBRARY_IMPL(ptyle, Autograd, library) {
  library.impl("diffraction", &ptyle::autograd::diffraction);
  library.impl("diffraction_backward", &ptyle::autograd::diffraction_backward);
}
