#include "ops/autograd/recompute.h"

#include <algorithm>
#include <utility>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include "ops/autograd/guards.h"

namespace ptyle::autograd {
namespace {

using dispatch::FourTensors;
using dispatch::OptionalTensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Recipe : torch::CustomClassHolder {
  std::function<FourTensors()> kernel;
  GradientFormula formula;
  Needs needs{};
};

std::array<at::Tensor, 4> as_array(FourTensors tensors) {
  auto& [object, probe, positions, propagator] = tensors;
  return {object, probe, positions, propagator};
}

// Positions whose waves, in all slices, take a few tens of megabytes.
int64_t block_size(const at::Tensor& object, const at::Tensor& probe) {
  constexpr int64_t kElements = int64_t{1} << 20;
  const int64_t elements = probe.numel() * std::max<int64_t>(1, object.size(0));
  return std::max<int64_t>(1, kElements / std::max<int64_t>(1, elements));
}

// d <outputs, gradients> / d inputs, for those of `inputs` that are wanted; undefined elsewhere.
variable_list derivative(const Recipe& recipe, const std::array<at::Tensor, 4>& outputs,
                         const variable_list& gradients, const variable_list& inputs,
                         const std::vector<bool>& wanted, bool create_graph) {
  variable_list from, weights, with_respect_to, result(inputs.size());
  for (size_t k = 0; k < outputs.size(); ++k) {
    if (!recipe.needs[k] || !gradients[k].defined() || !outputs[k].requires_grad()) continue;
    from.push_back(outputs[k]);
    weights.push_back(gradients[k]);
  }
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (wanted[i]) with_respect_to.push_back(inputs[i]);
  }
  if (from.empty() || with_respect_to.empty()) return result;
  const variable_list found = torch::autograd::grad(from, with_respect_to, weights,
                                                    /*retain_graph=*/std::nullopt, create_graph,
                                                    /*allow_unused=*/true);
  for (size_t i = 0, k = 0; i < inputs.size(); ++i) {
    if (wanted[i]) result[i] = found[k++];
  }
  return result;
}

struct Gradients : torch::autograd::Function<Gradients> {
  static variable_list forward(AutogradContext* context, const at::Tensor& gradient,
                               const at::Tensor& object, const at::Tensor& probe,
                               const at::Tensor& positions, const OptionalTensor& propagator,
                               const c10::intrusive_ptr<Recipe>& recipe) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->save_for_backward(
        {gradient, object, probe, positions, propagator.value_or(at::Tensor())});
    context->saved_data["recipe"] = c10::IValue::make_capsule(recipe);
    const std::array<at::Tensor, 4> values = as_array(recipe->kernel());
    recipe->kernel = nullptr;  // with all that it holds
    variable_list without;
    for (size_t k = 0; k < values.size(); ++k) {
      if (!recipe->needs[k]) without.push_back(values[k]);
    }
    context->mark_non_differentiable(without);
    return {values.begin(), values.end()};
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const auto recipe =
        c10::static_intrusive_pointer_cast<Recipe>(context->saved_data["recipe"].toCapsule());
    std::vector<bool> wanted;
    for (size_t i = 0; i < saved.size(); ++i) {
      wanted.push_back(saved[i].defined() && context->needs_input_grad(i));
    }
    const auto compute = [&](const variable_list& inputs, const c10::SymInt& begin,
                             const c10::SymInt& end) {
      const OptionalTensor propagator =
          inputs[4].defined() ? OptionalTensor(inputs[4]) : std::nullopt;
      return as_array(
          recipe->formula({inputs[0], inputs[1], inputs[2], inputs[3], propagator}, begin, end));
    };
    variable_list sums(saved.size());
    const c10::SymInt positions = saved[3].sym_size(0);
    const std::optional<int64_t> known = positions.maybe_as_int();
    if (at::GradMode::is_enabled() || !known) {  // a third derivative: one graph for everything
      const at::AutoGradMode with_graph(true);
      // Partial derivatives: the inputs may depend on one another, their new views do not.
      variable_list inputs = saved;
      for (size_t i = 0; i < inputs.size(); ++i) {
        if (wanted[i]) inputs[i] = saved[i].view_as(saved[i]);
      }
      sums = derivative(*recipe, compute(inputs, 0, positions), gradients, inputs, wanted,
                        /*create_graph=*/true);
    } else {
      // Out of place throughout: what is batched by vmap cannot be added into what is not.
      const int64_t block = block_size(saved[1], saved[2]);
      std::vector<variable_list> pieces(saved.size());  // of what has an entry a position
      const bool by_position = saved[0].dim() > 0;
      for (int64_t begin = 0; begin < *known; begin += block) {
        const int64_t end = std::min(*known, begin + block);
        const auto part = [&](const at::Tensor& tensor) { return tensor.slice(0, begin, end); };
        variable_list inputs = saved, weights = gradients;
        if (by_position) inputs[0] = part(saved[0]);
        inputs[3] = part(saved[3]);
        if (weights[2].defined() && recipe->needs[2]) weights[2] = part(weights[2]);
        for (size_t i = 0; i < inputs.size(); ++i) {
          if (wanted[i]) inputs[i] = inputs[i].detach().requires_grad_(true);
        }
        const at::AutoGradMode with_graph(true);
        const variable_list found = derivative(*recipe, compute(inputs, begin, end), weights,
                                               inputs, wanted, /*create_graph=*/false);
        const at::NoGradGuard no_grad;
        for (size_t i = 0; i < found.size(); ++i) {
          if (i == 3 || (i == 0 && by_position)) {
            if (wanted[i]) {
              pieces[i].push_back(found[i].defined() ? found[i] : at::zeros_like(part(saved[i])));
            }
          } else if (found[i].defined()) {
            sums[i] = sums[i].defined() ? sums[i] + found[i] : found[i];
          }
        }
      }
      for (size_t i = 0; i < pieces.size(); ++i) {
        if (!pieces[i].empty()) sums[i] = at::cat(pieces[i], 0);
      }
    }
    sums.resize(6);
    return sums;
  }
};

}  // namespace

FourTensors differentiable_gradients(const DifferentiableInputs& inputs, Needs needs,
                                     std::function<FourTensors()> kernel, GradientFormula formula) {
  auto recipe = c10::make_intrusive<Recipe>();
  recipe->kernel = std::move(kernel);
  recipe->formula = std::move(formula);
  recipe->needs = needs;
  forbid_functorch("derivative");
  const variable_list result = Gradients::apply(inputs.gradient, inputs.object, inputs.probe,
                                                inputs.positions, inputs.propagator, recipe);
  return {result[0], result[1], result[2], result[3]};
}

}  // namespace ptyle::autograd
