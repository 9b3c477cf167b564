// [[regulariser]] kind = "tikhonov": half the sum of |O - 1|^2, which is proximal to vacuum where
// the data say little.
#include "driver/engine/terms.h"
#include "driver/engine/vectors.h"

namespace ptyle::driver {
namespace {

class Tikhonov final : public Term {
 public:
  Tikhonov(const Config::Condition& settings, const Unknowns& unknowns, double unit)
      : settings_(settings), unknowns_(unknowns), unit_(unit) {}

  bool joins(const State& state, std::int64_t) const override {
    return settings_.due(state.iteration);
  }
  void add(const State& state, std::int64_t, Evaluation& at, Joined& joined) override {
    const double weight = settings_.weight * unit_ * at.share;
    for (const auto& unknown : unknowns_) {
      const auto found = at.of.find(unknown->name());
      if (unknown->name() != settings_.on || found == at.of.end()) continue;
      at.curvature += weight;
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
  double unit_;
};

}  // namespace

std::unique_ptr<Term> make_tikhonov(const Config::Condition& settings, const Unknowns& unknowns,
                                    double unit) {
  return std::make_unique<Tikhonov>(settings, unknowns, unit);
}

}  // namespace ptyle::driver
