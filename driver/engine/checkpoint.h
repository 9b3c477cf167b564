// Checkpoints: the whole state in one HDF5 file, replaced atomically, so that a reconstruction that
// was killed goes on with the very bits it would have had.
#pragma once

#include <string>

#include "driver/config/config.h"
#include "driver/engine/state.h"

namespace ptyle::driver {

// `data`: what the data is, in one line (Engine::fingerprint).
void write_checkpoint(const std::string& path, const State& state, const Config& config,
                      const std::string& data);

// Throws DataError where the file is damaged or `data` is not what it was made with, ConfigError
// where `config` differs from the one it was made with in anything but the number of iterations and
// the output.
State read_checkpoint(const std::string& path, const Config& config, const std::string& data);

}  // namespace ptyle::driver
