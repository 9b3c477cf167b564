// The probe to begin with: from a file or computed, in the problem's window.
#pragma once

#include <ATen/core/Tensor.h>

#include "driver/config/config.h"
#include "driver/io/problem.h"
#include "driver/io/stack.h"

namespace ptyle::driver {

// Into problem.probe. `shift`: of the corner of the probe's own window in the pattern's.
void load_probe(const Config& config, Problem& problem, NumberPair& shift);

// Whether probe or object is moved where positions lie between pixels: into the problem.
void choose_what_moves(const Config& config, const at::Tensor& positions, Problem& problem);

// Patterns of another beam or of other pixels: our simulations say of which they are. Doubts.
void compare_with_file(const Config& config, const Stack& stack, Problem& problem);

}  // namespace ptyle::driver
