// The config of a reconstruction: what a TOML file says, checked and with its defaults filled in.
#pragma once

#include <array>
#include <cstdint>
#include <iosfwd>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace ptyle::driver {

using IntegerPair = std::array<std::int64_t, 2>;  // (row, column)
using NumberPair = std::array<double, 2>;         // (row, column)

// Every path is absolute after load_config. Meaning, rule and default of each key stand in one
// table in config.cpp, from which the parser, the help text and what to_toml writes are made.
struct Config {
  // Frames of the data file: a list, or in `text` "auto", "first:end:step" or a dataset.
  struct Frames {
    std::vector<std::int64_t> indices = {};
    std::string text = {};
    bool given() const { return !indices.empty() || !text.empty(); }
  };
  struct Data {
    std::string file;
    std::string patterns = "data";
    std::string positions = "positions";      // empty with a raster
    std::optional<IntegerPair> raster_shape;  // data.raster.shape
    std::optional<NumberPair> raster_step;    // data.raster.step, in position_unit
    std::string position_unit = "pixel";
    double rotation_deg = 0.0;
    std::optional<std::array<double, 4>> affine;  // row-major 2 x 2
    std::string zero_frequency = "center";
    std::string mask;                           // "", a dataset of `file`, or FILE:DATASET
    std::optional<bool> stream = std::nullopt;  // absent: "auto"
    Frames select = {};                         // not given: all
    Frames skip = {};
    double hold_out = 0.0;  // share of positions that judge and do not teach
  };
  struct Orientation {
    bool transpose = false;
    bool flip_rows = false;
    bool flip_columns = false;
  };
  struct Detector {
    // At most one of the four samplings; of the stored (unbinned), oriented detector pixel.
    std::optional<NumberPair> pixel_mrad;
    std::optional<NumberPair> pixel_per_nm;
    std::optional<NumberPair> object_pixel_nm;
    std::optional<NumberPair> pixel_size_um;
    std::optional<double> distance_m;
    Orientation orientation;
    std::string geometry = "far";
    std::string subpixel = "auto";  // auto | probe | object: what fractions of positions move
    // Two numbers: [rows, columns] about the centre; four: [row, column, rows, columns].
    std::vector<std::int64_t> crop;
    IntegerPair bin = {1, 1};
    IntegerPair pad = {0, 0};
    std::optional<NumberPair> center;  // of the oriented pattern, before the crop; far field
    double gain = 1.0;
    // A number, or a dataset of the data file (or FILE:DATASET).
    double dark = 0.0;
    std::string dark_dataset;
    std::optional<double> saturation;
  };
  struct Beam {
    std::string kind = "electron";
    std::optional<double> energy_keV;
  };
  struct Probe {
    std::string file;
    std::string dataset = "probe";
    std::optional<double> semiangle_mrad;
    double defocus_nm = 0.0;  // underfocus positive
    // By Krivanek's names with their units: C30_nm, phi12_deg. C10 is -defocus_nm.
    std::map<std::string, double> aberrations;
    // Each mode that is guessed takes 2 % of the power.
    static constexpr std::int64_t kMostModes = 50;
    std::int64_t modes = 1;
    std::string power = "data";  // data | keep | number
    double power_value = 0.0;    // where power = "number"
  };
  struct Object {
    std::int64_t slices = 1;
    double thickness_nm = 0.0;
    std::int64_t padding = 0;
    std::optional<IntegerPair> shape;
    std::string propagator = "fresnel";
  };
  struct Reconstruct {
    std::int64_t iterations = 30;
    std::optional<std::int64_t> batches = std::nullopt;  // absent: "auto"
    // Once they are settled (settle_updates); few before.
    std::int64_t batch_count() const { return batches.value_or(8); }
    std::string optimizer = "auto";
    std::string likelihood = "amplitude";
    std::vector<std::string> refine = {"object", "probe"};
    std::string precision = "single";
    bool deterministic = true;  // on GPUs
    std::int64_t seed = 0;
    double step = 1.0;
    double momentum = 0.9;
    double learning_rate = 0.01;        // Adam, object
    double probe_learning_rate = 0.01;  // Adam, probe
    std::int64_t history = 10;          // pairs that L-BFGS keeps
    bool refines(const std::string& what) const;
    bool in_double() const { return precision == "double"; }
  };
  // In which iterations something acts.
  struct Schedule {
    std::int64_t start = 0;                          // iterations done before
    std::optional<std::int64_t> end = std::nullopt;  // the first in which it does not act again
    std::int64_t every = 1;                          // iterations
    bool due(std::int64_t iteration) const {
      return iteration >= start && (!end || iteration < *end) && (iteration - start) % every == 0;
    }
  };
  // How an unknown that reconstruct.refine names is refined: one [refine.NAME] table.
  struct Refine : Schedule {
    double step = 1.0;  // in units of the optimiser's
  };
  struct Tiles {
    std::optional<IntegerPair> grid = IntegerPair{1, 1};  // nullopt: "auto"
    std::optional<std::int64_t> halo;                     // nullopt: "exact"
    std::string exchange = "direct";
    std::string voxels = "copy";      // copy | mean
    std::int64_t extra_rows = 2;      // `voxels`
    std::int64_t exchange_every = 1;  // batches; `passes`, `voxels`
    std::int64_t timeout_s = 120;     // for a rank that does not answer
  };
  struct Output {
    std::string folder;  // default: the config's name without .toml, beside it
    std::int64_t checkpoint_every = 10;
    bool png = true;
  };

  // A learned prior: one [[prior]] table.
  struct Prior {
    std::string file;
    std::string kind = "plug-and-play";  // plug-and-play | red | gradient
    std::string on = "phase";            // phase | object | probe
    double strength = 1.0;
    std::optional<double> noise = std::nullopt;  // of a denoiser; absent: of the counts
    std::int64_t every_batches = 0;              // 0: once per iteration
    std::int64_t start = 0;                      // iterations before
    std::optional<std::int64_t> end = std::nullopt;
  };

  // Whether reconstruct.refine names an unknown and its table lets it be refined in an iteration.
  bool refines(const std::string& unknown, std::int64_t iteration) const;

  // What acts on an unknown between updates, or joins loss and gradient: one [[constraint]] or
  // [[regulariser]] table.
  struct Condition : Schedule {
    std::string kind, on = "object";
    double weight = 1.0;
  };

  std::string path;             // of the file it was read from
  std::string device = "auto";  // auto | cpu | cuda
  Data data;
  Detector detector;
  Beam beam;
  Probe probe;
  Object object;
  Reconstruct reconstruct;
  std::map<std::string, Refine> refine;  // of every unknown, by name
  Tiles tiles;
  std::vector<Prior> priors;
  std::vector<Condition> constraints, regularisers;
  Output output;
};

// What can be refined, in the order in which it is updated.
const std::vector<std::string>& unknown_names();

// A dataset of some file, as keys name it.
struct DatasetName {
  std::string file;  // empty: of the file that the key is about
  std::string dataset;
};
// FILE:DATASET, or a dataset alone. Both may hold colons: FILE ends at the last colon before which
// a file stands; where there is none, at the last one behind a name that ends as HDF5 files do;
// else all of it is a dataset's name. Relative files are taken from `folder`.
DatasetName split_dataset_name(const std::string& name, const std::string& folder = "");
// Whether a key says where data lies, and not what is computed.
bool names_a_place(const std::string& key);

// Reads and checks a config; `overrides` are "key=value" with dotted keys, in the order given.
// Throws ConfigError with one sentence: place, key, rule, value.
Config load_config(const std::string& path, const std::vector<std::string>& overrides = {});
// The same from text; `path` stands in messages, and relative paths are taken from its folder.
Config parse_config(const std::string& text, const std::string& path,
                    const std::vector<std::string>& overrides = {});
// The config as TOML, every key, readable by load_config from any folder; or, where `folder` is
// given, from that one, with paths relative to it: what lies together can be moved together.
std::string to_toml(const Config& config, const std::string& folder = "");
// Its lines: (table.key, value), without comments.
std::vector<std::pair<std::string, std::string>> lines_of_toml(const std::string& toml);

// One row of the table of keys, for --help-config.
struct KeyDescription {
  std::string key, type, default_value, rule, meaning;
};
std::vector<KeyDescription> describe_keys();
void print_config_help(std::ostream& out);

// "first:end:step" as Python's slices, without negative numbers; nothing where `text` is no such.
struct FrameSlice {
  std::int64_t first = 0;
  std::optional<std::int64_t> end;  // the first that is not taken
  std::int64_t step = 1;
};
std::optional<FrameSlice> frame_slice(const std::string& text);

// "key: must RULE, got VALUE (FILE)" for rules that only the data can decide.
[[noreturn]] void throw_config_error(const Config& config, const std::string& key,
                                     const std::string& rule, const std::string& value);

}  // namespace ptyle::driver
