#include "driver/engine/optimizer.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <ATen/ops/zeros.h>

#include "driver/engine/vectors.h"
#include "driver/log.h"

namespace ptyle::driver {
namespace {

at::Tensor& tensor_like(State& state, const std::string& name, const at::Tensor& like,
                        at::ScalarType type) {
  at::Tensor& tensor = state.optimizer[name];
  if (!tensor.defined()) tensor = at::zeros(like.sizes(), like.options().dtype(type));
  return tensor;
}

void scale_if_present(State& state, const std::string& name, double factor) {
  const auto found = state.optimizer.find(name);
  if (found == state.optimizer.end()) return;
  if (found->second.is_complex()) {
    scale(found->second, factor);
  } else {
    found->second.mul_(factor);  // one rounding an element, the same by any path
  }
}

// Steps in units of the inverse of what illuminates a pixel. The object's is shared by its slices:
// without the 1/S their common step would be S times too long.
struct Weights {
  at::Tensor object, probe;
};
Weights preconditioners(const State& state, const Evaluation& at, double object_step,
                        double probe_step) {
  Weights weights;
  if (at.object.defined()) {
    const auto slices = static_cast<double>(std::max<std::int64_t>(1, state.object.size(0)));
    weights.object = preconditioner(at.object_illumination, object_step / slices);
  }
  if (at.probe.defined()) weights.probe = preconditioner(at.probe_illumination, probe_step);
  return weights;
}

class Descent final : public Optimizer {
 public:
  Descent(const Config::Reconstruct& settings, double curvature)
      : object_step_(settings.step / curvature),
        probe_step_(settings.probe_step / curvature),
        momentum_(settings.momentum),
        bounded_curvature_(settings.likelihood == "amplitude") {}

  void update(State& state, const Evaluation& at, const std::function<Evaluation()>&) override {
    const Weights weights = preconditioners(state, at, object_step_, probe_step_);
    if (at.object.defined()) {
      move(state, "object_velocity", state.object, at.object, weights.object,
           at.object_illumination);
    }
    if (at.probe.defined()) {
      move(state, "probe_velocity", state.probe, at.probe, weights.probe, at.probe_illumination);
    }
  }

  void rescale(State& state, double object_factor, double probe_factor) override {
    scale_if_present(state, "object_velocity", object_factor);
    scale_if_present(state, "probe_velocity", probe_factor);
  }

 private:
  void move(State& state, const std::string& name, at::Tensor& x, const at::Tensor& gradient,
            at::Tensor weight, const at::Tensor& illumination) const {
    if (!bounded_curvature_) {
      // Poisson's and Gaussian's curvature has no bound over the pixels (2 + 2 n / I; 8 I): a step
      // that would change the lit part by more than this share of itself is shortened to it.
      constexpr double kLongest = 0.2;
      const double relative = relative_step(x, gradient, weight, illumination);
      if (relative > kLongest) weight.mul_(kLongest / relative);
    }
    at::Tensor none;
    at::Tensor& velocity = momentum_ > 0 ? tensor_like(state, name, x, x.scalar_type()) : none;
    descend(x, velocity, gradient, weight, momentum_);
  }

  double object_step_, probe_step_, momentum_;
  bool bounded_curvature_;
};

class Adam final : public Optimizer {
 public:
  explicit Adam(const Config::Reconstruct& settings)
      : object_rate_(settings.learning_rate), probe_rate_(settings.probe_learning_rate) {}

  void update(State& state, const Evaluation& at, const std::function<Evaluation()>&) override {
    if (at.object.defined()) step(state, "object", state.object, at.object, object_rate_);
    if (at.probe.defined()) {
      // Relative to the largest amplitude of the probe as it started: its scale is that of the
      // data.
      double& amplitude = state.numbers["adam_probe_amplitude"];
      if (amplitude == 0.0) amplitude = largest(state.probe.abs().contiguous());
      step(state, "probe", state.probe, at.probe, probe_rate_ * amplitude);
    }
  }

  void rescale(State& state, double object_factor, double probe_factor) override {
    rescale_moments(state, "object", object_factor);
    rescale_moments(state, "probe", probe_factor);
  }

 private:
  static void step(State& state, const std::string& what, at::Tensor& x, const at::Tensor& gradient,
                   double rate) {
    at::Tensor& first = tensor_like(state, "adam_first_" + what, x, x.scalar_type());
    at::Tensor& second =
        tensor_like(state, "adam_second_" + what, x, at::toRealValueType(x.scalar_type()));
    double& t = state.numbers["adam_steps_" + what];
    t += 1;
    adam(x, first, second, gradient, rate, static_cast<std::int64_t>(t));
  }

  // Gradients scale inversely to what they belong to.
  static void rescale_moments(State& state, const std::string& what, double factor) {
    scale_if_present(state, "adam_first_" + what, 1 / factor);
    scale_if_present(state, "adam_second_" + what, 1 / (factor * factor));
  }

  double object_rate_, probe_rate_;
};

// L-BFGS (Nocedal & Wright, Numerical Optimization, 2nd edition, algorithm 7.4) on object and probe
// together, with the descent's preconditioner as the initial inverse Hessian, Re<x, y> as the inner
// product and backtracking to a sufficient decrease.
class Lbfgs final : public Optimizer {
 public:
  Lbfgs(const Config::Reconstruct& settings, double curvature)
      : history_(settings.history), curvature_(curvature) {}

  void update(State& state, const Evaluation& at,
              const std::function<Evaluation()>& evaluate) override {
    if (state.numbers["lbfgs_unknowns"] != subject_code(at)) {  // the unknowns changed: start anew
      forget(state);
      state.numbers["lbfgs_unknowns"] = subject_code(at);
    }
    const Weights weights = preconditioners(state, at, 1 / curvature_, 1 / curvature_);

    // Two-loop recursion.
    Pair direction = gradient_of(at);
    const auto count = static_cast<std::int64_t>(state.numbers["lbfgs_pairs"]);
    std::vector<double> alpha(static_cast<std::size_t>(count));
    for (std::int64_t k = count - 1; k >= 0; --k) {
      const auto i = static_cast<std::size_t>(k);
      alpha[i] = inner(stored(state, "s", k), direction) / curvature_of(state, k);
      add(direction, -alpha[i], stored(state, "y", k));
    }
    precondition(direction, weights);
    for (std::int64_t k = 0; k < count; ++k) {
      const double beta = inner(stored(state, "y", k), direction) / curvature_of(state, k);
      add(direction, alpha[static_cast<std::size_t>(k)] - beta, stored(state, "s", k));
    }
    const Pair gradient = gradient_of(at);
    double slope = -inner(gradient, direction);
    if (!(slope < 0)) {  // rounding made it point uphill: steepest descent instead
      forget(state);
      direction = gradient_of(at);
      precondition(direction, weights);
      slope = -inner(gradient, direction);
    }
    if (slope == 0) return;  // at the minimum

    // Backtracking. The state holds the trial; `step` is what has been moved so far.
    constexpr double kSufficient = 1e-4;
    constexpr int kMostTrials = 12;
    const at::Tensor object = state.object.clone(), probe = state.probe.clone();
    double step = 1;
    Evaluation trial;
    int trials = 0;
    for (; trials < kMostTrials; ++trials, step /= 2) {
      state.object.copy_(object);
      state.probe.copy_(probe);
      if (direction.object.defined()) add_scaled(state.object, -step, direction.object);
      if (direction.probe.defined()) add_scaled(state.probe, -step, direction.probe);
      trial = evaluate();
      if (trial.loss <= at.loss + kSufficient * step * slope) break;
    }
    if (trials == kMostTrials) {
      log_warning() << "L-BFGS found no lower loss along its direction; the memory is cleared";
      state.object.copy_(object);
      state.probe.copy_(probe);
      forget(state);
      return;
    }
    Pair moved = direction;
    scale_pair(moved, -step);
    Pair change = gradient_of(trial);
    add(change, -1, gradient);
    const double curvature = inner(moved, change);
    // Only pairs of positive curvature keep the inverse Hessian positive.
    if (curvature > 1e-12 * std::sqrt(inner(moved, moved) * inner(change, change))) {
      remember(state, moved, change, curvature);
    }
  }

  // With x' = D x gradients become D^-1 g, and so the pairs' inner products stay what they are.
  void rescale(State& state, double object_factor, double probe_factor) override {
    for (std::int64_t k = 0; k < history_; ++k) {
      scale_if_present(state, name("s", k, "object"), object_factor);
      scale_if_present(state, name("s", k, "probe"), probe_factor);
      scale_if_present(state, name("y", k, "object"), 1 / object_factor);
      scale_if_present(state, name("y", k, "probe"), 1 / probe_factor);
    }
  }

 private:
  struct Pair {
    at::Tensor object, probe;
  };

  static double subject_code(const Evaluation& at) {
    return (at.object.defined() ? 1 : 0) + (at.probe.defined() ? 2 : 0);
  }
  static std::string name(const char* what, std::int64_t k, const char* of) {
    return std::string("lbfgs_") + what + std::to_string(k) + "_" + of;
  }
  static Pair gradient_of(const Evaluation& at) {
    Pair pair;
    if (at.object.defined()) pair.object = at.object.clone();
    if (at.probe.defined()) pair.probe = at.probe.clone();
    return pair;
  }
  static double inner(const Pair& a, const Pair& b) {
    return (a.object.defined() ? real_inner_product(a.object, b.object) : 0.0) +
           (a.probe.defined() ? real_inner_product(a.probe, b.probe) : 0.0);
  }
  static void add(Pair& to, double factor, const Pair& from) {
    if (to.object.defined()) add_scaled(to.object, factor, from.object);
    if (to.probe.defined()) add_scaled(to.probe, factor, from.probe);
  }
  static void scale_pair(Pair& pair, double factor) {
    if (pair.object.defined()) scale(pair.object, factor);
    if (pair.probe.defined()) scale(pair.probe, factor);
  }
  static void precondition(Pair& pair, const Weights& weights) {
    if (pair.object.defined()) multiply(pair.object, weights.object);
    if (pair.probe.defined()) multiply(pair.probe, weights.probe);
  }
  static Pair stored(State& state, const char* what, std::int64_t k) {
    return {state.optimizer[name(what, k, "object")], state.optimizer[name(what, k, "probe")]};
  }
  static double curvature_of(State& state, std::int64_t k) {
    return state.numbers["lbfgs_curvature" + std::to_string(k)];
  }

  void forget(State& state) const {
    for (std::int64_t k = 0; k < history_; ++k) {
      for (const char* what : {"s", "y"}) {
        state.optimizer.erase(name(what, k, "object"));
        state.optimizer.erase(name(what, k, "probe"));
      }
      state.numbers.erase("lbfgs_curvature" + std::to_string(k));
    }
    state.numbers["lbfgs_pairs"] = 0;
  }

  // Oldest first; the oldest goes when the memory is full.
  void remember(State& state, const Pair& moved, const Pair& change, double curvature) const {
    auto count = static_cast<std::int64_t>(state.numbers["lbfgs_pairs"]);
    if (count == history_) {
      for (std::int64_t k = 1; k < count; ++k) {
        for (const char* what : {"s", "y"}) {
          for (const char* of : {"object", "probe"}) {
            state.optimizer[name(what, k - 1, of)] = state.optimizer[name(what, k, of)];
          }
        }
        state.numbers["lbfgs_curvature" + std::to_string(k - 1)] = curvature_of(state, k);
      }
      --count;
    }
    state.optimizer[name("s", count, "object")] = moved.object;
    state.optimizer[name("s", count, "probe")] = moved.probe;
    state.optimizer[name("y", count, "object")] = change.object;
    state.optimizer[name("y", count, "probe")] = change.probe;
    state.numbers["lbfgs_curvature" + std::to_string(count)] = curvature;
    state.numbers["lbfgs_pairs"] = static_cast<double>(count + 1);
  }

  std::int64_t history_;
  double curvature_;
};

}  // namespace

std::unique_ptr<Optimizer> make_optimizer(const Config::Reconstruct& settings, double curvature) {
  if (settings.optimizer == "adam") return std::make_unique<Adam>(settings);
  if (settings.optimizer == "lbfgs") return std::make_unique<Lbfgs>(settings, curvature);
  return std::make_unique<Descent>(settings, curvature);
}

}  // namespace ptyle::driver
