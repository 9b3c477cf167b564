// The probe to begin with: from a file or computed, in the problem's window.
#pragma once

#include <ATen/core/Tensor.h>

#include "driver/config/config.h"
#include "driver/io/hdf5.h"
#include "driver/io/problem.h"

namespace ptyle::driver {

// Into problem.probe. `shift`: of the corner of the probe's own window in the pattern's.
void load_probe(const Config& config, Problem& problem, NumberPair& shift);

// Whether probe or object is moved where positions lie between pixels: into the problem.
void choose_what_moves(const Config& config, const at::Tensor& positions, Problem& problem);

// Patterns of another beam: our simulations say of which they are. A doubt.
void compare_energy(const Config& config, const hdf5::File& file, Problem& problem);

}  // namespace ptyle::driver
