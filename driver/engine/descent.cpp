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

constexpr double kLongestStep = 1.5, kShortestStep = 1e-6;
constexpr double kBatchRise = 4.0;
constexpr double kHardly = 0.03, kSettledStep = 0.1;

class Descent final : public Optimizer {
 public:
  Descent(const Config::Reconstruct& settings, double curvature, const Unknowns& unknowns,
          BatchFacts facts)
      : Optimizer(unknowns),
        facts_(std::move(facts)),
        curvature_(curvature),
        first_step_(settings.step),
        most_extrapolation_(settings.momentum) {
    for (const double n : facts_.positions) positions_ += n;
    double shares = 1;
    for (const auto& unknown : unknowns) {
      if (unknown->refined()) shares = std::max(shares, unknown->shares());
    }
    longest_step_ = first_step_ * std::min(kLongestStep, 2 * shares / (shares + 1));
  }

  bool keeps_order() const override { return true; }
  bool recovers() const override { return true; }

  void changed(State& state) override {
    state.numbers.erase("loss");
    state.numbers.erase("first_loss");
    state.lists["batch_errors"].clear();
  }

  bool begin_iteration(State& state) override {
    state.numbers.try_emplace("step", first_step_);
    const double calm = state.numbers["calm_iterations"];
    const double beta = std::min(most_extrapolation_, calm / (calm + 3));
    const bool first = state.numbers["iterations"] == 0;
    bool moved = false;
    each_part(state, [&](const Unknown& unknown, std::size_t, const at::Tensor& x, Memory& memory) {
      const at::Tensor last = tensor_like(memory, "last", x, x.scalar_type());
      const at::Tensor begin = tensor_like(memory, "begin", x, x.scalar_type());
      if (first) last.copy_(x);
      const double here = unknown.refined(state.iteration) ? beta : 0;
      extrapolate(x, begin, last, here);
      moved = moved || (unknown.tiled() && here > 0);
    });
    state.numbers["unproven"] = 1;
    return moved;
  }

  void update(State& state, const Evaluation& at, const std::function<Evaluation()>&) override {
    const auto batch = static_cast<std::size_t>(at.batch);
    const double counts = facts_.counts[batch];
    Stride stride;
    stride.error = counts > 0 ? at.squared_error / counts : 1.0;
    const bool accepted = at.follows || accepts(state, at, stride.error);
    if (std::exchange(state.numbers["unproven"], 0.0) > 0 && accepted) prove(state);
    if (!accepted) {
      take_back(state,
                "a batch's error rose to " + std::to_string(stride.error) + " of its counts");
      return;
    }
    stride.here = facts_.positions[batch];
    stride.all = positions_;
    if (state.numbers["first_loss"] == 0) {
      state.numbers["first_loss"] = at.loss * stride.all / stride.here;
    }
    stride.step = state.numbers["step"];
    stride.curvature = curvature_;
    stride.terms = at.curvature;
    stride.follows = at.follows;
    each(state, at, [&](const Unknown& unknown, Values&, const Slopes& slopes) {
      unknown.descend(state, slopes, stride);
    });
  }

  void end_iteration(State& state) override {
    state.numbers["iterations"] += 1;
    const bool retreated = std::exchange(state.numbers["taken_back_now"], 0.0) > 0;
    each(state, [&](const Unknown& unknown, Values&) { unknown.end_iteration(state, retreated); });
    if (retreated) return;
    const auto known = state.numbers.find("loss");
    const double before = known == state.numbers.end() ? 0.0 : known->second;
    // Before the first iteration the loss is what its first batch had, if all are like that one.
    const double measure = before > 0 ? before : state.numbers["first_loss"];
    if (measure > 0 && !(state.loss < kMuchMore * measure)) {
      take_back(state, "the loss rose from " + std::to_string(measure) + " to " +
                           std::to_string(state.loss));
      state.numbers["taken_back_now"] = 0;
      // the old loss as the measure could never be left
      if (std::isfinite(state.loss)) state.numbers["loss"] = state.loss;
      return;
    }
    // after steps were taken back the loss is where it had been
    const bool went_back = std::exchange(state.numbers["went_back"], 0.0) > 0;
    bool rests = false;  // a loss that falls little without the object says nothing of the step
    each(state, [&](const Unknown& unknown, Values&) {
      rests = rests || (unknown.tiled() && !unknown.refined(state.iteration));
    });
    if (before > 0 && !went_back && !rests) follow_loss(state, 1 - state.loss / before);
    const bool restart = rests || (before > 0 && state.loss > before) || overshot(state);
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
  void rescale(State&, const std::string&, double) override {}

 private:
  // use(unknown, number of the part, what is updated of it, what is remembered of it)
  template <typename Use>
  void each_part(State& state, const Use& use) const {
    each(state, [&](const Unknown& unknown, Values& values) {
      for (std::size_t k = 0; k < values.parts.size(); ++k) {
        use(unknown, k, unknown.updated(values.parts[k], k), values.memory[k]);
      }
    });
  }

  // Longer steps while the loss falls fast, half the step where it hardly falls: batches pull
  // against one another then.
  void follow_loss(State& state, double fell) const {
    double& step = state.numbers["step"];
    if (fell < kHardly) step = std::max(step / 2, std::min(step, kSettledStep));
    if (fell > 0.1) step = std::min(1.3 * step, longest_step_);
  }

  // The steps that led to the end of the iteration before are seen by the first batch of this one;
  // until then `last` is the point before them, and `begin` holds that end.
  void prove(State& state) const {
    each_part(state, [](const Unknown&, std::size_t, const at::Tensor& x, Memory& memory) {
      std::swap(memory.at("last"), memory.at("begin"));
      memory.at("begin").copy_(x);
    });
  }

  // Whether the batch's error is one that steps of this length may leave.
  bool accepts(State& state, const Evaluation& at, double eps) const {
    std::vector<double>& errors = state.lists["batch_errors"];
    errors.resize(facts_.positions.size(), -1.0);
    const double most = *std::max_element(errors.begin(), errors.end());
    const bool good =
        std::isfinite(at.loss) && std::isfinite(eps) &&
        (most < 0 || eps <= (errors.size() > 1 ? kBatchRise : kMuchMore) * most + 1e-12);
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
    each_part(state, [](const Unknown&, std::size_t, const at::Tensor& x, Memory& memory) {
      x.copy_(memory.at("last"));
      memory.at("begin").copy_(memory.at("last"));
    });
  }

  // Whether the iteration's moves point against those of the one before.
  bool overshot(State& state) const {
    double sum = 0;
    each(state, [&](const Unknown& unknown, Values& values) {
      if (!unknown.tiled()) return;
      std::vector<double> by_part;
      for (std::size_t k = 0; k < values.parts.size(); ++k) {
        const auto counted = [&](const at::Tensor& part) { return unknown.counted(part, k); };
        by_part.push_back(overshoot(counted(values.memory[k].at("begin")),
                                    counted(unknown.updated(values.parts[k], k)),
                                    counted(values.memory[k].at("last"))));
      }
      sum += unknown.sum(by_part);
    });
    return sum > 0;
  }

  BatchFacts facts_;
  double curvature_, first_step_, most_extrapolation_, longest_step_ = 0, positions_ = 0;
};

}  // namespace

std::unique_ptr<Optimizer> make_descent(const Config::Reconstruct& settings, double curvature,
                                        const Unknowns& unknowns, BatchFacts facts) {
  return std::make_unique<Descent>(settings, curvature, unknowns, std::move(facts));
}

}  // namespace ptyle::driver
