// From the stored pattern to the window that a run works on.
#pragma once

#include <cstdint>
#include <vector>

#include "driver/config/config.h"

namespace ptyle::driver {

// What of the stored pattern the window takes; known before anything large is made.
struct Layout {
  IntegerPair stored = {0, 0}, oriented = {0, 0};
  IntegerPair start = {0, 0}, size = {0, 0};            // of the oriented pattern, unbinned
  IntegerPair used_start = {0, 0}, used_size = {0, 0};  // what is measured
  IntegerPair window = {0, 0};
  std::int64_t per_pixel = 1;                                 // stored pixels summed into one
  bool corner = false;                                        // far field, data.zero_frequency
  NumberPair zero_at = {0.0, 0.0}, zero_offset = {0.0, 0.0};  // as in Problem
  std::int64_t pixels() const { return window[0] * window[1]; }
};

// Which stored pixels make up each pixel of the window: orientation, crop, binning, padding and the
// move of the zero frequency in one table, the same for patterns, masks and dark images.
struct PixelMap : Layout {
  std::vector<std::int64_t> source;  // [h, w, per_pixel]; -1: not measured
};

// stored: rows and columns of a pattern. ConfigError where the detector's keys do not suit them.
Layout lay_out(const Config& config, IntegerPair stored);
PixelMap make_pixel_map(const Config& config, const Layout& layout);

}  // namespace ptyle::driver
