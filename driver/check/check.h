// ptyle check: the geometry the program understood, and what is doubtful about it.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <string>
#include <vector>

#include "driver/config/config.h"

namespace ptyle::driver {

struct Problem;

// Loads everything a run would load, prints what it means, writes nothing. Returns the exit code.
int check(const Config& config, std::ostream& out);

// The doubts alone, one sentence each.
std::vector<std::string> doubts(const Config& config, const Problem& problem);

// Memory of a run on one rank, in bytes.
std::int64_t predicted_bytes(const Config& config, const Problem& problem);

}  // namespace ptyle::driver
