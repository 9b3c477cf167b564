// Pictures of a reconstruction: PNG files with scale bars and labels, so that each explains itself.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "driver/config/config.h"

namespace ptyle::driver {

// 8-bit colour, row by row, three bytes a pixel.
struct Image {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::vector<std::uint8_t> rgb;
};

void write_png(const std::string& path, const Image& image);

// A rectangle in pixels of the object: the scanned area, from which contrast is taken.
struct Region {
  std::int64_t row = 0, column = 0, rows = 0, columns = 0;
};
// The area that windows' centres cover. positions [n, 2] in the object's frame.
Region scanned_region(const at::Tensor& positions, std::int64_t window_rows,
                      std::int64_t window_columns, std::int64_t object_rows,
                      std::int64_t object_columns);

struct PanelOptions {
  std::string title;  // above the picture; empty for none
  std::string unit;   // of the gray scale's labels, "rad"
  // Height of a row and width of a column, for the shape and the scale bar; else square and in
  // pixels.
  std::optional<NumberPair> pixel_A;
  std::optional<Region> contrast_from;  // the whole picture where absent
  std::optional<double> low, high;      // fixed contrast instead of the central percentiles
  std::int64_t smallest_side = 256;     // smaller pictures are enlarged
  bool gray_bar = true;                 // a bar with the values of black and white
};
// values [rows, columns] real, black = low, white = high.
Image gray_panel(const at::Tensor& values, const PanelOptions& options);
// values [rows, columns] complex; hue = phase, brightness = amplitude.
Image complex_panel(const at::Tensor& values, const PanelOptions& options);
Image side_by_side(const std::vector<Image>& panels, std::int64_t most_columns = 4);

// The phase of an object [slices, rows, columns] (complex, or real phase in radians) as a picture
// shows it: constant and ramp removed per slice over the region. Same shape, float64.
at::Tensor displayed_phase(const at::Tensor& object, const Region& region);

// An object slice by slice, so that a large one is never whole in memory.
struct ObjectSlices {
  std::int64_t slices = 0;
  std::function<at::Tensor(std::int64_t)> slice;  // [1, rows, columns]
};
ObjectSlices slices_of(const at::Tensor& object);

// object_phase.png, object_amplitude.png and probe.png. pixel_A: (row, column) of the object,
// absent where unknown.
void write_object_phase(const std::string& path, const ObjectSlices& object, const Region& region,
                        std::optional<NumberPair> pixel_A);
void write_object_amplitude(const std::string& path, const ObjectSlices& object,
                            const Region& region, std::optional<NumberPair> pixel_A);
void write_probe(const std::string& path, const at::Tensor& probe,
                 std::optional<NumberPair> pixel_A);

}  // namespace ptyle::driver
