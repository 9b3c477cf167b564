#include "driver/engine/terms.h"

namespace ptyle::driver {
namespace {

template <typename Make>
struct Kind {
  std::string_view name;
  Make* make;
};
constexpr Kind<decltype(make_pure_phase)> kMakeConstraint[] = {{"pure_phase", make_pure_phase}};
constexpr Kind<decltype(make_tikhonov)> kMakeRegulariser[] = {{"tikhonov", make_tikhonov}};

}  // namespace

std::unique_ptr<Step> make_constraint(const Config::Condition& settings, const Unknowns& unknowns) {
  return named(kMakeConstraint, settings.kind).make(settings, unknowns);
}

std::unique_ptr<Term> make_regulariser(const Config::Condition& settings, const Unknowns& unknowns,
                                       double unit) {
  return named(kMakeRegulariser, settings.kind).make(settings, unknowns, unit);
}

}  // namespace ptyle::driver
