// What a reconstruction leaves behind: result.h5 and pictures.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "driver/config/config.h"
#include "driver/engine/engine.h"
#include "driver/engine/state.h"
#include "driver/io/doubt.h"
#include "driver/io/problem.h"
#include "driver/tiles/decomposition.h"
#include "driver/tiles/ranks.h"

namespace ptyle::driver {

// What is stored beside the state: what was doubtful at the start, and how well the state fits.
struct Remarks {
  std::vector<Doubt> doubts;
  std::optional<Residuals> fit;  // absent where the run was interrupted or diverged
};

// /object, /probe (modes made orthogonal), /positions and /history, units as attributes. Called by
// all ranks; rank 0 writes.
void write_result(const std::string& path, const State& state, const Unknowns& unknowns,
                  const Config& config, const Problem& problem, const Ranks& ranks,
                  const Remarks& remarks);
// object_phase.png, object_amplitude.png and probe.png into `folder`, of the result that was
// written there.
void write_pictures(const std::string& folder, const State& state, const Problem& problem);

}  // namespace ptyle::driver
