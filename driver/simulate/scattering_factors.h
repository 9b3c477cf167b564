// Electron scattering factors of the neutral atoms, from published parametrisations.
#pragma once

#include <array>
#include <string_view>

namespace ptyle::driver {

inline constexpr int kElementCount = 103;

struct KirklandParameters {
  std::string_view symbol;
  std::array<double, 12> values;  // a1, b1, a2, b2, a3, b3, c1, d1, c2, d2, c3, d3
};

struct LobatoParameters {
  std::string_view symbol;
  std::array<double, 10> values;  // a1, b1, ..., a5, b5
};

// Entry Z - 1 is the element with atomic number Z.
extern const std::array<KirklandParameters, kElementCount> kKirklandTable;
extern const std::array<LobatoParameters, kElementCount> kLobatoTable;

enum class ScatteringTable { kKirkland, kLobato };

// f_e(q) in angstrom, q = 2 sin(theta) / lambda in 1/angstrom, first Born approximation.
// Kirkland: sum_i a_i / (b_i + q^2) + c_i exp(-d_i q^2).
// Lobato:   sum_i a_i (2 + b_i q^2) / (1 + b_i q^2)^2.
// Throws ConfigError for an atomic number outside 1 to 103.
double electron_scattering_factor_A(ScatteringTable table, int atomic_number, double q_squared);

// The atom's projected potential in volt angstrom at a distance from its centre (Kirkland 2010,
// eq. C.20, without a bound on frequencies): modified Bessel functions K0 and Gaussians.
double kirkland_projected_potential_VA(int atomic_number, double distance_A);

// Fourier coefficient of the projected potential (volt angstrom^3) per angstrom of scattering
// factor: 2 pi a0 e / (4 pi eps0) = 47.878 V A^2.
double potential_per_scattering_factor_VA2();

}  // namespace ptyle::driver
