// From files to the program's conventions: types, orientation, crop, binning, padding, masks,
// positions, the object's frame, the probe; and what is refused.
#include <cmath>
#include <filesystem>
#include <limits>
#include <sstream>
#include <string>
#include <unistd.h>
#include <vector>

#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <ptyle/ops.h>

#include "driver/check/check.h"
#include "driver/config/config.h"
#include "driver/engine/footprint.h"
#include "driver/errors.h"
#include "driver/io/hdf5.h"
#include "driver/io/problem.h"

namespace ptyle::driver {
namespace {

namespace fs = std::filesystem;
using hdf5::File;
using Sets = std::vector<std::string>;

class ProblemTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "ptyle_problem_XXXXXX").string();
    folder_ = ::mkdtemp(pattern.data());
    at::manual_seed(3);
  }
  void TearDown() override {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  // A file with patterns, positions and a probe [h, w] as large as the patterns.
  void write(const at::Tensor& patterns, at::Tensor positions = {}, at::Tensor probe = {}) {
    const std::int64_t n =
        patterns.dim() == 4 ? patterns.size(0) * patterns.size(1) : patterns.size(0);
    if (!positions.defined()) {
      positions = at::rand({n, 2}, at::kDouble) * 10.0;
    }
    if (!probe.defined()) {
      probe = at::ones({patterns.size(-2), patterns.size(-1)}, at::kComplexDouble);
    }
    File file = File::create(path("d.h5"));
    file.write("data", patterns);
    file.write("positions", positions);
    file.write("probe", probe);
    for (const auto& [name, tensor] : extra_) file.write(name, tensor);
    file.close();
  }
  Config config(const Sets& sets = {}) const {
    return parse_config("data.file = \"d.h5\"\n", path("c.toml"), with_probe(sets));
  }
  Problem load(const Sets& sets = {}) const { return load_problem(config(sets)); }

  template <typename E>
  std::string refusal(const Sets& sets = {}) const {
    try {
      load(sets);
    } catch (const E& error) {
      return error.what();
    } catch (const Error& error) {
      return "another error: " + std::string(error.what());
    }
    return "accepted";
  }

  static Sets with_probe(Sets sets) {
    for (const std::string& set : sets) {
      if (set.starts_with("probe.file") || set.starts_with("probe.semiangle_mrad")) return sets;
    }
    sets.emplace_back("probe.file=d.h5");
    return sets;
  }

  fs::path folder_;
  std::vector<std::pair<std::string, at::Tensor>> extra_;
};

void expect_words(const std::string& message, const std::vector<std::string>& words) {
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  for (const std::string& word : words) {
    EXPECT_NE(message.find(word), std::string::npos)
        << "missing \"" << word << "\" in: " << message;
  }
}

at::Tensor counts(at::IntArrayRef shape) { return at::randint(0, 100, shape, at::kLong); }

// What the far field does to a pattern with its zero frequency at the centre.
at::Tensor to_corner(const at::Tensor& patterns) {
  return patterns.roll({-(patterns.size(-2) / 2), -(patterns.size(-1) / 2)}, {-2, -1});
}

TEST_F(ProblemTest, EveryTypeIsKeptOrNarrowedWithoutLoss) {
  struct Case {
    at::ScalarType stored, kept;
  };
  for (const auto& [stored, kept] :
       {Case{at::kByte, at::kByte}, Case{at::kChar, at::kShort}, Case{at::kShort, at::kShort},
        Case{at::kUInt16, at::kUInt16}, Case{at::kInt, at::kInt}, Case{at::kUInt32, at::kInt},
        Case{at::kLong, at::kInt}, Case{at::kUInt64, at::kInt}, Case{at::kFloat, at::kFloat},
        Case{at::kDouble, at::kFloat}}) {
    for (const auto& shape :
         std::vector<std::vector<std::int64_t>>{{5, 4, 6}, {1, 1, 1}, {2, 7, 5}}) {
      const at::Tensor patterns = counts(shape) + 1;
      write(patterns.to(stored));
      const Problem problem = load();
      EXPECT_EQ(problem.patterns.scalar_type(), kept) << c10::toString(stored);
      EXPECT_TRUE(at::equal(problem.patterns.to(at::kLong), to_corner(patterns)));
      EXPECT_EQ(problem.total_counts, patterns.sum().item<double>());
      EXPECT_EQ(problem.largest_count, patterns.max().item<double>());
      EXPECT_FALSE(problem.mask.has_value());
      const at::Tensor indices = at::tensor({std::int64_t{0}, shape[0] - 1});
      EXPECT_TRUE(at::equal(problem.source->rows(indices).patterns.to(at::kLong),
                            to_corner(patterns).index_select(0, indices)));
    }
  }
}

TEST_F(ProblemTest, WhatDoesNotFitIsRefused) {
  for (const auto& [type, value] :
       std::vector<std::pair<at::ScalarType, double>>{{at::kLong, 3e9},
                                                      {at::kUInt32, 3e9},
                                                      {at::kUInt64, 1e15},
                                                      {at::kDouble, 1e300},
                                                      {at::kDouble, 16777217.0}}) {
    at::Tensor patterns = at::ones({3, 2, 2}, at::kDouble);
    patterns[2][0][1] = value;
    write(patterns.to(type));
    expect_words(refusal<DataError>(), {"d.h5", "data.patterns \"data\"", "[2, 0, 1]"});
  }
  for (const double value : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
      at::Tensor patterns = at::ones({3, 2, 2}, at::kDouble);
      patterns[1][1][0] = value;
      patterns[2][0][0] = value;
      write(patterns.to(type));
      expect_words(refusal<DataError>(), {"d.h5", "data", "must be finite", "[1, 1, 0]"});
    }
  }
  write(at::ones({3, 2, 2}, at::kComplexFloat));
  expect_words(refusal<DataError>(), {"data.patterns", "real numbers", "complex64"});
  write(at::ones({3, 2}, at::kByte), at::zeros({3, 2}), at::ones({2, 2}));
  expect_words(refusal<DataError>(), {"data.patterns", "[positions, rows, columns]", "[3, 2]"});
  write(at::ones({0, 2, 2}, at::kByte));
  expect_words(refusal<DataError>(), {"data.patterns", "must not be empty", "[0, 2, 2]"});
  write(at::zeros({3, 2, 2}, at::kByte));
  expect_words(refusal<DataError>(), {"data.patterns", "must hold counts"});
}

TEST_F(ProblemTest, OrientationTransposesFirstThenFlips) {
  const at::Tensor patterns = counts({4, 5, 6}) + 1;
  write(patterns.to(at::kShort), {}, at::ones({1, 1}));
  for (const bool transpose : {false, true}) {
    for (const bool rows : {false, true}) {
      for (const bool columns : {false, true}) {
        at::Tensor expected = transpose ? patterns.transpose(1, 2) : patterns;
        // The zero frequency, at [n / 2], stays: an even size is reversed about it.
        for (const int64_t axis : {1, 2}) {
          if (!(axis == 1 ? rows : columns)) continue;
          expected = expected.flip({axis}).roll({expected.size(axis) % 2 == 0 ? 1 : 0}, {axis});
        }
        const auto word = [](bool value) { return std::string(value ? "true" : "false"); };
        const Problem problem = load({"detector.orientation.transpose=" + word(transpose),
                                      "detector.orientation.flip_rows=" + word(rows),
                                      "detector.orientation.flip_columns=" + word(columns)});
        EXPECT_TRUE(at::equal(problem.patterns.to(at::kLong), to_corner(expected)));
        EXPECT_EQ(problem.window, (IntegerPair{expected.size(1), expected.size(2)}));
      }
    }
  }
  EXPECT_TRUE(at::equal(load({"data.zero_frequency=corner"}).patterns.to(at::kLong), patterns));
  EXPECT_TRUE(at::equal(load({"data.zero_frequency=corner", "detector.orientation.flip_rows=true",
                              "detector.orientation.flip_columns=true"})
                            .patterns.to(at::kLong),
                        patterns.flip({1, 2}).roll({1, 1}, {1, 2})));
}

TEST_F(ProblemTest, PlacesThatKeysNameAreThoseOfTheReversedPattern) {
  const at::Tensor patterns = counts({3, 8, 6}) + 1;
  write(patterns.to(at::kShort), {}, at::ones({1, 1}));
  const at::Tensor reversed = patterns.flip({1});
  const auto kept = [&](Sets sets) {
    sets.emplace_back("detector.orientation.flip_rows=true");
    return load(sets).patterns.to(at::kLong);
  };
  EXPECT_TRUE(at::equal(kept({"detector.center=[4, 3]"}), to_corner(reversed)));
  EXPECT_TRUE(at::equal(kept({"detector.crop=[1, 0, 4, 6]"}), to_corner(reversed.narrow(1, 1, 4))));
  // Without either the crop is about the zero frequency, which was at row 4 and is at row 3.
  EXPECT_TRUE(at::equal(kept({"detector.crop=[4, 6]"}), to_corner(reversed.narrow(1, 1, 4))));
  EXPECT_TRUE(at::equal(kept({"detector.center=[3, 3]", "detector.crop=[4, 6]"}),
                        to_corner(reversed.narrow(1, 1, 4))));
  EXPECT_EQ(load({"detector.orientation.flip_rows=true"}).zero_at, (NumberPair{3.0, 3.0}));
}

TEST_F(ProblemTest, CropBinAndPadActAboutTheCentre) {
  const at::Tensor patterns = counts({3, 12, 9}) + 1;
  write(patterns.to(at::kUInt16), {}, at::ones({1, 1}));
  const at::Tensor cropped = patterns.narrow(1, 2, 8).narrow(2, 1, 6);
  EXPECT_TRUE(at::equal(load({"detector.crop=[8, 6]"}).patterns.to(at::kLong), to_corner(cropped)));
  EXPECT_TRUE(at::equal(load({"detector.crop=[3, 0, 5, 7]"}).patterns.to(at::kLong),
                        to_corner(patterns.narrow(1, 3, 5).narrow(2, 0, 7))));
  // With the zero frequency in the corner the same crop is about it, too.
  const at::Tensor centred = patterns.roll({6, 4}, {1, 2});
  EXPECT_TRUE(
      at::equal(load({"detector.crop=[8, 6]", "data.zero_frequency=corner"}).patterns.to(at::kLong),
                to_corner(centred.narrow(1, 2, 8).narrow(2, 1, 6))));

  const at::Tensor binned = cropped.reshape({3, 4, 2, 2, 3}).sum(at::IntArrayRef{2, 4});
  const Problem problem = load({"detector.crop=[8, 6]", "detector.bin=[2, 3]"});
  EXPECT_EQ(problem.patterns.scalar_type(), at::kInt);
  EXPECT_TRUE(at::equal(problem.patterns.to(at::kLong), to_corner(binned)));
  EXPECT_EQ(problem.total_counts, cropped.sum().item<double>());

  const Problem padded =
      load({"detector.crop=[8, 6]", "detector.bin=[2, 3]", "detector.pad=[1, 2]"});
  const at::Tensor expected = at::constant_pad_nd(binned, {2, 2, 1, 1});
  EXPECT_TRUE(at::equal(padded.patterns.to(at::kLong), to_corner(expected)));
  ASSERT_TRUE(padded.mask.has_value());
  EXPECT_TRUE(at::equal(*padded.mask, to_corner(expected[0] == 0)));
  EXPECT_EQ(padded.masked_pixels, 3 * (36 - 8));

  expect_words(refusal<ConfigError>({"detector.crop=[13, 6]"}), {"detector.crop", "[12, 9]"});
  expect_words(refusal<ConfigError>({"detector.crop=[8, 0, 5, 5]"}), {"detector.crop", "[12, 9]"});
  expect_words(refusal<ConfigError>({"detector.bin=2"}), {"detector.bin", "divide", "[12, 9]"});
}

TEST_F(ProblemTest, MasksSentinelsAndSaturationAreFound) {
  at::Tensor patterns = counts({4, 3, 5});
  at::Tensor bad = at::zeros({3, 5}, at::kByte);
  bad[1][4] = 7;
  at::Tensor each = at::zeros({4, 3, 5}, at::kInt);
  each[2][0][0] = 1;
  extra_ = {{"bad", bad}, {"each", each}, {"wrong", at::zeros({5, 3})}};
  write(patterns.to(at::kUInt16), {}, at::ones({1, 1}));
  EXPECT_FALSE(load().mask.has_value());

  Problem problem = load({"data.mask=bad", "detector.orientation.transpose=true"});
  EXPECT_TRUE(at::equal(*problem.mask, to_corner(bad.t() != 0)));
  EXPECT_EQ(problem.masked_pixels, 4);
  EXPECT_TRUE(problem.patterns.to(at::kLong).masked_select(*problem.mask).eq(0).all().item<bool>());
  EXPECT_EQ(problem.total_counts, (patterns * (bad == 0)).sum().item<double>());

  problem = load({"data.mask=each"});
  EXPECT_TRUE(at::equal(*problem.mask, to_corner(each != 0)));
  // The same mask, from a file of its own.
  hdf5::write_atomically(path("m.h5"), [&](File& file) { file.write("x/mask", each); });
  EXPECT_TRUE(at::equal(*load({"data.mask=m.h5:x/mask"}).mask, to_corner(each != 0)));
  expect_words(refusal<DataError>({"data.mask=wrong"}), {"data.mask", "[3, 5]", "[5, 3]"});
  expect_words(refusal<ConfigError>({"data.mask=none"}), {"data.mask", "dataset", "none"});

  // The largest value of an unsigned type marks a dead pixel; the same in every pattern is one
  // mask.
  patterns = counts({4, 3, 5});
  patterns.select(1, 2).select(1, 1).fill_(65535);
  write(patterns.to(at::kUInt16), {}, at::ones({1, 1}));
  problem = load();
  ASSERT_TRUE(problem.mask.has_value());
  EXPECT_TRUE(at::equal(*problem.mask, to_corner(patterns[0] == 65535)));
  EXPECT_EQ(problem.sentinel_pixels, 4);
  EXPECT_LT(problem.largest_count, 100.0);

  patterns = counts({4, 3, 5});
  patterns[1][0][2] = 200;
  patterns[3][2][2] = 201;
  write(patterns.to(at::kInt), {}, at::ones({1, 1}));
  problem = load({"detector.saturation=200"});
  EXPECT_TRUE(at::equal(*problem.mask, to_corner(patterns >= 200)));
  EXPECT_EQ(problem.saturated_pixels, 2);
  problem = load({"detector.saturation=200", "data.mask=bad"});
  EXPECT_TRUE(at::equal(*problem.mask, to_corner((patterns >= 200).logical_or(bad != 0))));

  // A masked pixel may be anything.
  at::Tensor real = counts({4, 3, 5}).to(at::kFloat);
  real.select(1, 1).select(1, 4).fill_(std::nanf(""));
  write(real, {}, at::ones({1, 1}));
  EXPECT_TRUE(load({"data.mask=bad"}).patterns.isfinite().all().item<bool>());
  extra_[0].second = at::ones({3, 5});
  write(real, {}, at::ones({1, 1}));
  expect_words(refusal<DataError>({"data.mask=bad"}), {"data.patterns", "all of them masked"});
}

TEST_F(ProblemTest, DarkAndGainGiveCountsAndNegativesAreCounted) {
  const at::Tensor patterns = counts({3, 4, 4}) + 5;
  const at::Tensor dark = at::arange(16).reshape({4, 4}) * 3;
  extra_ = {{"dark", dark.to(at::kShort)}};
  write(patterns.to(at::kShort));
  const Problem problem = load({"detector.dark=dark", "detector.gain=2.0"});
  const at::Tensor expected = (patterns - dark).to(at::kDouble) / 2.0;
  EXPECT_EQ(problem.patterns.scalar_type(), at::kFloat);
  EXPECT_TRUE(at::equal(problem.patterns.to(at::kDouble), to_corner(expected)));
  EXPECT_EQ(problem.negative_pixels, (expected < 0).sum().item<std::int64_t>());
  EXPECT_GT(problem.negative_pixels, 0);
  EXPECT_DOUBLE_EQ(problem.mean_counts_per_pattern, expected.sum().item<double>() / 3.0);
  EXPECT_TRUE(at::equal(load({"detector.dark=5"}).patterns.to(at::kLong), to_corner(patterns - 5)));
}

TEST_F(ProblemTest, FourDimensionalScansAreFlattened) {
  const at::Tensor patterns = counts({2, 3, 4, 5}) + 1;
  write(patterns.to(at::kByte));
  const Problem problem = load({"data.raster.step=[2.0, 1.5]"});
  EXPECT_TRUE(at::equal(problem.patterns.to(at::kLong), to_corner(patterns.reshape({6, 4, 5}))));
  const at::Tensor expected =
      at::tensor({0.0, 0.0, 0.0, 1.5, 0.0, 3.0, 2.0, 0.0, 2.0, 1.5, 2.0, 3.0}, at::kDouble)
          .reshape({6, 2});
  EXPECT_TRUE(at::allclose(problem.positions, expected));
  // rows: 2 - 0 + 4 + 1; columns: 3 - 0 + 5 + 1
  EXPECT_EQ(problem.object_shape, (std::array<std::int64_t, 3>{1, 7, 9}));
  expect_words(refusal<DataError>({"data.raster.step=1", "data.raster.shape=[3, 3]"}),
               {"data.patterns", "3 x 3", "6 patterns"});
  at::Tensor broken = patterns.to(at::kFloat);
  broken[1][2][3][4] = std::nanf("");
  write(broken);
  expect_words(refusal<DataError>(), {"must be finite", "[1, 2, 3, 4]"});
}

// What a rank reads of its own positions is what one rank reads of all.
TEST_F(ProblemTest, ASubsetIsReadFromAnyLayout) {
  const at::Tensor three = counts({35, 4, 6}) + 1, four = three.reshape({5, 7, 4, 6});
  const at::Tensor bad = at::rand({35, 4, 6}).lt(0.1);
  struct Layout {
    bool scan;
    hdf5::WriteOptions options;
  };
  for (const Layout& layout :
       {Layout{false, {}}, Layout{false, {{4, 4, 6}, 1}}, Layout{false, {{1, 4, 6}, 0}},
        Layout{true, {}}, Layout{true, {{2, 3, 4, 6}, 1}}}) {
    write(three.to(at::kUInt16), {}, at::ones({1, 1}));
    File file = File::create(path("e.h5"));
    file.write("data", (layout.scan ? four : three).to(at::kUInt16), layout.options);
    file.write("bad", layout.scan ? bad.reshape({5, 7, 4, 6}) : bad, layout.options);
    file.close();
    const Config c =
        config({"data.patterns=" + path("e.h5") + ":data", "data.mask=" + path("e.h5") + ":bad"});
    const Problem whole = load_problem(c);
    for (const std::vector<std::int64_t>& held : {std::vector<std::int64_t>{},
                                                  {0},
                                                  {34},
                                                  {3, 4, 5, 20, 21},
                                                  {0, 7, 8, 14, 15, 28, 33, 34}}) {
      Problem part = load_geometry(c);
      load_patterns(c, part, held);
      ASSERT_EQ(part.patterns.size(0), static_cast<std::int64_t>(held.size()));
      for (std::size_t k = 0; k < held.size(); ++k) {
        const auto row = static_cast<std::int64_t>(k);
        EXPECT_TRUE(at::equal(part.patterns[row].view(at::kShort),
                              whole.patterns[held[k]].view(at::kShort)));
        const at::Tensor mask = part.mask->dim() == 3 ? (*part.mask)[row] : *part.mask;
        EXPECT_TRUE(at::equal(mask, (*whole.mask)[held[k]]));
        EXPECT_TRUE(at::equal(part.statistics[held[k]], whole.statistics[held[k]]));
      }
      EXPECT_EQ(part.statistics.select(1, 0).ne(0).sum().item<std::int64_t>(),
                static_cast<std::int64_t>(held.size()));
    }
  }
}

TEST_F(ProblemTest, PositionsComeIntoTheObjectsFrame) {
  const at::Tensor patterns = counts({3, 4, 6}) + 1;
  const at::Tensor positions =
      at::tensor({-10.25, 7.5, -3.0, 9.75, -8.5, 20.0}, at::kDouble).reshape({3, 2});
  write(patterns, positions);
  Problem problem = load({"object.padding=2"});
  EXPECT_EQ(problem.offset, (NumberPair{-11.0 - 2.0, 7.0 - 2.0}));
  EXPECT_TRUE(at::allclose(problem.positions, positions - at::tensor({-13.0, 5.0}, at::kDouble)));
  // rows: -3 - (-11) + 4 + 1 + 4 = 17; columns: 20 - 7 + 6 + 1 + 4 = 24
  EXPECT_EQ(problem.object_shape, (std::array<std::int64_t, 3>{1, 17, 24}));
  problem = load({"object.shape=[5, 6]"});
  EXPECT_EQ(problem.object_shape, (std::array<std::int64_t, 3>{1, 5, 6}));
  EXPECT_EQ(problem.offset, (NumberPair{-11.0, 7.0}));

  // A length: 1 nm is 10 pixels of 0.1 nm along rows, 5 of 0.2 nm along columns.
  problem = load({"data.position_unit=nm", "detector.object_pixel_nm=[0.1, 0.2]"});
  const at::Tensor step = problem.positions[1] - problem.positions[0];
  EXPECT_NEAR(step[0].item<double>(), 72.5, 1e-9);
  EXPECT_NEAR(step[1].item<double>(), 11.25, 1e-9);

  // Positive rotation turns +row towards +column.
  write(patterns.narrow(0, 0, 2), at::tensor({0.0, 0.0, 4.0, 0.0}, at::kDouble).reshape({2, 2}));
  problem = load({"data.rotation_deg=90"});
  const at::Tensor turned = problem.positions[1] - problem.positions[0];
  EXPECT_NEAR(turned[0].item<double>(), 0.0, 1e-12);
  EXPECT_NEAR(turned[1].item<double>(), 4.0, 1e-12);
  problem = load({"data.affine=[[2.0, 0.0], [0.5, 1.0]]"});
  const at::Tensor sheared = problem.positions[1] - problem.positions[0];
  EXPECT_NEAR(sheared[0].item<double>(), 8.0, 1e-12);
  EXPECT_NEAR(sheared[1].item<double>(), 2.0, 1e-12);
}

TEST_F(ProblemTest, PositionsThatTheirTypeRoundsAreDoubted) {
  const at::Tensor patterns = counts({3, 4, 6}) + 1;
  const at::Tensor near = at::tensor({0.0, 0.25, 1.5, 2.0, 3.0, 4.5}, at::kDouble).reshape({3, 2});
  const auto doubts_at = [&](double offset, at::ScalarType type, std::vector<std::string> set) {
    write(patterns, (near + offset).to(type));
    return load(set).found;
  };
  // float32 has steps of 1/16 from 2^19 on, of 1/8 from 2^20 on; float64 of 1/8 from 2^49 on
  EXPECT_TRUE(doubts_at(600000.0, at::kFloat, {}).empty());
  EXPECT_TRUE(doubts_at(1e14, at::kDouble, {}).empty());
  EXPECT_TRUE(doubts_at(2e6, at::kInt, {}).empty());
  ASSERT_EQ(doubts_at(1.2e6, at::kFloat, {}).size(), 1u);
  expect_words(doubts_at(1.2e6, at::kFloat, {})[0].text, {"floats of 32 bits", "0.12 pixels"});
  expect_words(doubts_at(1e15, at::kDouble, {})[0].text, {"floats of 64 bits", "0.12 pixels"});
  // 1/16 nm is 0.625 pixels of 0.1 nm
  expect_words(doubts_at(600000.0, at::kFloat,
                         {"data.position_unit=nm", "detector.object_pixel_nm=[0.1, 0.2]"})[0]
                   .text,
               {"0.62 pixels"});
}

TEST_F(ProblemTest, WrongPositionsAreRefused) {
  const at::Tensor patterns = counts({3, 4, 4}) + 1;
  write(patterns, at::zeros({4, 2}));
  expect_words(refusal<DataError>(), {"data.positions", "3 patterns", "got 4"});
  write(patterns, at::zeros({2, 3}));
  expect_words(refusal<DataError>(), {"data.positions", "[positions, 2]", "[2, 3]"});
  at::Tensor positions = at::zeros({3, 2}, at::kDouble);
  positions[1][1] = std::nan("");
  write(patterns, positions);
  expect_words(refusal<DataError>(), {"data.positions", "must be finite", "[1, 1]"});
  write(patterns, at::zeros({3, 2}));
  expect_words(refusal<ConfigError>({"data.positions=where"}),
               {"data.positions", "must name a dataset", "positions", "\"where\""});
  expect_words(refusal<ConfigError>({"data.file=none.h5"}),
               {"data.file", "existing file", "none.h5"});
  expect_words(refusal<ConfigError>({"data.position_unit=nm"}),
               {"detector.pixel_mrad", "must be given", "data.position_unit"});
  write(patterns, at::tensor({0.0, 0.0, 1e9, 0.0, 0.0, 1.0}, at::kDouble).reshape({3, 2}));
  expect_words(refusal<ConfigError>(), {"data.position_unit", "million pixels"});
}

TEST_F(ProblemTest, EachSamplingGivesTheSamePixel) {
  const at::Tensor patterns = counts({3, 8, 16}) + 1;
  write(patterns);
  // 8 binned rows of 2 stored ones would be 16 stored rows: here the bin is 1.
  const double wavelength =
      *load({"beam.energy_keV=200", "detector.object_pixel_nm=1"}).wavelength_A;
  EXPECT_NEAR(wavelength, 0.02507934045, 1e-10);
  const auto text = [](double value) {
    std::ostringstream out;
    out.precision(17);
    out << value;
    return out.str();
  };
  // A pixel of 0.25 A along rows: dk = 1 / (8 x 0.25 A) = 0.5 / A.
  const Sets beam = {"beam.energy_keV=200"};
  for (const std::string& sampling : {std::string("detector.pixel_per_nm=5.0"),
                                      "detector.pixel_mrad=" + text(0.5 * wavelength * 1e3)}) {
    const Problem problem = load({"beam.energy_keV=200", sampling});
    EXPECT_NEAR(*problem.pixel_row_A, 0.25, 1e-12) << sampling;
    EXPECT_NEAR(*problem.pixel_column_A, 0.125, 1e-12) << sampling;
  }
  const Problem far = load({"beam.energy_keV=200", "detector.distance_m=2.0",
                            "detector.pixel_size_um=" + text(0.5 * wavelength * 2.0 * 1e6)});
  EXPECT_NEAR(*far.pixel_row_A, 0.25, 1e-12);
  // Binned, the frequency step doubles and the window halves; cropped, the pixel grows.
  Problem binned = load({"beam.energy_keV=200", "detector.pixel_per_nm=5.0", "detector.bin=2",
                         "probe.semiangle_mrad=10"});
  EXPECT_NEAR(*binned.pixel_row_A, 0.25, 1e-12);
  binned = load({"beam.energy_keV=200", "detector.pixel_per_nm=5.0", "detector.crop=[4, 16]",
                 "probe.semiangle_mrad=10"});
  EXPECT_NEAR(*binned.pixel_row_A, 0.5, 1e-12);
  const double xray = *load({"beam.kind=xray", "beam.energy_keV=10"}).wavelength_A;
  EXPECT_NEAR(xray, 1.2398419843320026, 1e-12);
}

TEST_F(ProblemTest, SlicesNeedLengthsAndGetAPropagator) {
  write(counts({3, 8, 8}) + 1);
  const Sets slices = {"object.slices=4", "object.thickness_nm=8"};
  expect_words(refusal<ConfigError>(slices), {"beam.energy_keV", "object.slices = 4"});
  Sets full = slices;
  full.emplace_back("beam.energy_keV=200");
  expect_words(refusal<ConfigError>(full), {"object_pixel_nm", "object.slices = 4"});
  full.emplace_back("detector.object_pixel_nm=0.02");
  const Problem problem = load(full);
  EXPECT_EQ(problem.object_shape[0], 4);
  EXPECT_DOUBLE_EQ(problem.slice_distance_A, 20.0);
  ASSERT_TRUE(problem.propagator.has_value());
  EXPECT_EQ(problem.propagator->sizes().vec(), (std::vector<std::int64_t>{8, 8}));
  // exp(-i pi lambda dz k^2) at k = 1 / (8 x 0.2 A)
  const double phase = -M_PI * *problem.wavelength_A * 20.0 * std::pow(1.0 / 1.6, 2);
  const auto factor = (*problem.propagator)[0][1].item<c10::complex<double>>();
  EXPECT_NEAR(factor.real(), std::cos(phase), 1e-12);
  EXPECT_NEAR(factor.imag(), std::sin(phase), 1e-12);
  EXPECT_FALSE(load().propagator.has_value());
}

TEST_F(ProblemTest, NearFieldKeepsTheWindowsOrder) {
  const at::Tensor patterns = counts({3, 5, 6}) + 1;
  write(patterns);
  const Problem problem =
      load({"detector.geometry=near", "detector.distance_m=0.003", "detector.pixel_size_um=0.2",
            "beam.kind=xray", "beam.energy_keV=10"});
  EXPECT_TRUE(at::equal(problem.patterns.to(at::kLong), patterns));
  EXPECT_DOUBLE_EQ(*problem.pixel_row_A, 2000.0);
  ASSERT_TRUE(problem.detector.has_value());
  EXPECT_EQ(problem.detector->sizes().vec(), (std::vector<std::int64_t>{5, 6}));
  EXPECT_FALSE(problem.propagator.has_value());
}

TEST_F(ProblemTest, ProbesArePaddedAndGetTheirModes) {
  const at::Tensor patterns = counts({3, 8, 9}) + 1;
  const at::Tensor positions = at::tensor({4.0, 5.0, 6.0, 7.0, 8.0, 9.0}).reshape({3, 2});
  const at::Tensor small = at::rand({2, 4, 3}, at::kComplexFloat);
  write(patterns, positions, small);
  const Problem problem = load({"probe.modes=2"});
  EXPECT_EQ(problem.probe.scalar_type(), at::kComplexDouble);
  EXPECT_EQ(problem.stored_probe_modes, 2);
  EXPECT_TRUE(
      at::equal(problem.probe.narrow(1, 2, 4).narrow(2, 3, 3), small.to(at::kComplexDouble)));
  EXPECT_NEAR(problem.probe.abs().square().sum().item<double>(),
              small.abs().square().sum().item<double>(), 1e-5);
  // The window of the pattern begins where the probe's begins, less the padding.
  EXPECT_TRUE(at::allclose(problem.positions,
                           positions.to(at::kDouble) - at::tensor({4.0, 5.0}, at::kDouble)));
  EXPECT_EQ(problem.offset, (NumberPair{4.0, 5.0}));
  EXPECT_EQ(load().probe.size(0), 1);

  const at::Tensor more = load({"probe.modes=4"}).probe;
  EXPECT_TRUE(at::equal(more.narrow(0, 0, 2), problem.probe));
  const at::Tensor flat = more.reshape({4, -1});
  for (std::int64_t k = 2; k < 4; ++k) {
    EXPECT_GT(flat[k].abs().square().sum().item<double>(), 0.0);
    for (std::int64_t other = 0; other < 2; ++other) {
      EXPECT_NEAR((at::conj_physical(flat[other]) * flat[k]).sum().abs().item<double>(), 0.0, 1e-9);
    }
  }
  write(patterns, positions, at::rand({4, 3}, at::kFloat));
  EXPECT_EQ(load({"probe.modes=3"}).probe.size(0), 3);
  write(patterns, positions, at::rand({9, 9}, at::kFloat));
  expect_words(refusal<DataError>(), {"probe.dataset", "[8, 9]", "[9, 9]"});
  write(patterns, positions, at::full({8, 9}, std::nan(""), at::kComplexDouble));
  expect_words(refusal<DataError>(), {"probe.dataset", "finite", "[0, 0, 0]"});
  write(patterns, positions, at::zeros({8, 9}, at::kComplexDouble));
  expect_words(refusal<DataError>(), {"probe.dataset", "zero"});
  expect_words(refusal<ConfigError>({"probe.dataset=guess"}), {"probe.dataset", "\"guess\""});
  expect_words(refusal<ConfigError>({"probe.file=p.h5"}), {"probe.file", "p.h5"});
}

TEST_F(ProblemTest, AComputedProbeStandsInTheMiddleOfItsWindow) {
  write(counts({3, 32, 32}) + 1);
  const Sets sets = {"beam.energy_keV=200", "detector.object_pixel_nm=0.02",
                     "probe.semiangle_mrad=20", "probe.aberrations.C30_nm=1000"};
  const Problem problem = load(sets);
  const at::Tensor intensity = problem.probe[0].abs().square();
  EXPECT_EQ(intensity.argmax().item<std::int64_t>(), 16 * 32 + 16);
  EXPECT_EQ(problem.stored_probe_modes, 0);
  expect_words(refusal<ConfigError>({"probe.semiangle_mrad=20"}), {"beam.energy_keV"});
  expect_words(refusal<ConfigError>({"beam.energy_keV=200", "detector.object_pixel_nm=0.02",
                                     "probe.semiangle_mrad=100"}),
               {"probe.semiangle_mrad", "inside the detector", "100"});
}

// The Fourier transform as a sum, at the frequencies at which a detector with its zero frequency at
// `zero` of the stored pattern measures.
at::Tensor measured_from(const at::Tensor& exit, NumberPair zero) {
  const int64_t h = exit.size(-2), w = exit.size(-1);
  const auto sums = [](int64_t size, double from) {
    const at::Tensor index = at::arange(size, at::kDouble);
    const at::Tensor phase = at::outer(index - from, index) * (-2.0 * M_PI / double(size));
    return at::polar(at::full_like(phase, 1.0 / std::sqrt(double(size))), phase);
  };
  const at::Tensor spectrum =
      at::matmul(at::matmul(sums(h, zero[0]), exit), sums(w, zero[1]).transpose(0, 1));
  return spectrum.abs().square();
}

TEST_F(ProblemTest, AZeroFrequencyBetweenPixelsIsTheSumAtTheseFrequencies) {
  constexpr int64_t kSize = 24;
  const NumberPair zero = {11.6, 12.3};
  // Probes well inside the window: what wraps around its edge is another matter.
  const at::Tensor r = at::arange(kSize, at::kDouble) - kSize / 2;
  const at::Tensor bell = at::exp(-r.square() / (2 * 2.2 * 2.2));
  const at::Tensor round = at::outer(bell, bell);
  const at::Tensor curved = at::polar(round, 0.08 * (r.unsqueeze(1).square() - r.square()));
  const at::Tensor probe = at::stack({curved, curved * r.unsqueeze(1) / 4.0});
  const at::Tensor positions = at::tensor({0.0, 0.0, 5.0, 3.0, 2.25, 7.5}).reshape({3, 2});
  // Smooth, so that nothing is scattered to the edge of what the window samples.
  const at::Tensor y = at::arange(40, at::kDouble).unsqueeze(1), x = at::arange(40, at::kDouble);
  const at::Tensor phase = at::stack({0.6 * at::sin(0.7 * y + 0.4 * x) + 0.3 * at::cos(0.9 * x),
                                      0.5 * at::sin(0.3 * y - 0.8 * x) + 0.2 * at::cos(0.6 * y)});
  const at::Tensor object = at::polar(at::ones_like(phase), phase);
  write(counts({3, kSize, kSize}), positions, probe);
  const Problem problem =
      load({"detector.center=[11.6, 12.3]", "probe.modes=2", "object.slices=2",
            "beam.energy_keV=200", "object.thickness_nm=2", "detector.object_pixel_nm=0.04"});
  EXPECT_NEAR(problem.zero_offset[0], -0.4, 1e-12);
  EXPECT_NEAR(problem.zero_offset[1], 0.3, 1e-12);
  EXPECT_TRUE(at::allclose(without_ramp(problem, problem.probe), probe, 0, 1e-12));

  const at::Tensor model = diffraction(object, problem.probe, problem.positions, problem.propagator)
                               .roll({kSize / 2, kSize / 2}, {1, 2});
  const at::Tensor still =
      fresnel_propagator(kSize, kSize, 0.4, 0.4, wavelength_A(BeamKind::kElectron, 200.0), 10.0);
  const at::Tensor waves = exit_waves(object, probe, problem.positions, still);
  at::Tensor expected = at::zeros({3, kSize, kSize}, at::kDouble);
  for (int64_t mode = 0; mode < 2; ++mode) {
    expected += measured_from(waves.select(1, mode), zero);
  }
  EXPECT_LT(((model - expected).abs().max() / expected.max()).item<double>(), 3e-3);
  // The sign matters, and the fraction.
  for (const NumberPair& wrong : {NumberPair{12.4, 11.7}, NumberPair{12.0, 12.0}}) {
    at::Tensor other = at::zeros({3, kSize, kSize}, at::kDouble);
    for (int64_t mode = 0; mode < 2; ++mode) other += measured_from(waves.select(1, mode), wrong);
    EXPECT_GT(((model - other).abs().max() / other.max()).item<double>(), 0.02);
  }
}

TEST_F(ProblemTest, TheCentreMovesTheWindowBeforeTheCropAndAnEvenBinByHalfAPixel) {
  const at::Tensor patterns = counts({2, 12, 16}) + 1;
  const at::Tensor probe = at::ones({4, 4}, at::kComplexDouble);
  write(patterns, {}, probe);
  // The window of 6 x 8 about [5, 9]: rows 2 to 7, columns 5 to 12.
  Problem problem = load({"detector.center=[5.25, 8.75]", "detector.crop=[6, 8]"});
  EXPECT_TRUE(at::equal(problem.patterns.to(at::kLong),
                        to_corner(patterns.narrow(1, 2, 6).narrow(2, 5, 8))));
  EXPECT_NEAR(problem.zero_offset[0], 0.25, 1e-12);
  EXPECT_NEAR(problem.zero_offset[1], -0.25, 1e-12);
  EXPECT_FALSE(problem.mask.has_value());
  // Beyond the detector's edge nothing is measured: row 12 for a middle at 7.
  problem = load({"detector.center=[7, 8]"});
  ASSERT_TRUE(problem.mask.has_value());
  EXPECT_EQ(problem.mask->sum().item<int64_t>(), 16);
  // Pixels summed by two have their middle half a pixel from the zero frequency's.
  problem = load({"detector.bin=2"});
  EXPECT_NEAR(problem.zero_offset[0], -0.25, 1e-12);
  problem = load({"detector.bin=2", "detector.center=[6.5, 8.5]"});
  EXPECT_NEAR(problem.zero_offset[0], 0.0, 1e-12);
  EXPECT_FALSE(problem.mask.has_value());
  problem = load({"detector.bin=3", "detector.crop=[12, 12]"});
  EXPECT_NEAR(problem.zero_offset[0], -1.0 / 3.0, 1e-12);
  problem = load({"data.zero_frequency=corner", "detector.center=[-0.4, 0.2]"});
  EXPECT_NEAR(problem.zero_offset[0], -0.4, 1e-12);
  EXPECT_NEAR(problem.zero_offset[1], 0.2, 1e-12);
  EXPECT_TRUE(at::equal(problem.patterns.to(at::kLong), patterns));
}

TEST_F(ProblemTest, MomentsAreThoseOfTheFramesThatTakePart) {
  const at::Tensor patterns = counts({6, 4, 4}) + 1;
  write(patterns);
  const Problem problem = load({"data.select=[1, 5]"});
  ASSERT_EQ(problem.statistics.size(0), 2);
  const at::Tensor from_middle = at::arange(4, at::kDouble) - 2;
  const std::vector<int64_t> frames = {1, 5};
  for (int64_t k = 0; k < 2; ++k) {
    const at::Tensor one = patterns.select(0, frames[static_cast<size_t>(k)]).to(at::kDouble);
    for (int64_t axis = 0; axis < 2; ++axis) {
      EXPECT_NEAR(problem.statistics.select(0, k).select(0, 7 + axis).item<double>(),
                  (one.sum(1 - axis) * from_middle).sum().item<double>(), 1e-9);
    }
  }
}

TEST_F(ProblemTest, CheckPrintsTheGeometryAndItsDoubts) {
  at::Tensor patterns = at::ones({4, 16, 16}, at::kByte);
  patterns.select(1, 3).select(1, 5).fill_(250);  // far from the centre
  write(patterns, at::tensor({0.0, 0.0, 0.0, 30.0, 30.0, 0.0, 30.0, 30.0}).reshape({4, 2}));
  std::ostringstream out;
  EXPECT_EQ(check(config({"detector.object_pixel_nm=[0.1, 0.2]", "probe.power=100"}), out), 0);
  for (const char* word :
       {"window            16 x 16", "pixel size        1 A x 2 A",
        "field of view     4.7 nm x 9.4 nm", "object            1 slice of 47 x 47",
        "tile grid         1 x 1", "band limit        none", "overlap", "dose",
        "orientation       as stored", "memory", "read              1.0",
        "doubtful: the linear overlap", "doubtful: the object's pixels are not square",
        "doubtful: the probe's power"}) {
    EXPECT_NE(out.str().find(word), std::string::npos) << word << "\n" << out.str();
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 1)
      << "check must write nothing";
}

TEST(ObjectFrame, FollowsTheDesignAndTakesEdgeCases) {
  const at::Tensor one = at::tensor({-0.5, 3.0}, at::kDouble).reshape({1, 2});
  ObjectFrame frame = object_frame(one, {4, 5}, 0, std::nullopt);
  EXPECT_EQ(frame.shape, (IntegerPair{5, 6}));
  EXPECT_EQ(frame.offset, (NumberPair{-1.0, 3.0}));
  EXPECT_EQ(frame.positions[0][0].item<double>(), 0.5);
  frame = object_frame(at::zeros({0, 2}, at::kDouble), {4, 5}, 0, std::nullopt);
  EXPECT_EQ(frame.positions.size(0), 0);
}

}  // namespace
}  // namespace ptyle::driver
