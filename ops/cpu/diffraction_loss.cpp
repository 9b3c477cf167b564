#include <tuple>
#include <type_traits>

#include <ATen/ops/full.h>
#include <torch/library.h>

#include "csrc/likelihood.h"
#include "ops/checks.h"
#include "ops/cpu/detector.h"
#include "ops/cpu/fused.h"
#include "ops/cpu/multislice.h"
#include "ops/gradients.h"
#include "ops/hints.h"

namespace ptyle::cpu {
namespace {

// One pattern's loss; with `factor`, also 2 weight dloss/dI per pixel, by which the detected waves
// become their gradient.
template <typename T, typename Count, typename Functor>
Misfit compare(const T* intensity, const Count* counts, const uint8_t* mask, const T* background,
               T weight, int64_t pixels, T* factor, bool amplitude_error, Functor likelihood) {
  Misfit sum{};
  for (int64_t i = 0; i < pixels; ++i) {
    const T expected = background ? intensity[i] + background[i] : intensity[i];
    const LossAndSlope<T> at_pixel = likelihood(expected, static_cast<T>(counts[i]));
    const bool bad = mask && mask[i] != 0;
    if (!bad) sum.loss += static_cast<double>(at_pixel.loss);
    if (amplitude_error && !bad) {
      sum.amplitude_error +=
          static_cast<double>(AmplitudeLikelihood{}(expected, static_cast<T>(counts[i])).loss);
    }
    if (factor) factor[i] = bad ? T(0) : T(2) * weight * at_pixel.slope;
  }
  return sum;
}

template <typename T, typename Count>
Misfit compare(Likelihood likelihood, const T* intensity, const Count* counts, const uint8_t* mask,
               const T* background, T weight, int64_t pixels, T* factor, bool amplitude_error) {
  return with_likelihood(likelihood, [&](auto functor) {
    return compare(intensity, counts, mask, background, weight, pixels, factor, amplitude_error,
                   functor);
  });
}

// Detectors mark what they did not measure by -1 or -2, in the first pattern as in all others.
void warn_of_negative_counts(const Measurement& measurement) {
  const at::Tensor& patterns = measurement.patterns;
  if (measurement.likelihood == Likelihood::kGaussian || patterns.size(0) == 0) return;
  if (patterns.scalar_type() == at::kByte || patterns.scalar_type() == at::kUInt16) return;
  const int64_t pixels = patterns.size(1) * patterns.size(2);
  const uint8_t* mask = image<uint8_t>(measurement.mask, 0, pixels);
  with_count_type(patterns, [&]<typename Count>() {
    const auto* counts = static_cast<const Count*>(patterns.const_data_ptr());
    for (int64_t i = 0; i < pixels; ++i) {
      if (!(counts[i] < Count(0)) || (mask && mask[i] != 0)) continue;
      if (!is_first(Hint::kNegativeCounts)) return;
      TORCH_WARN("ptyle: patterns hold negative counts, in the first ",
                 static_cast<double>(counts[i]), " at [", i / patterns.size(2), ", ",
                 i % patterns.size(2),
                 "], which amplitude and Poisson likelihood take as 0: a mask leaves out pixels "
                 "that were not measured. This is said once.");
      return;
    }
  });
}

Count count_type(at::ScalarType type) {
  switch (type) {
    case at::kByte:
      return Count::kUInt8;
    case at::kShort:
      return Count::kInt16;
    case at::kUInt16:
      return Count::kUInt16;
    case at::kInt:
      return Count::kInt32;
    case at::kFloat:
      return Count::kFloat;
    default:
      return Count::kDouble;
  }
}

// Adds every pattern's loss to losses [n] (float64), its amplitude error where that is not null,
// and the gradients of sum(weights x losses) to what is defined in `out`. The only place where loss
// and gradients are computed.
void accumulate(const char* name, const at::Tensor& object, const at::Tensor& probe,
                const at::Tensor& positions, const std::optional<at::Tensor>& propagator,
                const Measurement& measurement, at::IntArrayRef origin,
                const std::optional<at::Tensor>& detector, const Gradients& out, double* losses,
                double* amplitude_errors) {
  const auto add = [&](int64_t n, const Misfit& misfit) {
    losses[n] += misfit.loss;
    if (amplitude_errors != nullptr) amplitude_errors[n] += misfit.amplitude_error;
  };
  const Needs needs = out.needs();
  const bool gradients = out.any();
  with_precision(probe, [&]<typename T>() {
    const T* weights =
        measurement.weights.defined() ? measurement.weights.const_data_ptr<T>() : nullptr;
    if (const InstructionSet* set = fused_kernels(object, probe)) {
      Fused<T> fused(*set, name, object, probe, positions, propagator, origin, detector, out);
      const auto* counts = static_cast<const std::byte*>(measurement.patterns.const_data_ptr());
      const int64_t pixels = probe.size(1) * probe.size(2);
      const int64_t bytes = pixels * static_cast<int64_t>(measurement.patterns.element_size());
      const auto measured = [&](int64_t n) {
        return Measured<T>{count_type(measurement.patterns.scalar_type()),
                           counts + n * bytes,
                           image<uint8_t>(measurement.mask, n, pixels),
                           image<T>(measurement.background, n, pixels),
                           weights ? weights[n] : T(1),
                           measurement.likelihood,
                           amplitude_errors != nullptr};
      };
      if (gradients) {
        fused.run_ordered([&](auto& model, auto& worker, int64_t n, Turns* turns) {
          add(n, model.loss(worker, fused.window(n), measured(n), fused.sums(), n, turns));
        });
      } else {
        fused.run([&](const auto& model, auto& worker, int64_t n) {
          add(n, model.loss(worker, fused.window(n), measured(n)));
        });
      }
      return 0;
    }
    const Multislice<T> model(name, object, probe, positions, propagator, origin,
                              needs[kPositions]);
    const Detector<T> detect(model, detector);
    const int64_t pixels = model.pixels();
    with_count_type(measurement.patterns, [&]<typename Count>() {
      const Count* counts = static_cast<const Count*>(measurement.patterns.const_data_ptr());
      model.run_ordered(out, [&](auto& chunk) {
        at::Tensor waves = detect.forward(chunk, model.forward(chunk, gradients));
        std::vector<T> intensity(static_cast<size_t>(pixels));
        std::vector<T> factor(static_cast<size_t>(gradients ? pixels : 0));
        for (int64_t n = chunk.begin; n < chunk.end; ++n) {
          Complex<T>* detected =
              mutable_complex_data<T>(waves) + (n - chunk.begin) * model.modes() * pixels;
          sum_intensity(detected, model.modes(), pixels, intensity.data());
          add(n, compare(measurement.likelihood, intensity.data(), counts + n * pixels,
                         image<uint8_t>(measurement.mask, n, pixels),
                         image<T>(measurement.background, n, pixels), weights ? weights[n] : T(1),
                         pixels, gradients ? factor.data() : nullptr, amplitude_errors != nullptr));
          if (gradients) scale_modes(detected, model.modes(), pixels, factor.data());
        }
        if (gradients) model.adjoint(chunk, detect.adjoint(chunk, waves, out), out);
      });
    });
    return 0;
  });
}

using LossAndGradients =
    std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

LossAndGradients compute(const char* name, const at::Tensor& object, const at::Tensor& probe,
                         const at::Tensor& positions, const std::optional<at::Tensor>& propagator,
                         const at::Tensor& patterns, const std::optional<at::Tensor>& weights,
                         const std::optional<at::Tensor>& mask,
                         const std::optional<at::Tensor>& background, std::string_view likelihood,
                         at::IntArrayRef origin, const std::optional<at::Tensor>& detector,
                         Needs needs) {
  const Measurement measurement =
      checked_measurement(name, object, probe, positions, propagator, patterns, weights, mask,
                          background, likelihood, origin, detector);
  warn_of_negative_counts(measurement);
  const at::ScalarType real = at::toRealValueType(probe.scalar_type());
  const at::Tensor losses = at::zeros({positions.size(0)}, positions.options());
  const Gradients out = zero_gradients(object, probe, positions, propagator, needs);
  accumulate(name, object, probe, positions, propagator, measurement, origin, detector, out,
             losses.data_ptr<double>(), nullptr);
  double loss = 0;
  for (int64_t n = 0; n < losses.numel(); ++n) {
    const double weight = !weights ? 1.0
                          : real == at::kFloat
                              ? static_cast<double>(measurement.weights.const_data_ptr<float>()[n])
                              : measurement.weights.const_data_ptr<double>()[n];
    loss += weight * losses.const_data_ptr<double>()[n];
  }
  const at::TensorOptions options = probe.options().dtype(real);
  auto [object_gradient, probe_gradient, positions_gradient, propagator_gradient] =
      as_tuple(out, probe);
  return {at::full({}, loss, options), losses.to(real),    object_gradient, probe_gradient,
          positions_gradient,          propagator_gradient};
}

std::tuple<at::Tensor, at::Tensor> diffraction_loss(
    const at::Tensor& object, const at::Tensor& probe, const at::Tensor& positions,
    const std::optional<at::Tensor>& propagator, const at::Tensor& patterns,
    const std::optional<at::Tensor>& weights, const std::optional<at::Tensor>& mask,
    const std::optional<at::Tensor>& background, std::string_view likelihood,
    at::IntArrayRef origin, const std::optional<at::Tensor>& detector) {
  auto result = compute("diffraction_loss", object, probe, positions, propagator, patterns, weights,
                        mask, background, likelihood, origin, detector, {});
  return {std::get<0>(result), std::get<1>(result)};
}

LossAndGradients diffraction_loss_gradients(
    const at::Tensor& object, const at::Tensor& probe, const at::Tensor& positions,
    const std::optional<at::Tensor>& propagator, const at::Tensor& patterns,
    const std::optional<at::Tensor>& weights, const std::optional<at::Tensor>& mask,
    const std::optional<at::Tensor>& background, std::string_view likelihood,
    at::IntArrayRef origin, const std::optional<at::Tensor>& detector, std::array<bool, 4> needs) {
  return compute("diffraction_loss", object, probe, positions, propagator, patterns, weights, mask,
                 background, likelihood, origin, detector, needs);
}

void diffraction_loss_accumulate_(
    const at::Tensor& object, const at::Tensor& probe, const at::Tensor& positions,
    const std::optional<at::Tensor>& propagator, const at::Tensor& patterns,
    const std::optional<at::Tensor>& weights, const std::optional<at::Tensor>& mask,
    const std::optional<at::Tensor>& background, std::string_view likelihood,
    at::IntArrayRef origin, const std::optional<at::Tensor>& detector,
    const std::optional<at::Tensor>& grad_object, const std::optional<at::Tensor>& grad_probe,
    const std::optional<at::Tensor>& grad_positions,
    const std::optional<at::Tensor>& grad_propagator, at::Tensor losses,
    const std::optional<at::Tensor>& illumination,
    const std::optional<at::Tensor>& amplitude_errors) {
  const char* name = "diffraction_loss_accumulate_";
  const Measurement measurement =
      checked_measurement(name, object, probe, positions, propagator, patterns, weights, mask,
                          background, likelihood, origin, detector);
  warn_of_negative_counts(measurement);
  check_accumulators(name, object, probe, positions, propagator, grad_object, grad_probe,
                     grad_positions, grad_propagator, losses, illumination, amplitude_errors);
  check_no_overlap(name, object, probe, positions, propagator, patterns, weights, mask, background,
                   detector,
                   {grad_object, grad_probe, grad_positions, grad_propagator, losses, illumination,
                    amplitude_errors});
  const Gradients out =
      given_gradients(grad_object, grad_probe, grad_positions, grad_propagator, illumination);
  accumulate(name, object, probe, positions, propagator, measurement, origin, detector, out,
             losses.data_ptr<double>(),
             amplitude_errors ? amplitude_errors->data_ptr<double>() : nullptr);
}

}  // namespace
}  // namespace ptyle::cpu

TORCH_LIBRARY_IMPL(ptyle, CPU, library) {
  library.impl("diffraction_loss", &ptyle::cpu::diffraction_loss);
  library.impl("diffraction_loss_gradients", &ptyle::cpu::diffraction_loss_gradients);
  library.impl("diffraction_loss_accumulate_", &ptyle::cpu::diffraction_loss_accumulate_);
}
