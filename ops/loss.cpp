#include "ops/loss.h"

#include <ATen/ops/full.h>
#include <ATen/ops/sum.h>

#include "ops/checks.h"
#include "ops/counts.h"

namespace ptyle {
namespace {

// With the measurement as plain memory, in types that kernels read.
LossArguments readable(const char* name, LossArguments arguments) {
  check_loss(name, arguments);
  arguments.patterns = readable_counts(name, arguments.patterns, arguments.mask);
  for (OptionalTensor* tensor : {&arguments.weights, &arguments.mask, &arguments.background}) {
    if (*tensor) *tensor = plain(**tensor);
  }
  return arguments;
}

// On the CPU torch's sum has other bits with other numbers of threads.
at::Tensor sum_in_order(const at::Tensor& losses) {
  if (!losses.is_cpu()) return losses.sum();
  double sum = 0;
  for (int64_t n = 0; n < losses.numel(); ++n) sum += losses.const_data_ptr<double>()[n];
  return at::full({}, sum, losses.options());
}

}  // namespace

SixTensors loss_and_gradients(LossKernel kernel, const LossArguments& arguments, Needs needs) {
  const char* name = "diffraction_loss";
  const LossArguments a = readable(name, arguments);
  const Gradients out = zero_gradients(a.object, a.probe, a.positions, a.propagator, needs);
  const at::Tensor losses = at::zeros({a.positions.size(0)}, a.positions.options());
  kernel(name, a, out, losses, {});
  const at::ScalarType real = at::toRealValueType(a.probe.scalar_type());
  const at::Tensor loss = sum_in_order(a.weights ? losses.mul(a.weights->to(at::kDouble)) : losses);
  auto [object, probe, positions, propagator] = as_tuple(out, a.probe);
  return {loss.to(real), losses.to(real), object, probe, positions, propagator};
}

void accumulate_loss(LossKernel kernel, const LossArguments& arguments,
                     const GradientBuffers& buffers, const at::Tensor& losses) {
  const char* name = "diffraction_loss_accumulate_";
  const LossArguments a = readable(name, arguments);
  check_accumulators(name, arguments, buffers, losses);
  check_no_overlap(name, arguments, buffers, losses);
  const at::Tensor none;
  const Gradients out{buffers.object.value_or(none), buffers.probe.value_or(none),
                      buffers.positions.value_or(none), buffers.propagator.value_or(none),
                      buffers.illumination.value_or(none)};
  kernel(name, a, out, losses, buffers.amplitude_errors.value_or(none));
}

}  // namespace ptyle
