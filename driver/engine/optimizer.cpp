#include "driver/engine/optimizer.h"

#include <utility>

namespace ptyle::driver {

std::unique_ptr<Optimizer> make_optimizer(const Config::Reconstruct& settings, double curvature,
                                          const Unknowns& unknowns, BatchFacts facts) {
  if (settings.optimizer == "adam") return make_adam(unknowns);
  if (settings.optimizer == "lbfgs") return make_lbfgs(settings, curvature, unknowns);
  return make_descent(settings, curvature, unknowns, std::move(facts));
}

}  // namespace ptyle::driver
