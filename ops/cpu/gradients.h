// Small pieces shared by the CPU kernels: choice of precision, and gradient outputs.
#pragma once

#include <tuple>

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros_like.h>

#include "ops/cpu/multislice.h"

namespace ptyle::cpu {

// Calls work.template operator()<float or double>(), by the probe's precision.
template <typename Work>
auto with_precision(const at::Tensor& probe, const Work& work) {
  return probe.scalar_type() == at::kComplexFloat ? work.template operator()<float>()
                                                  : work.template operator()<double>();
}

inline Gradients zero_gradients(const at::Tensor& object, const at::Tensor& probe,
                                const at::Tensor& positions,
                                const std::optional<at::Tensor>& propagator, Needs needs) {
  const auto zeros = [](const at::Tensor& like) { return at::zeros(like.sizes(), like.options()); };
  Gradients out;
  if (needs[kObject]) out.object = zeros(object);
  if (needs[kProbe]) out.probe = zeros(probe);
  if (needs[kPositions]) out.positions = zeros(positions);
  if (needs[kPropagator] && propagator) out.propagator = zeros(*propagator);
  return out;
}

// What is not needed is empty({0}): an operator returns no undefined tensors.
inline std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> as_tuple(
    const Gradients& out, const at::Tensor& probe) {
  const auto or_empty = [&](const at::Tensor& gradient) {
    return gradient.defined() ? gradient : at::empty({0}, probe.options());
  };
  return {or_empty(out.object), or_empty(out.probe), or_empty(out.positions),
          or_empty(out.propagator)};
}

}  // namespace ptyle::cpu
