// Pictures: what is written comes back, contrast and colours are as promised, odd sizes are drawn.
#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <set>
#include <string>
#include <unistd.h>
#include <vector>

#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include "driver/errors.h"
#include "driver/io/png.h"
#include "tests/cpp/read_png.h"

namespace ptyle::driver {
namespace {

namespace fs = std::filesystem;
using tests::read_png;

std::string temporary(const std::string& name) {
  return (fs::temp_directory_path() / ("ptyle_" + std::to_string(::getpid()) + "_" + name))
      .string();
}

TEST(Png, WhatIsWrittenComesBack) {
  Image image{5, 3, {}};
  for (int i = 0; i < 45; ++i) image.rgb.push_back(static_cast<std::uint8_t>(i * 5));
  const std::string path = temporary("a.png");
  write_png(path, image);
  const Image again = read_png(path);
  EXPECT_EQ(again.rows, 5);
  EXPECT_EQ(again.columns, 3);
  EXPECT_EQ(again.rgb, image.rgb);
  fs::remove(path);
  EXPECT_THROW(write_png("/no/such/folder/a.png", image), RunError);
}

TEST(Png, GrayRisesWithTheValueAndIsTakenFromTheRegion) {
  at::Tensor values = at::linspace(0.0, 1.0, 300 * 300, at::kDouble).reshape({300, 300});
  values[0][0] = 1e9;  // an outlier outside the region
  PanelOptions options;
  options.contrast_from = Region{100, 100, 100, 100};
  options.gray_bar = false;
  const Image image = gray_panel(values, options);
  const auto gray = [&image](std::int64_t row, std::int64_t column) {
    return static_cast<int>(
        image.rgb[static_cast<std::size_t>(((8 + row) * image.columns + 8 + column) * 3)]);
  };
  EXPECT_EQ(gray(0, 0), 255);
  EXPECT_EQ(gray(20, 20), 0);
  EXPECT_EQ(gray(280, 20), 255);
  EXPECT_LT(gray(120, 150), gray(150, 150));
  EXPECT_LT(gray(150, 150), gray(180, 150));
}

TEST(Png, AnySizeIsDrawn) {
  at::manual_seed(5);
  for (const auto& shape : std::vector<std::vector<std::int64_t>>{
           {1, 1}, {1, 7}, {13, 1}, {3, 3000}, {2500, 2500}, {0, 5}}) {
    const at::Tensor values = at::rand(shape, at::kDouble);
    for (const std::optional<NumberPair>& pixel :
         {std::optional<NumberPair>(), std::optional<NumberPair>({0.37, 0.37}),
          std::optional<NumberPair>({0.01, 7.0}), std::optional<NumberPair>({70.0, 0.3})}) {
      PanelOptions options;
      options.title = "title";
      options.pixel_A = pixel;
      options.gray_bar = false;  // its grays would hide that the picture has none
      SCOPED_TRACE(std::to_string(shape[0]) + " x " + std::to_string(shape[1]));
      const Image gray = gray_panel(values, options);
      ASSERT_EQ(gray.rgb.size(), static_cast<std::size_t>(gray.rows * gray.columns * 3));
      std::array<bool, 256> seen{};
      for (const std::uint8_t byte : gray.rgb) seen[byte] = true;
      const auto grays = std::count(seen.begin(), seen.end(), true);
      // white, the black of text, and the values': seven at least have other grays than these
      EXPECT_GE(grays, values.numel() == 0 ? 1 : values.numel() == 1 ? 3 : 6);
      EXPECT_LE(std::max(gray.rows, gray.columns), 2500);
      const Image colour = complex_panel(at::complex(values, values), options);
      ASSERT_EQ(colour.rgb.size(), static_cast<std::size_t>(colour.rows * colour.columns * 3));
      if (values.numel() == 0) {
        EXPECT_EQ(colour.rgb, (std::vector<std::uint8_t>{255, 255, 255}));
      }
    }
  }
}

// The colour of value (i, j) of a 2 x 2 picture without a title: each fills 128 x 128 pixels.
std::array<int, 3> colour_of(const Image& image, std::int64_t i, std::int64_t j) {
  const auto at =
      static_cast<std::size_t>(((8 + 64 + 128 * i) * image.columns + 8 + 64 + 128 * j) * 3);
  return {image.rgb.at(at), image.rgb.at(at + 1), image.rgb.at(at + 2)};
}

TEST(Png, ValuesHaveTheColoursTheyShould) {
  using Colours = std::array<int, 3>;
  PanelOptions fixed;
  fixed.low = 0.0;
  fixed.high = 1.0;
  const at::Tensor odd = at::tensor({-3.0, 2.0, std::nan(""), 0.5}, at::kDouble).reshape({2, 2});
  const Image gray = gray_panel(odd, fixed);
  EXPECT_EQ(colour_of(gray, 0, 0), (Colours{0, 0, 0}));
  EXPECT_EQ(colour_of(gray, 0, 1), (Colours{255, 255, 255}));
  EXPECT_EQ(colour_of(gray, 1, 0), (Colours{0, 0, 0}));  // what is no number is black
  EXPECT_EQ(colour_of(gray, 1, 1), (Colours{128, 128, 128}));
  // What is flat is a middle gray, also where nothing is finite.
  EXPECT_EQ(colour_of(gray_panel(at::full({2, 2}, 7.0, at::kDouble), {}), 1, 1),
            (Colours{128, 128, 128}));
  EXPECT_EQ(colour_of(gray_panel(at::full({2, 2}, std::nan(""), at::kDouble), {}), 1, 1),
            (Colours{0, 0, 0}));

  // Red, green and blue are 0.55 + 0.45 cos(phase - 0, 120, 240 degrees), times the amplitude.
  at::Tensor complex = at::zeros({2, 2}, at::kComplexDouble);
  complex[0][0] = c10::complex<double>(2.0, 0.0);
  complex[0][1] = c10::complex<double>(0.0, 1.0);
  complex[1][0] = c10::complex<double>(std::nan(""), 1.0);
  const Image colours = complex_panel(complex, {});
  EXPECT_EQ(colour_of(colours, 0, 0), (Colours{255, 83, 83}));
  EXPECT_EQ(colour_of(colours, 0, 1), (Colours{70, 120, 20}));
  EXPECT_EQ(colour_of(colours, 1, 0), (Colours{0, 0, 0}));
  EXPECT_EQ(colour_of(colours, 1, 1), (Colours{0, 0, 0}));

  // Side by side: widths add up, and the second begins where the first ends.
  const Image two = side_by_side({gray, colours});
  ASSERT_EQ(two.columns, gray.columns + colours.columns);
  ASSERT_EQ(two.rows, std::max(gray.rows, colours.rows));
  const auto place = static_cast<std::size_t>(((8 + 64) * two.columns + gray.columns + 8 + 64) * 3);
  EXPECT_EQ(two.rgb[place + 1], 83);
  EXPECT_EQ(side_by_side({}).rgb, (std::vector<std::uint8_t>{255, 255, 255}));
}

// A picture without title and gray bar, taken apart: the area of the values, and the scale bar's
// width, in pixels of the picture.
struct Parts {
  std::int64_t rows, columns, bar;
};
Parts parts_of(const Image& image) {
  const std::int64_t margin = 8, below = 44;  // margins, the bar and its label
  const std::int64_t rows = image.rows - below;
  std::int64_t bar = 0;
  const std::int64_t row = margin + rows + margin + 7;
  while (image.rgb[static_cast<std::size_t>((row * image.columns + margin + bar) * 3)] == 0) ++bar;
  return {rows, image.columns - 2 * margin, bar};
}

TEST(Png, ScaleBarAndShapeAreThoseOfThePixels) {
  PanelOptions options;
  options.gray_bar = false;
  struct Case {
    std::int64_t rows, columns;
    NumberPair pixel_A;
    double bar_A;  // the longest of 1, 2, 5, 10, ... A in a third of the width
  };
  for (const Case& c : {Case{60, 60, {2.0, 2.0}, 20.0}, Case{40, 60, {10.0, 30.0}, 500.0},
                        Case{60, 40, {30.0, 10.0}, 100.0}, Case{72, 72, {2.0, 3.0}, 50.0},
                        Case{100, 150, {10.0, 7.0}, 200.0}, Case{3000, 1500, {1.0, 2.0}, 1000.0},
                        Case{200, 5000, {50.0, 1.0}, 1000.0}}) {
    options.pixel_A = c.pixel_A;
    // A disc as large as the smaller side of the object: round in the picture too.
    const double height = static_cast<double>(c.rows) * c.pixel_A[0];
    const double width = static_cast<double>(c.columns) * c.pixel_A[1];
    const auto line = [](std::int64_t size, double pixel) {
      return (at::arange(size, at::kDouble) - 0.5 * static_cast<double>(size - 1)) * pixel;
    };
    const double radius = 0.45 * std::min(height, width);
    const at::Tensor disc = (line(c.rows, c.pixel_A[0]).square().unsqueeze(1) +
                             line(c.columns, c.pixel_A[1]).square().unsqueeze(0))
                                .lt(radius * radius)
                                .to(at::kDouble);
    const Image image = gray_panel(disc, options);
    const Parts parts = parts_of(image);
    SCOPED_TRACE(std::to_string(c.rows) + " x " + std::to_string(c.columns));
    EXPECT_LE(std::max(parts.rows, parts.columns), 2048);
    const double A_per_pixel = width / static_cast<double>(parts.columns);
    EXPECT_NEAR(static_cast<double>(parts.rows) * A_per_pixel, height, 2.0 * A_per_pixel);
    EXPECT_NEAR(static_cast<double>(parts.bar) * A_per_pixel, c.bar_A, 0.51 * A_per_pixel);
    const auto bright = [&](std::int64_t row, std::int64_t column) {
      return image.rgb[static_cast<std::size_t>(((8 + row) * image.columns + 8 + column) * 3)] >
             127;
    };
    std::int64_t down = 0, across = 0;
    for (std::int64_t row = 0; row < parts.rows; ++row) down += bright(row, parts.columns / 2);
    for (std::int64_t k = 0; k < parts.columns; ++k) across += bright(parts.rows / 2, k);
    const double pixel = std::max(c.pixel_A[0], c.pixel_A[1]);
    EXPECT_NEAR(static_cast<double>(down) * A_per_pixel, 2.0 * radius, 2.0 * pixel);
    EXPECT_NEAR(static_cast<double>(across) * A_per_pixel, 2.0 * radius, 2.0 * pixel);
  }
}

TEST(Png, PhaseIsShownWithoutConstantAndRamp) {
  const std::int64_t rows = 40, columns = 50;
  const at::Tensor i = at::arange(rows, at::kDouble).reshape({1, rows, 1});
  const at::Tensor j = at::arange(columns, at::kDouble).reshape({1, 1, columns});
  const at::Tensor bumps =
      (0.5 * at::sin(i * (2 * M_PI / 10)) * at::cos(j * (2 * M_PI / 10))).expand({2, -1, -1});
  const at::Tensor phase = bumps + 0.4 * i - 0.7 * j + 2.0;  // wraps many times
  const Region all{0, 0, rows, columns};
  const at::Tensor shown = displayed_phase(at::polar(at::ones_like(phase), phase), all);
  EXPECT_EQ(shown.sizes().vec(), phase.sizes().vec());
  EXPECT_LT((shown - bumps).abs().max().item<double>(), 0.05);
  // A real object is a phase already.
  EXPECT_TRUE(at::allclose(displayed_phase(phase, all), shown, 0.0, 1e-9));
}

TEST(Png, TheScannedRegionIsWhereWindowsHaveTheirCentres) {
  const at::Tensor positions = at::tensor({0.5, 2.0, 10.25, 20.0}, at::kDouble).reshape({2, 2});
  const Region region = scanned_region(positions, 8, 8, 19, 27);
  EXPECT_EQ(region.row, 4);
  EXPECT_EQ(region.column, 6);
  EXPECT_EQ(region.row + region.rows, 16);
  EXPECT_EQ(region.column + region.columns, 26);
  // An object smaller than the scan.
  const Region small = scanned_region(positions, 8, 8, 5, 5);
  EXPECT_LE(small.row + small.rows, 5);
  EXPECT_GE(small.rows, 1);
  const Region none = scanned_region(at::zeros({0, 2}, at::kDouble), 8, 8, 5, 6);
  EXPECT_EQ(none.columns, 6);
}

// Rings, dots and a tilted, aberrated probe: also there to be looked at (PTYLE_KEEP_PNG = folder).
TEST(Png, ObjectAndProbeAreDrawnWithLegends) {
  const std::int64_t size = 96;
  const at::Tensor x = at::arange(size, at::kDouble).reshape({1, size}) - 48.0;
  const at::Tensor y = at::arange(size, at::kDouble).reshape({size, 1}) - 48.0;
  const at::Tensor slice =
      0.8 *
      at::exp(-((x.remainder(16.0) - 8.0).square() + (y.remainder(16.0) - 8.0).square()) / 8.0);
  const at::Tensor object = at::stack({slice, 0.5 * slice.roll({8}, {0})});
  const at::Tensor radius = x * x + y * y;
  const at::Tensor probe = at::polar(at::exp(-radius / 300.0), 0.01 * radius);
  const char* keep = std::getenv("PTYLE_KEEP_PNG");
  const auto name = [keep](const std::string& file) {
    return keep == nullptr ? temporary(file) : (fs::path(keep) / file).string();
  };
  const Region region{10, 10, 76, 76};
  write_object_phase(name("object_phase.png"), slices_of(object), region, NumberPair{0.2, 0.2});
  write_object_amplitude(name("object_amplitude.png"),
                         slices_of(at::polar(1.0 - 0.1 * slice, slice).unsqueeze(0)), region,
                         std::nullopt);
  write_probe(name("probe.png"), at::stack({probe, 0.2 * probe * x}), NumberPair{10.0, 10.0});
  const Image phase = read_png(name("object_phase.png"));
  EXPECT_GT(phase.columns, 3 * 256);  // the sum and two slices
  EXPECT_GT(phase.rows, 256);
  const Image colours = read_png(name("probe.png"));
  std::set<std::array<std::uint8_t, 3>> unique;
  for (std::size_t i = 0; i + 2 < colours.rgb.size(); i += 3) {
    unique.insert({colours.rgb[i], colours.rgb[i + 1], colours.rgb[i + 2]});
  }
  EXPECT_GT(unique.size(), 500U);
  if (keep != nullptr) return;
  for (const char* file : {"object_phase.png", "object_amplitude.png", "probe.png"}) {
    fs::remove(name(file));
  }
}

}  // namespace
}  // namespace ptyle::driver
