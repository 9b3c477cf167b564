#include "driver/io/window.h"

#include <array>
#include <cmath>
#include <cstddef>
#include <utility>

#include "driver/words.h"

namespace ptyle::driver {

Layout lay_out(const Config& config, IntegerPair stored) {
  const Config::Detector& detector = config.detector;
  const bool far = detector.geometry == "far";
  IntegerPair oriented = stored;
  if (detector.orientation.transpose) std::swap(oriented[0], oriented[1]);

  // The zero frequency of the oriented pattern, which here is centred already.
  const bool corner = far && config.data.zero_frequency == "corner";
  NumberPair zero{}, zero_at{};
  for (std::size_t axis = 0; axis < 2; ++axis) {
    const auto middle = static_cast<double>(oriented[axis] / 2);
    zero_at[axis] = detector.center ? (*detector.center)[axis] : corner ? 0.0 : middle;
    zero[axis] = corner ? middle + zero_at[axis] : zero_at[axis];
  }
  if (detector.center) {
    for (std::size_t axis = 0; axis < 2; ++axis) {
      if (zero[axis] >= 0.0 && zero[axis] <= static_cast<double>(oriented[axis] - 1)) continue;
      throw_config_error(config, "detector.center",
                         "lie inside the pattern of " + words::shape({oriented[0], oriented[1]}),
                         "[" + words::exact(zero_at[0]) + ", " + words::exact(zero_at[1]) + "]");
    }
  }

  IntegerPair start = {0, 0}, size = oriented;
  IntegerPair used_start = {0, 0}, used_size = oriented;  // what is measured
  if (detector.crop.size() == 2) {
    size = {detector.crop[0], detector.crop[1]};
    start = {oriented[0] / 2 - size[0] / 2, oriented[1] / 2 - size[1] / 2};
  } else if (detector.crop.size() == 4) {
    start = {detector.crop[0], detector.crop[1]};
    size = {detector.crop[2], detector.crop[3]};
    used_start = start;
    used_size = size;
  }
  for (std::size_t axis = 0; axis < 2; ++axis) {
    const bool inside = start[axis] >= 0 && start[axis] + size[axis] <= oriented[axis];
    if (!inside && (!detector.center || size[axis] > oriented[axis])) {
      throw_config_error(config, "detector.crop",
                         "lie inside the pattern of " + words::shape({oriented[0], oriented[1]}),
                         words::shape(detector.crop));
    }
    if (size[axis] % detector.bin[axis] != 0) {
      throw_config_error(config, "detector.bin",
                         "divide the cropped pattern of " + words::shape({size[0], size[1]}),
                         words::shape({detector.bin[0], detector.bin[1]}));
    }
    // The whole part moves the window; what hangs over what is used was not measured.
    if (detector.center) {
      const std::int64_t bin = detector.bin[axis];
      const double before =
          static_cast<double>(size[axis] / bin / 2 * bin) + 0.5 * static_cast<double>(bin - 1);
      start[axis] = static_cast<std::int64_t>(std::floor(zero[axis] - before + 0.5));
    }
  }
  // Reversing a pattern takes the zero frequency from [n / 2] to [(n - 1) / 2], from [0] to [n -
  // 1]. Where nobody says where the reversed one has it the window follows; row -n / 2, which then
  // comes first, is its own mirror image.
  const std::array<bool, 2> flips = {detector.orientation.flip_rows,
                                     detector.orientation.flip_columns};
  for (std::size_t axis = 0; axis < 2; ++axis) {
    const bool moves = far && flips[axis] && (corner || oriented[axis] % 2 == 0);
    if (!moves || detector.center || detector.crop.size() == 4) continue;
    --start[axis];
    --used_start[axis];
  }

  Layout map{stored, oriented, start, size, used_start, used_size};
  map.per_pixel = detector.bin[0] * detector.bin[1];
  map.corner = corner;
  for (std::size_t axis = 0; axis < 2; ++axis) {
    map.window[axis] = size[axis] / detector.bin[axis] + 2 * detector.pad[axis];
    if (!far) continue;
    // What is left between the zero frequency and the middle of the pixel that stands for it: the
    // fraction of detector.center, and half a stored pixel where an even number is binned.
    const std::int64_t bin = detector.bin[axis];
    const double pixel = static_cast<double>(start[axis] + size[axis] / bin / 2 * bin) +
                         0.5 * static_cast<double>(bin - 1);
    const double where =
        detector.center ? zero[axis] : static_cast<double>(start[axis] + size[axis] / 2);
    map.zero_at[axis] = where - (corner ? static_cast<double>(oriented[axis] / 2) : 0.0);
    map.zero_offset[axis] = (where - pixel) / static_cast<double>(bin);
  }
  return map;
}

PixelMap make_pixel_map(const Config& config, const Layout& layout) {
  const Config::Detector& detector = config.detector;
  const bool far = detector.geometry == "far";
  PixelMap map{layout, {}};
  const IntegerPair &stored = layout.stored, &oriented = layout.oriented;
  const IntegerPair &start = layout.start, &size = layout.size;
  const IntegerPair &used_start = layout.used_start, &used_size = layout.used_size;
  const bool corner = layout.corner;
  const std::array<bool, 2> flips = {detector.orientation.flip_rows,
                                     detector.orientation.flip_columns};
  map.source.reserve(static_cast<std::size_t>(map.pixels() * map.per_pixel));

  // Stored pixel of a pixel of the oriented, centred pattern.
  const auto stored_index = [&](IntegerPair at) {
    for (std::size_t axis = 0; axis < 2; ++axis) {
      const std::int64_t moved = corner ? oriented[axis] - oriented[axis] / 2 : oriented[axis];
      at[axis] = (at[axis] + moved) % oriented[axis];
      if (flips[axis]) at[axis] = oriented[axis] - 1 - at[axis];
    }
    if (detector.orientation.transpose) std::swap(at[0], at[1]);
    return at[0] * stored[1] + at[1];
  };
  for (std::int64_t i = 0; i < map.window[0]; ++i) {
    for (std::int64_t j = 0; j < map.window[1]; ++j) {
      IntegerPair at = {i, j};
      bool measured = true;
      for (std::size_t axis = 0; axis < 2; ++axis) {
        if (far) at[axis] = (at[axis] + map.window[axis] / 2) % map.window[axis];
        at[axis] -= detector.pad[axis];
        measured = measured && at[axis] >= 0 && at[axis] < size[axis] / detector.bin[axis];
        at[axis] = start[axis] + at[axis] * detector.bin[axis];
        measured = measured && at[axis] >= used_start[axis] &&
                   at[axis] + detector.bin[axis] <= used_start[axis] + used_size[axis];
      }
      for (std::int64_t a = 0; a < detector.bin[0]; ++a) {
        for (std::int64_t b = 0; b < detector.bin[1]; ++b) {
          map.source.push_back(measured ? stored_index({at[0] + a, at[1] + b}) : -1);
        }
      }
    }
  }
  return map;
}

}  // namespace ptyle::driver
