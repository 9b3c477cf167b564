// The gradients of the operators once more, in differentiable ATen operations: what autograd runs
// when somebody asks for a derivative of a gradient (create_graph), to any order. Slower than the
// kernels and with every wave of the given positions in memory: ops/autograd/recompute gives them a
// block at a time.
#pragma once

#include "ops/dispatch.h"

namespace ptyle::composite {

using dispatch::FourTensors;
using dispatch::OptionalTensor;

// Gradients of Re<gradient, exit_waves(...)>; what is not needed is empty({0}).
FourTensors exit_waves_gradients(const at::Tensor& gradient, const at::Tensor& object,
                                 const at::Tensor& probe, const at::Tensor& positions,
                                 const OptionalTensor& propagator, c10::SymIntArrayRef origin,
                                 Needs needs);

// Gradients of <gradient, diffraction(...)>.
FourTensors diffraction_gradients(const at::Tensor& gradient, const at::Tensor& object,
                                  const at::Tensor& probe, const at::Tensor& positions,
                                  const OptionalTensor& propagator, c10::SymIntArrayRef origin,
                                  const OptionalTensor& detector, Needs needs);

// Gradients of gradient x diffraction_loss(...); `gradient` is a scalar.
FourTensors diffraction_loss_gradients(const at::Tensor& gradient, const LossArguments& arguments,
                                       Needs needs);

// illumination(...), differentiable with respect to the probe.
at::Tensor illumination(const at::Tensor& probe, const at::Tensor& positions,
                        c10::SymIntArrayRef shape, c10::SymIntArrayRef origin);

}  // namespace ptyle::composite
