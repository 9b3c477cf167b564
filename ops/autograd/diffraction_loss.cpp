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
GradientFormula loss_formula(const at::Tensor& patterns, const OptionalTensor& weights,
                             const OptionalTensor& mask, const OptionalTensor& background,
                             std::string likelihood, std::vector<c10::SymInt> origin,
                             const OptionalTensor& detector, std::array<bool, 4> needs) {
  return [=](const DifferentiableInputs& in, const c10::SymInt& begin, const c10::SymInt& end) {
    const auto part = [&](const OptionalTensor& tensor, int64_t rank) {
      return tensor && tensor->dim() == rank ? tensor->slice_symint(0, begin, end) : tensor;
    };
    return composite::diffraction_loss_gradients(
        in.gradient, in.object, in.probe, in.positions, in.propagator, *part(patterns, 3),
        part(weights, 1), part(mask, 3), part(background, 3), likelihood, origin, detector, needs);
  };
}

struct DiffractionLoss : torch::autograd::Function<DiffractionLoss> {
  static constexpr bool is_traceable = true;

  // Saves the gradients, which the sweep gives at no extra cost, and the inputs, from which
  // backward recomputes when it is itself to be differentiated.
  static variable_list forward(AutogradContext* context, const at::Tensor& object,
                               const at::Tensor& probe, const at::Tensor& positions,
                               const OptionalTensor& propagator, const at::Tensor& patterns,
                               const OptionalTensor& weights, const OptionalTensor& mask,
                               const OptionalTensor& background, const std::string& likelihood,
                               std::vector<c10::SymInt> origin, const OptionalTensor& detector,
                               std::array<bool, 4> needs) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    auto [loss, losses, by_object, by_probe, by_positions, by_propagator] =
        dispatch::diffraction_loss_gradients(object, probe, positions, propagator, patterns,
                                             weights, mask, background, likelihood, origin,
                                             detector, needs);
    const at::Tensor none;
    context->save_for_backward({object, probe, positions, propagator.value_or(none), patterns,
                                weights.value_or(none), mask.value_or(none),
                                background.value_or(none), detector.value_or(none), by_object,
                                by_probe, by_positions, by_propagator});
    context->saved_data["likelihood"] = likelihood;
    context->saved_data["origin"] = c10::SymIntArrayRef(origin);
    context->saved_data["needs"] = c10::List<bool>({needs[0], needs[1], needs[2], needs[3]});
    context->mark_non_differentiable({losses});
    return {loss, losses};
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const auto list = context->saved_data["needs"].toBoolList();
    const std::array<bool, 4> needs{list[0], list[1], list[2], list[3]};
    variable_list result(12);
    if (!gradients[0].defined()) return result;
    if (at::GradMode::is_enabled()) {
      const auto optional = [&](size_t k) {
        return saved[k].defined() ? OptionalTensor(saved[k]) : std::nullopt;
      };
      const at::Tensor gradient = gradients[0];
      auto [by_object, by_probe, by_positions, by_propagator] = differentiable_gradients(
          {gradient, saved[0], saved[1], saved[2], optional(3)}, needs,
          [=] {
            const auto scaled = [&](size_t k) {
              return needs[k] ? saved[9 + k].mul(gradient) : saved[9 + k];
            };
            return std::make_tuple(scaled(0), scaled(1), scaled(2), scaled(3));
          },
          loss_formula(saved[4], optional(5), optional(6), optional(7),
                       context->saved_data["likelihood"].toStringRef(),
                       context->saved_data["origin"].toSymIntVector(), optional(8), needs));
      const std::array<at::Tensor, 4> all{by_object, by_probe, by_positions, by_propagator};
      for (size_t k = 0; k < 4; ++k) result[k] = if_needed(needs[k], all[k]);
      return result;
    }
    for (size_t k = 0; k < 4; ++k) {
      if (needs[k]) result[k] = saved[9 + k].mul(gradients[0]);
    }
    return result;
  }
};

void forbid_gradients_of_data(const char* name, const at::Tensor& patterns,
                              const OptionalTensor& weights, const OptionalTensor& mask,
                              const OptionalTensor& background, const OptionalTensor& detector) {
  forbid_gradient(name, "patterns", patterns);
  forbid_gradient(name, "weights", weights);
  forbid_gradient(name, "mask", mask);
  forbid_gradient(name, "background", background);
  forbid_gradient(name, "detector", detector);
}

std::tuple<at::Tensor, at::Tensor> diffraction_loss(
    const at::Tensor& object, const at::Tensor& probe, const at::Tensor& positions,
    const OptionalTensor& propagator, const at::Tensor& patterns, const OptionalTensor& weights,
    const OptionalTensor& mask, const OptionalTensor& background, std::string_view likelihood,
    c10::SymIntArrayRef origin, const OptionalTensor& detector) {
  const char* name = "diffraction_loss";
  forbid_tangents_of_model(name, object, probe, positions, propagator);
  forbid_gradients_of_data(name, patterns, weights, mask, background, detector);
  const std::array<bool, 4> needs{wants_gradient(object), wants_gradient(probe),
                                  wants_gradient(positions), wants_gradient(propagator)};
  if (needs == std::array<bool, 4>{}) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    return dispatch::diffraction_loss(object, probe, positions, propagator, patterns, weights, mask,
                                      background, likelihood, origin, detector);
  }
  forbid_functorch(name);
  const variable_list result =
      DiffractionLoss::apply(object, probe, positions, propagator, patterns, weights, mask,
                             background, std::string(likelihood), origin.vec(), detector, needs);
  return {result[0], result[1]};
}

SixTensors diffraction_loss_gradients(const at::Tensor& object, const at::Tensor& probe,
                                      const at::Tensor& positions, const OptionalTensor& propagator,
                                      const at::Tensor& patterns, const OptionalTensor& weights,
                                      const OptionalTensor& mask, const OptionalTensor& background,
                                      std::string_view likelihood, c10::SymIntArrayRef origin,
                                      const OptionalTensor& detector, std::array<bool, 4> needs) {
  const char* name = "diffraction_loss_gradients";
  forbid_tangents_of_model(name, object, probe, positions, propagator);
  forbid_gradients_of_data(name, patterns, weights, mask, background, detector);
  if (wants_gradient(object) || wants_gradient(probe) || wants_gradient(positions) ||
      wants_gradient(propagator)) {
    auto [loss, losses] =
        dispatch::diffraction_loss(object, probe, positions, propagator, patterns, weights, mask,
                                   background, likelihood, origin, detector);
    const std::vector<c10::SymInt> corner = origin.vec();
    const std::string name_of_likelihood(likelihood);
    auto [by_object, by_probe, by_positions, by_propagator] = differentiable_gradients(
        {at::ones({}, loss.options()), object, probe, positions, propagator}, needs,
        [&] {
          auto [l, ls, o, p, x, h] = dispatch::diffraction_loss_gradients(
              object, probe, positions, propagator, patterns, weights, mask, background,
              name_of_likelihood, corner, detector, needs);
          return std::make_tuple(o, p, x, h);
        },
        loss_formula(patterns, weights, mask, background, name_of_likelihood, corner, detector,
                     needs));
    return {loss, losses, by_object, by_probe, by_positions, by_propagator};
  }
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return dispatch::diffraction_loss_gradients(object, probe, positions, propagator, patterns,
                                              weights, mask, background, likelihood, origin,
                                              detector, needs);
}

// No autograd: it adds into buffers of the caller.
void diffraction_loss_accumulate_(
    const at::Tensor& object, const at::Tensor& probe, const at::Tensor& positions,
    const OptionalTensor& propagator, const at::Tensor& patterns, const OptionalTensor& weights,
    const OptionalTensor& mask, const OptionalTensor& background, std::string_view likelihood,
    c10::SymIntArrayRef origin, const OptionalTensor& detector, const OptionalTensor& grad_object,
    const OptionalTensor& grad_probe, const OptionalTensor& grad_positions,
    const OptionalTensor& grad_propagator, at::Tensor losses, const OptionalTensor& illumination,
    const OptionalTensor& amplitude_errors) {
  const char* name = "diffraction_loss_accumulate_";
  forbid_gradient(name, "object", object);
  forbid_gradient(name, "probe", probe);
  forbid_gradient(name, "positions", positions);
  forbid_gradient(name, "propagator", propagator);
  forbid_gradients_of_data(name, patterns, weights, mask, background, detector);
  forbid_gradient(name, "grad_object", grad_object);
  forbid_gradient(name, "grad_probe", grad_probe);
  forbid_gradient(name, "grad_positions", grad_positions);
  forbid_gradient(name, "grad_propagator", grad_propagator);
  forbid_gradient(name, "losses", losses);
  forbid_gradient(name, "illumination", illumination);
  forbid_gradient(name, "amplitude_errors", amplitude_errors);
  at::AutoDispatchBelowAutograd below_autograd;
  dispatch::diffraction_loss_accumulate_(object, probe, positions, propagator, patterns, weights,
                                         mask, background, likelihood, origin, detector,
                                         grad_object, grad_probe, grad_positions, grad_propagator,
                                         losses, illumination, amplitude_errors);
}

// Where torch itself counts changes in place, also under inference_mode: autograd then knows that a
// buffer it has saved is no longer what it was.
void count_change_of_buffers(const at::Tensor& object, const at::Tensor& probe,
                             const at::Tensor& positions, const OptionalTensor& propagator,
                             const at::Tensor& patterns, const OptionalTensor& weights,
                             const OptionalTensor& mask, const OptionalTensor& background,
                             std::string_view likelihood, c10::SymIntArrayRef origin,
                             const OptionalTensor& detector, const OptionalTensor& grad_object,
                             const OptionalTensor& grad_probe, const OptionalTensor& grad_positions,
                             const OptionalTensor& grad_propagator, at::Tensor losses,
                             const OptionalTensor& illumination,
                             const OptionalTensor& amplitude_errors) {
  {
    at::AutoDispatchBelowADInplaceOrView below;
    dispatch::diffraction_loss_accumulate_(object, probe, positions, propagator, patterns, weights,
                                           mask, background, likelihood, origin, detector,
                                           grad_object, grad_probe, grad_positions, grad_propagator,
                                           losses, illumination, amplitude_errors);
  }
  for (const OptionalTensor& changed : {grad_object, grad_probe, grad_positions, grad_propagator,
                                        OptionalTensor(losses), illumination, amplitude_errors}) {
    if (changed && !changed->is_inference()) changed->unsafeGetTensorImpl()->bump_version();
  }
}

}  // namespace
}  // namespace ptyle::autograd

TORCH_LIBRARY_IMPL(ptyle, Autograd, library) {
  library.impl("diffraction_loss", &ptyle::autograd::diffraction_loss);
  library.impl("diffraction_loss_gradients", &ptyle::autograd::diffraction_loss_gradients);
  library.impl("diffraction_loss_accumulate_", &ptyle::autograd::diffraction_loss_accumulate_);
}

TORCH_LIBRARY_IMPL(ptyle, ADInplaceOrView, library) {
  library.impl("diffraction_loss_accumulate_", &ptyle::autograd::count_change_of_buffers);
}
