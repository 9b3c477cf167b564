// What a reconstruction leaves behind: result.h5 and pictures.
#pragma once

#include <string>

#include "driver/config/config.h"
#include "driver/engine/state.h"
#include "driver/io/problem.h"
#include "driver/tiles/decomposition.h"
#include "driver/tiles/ranks.h"

namespace ptyle::driver {

// /object, /probe (modes made orthogonal), /positions and /history, units as attributes. Called by
// all ranks; rank 0 writes.
void write_result(const std::string& path, const State& state, const Config& config,
                  const Problem& problem, const Decomposition& decomposition, const Ranks& ranks);
// object_phase.png, object_amplitude.png and probe.png into `folder`, of the result that was
// written there.
void write_pictures(const std::string& folder, const State& state, const Problem& problem);

}  // namespace ptyle::driver
