#pragma once

#include <cstdint>
#include <vector>

#include "driver/config/config.h"
#include "driver/io/problem.h"

namespace ptyle::driver {

// Patterns of some positions (ascending), read anew: they need not be held.
PatternBlock patterns_of(const Config& config, const Problem& problem,
                         std::vector<std::int64_t> positions);

}  // namespace ptyle::driver
