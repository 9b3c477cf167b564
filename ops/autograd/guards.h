// What every Autograd kernel asks before it works, and keeps.
#pragma once

#include <optional>

#include <ATen/FuncTorchTLS.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include "ops/arguments.h"

namespace ptyle::autograd {

// Known before `apply`: inside Function::forward grad mode is always off.
inline bool wants_gradient(const at::Tensor& tensor) {
  return at::GradMode::is_enabled() && tensor.defined() && tensor.requires_grad();
}
inline bool wants_gradient(const std::optional<at::Tensor>& tensor) {
  return tensor && wants_gradient(*tensor);
}

constexpr const char* kReference = "ptyle.reference has the same physics in plain torch";

inline void forbid_tangent(const char* name, const char* argument, const at::Tensor& tensor) {
  TORCH_CHECK_NOT_IMPLEMENTED(!tensor._fw_grad(/*level=*/0).defined(), "ptyle::", name, ": ",
                              argument,
                              " must not carry a forward-mode tangent: only reverse-mode "
                              "derivatives are implemented (",
                              kReference, "), got a dual tensor");
}

// Before every Function::apply, whose own error says nothing of what to do.
inline void forbid_functorch(const char* name) {
  const auto& functorch = at::functorch::functorchTLSAccessor();
  if (!functorch) return;
  try {
    functorch->checkSupportsCppAutogradFunction();
  } catch (const c10::Error&) {
    TORCH_CHECK_NOT_IMPLEMENTED(false, "ptyle::", name,
                                ": functorch transforms (torch.func.grad, vjp, jacrev, hessian) do "
                                "not reach operators in C++: ",
                                kReference, ", and backward() differentiates this one");
  }
}
inline void forbid_tangent(const char* name, const char* argument,
                           const std::optional<at::Tensor>& tensor) {
  if (tensor && tensor->defined()) forbid_tangent(name, argument, *tensor);
}

// Of which of the model's unknowns a gradient is wanted; none may carry a tangent.
inline Needs checked_needs(const char* name, const at::Tensor& object, const at::Tensor& probe,
                           const at::Tensor& positions,
                           const std::optional<at::Tensor>& propagator) {
  forbid_tangent(name, "object", object);
  forbid_tangent(name, "probe", probe);
  forbid_tangent(name, "positions", positions);
  forbid_tangent(name, "propagator", propagator);
  return {wants_gradient(object), wants_gradient(probe), wants_gradient(positions),
          wants_gradient(propagator)};
}

// Nothing is silently without a gradient.
template <typename TensorOrOptional>
void forbid_gradient(const char* name, const char* argument, const TensorOrOptional& tensor) {
  TORCH_CHECK_NOT_IMPLEMENTED(!wants_gradient(tensor), "ptyle::", name, ": ", argument,
                              " must not require a gradient: none is implemented for it, got "
                              "requires_grad=True");
  forbid_tangent(name, argument, tensor);
}

// The model's gradients among those of `inputs` inputs. What was not needed is empty({0}) in our
// operators and undefined for autograd.
inline torch::autograd::variable_list if_needed(const Needs& needs, FourTensors gradients,
                                                size_t inputs) {
  auto& [object, probe, positions, propagator] = gradients;
  torch::autograd::variable_list result{object, probe, positions, propagator};
  for (size_t k = 0; k < needs.size(); ++k) {
    if (!needs[k]) result[k] = at::Tensor();
  }
  result.resize(inputs);
  return result;
}

// What forward keeps for backward beside tensors.
inline void keep(torch::autograd::AutogradContext* context, c10::SymIntArrayRef origin,
                 const Needs& needs) {
  context->saved_data["origin"] = origin;
  context->saved_data["needs"] = c10::List<bool>({needs[0], needs[1], needs[2], needs[3]});
}
inline Needs kept_needs(torch::autograd::AutogradContext* context) {
  const auto list = context->saved_data["needs"].toBoolList();
  return {list[0], list[1], list[2], list[3]};
}
inline std::optional<at::Tensor> if_defined(const at::Tensor& tensor) {
  return tensor.defined() ? std::optional<at::Tensor>(tensor) : std::nullopt;
}

}  // namespace ptyle::autograd
