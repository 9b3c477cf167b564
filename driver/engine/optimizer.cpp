#include "driver/engine/optimizer.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ops/zeros.h>

#include "driver/engine/vectors.h"
#include "driver/log.h"
#include "driver/tiles/decomposition.h"

namespace ptyle::driver {

at::Tensor& tensor_like(std::map<std::string, at::Tensor>& tensors, const std::string& name,
                        const at::Tensor& like, at::ScalarType type) {
  at::Tensor& tensor = tensors[name];
  if (!tensor.defined()) tensor = at::zeros(like.sizes(), like.options().dtype(type));
  return tensor;
}

namespace {

void scale_if_present(std::map<std::string, at::Tensor>& tensors, const std::string& name,
                      double factor) {
  const auto found = tensors.find(name);
  if (found == tensors.end()) return;
  if (found->second.is_complex()) {
    scale(found->second, factor);
  } else {
    found->second.mul_(factor);  // one rounding an element, the same by any path
  }
}

// Steps in units of the inverse of what illuminates a pixel. The object's is shared by its slices:
// without the 1/S their common step would be S times too long.
struct Weights {
  std::vector<at::Tensor> object;
  at::Tensor probe;
};
Weights preconditioners(const Evaluation& at, double object_step, double probe_step) {
  Weights weights;
  for (std::size_t k = 0; k < at.object.size(); ++k) {
    const auto slices = static_cast<double>(std::max<std::int64_t>(1, at.object[k].size(0)));
    weights.object.push_back(
        preconditioner(at.object_illumination[k], at.most_illumination, object_step / slices));
  }
  if (at.probe.defined()) {
    weights.probe =
        preconditioner(at.probe_illumination, {largest(at.probe_illumination)}, probe_step);
  }
  return weights;
}

class Adam final : public Optimizer {
 public:
  Adam(const Config::Reconstruct& settings, const Workplace& workplace)
      : workplace_(workplace),
        object_rate_(settings.learning_rate),
        probe_rate_(settings.probe_learning_rate) {}

  void update(State& state, const Evaluation& at, const std::function<Evaluation()>&) override {
    if (!at.object.empty()) {
      const double t = (state.numbers["adam_steps_object"] += 1);
      for (std::size_t k = 0; k < at.object.size(); ++k) {
        step(state.tiles[k].optimizer, "object", workplace_.view(k, state.tiles[k].object),
             at.object[k], object_rate_, t);
      }
    }
    if (at.probe.defined()) {
      // Relative to the largest amplitude of the probe as it started: its scale is that of the
      // data.
      double& amplitude = state.numbers["adam_probe_amplitude"];
      if (amplitude == 0.0) amplitude = largest(state.probe.abs().contiguous());
      const double t = (state.numbers["adam_steps_probe"] += 1);
      step(state.optimizer, "probe", state.probe, at.probe, probe_rate_ * amplitude, t);
    }
  }

  void rescale(State& state, double object_factor, double probe_factor) override {
    for (TileState& tile : state.tiles) rescale_moments(tile.optimizer, "object", object_factor);
    rescale_moments(state.optimizer, "probe", probe_factor);
  }

 private:
  static void step(std::map<std::string, at::Tensor>& memory, const std::string& what,
                   const at::Tensor& x, const at::Tensor& gradient, double rate, double t) {
    const at::Tensor first = tensor_like(memory, "adam_first_" + what, x, x.scalar_type());
    const at::Tensor second =
        tensor_like(memory, "adam_second_" + what, x, at::toRealValueType(x.scalar_type()));
    adam(x, first, second, gradient, rate, static_cast<std::int64_t>(t));
  }

  // Gradients scale inversely to what they belong to.
  static void rescale_moments(std::map<std::string, at::Tensor>& memory, const std::string& what,
                              double factor) {
    scale_if_present(memory, "adam_first_" + what, 1 / factor);
    scale_if_present(memory, "adam_second_" + what, 1 / (factor * factor));
  }

  const Workplace& workplace_;
  double object_rate_, probe_rate_;
};

// L-BFGS (Nocedal & Wright, Numerical Optimization, 2nd edition, algorithm 7.4) on object and probe
// together, with the descent's preconditioner as the initial inverse Hessian, Re<x, y> as the inner
// product and backtracking to a sufficient decrease.
class Lbfgs final : public Optimizer {
 public:
  Lbfgs(const Config::Reconstruct& settings, double curvature, const Workplace& workplace)
      : workplace_(workplace), history_(settings.history), curvature_(curvature) {}

  void update(State& state, const Evaluation& at,
              const std::function<Evaluation()>& evaluate) override {
    if (state.numbers["lbfgs_unknowns"] != subject_code(at)) {  // the unknowns changed: start anew
      forget(state);
      state.numbers["lbfgs_unknowns"] = subject_code(at);
    }
    const Weights weights = preconditioners(at, 1 / curvature_, 1 / curvature_);

    // Two-loop recursion.
    Unknowns direction = gradient_of(at);
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
    const Unknowns gradient = gradient_of(at);
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
    const Unknowns there = unknowns_of(state, at);
    const Unknowns before = copy_of(there);
    double step = 1;
    Evaluation trial;
    int trials = 0;
    for (; trials < kMostTrials; ++trials, step /= 2) {
      assign(there, before);
      add(there, -step, direction);
      trial = evaluate();
      if (trial.loss <= at.loss + kSufficient * step * slope) break;
    }
    if (trials == kMostTrials) {
      log_warning() << "L-BFGS found no lower loss along its direction; the memory is cleared";
      assign(there, before);
      forget(state);
      return;
    }
    scale_all(direction, -step);
    const Unknowns& moved = direction;
    Unknowns change = gradient_of(trial);
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
      for (TileState& tile : state.tiles) {
        scale_if_present(tile.optimizer, name("s", k), object_factor);
        scale_if_present(tile.optimizer, name("y", k), 1 / object_factor);
      }
      scale_if_present(state.optimizer, name("s", k), probe_factor);
      scale_if_present(state.optimizer, name("y", k), 1 / probe_factor);
    }
  }

 private:
  struct Unknowns {
    std::vector<at::Tensor> object;  // by tile; empty where not refined
    at::Tensor probe;                // undefined where not refined
  };

  static double subject_code(const Evaluation& at) {
    return (at.object.empty() ? 0 : 1) + (at.probe.defined() ? 2 : 0);
  }
  static std::string name(const char* what, std::int64_t k) {
    return std::string("lbfgs_") + what + std::to_string(k);
  }
  // Copies: gradients are computed into the same memory again.
  static Unknowns gradient_of(const Evaluation& at) { return copy_of({at.object, at.probe}); }
  Unknowns unknowns_of(State& state, const Evaluation& at) const {
    Unknowns all;
    for (std::size_t k = 0; k < at.object.size(); ++k) {
      all.object.push_back(workplace_.view(k, state.tiles[k].object));
    }
    if (at.probe.defined()) all.probe = state.probe;
    return all;
  }
  static Unknowns copy_of(const Unknowns& from) {
    Unknowns copy;
    for (const at::Tensor& tile : from.object) {
      copy.object.push_back(tile.clone(at::MemoryFormat::Contiguous));
    }
    if (from.probe.defined()) copy.probe = from.probe.clone();
    return copy;
  }
  static void assign(const Unknowns& to, const Unknowns& from) {
    for (std::size_t k = 0; k < to.object.size(); ++k) to.object[k].copy_(from.object[k]);
    if (to.probe.defined()) to.probe.copy_(from.probe);
  }
  double inner(const Unknowns& a, const Unknowns& b) const {
    double sum = 0;
    if (!a.object.empty()) {
      std::vector<double> parts;
      for (std::size_t k = 0; k < a.object.size(); ++k) {
        parts.push_back(real_inner_product(workplace_.counted_view(k, a.object[k]),
                                           workplace_.counted_view(k, b.object[k])));
      }
      sum += workplace_.sum(parts);
    }
    if (a.probe.defined()) sum += real_inner_product(a.probe, b.probe);
    return sum;
  }
  static void add(const Unknowns& to, double factor, const Unknowns& from) {
    for (std::size_t k = 0; k < to.object.size(); ++k) {
      add_scaled(to.object[k], factor, from.object[k]);
    }
    if (to.probe.defined()) add_scaled(to.probe, factor, from.probe);
  }
  static void scale_all(const Unknowns& all, double factor) {
    for (const at::Tensor& tile : all.object) scale(tile, factor);
    if (all.probe.defined()) scale(all.probe, factor);
  }
  static void precondition(const Unknowns& all, const Weights& weights) {
    for (std::size_t k = 0; k < all.object.size(); ++k) {
      multiply(all.object[k], weights.object[k]);
    }
    if (all.probe.defined()) multiply(all.probe, weights.probe);
  }
  static Unknowns stored(State& state, const char* what, std::int64_t k) {
    Unknowns all;
    for (TileState& tile : state.tiles) {
      const auto found = tile.optimizer.find(name(what, k));
      if (found != tile.optimizer.end()) all.object.push_back(found->second);
    }
    const auto found = state.optimizer.find(name(what, k));
    if (found != state.optimizer.end()) all.probe = found->second;
    return all;
  }
  static double curvature_of(State& state, std::int64_t k) {
    return state.numbers["lbfgs_curvature" + std::to_string(k)];
  }

  void forget(State& state) const {
    for (std::int64_t k = 0; k < history_; ++k) {
      for (const char* what : {"s", "y"}) {
        for (TileState& tile : state.tiles) tile.optimizer.erase(name(what, k));
        state.optimizer.erase(name(what, k));
      }
      state.numbers.erase("lbfgs_curvature" + std::to_string(k));
    }
    state.numbers["lbfgs_pairs"] = 0;
  }

  static void store(State& state, const char* what, std::int64_t k, const Unknowns& all) {
    for (std::size_t tile = 0; tile < all.object.size(); ++tile) {
      state.tiles[tile].optimizer[name(what, k)] = all.object[tile];
    }
    if (all.probe.defined()) state.optimizer[name(what, k)] = all.probe;
  }

  // Oldest first; the oldest goes when the memory is full.
  void remember(State& state, const Unknowns& moved, const Unknowns& change,
                double curvature) const {
    auto count = static_cast<std::int64_t>(state.numbers["lbfgs_pairs"]);
    if (count == history_) {
      for (std::int64_t k = 1; k < count; ++k) {
        for (const char* what : {"s", "y"}) store(state, what, k - 1, stored(state, what, k));
        state.numbers["lbfgs_curvature" + std::to_string(k - 1)] = curvature_of(state, k);
      }
      --count;
    }
    store(state, "s", count, moved);
    store(state, "y", count, change);
    state.numbers["lbfgs_curvature" + std::to_string(count)] = curvature;
    state.numbers["lbfgs_pairs"] = static_cast<double>(count + 1);
  }

  const Workplace& workplace_;
  std::int64_t history_;
  double curvature_;
};

}  // namespace

at::Tensor Workplace::view(std::size_t tile, const at::Tensor& frame) const {
  return cut_out(frame, {}, updated[tile]);
}

at::Tensor Workplace::counted_view(std::size_t tile, const at::Tensor& of_updated) const {
  return cut_out(of_updated, {}, counted[tile]);
}

std::unique_ptr<Optimizer> make_optimizer(const Config::Reconstruct& settings, double curvature,
                                          const Workplace& workplace, BatchFacts facts) {
  if (settings.optimizer == "adam") return std::make_unique<Adam>(settings, workplace);
  if (settings.optimizer == "lbfgs") return std::make_unique<Lbfgs>(settings, curvature, workplace);
  return make_descent(settings, curvature, workplace, std::move(facts));
}

}  // namespace ptyle::driver
