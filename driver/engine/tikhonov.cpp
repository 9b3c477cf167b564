// [[regulariser]] kind = "tikhonov": half the sum of |O - 1|^2, which is proximal to vacuum where
// the data say little.
#include "driver/engine/terms.h"
#include "driver/engine/vectors.h"

namespace ptyle::driver {
namespace {

class Tikhonov final : public Term {
 public:
  Tikhonov(const Config::Condition& settings, const Unknowns& unknowns)
      : settings_(settings), unknowns_(unknowns) {}

  bool joins(const State& state, std::int64_t) const override {
    return settings_.due(state.iteration);
  }
  // The likelihood's second derivative with respect to a pixel is 2 I: of the data at 5 % of the
  // largest illumination, weight 1 is as much.
  void add(const State& state, std::int64_t, Evaluation& at, double most_illumination,
           Joined& joined) override {
    const double weight = 2 * settings_.weight * kLeastIllumination * most_illumination;
    at.curvature += weight;
    for (const auto& unknown : unknowns_) {
      const auto found = at.of.find(unknown->name());
      if (unknown->name() != settings_.on || found == at.of.end()) continue;
      for (std::size_t k = 0; k < found->second.gradients.size(); ++k) {
        const at::Tensor x = unknown->updated(state.unknowns.at(settings_.on).parts[k], k);
        pull_to_vacuum(found->second.gradients[k], x, weight);
        joined.energies[k] += weight / 2 * distance_to_vacuum(unknown->counted(x, k));
      }
    }
  }

 private:
  const Config::Condition& settings_;
  const Unknowns& unknowns_;
};

}  // namespace

std::unique_ptr<Term> make_regulariser(const Config::Condition& settings,
                                       const Unknowns& unknowns) {
  return std::make_unique<Tikhonov>(settings, unknowns);
}

}  // namespace ptyle::driver
