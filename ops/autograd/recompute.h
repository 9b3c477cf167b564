// Derivatives of gradients: recomputed in differentiable ATen operations, a block of positions at a
// time, so that no tensor of all waves exists there either.
#pragma once

#include <functional>

#include "ops/dispatch.h"

namespace ptyle::autograd {

// Gradients of a block of positions with respect to object, probe, positions and propagator as a
// differentiable function of all that they depend on; `begin` and `end` are the block's positions,
// for what the formula holds itself (patterns, mask).
struct DifferentiableInputs {
  at::Tensor gradient;  // of what was computed: an entry a position, or a scalar
  at::Tensor object, probe, positions;
  dispatch::OptionalTensor propagator;
};
using GradientFormula = std::function<dispatch::FourTensors(
    const DifferentiableInputs& block, const c10::SymInt& begin, const c10::SymInt& end)>;

// The four gradients as `kernel` computes them, differentiable through `formula`.
dispatch::FourTensors differentiable_gradients(const DifferentiableInputs& inputs, Needs needs,
                                               std::function<dispatch::FourTensors()> kernel,
                                               GradientFormula formula);

}  // namespace ptyle::autograd
