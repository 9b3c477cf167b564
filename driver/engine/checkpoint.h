// Checkpoints: the whole state in one HDF5 file, replaced atomically, so that a reconstruction that
// was killed goes on with the very bits it would have had, on any number of ranks.
#pragma once

#include <string>

#include "driver/config/config.h"
#include "driver/engine/state.h"
#include "driver/engine/unknown.h"
#include "driver/tiles/decomposition.h"
#include "driver/tiles/ranks.h"

namespace ptyle::driver {

// Called by all ranks; rank 0 writes. `data`: what the data is, in one line (Engine::fingerprint).
void write_checkpoint(const std::string& path, const State& state, const Unknowns& unknowns,
                      const Config& config, const std::string& data,
                      const Decomposition& decomposition, const Ranks& ranks);

// The grid that a checkpoint was made with.
Pair checkpoint_grid(const std::string& path);

// This rank's part; start: a state as runs begin, whose sizes and types it must have. Throws
// DataError where the file is damaged or `data` is not what it was made with, ConfigError where
// `config` differs from the one it was made with in more than how unknowns are updated and where
// things lie.
State read_checkpoint(const std::string& path, State start, const Unknowns& unknowns,
                      const Config& config, const std::string& data,
                      const Decomposition& decomposition, const Ranks& ranks);

}  // namespace ptyle::driver
