#include <cstddef>

#include "csrc/likelihood.h"
#include "ops/cpu/fused.h"
#include "ops/gradients.h"
#include "ops/hints.h"
#include "ops/loss.h"

namespace ptyle::cpu {
namespace {

// Detectors mark what they did not measure by -1 or -2, in the first pattern as in all others.
void warn_of_negative_counts(const LossArguments& arguments, Likelihood likelihood) {
  const at::Tensor& patterns = arguments.patterns;
  const bool taken_as_zero =
      with_likelihood(likelihood, [](auto f) { return f(1.0, -1.0).loss == f(1.0, 0.0).loss; });
  if (!taken_as_zero || patterns.size(0) == 0) return;
  if (patterns.scalar_type() == at::kByte || patterns.scalar_type() == at::kUInt16) return;
  const int64_t pixels = patterns.size(1) * patterns.size(2);
  const uint8_t* mask = image<uint8_t>(arguments.mask, 0, pixels);
  with_count_type(patterns, [&]<typename Count>() {
    const auto* counts = static_cast<const Count*>(patterns.const_data_ptr());
    for (int64_t i = 0; i < pixels; ++i) {
      if (!(counts[i] < Count(0)) || (mask && mask[i] != 0)) continue;
      if (!is_first(Hint::kNegativeCounts)) return;
      TORCH_WARN("ptyle: patterns hold negative counts, in the first ",
                 static_cast<double>(counts[i]), " at [", i / patterns.size(2), ", ",
                 i % patterns.size(2), "], which the ", arguments.likelihood,
                 " likelihood takes as 0: a mask leaves out pixels that were not measured. This is "
                 "said once.");
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

// The one kernel of this device, see ops/loss.h.
void accumulate(const char* name, const LossArguments& a, const Gradients& out,
                const at::Tensor& losses, const at::Tensor& amplitude_errors) {
  const Likelihood likelihood = likelihood_from(name, a.likelihood);
  warn_of_negative_counts(a, likelihood);
  const at::IntArrayRef origin = C10_AS_INTARRAYREF_SLOW(a.origin);
  const bool errors = amplitude_errors.defined();
  const auto add = [&](int64_t n, const Misfit& misfit) {
    losses.data_ptr<double>()[n] += misfit.loss;
    if (errors) amplitude_errors.data_ptr<double>()[n] += misfit.amplitude_error;
  };
  with_precision(a.probe, [&]<typename T>() {
    const T* weights = a.weights ? a.weights->const_data_ptr<T>() : nullptr;
    Fused<T> fused(name, a.object, a.probe, a.positions, a.propagator, origin, a.detector, out);
    const auto* counts = static_cast<const std::byte*>(a.patterns.const_data_ptr());
    const int64_t pixels = a.probe.size(1) * a.probe.size(2);
    const int64_t bytes = pixels * static_cast<int64_t>(a.patterns.element_size());
    const auto measured = [&](int64_t n) {
      return Measured<T>{count_type(a.patterns.scalar_type()),
                         counts + n * bytes,
                         image<uint8_t>(a.mask, n, pixels),
                         image<T>(a.background, n, pixels),
                         weights ? weights[n] : T(1),
                         likelihood,
                         errors};
    };
    if (out.any()) {
      fused.run_ordered([&](auto& model, auto& worker, int64_t n, Turns* turns) {
        add(n, model.loss(worker, fused.window(n), measured(n), fused.sums(), n, turns));
      });
    } else {
      fused.run([&](const auto& model, auto& worker, int64_t n) {
        add(n, model.loss(worker, fused.window(n), measured(n)));
      });
    }
    return 0;
  });
}

}  // namespace
}  // namespace ptyle::cpu

TORCH_LIBRARY_IMPL(ptyle, CPU, library) {
  ptyle::LossOperators<&ptyle::cpu::accumulate>::add_to(library);
}
