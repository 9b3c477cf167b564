// What every Autograd kernel asks before it works.
#pragma once

#include <optional>

#include <ATen/FuncTorchTLS.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

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

inline void forbid_tangents_of_model(const char* name, const at::Tensor& object,
                                     const at::Tensor& probe, const at::Tensor& positions,
                                     const std::optional<at::Tensor>& propagator) {
  forbid_tangent(name, "object", object);
  forbid_tangent(name, "probe", probe);
  forbid_tangent(name, "positions", positions);
  forbid_tangent(name, "propagator", propagator);
}

// Nothing is silently without a gradient.
template <typename TensorOrOptional>
void forbid_gradient(const char* name, const char* argument, const TensorOrOptional& tensor) {
  TORCH_CHECK_NOT_IMPLEMENTED(!wants_gradient(tensor), "ptyle::", name, ": ", argument,
                              " must not require a gradient: none is implemented for it, got "
                              "requires_grad=True");
  forbid_tangent(name, argument, tensor);
}

// An output that was not needed is empty({0}) in our operators and undefined for autograd.
inline at::Tensor if_needed(bool needed, const at::Tensor& gradient) {
  return needed ? gradient : at::Tensor();
}

}  // namespace ptyle::autograd
