// How gradients become updates of object and probe. All are complex-correct: a common phase of an
// unknown and its gradient rotates the step with it.
#pragma once

#include <functional>
#include <memory>

#include <ATen/core/Tensor.h>

#include "driver/config/config.h"
#include "driver/engine/state.h"

namespace ptyle::driver {

// Loss and gradients of the positions of one batch, at the state's object and probe.
struct Evaluation {
  double loss = 0.0;
  at::Tensor object;  // undefined where not refined
  at::Tensor probe;
  // How strongly the batch constrains each pixel: sum over its positions of |probe|^2 on the
  // object, [rows, columns], and of |O_1|^2 in the window, [h, w]. Real.
  at::Tensor object_illumination;
  at::Tensor probe_illumination;
};

class Optimizer {
 public:
  virtual ~Optimizer() = default;
  // Updates state.object and state.probe (what `at` has gradients of). `evaluate` computes the
  // batch anew at the state's present object and probe, for searches along a line.
  virtual void update(State& state, const Evaluation& at,
                      const std::function<Evaluation()>& evaluate) = 0;
  // The state's object was multiplied by object_factor and its probe by probe_factor: carry the
  // memory along.
  virtual void rescale(State& state, double object_factor, double probe_factor) = 0;
};

// `curvature`: of the likelihood at its minimum relative to the amplitude likelihood's; steps of
// descent are divided by it.
std::unique_ptr<Optimizer> make_optimizer(const Config::Reconstruct& settings, double curvature);

}  // namespace ptyle::driver
