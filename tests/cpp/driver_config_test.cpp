// The config: what is read, what is refused and in which words, and that writing it loses nothing.
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "driver/config/config.h"
#include "driver/errors.h"

namespace ptyle::driver {
namespace {

namespace fs = std::filesystem;

const std::string kLeast =
    "[data]\nfile = \"star.h5\"\n[probe]\nfile = \"star.h5\"\n[output]\nfolder = \"star\"\n";

Config parse(const std::string& text, const std::vector<std::string>& overrides = {}) {
  return parse_config(text, "/somewhere/star.toml", overrides);
}

std::string refusal(const std::string& text, const std::vector<std::string>& overrides = {}) {
  try {
    parse(text, overrides);
  } catch (const ConfigError& error) {
    EXPECT_EQ(error.exit_code(), 2);
    return error.what();
  }
  return "accepted";
}

// Every word must be in the message, which must be one line.
void expect_words(const std::string& message, const std::vector<std::string>& words) {
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  for (const std::string& word : words) {
    EXPECT_NE(message.find(word), std::string::npos)
        << "missing \"" << word << "\" in: " << message;
  }
}

TEST(Config, TheExampleOfTheDesignIsReadWithItsValues) {
  const Config config = parse(R"(
[data]
file = "star.h5"
patterns = "data"
positions = "positions"
position_unit = "nm"
rotation_deg = 1.5
zero_frequency = "corner"
mask = ""
[detector]
object_pixel_nm = 0.02
orientation = { transpose = true, flip_rows = false, flip_columns = true }
geometry = "far"
crop = [64, 64]
bin = 2
pad = [4, 8]
[beam]
kind = "electron"
energy_keV = 200
[probe]
semiangle_mrad = 21.4
defocus_nm = 20
aberrations = { C30_nm = 1.3e6, C12_nm = 2, phi12_deg = 30.0 }
modes = 2
power = 5.0e4
[object]
slices = 4
thickness_nm = 8.0
padding = 3
[reconstruct]
iterations = 30
batches = 1
optimizer = "lbfgs"
likelihood = "poisson"
refine = ["object"]
precision = "double"
seed = 7
[tiles]
grid = "auto"
halo = 12
exchange = "direct"
[output]
folder = "out"
)");
  EXPECT_EQ(config.data.file, "/somewhere/star.h5");
  EXPECT_EQ(config.data.position_unit, "nm");
  EXPECT_TRUE(config.detector.orientation.transpose);
  EXPECT_FALSE(config.detector.orientation.flip_rows);
  EXPECT_TRUE(config.detector.orientation.flip_columns);
  EXPECT_EQ(config.detector.bin, (IntegerPair{2, 2}));
  EXPECT_EQ(config.detector.pad, (IntegerPair{4, 8}));
  EXPECT_EQ(*config.detector.object_pixel_nm, (NumberPair{0.02, 0.02}));
  EXPECT_EQ(config.detector.crop, (std::vector<std::int64_t>{64, 64}));
  EXPECT_EQ(*config.beam.energy_keV, 200.0);
  EXPECT_EQ(config.probe.aberrations.at("C30_nm"), 1.3e6);
  EXPECT_EQ(config.probe.power, "number");
  EXPECT_EQ(config.probe.power_value, 5.0e4);
  EXPECT_FALSE(config.tiles.grid.has_value());
  EXPECT_EQ(*config.tiles.halo, 12);
  EXPECT_EQ(config.output.folder, "/somewhere/out");
  EXPECT_TRUE(config.reconstruct.refines("object"));
  EXPECT_FALSE(config.reconstruct.refines("probe"));
}

TEST(Config, DefaultsAreThoseOfTheDesign) {
  const Config config = parse("data.file = \"a.h5\"\nprobe.file = \"/b/c.h5\"");
  EXPECT_EQ(config.data.patterns, "data");
  EXPECT_EQ(config.data.positions, "positions");
  EXPECT_EQ(config.probe.file, "/b/c.h5");
  EXPECT_EQ(config.probe.dataset, "probe");
  EXPECT_EQ(config.probe.power, "data");
  EXPECT_EQ(config.reconstruct.iterations, 30);
  EXPECT_FALSE(config.reconstruct.batches);
  EXPECT_EQ(config.reconstruct.optimizer, "auto");
  EXPECT_EQ(*config.tiles.grid, (IntegerPair{1, 1}));
  EXPECT_FALSE(config.tiles.halo.has_value());
  EXPECT_EQ(config.output.folder, "/somewhere/star");
}

TEST(Config, AnUnknownKeyIsRefusedAndTheNearestNamed) {
  expect_words(
      refusal(kLeast + "[reconstruct]\niteratons = 5\n"),
      {"/somewhere/star.toml:8", "unknown key reconstruct.iteratons", "reconstruct.iterations"});
  expect_words(refusal(kLeast + "[data.raster]\nshap = [3, 4]\n"),
               {"unknown key data.raster.shap", "nearest known key is data.raster.shape"});
  expect_words(refusal(kLeast + "[detector]\norientation = { flip_row = true }\n"),
               {"detector.orientation.flip_row", "detector.orientation.flip_rows"});
  expect_words(refusal("iterations = 5\n" + kLeast),
               {"unknown key iterations", "reconstruct.iterations"});
  expect_words(refusal(kLeast + "[recontruct]\nseed = 5\n"),
               {"unknown key recontruct.seed", "reconstruct.seed"});
  expect_words(refusal(kLeast, {"object.slice=4"}),
               {"--set object.slice=4", "unknown key object.slice", "object.slices"});
}

TEST(Config, AWrongTypeOrValueNamesFileKeyRuleAndValue) {
  struct Case {
    std::string text;
    std::vector<std::string> words;
  };
  const std::vector<Case> cases = {
      {"[reconstruct]\niterations = \"many\"",
       {"star.toml:8", "reconstruct.iterations", "an integer", "many"}},
      {"[reconstruct]\niterations = 2.5", {"reconstruct.iterations", "an integer", "2.5"}},
      {"[reconstruct]\niterations = -1", {"reconstruct.iterations", "at least 0", "-1"}},
      {"[reconstruct]\nbatches = 0", {"reconstruct.batches", "at least 1", "got 0"}},
      {"[reconstruct]\nstep = nan", {"reconstruct.step", "finite number", "nan"}},
      {"[reconstruct]\nstep = inf", {"reconstruct.step", "finite number", "inf"}},
      {"[reconstruct]\nstep = 0.0", {"reconstruct.step", "greater than 0"}},
      {"[reconstruct]\nmomentum = 1.0", {"reconstruct.momentum", "less than 1"}},
      {"[reconstruct]\noptimizer = \"sgd\"",
       {"reconstruct.optimizer", "\"descent\", \"adam\" or \"lbfgs\"", "sgd"}},
      {"[reconstruct]\nrefine = [\"positions\"]",
       {"reconstruct.refine", "\"object\"", "positions"}},
      {"[reconstruct]\nrefine = \"object\"", {"reconstruct.refine", "a list"}},
      {"[reconstruct]\nbatches = 8\noptimizer = \"lbfgs\"",
       {"reconstruct.batches", "must be 1", "got 8"}},
      {"[tiles]\ngrid = [0, 1]", {"tiles.grid", "from 1 to"}},
      {"[object]\nshape = [3]", {"object.shape", "[row, column]"}},
      {"[object]\nslices = 4", {"object.thickness_nm", "greater than 0", "0.0"}},
      {"[object]\npadding = true", {"object.padding", "an integer", "true"}},
      {"[detector]\npixel_mrad = 1.0", {"beam.energy_keV", "must be given", "detector.pixel_mrad"}},
      {"[detector]\nobject_pixel_nm = 1.0\npixel_per_nm = 2.0",
       {"detector.object_pixel_nm", "detector.pixel_per_nm", "exactly one"}},
      {"[detector]\npixel_size_um = 75", {"detector.distance_m", "must be given"}},
      {"[detector]\ngain = -1", {"detector.gain", "greater than 0", "-1"}},
      {"[detector]\norientation = 3", {"detector.orientation", "a table", "3"}},
      {"[detector]\ncrop = [1, 2, 3]", {"detector.crop", "[rows, columns]"}},
      {"[beam]\nenergy_keV = -5.0", {"beam.energy_keV", "from 0.001 to", "-5"}},
      {"[beam]\nkind = \"neutron\"", {"beam.kind", "\"electron\" or \"xray\"", "neutron"}},
  };
  for (const Case& one : cases) {
    SCOPED_TRACE(one.text);
    expect_words(refusal(kLeast + one.text + "\n"), one.words);
  }
}

TEST(Config, WhatIsMissingOrContradictsIsNamed) {
  expect_words(refusal("[probe]\nfile = \"a.h5\""), {"star.toml", "data.file", "must be given"});
  expect_words(refusal("[data]\nfile = \"a.h5\""), {"probe.file", "probe.semiangle_mrad"});
  expect_words(refusal(kLeast, {"probe.semiangle_mrad=20"}),
               {"probe.semiangle_mrad", "probe.file", "together"});
  expect_words(refusal(kLeast, {"probe.defocus_nm=20"}), {"probe.defocus_nm", "probe.file"});
  expect_words(refusal(kLeast, {"data.positions=data"}), {"data.positions", "another dataset"});
  expect_words(refusal(kLeast, {"data.raster.shape=[3,4]"}), {"data.raster.step", "must be given"});
  expect_words(refusal(kLeast, {"data.raster.step=1.5", "data.positions=p"}),
               {"data.positions", "data.raster"});
  expect_words(refusal(kLeast, {"data.positions="}),
               {"data.positions must name a dataset where there is no data.raster.step"});
  expect_words(refusal(kLeast, {"data.rotation_deg=3", "data.affine=[[1,0],[0,1]]"}),
               {"data.affine", "data.rotation_deg"});
  expect_words(refusal(kLeast, {"data.affine=[[1,1],[1,1]]"}), {"data.affine", "invertible"});
  expect_words(refusal(kLeast, {"detector.geometry=near", "data.zero_frequency=corner"}),
               {"data.zero_frequency", "near field", "corner"});
  expect_words(refusal(kLeast, {"detector.geometry=near"}), {"detector.distance_m", "near field"});
  expect_words(refusal(kLeast, {"tiles.exchange=voxels", "reconstruct.optimizer=lbfgs",
                                "reconstruct.batches=1"}),
               {"tiles.exchange", "voxels", "lbfgs"});
}

TEST(Config, WhatIsNotTomlIsRefusedWithItsLine) {
  expect_words(refusal("[data]\nfile = = 3\n"), {"star.toml:2", "not valid TOML"});
}

TEST(Config, OverridesAreTomlOrBareWords) {
  const Config config =
      parse(kLeast,
            {"reconstruct.iterations=7", "output.folder=second try", "data.position_unit = \"um\"",
             "detector.object_pixel_nm=[1.0, 2.0]", "detector.orientation.transpose=true",
             "reconstruct.refine=[\"object\"]", "reconstruct.iterations=9"});
  EXPECT_EQ(config.reconstruct.iterations, 9);
  EXPECT_EQ(config.output.folder, "/somewhere/second try");
  EXPECT_EQ(config.data.position_unit, "um");
  EXPECT_EQ(*config.detector.object_pixel_nm, (NumberPair{1.0, 2.0}));
  EXPECT_TRUE(config.detector.orientation.transpose);
  EXPECT_EQ(config.reconstruct.refine, std::vector<std::string>{"object"});
  expect_words(refusal(kLeast, {"reconstruct.iterations"}), {"--set", "key=value"});
  expect_words(refusal(kLeast, {"=3"}), {"--set", "key=value"});
  expect_words(refusal(kLeast, {"data..file=3"}), {"--set", "empty part"});
  expect_words(refusal(kLeast, {"data.file.name=3"}), {"--set", "data.file", "table"});
  expect_words(refusal(kLeast, {"reconstruct.step=-2"}),
               {"--set reconstruct.step=-2", "reconstruct.step", "greater than 0", "-2"});
}

TEST(Config, WritingAndReadingGivesTheSame) {
  const std::vector<std::string> overrides = {"reconstruct.step=0.1",
                                              "detector.pixel_per_nm=[0.1, 0.30000000000000004]",
                                              "data.affine=[[1.0, 0.1], [0.0, 1.0]]",
                                              "data.mask=masks/bad \"a\".h5:mask",
                                              "detector.crop=[1, 2, 30, 40]",
                                              "detector.dark=dark",
                                              "probe.power=keep",
                                              "tiles.grid=auto",
                                              "tiles.halo=3",
                                              "object.shape=[100, 200]",
                                              "detector.saturation=60000"};
  for (const bool with_overrides : {false, true}) {
    const Config first = parse(kLeast, with_overrides ? overrides : std::vector<std::string>{});
    const std::string text = to_toml(first);
    // Read from another folder: all paths are absolute.
    const Config second = parse_config(text, "/elsewhere/config.toml");
    EXPECT_EQ(text, to_toml(second));
    EXPECT_EQ(second.data.file, "/somewhere/star.h5");
    EXPECT_EQ(second.output.folder, "/somewhere/star");
    if (!with_overrides) continue;
    EXPECT_EQ((*second.detector.pixel_per_nm)[1], 0.30000000000000004);
    EXPECT_EQ(second.data.mask, "/somewhere/masks/bad \"a\".h5:mask");
    EXPECT_EQ(second.detector.dark_dataset, "dark");
    EXPECT_EQ(*second.detector.saturation, 60000.0);
    EXPECT_EQ(*second.object.shape, (IntegerPair{100, 200}));
  }
  const std::vector<std::string> near = {"detector.geometry=near", "detector.distance_m=0.01",
                                         "detector.pixel_size_um=1", "beam.energy_keV=10",
                                         "beam.kind=xray"};
  const std::string text = to_toml(parse(kLeast, near));
  EXPECT_EQ(text, to_toml(parse_config(text, "/elsewhere/config.toml")));
}

TEST(Config, ARasterHasNoDatasetOfPositions) {
  for (const char* given : {"data.rotation_deg=0", "data.positions=\"\""}) {
    const Config config = parse(kLeast, {"data.raster.step=1.5", given});
    EXPECT_EQ(config.data.positions, "");
    EXPECT_EQ(to_toml(parse_config(to_toml(config), "/elsewhere/c.toml")), to_toml(config));
  }
}

TEST(Config, FilesAreNamedFromAFolderWhereTheyMayMoveWithIt) {
  const Config config =
      parse(std::string(kLeast) + "[[prior]]\nfile = \"models/a.pt2\"\n",
            {"data.mask=b.h5:mask", "detector.dark=/far/away.h5:dark",
             "data.skip=/somewhere/skip.h5:bad", "data.select=0:9", "output.folder=out/first"});
  const std::string text = to_toml(config, config.output.folder);
  for (const char* line :
       {"file = \"../../star.h5\"\n", "positions = \"positions\"\n", "mask = \"../../b.h5:mask\"\n",
        "dark = \"/far/away.h5:dark\"\n", "skip = \"../../skip.h5:bad\"\n", "select = \"0:9\"\n",
        "file = \"../../models/a.pt2\"\n", "folder = \".\"\n"}) {
    EXPECT_NE(text.find(line), std::string::npos) << line << "in\n" << text;
  }
  // From its folder it means what it meant, and after a move of all of it what lies there.
  EXPECT_EQ(to_toml(parse_config(text, "/somewhere/out/first/config.toml")), to_toml(config));
  EXPECT_EQ(parse_config(text, "/moved/out/first/config.toml").data.file, "/moved/star.h5");
}

TEST(Config, DatasetsOfOtherFilesAreNamedFromTheConfigsFolder) {
  std::string folder = (fs::temp_directory_path() / "ptyle_config_XXXXXX").string();
  ASSERT_NE(::mkdtemp(folder.data()), nullptr);
  fs::create_directory(folder + "/12:30:00");
  for (const char* file : {"plain", "a:b.h5", "12:30:00/d.h5"}) std::ofstream(folder + "/" + file);
  const auto split = [&](const std::string& name) {
    const DatasetName parts = split_dataset_name(name, folder);
    return parts.file + "|" + parts.dataset;
  };
  // A file that is there, with or without an ending and colons.
  EXPECT_EQ(split("plain:x"), "plain|x");
  EXPECT_EQ(split("plain:axis:pos"), "plain|axis:pos");
  EXPECT_EQ(split("a:b.h5:x"), "a:b.h5|x");
  EXPECT_EQ(split("12:30:00/d.h5:g/x"), "12:30:00/d.h5|g/x");
  EXPECT_EQ(split(folder + "/plain:x"), folder + "/plain|x");
  // One that is not, but looks like a file, so that a message can name it.
  EXPECT_EQ(split("none.h5:x"), "none.h5|x");
  EXPECT_EQ(split("none.nxs:axis:pos"), "none.nxs|axis:pos");
  // A dataset's name.
  EXPECT_EQ(split("x"), "|x");
  EXPECT_EQ(split("measurement/axis:pos"), "|measurement/axis:pos");
  EXPECT_EQ(split(":x"), "|:x");
  EXPECT_EQ(split("12:30:00"), "|12:30:00");

  // Every key that names a dataset, and written again.
  const Config config =
      parse_config(kLeast, folder + "/c.toml",
                   {"data.patterns=plain:p", "data.positions=plain:q", "data.mask=plain:m",
                    "detector.dark=plain:d", "probe.dataset=plain:r"});
  EXPECT_EQ(config.data.patterns, folder + "/plain:p");
  EXPECT_EQ(config.data.positions, folder + "/plain:q");
  EXPECT_EQ(config.data.mask, folder + "/plain:m");
  EXPECT_EQ(config.detector.dark_dataset, folder + "/plain:d");
  EXPECT_EQ(config.probe.dataset, folder + "/plain:r");
  EXPECT_EQ(to_toml(parse_config(to_toml(config), "/elsewhere/c.toml")), to_toml(config));
  fs::remove_all(folder);
}

TEST(Config, KeysThatNameAPlaceAreKnown) {
  for (const char* key :
       {"data.file", "data.patterns", "data.positions", "data.mask", "detector.dark", "probe.file",
        "probe.dataset", "prior[0].file", "prior[11].file"}) {
    EXPECT_TRUE(names_a_place(key)) << key;
  }
  for (const char* key : {"data.rotation_deg", "beam.energy_keV", "prior[0].kind", "device"}) {
    EXPECT_FALSE(names_a_place(key)) << key;
  }
}

TEST(Config, EveryKeyIsDescribedAndWritten) {
  const std::string text = to_toml(parse(kLeast));
  std::ostringstream help;
  print_config_help(help);
  for (const KeyDescription& row : describe_keys()) {
    EXPECT_FALSE(row.meaning.empty()) << row.key;
    if (row.key.starts_with("probe.aberrations.") || row.key.find('[') != std::string::npos)
      continue;
    const std::string name = row.key.substr(row.key.find('.') + 1);
    // A key without a value stands as a comment.
    EXPECT_TRUE(("\n" + text).find("\n" + name + " = ") != std::string::npos ||
                text.find("\n# " + name + " is not set") != std::string::npos)
        << row.key;
    EXPECT_NE(help.str().find("  " + name), std::string::npos) << row.key;
  }
}

TEST(Config, PriorsAreTablesOfTheirOwn) {
  const std::string text = std::string(kLeast) +
                           "\n[[prior]]\nfile = \"a.pt2\"\nstrength = 0.5\n"
                           "[[prior]]\nfile = \"/b.pt\"\nkind = \"gradient\"\non = \"object\"\n";
  const Config config =
      parse_config(text, "/data/run.toml", {"prior[1].strength=3", "prior[0].noise=0.1"});
  ASSERT_EQ(config.priors.size(), 2u);
  EXPECT_EQ(config.priors[0].file, "/data/a.pt2");
  EXPECT_EQ(config.priors[0].kind, "plug-and-play");
  EXPECT_EQ(*config.priors[0].noise, 0.1);
  EXPECT_EQ(config.priors[1].strength, 3.0);
  const std::string written = to_toml(config);
  EXPECT_EQ(written, to_toml(parse_config(written, "/elsewhere/config.toml")));
  const auto lines = lines_of_toml(written);
  const auto value = [&](const std::string& key) {
    for (const auto& [name, shown] : lines) {
      if (name == key) return shown;
    }
    return std::string();
  };
  EXPECT_EQ(value("prior[1].kind"), " \"gradient\"");
  EXPECT_EQ(value("prior[0].strength"), " 0.5");
  const auto refused = [&](const std::string& more, const std::vector<std::string>& overrides,
                           const std::vector<std::string>& words) {
    try {
      parse_config(text + more, "/data/run.toml", overrides);
      ADD_FAILURE() << "accepted " << more;
    } catch (const ConfigError& error) {
      expect_words(error.what(), words);
    }
  };
  refused("[[prior]]\nstrength = 1.0\n", {"prior[2].file="}, {"prior[2].file", "given"});
  refused("[[prior]]\nfile = \"c\"\nstrenght = 1.0\n", {}, {"prior[2].strenght", "strength"});
  refused("[[prior]]\nfile = \"c\"\nstrength = 2.0\n", {}, {"prior[2].strength", "at most 1"});
  refused("[[prior]]\nfile = \"c\"\non = \"probe\"\nkind = \"red\"\n", {}, {"prior[2].kind"});
  refused("", {"prior[5].file=x"}, {"prior[5]", "table"});
  refused("", {"prior=3"}, {"prior", "[[prior]]"});
  refused("", {"reconstruct.refine=[\"probe\"]"}, {"prior[0].on", "reconstruct.refine"});
}

TEST(Config, WhatHasAnotherNameNowIsSaid) {
  expect_words(refusal(std::string(kLeast) + "\n[reconstruct]\nprobe_start = 3\n"),
               {"reconstruct.probe_start is called refine.probe.start now"});
  expect_words(refusal(kLeast, {"reconstruct.probe_step=0.5"}), {"refine.probe.step"});
  expect_words(refusal(std::string(kLeast) + "\n[[prior]]\nfile = \"a\"\nevery = 3\n"),
               {"prior[0].every is called prior[0].every_batches now"});
}

TEST(Config, ConditionsAreTablesOfTheirOwn) {
  const std::string text = std::string(kLeast) +
                           "\n[refine.probe]\nstart = 2\nend = 9\nevery = 3\nstep = 0.5\n"
                           "[[constraint]]\nkind = \"pure_phase\"\nevery = 2\n"
                           "[[regulariser]]\nkind = \"tikhonov\"\nweight = 0.1\nend = 4\n";
  const Config config = parse_config(text, "/data/run.toml", {"constraint[0].weight=0.5"});
  const Config::Refine& probe = config.refine.at("probe");
  EXPECT_EQ(probe.step, 0.5);
  std::vector<std::int64_t> due;
  for (std::int64_t k = 0; k < 12; ++k) {
    if (config.refines("probe", k)) due.push_back(k);
  }
  EXPECT_EQ(due, (std::vector<std::int64_t>{2, 5, 8}));
  ASSERT_EQ(config.constraints.size(), 1u);
  EXPECT_EQ(config.constraints[0].weight, 0.5);
  EXPECT_EQ(config.constraints[0].every, 2);
  ASSERT_EQ(config.regularisers.size(), 1u);
  EXPECT_EQ(*config.regularisers[0].end, 4);
  const std::string written = to_toml(config);
  EXPECT_EQ(written, to_toml(parse_config(written, "/elsewhere/config.toml")));
  expect_words(refusal(std::string(kLeast) + "\n[[constraint]]\nweight = 1\n"),
               {"constraint[0].kind", "must be given"});
  expect_words(refusal(std::string(kLeast) + "\n[[constraint]]\nkind = \"smooth\"\n"),
               {"constraint[0].kind", "pure_phase", "smooth"});
  expect_words(refusal(text, {"constraint[0].weight=2"}), {"at most 1", "2"});
  expect_words(refusal(text, {"reconstruct.refine=[\"probe\"]"}),
               {"constraint[0].on", "reconstruct.refine", "object"});
  expect_words(refusal(text, {"refine.probe.end=2"}),
               {"refine.probe.end", "greater than refine.probe.start = 2", "2"});
  expect_words(refusal(text, {"regulariser[0].end=0"}), {"regulariser[0].end", "greater than"});
  expect_words(refusal(text, {"reconstruct.optimizer=lbfgs"}),
               {"refine.probe.step", "lbfgs", "0.5"});
  expect_words(refusal(text, {"tiles.exchange=passes", "tiles.exchange_every=2"}),
               {"tiles.exchange_every", "[[regulariser]]", "2"});
  expect_words(refusal(text, {"tiles.exchange=voxels", "tiles.voxels=mean"}),
               {"tiles.voxels", "[[constraint]]", "mean"});
  expect_words(refusal(std::string(kLeast) + "\n[[prior]]\nfile = \"a\"\nkind = \"red\"\n",
                       {"tiles.exchange=passes", "tiles.exchange_every=2"}),
               {"prior[0].kind", "plug-and-play", "red"});
  expect_words(refusal(std::string(kLeast) + "\n[constraint]\nkind = \"pure_phase\"\n"),
               {"[[constraint]]"});
}

TEST(Config, AFileThatIsNotThereIsAConfigError) {
  try {
    load_config("/somewhere/that/is/not.toml");
    FAIL() << "accepted";
  } catch (const ConfigError& error) {
    expect_words(error.what(), {"/somewhere/that/is/not.toml", "no such"});
  }
  EXPECT_THROW(load_config("/"), ConfigError);
}

TEST(Errors, EachHasItsExitCode) {
  EXPECT_EQ(RunError("a").exit_code(), 1);
  EXPECT_EQ(ConfigError("a").exit_code(), 2);
  EXPECT_EQ(DataError("a").exit_code(), 3);
  EXPECT_EQ(PeerError("a").exit_code(), 75);
  EXPECT_EQ(Interrupted("a").exit_code(), 130);
}

}  // namespace
}  // namespace ptyle::driver
