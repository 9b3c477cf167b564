// [[constraint]] kind = "pure_phase": the object absorbs nothing.
#include "driver/engine/terms.h"
#include "driver/engine/vectors.h"

namespace ptyle::driver {
namespace {

class PurePhaseStep final : public Step {
 public:
  PurePhaseStep(const Config::Condition& settings, const Unknowns& unknowns)
      : settings_(settings), unknowns_(unknowns) {}

  bool due(const State& state, std::int64_t batches) const override {
    return state.batch == batches && settings_.due(state.iteration);
  }
  void act(State& state, std::int64_t, Optimizer&) override {
    for (const auto& unknown : unknowns_) {
      if (unknown->name() != settings_.on || !unknown->refined(state.iteration)) continue;
      const Values& values = state.unknowns.at(settings_.on);
      for (std::size_t k = 0; k < values.parts.size(); ++k) {
        pure_phase(unknown->updated(values.parts[k], k), settings_.weight);
      }
    }
  }

 private:
  const Config::Condition& settings_;
  const Unknowns& unknowns_;
};

}  // namespace

std::unique_ptr<Step> make_pure_phase(const Config::Condition& settings, const Unknowns& unknowns) {
  return std::make_unique<PurePhaseStep>(settings, unknowns);
}

}  // namespace ptyle::driver
