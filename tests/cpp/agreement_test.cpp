// What `check` accepts `run` does not refuse, and what one refuses the other does in the same
// words: over configs made of valid, borderline and broken values of every key, on sound and broken
// data.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <random>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <unistd.h>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include "driver/check/check.h"
#include "driver/config/config.h"
#include "driver/engine/footprint.h"
#include "driver/errors.h"
#include "driver/io/hdf5.h"
#include "driver/run/run.h"
#include "tests/cpp/vacuum.h"

namespace ptyle::driver {
namespace {

namespace fs = std::filesystem;
using hdf5::File;

// Values of each key: good ones, those at the edge of what is allowed, and wrong ones.
const std::map<std::string, std::vector<std::string>>& values() {
  static const std::map<std::string, std::vector<std::string>> table = {
      {"device", {"cpu", "auto", "cuda", "gpu"}},
      {"data.file", {"none.h5", ".", "broken.h5", "c.toml"}},
      {"data.patterns",
       {"scan", "float", "nan", "zeros", "huge", "negative", "flat", "probe", "none", "empty",
        "other.h5:data", "none.h5:data", "one"}},
      {"data.stream", {"true", "false", "auto", "1"}},
      {"data.positions",
       {"far", "nan_positions", "ten", "probe", "none", "data", "three_columns", "same_place", ""}},
      {"data.raster.shape", {"[4, 3]", "[3, 4]", "[5, 5]", "[0, 3]"}},
      {"data.raster.step", {"2", "[2, 1]", "0", "-3", "1e9"}},
      {"data.position_unit", {"nm", "um", "inch"}},
      {"data.rotation_deg", {"30", "-360", "361"}},
      {"data.affine", {"[[0, 1], [1, 0]]", "[[0, 0], [0, 0]]", "[[1e-9, 0], [0, 1]]"}},
      {"data.zero_frequency", {"corner", "middle"}},
      {"data.select",
       {"[0, 2, 4, 6, 8, 10]", "0:12:2", "chosen", "flags", "::-1", "[0, 0, 1]", "twice", "pairs",
        "[99]", "none"}},
      {"data.skip", {"auto", "[3]", "0:12", "-1:3", "pairs"}},
      {"data.hold_out", {"0.1", "0.5", "0.6"}},
      {"data.mask", {"good", "all_bad", "each", "most_bad", "wrong_shape", "none"}},
      {"detector.pixel_mrad", {"1", "[1, 2]", "0", "1e-300"}},
      {"detector.pixel_per_nm", {"0.5", "1e300"}},
      {"detector.object_pixel_nm", {"0.1", "[0.1, 0.3]", "-1"}},
      {"detector.pixel_size_um", {"50"}},
      {"detector.distance_m", {"1", "1e-9", "0"}},
      {"detector.orientation.transpose", {"true"}},
      {"detector.orientation.flip_rows", {"true"}},
      {"detector.orientation.flip_columns", {"true"}},
      {"detector.subpixel", {"probe", "object", "both"}},
      {"detector.center", {"[4, 4]", "[3.6, 4.2]", "[40, 4]"}},
      {"detector.geometry", {"near", "middle"}},
      {"detector.crop", {"[6, 6]", "[1, 1]", "[9, 9]", "[0, 0, 8, 8]", "[4, 4, 5, 5]", "[8]"}},
      {"detector.bin", {"2", "[1, 2]", "3", "8", "0", "1000000000"}},
      {"detector.pad", {"1", "[0, 3]", "-1", "100", "16384"}},
      {"detector.gain", {"2", "1e-300", "1e300", "0"}},
      {"detector.dark", {"1", "1e9", "dark", "nan_dark", "none"}},
      {"detector.saturation", {"1", "30", "1e9", "0"}},
      {"beam.kind", {"xray", "neutron"}},
      {"beam.energy_keV", {"200", "0.001", "1e7", "0"}},
      {"probe.file", {"", "none.h5", "other.h5"}},
      {"probe.dataset", {"zero", "modes", "large", "real", "nan_probe", "none", "tiny", "vast"}},
      {"probe.semiangle_mrad", {"1", "0.001", "1000"}},
      {"probe.defocus_nm", {"0", "100"}},
      {"probe.aberrations", {"100", "1e300"}},
      {"probe.modes", {"1", "2", "50", "51", "64", "65"}},
      {"probe.power", {"keep", "data", "1000", "1e-60", "1e60", "0"}},
      {"object.slices", {"2", "50", "0", "10001"}},
      {"object.thickness_nm", {"0", "1", "1e12"}},
      {"object.padding", {"1", "30", "1000000"}},
      {"object.shape", {"[30, 30]", "[1, 1]", "[200000, 200000]"}},
      {"object.propagator", {"angular_spectrum"}},
      {"reconstruct.iterations", {"0", "1", "-1"}},
      {"reconstruct.batches", {"auto", "1", "12", "13", "1000", "0"}},
      {"reconstruct.optimizer", {"descent", "adam", "lbfgs", "newton"}},
      {"reconstruct.likelihood", {"poisson", "gaussian", "cauchy"}},
      {"reconstruct.refine", {"[\"object\"]", "[\"probe\"]", "[]"}},
      {"reconstruct.precision", {"double", "half"}},
      {"reconstruct.deterministic", {"false"}},
      {"reconstruct.seed", {"3", "-1"}},
      {"reconstruct.step", {"0.5", "1e-300", "0"}},
      {"reconstruct.learning_rate", {"0.1", "0"}},
      {"reconstruct.probe_learning_rate", {"0.1", "0"}},
      {"reconstruct.momentum", {"0.9", "1"}},
      {"reconstruct.history", {"1", "1000", "0"}},
      {"refine.object.start", {"1", "-1"}},
      {"refine.object.end", {"1", "-1"}},
      {"refine.object.every", {"2", "0"}},
      {"refine.object.step", {"0.5", "0"}},
      {"refine.probe.start", {"5", "-1"}},
      {"refine.probe.end", {"0", "-1"}},
      {"refine.probe.every", {"3", "0"}},
      {"refine.probe.step", {"0.5", "1001"}},
      {"tiles.grid", {"auto", "[1, 1]", "[2, 2]", "[20, 1]", "[100000, 1]", "[0, 1]"}},
      {"tiles.halo", {"exact", "0", "1", "1000000", "-1"}},
      {"tiles.exchange", {"passes", "allreduce", "voxels", "none"}},
      {"tiles.voxels", {"mean"}},
      {"tiles.extra_rows", {"0", "1000"}},
      {"tiles.exchange_every", {"1", "2"}},
      {"tiles.timeout_s", {"1", "0"}},
      {"output.folder", {"data.h5", "data.h5/x", "new/deep/folder", "/proc/ptyle", "."}},
      {"output.checkpoint_every", {"0", "1"}},
      {"output.png", {"true", "1"}},
      {"constraint[0].kind", {"pure_phase", "smooth"}},
      {"constraint[0].on", {"object", "probe"}},
      {"constraint[0].start", {"1", "-1"}},
      {"constraint[0].end", {"1", "-1"}},
      {"constraint[0].every", {"2", "0"}},
      {"constraint[0].weight", {"0.5", "2", "0"}},
      {"regulariser[0].kind", {"tikhonov", "smooth"}},
      {"regulariser[0].on", {"object", "probe"}},
      {"regulariser[0].start", {"1", "-1"}},
      {"regulariser[0].end", {"1", "-1"}},
      {"regulariser[0].every", {"2", "0"}},
      {"regulariser[0].weight", {"0.5", "1e6", "0"}},
      {"prior[0].file", {"none.pt"}},
      {"prior[0].kind", {"red", "gradient", "denoiser"}},
      {"prior[0].on", {"object", "probe", "all"}},
      {"prior[0].strength", {"0.5", "2", "0"}},
      {"prior[0].noise", {"0.1", "-1"}},
      {"prior[0].every_batches", {"1", "-1"}},
      {"prior[0].start", {"1", "-1"}},
      {"prior[0].end", {"1", "-1"}},
  };
  return table;
}

class Agreement : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "ptyle_agreement_XXXXXX").string();
    root_ = ::mkdtemp(pattern.data());
    stderr_ = ::dup(STDERR_FILENO);
    const int nowhere = ::open("/dev/null", O_WRONLY);
    ::dup2(nowhere, STDERR_FILENO);
    ::close(nowhere);
    write_data();
  }
  void TearDown() override {
    ::dup2(stderr_, STDERR_FILENO);
    ::close(stderr_);
    std::error_code ignored;
    fs::remove_all(root_, ignored);
  }

  void write_data() const {
    at::manual_seed(4);
    const double inf = std::numeric_limits<double>::infinity();
    const auto made = tests::vacuum(12, 8);
    const at::Tensor& probe = made.probe;
    const at::Tensor& counts = made.counts;
    const at::Tensor real = counts.to(at::kDouble);
    const auto changed = [](at::Tensor tensor, double value) {
      tensor.view(-1)[5] = value;
      return tensor;
    };
    const at::Tensor i = at::arange(4, at::kDouble) * 2.0, j = at::arange(3, at::kDouble) * 2.0;
    const at::Tensor positions = at::stack({i.repeat_interleave(3), j.repeat({4})}, 1);
    const std::function<void(File&)> all = [&](File& file) {
      file.write("data", counts);
      file.write("scan", counts.reshape({4, 3, 8, 8}));
      file.write("one", counts.narrow(0, 0, 1));
      file.write("float", real.to(at::kFloat));
      file.write("nan", changed(real.clone(), std::nan("")));
      file.write("huge", changed(real.clone(), 1e300));
      file.write("negative", real - 50.0);
      file.write("zeros", at::zeros_like(counts));
      file.write("flat", real.select(0, 0));
      file.write("empty", at::zeros({0, 8, 8}));
      file.write("positions", positions);
      file.write("far", changed(positions.clone(), 1e12));
      file.write("nan_positions", changed(positions.clone(), inf));
      file.write("ten", positions.narrow(0, 0, 10));
      file.write("three_columns", at::zeros({12, 3}));
      file.write("same_place", at::zeros({12, 2}));
      file.write("chosen", at::arange(0, 12, 2));
      file.write("flags", at::arange(12).remainder(2).to(at::kByte));
      file.write("twice", at::tensor(std::vector<std::int64_t>{1, 4, 1}));
      file.write("pairs", at::arange(4).reshape({2, 2}));
      file.write("probe", probe);
      file.write("zero", at::zeros_like(probe));
      file.write("modes", at::stack({probe, probe}));
      file.write("large", at::ones({9, 9}, at::kComplexDouble));
      file.write("real", at::ones({8, 8}));
      file.write("tiny", probe * 1e-200);
      file.write("vast", probe * 1e200);
      file.write("nan_probe", probe * std::nan(""));
      file.write("good", at::zeros({8, 8}, at::kByte));
      file.write("all_bad", at::ones({8, 8}, at::kByte));
      file.write("each", at::zeros({12, 8, 8}, at::kByte));
      at::Tensor most = at::ones({8, 8}, at::kByte);
      most[3][3] = 0;
      file.write("most_bad", most);
      file.write("wrong_shape", at::zeros({8, 7}, at::kByte));
      file.write("dark", at::ones({8, 8}));
      file.write("nan_dark", at::full({8, 8}, std::nan("")));
    };
    hdf5::write_atomically(root_ + "/data.h5", all);
    hdf5::write_atomically(root_ + "/other.h5", all);
    fs::copy_file(root_ + "/data.h5", root_ + "/broken.h5");
    fs::resize_file(root_ + "/broken.h5", 3000);
    // Steps short enough for batches of three positions.
    const std::string text =
        "data.file = \"data.h5\"\nprobe.file = \"data.h5\"\nreconstruct.step = 0.1\n"
        "refine.probe.step = 0.1\noutput.folder = \"c\"\n";
    replace_file(root_ + "/c.toml", text);
    const std::string terms =
        "[[constraint]]\nkind = \"pure_phase\"\n[[regulariser]]\nkind = \"tikhonov\"\n";
    replace_file(root_ + "/terms.toml", text + terms);
    replace_file(root_ + "/prior.toml", text + terms + "[[prior]]\nfile = \"none.pt\"\n");
  }

  struct Verdict {
    int code = 0;
    std::string words;
  };
  static Verdict verdict(const std::function<void()>& work) {
    try {
      work();
    } catch (const Error& error) {
      return {error.exit_code(), error.what()};
    } catch (const c10::Error& error) {
      return {-1, error.what_without_backtrace()};
    } catch (const std::exception& error) {
      return {-2, error.what()};
    }
    return {};
  }

  // Both verbs on one config. A run that fails is no disagreement, but one that refuses is.
  void compare(const std::vector<std::string>& sets) {
    std::string shown;
    for (const std::string& one : sets) shown += " --set " + one;
    SCOPED_TRACE(shown);
    fs::remove_all(root_ + "/c");
    fs::remove_all(root_ + "/new");
    const auto any = [&](const char* table) {
      return std::any_of(sets.begin(), sets.end(),
                         [&](const std::string& one) { return one.starts_with(table); });
    };
    const bool terms = any("constraint[") || any("regulariser[");
    const std::string file = any("prior[") ? "/prior.toml" : terms ? "/terms.toml" : "/c.toml";
    const auto config = [&] { return load_config(root_ + file, sets); };
    std::ostringstream out;
    const Verdict checked = verdict([&] { check(config(), out); });
    EXPECT_FALSE(fs::exists(root_ + "/c")) << "check has written something";
    RunOptions options;
    options.overwrite = true;
    const Verdict ran = verdict([&] { run(config(), options); });
    for (const Verdict& one : {checked, ran}) {
      EXPECT_GE(one.code, 0) << "an exception that is none of ours: " << one.words;
      EXPECT_EQ(one.words.find('\n'), std::string::npos) << one.words;
    }
    const bool no_room = ran.words.find("must fit into the memory") != std::string::npos;
    if (checked.code == 0) {
      ++accepted_;
      if (ran.code == 0) ++ran_;
      // What this machine has not: another may have it, so check says it and goes on.
      if (no_room) {
        EXPECT_NE(out.str().find("doubtful: a run here must fit into the memory"),
                  std::string::npos);
      } else if (ran.code != 0 && ran.code != 1) {
        EXPECT_NE(out.str().find("doubtful: a run here is refused: " + ran.words),
                  std::string::npos)
            << "check accepts, run refuses: " << ran.words;
      }
    } else if (!no_room && ran.words.find("device: must be") == std::string::npos) {
      // (a run asks for these first)
      EXPECT_EQ(checked.code, ran.code) << checked.words << "\n" << ran.words;
      // What is free changes.
      const std::regex size("[0-9.e+]+ [kMG]?B");
      EXPECT_EQ(std::regex_replace(checked.words, size, "N"),
                std::regex_replace(ran.words, size, "N"));
    }
  }

  std::string root_;
  int stderr_ = -1;
  int accepted_ = 0, ran_ = 0;
};

std::string assignment(const std::string& key, const std::string& value) {
  return key + "=" + value;
}

const std::vector<std::string> kShort = {"reconstruct.iterations=1", "reconstruct.batches=4",
                                         "output.png=false", "device=cpu"};

// The row of the table that a key stands in: aberrations, which are alike, share one.
std::string row_of(const std::string& key) {
  return key.starts_with("probe.aberrations.") ? "probe.aberrations" : key;
}

TEST(AgreementTable, HasEveryKeyAndNoOther) {
  std::set<std::string> rows;
  for (const KeyDescription& key : describe_keys()) rows.insert(row_of(key.key));
  for (const std::string& row : rows) EXPECT_EQ(values().count(row), 1U) << row << " is not tried";
  for (const auto& [row, all] : values()) EXPECT_EQ(rows.count(row), 1U) << row << " is no key";
}

TEST_F(Agreement, OfEveryValueOfEveryKey) {
  for (const auto& [key, all] : values()) {
    for (const std::string& value : all) {
      std::vector<std::string> sets = kShort;
      // What a key needs beside it, so that it is judged itself.
      if (key == "detector.distance_m" || key == "detector.pixel_size_um") {
        sets.insert(sets.end(), {"detector.pixel_size_um=50", "detector.distance_m=1"});
      }
      if (key == "probe.semiangle_mrad") {
        sets.insert(sets.end(), {"probe.file=", "detector.object_pixel_nm=0.1"});
      }
      if (key == "data.raster.shape") sets.emplace_back("data.raster.step=2");
      if (key.starts_with("detector.") || key.starts_with("probe.") || key == "object.slices") {
        sets.insert(sets.end(), {"beam.energy_keV=100", "object.thickness_nm=1"});
      }
      if (key == "object.slices") sets.emplace_back("detector.object_pixel_nm=0.1");
      if (key == "reconstruct.optimizer" && value == "lbfgs") {
        sets.emplace_back("reconstruct.batches=1");
      }
      if (key == "probe.aberrations") {
        sets.insert(sets.end(),
                    {"probe.file=", "detector.object_pixel_nm=0.1", "probe.semiangle_mrad=10"});
        for (const KeyDescription& one : describe_keys()) {
          if (row_of(one.key) != key) continue;
          std::vector<std::string> these = sets;
          these.push_back(assignment(one.key, value));
          compare(these);
        }
        continue;
      }
      sets.push_back(assignment(key, value));
      compare(sets);
    }
  }
  EXPECT_GT(ran_, 60) << "too few configs were good ones";
}

TEST_F(Agreement, OfKeysThatMeet) {
  std::mt19937_64 random(7);
  std::vector<std::string> keys;
  for (const auto& [key, all] : values()) keys.push_back(key);
  const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random() % n); };
  for (int k = 0; k < 500; ++k) {
    std::vector<std::string> sets = kShort;
    if (below(2) == 0) {
      sets.insert(sets.end(),
                  {"beam.energy_keV=100", "detector.object_pixel_nm=0.1", "object.thickness_nm=1"});
    }
    for (std::size_t count = 2 + below(3); count > 0; --count) {
      const std::string& key = keys[below(keys.size())];
      const std::vector<std::string>& all = values().at(key);
      // Mostly the first ones, which are good.
      sets.push_back(assignment(key == "probe.aberrations" ? key + ".C30_nm" : key,
                                all[std::min(below(all.size()), below(all.size()))]));
    }
    compare(sets);
  }
  EXPECT_GT(accepted_, 50);
}

TEST_F(Agreement, OfTheFolder) {
  const auto config = [&] { return load_config(root_ + "/c.toml", kShort); };
  const std::string folder = root_ + "/c";
  std::ostringstream out;
  run(config(), {});
  // Full of a run: check says what run would say, and run says it.
  EXPECT_EQ(check(config(), out), 0);
  EXPECT_NE(
      out.str().find(folder + ", which is not empty: `ptyle run` wants --resume or --overwrite"),
      std::string::npos)
      << out.str();
  const Verdict again = verdict([&] { run(config(), {}); });
  EXPECT_EQ(again.code, 2);
  EXPECT_NE(again.words.find("output.folder: must be new or empty (--resume"), std::string::npos);
  // Something in the way of a file of ours.
  for (const char* name : {"checkpoint.h5", "config.toml", "probe.png"}) {
    fs::remove_all(folder);
    fs::create_directories(folder + "/" + name);
    const Verdict checked = verdict([&] { check(config(), out); });
    RunOptions options;
    options.overwrite = true;
    const Verdict ran = verdict([&] { run(config(), options); });
    EXPECT_EQ(checked.code, 2);
    EXPECT_EQ(checked.words, ran.words);
    EXPECT_NE(checked.words.find(name), std::string::npos);
  }
}

}  // namespace
}  // namespace ptyle::driver
