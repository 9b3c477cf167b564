// Whether a run goes well, and what its fit means in the end. The same on every rank.
#pragma once

#include <string>
#include <vector>

#include "driver/config/config.h"
#include "driver/engine/engine.h"
#include "driver/engine/state.h"
#include "driver/io/doubt.h"
#include "driver/io/problem.h"

namespace ptyle::driver {

// What the errors of all iterations so far say.
enum class Course {
  kFine,
  kRising,    // well above the least so far, and above noise: not worth a checkpoint
  kDiverged,  // above what any object without gain gives
};
// `highest`: Engine::highest_error. The errors of a run whose fit only fluctuates within what noise
// explains, or falls from a start on a wrong scale, are fine.
Course course_of(const History& history, const Problem& problem, double highest);

// Whether a run that is complete has ended far above its best, or above its start.
bool ended_diverged(const History& history, const Problem& problem);

// One sentence: how the error went, and what to change. An error beyond those of so many iterations
// is the result's own.
std::string words_of_divergence(const Config& config, const Problem& problem,
                                const History& history, double highest, std::int64_t iterations);

// A fit this many times above counting noise is worth a warning.
inline constexpr double kFarAboveNoise = 2.0;

// Why a fit may be far above noise: from the residuals of patterns and pixels, the errors of the
// iterations, and what was doubtful at the start. Likeliest first; what it often is comes last.
std::vector<std::string> likely_causes(const Config& config, const Problem& problem,
                                       const History& history, const Residuals& residuals,
                                       const std::vector<Doubt>& doubts);

// "amplitude_error 0.31, ...": the fit beside what counting noise would leave, per likelihood.
std::string words_of_fit(const Config& config, const Residuals& residuals);

}  // namespace ptyle::driver
