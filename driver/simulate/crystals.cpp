#include "driver/simulate/crystals.h"

#include <cmath>
#include <random>

#include "csrc/scalar.h"
#include "driver/errors.h"

namespace ptyle::driver {
namespace {

// u of one axis from the published B = 8 pi^2 u^2.
double rms_displacement_A(double debye_waller_B_A2) {
  return std::sqrt(debye_waller_B_A2 / 8.0) / kPi<double>;
}

}  // namespace

const Crystal& lead_titanate() {
  // The oxygen in the layer of lead (O1 in Wyckoff position 1b) and those in the layer of titanium
  // (2c) are both moved along +c against lead: the polarisation of the tetragonal phase.
  constexpr double kTitanium = 0.5281;
  constexpr double kOxygenInTitaniumLayer = 0.6130;
  constexpr double kOxygenInLeadLayer = 0.1339;
  static const Crystal crystal = {
      "PbTiO3",
      3.9039,
      3.9039,
      4.1348,
      {{82, 0.0, 0.0, 0.0, rms_displacement_A(0.53)},
       {22, 0.5, 0.5, kTitanium, rms_displacement_A(0.29)},
       {8, 0.5, 0.0, kOxygenInTitaniumLayer, rms_displacement_A(1.42)},
       {8, 0.0, 0.5, kOxygenInTitaniumLayer, rms_displacement_A(1.42)},
       {8, 0.5, 0.5, kOxygenInLeadLayer, rms_displacement_A(1.42)}},
      "J. Joseph, T. M. Vimala, V. Sivasubramanian and V. R. K. Murthy, Journal of Materials "
      "Science 35 (2000) 1571, ICSD 90693 (P4mm)"};
  return crystal;
}

const Crystal& strontium_titanate() {
  // Displacements at room temperature, rounded: B = 0.62, 0.44 and 0.73 A^2.
  static const Crystal crystal = {
      "SrTiO3",
      3.905,
      3.905,
      3.905,
      {{38, 0.0, 0.0, 0.0, rms_displacement_A(0.62)},
       {22, 0.5, 0.5, 0.5, rms_displacement_A(0.44)},
       {8, 0.5, 0.5, 0.0, rms_displacement_A(0.73)},
       {8, 0.5, 0.0, 0.5, rms_displacement_A(0.73)},
       {8, 0.0, 0.5, 0.5, rms_displacement_A(0.73)}},
      "W. Jauch and M. Reehuis, Acta Crystallographica A61 (2005) 411 (Pm-3m, a = 3.905 A)"};
  return crystal;
}

Orientation parse_orientation(const std::string& text) {
  if (text == "001") return Orientation::k001;
  if (text == "100") return Orientation::k100;
  throw ConfigError("--orientation: must be 001 or 100, got " + text);
}

CellLengths cell_lengths(const Crystal& crystal, Orientation orientation) {
  return orientation == Orientation::k001 ? CellLengths{crystal.b_A, crystal.a_A, crystal.c_A}
                                          : CellLengths{crystal.b_A, crystal.c_A, crystal.a_A};
}

std::vector<Atom> crystal_slab(const Crystal& crystal, Orientation orientation, double rows_A,
                               double columns_A, double thickness_A) {
  const CellLengths cell = cell_lengths(crystal, orientation);
  // A coordinate that is a whole number of cells must not fall on either side by rounding.
  constexpr double kTolerance = 1e-9;
  const auto count = [&](double length, double period) {
    return static_cast<int64_t>(std::ceil(length / period - kTolerance));
  };
  const auto inside = [&](double x, double length) { return x < length - kTolerance * length; };
  std::vector<Atom> atoms;
  for (int64_t layer = 0; layer < count(thickness_A, cell.depth_A); ++layer) {
    for (int64_t i = 0; i < count(rows_A, cell.row_A); ++i) {
      for (int64_t j = 0; j < count(columns_A, cell.column_A); ++j) {
        for (const Site& site : crystal.sites) {
          const bool along_c = orientation == Orientation::k001;
          const Atom atom = {
              site.atomic_number, (static_cast<double>(i) + site.b) * cell.row_A,
              (static_cast<double>(j) + (along_c ? site.a : site.c)) * cell.column_A,
              (static_cast<double>(layer) + (along_c ? site.c : site.a)) * cell.depth_A,
              site.rms_displacement_A};
          if (inside(atom.row_A, rows_A) && inside(atom.column_A, columns_A) &&
              inside(atom.depth_A, thickness_A)) {
            atoms.push_back(atom);
          }
        }
      }
    }
  }
  return atoms;
}

std::vector<Atom> displaced(const std::vector<Atom>& atoms, uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::normal_distribution<double> normal;
  std::vector<Atom> result = atoms;
  for (Atom& atom : result) {
    atom.row_A += atom.rms_displacement_A * normal(generator);
    atom.column_A += atom.rms_displacement_A * normal(generator);
    atom.depth_A += atom.rms_displacement_A * normal(generator);
  }
  return result;
}

}  // namespace ptyle::driver
