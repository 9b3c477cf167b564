#include "driver/simulate/scattering_factors.h"

#include <cmath>
#include <string>

#include "csrc/optics.h"
#include "driver/errors.h"

namespace ptyle::driver {
namespace {

size_t table_index(int atomic_number) {
  if (atomic_number < 1 || atomic_number > kElementCount) {
    throw ConfigError("atomic number: must be from 1 to " + std::to_string(kElementCount) +
                      ", got " + std::to_string(atomic_number));
  }
  return static_cast<size_t>(atomic_number - 1);
}

}  // namespace

double electron_scattering_factor_A(ScatteringTable table, int atomic_number, double q_squared) {
  const size_t index = table_index(atomic_number);
  double sum = 0.0;
  if (table == ScatteringTable::kKirkland) {
    const auto& p = kKirklandTable[index].values;
    for (size_t i = 0; i < 6; i += 2) sum += p[i] / (p[i + 1] + q_squared);
    for (size_t i = 6; i < 12; i += 2) sum += p[i] * std::exp(-p[i + 1] * q_squared);
  } else {
    const auto& p = kLobatoTable[index].values;
    for (size_t i = 0; i < 10; i += 2) {
      const double bq = p[i + 1] * q_squared;
      sum += p[i] * (2.0 + bq) / ((1.0 + bq) * (1.0 + bq));
    }
  }
  return sum;
}

double kirkland_projected_potential_VA(int atomic_number, double distance_A) {
  const auto& p = kKirklandTable[table_index(atomic_number)].values;
  constexpr double pi = kPi<double>;
  double lorentzians = 0.0;
  for (size_t i = 0; i < 6; i += 2) {
    lorentzians += p[i] * std::cyl_bessel_k(0.0, 2.0 * pi * distance_A * std::sqrt(p[i + 1]));
  }
  double gaussians = 0.0;
  for (size_t i = 6; i < 12; i += 2) {
    gaussians += p[i] / p[i + 1] * std::exp(-pi * pi * distance_A * distance_A / p[i + 1]);
  }
  return potential_per_scattering_factor_VA2() * (2.0 * pi * lorentzians + pi * gaussians);
}

double potential_per_scattering_factor_VA2() {
  return 2.0 * kPi<double> * kBohrRadiusA * kCoulombVA;
}

}  // namespace ptyle::driver
