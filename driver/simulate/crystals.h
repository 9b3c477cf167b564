// Crystals by their published structures, cut to slabs of atoms.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ptyle::driver {

struct Site {
  int atomic_number;
  double a, b, c;             // fractional coordinates
  double rms_displacement_A;  // thermal, along one axis
};

// An orthogonal cell.
struct Crystal {
  std::string_view name;
  double a_A, b_A, c_A;
  std::vector<Site> sites;
  std::string_view reference;
};

const Crystal& lead_titanate();
const Crystal& strontium_titanate();

// Position in the image (row, column) and depth below the entrance face.
struct Atom {
  int atomic_number;
  double row_A, column_A, depth_A;
  double rms_displacement_A;
};

// The crystal axis that the beam travels along. [001]: rows along b, columns along a.
// [100]: rows along b, columns along c, so that a polar axis c lies in the image.
enum class Orientation { k001, k100 };

Orientation parse_orientation(const std::string& text);
// Repeat lengths (row, column, depth) of the cell in an orientation.
struct CellLengths {
  double row_A, column_A, depth_A;
};
CellLengths cell_lengths(const Crystal& crystal, Orientation orientation);

// All atoms with 0 <= row < rows_A, 0 <= column < columns_A, 0 <= depth < thickness_A, the cell's
// origin at (0, 0, 0).
std::vector<Atom> crystal_slab(const Crystal& crystal, Orientation orientation, double rows_A,
                               double columns_A, double thickness_A);

// Every atom moved by independent normal displacements along the three axes (Einstein's model), in
// the order of the atoms; depth_A too.
std::vector<Atom> displaced(const std::vector<Atom>& atoms, uint64_t seed);

}  // namespace ptyle::driver
