// L-BFGS (Nocedal & Wright, Numerical Optimization, 2nd edition, algorithm 7.4) on all unknowns
// together, with the inverse of what illuminates an element as the initial inverse Hessian,
// Re<x, y> as the inner product and backtracking to a sufficient decrease.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "driver/engine/optimizer.h"
#include "driver/engine/vectors.h"
#include "driver/log.h"

namespace ptyle::driver {
namespace {

// Tensors of everything that is refined: by unknown, by part.
struct Point {
  std::vector<const Unknown*> of;
  std::vector<std::vector<at::Tensor>> parts;

  // use(unknown, number of the unknown, part)
  template <typename Use>
  void each(const Use& use) const {
    for (std::size_t u = 0; u < of.size(); ++u) {
      for (std::size_t k = 0; k < parts[u].size(); ++k) use(*of[u], u, k);
    }
  }
};

Point copy_of(Point point) {
  for (auto& parts : point.parts) {
    for (at::Tensor& part : parts) part = part.clone(at::MemoryFormat::Contiguous);
  }
  return point;
}
void assign(const Point& to, const Point& from) {
  to.each([&](const Unknown&, std::size_t u, std::size_t k) {
    to.parts[u][k].copy_(from.parts[u][k]);
  });
}
void add(const Point& to, double factor, const Point& from) {
  to.each([&](const Unknown&, std::size_t u, std::size_t k) {
    add_scaled(to.parts[u][k], factor, from.parts[u][k]);
  });
}
double inner(const Point& a, const Point& b) {
  double sum = 0;
  for (std::size_t u = 0; u < a.of.size(); ++u) {
    std::vector<double> by_part;
    for (std::size_t k = 0; k < a.parts[u].size(); ++k) {
      by_part.push_back(real_inner_product(a.of[u]->counted(a.parts[u][k], k),
                                           a.of[u]->counted(b.parts[u][k], k)));
    }
    sum += a.of[u]->sum(by_part);
  }
  return sum;
}

class Lbfgs final : public Optimizer {
 public:
  Lbfgs(const Config::Reconstruct& settings, double curvature, const Unknowns& unknowns)
      : Optimizer(unknowns), history_(settings.history), curvature_(curvature) {}

  void update(State& state, const Evaluation& at,
              const std::function<Evaluation()>& evaluate) override {
    if (double& last = state.numbers["lbfgs_unknowns"]; last != code_of(state, at)) {
      forget(state);  // the unknowns changed: start anew
      last = code_of(state, at);
    }
    // Two-loop recursion. Gradients are computed into the same memory again: copies.
    const Point gradient = copy_of(gradient_of(state, at));
    Point direction = copy_of(gradient);
    const auto count = static_cast<std::int64_t>(state.numbers["lbfgs_pairs"]);
    std::vector<double> alpha(static_cast<std::size_t>(count));
    for (std::int64_t k = count - 1; k >= 0; --k) {
      const auto i = static_cast<std::size_t>(k);
      alpha[i] = inner(stored(state, at, "s", k), direction) / curvature_of(state, k);
      add(direction, -alpha[i], stored(state, at, "y", k));
    }
    precondition(state, at, direction);
    for (std::int64_t k = 0; k < count; ++k) {
      const double beta = inner(stored(state, at, "y", k), direction) / curvature_of(state, k);
      add(direction, alpha[static_cast<std::size_t>(k)] - beta, stored(state, at, "s", k));
    }
    double slope = -inner(gradient, direction);
    if (!(slope < 0)) {  // rounding made it point uphill: steepest descent instead
      forget(state);
      direction = copy_of(gradient);
      precondition(state, at, direction);
      slope = -inner(gradient, direction);
    }
    if (slope == 0) return;  // at the minimum

    // Backtracking: the state holds the trial.
    constexpr double kSufficient = 1e-4;
    constexpr int kMostTrials = 12;
    const Point there = point_of(state, at);
    const Point before = copy_of(there);
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
    direction.each(
        [&](const Unknown&, std::size_t u, std::size_t k) { scale(direction.parts[u][k], -step); });
    const Point change = copy_of(gradient_of(state, trial));
    add(change, -1, gradient);
    const double curvature = inner(direction, change);
    // Only pairs of positive curvature keep the inverse Hessian positive.
    if (curvature > 1e-12 * std::sqrt(inner(direction, direction) * inner(change, change))) {
      remember(state, direction, change, curvature);
    }
  }

  // With x' = D x gradients become D^-1 g, and so the pairs' inner products stay what they are.
  void rescale(State& state, const std::string& unknown, double factor) override {
    for (Memory& memory : state.unknowns.at(unknown).memory) {
      for (std::int64_t k = 0; k < history_; ++k) {
        scale_if_present(memory, name("s", k), factor);
        scale_if_present(memory, name("y", k), 1 / factor);
      }
    }
  }

  void changed(State& state) override { forget(state); }

 private:
  static std::string name(const char* what, std::int64_t k) {
    return std::string("lbfgs_") + what + std::to_string(k);
  }
  // tensors(unknown, its values, its slopes) -> by part, of what `at` has slopes of.
  template <typename Tensors>
  Point collect(State& state, const Evaluation& at, const Tensors& tensors) const {
    Point point;
    each(state, at, [&](const Unknown& unknown, Values& values, const Slopes& slopes) {
      point.of.push_back(&unknown);
      point.parts.push_back(tensors(unknown, values, slopes));
    });
    return point;
  }
  Point gradient_of(State& state, const Evaluation& at) const {
    return collect(state, at, [](const Unknown&, const Values&, const Slopes& slopes) {
      return slopes.gradients;
    });
  }
  Point point_of(State& state, const Evaluation& at) const {
    return collect(state, at, [](const Unknown& unknown, const Values& values, const Slopes&) {
      std::vector<at::Tensor> parts;
      for (std::size_t k = 0; k < values.parts.size(); ++k) {
        parts.push_back(unknown.updated(values.parts[k], k));
      }
      return parts;
    });
  }
  Point stored(State& state, const Evaluation& at, const char* what, std::int64_t i) const {
    return collect(state, at, [&](const Unknown&, const Values& values, const Slopes&) {
      std::vector<at::Tensor> parts;
      for (const Memory& memory : values.memory) parts.push_back(memory.at(name(what, i)));
      return parts;
    });
  }
  // Which unknowns there are, as a number.
  double code_of(State& state, const Evaluation& at) const {
    double code = 0, digit = 1;
    each(state, [&](const Unknown& unknown, const Values&) {
      if (at.of.contains(unknown.name())) code += digit;
      digit *= 2;
    });
    return code;
  }
  void precondition(State& state, const Evaluation& at, const Point& direction) const {
    std::size_t u = 0;
    each(state, at, [&](const Unknown& unknown, const Values&, const Slopes& slopes) {
      for (std::size_t k = 0; k < slopes.gradients.size(); ++k) {
        driver::multiply(direction.parts[u][k], preconditioner(slopes.illumination[k], slopes.most,
                                                               1 / curvature_ / unknown.shares()));
      }
      ++u;
    });
  }
  static double& curvature_of(State& state, std::int64_t k) {
    return state.numbers["lbfgs_curvature" + std::to_string(k)];
  }

  void forget(State& state) const {
    each(state, [&](const Unknown&, Values& values) {
      for (Memory& memory : values.memory) {
        std::erase_if(memory, [](const auto& one) { return one.first.starts_with("lbfgs_"); });
      }
    });
    std::erase_if(state.numbers,
                  [](const auto& one) { return one.first.starts_with("lbfgs_curvature"); });
    state.numbers["lbfgs_pairs"] = 0;
  }

  static void store(State& state, const char* what, std::int64_t i, const Point& point) {
    point.each([&](const Unknown& unknown, std::size_t u, std::size_t k) {
      state.unknowns.at(unknown.name()).memory[k][name(what, i)] = point.parts[u][k];
    });
  }

  // Oldest first; the oldest goes when the memory is full.
  void remember(State& state, const Point& moved, const Point& change, double curvature) const {
    auto count = static_cast<std::int64_t>(state.numbers["lbfgs_pairs"]);
    if (count == history_) {
      for (const Unknown* unknown : moved.of) {
        for (Memory& memory : state.unknowns.at(unknown->name()).memory) {
          for (const char* what : {"s", "y"}) {
            for (std::int64_t k = 1; k < count; ++k) {
              memory[name(what, k - 1)] = memory[name(what, k)];
            }
          }
        }
      }
      for (std::int64_t k = 1; k < count; ++k) {
        curvature_of(state, k - 1) = curvature_of(state, k);
      }
      --count;
    }
    store(state, "s", count, moved);
    store(state, "y", count, change);
    curvature_of(state, count) = curvature;
    state.numbers["lbfgs_pairs"] = static_cast<double>(count + 1);
  }

  std::int64_t history_;
  double curvature_;
};

}  // namespace

std::unique_ptr<Optimizer> make_lbfgs(const Config::Reconstruct& settings, double curvature,
                                      const Unknowns& unknowns) {
  return std::make_unique<Lbfgs>(settings, curvature, unknowns);
}

}  // namespace ptyle::driver
