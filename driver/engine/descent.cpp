// The default rule. A batch moves the object against its gradient in units of the illumination of
// each slice by the wave that arrives there, I_s: the amplitude loss of a pixel lies under a
// parabola of curvature 2, and of the S slices' steps d_s the wave at the detector moves by at most
// ||dPsi||^2 <= S sum_s I_s |d_s|^2, so that
//
//   d_s = -step / c  g_s / (2 S (I_s + a E_s + f max(I_s + a E_s)))
//
// cannot overshoot (c: the likelihood's curvature relative to the amplitude likelihood's). E_s is
// the sum of I_s over the last iteration. With eps = sum (sqrt(I) - sqrt(n))^2 / sum n of the
// batch:
//
//   f = min(0.05, max(eps, 0.003) / min(step, 1))   Levenberg-Marquardt: falls with the residual
//   a = min(0.1, 0.2 sqrt(eps))
//
// What of d_s lies along O_s is taken to a tenth: the data hardly tell the slices' amplitudes from
// one another, and a gain breaks the bound. No element moves by more than 0.5 min(step, 1).
//
// Whole iterations are extrapolated (Nesterov) with restarts, which wants the batches in one fixed
// order; what is written is the point before the extrapolation. The common step follows the loss:
// longer while it falls fast, halved where it hardly falls, so that batches which pull against one
// another settle. An iteration that raises the loss by half is taken back; a batch whose error is
// four times the largest that any batch had (half as much again where there is one batch) takes the
// steps back at once, in an iteration's first batch to where the iteration before began.
#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "driver/engine/optimizer.h"
#include "driver/engine/vectors.h"
#include "driver/errors.h"
#include "driver/log.h"

namespace ptyle::driver {
namespace {

constexpr double kAmplitudeShare = 0.1, kLongestMove = 0.5, kLongestProbeMove = 0.2;
constexpr double kLongestStep = 1.5, kShortestStep = 1e-6;
constexpr double kRise = 1.5, kBatchRise = 4.0;
constexpr double kHardly = 0.03, kSettledStep = 0.1;

// An unknown's tensors on this rank and what the rule remembers of each.
struct Parts {
  std::vector<at::Tensor> values;  // views of what is updated
  std::vector<std::map<std::string, at::Tensor>*> memory;
};

class Descent final : public Optimizer {
 public:
  Descent(const Config::Reconstruct& settings, double curvature, const Workplace& workplace,
          BatchFacts facts)
      : workplace_(workplace),
        facts_(std::move(facts)),
        curvature_(curvature),
        first_step_(settings.step),
        probe_share_(settings.probe_step),
        most_extrapolation_(settings.momentum),
        object_(settings.refines("object")),
        probe_(settings.refines("probe")) {
    for (const double n : facts_.positions) positions_ += n;
  }

  bool keeps_order() const override { return true; }
  bool recovers() const override { return true; }

  bool begin_iteration(State& state) override {
    state.numbers.try_emplace("step", first_step_);
    const double calm = state.numbers["calm_iterations"];
    const double beta = std::min(most_extrapolation_, calm / (calm + 3));
    const Parts parts = parts_of(state);
    const bool first = state.numbers["iterations"] == 0;
    for (std::size_t k = 0; k < parts.values.size(); ++k) {
      const at::Tensor& x = parts.values[k];
      const at::Tensor last = tensor_like(*parts.memory[k], "last", x, x.scalar_type());
      const at::Tensor begin = tensor_like(*parts.memory[k], "begin", x, x.scalar_type());
      if (first) last.copy_(x);
      extrapolate(x, begin, last, beta);
    }
    state.numbers["unproven"] = 1;
    return object_ && beta > 0;
  }

  void update(State& state, const Evaluation& at, const std::function<Evaluation()>&) override {
    const double counts = facts_.counts[static_cast<std::size_t>(at.batch)];
    const double eps = counts > 0 ? at.squared_error / counts : 1.0;
    const bool accepted = at.follows || accepts(state, at, eps);
    if (std::exchange(state.numbers["unproven"], 0.0) > 0 && accepted) prove(state);
    if (!accepted) {
      take_back(state, "a batch's error rose to " + std::to_string(eps) + " of its counts");
      return;
    }
    if (state.numbers["first_loss"] == 0) {
      state.numbers["first_loss"] =
          at.loss * positions_ / facts_.positions[static_cast<std::size_t>(at.batch)];
    }
    const double step = state.numbers["step"];
    if (object_) move_object(state, at, eps, step);
    if (at.probe.defined()) move_probe(state, at, probe_share_ * std::min(step, 1.0));
  }

  void end_iteration(State& state) override {
    state.numbers["iterations"] += 1;
    const bool retreated = std::exchange(state.numbers["taken_back_now"], 0.0) > 0;
    if (object_) count_illumination(state, retreated);
    if (retreated) return;
    const auto known = state.numbers.find("loss");
    const double before = known == state.numbers.end() ? 0.0 : known->second;
    // Before the first iteration the loss is what its first batch had, if all are like that one.
    const double measure = before > 0 ? before : state.numbers["first_loss"];
    if (measure > 0 && !(state.loss < kRise * measure)) {
      take_back(state, "the loss rose from " + std::to_string(measure) + " to " +
                           std::to_string(state.loss));
      state.numbers["taken_back_now"] = 0;
      // the old loss as the measure could never be left
      if (std::isfinite(state.loss)) state.numbers["loss"] = state.loss;
      return;
    }
    // after steps were taken back the loss is where it had been
    const bool went_back = std::exchange(state.numbers["went_back"], 0.0) > 0;
    if (before > 0 && !went_back) follow_loss(state, 1 - state.loss / before);
    const bool restart = (before > 0 && state.loss > before) || overshot(state);
    double& calm = state.numbers["calm_iterations"];
    calm = restart ? 0 : calm + 1;
    state.numbers["loss"] = state.loss;
  }

  bool retreat(State& state) const override {
    if (state.numbers["iterations"] == 0) return false;
    take_back(state, "the last updates raised the loss");
    state.numbers["taken_back_now"] = 0;
    return true;
  }

  // What is remembered are points, at which the power was what it is.
  void rescale(State&, double, double) override {}

 private:
  // Longer steps while the loss falls fast, half the step where it hardly falls: batches pull
  // against one another then.
  void follow_loss(State& state, double fell) const {
    double& step = state.numbers["step"];
    const auto slices = static_cast<double>(workplace_.slices);
    const double longest = first_step_ * std::min(kLongestStep, 2 * slices / (slices + 1));
    if (fell < kHardly) step = std::max(step / 2, std::min(step, kSettledStep));
    if (fell > 0.1) step = std::min(1.3 * step, longest);
  }

  Parts parts_of(State& state) const {
    Parts parts;
    for (std::size_t k = 0; object_ && k < state.tiles.size(); ++k) {
      parts.values.push_back(workplace_.view(k, state.tiles[k].object));
      parts.memory.push_back(&state.tiles[k].optimizer);
    }
    if (probe_) {
      parts.values.push_back(state.probe);
      parts.memory.push_back(&state.optimizer);
    }
    return parts;
  }

  // The steps that led to the end of the iteration before are seen by the first batch of this one;
  // until then `last` is the point before them, and `begin` holds that end.
  void prove(State& state) const {
    const Parts parts = parts_of(state);
    for (std::size_t k = 0; k < parts.values.size(); ++k) {
      std::swap(parts.memory[k]->at("last"), parts.memory[k]->at("begin"));
      parts.memory[k]->at("begin").copy_(parts.values[k]);
    }
  }

  // Whether the batch's error is one that steps of this length may leave.
  bool accepts(State& state, const Evaluation& at, double eps) const {
    std::vector<double>& errors = state.lists["batch_errors"];
    errors.resize(facts_.positions.size(), -1.0);
    const double most = *std::max_element(errors.begin(), errors.end());
    const bool good = std::isfinite(at.loss) && std::isfinite(eps) &&
                      (most < 0 || eps <= (errors.size() > 1 ? kBatchRise : kRise) * most + 1e-12);
    if (good) errors[static_cast<std::size_t>(at.batch)] = eps;
    return good;
  }

  // Back to the last point that a batch has proven, before any extrapolation, with half the step.
  void take_back(State& state, const std::string& why) const {
    double& step = state.numbers["step"];
    if (step / 2 < kShortestStep) {
      throw Diverged("the run diverged: " + why + " in iteration " +
                     std::to_string(state.iteration + 1) +
                     " however short the steps: are the "
                     "geometry (`ptyle check`) and the data right?");
    }
    step /= 2;
    if (state.numbers["taken_back"] == 0) {
      log_info() << why << " in iteration " << state.iteration + 1
                 << ": its steps are taken back, and are shorter from now on";
    }
    state.numbers["calm_iterations"] = 0;
    state.numbers["taken_back_now"] += 1;
    state.numbers["went_back"] = 1;
    state.numbers["taken_back"] += 1;
    state.lists["batch_errors"].clear();  // what it is there is the measure from now on
    const Parts parts = parts_of(state);
    for (std::size_t k = 0; k < parts.values.size(); ++k) {
      const at::Tensor& last = parts.memory[k]->at("last");
      parts.values[k].copy_(last);
      parts.memory[k]->at("begin").copy_(last);
    }
  }

  void move_object(State& state, const Evaluation& at, double eps, double step) {
    const auto slices = static_cast<double>(workplace_.slices);
    const double floor = std::min(0.05, std::max(eps, 0.003) / std::min(step, 1.0));
    StepOptions options;
    options.step = step / (2 * slices * curvature_ * workplace_.moves);
    options.amplitude = kAmplitudeShare;
    options.longest = kLongestMove * std::min(step, 1.0);
    options.share = std::min(0.1, 0.2 * std::sqrt(eps));
    // In the first iteration what is known of E_s so far stands for all of it.
    const double here = facts_.positions[static_cast<std::size_t>(at.batch)];
    double& done = state.numbers["positions_done"];
    if (!at.follows) done += here;
    std::vector<double>& before = state.lists["most_illumination"];
    const bool first = before.empty();
    if (first) options.share *= positions_ / done;
    std::vector<double> floors;
    for (std::size_t s = 0; s < at.most_illumination.size(); ++s) {
      const double most = at.most_illumination[s];
      const double all = first ? most * done / here : before[s];
      floors.push_back(floor * (most + options.share * all));
    }
    for (std::size_t k = 0; k < at.object.size(); ++k) {
      auto& memory = state.tiles[k].optimizer;
      const at::Tensor& light = at.object_illumination[k];
      // what follows is added nowhere: most of it was counted before
      const at::Tensor sum =
          at.follows ? tensor_like(memory, "illumination_sum", light, light.scalar_type()).clone()
                     : tensor_like(memory, "illumination_sum", light, light.scalar_type());
      const at::Tensor all =
          first ? at::Tensor() : tensor_like(memory, "illumination", light, light.scalar_type());
      illuminated_step(workplace_.view(k, state.tiles[k].object), at.object[k], light, all, floors,
                       sum, options);
    }
  }

  void move_probe(State& state, const Evaluation& at, double step) const {
    const at::Tensor weight =
        preconditioner(at.probe_illumination, {largest(at.probe_illumination)}, step / curvature_);
    multiply(at.probe, weight);
    const double moved = std::sqrt(power(at.probe) / power(state.probe));
    if (!std::isfinite(moved)) return;
    const double longest = kLongestProbeMove * std::min(step, 1.0);
    add_scaled(state.probe, moved > longest ? -longest / moved : -1.0, at.probe);
  }

  // The iteration's illumination becomes E_s.
  void count_illumination(State& state, bool retreated) const {
    state.numbers["positions_done"] = 0;
    std::vector<double> most(static_cast<std::size_t>(workplace_.slices), 0.0);
    for (std::size_t k = 0; k < state.tiles.size(); ++k) {
      auto& memory = state.tiles[k].optimizer;
      const auto sum = memory.find("illumination_sum");
      if (sum == memory.end()) continue;
      at::Tensor& all = tensor_like(memory, "illumination", sum->second, sum->second.scalar_type());
      if (!retreated) std::swap(all, sum->second);
      sum->second.zero_();
      if (retreated) continue;
      const std::vector<double> here = largest_by_plane(workplace_.counted_view(k, all));
      for (std::size_t s = 0; s < most.size(); ++s) most[s] = std::max(most[s], here[s]);
    }
    if (!retreated) state.lists["most_illumination"] = workplace_.maximum(most);
  }

  bool overshot(State& state) const {
    if (!object_) return false;
    std::vector<double> parts;
    for (std::size_t k = 0; k < state.tiles.size(); ++k) {
      const auto counted = [&](const at::Tensor& part) { return workplace_.counted_view(k, part); };
      const auto& memory = state.tiles[k].optimizer;
      parts.push_back(overshoot(counted(memory.at("begin")),
                                counted(workplace_.view(k, state.tiles[k].object)),
                                counted(memory.at("last"))));
    }
    return workplace_.sum(parts) > 0;
  }

  const Workplace& workplace_;
  BatchFacts facts_;
  double curvature_, first_step_, probe_share_, most_extrapolation_, positions_ = 0;
  bool object_, probe_;
};

}  // namespace

std::unique_ptr<Optimizer> make_descent(const Config::Reconstruct& settings, double curvature,
                                        const Workplace& workplace, BatchFacts facts) {
  return std::make_unique<Descent>(settings, curvature, workplace, std::move(facts));
}

}  // namespace ptyle::driver
