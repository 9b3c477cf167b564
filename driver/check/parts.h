// The parts of doubts(): each adds what it finds.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

#include "driver/check/doubts.h"
#include "driver/config/config.h"
#include "driver/io/problem.h"

namespace ptyle::driver {

// Energies, pixels and distances that are unusual for the kind of beam, with the likely unit.
void doubt_units(const Config& config, const Problem& problem, std::vector<Doubt>& found);

// A probe against what the window and the detector sample, and against the mean pattern's disc.
void doubt_probe(const Config& config, const Problem& problem, const Scan& scan,
                 std::vector<Doubt>& found);

// Whether the patterns are turned or mirrored against the scan: by how the specimen's shadow moves
// on the detector under a defocused probe; and a wave's mean direction is a gradient over the
// positions, which has no curl.
void doubt_orientation(const Config& config, const Problem& problem, const Scan& scan,
                       std::vector<Doubt>& found);

// Frames that hold the values of another, and positions that are one place.
void doubt_repeats(const Problem& problem, std::vector<Doubt>& found);

// Mean square distance of an image's values from a pixel, periodic, in units of that of an even
// one: below 1 where they lie around it. image: [h, w] float64, contiguous.
double spread_around(const at::Tensor& image, std::int64_t row, std::int64_t column);

// Where the mean pattern has its zero frequency, and whether the values are counts.
void doubt_patterns(const Config& config, const Problem& problem, std::vector<Doubt>& found);

// In the mean of so many patterns the specimen's structure is averaged out.
inline constexpr std::int64_t kAveraged = 9;

// The zero frequency that the mean pattern suggests (far field), in the window's pixels beyond its
// index [0, 0]: the middle of its bright part. nullopt where too little of that is measured.
std::optional<std::array<double, 2>> zero_frequency_of(const Problem& problem);

}  // namespace ptyle::driver
