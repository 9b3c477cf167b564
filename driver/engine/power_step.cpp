#include <cmath>

#include "driver/engine/terms.h"
#include "driver/engine/vectors.h"

namespace ptyle::driver {
namespace {

class PowerStep final : public Step {
 public:
  PowerStep(const Unknowns& unknowns, const std::vector<Config::Condition>& constraints)
      : unknowns_(unknowns), constraints_(constraints) {}

  bool due(const State& state, std::int64_t batches) const override {
    if (state.batch < batches) return false;
    for (const Config::Condition& one : constraints_) {
      if (one.on == "object" && one.weight == 1.0 && one.due(state.iteration)) return false;
    }
    for (const auto& unknown : unknowns_) {
      const bool one_of_two = unknown->name() == "object" || unknown->name() == "probe";
      if (one_of_two && !unknown->refined(state.iteration)) return false;
    }
    return true;
  }

  void act(State& state, std::int64_t /*batches*/, Optimizer& optimizer) override {
    const double now = power(state.probe());
    if (!std::isfinite(now) || !(now > 0) || !(state.start_power > 0)) return;
    const double probe_factor = std::sqrt(state.start_power / now);
    const auto slices = static_cast<double>(state.object(0).size(0));
    const double object_factor = std::pow(probe_factor, -1.0 / slices);
    scale(state.probe(), probe_factor);
    for (const at::Tensor& tile : state.objects()) scale(tile, object_factor);
    optimizer.rescale(state, "object", object_factor);
    optimizer.rescale(state, "probe", probe_factor);
  }

 private:
  const Unknowns& unknowns_;
  const std::vector<Config::Condition>& constraints_;
};

}  // namespace

std::unique_ptr<Step> make_power_step(const Unknowns& unknowns,
                                      const std::vector<Config::Condition>& constraints) {
  return std::make_unique<PowerStep>(unknowns, constraints);
}

}  // namespace ptyle::driver
