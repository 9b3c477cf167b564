// How gradients become updates of object and probe. All are complex-correct: a common phase of an
// unknown and its gradient rotates the step with it.
//
// Each rank works on what is its own of the object; sums over the object go over all ranks, tile by
// tile, and every rank takes the same decisions.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "csrc/tiles.h"
#include "driver/config/config.h"
#include "driver/engine/state.h"

namespace ptyle::driver {

// Loss and gradients of the positions of one batch, at the state's object and probe.
struct Evaluation {
  std::int64_t batch = 0;
  double loss = 0.0;               // of all tiles
  double squared_error = 0.0;      // sum of (sqrt(I) - sqrt(n))^2, of all tiles
  std::vector<at::Tensor> object;  // by tile, views of what is updated; empty where not refined
  at::Tensor probe;                // of all tiles; undefined where not refined
  // How strongly the batch constrains each pixel: sum over its positions and modes of |psi|^2, psi
  // the wave that is incident on the slice, [slices, rows, columns] by tile, and its largest value
  // in all tiles by slice; and of |O_1|^2 in the window, [h, w]. Real. Empty for Adam.
  std::vector<at::Tensor> object_illumination;
  std::vector<double> most_illumination;
  at::Tensor probe_illumination;
  // What other tiles found since the last exchange, behind an update by the tile's own gradients.
  bool follows = false;
};

// What batches hold, the same on every rank.
struct BatchFacts {
  std::vector<double> positions, counts;  // by batch: their number, and the sum of unmasked counts
};

// What of this rank's tiles is worked on, and how sums over all tiles are made.
struct Workplace {
  std::vector<Rectangle> updated;  // by tile, in its frame
  std::vector<Rectangle> counted;  // by tile, in `updated`: every pixel of the object is in one
  std::int64_t slices = 1;
  // Updates that each gradient leads to: 2 where a tile follows its own at once and then others'.
  double moves = 1.0;
  // The largest of each number over all ranks.
  std::function<std::vector<double>(std::vector<double>)> maximum;
  // One number for each tile of this rank -> the sum over all tiles of all ranks.
  std::function<double(const std::vector<double>&)> sum;

  at::Tensor view(std::size_t tile, const at::Tensor& frame) const;
  at::Tensor counted_view(std::size_t tile, const at::Tensor& of_updated) const;
};

class Optimizer {
 public:
  virtual ~Optimizer() = default;
  // Whether batches are visited in the same order in every iteration.
  virtual bool keeps_order() const { return false; }
  // Whether update() takes a loss that is not finite.
  virtual bool recovers() const { return false; }
  // Before the first batch of an iteration. True where that moved the object.
  virtual bool begin_iteration(State&) { return false; }
  // Updates the state's object and probe (what `at` has gradients of). `evaluate` computes the
  // batch anew at the state's present object and probe, for searches along a line.
  virtual void update(State& state, const Evaluation& at,
                      const std::function<Evaluation()>& evaluate) = 0;
  // After the last batch; state.loss is the sum of the iteration's losses. May take back what the
  // iteration did.
  virtual void end_iteration(State&) {}
  // Back to the last point that a batch has proven; false where none is remembered.
  virtual bool retreat(State&) const { return false; }
  // The state's object was multiplied by object_factor and its probe by probe_factor: carry the
  // memory along.
  virtual void rescale(State& state, double object_factor, double probe_factor) = 0;
};

// `curvature`: of the likelihood at its minimum relative to the amplitude likelihood's; steps of
// descent are divided by it. `workplace` must outlive the optimiser.
std::unique_ptr<Optimizer> make_optimizer(const Config::Reconstruct& settings, double curvature,
                                          const Workplace& workplace, BatchFacts facts);

// What an optimiser remembers under a name, of the size of `like`; zeros at first.
at::Tensor& tensor_like(std::map<std::string, at::Tensor>& tensors, const std::string& name,
                        const at::Tensor& like, at::ScalarType type);

// The default rule (descent.cpp).
std::unique_ptr<Optimizer> make_descent(const Config::Reconstruct& settings, double curvature,
                                        const Workplace& workplace, BatchFacts facts);

}  // namespace ptyle::driver
