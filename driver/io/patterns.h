// Patterns of a problem: where they come from, and what they are together.
#pragma once

#include <cstdint>
#include <vector>

#include "driver/config/config.h"
#include "driver/io/problem.h"
#include "driver/io/stack.h"
#include "driver/io/window.h"

namespace ptyle::driver {

// Patterns of some positions (ascending), read anew: they need not be held.
PatternBlock patterns_of(const Config& config, const Problem& problem,
                         std::vector<std::int64_t> positions);

// Looks at a few frames, the same on every rank: marks of unmeasured pixels become
// problem.unmeasured, the usual shares of counts problem.block_shares; hot pixels are doubted.
void look_at_some(const Config& config, const Stack& stack, const PixelMap& map, Problem& problem);

}  // namespace ptyle::driver
