#include "driver/io/png.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <complex>
#include <cstdio>
#include <limits>
#include <map>
#include <string>
#include <string_view>

#include <png.h>

#include <ATen/Functions.h>

#include "driver/errors.h"
#include "driver/io/output.h"

namespace ptyle::driver {
namespace {

constexpr double kPi = 3.14159265358979323846;
constexpr std::int64_t kLargestSide = 2048;   // larger pictures are averaged down
constexpr std::int64_t kEnlargedSide = 1024;  // smaller ones are not enlarged beyond this
constexpr std::int64_t kMargin = 8;
constexpr std::int64_t kGlyphRows = 7, kGlyphColumns = 5, kAdvance = 6;
constexpr std::int64_t kTextScale = 2;
constexpr std::int64_t kLineHeight = (kGlyphRows + 3) * kTextScale;

using Colour = std::array<std::uint8_t, 3>;
constexpr Colour kBlack = {0, 0, 0};

// ---- text ----

// Seven rows of five pixels (nine with a descender), '#' = ink, rows separated by '/'.
const std::map<char, std::string_view>& glyphs() {
  static const std::map<char, std::string_view> table = {
      {'0', ".###./#...#/#..##/#.#.#/##..#/#...#/.###."},
      {'1', "..#../.##../..#../..#../..#../..#../.###."},
      {'2', ".###./#...#/....#/...#./..#../.#.../#####"},
      {'3', ".###./#...#/....#/..##./....#/#...#/.###."},
      {'4', "...#./..##./.#.#./#..#./#####/...#./...#."},
      {'5', "#####/#..../####./....#/....#/#...#/.###."},
      {'6', "..##./.#.../#..../####./#...#/#...#/.###."},
      {'7', "#####/....#/...#./..#../.#.../.#.../.#..."},
      {'8', ".###./#...#/#...#/.###./#...#/#...#/.###."},
      {'9', ".###./#...#/#...#/.####/....#/...#./.##.."},
      {'a', "...../...../.###./....#/.####/#...#/.####"},
      {'b', "#..../#..../####./#...#/#...#/#...#/####."},
      {'c', "...../...../.####/#..../#..../#..../.####"},
      {'d', "....#/....#/.####/#...#/#...#/#...#/.####"},
      {'e', "...../...../.###./#...#/#####/#..../.###."},
      {'f', "..##./.#.../####./.#.../.#.../.#.../.#..."},
      {'g', "...../...../.####/#...#/#...#/#...#/.####/....#/.###."},
      {'h', "#..../#..../####./#...#/#...#/#...#/#...#"},
      {'i', "..#../...../.##../..#../..#../..#../.###."},
      {'j', "...#./...../..##./...#./...#./...#./...#./#..#./.##.."},
      {'k', "#..../#..#./#.#../##.../#.#../#..#./#...#"},
      {'l', ".##../..#../..#../..#../..#../..#../.###."},
      {'m', "...../...../##.#./#.#.#/#.#.#/#.#.#/#.#.#"},
      {'n', "...../...../####./#...#/#...#/#...#/#...#"},
      {'o', "...../...../.###./#...#/#...#/#...#/.###."},
      {'p', "...../...../####./#...#/#...#/#...#/####./#..../#...."},
      {'q', "...../...../.####/#...#/#...#/#...#/.####/....#/....#"},
      {'r', "...../...../#.##./##..#/#..../#..../#...."},
      {'s', "...../...../.####/#..../.###./....#/####."},
      {'t', ".#.../.#.../####./.#.../.#.../.#..#/..##."},
      {'u', "...../...../#...#/#...#/#...#/#...#/.####"},
      {'v', "...../...../#...#/#...#/#...#/.#.#./..#.."},
      {'w', "...../...../#...#/#.#.#/#.#.#/#.#.#/.#.#."},
      {'x', "...../...../#...#/.#.#./..#../.#.#./#...#"},
      {'y', "...../...../#...#/#...#/#...#/#...#/.####/....#/.###."},
      {'z', "...../...../#####/...#./..#../.#.../#####"},
      {'A', ".###./#...#/#...#/#####/#...#/#...#/#...#"},
      {'V', "#...#/#...#/#...#/#...#/#...#/.#.#./..#.."},
      {'.', "...../...../...../...../...../.##../.##.."},
      {',', "...../...../...../...../...../..##./..##./...#./..#.."},
      {'-', "...../...../...../#####/...../...../....."},
      {'+', "...../..#../..#../#####/..#../..#../....."},
      {'=', "...../...../#####/...../#####/...../....."},
      {':', "...../.##../.##../...../.##../.##../....."},
      {'/', "....#/....#/...#./..#../.#.../#..../#...."},
      {'%', "##..#/##..#/...#./..#../.#.../#..##/#..##"},
      {'(', "...#./..#../.#.../.#.../.#.../..#../...#."},
      {')', ".#.../..#../...#./...#./...#./..#../.#..."},
  };
  return table;
}

Image white(std::int64_t rows, std::int64_t columns) {
  Image image{rows, columns, {}};
  image.rgb.assign(static_cast<std::size_t>(rows * columns * 3), 255);
  return image;
}

void set_pixel(Image& image, std::int64_t row, std::int64_t column, Colour colour) {
  if (row < 0 || column < 0 || row >= image.rows || column >= image.columns) return;
  std::copy(colour.begin(), colour.end(),
            image.rgb.begin() + static_cast<std::ptrdiff_t>((row * image.columns + column) * 3));
}

void fill(Image& image, std::int64_t row, std::int64_t column, std::int64_t rows,
          std::int64_t columns, Colour colour) {
  for (std::int64_t i = row; i < row + rows; ++i) {
    for (std::int64_t j = column; j < column + columns; ++j) set_pixel(image, i, j, colour);
  }
}

std::int64_t text_width(std::string_view text) {
  return static_cast<std::int64_t>(text.size()) * kAdvance * kTextScale;
}

// Characters without a glyph leave a gap.
void draw_text(Image& image, std::int64_t row, std::int64_t column, std::string_view text) {
  for (const char character : text) {
    if (const auto glyph = glyphs().find(character); glyph != glyphs().end()) {
      const auto glyph_rows =
          static_cast<std::int64_t>(glyph->second.size() + 1) / (kGlyphColumns + 1);
      for (std::int64_t i = 0; i < glyph_rows; ++i) {
        for (std::int64_t j = 0; j < kGlyphColumns; ++j) {
          if (glyph->second[static_cast<std::size_t>(i * (kGlyphColumns + 1) + j)] != '#') continue;
          fill(image, row + i * kTextScale, column + j * kTextScale, kTextScale, kTextScale,
               kBlack);
        }
      }
    }
    column += kAdvance * kTextScale;
  }
}

std::string short_number(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.3g", std::abs(value) < 1e-12 ? 0.0 : value);
  return text;
}

// ---- scale bar ----

struct ScaleBar {
  double pixels = 0.0;  // of the object
  std::string label;
};

// The longest of 1, 2, 5, 10, ... units that takes at most a third of the width.
ScaleBar choose_scale_bar(std::int64_t columns, std::optional<double> pixel_A) {
  const double pixel = pixel_A.value_or(1.0);
  const double most = static_cast<double>(columns) * pixel / 3.0;
  double length = std::pow(10.0, std::floor(std::log10(most)));
  for (const double factor : {5.0, 2.0}) {
    if (length * factor <= most * (1.0 + 1e-9)) {
      length *= factor;
      break;
    }
  }
  if (!pixel_A) {
    length = std::max(length, 1.0);
    return {length, short_number(length) + (length == 1.0 ? " pixel" : " pixels")};
  }
  struct Unit {
    double in_A;
    const char* name;
  };
  Unit unit{1.0, "A"};
  for (const Unit larger : {Unit{10.0, "nm"}, Unit{1e4, "um"}, Unit{1e7, "mm"}}) {
    if (length >= larger.in_A * (1.0 - 1e-9)) unit = larger;
  }
  // Not %.3g: 1e+03 nm never occurs, and 500 nm must not become 5e+02.
  return {length / pixel, short_number(length / unit.in_A) + " " + unit.name};
}

// ---- contrast ----

std::pair<double, double> percentiles(const at::Tensor& values, const PanelOptions& options) {
  at::Tensor part = values;
  if (options.contrast_from && options.contrast_from->rows > 0 &&
      options.contrast_from->columns > 0) {
    const Region& region = *options.contrast_from;
    part = part.narrow(0, region.row, region.rows).narrow(1, region.column, region.columns);
  }
  part = part.contiguous();
  std::vector<double> sorted;
  sorted.reserve(static_cast<std::size_t>(part.numel()));
  const auto* data = part.const_data_ptr<double>();
  for (std::int64_t i = 0; i < part.numel(); ++i) {
    if (std::isfinite(data[i])) sorted.push_back(data[i]);
  }
  double low = 0.0, high = 0.0;
  if (!sorted.empty()) {
    std::sort(sorted.begin(), sorted.end());
    const double last = static_cast<double>(sorted.size() - 1);
    low = sorted[static_cast<std::size_t>(0.005 * last)];
    high = sorted[static_cast<std::size_t>(std::ceil(0.995 * last))];
  }
  low = options.low.value_or(low);
  high = options.high.value_or(high);
  if (!(high > low)) {  // flat: middle gray
    const double spread = std::max(1e-6, 1e-3 * std::abs(low));
    low -= spread;
    high += spread;
  }
  return {low, high};
}

// ---- panels ----

// Height over width of a pixel; 1 where unknown.
double aspect_of(const PanelOptions& options) {
  if (!options.pixel_A) return 1.0;
  const double aspect = (*options.pixel_A)[0] / (*options.pixel_A)[1];
  return std::abs(aspect - 1.0) < 1e-6 ? 1.0 : aspect;
}

// Rows and columns in units of the narrower side of a pixel, one unit at least.
NumberPair extent(std::int64_t rows, std::int64_t columns, double aspect) {
  return {static_cast<double>(rows) * std::max(1.0, aspect),
          static_cast<double>(columns) * std::max(1.0, 1.0 / aspect)};
}

// Mean over blocks, so that no picture is wider than kLargestSide. Returns a block's rows and
// columns.
std::array<std::int64_t, 2> shrink(at::Tensor& values, double aspect,
                                   std::optional<Region>& region) {
  const NumberPair all = extent(values.size(0), values.size(1), aspect);
  const double least = std::max(all[0], all[1]) / static_cast<double>(kLargestSide);
  std::array<std::int64_t, 2> block{};
  for (std::size_t axis = 0; axis < 2; ++axis) {
    const std::int64_t size = values.size(static_cast<std::int64_t>(axis));
    const double side = all[axis] / static_cast<double>(size);
    block[axis] = std::clamp<std::int64_t>(
        static_cast<std::int64_t>(std::ceil(least / side * (1.0 - 1e-9))), 1, size);
  }
  const auto [block_rows, block_columns] = block;
  if (block_rows == 1 && block_columns == 1) return block;
  const std::int64_t rows = values.size(0) / block_rows;
  const std::int64_t columns = values.size(1) / block_columns;
  values = values.narrow(0, 0, rows * block_rows)
               .narrow(1, 0, columns * block_columns)
               .reshape({rows, block_rows, columns, block_columns})
               .mean(std::vector<std::int64_t>{1, 3})
               .contiguous();
  if (region) {
    Region& r = *region;
    r.row = std::min(r.row / block_rows, rows - 1);
    r.column = std::min(r.column / block_columns, columns - 1);
    r.rows = std::clamp<std::int64_t>(r.rows / block_rows, 1, rows - r.row);
    r.columns = std::clamp<std::int64_t>(r.columns / block_columns, 1, columns - r.column);
  }
  return block;
}

// Pixels of the picture for each unit of `extent`: a whole number, but for what is too large.
double enlargement(const NumberPair& extent, std::int64_t smallest_side) {
  const auto [least, most] = std::minmax(extent[0], extent[1]);
  const double allowed = static_cast<double>(kLargestSide) / most;
  if (allowed < 1.0) return allowed;
  const double wanted = std::ceil(static_cast<double>(smallest_side) / least * (1.0 - 1e-9));
  return std::clamp(wanted, 1.0,
                    std::max(1.0, std::floor(static_cast<double>(kEnlargedSide) / most)));
}

// A frame of white with title above and legend below; the picture is left to the caller.
struct Frame {
  Image image;
  std::int64_t top = 0, left = kMargin, legend = 0;
  std::int64_t rows = 0, columns = 0;  // of the picture
};

Frame make_frame(std::int64_t rows, std::int64_t columns, std::array<std::int64_t, 2> block,
                 const PanelOptions& options, const std::string& legend,
                 std::int64_t legend_height) {
  Frame frame;
  const double aspect =
      aspect_of(options) * static_cast<double>(block[0]) / static_cast<double>(block[1]);
  const NumberPair size = extent(rows, columns, aspect);
  const double zoom = enlargement(size, options.smallest_side);
  const auto pixels = [zoom](double units) {
    return std::max<std::int64_t>(1, std::llround(units * zoom));
  };
  frame.rows = pixels(size[0]);
  frame.columns = pixels(size[1]);
  frame.top = kMargin + (options.title.empty() ? 0 : kLineHeight);
  // The bar is horizontal: it counts columns, of the object and not averaged ones.
  const std::int64_t object_columns = columns * block[1];
  const ScaleBar bar = choose_scale_bar(
      object_columns,
      options.pixel_A ? std::optional<double>((*options.pixel_A)[1]) : std::nullopt);
  const auto bar_width = static_cast<std::int64_t>(std::llround(
      bar.pixels / static_cast<double>(object_columns) * static_cast<double>(frame.columns)));
  const std::int64_t width =
      std::max({frame.columns, text_width(options.title),
                bar_width + kMargin + text_width(bar.label), text_width(legend)}) +
      2 * kMargin;
  frame.legend = frame.top + frame.rows + kMargin + kLineHeight;
  frame.image = white(frame.legend + legend_height + kMargin, width);
  draw_text(frame.image, kMargin, kMargin, options.title);
  const std::int64_t bar_row = frame.top + frame.rows + kMargin;
  fill(frame.image, bar_row + 5, kMargin, 5, std::max<std::int64_t>(1, bar_width), kBlack);
  draw_text(frame.image, bar_row, kMargin + bar_width + kMargin, bar.label);
  return frame;
}

at::Tensor as_matrix(const at::Tensor& values, at::ScalarType type) {
  TORCH_CHECK(values.dim() == 2, "a picture must have the shape [rows, columns], got ",
              values.sizes());
  return values.detach().cpu().to(type).contiguous();
}

std::uint8_t to_byte(double value) {
  return static_cast<std::uint8_t>(std::lround(255.0 * std::clamp(value, 0.0, 1.0)));
}

// Smooth around the circle, of nearly even brightness.
Colour phase_colour(double phase, double brightness) {
  Colour colour{};
  for (std::size_t channel = 0; channel < 3; ++channel) {
    const double wave = std::cos(phase - 2.0 * kPi / 3.0 * static_cast<double>(channel));
    colour[channel] = to_byte(brightness * (0.55 + 0.45 * wave));
  }
  return colour;
}

// `rows` x `columns` values over the whole picture.
template <typename ColourAt>
void paint(Frame& frame, std::int64_t rows, std::int64_t columns, const ColourAt& colour_at) {
  std::vector<Colour> colours;
  colours.reserve(static_cast<std::size_t>(rows * columns));
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = 0; j < columns; ++j) colours.push_back(colour_at(i, j));
  }
  for (std::int64_t y = 0; y < frame.rows; ++y) {
    const Colour* row = colours.data() + y * rows / frame.rows * columns;
    for (std::int64_t x = 0; x < frame.columns; ++x) {
      set_pixel(frame.image, frame.top + y, frame.left + x, row[x * columns / frame.columns]);
    }
  }
}

// An object as complex transmissions [slices, rows, columns].
at::Tensor as_transmission(const at::Tensor& object) {
  TORCH_CHECK(object.dim() == 3, "an object must have the shape [slices, rows, columns], got ",
              object.sizes());
  const at::Tensor dense = object.detach().cpu();
  if (dense.is_complex()) return dense.to(at::kComplexDouble).contiguous();
  const at::Tensor phase = dense.to(at::kDouble);
  return at::polar(at::ones_like(phase), phase).contiguous();
}

std::vector<std::int64_t> shown_slices(std::int64_t slices) {
  std::vector<std::int64_t> shown;
  if (slices <= 1) return shown;
  if (slices <= 7) {
    for (std::int64_t s = 0; s < slices; ++s) shown.push_back(s);
  } else {
    shown = {0, slices / 2, slices - 1};
  }
  return shown;
}

Image empty_picture() { return white(1, 1); }

}  // namespace

void write_png(const std::string& path, const Image& image) {
  png_image png{};
  png.version = PNG_IMAGE_VERSION;
  png.width = static_cast<png_uint_32>(image.columns);
  png.height = static_cast<png_uint_32>(image.rows);
  png.format = PNG_FORMAT_RGB;
  std::string bytes(PNG_IMAGE_PNG_SIZE_MAX(png), '\0');
  png_alloc_size_t size = bytes.size();
  if (png_image_write_to_memory(&png, bytes.data(), &size, 0, image.rgb.data(), 0, nullptr) == 0) {
    throw RunError(path + ": cannot be made into a PNG: " + png.message);
  }
  replace_file(path, std::string_view(bytes).substr(0, size));
}

Region scanned_region(const at::Tensor& positions, std::int64_t window_rows,
                      std::int64_t window_columns, std::int64_t object_rows,
                      std::int64_t object_columns) {
  Region region{0, 0, object_rows, object_columns};
  if (positions.size(0) == 0 || object_rows == 0 || object_columns == 0) return region;
  const std::array<std::int64_t, 2> window = {window_rows, window_columns};
  const std::array<std::int64_t, 2> object = {object_rows, object_columns};
  std::array<std::int64_t, 2> first{}, count{};
  for (std::size_t axis = 0; axis < 2; ++axis) {
    const at::Tensor along = positions.select(1, static_cast<std::int64_t>(axis));
    const std::int64_t half = window[axis] / 2;
    const auto least = static_cast<std::int64_t>(std::floor(along.min().item<double>())) + half;
    const auto most = static_cast<std::int64_t>(std::floor(along.max().item<double>())) + half + 1;
    first[axis] = std::clamp<std::int64_t>(least, 0, object[axis] - 1);
    count[axis] = std::clamp<std::int64_t>(most + 1, first[axis] + 1, object[axis]) - first[axis];
  }
  return {first[0], first[1], count[0], count[1]};
}

Image gray_panel(const at::Tensor& values, const PanelOptions& options) {
  at::Tensor matrix = as_matrix(values, at::kDouble);
  if (matrix.numel() == 0) return empty_picture();
  PanelOptions adjusted = options;
  const auto block = shrink(matrix, aspect_of(options), adjusted.contrast_from);
  const auto [low, high] = percentiles(matrix, adjusted);
  const std::string unit = options.unit.empty() ? "" : " " + options.unit;
  const std::string black = short_number(low);
  const std::string bright = short_number(high) + unit;
  constexpr std::int64_t kBarWidth = 96;
  // The legend's width is that of its text with blanks in the place of the bar.
  const std::string legend(black.size() + bright.size() + kBarWidth / (kAdvance * kTextScale) + 2,
                           ' ');
  const std::int64_t rows = matrix.size(0), columns = matrix.size(1);
  Frame frame = make_frame(rows, columns, block, options, options.gray_bar ? legend : "",
                           options.gray_bar ? kLineHeight : 0);
  const auto* data = matrix.const_data_ptr<double>();
  const auto gray = [low = low, high = high](double value) {
    const std::uint8_t byte = std::isfinite(value) ? to_byte((value - low) / (high - low)) : 0;
    return Colour{byte, byte, byte};
  };
  paint(frame, rows, columns,
        [&](std::int64_t i, std::int64_t j) { return gray(data[i * columns + j]); });
  if (options.gray_bar) {
    std::int64_t column = kMargin;
    draw_text(frame.image, frame.legend, column, black);
    column += text_width(black) + 3 * kTextScale;
    fill(frame.image, frame.legend, column - 1, 14, kBarWidth + 2, kBlack);
    for (std::int64_t k = 0; k < kBarWidth; ++k) {
      const double share = static_cast<double>(k) / static_cast<double>(kBarWidth - 1);
      fill(frame.image, frame.legend + 1, column + k, 12, 1, gray(low + share * (high - low)));
    }
    draw_text(frame.image, frame.legend, column + kBarWidth + kAdvance * kTextScale, bright);
  }
  return frame.image;
}

Image complex_panel(const at::Tensor& values, const PanelOptions& options) {
  at::Tensor matrix = as_matrix(values, at::kComplexDouble);
  if (matrix.numel() == 0) return empty_picture();
  std::optional<Region> region = options.contrast_from;
  const auto block = shrink(matrix, aspect_of(options), region);
  const std::int64_t rows = matrix.size(0), columns = matrix.size(1);
  const auto* data = matrix.const_data_ptr<c10::complex<double>>();
  double largest = 0.0;
  for (std::int64_t i = 0; i < matrix.numel(); ++i) {
    const double amplitude = std::hypot(data[i].real(), data[i].imag());
    if (std::isfinite(amplitude)) largest = std::max(largest, amplitude);
  }
  constexpr std::int64_t kWheel = 29;
  Frame frame = make_frame(rows, columns, block, options, "    hue: phase", kWheel);
  paint(frame, rows, columns, [&](std::int64_t i, std::int64_t j) {
    const c10::complex<double> value = data[i * columns + j];
    const double amplitude = std::hypot(value.real(), value.imag());
    if (!(largest > 0.0) || !std::isfinite(amplitude)) return kBlack;
    return phase_colour(std::atan2(value.imag(), value.real()), amplitude / largest);
  });
  // The wheel that says which hue is which phase: 0 to the right, pi / 2 up.
  for (std::int64_t i = 0; i < kWheel; ++i) {
    for (std::int64_t j = 0; j < kWheel; ++j) {
      const double up = static_cast<double>(kWheel / 2 - i);
      const double right = static_cast<double>(j - kWheel / 2);
      const double radius = std::hypot(up, right) / (static_cast<double>(kWheel) / 2.0);
      if (radius > 1.0) continue;
      set_pixel(frame.image, frame.legend + i, kMargin + j,
                phase_colour(std::atan2(up, right), radius));
    }
  }
  draw_text(frame.image, frame.legend + 8, kMargin + kWheel + kMargin, "hue: phase");
  return frame.image;
}

Image side_by_side(const std::vector<Image>& panels, std::int64_t most_columns) {
  const auto count = static_cast<std::int64_t>(panels.size());
  if (count == 0) return empty_picture();
  const std::int64_t across = std::clamp<std::int64_t>(most_columns, 1, count);
  const std::int64_t down = (count + across - 1) / across;
  std::vector<std::int64_t> widths(static_cast<std::size_t>(across), 0);
  std::vector<std::int64_t> heights(static_cast<std::size_t>(down), 0);
  for (std::int64_t k = 0; k < count; ++k) {
    const Image& panel = panels[static_cast<std::size_t>(k)];
    auto& width = widths[static_cast<std::size_t>(k % across)];
    auto& height = heights[static_cast<std::size_t>(k / across)];
    width = std::max(width, panel.columns);
    height = std::max(height, panel.rows);
  }
  std::int64_t rows = 0, columns = 0;
  for (const std::int64_t height : heights) rows += height;
  for (const std::int64_t width : widths) columns += width;
  Image image = white(rows, columns);
  std::int64_t top = 0;
  for (std::int64_t i = 0, k = 0; i < down; ++i) {
    std::int64_t left = 0;
    for (std::int64_t j = 0; j < across && k < count; ++j, ++k) {
      const Image& panel = panels[static_cast<std::size_t>(k)];
      for (std::int64_t row = 0; row < panel.rows; ++row) {
        std::copy_n(
            panel.rgb.begin() + static_cast<std::ptrdiff_t>(row * panel.columns * 3),
            panel.columns * 3,
            image.rgb.begin() + static_cast<std::ptrdiff_t>(((top + row) * columns + left) * 3));
      }
      left += widths[static_cast<std::size_t>(j)];
    }
    top += heights[static_cast<std::size_t>(i)];
  }
  return image;
}

at::Tensor displayed_phase(const at::Tensor& object, const Region& region) {
  using Complex = std::complex<double>;
  const at::Tensor transmission = as_transmission(object);
  const std::int64_t slices = transmission.size(0);
  const std::int64_t rows = transmission.size(1), columns = transmission.size(2);
  at::Tensor result = at::zeros({slices, rows, columns}, at::kDouble);
  const auto* data = reinterpret_cast<const Complex*>(transmission.const_data_ptr());
  auto* out = result.data_ptr<double>();
  const std::int64_t last_row = std::min(region.row + region.rows, rows);
  const std::int64_t last_column = std::min(region.column + region.columns, columns);
  const double centre_row = 0.5 * static_cast<double>(region.row + last_row - 1);
  const double centre_column = 0.5 * static_cast<double>(region.column + last_column - 1);
  for (std::int64_t s = 0; s < slices; ++s, data += rows * columns, out += rows * columns) {
    // A first slope from the phases of mean neighbour products, which no wrapped phase disturbs.
    Complex down = 0.0, right = 0.0;
    for (std::int64_t i = region.row; i < last_row; ++i) {
      for (std::int64_t j = region.column; j < last_column; ++j) {
        const Complex here = std::conj(data[i * columns + j]);
        if (i + 1 < last_row) down += data[(i + 1) * columns + j] * here;
        if (j + 1 < last_column) right += data[i * columns + j + 1] * here;
      }
    }
    double slope_row = std::abs(down) > 0.0 ? std::arg(down) : 0.0;
    double slope_column = std::abs(right) > 0.0 ? std::arg(right) : 0.0;
    double constant = 0.0;
    const auto residual = [&](std::int64_t i, std::int64_t j) {
      const double ramp = slope_row * (static_cast<double>(i) - centre_row) +
                          slope_column * (static_cast<double>(j) - centre_column) + constant;
      return data[i * columns + j] * std::polar(1.0, -ramp);
    };
    // Then least squares on what is left, which a period that the region cuts disturbs less.
    for (int round = 0; round < 2; ++round) {
      Complex mean = 0.0;
      for (std::int64_t i = region.row; i < last_row; ++i) {
        for (std::int64_t j = region.column; j < last_column; ++j) mean += residual(i, j);
      }
      constant += std::abs(mean) > 0.0 ? std::arg(mean) : 0.0;
      double row_moment = 0.0, column_moment = 0.0, row_square = 0.0, column_square = 0.0;
      for (std::int64_t i = region.row; i < last_row; ++i) {
        for (std::int64_t j = region.column; j < last_column; ++j) {
          const double y = static_cast<double>(i) - centre_row;
          const double x = static_cast<double>(j) - centre_column;
          const double phase = std::arg(residual(i, j));
          row_moment += y * phase;
          column_moment += x * phase;
          row_square += y * y;
          column_square += x * x;
        }
      }
      if (row_square > 0.0) slope_row += row_moment / row_square;
      if (column_square > 0.0) slope_column += column_moment / column_square;
    }
    for (std::int64_t i = 0; i < rows; ++i) {
      for (std::int64_t j = 0; j < columns; ++j) {
        out[i * columns + j] = std::arg(residual(i, j));
      }
    }
  }
  return result;
}

ObjectSlices slices_of(const at::Tensor& object) {
  return {object.size(0), [object](std::int64_t slice) { return object.narrow(0, slice, 1); }};
}

void write_object_phase(const std::string& path, const ObjectSlices& object, const Region& region,
                        std::optional<NumberPair> pixel_A) {
  PanelOptions options;
  options.unit = "rad";
  options.pixel_A = pixel_A;
  options.contrast_from = region;
  std::vector<Image> panels(1);
  at::Tensor sum;
  const std::vector<std::int64_t> shown = shown_slices(object.slices);
  for (std::int64_t slice = 0; slice < object.slices; ++slice) {
    const at::Tensor phase = displayed_phase(object.slice(slice), region).select(0, 0);
    sum = sum.defined() ? sum.add_(phase) : phase.clone();
    if (std::find(shown.begin(), shown.end(), slice) == shown.end()) continue;
    options.title = "phase of slice " + std::to_string(slice + 1);
    panels.push_back(gray_panel(phase, options));
  }
  options.title = object.slices == 1
                      ? "object phase"
                      : "object phase, sum of " + std::to_string(object.slices) + " slices";
  panels[0] = gray_panel(sum, options);
  write_png(path, side_by_side(panels));
}

void write_object_amplitude(const std::string& path, const ObjectSlices& object,
                            const Region& region, std::optional<NumberPair> pixel_A) {
  PanelOptions options;
  options.pixel_A = pixel_A;
  options.contrast_from = region;
  std::vector<Image> panels(1);
  at::Tensor product;
  const std::vector<std::int64_t> shown = shown_slices(object.slices);
  for (std::int64_t slice = 0; slice < object.slices; ++slice) {
    const at::Tensor amplitude = as_transmission(object.slice(slice)).abs().select(0, 0);
    product = product.defined() ? product.mul_(amplitude) : amplitude.clone();
    if (std::find(shown.begin(), shown.end(), slice) == shown.end()) continue;
    options.title = "amplitude of slice " + std::to_string(slice + 1);
    panels.push_back(gray_panel(amplitude, options));
  }
  options.title = object.slices == 1
                      ? "object amplitude"
                      : "object amplitude, product of " + std::to_string(object.slices) + " slices";
  panels[0] = gray_panel(product, options);
  write_png(path, side_by_side(panels));
}

void write_probe(const std::string& path, const at::Tensor& probe,
                 std::optional<NumberPair> pixel_A) {
  TORCH_CHECK(probe.dim() == 3, "a probe must have the shape [modes, h, w], got ", probe.sizes());
  const at::Tensor modes = probe.detach().cpu().to(at::kComplexDouble);
  const at::Tensor powers = modes.abs().square().sum(std::vector<std::int64_t>{1, 2});
  const double total = powers.sum().item<double>();
  PanelOptions options;
  options.pixel_A = pixel_A;
  std::vector<Image> panels;
  for (std::int64_t mode = 0; mode < std::min<std::int64_t>(modes.size(0), 8); ++mode) {
    char title[64] = "probe";
    if (modes.size(0) > 1) {
      const double share = total > 0.0 ? 100.0 * powers[mode].item<double>() / total : 0.0;
      std::snprintf(title, sizeof(title), "probe mode %lld, %.1f %%",
                    static_cast<long long>(mode + 1), share);
    }
    options.title = title;
    panels.push_back(complex_panel(modes[mode], options));
  }
  write_png(path, side_by_side(panels));
}

}  // namespace ptyle::driver
