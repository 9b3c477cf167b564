#include <ATen/ops/ones.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "ops/autograd/guards.h"
#include "ops/autograd/recompute.h"
#include "ops/composite.h"
#include "ops/dispatch.h"

namespace ptyle::autograd {
namespace {

using dispatch::OptionalTensor;
using dispatch::SixTensors;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The gradients' formula for a block of positions, with the block's patterns.
GradientFormula loss_formula(LossArguments arguments, Needs needs) {
  // the formula is given these
  arguments.object = arguments.probe = arguments.positions = at::Tensor();
  arguments.propagator.reset();
  return [arguments, needs](const DifferentiableInputs& in, const c10::SymInt& begin,
                            const c10::SymInt& end) {
    LossArguments a = arguments;
    a.object = in.object;
    a.probe = in.probe;
    a.positions = in.positions;
    a.propagator = in.propagator;
    a.patterns = a.patterns.slice_symint(0, begin, end);
    const auto take_part = [&](OptionalTensor& tensor, int64_t rank) {
      if (tensor && tensor->dim() == rank) tensor = tensor->slice_symint(0, begin, end);
    };
    take_part(a.weights, 1);
    take_part(a.mask, 3);
    take_part(a.background, 3);
    return composite::diffraction_loss_gradients(in.gradient, a, needs);
  };
}

struct DiffractionLoss : torch::autograd::Function<DiffractionLoss> {
  static constexpr bool is_traceable = true;

  // Saves the gradients, which the sweep gives at no extra cost, and the inputs, from which
  // backward recomputes when it is itself to be differentiated. The first four are those of
  // `arguments`: what autograd connects.
  static variable_list forward(AutogradContext* context, const at::Tensor& /*object*/,
                               const at::Tensor& /*probe*/, const at::Tensor& /*positions*/,
                               const OptionalTensor& /*propagator*/, const LossArguments& arguments,
                               Needs needs) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    auto [loss, losses, by_object, by_probe, by_positions, by_propagator] =
        dispatch::diffraction_loss_gradients(arguments, needs);
    variable_list saved;
    for (const auto& [name, tensor] : arguments.tensors()) {
      saved.push_back(tensor.value_or(at::Tensor()));
    }
    saved.insert(saved.end(), {by_object, by_probe, by_positions, by_propagator});
    context->save_for_backward(saved);
    context->saved_data["likelihood"] = arguments.likelihood;
    keep(context, arguments.origin, needs);
    context->mark_non_differentiable({losses});
    return {loss, losses};
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const Needs needs = kept_needs(context);
    if (!gradients[0].defined()) return variable_list(6);
    const at::Tensor gradient = gradients[0];
    const auto kernel = [=]() -> FourTensors {
      const auto scaled = [&](size_t k) {
        return needs[k] ? saved[9 + k].mul(gradient) : saved[9 + k];
      };
      return {scaled(0), scaled(1), scaled(2), scaled(3)};
    };
    if (!at::GradMode::is_enabled()) return if_needed(needs, kernel(), 6);
    const LossArguments a{saved[0],
                          saved[1],
                          saved[2],
                          if_defined(saved[3]),
                          saved[4],
                          if_defined(saved[5]),
                          if_defined(saved[6]),
                          if_defined(saved[7]),
                          context->saved_data["likelihood"].toStringRef(),
                          context->saved_data["origin"].toSymIntVector(),
                          if_defined(saved[8])};
    return if_needed(
        needs,
        differentiable_gradients({gradient, a.object, a.probe, a.positions, a.propagator}, needs,
                                 kernel, loss_formula(a, needs)),
        6);
  }
};

Needs checked_needs(const char* name, const LossArguments& a) {
  const NamedTensors tensors = a.tensors();
  for (size_t k = LossArguments::kMeasurement; k < tensors.size(); ++k) {
    forbid_gradient(name, tensors[k].first, tensors[k].second);
  }
  return autograd::checked_needs(name, a.object, a.probe, a.positions, a.propagator);
}

std::tuple<at::Tensor, at::Tensor> diffraction_loss(const LossArguments& arguments) {
  const char* name = "diffraction_loss";
  const Needs needs = checked_needs(name, arguments);
  if (needs == Needs{}) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    return dispatch::diffraction_loss(arguments);
  }
  forbid_functorch(name);
  const variable_list result =
      DiffractionLoss::apply(arguments.object, arguments.probe, arguments.positions,
                             arguments.propagator, arguments, needs);
  return {result[0], result[1]};
}

SixTensors diffraction_loss_gradients(const LossArguments& a, Needs needs) {
  if (checked_needs("diffraction_loss_gradients", a) == Needs{}) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    return dispatch::diffraction_loss_gradients(a, needs);
  }
  const std::tuple<at::Tensor, at::Tensor> losses = dispatch::diffraction_loss(a);
  const at::Tensor one = at::ones({}, std::get<0>(losses).options());
  return std::tuple_cat(losses, differentiable_gradients(
                                    {one, a.object, a.probe, a.positions, a.propagator}, needs,
                                    [&] {
                                      auto [l, ls, o, p, x, h] =
                                          dispatch::diffraction_loss_gradients(a, needs);
                                      return std::make_tuple(o, p, x, h);
                                    },
                                    loss_formula(a, needs)));
}

// No autograd: it adds into buffers of the caller.
void diffraction_loss_accumulate_(const LossArguments& arguments, const GradientBuffers& buffers,
                                  const at::Tensor& losses) {
  for (const NamedTensors& all : {arguments.tensors(), buffers_of(buffers, losses)}) {
    for (const auto& [argument, tensor] : all) {
      forbid_gradient("diffraction_loss_accumulate_", argument, tensor);
    }
  }
  at::AutoDispatchBelowAutograd below_autograd;
  dispatch::diffraction_loss_accumulate_(arguments, buffers, losses);
}

// Where torch itself counts changes in place, also under inference_mode: autograd then knows that a
// buffer it has saved is no longer what it was.
void count_change_of_buffers(const LossArguments& arguments, const GradientBuffers& buffers,
                             const at::Tensor& losses) {
  {
    at::AutoDispatchBelowADInplaceOrView below;
    dispatch::diffraction_loss_accumulate_(arguments, buffers, losses);
  }
  for (const auto& [name, changed] : buffers_of(buffers, losses)) {
    if (changed && !changed->is_inference()) changed->unsafeGetTensorImpl()->bump_version();
  }
}

}  // namespace
}  // namespace ptyle::autograd

TORCH_LIBRARY_IMPL(ptyle, Autograd, library) {
  library.impl("diffraction_loss", &ptyle::Unpacked<&ptyle::autograd::diffraction_loss>::call);
  library.impl("diffraction_loss_gradients",
               &ptyle::Unpacked<&ptyle::autograd::diffraction_loss_gradients>::call);
  library.impl(
      "diffraction_loss_accumulate_",
      &ptyle::Unpacked<&ptyle::with_buffers<&ptyle::autograd::diffraction_loss_accumulate_>>::call);
}

TORCH_LIBRARY_IMPL(ptyle, ADInplaceOrView, library) {
  library.impl(
      "diffraction_loss_accumulate_",
      &ptyle::Unpacked<&ptyle::with_buffers<&ptyle::autograd::count_change_of_buffers>>::call);
}
