// How gradients become updates of object and probe. All are complex-correct: a common phase of an
// unknown and its gradient rotates the step with it.
//
// Each rank works on what is its own of the object; sums over the object go over all ranks, tile by
// tile, and every rank takes the same decisions.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

#include "csrc/tiles.h"
#include "driver/config/config.h"
#include "driver/engine/state.h"

namespace ptyle::driver {

// Loss and gradients of the positions of one batch, at the state's object and probe.
struct Evaluation {
  double loss = 0.0;               // of all tiles
  std::vector<at::Tensor> object;  // by tile, views of what is updated; empty where not refined
  at::Tensor probe;                // of all tiles; undefined where not refined
  // How strongly the batch constrains each pixel: sum over its positions of |probe|^2 on the
  // object, [rows, columns] by tile, and of |O_1|^2 in the window, [h, w]. Real.
  std::vector<at::Tensor> object_illumination;
  double most_object_illumination = 0.0;  // of all tiles
  at::Tensor probe_illumination;
};

// What of this rank's tiles is worked on, and how sums over all tiles are made.
struct Workplace {
  std::vector<Rectangle> updated;  // by tile, in its frame
  std::vector<Rectangle> counted;  // by tile, in `updated`: every pixel of the object is in one
  // One number a tile of this rank -> the sum over all tiles of all ranks.
  std::function<double(const std::vector<double>&)> sum;

  at::Tensor view(std::size_t tile, const at::Tensor& frame) const;
  at::Tensor counted_view(std::size_t tile, const at::Tensor& of_updated) const;
};

class Optimizer {
 public:
  virtual ~Optimizer() = default;
  // Updates the state's object and probe (what `at` has gradients of). `evaluate` computes the
  // batch anew at the state's present object and probe, for searches along a line.
  virtual void update(State& state, const Evaluation& at,
                      const std::function<Evaluation()>& evaluate) = 0;
  // The state's object was multiplied by object_factor and its probe by probe_factor: carry the
  // memory along.
  virtual void rescale(State& state, double object_factor, double probe_factor) = 0;
};

// `curvature`: of the likelihood at its minimum relative to the amplitude likelihood's; steps of
// descent are divided by it. `workplace` must outlive the optimiser.
std::unique_ptr<Optimizer> make_optimizer(const Config::Reconstruct& settings, double curvature,
                                          const Workplace& workplace);

}  // namespace ptyle::driver
