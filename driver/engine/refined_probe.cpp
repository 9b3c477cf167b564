// The probe: all of its modes, the same on every rank.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <ptyle/ops.h>

#include "driver/engine/unknown.h"
#include "driver/engine/vectors.h"
#include "driver/errors.h"
#include "driver/optics/optics.h"

namespace ptyle::driver {
namespace {

constexpr double kLongestMove = 0.2;  // of its norm

class Probe final : public Unknown {
 public:
  Probe(const Config& config, const Problem& problem, const Workplace& workplace,
        const at::TensorOptions& like)
      : Unknown("probe", Place::kShared, config, workplace),
        config_(config),
        problem_(problem),
        like_(like) {}

  std::vector<at::Tensor> start() const override {
    return {start_probe(config_, problem_).to(like_.device())};
  }

  Needs needs() const override { return {.probe = true}; }
  Slopes slopes(const KernelGradients& kernel) const override {
    Slopes found{{kernel.probe}, {}, {}};
    if (kernel.probe_illumination.defined()) {
      found.illumination = {kernel.probe_illumination};
      found.most = {largest(kernel.probe_illumination)};
    }
    return found;
  }
  double learning_rate() const override { return config_.reconstruct.probe_learning_rate; }
  // Its scale is that of the data.
  double scale(const Values& values) const override {
    return largest(values.parts.front().abs().contiguous());
  }

  void descend(State& state, const Slopes& slopes, const Stride& stride) const override {
    const at::Tensor probe = state.unknowns.at(name()).parts.front();
    const at::Tensor change = slopes.gradients.front();
    const double unit_step = step() * std::min(stride.step, 1.0);
    driver::multiply(change, preconditioner(slopes.illumination.front(), slopes.most,
                                            unit_step / stride.curvature));
    const double moved = std::sqrt(driver::power(change) / driver::power(probe));
    if (!std::isfinite(moved)) return;
    const double longest = kLongestMove * std::min(unit_step, 1.0);
    add_scaled(probe, moved > longest ? -longest / moved : -1.0, change);
  }

  // Modes made orthogonal.
  void write_result(hdf5::File* file, const Values& values, const Ranks&) const override {
    if (file == nullptr) return;
    const std::string dataset = "/" + name();
    file->write(dataset, without_ramp(problem_, orthogonalised_modes(values.parts.front().cpu())));
    file->set_attribute(dataset, "axes", "mode, row, column");
    file->set_attribute(dataset, "unit", "sqrt(counts)");
    if (const auto pixel = problem_.pixel_nm()) {
      file->set_attribute(dataset, "pixel_size_nm", *pixel);
    }
    if (problem_.wavelength_A) {
      file->set_attribute(dataset, "wavelength_pm", *problem_.wavelength_A * 100);
    }
  }

  double bytes(std::int64_t remembered) const override {
    constexpr std::int64_t kOfAnUpdate = 3;  // gradient, what divides it, what is moved
    return static_cast<double>((1 + kOfAnUpdate + remembered) * problem_.probe.numel()) *
           static_cast<double>(like_.dtype().itemsize());
  }

 private:
  const Config& config_;
  const Problem& problem_;
  at::TensorOptions like_;
};

}  // namespace

std::unique_ptr<Unknown> make_probe(const Config& config, const Problem& problem,
                                    const Workplace& workplace, const at::TensorOptions& like) {
  return std::make_unique<Probe>(config, problem, workplace, like);
}

at::Tensor start_probe(const Config& config, const Problem& problem) {
  const at::Tensor probe = problem.probe.to(at::kComplexDouble).clone();  // scaled below
  double factor = 1.0;
  if (config.probe.power == "number") {
    factor = std::sqrt(config.probe.power_value / power(probe));
  } else if (config.probe.power == "data") {
    // The starting object is vacuum, where every position sees the same intensity.
    const at::Tensor vacuum =
        at::ones({problem.object_shape[0], 1, 1}, at::TensorOptions().dtype(at::kComplexDouble));
    const at::Tensor corner = at::zeros({1, 2}, at::TensorOptions().dtype(at::kDouble));
    ModelOptions options;
    options.detector = problem.detector;
    const at::Tensor intensity =
        diffraction(vacuum, probe, corner, problem.propagator, options).select(0, 0);
    const double modelled =
        (problem.good_share ? intensity.mul(*problem.good_share) : intensity).sum().item<double>();
    if (!(problem.mean_counts_per_pattern > 0) || !(modelled > 0)) {
      throw DataError(config.data.file +
                      ": the unmasked pixels must hold counts that the probe can be scaled to "
                      "(probe.power = \"data\"), got a mean of " +
                      std::to_string(problem.mean_counts_per_pattern) + " counts per pattern");
    }
    factor = std::sqrt(problem.mean_counts_per_pattern / modelled);
  }
  scale(probe, factor);
  const at::Tensor start = probe.to(complex_type(config)).contiguous();
  if (const double all = power(start); !std::isfinite(all) || !(all > 0)) {
    throw ConfigError("probe.power: must give the probe a power that " +
                      config.reconstruct.precision + " precision holds, got " +
                      std::to_string(all));
  }
  return start;
}

}  // namespace ptyle::driver
