// How slopes become updates of the unknowns. All are complex-correct: a common phase of an unknown
// and its gradient rotates the step with it.
//
// Each rank works on its own parts; sums over an unknown go over all ranks, tile by tile, and every
// rank takes the same decisions.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "driver/config/config.h"
#include "driver/engine/state.h"
#include "driver/engine/unknown.h"

namespace ptyle::driver {

// A loss this many times another one has risen, and does not merely fluctuate.
inline constexpr double kMuchMore = 1.5;

// Loss and slopes of the positions of one batch, at the state's unknowns.
struct Evaluation {
  std::int64_t batch = 0;
  double loss = 0.0;                 // of all tiles, with what terms add
  double squared_error = 0.0;        // sum of (sqrt(I) - sqrt(n))^2, of all tiles
  std::map<std::string, Slopes> of;  // by name, of what is refined in this iteration
  double share = 1.0;                // of the positions that an iteration works on
  double curvature = 0.0;  // of what terms add, with respect to each element of their unknown
  // What other tiles found since the last exchange, behind an update by the tile's own gradients.
  bool follows = false;
};

// What batches hold, the same on every rank.
struct BatchFacts {
  std::vector<double> positions, counts;  // by batch: their number, and the sum of unmasked counts
};

class Optimizer {
 public:
  explicit Optimizer(const Unknowns& unknowns) : unknowns_(unknowns) {}
  virtual ~Optimizer() = default;
  // Whether batches are visited in the same order in every iteration.
  virtual bool keeps_order() const { return false; }
  // Whether update() takes a loss that is not finite.
  virtual bool recovers() const { return false; }
  // Another function is minimised from now on: its losses are no measure of those before.
  virtual void changed(State&) {}
  // Before the first batch of an iteration. True where that moved a tiled unknown.
  virtual bool begin_iteration(State&) { return false; }
  // Updates what `at` has slopes of. `evaluate` computes the batch anew at the state's present
  // unknowns, for searches along a line.
  virtual void update(State& state, const Evaluation& at,
                      const std::function<Evaluation()>& evaluate) = 0;
  // After the last batch; state.loss is the sum of the iteration's losses. May take back what the
  // iteration did.
  virtual void end_iteration(State&) {}
  // Back to the last point that a batch has proven; false where none is remembered.
  virtual bool retreat(State&) const { return false; }
  // The state's unknown of that name was multiplied by `factor`: carry the memory along.
  virtual void rescale(State& state, const std::string& name, double factor) = 0;

 protected:
  // All that are refined at some time: use(unknown, its values).
  template <typename Use>
  void each(State& state, const Use& use) const {
    for (const auto& unknown : unknowns_) {
      if (unknown->refined()) use(*unknown, state.unknowns.at(unknown->name()));
    }
  }
  // Those that `at` has slopes of: use(unknown, its values, its slopes).
  template <typename Use>
  void each(State& state, const Evaluation& at, const Use& use) const {
    each(state, [&](const Unknown& unknown, Values& values) {
      const auto found = at.of.find(unknown.name());
      if (found != at.of.end()) use(unknown, values, found->second);
    });
  }

 private:
  const Unknowns& unknowns_;
};

// `curvature`: of the likelihood at its minimum relative to the amplitude likelihood's; steps of
// descent are divided by it. `unknowns` must outlive the optimiser.
std::unique_ptr<Optimizer> make_optimizer(const Config::Reconstruct& settings, double curvature,
                                          const Unknowns& unknowns, BatchFacts facts);

// A file each.
std::unique_ptr<Optimizer> make_descent(const Config::Reconstruct& settings, double curvature,
                                        const Unknowns& unknowns, BatchFacts facts);
std::unique_ptr<Optimizer> make_adam(const Unknowns& unknowns);
std::unique_ptr<Optimizer> make_lbfgs(const Config::Reconstruct& settings, double curvature,
                                      const Unknowns& unknowns);

}  // namespace ptyle::driver
