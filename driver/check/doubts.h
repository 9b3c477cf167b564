// What is doubtful about a config and its data: told by `check`, and by `run` before it begins.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "driver/config/config.h"
#include "driver/io/doubt.h"

namespace ptyle::driver {

struct Problem;
struct Decomposition;

// Lengths in pixels of the object.
struct Scan {
  double step = 0.0;      // between neighbours
  double diameter = 0.0;  // of the probe
  double area = 0.0;      // that the scan covers
  double overlap() const;
};
Scan scan_of(const Problem& problem);

// The share of the illumination of a tile's positions that lies outside its extended tile, where a
// truncated halo takes the object for vacuum.
double energy_cut(const Problem& problem, const Decomposition& decomposition, std::int64_t tile);
double worst_energy_cut(const Problem& problem, const Decomposition& decomposition);

// Whether all patterns, summed, are whole numbers.
bool whole_counts(const Problem& problem);
// The statistics must be those of all positions.
std::vector<Doubt> doubts(const Config& config, const Problem& problem,
                          const Decomposition& decomposition);

}  // namespace ptyle::driver
