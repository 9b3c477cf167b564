// Frames that should take no part, marks of unmeasured pixels, and facts that two sources give.
#include "driver/io/frames.h"

#include <array>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <unistd.h>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include "driver/errors.h"
#include "driver/io/hdf5.h"
#include "driver/io/pixels.h"
#include "driver/io/problem.h"
#include "driver/optics/optics.h"
#include "driver/optics/resample.h"

namespace ptyle::driver {
namespace {

namespace fs = std::filesystem;
using hdf5::File;
using Sets = std::vector<std::string>;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// 40 frames of 16 x 16 with about 100 counts in each pixel.
class FramesTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "ptyle_frames_XXXXXX").string();
    folder_ = ::mkdtemp(pattern.data());
    at::manual_seed(5);
    counts_ = at::randint(80, 120, {40, 16, 16}, at::kLong);
    const at::Tensor k = at::arange(40, at::kDouble);
    positions_ = at::stack({3.0 * (k / 8).floor(), 2.5 * k.remainder(8)}, 1);
  }
  void TearDown() override {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  Problem load(const at::Tensor& patterns, const Sets& sets = {}) const {
    File file = File::create(path("d.h5"));
    file.write("data", patterns);
    file.write("positions", positions_);
    file.write("probe", at::ones({16, 16}, at::kComplexDouble));
    file.write("mask", mask_);
    file.close();
    return load_problem(
        parse_config("data.file = \"d.h5\"\nprobe.file = \"d.h5\"\n", path("c.toml"), sets));
  }
  std::string refusal(const at::Tensor& patterns, const Sets& sets = {}) const {
    try {
      load(patterns, sets);
    } catch (const Error& error) {
      return error.what();
    }
    return "accepted";
  }

  fs::path folder_;
  at::Tensor counts_, positions_;
  at::Tensor mask_ = at::zeros({16, 16}, at::kByte);
};

std::string joined(const std::vector<std::string>& lines) {
  std::string all;
  for (const std::string& line : lines) all += line + "\n";
  return all;
}

std::string joined(const std::vector<Doubt>& doubts) {
  std::vector<std::string> lines;
  for (const Doubt& doubt : doubts) lines.push_back(doubt.text);
  return joined(lines);
}

void expect_words(const std::string& text, const Sets& words) {
  for (const std::string& word : words) {
    EXPECT_NE(text.find(word), std::string::npos) << "missing \"" << word << "\" in: " << text;
  }
}

TEST(Frames, SlicesAreThoseOfPython) {
  const auto slice = frame_slice("2:9:3");
  ASSERT_TRUE(slice.has_value());
  EXPECT_EQ(slice->first, 2);
  EXPECT_EQ(slice->end, 9);
  EXPECT_EQ(slice->step, 3);
  EXPECT_EQ(frame_slice(":")->first, 0);
  EXPECT_FALSE(frame_slice(":")->end.has_value());
  EXPECT_EQ(frame_slice("::2")->step, 2);
  // What looks like one is one, so that a rule can refuse it.
  EXPECT_EQ(frame_slice("::-1")->step, -1);
  EXPECT_EQ(frame_slice("-1:3")->first, -1);
  EXPECT_EQ(frame_slice(" 2 : -3")->end, -3);
  for (const char* text : {"", "auto", "3", "data", "a.h5:3", "1:2:3:4", "1-2:3", "-:3"}) {
    EXPECT_FALSE(frame_slice(text).has_value()) << text;
  }
}

TEST(Frames, TheFirstTenAreNamed) {
  EXPECT_EQ(frame_words({60}), "1 frame (60)");
  std::vector<std::int64_t> many(41);
  for (std::size_t k = 0; k < many.size(); ++k) many[k] = static_cast<std::int64_t>(k) + 41;
  EXPECT_EQ(frame_words(many), "41 frames (41, 42, 43, 44, 45, 46, 47, 48, 49, 50 and 31 more)");
}

TEST(Frames, PositionsFarFromAllOthers) {
  at::Tensor grid = at::stack({at::arange(50, at::kDouble), at::zeros({50}, at::kDouble)}, 1);
  EXPECT_TRUE(far_positions(grid).empty());
  grid[7][1] = 300.0;
  grid[9][0] = -5e3;  // hides the other one
  grid[11][0] = kNaN;
  using Places = std::vector<std::int64_t>;
  EXPECT_EQ(far_positions(grid), (Places{7, 9}));
  EXPECT_TRUE(far_positions(grid.narrow(0, 7, 3)).empty());  // of three, who is far?
  // A quarter of them elsewhere is a scan of two parts.
  grid = at::cat({at::zeros({12, 2}, at::kDouble), 1e4 + at::zeros({5, 2}, at::kDouble)});
  EXPECT_TRUE(far_positions(grid).empty());
  // A jittered scan from 0 to 45, in whatever unit; positions behind the end of either axis.
  at::manual_seed(2);
  const at::Tensor k = at::arange(100, at::kDouble);
  const at::Tensor scan =
      5.0 * at::stack({(k / 10).floor(), k.remainder(10)}, 1) + at::rand({100, 2}, at::kDouble);
  for (const double unit : {1e-10, 1.0, 1e6}) {
    const auto far = [&](const std::vector<std::pair<std::int64_t, std::array<double, 2>>>& moved) {
      at::Tensor some = scan.clone();
      for (const auto& [place, to] : moved) {
        some[place][0] = to[0];
        some[place][1] = to[1];
      }
      return far_positions(some * unit);
    };
    EXPECT_EQ(far({}), Places{});
    EXPECT_EQ(far({{3, {300, 20}}}), Places{3});
    EXPECT_EQ(far({{3, {20, -90}}}), Places{3});
    EXPECT_EQ(far({{3, {60, 20}}}), Places{});  // three steps from the edge
    EXPECT_EQ(far({{3, {300, 20}}, {50, {-200, 10}}, {70, {20, 400}}}), (Places{3, 50, 70}));
    EXPECT_EQ(far({{3, {300, 20}}, {50, {306, 25}}}), (Places{3, 50}));
    EXPECT_EQ(far({{3, {300, 20}}, {50, {300, 20}}, {51, {300, 20}}}), (Places{3, 50, 51}));
  }
}

TEST(Frames, NoPositionOfASoundScanIsFar) {
  at::manual_seed(4);
  const auto real = at::TensorOptions().dtype(at::kDouble);
  for (const std::int64_t n : {9, 12, 30, 100, 400}) {
    const at::Tensor k = at::arange(n, real), turns = 2.39996 * k;
    const at::Tensor spiral = at::stack({turns.cos(), turns.sin()}, 1);
    const at::Tensor line = at::stack({k, at::zeros_like(k)}, 1);
    const at::Tensor rows = at::stack({30.0 * (k / 7).floor(), k.remainder(7)}, 1);
    const at::Tensor half = k.ge(static_cast<double>(n / 2)).to(at::kDouble).unsqueeze(1);
    const std::vector<at::Tensor> scans = {spiral * k.sqrt().unsqueeze(1),
                                           spiral * (0.04 * k).exp().unsqueeze(1),
                                           line,
                                           rows,
                                           at::rand({n, 2}, real) + 1e3 * half,
                                           at::rand({n, 2}, real),
                                           at::randn({n, 2}, real),
                                           at::zeros({n, 2}, real)};
    for (std::size_t kind = 0; kind < scans.size(); ++kind) {
      EXPECT_TRUE(far_positions(scans[kind]).empty()) << "kind " << kind << ", " << n;
    }
  }
}

TEST_F(FramesTest, GoodFramesAreNotSuspected) {
  const Problem problem = load(counts_.to(at::kInt), {"data.skip=auto"});
  EXPECT_TRUE(problem.found.empty()) << joined(problem.found);
  EXPECT_TRUE(problem.left_out.empty()) << joined(problem.left_out);
  EXPECT_EQ(problem.frames.size(), 40U);
  // Few counts: by chance a frame is empty, and others have many times the median.
  at::manual_seed(1);
  const at::Tensor few = at::poisson(at::full({40, 16, 16}, 3.0 / 256.0)).to(at::kInt);
  EXPECT_TRUE(load(few).found.empty());
  // Half of the scan in vacuum, ten times brighter: a fact about the sample.
  at::Tensor halves = counts_.clone();
  halves.narrow(0, 20, 20).mul_(10);
  EXPECT_TRUE(load(halves.to(at::kInt)).found.empty());
}

TEST_F(FramesTest, EveryKindOfBadFrameIsNamedAndLeftOut) {
  at::Tensor bad = counts_.to(at::kUInt16).to(at::kLong);
  bad[3].zero_();
  bad[17].zero_();
  bad[5].mul_(20);
  bad[8].floor_divide_(20);
  bad[11].narrow(0, 0, 8).zero_();
  bad[13][2][3] = 40000;
  bad[21].fill_(65535);
  const at::Tensor stored = bad.to(at::kUInt16);
  const Problem named = load(stored);
  EXPECT_EQ(named.frames.size(), 40U);
  expect_words(joined(named.found),
               {"2 frames (3, 17) without counts", "1 frame (5) with far more counts",
                "1 frame (8) with far fewer counts", "1 frame (11) empty in a part",
                "1 frame (13) whose brightest pixel", "1 frame (21) marked or saturated"});
  const Problem without = load(stored, {"data.skip=auto"});
  EXPECT_TRUE(without.found.empty()) << joined(without.found);
  std::vector<std::int64_t> good;
  for (std::int64_t k = 0; k < 40; ++k) {
    const std::vector<std::int64_t> out = {3, 5, 8, 11, 13, 17, 21};
    if (std::find(out.begin(), out.end(), k) == out.end()) good.push_back(k);
  }
  EXPECT_EQ(without.frames, good);
  const at::Tensor rows = at::tensor(good);
  EXPECT_TRUE(at::equal(without.positions, named.positions.index_select(0, rows)));
  EXPECT_EQ(without.object_shape, named.object_shape);
  EXPECT_EQ(without.total_counts, counts_.index_select(0, rows).sum().item<double>());
  EXPECT_FALSE(without.good_share && !without.good_share->eq(1.0).all().item<bool>());
  // A list does the same; patterns are those of the frames left.
  const Problem listed = load(stored, {"data.skip=[3, 5, 8, 11, 13, 17, 21]"});
  EXPECT_EQ(listed.frames, good);
  EXPECT_TRUE(at::equal(listed.positions, without.positions));
  for (const Problem* problem : {&listed, &without}) {
    const at::Tensor all = at::arange(33, at::kLong);
    EXPECT_TRUE(at::equal(problem->source->rows(all).patterns.to(at::kLong),
                          counts_.index_select(0, rows).roll({-8, -8}, {1, 2})));
    EXPECT_EQ(problem->statistics.size(0), 33);
    EXPECT_EQ(problem->file_positions.size(0), 40);
  }
}

TEST_F(FramesTest, ValuesThatAreNoNumbersAreRefusedOrLeftOut) {
  at::Tensor bad = counts_.to(at::kFloat);
  bad[9][1][1] = std::numeric_limits<float>::infinity();
  bad[4].fill_(kNaN);
  expect_words(refusal(bad), {"must be finite", "at [4, 0, 0]"});
  const Problem problem = load(bad, {"data.skip=auto"});
  EXPECT_EQ(problem.frames.size(), 38U);
  expect_words(joined(problem.left_out), {"2 frames (4, 9) with values that are not finite"});
  EXPECT_EQ(refusal(bad, {"data.skip=[4, 9]"}), "accepted");
}

TEST_F(FramesTest, FixedMarksBecomeMask) {
  const at::Tensor gap = at::zeros({16, 16}, at::kBool);
  gap.select(1, 4).fill_(true);
  gap.select(0, 9).fill_(true);
  const std::int64_t marked = gap.sum().item<std::int64_t>();
  struct Case {
    at::ScalarType type;
    double value;
    const char* words;
  };
  for (const auto& [type, value, words] :
       std::vector<Case>{{at::kInt, -1, "-1"},
                         {at::kShort, -1, "-1"},
                         {at::kInt, -2, "-2"},
                         {at::kInt, -3, "-3"},
                         {at::kFloat, -7, "-7"},
                         {at::kLong, -4096, "-4096"},
                         {at::kInt, 65535, "65535"},
                         {at::kUInt32, 65535, "65535"},
                         {at::kUInt16, 65534, "65534"},
                         {at::kInt, 65534, "65534"},
                         {at::kInt, 1048575, "1048575"},
                         {at::kUInt32, 4294967294, "4294967294"},
                         {at::kInt, 2147483647, "2147483647"},
                         {at::kLong, 4294967295, "4294967295"},
                         {at::kUInt64, 4294967295, "4294967295"},
                         {at::kFloat, 4294967295, "4294967296 (4294967295 as a 32-bit float)"},
                         {at::kDouble, 4294967295, "4294967295"},
                         {at::kFloat, 65535, "65535"},
                         {at::kFloat, kNaN, "no number"},
                         {at::kDouble, std::numeric_limits<double>::infinity(), "no number"}}) {
    at::Tensor wide = counts_.to(at::kDouble);
    wide.masked_fill_(gap, value);
    // One frame is bad itself, and one is empty, marks and all.
    wide[0].zero_();
    wide[20] = counts_[20];
    const Problem problem = load(wide.to(type));
    ASSERT_TRUE(problem.unmeasured.has_value()) << words << " in " << c10::toString(type);
    EXPECT_TRUE(at::equal(*problem.mask, gap.roll({-8, -8}, {0, 1})));
    EXPECT_EQ(problem.notes, Sets{std::to_string(marked) + " pixels hold " + words +
                                  (std::string(words) == "no number" ? " (NaN or infinity)" : "") +
                                  " in all frames: masked as unmeasured"});
    EXPECT_EQ(problem.masked_pixels, 40 * marked);
    EXPECT_EQ(problem.largest_count, 119.0);
  }
}

TEST_F(FramesTest, MarksThatComeAndGoAreDoubtedAndDarkValuesAreNone) {
  at::Tensor some = counts_.clone();
  some[5][3][3] = 65535;
  some[6][4][4] = 65535;
  const Problem problem = load(some.to(at::kInt));
  EXPECT_FALSE(problem.mask.has_value());
  expect_words(joined(problem.found), {"2 pixels of 2 frames", "65535", "detector.saturation"});
  // Counts of which one was taken off: -1 is none, here and there.
  at::Tensor rate = at::full({40, 16, 16}, 0.1);
  rate.narrow(1, 4, 8).narrow(2, 4, 8).fill_(40.0);
  for (const int dark : {1, 3}) {
    EXPECT_FALSE(load(at::poisson(rate).to(at::kInt) - dark).unmeasured.has_value());
  }
  // The same where nothing was ever counted in most pixels.
  at::Tensor dark = at::full({40, 16, 16}, -1, at::kInt);
  dark.narrow(1, 4, 6).narrow(2, 4, 6).fill_(200);  // 36 pixels
  const Problem doubted = load(dark);
  EXPECT_FALSE(doubted.unmeasured.has_value());
  expect_words(joined(doubted.found), {"220 of 256 pixels hold -1", "detector.dark"});
}

TEST_F(FramesTest, EachFrameIsSelectedOnceFromOneList) {
  const at::Tensor counts = counts_.to(at::kInt);
  expect_words(refusal(counts, {"data.select=[3, 5, 3]"}),
               {"data.select must name each frame once, got 3 twice"});
  EXPECT_EQ(refusal(counts, {"data.skip=[3, 5, 3]"}), "accepted");
  for (const char* slice : {"::-1", "-3:", "5:-1"}) {
    for (const char* key : {"data.select", "data.skip"}) {
      expect_words(refusal(counts, {key + std::string("=") + slice}),
                   {key, "must have indices of at least 0 and a step of at least 1", slice});
    }
  }
  mask_ = at::arange(6).reshape({3, 2});
  for (const char* key : {"data.select", "data.skip"}) {
    expect_words(refusal(counts, {key + std::string("=mask")}),
                 {key, "must name one list of indices, or a boolean for each frame",
                  "\"mask\" of the shape [3, 2]"});
  }
  mask_ = at::ones({5, 8}, at::kByte);  // one for each frame of a scan
  mask_[2][3] = 0;
  EXPECT_EQ(load(counts, {"data.select=mask"}).frames.size(), 39U);
}

TEST_F(FramesTest, HotPixelsAreNamedAndTheBeamIsNone) {
  at::Tensor hot = counts_.clone();
  hot.select(1, 3).select(1, 5).fill_(9000);
  hot.select(1, 8).select(1, 8).fill_(9000);  // the zero frequency
  Problem problem = load(hot.to(at::kInt));
  ASSERT_EQ(problem.found.size(), 1U) << joined(problem.found);
  expect_words(problem.found[0].text, {"1 pixel is 30 times brighter", "([3, 5] of the stored"});
  hot.select(1, 12).select(1, 1).fill_(90000);
  problem = load(hot.to(at::kInt));
  EXPECT_EQ(problem.found[0].cause,
            "hot pixels (data.mask; [12, 1], [3, 5] of the stored pattern)");
}

TEST_F(FramesTest, DeadPixelsAreThoseBetweenBrightOnes) {
  const auto dead = [this](const at::Tensor& patterns, const Sets& sets = {}) {
    return dead_pixels(load(patterns.to(at::kInt), sets));
  };
  EXPECT_EQ(dead(counts_).count, 0);
  at::Tensor some = counts_.clone();
  some.select(1, 3).zero_();                   // a row
  some.select(2, 9).zero_();                   // a column
  some.narrow(1, 8, 8).select(2, 12).zero_();  // half of one
  some.select(1, 6).select(1, 2).zero_();      // a pixel
  some.select(1, 0).zero_();                   // the edge: cropped, or padded with zeros
  const DeadPixels found = dead(some);
  EXPECT_EQ(found.words,
            "row 3, column 9, column 12 in rows 8 to 15, [6, 2] of the stored pattern");
  EXPECT_EQ(found.count, 16 + 16 - 1 + 8 + 1);
  EXPECT_EQ(dead(25 * some).words, found.words);
  // Few counts, each worth 10000: what is 0 is so by chance.
  at::Tensor few = at::zeros_like(counts_);
  few.narrow(0, 0, 4).fill_(1);
  few.select(1, 6).select(1, 2).zero_();
  EXPECT_EQ(dead(10000 * few).count, 0);
  // Named as stored, however the window shows them.
  EXPECT_EQ(
      dead(some, {"detector.orientation.transpose=true", "detector.orientation.flip_rows=true"})
          .count,
      found.count);
  expect_words(dead(some, {"detector.orientation.transpose=true"}).words,
               {"row 3", "column 9", "[6, 2] of the stored"});
  EXPECT_EQ(dead(some, {"detector.pad=2"}).words, found.words);
  at::Tensor stop = counts_.clone();
  stop.narrow(1, 5, 5).narrow(2, 6, 4).zero_();
  EXPECT_EQ(dead(stop).count, 20);
  // Masked, nothing is dead.
  mask_ = some.sum(0).eq(0).to(at::kByte);
  EXPECT_EQ(dead(some, {"data.mask=mask"}).count, 0);
}

TEST_F(FramesTest, DarknessIsNotDead) {
  const auto dead = [this](const at::Tensor& patterns) {
    return dead_pixels(load(patterns.to(at::kInt))).words;
  };
  at::manual_seed(6);
  // Few counts; a disc in the dark; a ring around much darkness; spots; few frames.
  EXPECT_EQ(dead(at::poisson(at::full({40, 16, 16}, 0.05))), "");
  const at::Tensor line = at::arange(16, at::kDouble) - 8;
  const at::Tensor radius = (line.square().unsqueeze(1) + line.square()).sqrt();
  const auto lit = [&](const at::Tensor& where) {
    return at::poisson(30.0 * where.to(at::kDouble).expand({40, 16, 16}));
  };
  EXPECT_EQ(dead(lit(radius.lt(5))), "");
  EXPECT_EQ(dead(lit(radius.lt(8).logical_and(radius.gt(4)))), "");
  const at::Tensor spots = line.remainder(4).eq(0);
  EXPECT_EQ(dead(at::poisson(
                0.01 +
                50.0 * spots.unsqueeze(1).logical_and(spots).to(at::kDouble).expand({40, 16, 16}))),
            "");
  at::Tensor few = counts_.clone();
  few.narrow(0, 8, 32).zero_();
  few.select(1, 6).select(1, 2).zero_();
  EXPECT_EQ(dead_pixels(load(few.to(at::kInt), {"data.select=0:8"})).words, "");
}

TEST_F(FramesTest, WhatTheDataMeanIsAskedOfFramesThatAreNotSuspected) {
  at::Tensor bad = counts_.clone();
  bad[9][3][4] = 60000;
  bad[20].zero_();
  for (const char* stream : {"data.stream=false", "data.stream=true"}) {
    const Problem problem = load(bad.to(at::kInt), {stream});
    EXPECT_EQ(problem.frames.size(), 40U);
    EXPECT_EQ(problem.found.size(), 2U) << joined(problem.found);
    for (std::size_t k = 0; k < 40; ++k) EXPECT_EQ(problem.suspected[k], k == 9 || k == 20) << k;
    const at::Tensor expected = counts_.sum(0) - counts_[9] - counts_[20];
    EXPECT_TRUE(at::equal(problem.pattern_sum.to(at::kLong), expected.roll({-8, -8}, {0, 1})));
    EXPECT_TRUE(problem.summed_patterns.eq(38).all().item<bool>());
    EXPECT_TRUE(problem.good_patterns.eq(40).all().item<bool>());
  }
}

TEST_F(FramesTest, OneFactFromTwoSources) {
  const at::Tensor four = counts_.reshape({5, 8, 16, 16}).to(at::kInt);
  const Sets raster = {"data.raster.step=2.0"};
  EXPECT_EQ(refusal(four, raster), "accepted");
  EXPECT_EQ(refusal(four, {"data.raster.step=2.0", "data.raster.shape=[5, 8]"}), "accepted");
  for (const char* shape : {"[8, 5]", "[1, 40]"}) {
    expect_words(refusal(four, {"data.raster.step=2.0", std::string("data.raster.shape=") + shape}),
                 {"data.raster.shape", "must be the scan's shape", "[5, 8, 16, 16]", shape});
  }
  positions_ = positions_.reshape({5, 8, 2});
  EXPECT_EQ(refusal(four), "accepted");
  EXPECT_EQ(refusal(counts_.to(at::kInt)), "accepted");
  positions_ = positions_.reshape({8, 5, 2});
  expect_words(refusal(four),
               {"data.positions", "the scan's shape", "[5, 8, 16, 16]", "[8, 5, 2]"});
  positions_ = positions_.reshape({40, 2});
  mask_ = at::zeros({8, 5, 16, 16}, at::kByte);
  expect_words(refusal(four, {"data.mask=mask"}), {"data.mask", "shape"});
  mask_ = at::zeros({5, 8, 16, 16}, at::kByte);
  EXPECT_EQ(refusal(four, {"data.mask=mask"}), "accepted");
  // A flyback frame at the end: a raster of those selected.
  const at::Tensor more = at::cat({counts_, counts_.narrow(0, 0, 1)}).to(at::kInt);
  const Sets shape = {"data.raster.step=2.0", "data.raster.shape=[5, 8]"};
  expect_words(refusal(more, shape), {"5 x 8 positions", "got 41"});
  Sets selected = shape;
  selected.emplace_back("data.select=0:40");
  const Problem problem = load(more, selected);
  EXPECT_EQ(problem.frames.size(), 40U);
  EXPECT_TRUE(problem.file_positions[40].isnan().all().item<bool>());
  EXPECT_EQ(problem.positions[39][1].item<double>(), 14.0);
}

// ---- probes with other pixels ----

TEST(Resample, TheProbeOfOneOpticsOnAnotherGrid) {
  ProbeOptics optics;
  optics.wavelength_A = 0.0251;
  optics.semiangle_mrad = 10.0;
  optics.aperture_edge_mrad = 2.0;
  optics.aberrations.C10 = -150.0;
  const at::Tensor coarse = aberrated_probe(32, 24, 0.6, 0.8, optics).unsqueeze(0);
  const at::Tensor fine = aberrated_probe(64, 64, 0.3, 0.3, optics).unsqueeze(0);
  // The same width of the window, smaller pixels, and back: a crop in frequencies.
  const Resampled up = resampled(coarse, {0.6, 0.8}, {64, 64}, {0.3, 0.3});
  EXPECT_NEAR(up.kept, 1.0, 1e-6);
  EXPECT_LT((up.wave - fine).abs().max().item<double>(), 1e-4 * fine.abs().max().item<double>());
  const Resampled down = resampled(fine, {0.3, 0.3}, {32, 24}, {0.6, 0.8});
  EXPECT_LT((down.wave - coarse).abs().max().item<double>(),
            1e-4 * coarse.abs().max().item<double>());
  // What the new pixels cannot hold is missing.
  EXPECT_LT(resampled(fine, {0.3, 0.3}, {8, 8}, {2.4, 2.4}).kept, 0.9);
}

TEST_F(FramesTest, AStoredProbeIsResampledOrRefused) {
  ProbeOptics optics;
  optics.wavelength_A = 0.0251;
  optics.semiangle_mrad = 10.0;
  optics.aperture_edge_mrad = 2.0;
  optics.aberrations.C10 = -60.0;
  const at::Tensor coarse = aberrated_probe(8, 8, 1.0, 1.0, optics);
  const at::Tensor fine = aberrated_probe(16, 16, 0.5, 0.5, optics);
  const auto store = [&](double pixel_nm, double wavelength_pm) {
    File file = File::create(path("probe.h5"));
    file.write("probe", coarse);
    file.set_attribute("/probe", "pixel_size_nm", std::vector<double>{pixel_nm, pixel_nm});
    if (wavelength_pm > 0) file.set_attribute("/probe", "wavelength_pm", wavelength_pm);
    file.close();
  };
  const Sets sets = {"probe.file=probe.h5", "detector.object_pixel_nm=0.05", "beam.energy_keV=200"};
  const at::Tensor patterns = counts_.to(at::kInt);
  store(0.1, 2.5079);
  const Problem problem = load(patterns, sets);
  EXPECT_LT((problem.probe[0] - fine).abs().max().item<double>(),
            1e-3 * fine.abs().max().item<double>());
  EXPECT_EQ(problem.notes.size(), 1U);
  expect_words(joined(problem.notes), {"resampled", "0.1 x 0.1 nm", "0.05 x 0.05 nm"});
  EXPECT_EQ(problem.offset[0], 0.0);
  store(0.05, 0.0);  // as it is, in the middle
  EXPECT_TRUE(at::equal(load(patterns, sets).probe[0].narrow(0, 4, 8).narrow(1, 4, 8), coarse));
  store(1.0, 0.0);  // most of it is outside
  expect_words(refusal(patterns, sets),
               {"probe.h5", "pixels of 1 x 1 nm", "0.05 x 0.05", "outside"});
  store(0.1, 3.7);
  expect_words(refusal(patterns, sets), {"probe.h5", "wavelength", "2.507", "got 3.7 pm"});
}

}  // namespace
}  // namespace ptyle::driver
