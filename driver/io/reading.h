// Reading patterns and masks: from stored values to windows of counts, with what is found on the
// way.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <type_traits>

#include <ATen/core/Tensor.h>

#include "driver/config/config.h"
#include "driver/io/problem.h"
#include "driver/io/stack.h"
#include "driver/io/window.h"

namespace ptyle::driver {

constexpr std::int64_t kStatistics = 11;  // columns of Problem::statistics

// Patterns of problem.held, mask and statistics. Values that are not finite or do not fit are told
// in `evidence` where `tolerant`, else thrown.
void read_patterns(const Config& config, const Stack& stack, const PixelMap& map, bool tolerant,
                   Problem& problem);

// Whether so many patterns are read again in every iteration, instead of being kept in memory.
bool streams_patterns(const Config& config, std::int64_t patterns, std::int64_t pixels);

// Whether detector.dark or detector.gain change values.
bool is_calibrated(const Config& config);
// The type that patterns are kept in.
at::ScalarType kept_type(at::ScalarType stored, bool calibrated, std::int64_t per_pixel);

// A mark of unmeasured pixels, as it is stored and as it was meant.
std::string marker_words(double value, bool in_float);

template <typename T>
bool is_not_finite(T value) {
  if constexpr (std::is_floating_point_v<T>) {
    return !std::isfinite(value);
  } else {
    return false;
  }
}

// A stored mask [H, W], nonzero = bad, as bytes [h, w] of the window. Unmeasured pixels are bad.
template <typename T>
void map_mask(const T* stored, const PixelMap& map, std::uint8_t* out) {
  const std::int64_t* source = map.source.data();
  for (std::int64_t pixel = 0; pixel < map.pixels(); ++pixel) {
    std::uint8_t bad = 0;
    for (std::int64_t k = 0; k < map.per_pixel; ++k, ++source) {
      // NaN counts as nonzero.
      bad |= static_cast<std::uint8_t>(*source < 0 || !(stored[*source] == T(0)));
    }
    out[pixel] = bad;
  }
}

}  // namespace ptyle::driver
