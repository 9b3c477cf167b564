#include "driver/engine/engine.h"

#include <chrono>
#include <cmath>
#include <sstream>
#include <string>
#include <utility>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <ptyle/ops.h>

#include "driver/engine/vectors.h"
#include "driver/errors.h"

namespace ptyle::driver {
namespace {

at::ScalarType complex_type(const Config& config) {
  return config.reconstruct.precision == "double" ? at::kComplexDouble : at::kComplexFloat;
}

std::optional<at::Tensor> converted(const std::optional<at::Tensor>& tensor, at::ScalarType type) {
  if (!tensor) return std::nullopt;
  return tensor->to(type).contiguous();
}

// Second derivative of a pixel's loss with respect to its amplitude where the model fits, relative
// to the amplitude likelihood's 2: poisson 4; gaussian 8 I, held by the brightest count.
double curvature(const Config& config, const Problem& problem) {
  if (config.reconstruct.likelihood == "poisson") return 2.0;
  if (config.reconstruct.likelihood == "gaussian")
    return 4.0 * std::max(1e-30, problem.largest_count);
  return 1.0;
}

double sum(const at::Tensor& losses) {
  double total = 0;
  for (std::int64_t n = 0; n < losses.numel(); ++n) total += losses.const_data_ptr<double>()[n];
  return total;
}

[[noreturn]] void diverged(const State& state, const std::string& what, double value) {
  throw RunError("the " + what + " must stay finite, got " + std::to_string(value) +
                 " in iteration " + std::to_string(state.iteration + 1) +
                 ": the steps are too long (reconstruct.step, probe_step, momentum, "
                 "learning_rate)");
}

// A loss is known only before an update; nothing that is not finite may become a checkpoint.
void check_finite(const State& state) {
  for (const auto& [name, tensor] :
       {std::pair<const char*, const at::Tensor&>("object", state.object),
        std::pair<const char*, const at::Tensor&>("probe", state.probe)}) {
    const double sum = power(tensor);
    if (!std::isfinite(sum)) diverged(state, std::string("sum of |") + name + "|^2", sum);
  }
}

}  // namespace

Engine::Engine(const Config& config, const Problem& problem)
    : config_(config),
      problem_(problem),
      type_(complex_type(config)),
      positions_(problem.positions.contiguous()),
      propagator_(converted(problem.propagator, type_)),
      detector_(converted(problem.detector, type_)),
      batches_(positions_, config.reconstruct.batches,
               static_cast<std::uint64_t>(config.reconstruct.seed)),
      optimizer_(make_optimizer(config.reconstruct, curvature(config, problem))) {
  const double pixels = static_cast<double>(problem.window[0] * problem.window[1]);
  unmasked_pixels_ =
      pixels * static_cast<double>(positions_.size(0)) - static_cast<double>(problem.masked_pixels);
}

std::string Engine::fingerprint() const {
  std::ostringstream out;
  const auto& shape = problem_.object_shape;
  out.precision(17);
  out << positions_.size(0) << " positions (checksum " << checksum(positions_) << "), window "
      << problem_.window[0] << " x " << problem_.window[1] << ", object " << shape[0] << " x "
      << shape[1] << " x " << shape[2] << ", " << problem_.total_counts << " counts, "
      << problem_.masked_pixels << " masked pixels (checksum of the counts "
      << checksum(problem_.counts_per_pattern) << "), probe checksum " << checksum(problem_.probe);
  return out.str();
}

State Engine::start() const {
  State state;
  const auto& shape = problem_.object_shape;
  state.object = at::ones({shape[0], shape[1], shape[2]}, at::TensorOptions().dtype(type_));
  at::Tensor probe = problem_.probe.to(at::kComplexDouble).contiguous();
  double factor = 1.0;
  if (config_.probe.power == "number") {
    factor = std::sqrt(config_.probe.power_value / power(probe));
  } else if (config_.probe.power == "data") {
    // The starting object is vacuum, where every position sees the same intensity.
    const at::Tensor vacuum =
        at::ones({shape[0], 1, 1}, at::TensorOptions().dtype(at::kComplexDouble));
    const at::Tensor corner = at::zeros({1, 2}, at::TensorOptions().dtype(at::kDouble));
    ModelOptions options;
    options.detector = problem_.detector;
    const at::Tensor intensity =
        diffraction(vacuum, probe, corner, problem_.propagator, options).select(0, 0);
    at::Tensor model = intensity;
    if (problem_.mask) {
      const at::Tensor good = problem_.mask->logical_not().to(at::kDouble);
      model = intensity.mul(good.dim() == 3 ? good.mean(0) : good);
    }
    const double modelled = model.sum().item<double>();
    if (!(problem_.mean_counts_per_pattern > 0) || !(modelled > 0)) {
      throw DataError(config_.data.file +
                      ": the unmasked pixels must hold counts that the probe can be scaled to "
                      "(probe.power = \"data\"), got a mean of " +
                      std::to_string(problem_.mean_counts_per_pattern) + " counts per pattern");
    }
    factor = std::sqrt(problem_.mean_counts_per_pattern / modelled);
  }
  scale(probe, factor);
  state.probe = probe.to(type_).contiguous();
  state.start_power = power(state.probe);
  if (!std::isfinite(state.start_power) || !(state.start_power > 0)) {
    throw ConfigError("probe.power: must give the probe a power that " +
                      config_.reconstruct.precision + " precision holds, got " +
                      std::to_string(state.start_power));
  }
  return state;
}

bool Engine::refines_probe(const State& state) const {
  return config_.reconstruct.refines("probe") && state.iteration >= config_.reconstruct.probe_start;
}

Engine::Data Engine::data_of(std::int64_t batch) const {
  const at::Tensor& members = batches_.members(batch);
  Data data{positions_.index_select(0, members), problem_.source->rows(members), std::nullopt};
  if (problem_.mask) {
    data.mask =
        problem_.mask->dim() == 3 ? problem_.mask->index_select(0, members) : *problem_.mask;
  }
  return data;
}

Evaluation Engine::evaluate(const State& state, const Data& data, double* squared_error) const {
  Evaluation result;
  GradientBuffers buffers;
  if (config_.reconstruct.refines("object")) {
    buffers.object = result.object = at::zeros_like(state.object);
  }
  if (refines_probe(state)) buffers.probe = result.probe = at::zeros_like(state.probe);
  LossOptions options;
  options.mask = data.mask;
  options.likelihood = config_.reconstruct.likelihood;
  options.detector = detector_;
  at::Tensor losses = at::zeros({data.positions.size(0)}, at::TensorOptions().dtype(at::kDouble));
  diffraction_loss_accumulate_(state.object, state.probe, data.positions, propagator_,
                               data.patterns, buffers, losses, options);
  result.loss = sum(losses);
  if (squared_error != nullptr) {
    if (options.likelihood == "amplitude") {
      *squared_error = result.loss;
    } else {  // a second, gradient-free sweep: the sweep above knows its own likelihood alone
      options.likelihood = "amplitude";
      losses.zero_();
      diffraction_loss_accumulate_(state.object, state.probe, data.positions, propagator_,
                                   data.patterns, {}, losses, options);
      *squared_error = sum(losses);
    }
  }
  if (config_.reconstruct.optimizer != "adam") {
    const auto& shape = problem_.object_shape;
    if (result.object.defined()) {
      result.object_illumination = illumination(state.probe, data.positions, {shape[1], shape[2]});
    }
    if (result.probe.defined()) {
      result.probe_illumination = windowed_power(state.object.select(0, 0), data.positions,
                                                 problem_.window[0], problem_.window[1]);
    }
  }
  return result;
}

bool Engine::iterate(State& state, const std::function<bool()>& stop,
                     const std::function<void(std::int64_t)>& batch_done) {
  const c10::InferenceMode no_autograd;
  const std::vector<std::int64_t> order = batches_.order(state.iteration);
  std::int64_t done = 0;
  for (std::int64_t b = 0; b < state.batch; ++b) {
    done += batches_.members(order[static_cast<std::size_t>(b)]).size(0);
  }
  while (state.batch < batches_.count()) {
    const auto begin = std::chrono::steady_clock::now();
    const std::int64_t batch = order[static_cast<std::size_t>(state.batch)];
    const Data data = data_of(batch);
    double squared_error = 0;
    const Evaluation at = evaluate(state, data, &squared_error);
    if (!std::isfinite(at.loss)) diverged(state, "loss", at.loss);
    optimizer_->update(state, at, [&] { return evaluate(state, data, nullptr); });
    state.loss += at.loss;
    state.squared_error += squared_error;
    ++state.batch;
    done += data.positions.size(0);
    if (state.batch == batches_.count() && config_.reconstruct.refines("object") &&
        refines_probe(state)) {
      fix_power(state);
    }
    state.seconds +=
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    batch_done(done);
    if (state.batch < batches_.count() && stop()) {
      check_finite(state);
      return false;
    }
  }
  check_finite(state);
  state.history.loss.push_back(state.loss);
  state.history.amplitude_error.push_back(
      unmasked_pixels_ > 0 ? state.squared_error / unmasked_pixels_ : 0.0);
  state.history.seconds.push_back(state.seconds);
  state.loss = state.squared_error = state.seconds = 0;
  state.batch = 0;
  ++state.iteration;
  return true;
}

void Engine::fix_power(State& state) {
  const double now = power(state.probe);
  if (!std::isfinite(now) || !(now > 0) || !(state.start_power > 0)) return;
  const double probe_factor = std::sqrt(state.start_power / now);
  const auto slices = static_cast<double>(state.object.size(0));
  const double object_factor = std::pow(probe_factor, -1.0 / slices);
  scale(state.probe, probe_factor);
  scale(state.object, object_factor);
  optimizer_->rescale(state, object_factor, probe_factor);
}

}  // namespace ptyle::driver
