// Checkpoints: the whole state in one HDF5 file, replaced atomically, so that a reconstruction that
// was killed goes on with the very bits it would have had.
#pragma once

#include <string>

#include "driver/config/config.h"
#include "driver/engine/state.h"

namespace ptyle::driver {

void write_checkpoint(const std::string& path, const State& state, const Config& config);

// Throws DataError where the file is damaged, ConfigError where `config` differs from the one that
// the checkpoint was made with in anything but the number of iterations and the output.
State read_checkpoint(const std::string& path, const Config& config);

}  // namespace ptyle::driver
