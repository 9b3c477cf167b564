// ptyle check: the geometry the program understood, and what is doubtful about it.
#pragma once

#include <cstdint>
#include <iosfwd>

#include "driver/config/config.h"

namespace ptyle::driver {

struct CheckOptions {
  std::int64_t ranks = 1;   // of the run that memory and tiles are told of
  bool halo_error = false;  // compute the gradient's error that a truncated halo makes
};

// Loads everything a run would load, prints what it means, writes nothing. Returns the exit code.
int check(Config config, std::ostream& out, const CheckOptions& options = {});

}  // namespace ptyle::driver
