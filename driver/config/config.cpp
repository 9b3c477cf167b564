#include "driver/config/config.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <ostream>
#include <regex>
#include <set>
#include <sstream>
#include <type_traits>
#include <utility>

// toml++ takes some malformed keys for what cannot be, and without its assertions goes on with
// undefined behaviour: here they refuse the text.
#undef NDEBUG
#define TOML_ASSERT(expression) \
  (static_cast<bool>(expression) ? static_cast<void>(0) : ptyle::driver::refuse_toml())
namespace ptyle::driver {
namespace {

struct MalformedToml {};

[[noreturn]] void refuse_toml() { throw MalformedToml(); }

}  // namespace
}  // namespace ptyle::driver
#include <toml++/toml.h>

#include "csrc/likelihood.h"
#include "driver/config/modes.h"
#include "driver/errors.h"
#include "driver/words.h"

namespace ptyle::driver {
namespace {

namespace fs = std::filesystem;

// ---- values as text ----

std::string write_number(double value) {
  char text[40];
  for (int digits = 15; digits <= 17; ++digits) {
    std::snprintf(text, sizeof(text), "%.*g", digits, value);
    if (std::strtod(text, nullptr) == value) break;
  }
  std::string result = text;
  if (result.find_first_of(".en") == std::string::npos) result += ".0";
  return result;
}

std::string write_string(const std::string& value) {
  std::string text = "\"";
  for (const char character : value) {
    if (character == '"' || character == '\\') {
      text += '\\';
      text += character;
    } else if (static_cast<unsigned char>(character) < 0x20 || character == 0x7f) {
      char escaped[8];
      std::snprintf(escaped, sizeof(escaped), "\\u%04x", static_cast<unsigned>(character));
      text += escaped;
    } else {
      text += character;
    }
  }
  return text + '"';
}

// A value as the user wrote it, for messages.
std::string show(const toml::node& node) {
  if (node.is_table()) return "a table";
  if (node.is_string()) return write_string(*node.value_exact<std::string>());
  std::ostringstream out;
  node.visit([&out](const auto& concrete) { out << concrete; });
  return out.str();
}

// ---- rules ----

template <typename T>
struct Rule {
  std::string text;  // completes "KEY must ..."; empty where anything of the type will do
  std::function<bool(const T&)> holds;
};

template <typename T>
Rule<T> any() {
  return {"", [](const T&) { return true; }};
}

template <typename T>
std::string bound(T value) {
  if constexpr (std::is_same_v<T, double>) {
    std::ostringstream out;
    out << value;
    return out.str();
  } else {
    return std::to_string(value);
  }
}

template <typename T>
Rule<T> at_least(T least) {
  return {"be at least " + bound(least), [least](const T& value) { return value >= least; }};
}
Rule<double> positive() {
  return {"be greater than 0", [](const double& value) { return value > 0.0; }};
}
template <typename T>
Rule<T> within(T least, T most) {
  return {"be from " + bound(least) + " to " + bound(most),
          [least, most](const T& value) { return value >= least && value <= most; }};
}
// The same rule for both numbers of a pair.
template <typename T>
Rule<std::array<T, 2>> both(const Rule<T>& rule) {
  // "be at least 1" -> "have both numbers at least 1"
  return {
      "have both numbers " + rule.text.substr(rule.text.find(' ') + 1),
      [rule](const std::array<T, 2>& pair) { return rule.holds(pair[0]) && rule.holds(pair[1]); }};
}
// The rule of a field that may be absent holds for what is there.
template <typename T>
Rule<std::optional<T>> optionally(const Rule<T>& rule) {
  return {rule.text,
          [rule](const std::optional<T>& value) { return !value || rule.holds(*value); }};
}
Rule<std::string> one_of(std::vector<std::string> choices) {
  std::string text = "be ";
  for (std::size_t i = 0; i < choices.size(); ++i) {
    if (i > 0) text += i + 1 == choices.size() ? " or " : ", ";
    text += '"' + choices[i] + '"';
  }
  return {text, [choices = std::move(choices)](const std::string& value) {
            return std::find(choices.begin(), choices.end(), value) != choices.end();
          }};
}
Rule<std::string> not_empty() {
  return {"be given", [](const std::string& value) { return !value.empty(); }};
}

// ---- types ----
// A codec knows one type of field: its name, how to read it from TOML and how to write it.

struct BoolCodec {
  using Value = bool;
  static std::string type() { return "true or false"; }
  static bool read(const toml::node& node, bool& out) {
    if (!node.is_boolean()) return false;
    out = *node.value_exact<bool>();
    return true;
  }
  static std::string write(bool value) { return value ? "true" : "false"; }
};

struct IntegerCodec {
  using Value = std::int64_t;
  static std::string type() { return "an integer"; }
  static bool read(const toml::node& node, std::int64_t& out) {
    if (!node.is_integer()) return false;
    out = *node.value_exact<std::int64_t>();
    return true;
  }
  static std::string write(std::int64_t value) { return std::to_string(value); }
};

struct NumberCodec {
  using Value = double;
  static std::string type() { return "a finite number"; }
  static bool read(const toml::node& node, double& out) {
    if (!node.is_number()) return false;
    out = *node.value<double>();
    return std::isfinite(out);
  }
  static std::string write(double value) { return write_number(value); }
};

struct StringCodec {
  using Value = std::string;
  static std::string type() { return "a string"; }
  static bool read(const toml::node& node, std::string& out) {
    if (!node.is_string()) return false;
    out = *node.value_exact<std::string>();
    return true;
  }
  static std::string write(const std::string& value) { return write_string(value); }
};

template <typename Item>
struct ListCodec {
  using Value = std::vector<typename Item::Value>;
  static std::string type() { return "a list, each " + Item::type(); }
  static bool read(const toml::node& node, Value& out) {
    const toml::array* array = node.as_array();
    if (array == nullptr) return false;
    out.clear();
    for (const toml::node& item : *array) {
      if (!Item::read(item, out.emplace_back())) return false;
    }
    return true;
  }
  static std::string write(const Value& value) {
    std::string text = "[";
    for (std::size_t i = 0; i < value.size(); ++i) text += (i ? ", " : "") + Item::write(value[i]);
    return text + "]";
  }
};

template <typename Item>
struct PairCodec {
  using Value = std::array<typename Item::Value, 2>;
  static std::string type() { return "[row, column], each " + Item::type(); }
  static bool read(const toml::node& node, Value& out) {
    const toml::array* array = node.as_array();
    return array != nullptr && array->size() == 2 && Item::read(*array->get(0), out[0]) &&
           Item::read(*array->get(1), out[1]);
  }
  static std::string write(const Value& value) {
    std::string text = "[";
    text += Item::write(value[0]);
    text += ", ";
    text += Item::write(value[1]);
    text += ']';
    return text;
  }
};

// One value stands for rows and columns alike.
template <typename Item>
struct OneOrPairCodec {
  using Value = std::array<typename Item::Value, 2>;
  static std::string type() { return Item::type() + ", or two as [row, column]"; }
  static bool read(const toml::node& node, Value& out) {
    if (PairCodec<Item>::read(node, out)) return true;
    if (!Item::read(node, out[0])) return false;
    out[1] = out[0];
    return true;
  }
  static std::string write(const Value& value) { return PairCodec<Item>::write(value); }
};

struct MatrixCodec {
  using Value = std::array<double, 4>;
  static std::string type() { return "a 2 x 2 matrix of finite numbers, [[a, b], [c, d]]"; }
  static bool read(const toml::node& node, Value& out) {
    const toml::array* rows = node.as_array();
    if (rows == nullptr || rows->size() != 2) return false;
    for (std::size_t row = 0; row < 2; ++row) {
      NumberPair pair{};
      if (!PairCodec<NumberCodec>::read(*rows->get(row), pair)) return false;
      out[2 * row] = pair[0];
      out[2 * row + 1] = pair[1];
    }
    return true;
  }
  static std::string write(const Value& m) {
    return "[" + PairCodec<NumberCodec>::write({m[0], m[1]}) + ", " +
           PairCodec<NumberCodec>::write({m[2], m[3]}) + "]";
  }
};

// A field that may be absent. An empty text means: not set.
template <typename Item>
struct OptionalCodec {
  using Value = std::optional<typename Item::Value>;
  static std::string type() { return Item::type(); }
  static bool read(const toml::node& node, Value& out) { return Item::read(node, out.emplace()); }
  static std::string write(const Value& value) { return value ? Item::write(*value) : ""; }
};

// A field where one word stands for "absent".
template <typename Item, const char* kWord>
struct WordOrCodec {
  using Value = std::optional<typename Item::Value>;
  static std::string type() {
    std::string text = Item::type();
    text.append(", or \"").append(kWord).append("\"");
    return text;
  }
  static bool read(const toml::node& node, Value& out) {
    out.reset();
    if (node.value_exact<std::string>() == kWord) return true;
    return Item::read(node, out.emplace());
  }
  static std::string write(const Value& value) {
    return value ? Item::write(*value) : write_string(kWord);
  }
};
constexpr char kAuto[] = "auto";
constexpr char kExact[] = "exact";

struct PowerCodec {  // probe.power
  using Value = Config::Probe;
  static std::string type() { return "\"data\", \"keep\" or a number greater than 0"; }
  static bool read(const toml::node& node, Value& out) {
    if (NumberCodec::read(node, out.power_value)) {
      out.power = "number";
      return out.power_value > 0.0;
    }
    return StringCodec::read(node, out.power) && (out.power == "data" || out.power == "keep");
  }
  static std::string write(const Value& value) {
    return value.power == "number" ? write_number(value.power_value) : write_string(value.power);
  }
};

struct DarkCodec {  // detector.dark
  using Value = Config::Detector;
  static std::string type() { return "a finite number, or the name of a dataset"; }
  static bool read(const toml::node& node, Value& out) {
    return NumberCodec::read(node, out.dark) || StringCodec::read(node, out.dark_dataset);
  }
  static std::string write(const Value& value) {
    return value.dark_dataset.empty() ? write_number(value.dark) : write_string(value.dark_dataset);
  }
};

struct FramesCodec {  // data.select, data.skip
  using Value = Config::Frames;
  static std::string type() {
    return "a list of frames, \"first:end:step\", or the name of a dataset";
  }
  static bool read(const toml::node& node, Value& out) {
    out = {};
    if (StringCodec::read(node, out.text)) return true;
    return ListCodec<IntegerCodec>::read(node, out.indices);
  }
  static std::string write(const Value& value) {
    return value.text.empty() ? ListCodec<IntegerCodec>::write(value.indices)
                              : write_string(value.text);
  }
};

Rule<Config::Frames> frames_rule(bool can_be_auto) {
  return {
      std::string("have indices of at least 0 and a step of at least 1") +
          (can_be_auto ? "" : ", and not be \"auto\""),
      [can_be_auto](const Config::Frames& frames) {
        const std::optional<FrameSlice> slice = frame_slice(frames.text);
        return (!slice || (slice->step >= 1 && slice->first >= 0 && slice->end.value_or(0) >= 0)) &&
               (can_be_auto || frames.text != "auto") &&
               std::all_of(frames.indices.begin(), frames.indices.end(),
                           [](std::int64_t index) { return index >= 0; });
      }};
}

// ---- the table of keys ----

const std::vector<std::string>& aberration_names() {
  static const std::vector<std::string> names = {
      "C12_nm",    "phi12_deg", "C21_nm",    "phi21_deg", "C23_nm",    "phi23_deg",
      "C30_nm",    "C32_nm",    "phi32_deg", "C34_nm",    "phi34_deg", "C41_nm",
      "phi41_deg", "C43_nm",    "phi43_deg", "C45_nm",    "phi45_deg", "C50_nm",
      "C52_nm",    "phi52_deg", "C54_nm",    "phi54_deg", "C56_nm",    "phi56_deg"};
  return names;
}

// Every key once: name, field, rule, meaning. A visitor has
//   template <typename Codec> void key(name, Codec::Value& field, Rule<Codec::Value>, meaning)
template <typename Visitor>
void visit_keys(Config& c, Visitor& v) {
  using Number = NumberCodec;
  using Integer = IntegerCodec;
  using String = StringCodec;
  using MaybeNumber = OptionalCodec<NumberCodec>;
  using Sampling = OptionalCodec<OneOrPairCodec<NumberCodec>>;

  v.template key<String>("device", c.device, one_of({"auto", "cpu", "cuda"}),
                         "what computes, above all tables; \"auto\": a GPU where there is one for "
                         "every rank of a machine, else the CPU");

  v.template key<String>("data.file", c.data.file, not_empty(), "the HDF5 file with the patterns");
  v.template key<String>("data.patterns", c.data.patterns, not_empty(),
                         "dataset [positions, rows, columns] or [scan_rows, scan_columns, rows, "
                         "columns], any integer or float type; FILE:DATASET for another file");
  v.template key<WordOrCodec<BoolCodec, kAuto>>(
      "data.stream", c.data.stream, any<std::optional<bool>>(),
      "patterns are read from the file again in every iteration, ahead of time, instead of being "
      "kept in memory; \"auto\": where they would take half of it");
  v.template key<String>("data.positions", c.data.positions, any<std::string>(),
                         "dataset [positions, 2], (row, column) of the window's corner; "
                         "FILE:DATASET for another file; \"\" with data.raster");
  v.template key<OptionalCodec<PairCodec<Integer>>>(
      "data.raster.shape", c.data.raster_shape, optionally(both(at_least<std::int64_t>(1))),
      "instead of data.positions: rows and columns of a raster scan");
  v.template key<OptionalCodec<OneOrPairCodec<Number>>>(
      "data.raster.step", c.data.raster_step, any<std::optional<NumberPair>>(),
      "its steps between rows and between columns, in data.position_unit");
  v.template key<String>("data.position_unit", c.data.position_unit,
                         one_of({"pixel", "nm", "um", "m", "angstrom"}), "unit of the positions");
  v.template key<Number>("data.rotation_deg", c.data.rotation_deg, within(-360.0, 360.0),
                         "turns the positions; positive turns +row towards +column");
  v.template key<OptionalCodec<MatrixCodec>>(
      "data.affine", c.data.affine,
      {"be invertible",
       [](const std::optional<std::array<double, 4>>& m) {
         return !m || (*m)[0] * (*m)[3] != (*m)[1] * (*m)[2];
       }},
      "instead of data.rotation_deg: applied to (row, column) about the positions' mean");
  v.template key<String>("data.zero_frequency", c.data.zero_frequency, one_of({"center", "corner"}),
                         "where the oriented pattern has its zero frequency: [rows / 2, "
                         "columns / 2] or [0, 0]; far field only");
  v.template key<String>("data.mask", c.data.mask, any<std::string>(),
                         "dataset (or FILE:DATASET) of bad pixels, nonzero = bad, [rows, "
                         "columns] or [positions, rows, columns], stored as the patterns are");
  v.template key<FramesCodec>(
      "data.select", c.data.select, frames_rule(false),
      "the frames that take part: indices, \"first:end:step\" (end is not taken), or a dataset (or "
      "FILE.h5:DATASET) of indices or booleans; [] = all");
  v.template key<FramesCodec>(
      "data.skip", c.data.skip, frames_rule(true),
      "frames that take no part, named in the same ways; \"auto\": those without counts, with 4 "
      "times more or fewer than the median and 8 standard deviations (robust, of the logarithm) "
      "away, half written, with a pixel 30 times brighter than in others, not stored, or far from "
      "all other positions: behind a gap half as wide as the rest of the scan, and 5 times as wide "
      "as any in it");

  v.template key<Number>(
      "data.hold_out", c.data.hold_out, within(0.0, 0.5),
      "share of the positions, spread over the scan, that enter no gradient: "
      "their error after every iteration (held_out_error in metrics.jsonl) tells "
      "when a run begins to fit noise");
  v.template key<Sampling>("detector.pixel_mrad", c.detector.pixel_mrad,
                           optionally(both(positive())),
                           "angle of a stored detector pixel (needs beam.energy_keV); two numbers "
                           "are those of the oriented pattern");
  v.template key<Sampling>("detector.pixel_per_nm", c.detector.pixel_per_nm,
                           optionally(both(positive())), "the same as a spatial frequency, 1/nm");
  v.template key<Sampling>("detector.object_pixel_nm", c.detector.object_pixel_nm,
                           optionally(both(positive())), "the object's pixel");
  v.template key<Sampling>("detector.pixel_size_um", c.detector.pixel_size_um,
                           optionally(both(positive())),
                           "width of a stored detector pixel (needs detector.distance_m); near "
                           "field: the effective one");
  v.template key<MaybeNumber>("detector.distance_m", c.detector.distance_m, optionally(positive()),
                              "from object to detector; near field: the effective one");
  v.template key<BoolCodec>("detector.orientation.transpose", c.detector.orientation.transpose,
                            any<bool>(), "exchange rows and columns of every pattern, first");
  v.template key<BoolCodec>("detector.orientation.flip_rows", c.detector.orientation.flip_rows,
                            any<bool>(),
                            "then reverse the order of its rows; the zero frequency stays where "
                            "data.zero_frequency says, unless detector.center, or a detector.crop "
                            "with a corner, names places of the reversed pattern");
  v.template key<BoolCodec>("detector.orientation.flip_columns",
                            c.detector.orientation.flip_columns, any<bool>(),
                            "and the order of its columns, likewise");
  v.template key<String>("detector.geometry", c.detector.geometry, one_of({"far", "near"}),
                         "far field (Fourier transform) or near field (propagation)");
  v.template key<String>("detector.subpixel", c.detector.subpixel,
                         one_of({"auto", "probe", "object"}),
                         "what moves where a position lies between pixels: the probe, or the "
                         "object's patch (interpolated), which wraps nothing around the window; "
                         "auto: the probe, but in the near field the object where more than 1e-4 "
                         "of the probe's energy lies in the window's outer eighth");
  v.template key<OptionalCodec<PairCodec<Number>>>(
      "detector.center", c.detector.center, any<std::optional<NumberPair>>(),
      "[row, column] of the zero frequency in the oriented pattern, before the crop, also between "
      "pixels (with data.zero_frequency = \"corner\" about [0, 0]); far field only");
  v.template key<ListCodec<Integer>>(
      "detector.crop", c.detector.crop,
      {"be [rows, columns] about the centre or [row, column, rows, columns], sizes at least 1",
       [](const std::vector<std::int64_t>& crop) {
         if (crop.empty()) return true;
         if (crop.size() != 2 && crop.size() != 4) return false;
         const std::size_t sizes = crop.size() - 2;
         return crop[sizes] >= 1 && crop[sizes + 1] >= 1 && crop[0] >= 0 && crop[1] >= 0;
       }},
      "part of the oriented, centred pattern that is used; [] = all");
  v.template key<OneOrPairCodec<Integer>>("detector.bin", c.detector.bin,
                                          both(at_least<std::int64_t>(1)),
                                          "pixels summed, after the crop");
  v.template key<OneOrPairCodec<Integer>>(
      "detector.pad", c.detector.pad, both(within<std::int64_t>(0, 16384)),
      "unmeasured pixels added on every side, after the binning");
  v.template key<Number>("detector.gain", c.detector.gain, positive(),
                         "counts = (stored - dark) / gain");
  v.template key<DarkCodec>("detector.dark", c.detector, any<Config::Detector>(),
                            "the dark value, or a dataset [rows, columns], stored as the patterns");
  v.template key<MaybeNumber>("detector.saturation", c.detector.saturation, optionally(positive()),
                              "stored values from here on are bad pixels of their pattern");

  v.template key<String>("beam.kind", c.beam.kind, one_of({"electron", "xray"}), "the radiation");
  v.template key<MaybeNumber>("beam.energy_keV", c.beam.energy_keV, optionally(within(1e-3, 1e7)),
                              "energy of an electron or photon");

  v.template key<String>("probe.file", c.probe.file, any<std::string>(),
                         "HDF5 file with a probe to start from");
  v.template key<String>("probe.dataset", c.probe.dataset, not_empty(),
                         "its dataset, [rows, columns] or [modes, rows, columns]");
  v.template key<MaybeNumber>("probe.semiangle_mrad", c.probe.semiangle_mrad,
                              optionally(positive()),
                              "instead of a file: aperture of a computed probe");
  v.template key<Number>(
      "probe.defocus_nm", c.probe.defocus_nm, any<double>(),
      "of the computed probe; underfocus is positive, in focus that far behind the "
      "first slice: P(k) = A exp(i pi wavelength defocus k^2)");
  for (const std::string& name : aberration_names()) {
    std::optional<double> value;
    if (const auto found = c.probe.aberrations.find(name); found != c.probe.aberrations.end()) {
      value = found->second;
    }
    v.template key<MaybeNumber>("probe.aberrations." + name, value, any<std::optional<double>>(),
                                "aberration of the computed probe, Krivanek's notation");
    if (value) c.probe.aberrations[name] = *value;
  }
  v.template key<Integer>("probe.modes", c.probe.modes,
                          within<std::int64_t>(1, Config::Probe::kMostModes), "incoherent modes");
  v.template key<PowerCodec>("probe.power", c.probe, any<Config::Probe>(),
                             "the probe's power: from the data, as it is, or in counts");

  v.template key<Integer>("object.slices", c.object.slices, within<std::int64_t>(1, 10000),
                          "slices of the object");
  v.template key<Number>("object.thickness_nm", c.object.thickness_nm, at_least(0.0),
                         "of the whole object");
  v.template key<Integer>("object.padding", c.object.padding, within<std::int64_t>(0, 1'000'000),
                          "pixels around the scanned area");
  v.template key<OptionalCodec<PairCodec<Integer>>>(
      "object.shape", c.object.shape, optionally(both(within<std::int64_t>(1, 1'000'000))),
      "rows and columns of the object, instead of what the positions need");
  v.template key<String>("object.propagator", c.object.propagator,
                         one_of({"fresnel", "angular_spectrum"}),
                         "between slices, and to a near-field detector");

  v.template key<Integer>("reconstruct.iterations", c.reconstruct.iterations,
                          at_least<std::int64_t>(0), "passes over all positions");
  v.template key<WordOrCodec<Integer, kAuto>>(
      "reconstruct.batches", c.reconstruct.batches, optionally(at_least<std::int64_t>(1)),
      "updates per iteration; \"auto\": four for each position that lights a pixel of the scanned "
      "area on average, at least 16 and at most one for every 4 positions (near field: 24); 1 for "
      "L-BFGS");
  std::vector<std::string> optimizers = names_of(kOptimizers);
  optimizers.insert(optimizers.begin(), "auto");
  v.template key<String>(
      "reconstruct.optimizer", c.reconstruct.optimizer, one_of(optimizers),
      "preconditioned descent with extrapolation over iterations, Adam, or L-BFGS "
      "(batches = 1); \"auto\": descent");
  v.template key<String>("reconstruct.likelihood", c.reconstruct.likelihood,
                         one_of(likelihood_names()), "what is minimised");
  v.template key<ListCodec<String>>(
      "reconstruct.refine", c.reconstruct.refine,
      {"name any of \"" + words::listed(unknown_names(), "\", \"") + "\", each once",
       [](const std::vector<std::string>& names) {
         const std::set<std::string> unique(names.begin(), names.end());
         const std::vector<std::string>& known = unknown_names();
         return !names.empty() && unique.size() == names.size() &&
                std::all_of(names.begin(), names.end(), [&](const std::string& name) {
                  return std::find(known.begin(), known.end(), name) != known.end();
                });
       }},
      "what is reconstructed");
  v.template key<String>("reconstruct.precision", c.reconstruct.precision,
                         one_of({"single", "double"}), "of all arithmetic on waves");
  v.template key<BoolCodec>(
      "reconstruct.deterministic", c.reconstruct.deterministic, any<bool>(),
      "on GPUs: sums in a fixed order, so that every run has the same bits; false: by atomics");
  v.template key<Integer>("reconstruct.seed", c.reconstruct.seed, at_least<std::int64_t>(0),
                          "of the order of batches");
  const Rule<double> step_rule{"be greater than 0 and at most 1000",
                               [](const double& value) { return value > 0.0 && value <= 1000.0; }};
  v.template key<Number>("reconstruct.step", c.reconstruct.step, step_rule,
                         "of descent, in units of what cannot overshoot");
  v.template key<Number>("reconstruct.momentum", c.reconstruct.momentum,
                         {"be at least 0 and less than 1",
                          [](const double& value) { return value >= 0.0 && value < 1.0; }},
                         "of descent: the longest extrapolation over iterations");
  v.template key<Number>("reconstruct.learning_rate", c.reconstruct.learning_rate, positive(),
                         "of Adam, for the object");
  v.template key<Number>("reconstruct.probe_learning_rate", c.reconstruct.probe_learning_rate,
                         positive(), "of Adam, for the probe, relative to its largest amplitude");
  v.template key<Integer>("reconstruct.history", c.reconstruct.history,
                          within<std::int64_t>(1, 1000), "steps that L-BFGS remembers");
  for (const std::string& name : unknown_names()) {
    Config::Refine& refine = c.refine[name];
    const std::string table = "refine." + name + ".";
    v.template key<Integer>(table + "start", refine.start, at_least<std::int64_t>(0),
                            "iterations done before the " + name + " is refined");
    v.template key<OptionalCodec<Integer>>(table + "end", refine.end,
                                           optionally(at_least<std::int64_t>(0)),
                                           "iterations after which it is not refined any more");
    v.template key<Integer>(table + "every", refine.every, at_least<std::int64_t>(1),
                            "iterations from one in which it is refined to the next");
    v.template key<Number>(table + "step", refine.step, step_rule,
                           "its steps (descent, Adam), in units of the optimiser's");
  }

  v.template key<WordOrCodec<PairCodec<Integer>, kAuto>>(
      "tiles.grid", c.tiles.grid, optionally(both(within<std::int64_t>(1, 100000))),
      "rows and columns of tiles; \"auto\": a tile a rank");
  v.template key<WordOrCodec<Integer, kExact>>("tiles.halo", c.tiles.halo,
                                               optionally(within<std::int64_t>(0, 1000000)),
                                               "pixels around a tile");
  v.template key<String>("tiles.exchange", c.tiles.exchange, one_of(names_of(kExchanges)),
                         "how tiles share gradients");
  v.template key<String>(
      "tiles.voxels", c.tiles.voxels, one_of({"copy", "mean"}),
      "exchange = \"voxels\": halos become their owners' voxels, or what overlaps "
      "the mean of both tiles");
  v.template key<Integer>("tiles.extra_rows", c.tiles.extra_rows, within<std::int64_t>(0, 1000),
                          "exchange = \"voxels\": steps of the scan from which a tile takes other "
                          "tiles' positions too");
  v.template key<Integer>(
      "tiles.exchange_every", c.tiles.exchange_every, within<std::int64_t>(1, 1'000'000),
      "batches between exchanges of \"passes\" and \"voxels\"; between them tiles "
      "follow their own gradients");
  v.template key<Integer>("tiles.timeout_s", c.tiles.timeout_s, within<std::int64_t>(1, 86400),
                          "seconds after which a rank that does not answer ends the run");

  for (std::size_t k = 0; k < c.priors.size(); ++k) {
    auto& prior = c.priors[k];
    const std::string table = "prior[" + std::to_string(k) + "].";
    v.template key<String>(table + "file", prior.file, not_empty(),
                           "a model: TorchScript or a compiled .pt2, with its card (ptyle.models)");
    v.template key<String>(table + "kind", prior.kind, one_of({"plug-and-play", "red", "gradient"}),
                           "between updates towards what a denoiser makes of the object; its "
                           "residual joins the gradient; or the gradient of a regulariser does");
    v.template key<String>(table + "on", prior.on, one_of({"phase", "object", "probe"}),
                           "the object's phase, its phase and amplitude, or the probe "
                           "(kind = \"plug-and-play\")");
    v.template key<Number>(
        table + "strength", prior.strength, positive(),
        "share of the way (plug-and-play, at most 1); else weight against that of "
        "the data at 5 % of the largest illumination: 1 is as much as converges "
        "for a residual, or for an energy whose curvature is at most 1");
    v.template key<MaybeNumber>(
        table + "noise", prior.noise,
        optionally(Rule<double>{"be at least 0", [](const double& x) { return x >= 0.0; }}),
        "standard deviation that a denoiser takes for noise, radians (of a probe: in "
        "units of its largest amplitude, not set: the middle of what it was trained with); not "
        "set: what the counts leave in a phase, 1 / sqrt(counts that light a pixel)");
    v.template key<Integer>(table + "every_batches", prior.every_batches,
                            within<std::int64_t>(0, 1'000'000),
                            "batches from one use to the next; 0 = once per iteration");
    v.template key<Integer>(table + "start", prior.start, at_least<std::int64_t>(0),
                            "iterations done before it is first used");
    v.template key<OptionalCodec<Integer>>(table + "end", prior.end,
                                           optionally(at_least<std::int64_t>(0)),
                                           "iterations after which it is not used any more");
  }

  const auto conditions = [&](const std::string& name, std::vector<Config::Condition>& list,
                              const std::vector<std::string>& kinds, const Rule<double>& weight,
                              const std::string& meaning) {
    for (std::size_t k = 0; k < list.size(); ++k) {
      const std::string table = name + "[" + std::to_string(k) + "].";
      v.template key<String>(table + "kind", list[k].kind, one_of(kinds), meaning);
      v.template key<String>(table + "on", list[k].on, one_of({"object"}), "the unknown");
      v.template key<Integer>(table + "start", list[k].start, at_least<std::int64_t>(0),
                              "iterations done before it first acts");
      v.template key<OptionalCodec<Integer>>(table + "end", list[k].end,
                                             optionally(at_least<std::int64_t>(0)),
                                             "iterations after which it does not act any more");
      v.template key<Integer>(table + "every", list[k].every, at_least<std::int64_t>(1),
                              "iterations from one in which it acts to the next");
      v.template key<Number>(table + "weight", list[k].weight, weight,
                             name == "constraint"
                                 ? "share of the way"
                                 : "against that of the data at 5 % of the largest illumination");
    }
  };
  conditions("constraint", c.constraints, names_of(kConstraints),
             {"be greater than 0 and at most 1", [](double x) { return x > 0.0 && x <= 1.0; }},
             "at the end of an iteration; pure_phase: amplitudes become 1 (with weight 1 the "
             "probe's power is free then)");
  conditions("regulariser", c.regularisers, names_of(kRegularisers), positive(),
             "in every batch; tikhonov: half the sum of |O - 1|^2 over all voxels");

  v.template key<String>("output.folder", c.output.folder, any<std::string>(),
                         "where everything goes; default: the config's name without .toml");
  v.template key<Integer>("output.checkpoint_every", c.output.checkpoint_every,
                          at_least<std::int64_t>(0), "iterations between checkpoints; 0 = none");
  v.template key<BoolCodec>("output.png", c.output.png, any<bool>(),
                            "write pictures of object and probe");
}

// ---- unknown keys ----

std::size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row[b.size()];
}

// "reconstruct" of "reconstruct.seed"; empty for a key above all tables.
std::string table_of(const std::string& key) {
  const std::size_t dot = key.find('.');
  return dot == std::string::npos ? std::string() : key.substr(0, dot);
}
// "[reconstruct]"; "[[prior]]" of "prior[0]"
std::string header_of(const std::string& table) {
  const std::size_t bracket = table.find('[');
  return bracket == std::string::npos ? "[" + table + "]" : "[[" + table.substr(0, bracket) + "]]";
}
std::string within_table(const std::string& key) {
  return key.substr(key.find('.') + 1);  // all of it where there is no dot
}

std::string last_part(const std::string& key) { return key.substr(key.rfind('.') + 1); }

// What a key of earlier versions is called; empty where there was none of that name.
std::string renamed(const std::string& key) {
  if (key == "reconstruct.probe_start") return "refine.probe.start";
  if (key == "reconstruct.probe_step") return "refine.probe.step";
  if (key.starts_with("prior[") && key.ends_with("].every")) return key + "_batches";
  return {};
}

// The known key that was most probably meant: one of the same name in another table, or the one
// that the fewest edits lead to. Empty where none is near.
std::string nearest_key(const std::string& key, const std::vector<std::string>& known) {
  std::string best;
  std::size_t best_distance = std::numeric_limits<std::size_t>::max();
  for (const std::string& candidate : known) {
    const std::size_t whole = edit_distance(key, candidate);
    const std::size_t last = 1 + edit_distance(last_part(key), last_part(candidate));
    const std::size_t distance = std::min(whole, last);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best_distance <= 1 + last_part(key).size() / 2 ? best : std::string();
}

// ---- reading ----

struct Source {
  std::string path;
  std::map<std::string, std::string> overrides;  // dotted key -> "--set key=value"

  std::string place(const std::string& key, const toml::node* node) const {
    for (const auto& [name, text] : overrides) {
      if (key == name || key.starts_with(name + ".")) return text;
    }
    if (node != nullptr && node->source().begin.line > 0) {
      return path + ":" + std::to_string(node->source().begin.line);
    }
    return path;
  }
  [[noreturn]] void fail(const std::string& key, const toml::node* node,
                         const std::string& rule) const {
    throw ConfigError(place(key, node) + ": " + key + " must " + rule +
                      (node != nullptr ? ", got " + show(*node) : std::string()));
  }
};

struct Parser {
  const toml::table& root;
  const Source& source;
  std::vector<std::string> known;
  std::set<std::string> given;

  template <typename Codec>
  void key(const std::string& name, typename Codec::Value& field,
           const Rule<typename Codec::Value>& rule, const std::string&) {
    known.push_back(name);
    const toml::node* node = root.at_path(name).node();
    if (node == nullptr) return;
    given.insert(name);
    if (!Codec::read(*node, field)) source.fail(name, node, "be " + Codec::type());
    if (!rule.holds(field)) source.fail(name, node, rule.text);
  }

  void refuse_unknown(const toml::table& table, const std::string& prefix) const {
    for (const auto& [key_node, value] : table) {
      const std::string name = prefix + std::string(key_node.str());
      if (name == "prior" || name == "constraint" || name == "regulariser") {
        const toml::array* tables = value.as_array();
        if (tables == nullptr || !tables->is_array_of_tables()) {
          source.fail(name, &value, "be tables, each headed [[" + name + "]]");
        }
        for (std::size_t k = 0; k < tables->size(); ++k) {
          refuse_unknown(*tables->get_as<toml::table>(k), name + "[" + std::to_string(k) + "].");
        }
        continue;
      }
      if (std::find(known.begin(), known.end(), name) != known.end()) continue;
      const bool is_table = std::any_of(known.begin(), known.end(), [&](const std::string& k) {
        return k.starts_with(name + ".");
      });
      if (is_table) {
        const toml::table* inner = value.as_table();
        if (inner == nullptr) source.fail(name, &value, "be a table");
        refuse_unknown(*inner, name + ".");
        continue;
      }
      if (const std::string now = renamed(name); !now.empty()) {
        throw ConfigError(source.place(name, &value) + ": " + name + " is called " + now + " now");
      }
      // A misspelt table is named by its first key, which says more than the table alone.
      const toml::table* inner = value.as_table();
      std::string sought = name;
      if (inner != nullptr && !inner->empty()) {
        sought += "." + std::string(inner->begin()->first.str());
      }
      const std::string nearest = nearest_key(sought, known);
      throw ConfigError(source.place(name, &value) + ": unknown key " + sought +
                        (nearest.empty() ? "; `ptyle run --help-config` lists the known ones"
                                         : "; the nearest known key is " + nearest));
    }
  }
};

void apply_override(toml::table& root, const std::string& text, Source& source) {
  const std::string place = source.path + " with --set " + text;
  const std::size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0) {
    throw ConfigError(place +
                      ": must have the form key=value, for instance "
                      "--set reconstruct.iterations=50");
  }
  const auto trim = [](std::string value) {
    value.erase(0, value.find_first_not_of(" \t"));
    value.erase(value.find_last_not_of(" \t") + 1);
    return value;
  };
  const std::string key = trim(text.substr(0, equals));
  const std::string value = trim(text.substr(equals + 1));

  // What is not TOML is a bare string: --set output.folder=second_try
  toml::table parsed;
  try {
    parsed = toml::parse("value = " + value);
  } catch (const toml::parse_error&) {
    parsed.clear();
  } catch (const MalformedToml&) {
    parsed.clear();
  }
  if (parsed.size() != 1) {
    parsed.clear();
    parsed.insert("value", value);
  }

  toml::table* table = &root;
  std::size_t begin = 0;
  for (std::size_t dot = key.find('.'); dot != std::string::npos; dot = key.find('.', begin)) {
    const std::string part = key.substr(begin, dot - begin);
    if (part.empty()) throw ConfigError(place + ": the key has an empty part");
    if (part.back() == ']') {  // one of several tables, which must be there
      toml::node* const one = root.at_path(key.substr(0, dot)).node();
      table = one != nullptr ? one->as_table() : nullptr;
    } else {
      if (!table->contains(part)) table->insert(part, toml::table{});
      table = table->get(part)->as_table();
    }
    if (table == nullptr) {
      if (part.back() == ']') {
        const std::string name = part.substr(0, part.find('['));
        const toml::array* const there = root[name].as_array();
        throw ConfigError(place + ": " + part + " must be a table of the config, which has " +
                          std::to_string(there != nullptr ? there->size() : 0) + " [[" + name +
                          "]]");
      }
      throw ConfigError(place + ": " + key.substr(0, dot) + " must be a table");
    }
    begin = dot + 1;
  }
  const std::string last = key.substr(begin);
  if (last.empty()) throw ConfigError(place + ": the key has an empty part");
  parsed.get("value")->visit([&](auto& node) { table->insert_or_assign(last, std::move(node)); });
  source.overrides[key] = place;
}

// ---- rules between keys ----

void check_together(const Config& c, const Source& source, const std::set<std::string>& given) {
  const auto has = [&given](const char* key) { return given.count(key) > 0; };
  const auto fail = [&source](const std::string& key, const std::string& rest) {
    throw ConfigError(source.place(key, nullptr) + ": " + key + " " + rest);
  };

  if (c.data.file.empty()) fail("data.file", "must be given: the HDF5 file with the patterns");
  if (c.data.raster_shape && !c.data.raster_step) {
    fail("data.raster.step", "must be given with data.raster.shape");
  }
  if (c.data.raster_step && has("data.positions") && !c.data.positions.empty()) {
    fail("data.positions", "must not be given together with data.raster, got both");
  }
  if (!c.data.raster_step && c.data.positions.empty()) {
    fail("data.positions", "must name a dataset where there is no data.raster.step, got \"\"");
  }
  if (!c.data.raster_step && c.data.positions == c.data.patterns) {
    fail("data.positions",
         "must name another dataset than data.patterns, got \"" + c.data.positions + "\" for both");
  }
  if (c.data.affine && c.data.rotation_deg != 0.0) {
    fail("data.affine", "must not be given together with data.rotation_deg, got both");
  }

  std::vector<std::string> samplings;
  for (const char* key : {"detector.pixel_mrad", "detector.pixel_per_nm",
                          "detector.object_pixel_nm", "detector.pixel_size_um"}) {
    if (has(key)) samplings.emplace_back(key);
  }
  if (samplings.size() > 1) {
    fail(samplings[1], "must not be given together with " + samplings[0] +
                           ": exactly one key gives the sampling");
  }
  const bool near = c.detector.geometry == "near";
  if (near) {
    if (has("data.zero_frequency")) {
      fail("data.zero_frequency",
           "must not be given in the near field (detector.geometry = \"near\"), got \"" +
               c.data.zero_frequency + "\"");
    }
    if (c.detector.center) {
      fail("detector.center",
           "must not be given in the near field (detector.geometry = \"near\"), got " +
               PairCodec<NumberCodec>::write(*c.detector.center));
    }
    if (!c.detector.distance_m) {
      fail("detector.distance_m", "must be given in the near field (detector.geometry = \"near\")");
    }
    if (!c.detector.pixel_size_um && !c.detector.object_pixel_nm) {
      fail("detector.pixel_size_um",
           "or detector.object_pixel_nm must be given in the near field "
           "(detector.geometry = \"near\")");
    }
    if (!c.beam.energy_keV) {
      fail("beam.energy_keV", "must be given in the near field (detector.geometry = \"near\")");
    }
  } else {
    if (c.detector.pixel_size_um && !c.detector.distance_m) {
      fail("detector.distance_m", "must be given with detector.pixel_size_um");
    }
    if (c.detector.pixel_size_um && !c.beam.energy_keV) {
      fail("beam.energy_keV", "must be given with detector.pixel_size_um");
    }
    if (c.detector.pixel_mrad && !c.beam.energy_keV) {
      fail("beam.energy_keV", "must be given with detector.pixel_mrad");
    }
  }

  if (!c.probe.file.empty() && c.probe.semiangle_mrad) {
    fail("probe.semiangle_mrad",
         "must not be given together with probe.file: the probe comes from "
         "a file or is computed");
  }
  if (c.probe.file.empty() && !c.probe.semiangle_mrad) {
    fail("probe.file", "or probe.semiangle_mrad must be given: a probe to start from");
  }
  if (!c.probe.file.empty()) {
    for (const std::string& key : given) {
      if (key == "probe.defocus_nm" ? c.probe.defocus_nm != 0.0
                                    : key.starts_with("probe.aberrations.")) {
        fail(key, "must not be given together with probe.file: it shapes a computed probe");
      }
    }
  }
  if (c.object.slices > 1 && !(c.object.thickness_nm > 0.0)) {
    fail("object.thickness_nm", "must be greater than 0 where object.slices is " +
                                    std::to_string(c.object.slices) + ", got " +
                                    write_number(c.object.thickness_nm));
  }
  const OptimizerKind& optimizer = optimizer_kind(c.reconstruct.optimizer);
  const ExchangeKind& exchange = exchange_kind(c.tiles.exchange);
  if (optimizer.one_batch && c.reconstruct.batches.value_or(1) != 1) {
    fail("reconstruct.batches", "must be 1 with reconstruct.optimizer = \"" +
                                    c.reconstruct.optimizer + "\", got " +
                                    std::to_string(*c.reconstruct.batches));
  }
  if (c.tiles.exchange_every > 1 && !exchange.sums_later && !exchange.copies_voxels) {
    fail("tiles.exchange_every", "must be 1 with tiles.exchange = \"" + c.tiles.exchange +
                                     "\", got " + std::to_string(c.tiles.exchange_every));
  }
  if (c.tiles.exchange_every > 1 && exchange.sums_later && optimizer.every_batch) {
    fail("tiles.exchange_every",
         "must be 1 with tiles.exchange = \"" + c.tiles.exchange +
             "\" and an optimiser that remembers every batch (reconstruct.optimizer = \"" +
             c.reconstruct.optimizer + "\"), got " + std::to_string(c.tiles.exchange_every));
  }
  for (std::size_t k = 0; k < c.priors.size(); ++k) {
    const Config::Prior& prior = c.priors[k];
    const std::string table = "prior[" + std::to_string(k) + "].";
    if (prior.file.empty()) fail(table + "file", "must be given: a model with its card");
    if (prior.kind == "plug-and-play" && prior.strength > 1.0) {
      fail(table + "strength",
           "must be at most 1 for kind = \"plug-and-play\", got " + write_number(prior.strength));
    }
    if (prior.on == "probe" && prior.kind != "plug-and-play") {
      fail(table + "kind",
           "must be \"plug-and-play\" for on = \"probe\", got \"" + prior.kind + "\"");
    }
    if (!c.reconstruct.refines(prior.on == "probe" ? "probe" : "object")) {
      fail(table + "on", "must be what reconstruct.refine names, got \"" + prior.on + "\"");
    }
    if (prior.kind == "red" && optimizer.one_batch) {
      fail(
          table + "kind",
          "must not be \"red\" with reconstruct.optimizer = \"lbfgs\": a residual has no energy to "
          "search a line for");
    }
    if (prior.noise && prior.kind == "gradient") {
      fail(table + "noise", "must not be given for kind = \"gradient\": a regulariser takes none");
    }
  }
  const auto check_end = [&](const std::string& table, std::int64_t start,
                             const std::optional<std::int64_t>& end) {
    if (!end || *end > start) return;
    fail(table + "end", "must be greater than " + table + "start = " + std::to_string(start) +
                            ", got " + std::to_string(*end));
  };
  for (const auto& [name, refine] : c.refine) {
    check_end("refine." + name + ".", refine.start, refine.end);
    if (optimizer.one_batch && refine.step != 1.0) {
      fail("refine." + name + ".step",
           "must be 1 with reconstruct.optimizer = \"" + c.reconstruct.optimizer +
               "\", which finds its steps along a line, got " + write_number(refine.step));
    }
  }
  const bool later = c.tiles.exchange_every > 1 && exchange.sums_later;
  for (std::size_t k = 0; k < c.priors.size(); ++k) {
    const std::string table = "prior[" + std::to_string(k) + "].";
    check_end(table, c.priors[k].start, c.priors[k].end);
    if (later && c.priors[k].kind != "plug-and-play") {
      fail(table + "kind", "must be \"plug-and-play\" with tiles.exchange_every > 1, got \"" +
                               c.priors[k].kind + "\": halos would be pulled more than once");
    }
  }
  if (!c.regularisers.empty() && later) {
    fail("tiles.exchange_every", "must be 1 with a [[regulariser]], got " +
                                     std::to_string(c.tiles.exchange_every) +
                                     ": halos would be pulled more than once");
  }
  if (!c.constraints.empty() && exchange.copies_voxels && c.tiles.voxels == "mean") {
    fail("tiles.voxels", "must be \"copy\" with a [[constraint]], got \"mean\"");
  }
  for (const auto& [name, list] :
       {std::pair("constraint", &c.constraints), std::pair("regulariser", &c.regularisers)}) {
    for (std::size_t k = 0; k < list->size(); ++k) {
      const std::string table = std::string(name) + "[" + std::to_string(k) + "].";
      check_end(table, (*list)[k].start, (*list)[k].end);
      if ((*list)[k].kind.empty()) fail(table + "kind", "must be given");
      if (!c.reconstruct.refines((*list)[k].on)) {
        fail(table + "on", "must be what reconstruct.refine names, got \"" + (*list)[k].on + "\"");
      }
    }
  }
  if (exchange.copies_voxels && optimizer.one_batch) {
    fail("tiles.exchange",
         "must not be \"voxels\" with reconstruct.optimizer = \"lbfgs\": its tiles have no common "
         "loss to search a line for");
  }
}

std::string absolute_path(const std::string& path, const fs::path& folder) {
  if (path.empty()) return path;
  return (folder / path).lexically_normal().string();
}

// FILE:DATASET with its file made absolute; the name of a dataset alone stays.
std::string absolute_dataset(const std::string& name, const fs::path& folder) {
  const DatasetName parts = split_dataset_name(name, folder.string());
  return parts.file.empty() ? name : absolute_path(parts.file, folder) + ":" + parts.dataset;
}

// A file as seen from a folder; absolute where they have only the root in common: then they are
// hardly moved together.
std::string path_from(const std::string& file, const fs::path& folder) {
  const fs::path path = file;
  if (!path.is_absolute()) return file;  // not set
  const auto first = [](const fs::path& absolute) { return *std::next(absolute.begin()); };
  if (path == path.root_path() || folder == folder.root_path() || first(path) != first(folder)) {
    return file;
  }
  return path.lexically_relative(folder).string();
}

// Every key that says where data lies, once: file(key, field) or dataset(key, field).
template <typename File, typename Dataset>
void visit_places(Config& c, const File& file, const Dataset& dataset) {
  file("data.file", c.data.file);
  dataset("data.patterns", c.data.patterns);
  dataset("data.positions", c.data.positions);
  dataset("data.mask", c.data.mask);
  dataset("detector.dark", c.detector.dark_dataset);
  file("probe.file", c.probe.file);
  dataset("probe.dataset", c.probe.dataset);
  for (std::size_t k = 0; k < c.priors.size(); ++k) {
    file("prior[" + std::to_string(k) + "].file", c.priors[k].file);
  }
}

// All that, and what else names files: file(path) or dataset(name) in its place.
template <typename File, typename Dataset>
void change_places(Config& c, const File& file, const Dataset& dataset) {
  visit_places(
      c, [&](const std::string&, std::string& name) { name = file(name); },
      [&](const std::string&, std::string& name) { name = dataset(name); });
  for (Config::Frames* frames : {&c.data.select, &c.data.skip}) {
    if (!frame_slice(frames->text)) frames->text = dataset(frames->text);
  }
}

// ---- writing and describing ----

struct Writer {
  std::string text, table;
  bool near = false;

  template <typename Codec>
  void key(const std::string& name, const typename Codec::Value& field,
           const Rule<typename Codec::Value>&, const std::string&) {
    if (table_of(name) != table) {
      table = table_of(name);
      text += (text.empty() ? "" : "\n") + header_of(table) + "\n";
    }
    // An empty text is a field that was not set; it stays visible as a comment.
    std::string value = Codec::write(field);
    if (name == "data.zero_frequency" && near) value.clear();
    const bool aberration = name.starts_with("probe.aberrations.");
    if (value.empty() && aberration) return;
    text += value.empty() ? "# " + within_table(name) + " is not set\n"
                          : within_table(name) + " = " + value + "\n";
  }
};

struct Describer {
  std::vector<KeyDescription> rows;

  template <typename Codec>
  void key(const std::string& name, const typename Codec::Value& field,
           const Rule<typename Codec::Value>& rule, const std::string& meaning) {
    std::string shown = Codec::write(field);
    if (shown == "\"\"") shown.clear();
    rows.push_back({name, Codec::type(), shown, rule.text, meaning});
  }
};

}  // namespace

DatasetName split_dataset_name(const std::string& name, const std::string& folder) {
  const auto parts = [&name](std::size_t colon) {
    return DatasetName{name.substr(0, colon), name.substr(colon + 1)};
  };
  std::optional<std::size_t> looks_like_one;
  for (std::size_t colon = name.rfind(':'); colon != std::string::npos && colon > 0;
       colon = name.rfind(':', colon - 1)) {
    const fs::path file = name.substr(0, colon);
    std::error_code error;
    if (fs::is_regular_file(fs::path(folder) / file, error)) return parts(colon);
    static const std::set<std::string> kEnds = {".h5",  ".hdf5", ".hdf", ".he5",  ".nxs",
                                                ".cxi", ".mat",  ".emd", ".ptyr", ".ptyd"};
    if (!looks_like_one && kEnds.count(file.extension().string()) > 0) looks_like_one = colon;
  }
  return looks_like_one ? parts(*looks_like_one) : DatasetName{"", name};
}

bool names_a_place(const std::string& key) {
  Config config;
  config.priors.resize(1);
  bool found = key.starts_with("prior[") && key.ends_with("].file");
  const auto compare = [&](const std::string& place, const std::string&) {
    found = found || key == place;
  };
  visit_places(config, compare, compare);
  return found;
}

const std::vector<std::string>& unknown_names() {
  static const std::vector<std::string> names{"object", "probe"};
  return names;
}

bool Config::Reconstruct::refines(const std::string& what) const {
  return std::find(refine.begin(), refine.end(), what) != refine.end();
}

bool Config::refines(const std::string& unknown, std::int64_t iteration) const {
  const auto found = refine.find(unknown);
  return reconstruct.refines(unknown) && (found == refine.end() || found->second.due(iteration));
}

Config parse_config(const std::string& text, const std::string& path,
                    const std::vector<std::string>& overrides) {
  Source source;
  source.path = path;
  toml::table root;
  try {
    root = toml::parse(text, path);
  } catch (const toml::parse_error& error) {
    std::ostringstream message;
    message << path << ":" << error.source().begin.line
            << ": not valid TOML: " << error.description();
    throw ConfigError(message.str());
  } catch (const MalformedToml&) {
    throw ConfigError(path +
                      ": not valid TOML: a key or a value has a character that cannot be in one");
  }
  for (const std::string& override_text : overrides) apply_override(root, override_text, source);

  Config config;
  config.path = path;
  Parser parser{root, source, {}, {}};
  const auto count = [&](const char* name) {
    const toml::array* tables = root[name].as_array();
    return tables == nullptr ? 0 : tables->size();
  };
  config.priors.resize(count("prior"));
  config.constraints.resize(count("constraint"));
  config.regularisers.resize(count("regulariser"));
  visit_keys(config, parser);
  parser.refuse_unknown(root, "");
  if (config.detector.geometry == "near" && parser.given.count("data.zero_frequency") == 0) {
    config.data.zero_frequency = "corner";  // window order: nothing is moved
  }
  check_together(config, source, parser.given);
  if (config.data.raster_step) config.data.positions.clear();

  const fs::path file = fs::absolute(path).lexically_normal();
  const fs::path folder = file.parent_path();
  config.path = file.string();
  change_places(
      config, [&](const std::string& name) { return absolute_path(name, folder); },
      [&](const std::string& name) { return absolute_dataset(name, folder); });
  if (config.output.folder.empty()) config.output.folder = file.stem().string();
  config.output.folder = absolute_path(config.output.folder, folder);
  if (config.output.folder.size() > 1 && config.output.folder.back() == '/') {
    config.output.folder.pop_back();  // of "."
  }
  return config;
}

Config load_config(const std::string& path, const std::vector<std::string>& overrides) {
  std::error_code status;
  if (!fs::exists(path, status)) throw ConfigError(path + ": there is no such config file");
  if (fs::is_directory(path, status)) throw ConfigError(path + ": is a folder, not a config file");
  // A pipe that nobody writes to would be waited for without end.
  if (!fs::is_regular_file(path, status)) {
    throw ConfigError(path + ": must be a regular file, got a pipe or a device");
  }
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  if (in) text << in.rdbuf();
  if (!in) throw ConfigError(path + ": the config file cannot be read");
  return parse_config(text.str(), path, overrides);
}

std::vector<std::pair<std::string, std::string>> lines_of_toml(const std::string& toml) {
  std::vector<std::pair<std::string, std::string>> lines;
  std::istringstream in(toml);
  std::string table;
  std::map<std::string, int> count;  // of tables of one name
  for (std::string line; std::getline(in, line);) {
    const std::size_t begin = line.find_first_not_of(' ');
    if (begin == std::string::npos || line[begin] == '#') continue;
    if (line.starts_with("[[")) {
      const std::string name = line.substr(2, line.find(']') - 2);
      table = name;
      table += '[';
      table += std::to_string(count[name]++);
      table += ']';
      continue;
    }
    if (line.front() == '[') {
      table = line.substr(1, line.find(']') - 1);
      continue;
    }
    const std::size_t equals = line.find('=');
    if (equals == std::string::npos) continue;
    std::string key = line.substr(0, line.find_last_not_of(' ', equals - 1) + 1);
    lines.emplace_back(table.empty() ? key : table + "." + key, line.substr(equals + 1));
  }
  return lines;
}

std::string to_toml(const Config& config, const std::string& folder) {
  Config copy = config;
  if (!folder.empty()) {
    change_places(
        copy, [&](const std::string& name) { return path_from(name, folder); },
        [&](const std::string& name) {
          const DatasetName parts = split_dataset_name(name);
          return parts.file.empty() ? name : path_from(parts.file, folder) + ":" + parts.dataset;
        });
    copy.output.folder = path_from(copy.output.folder, folder);
  }
  Writer writer;
  writer.near = config.detector.geometry == "near";
  visit_keys(copy, writer);
  return writer.text;
}

std::vector<KeyDescription> describe_keys() {
  Config defaults;
  defaults.priors.resize(1);
  defaults.constraints.resize(1);
  defaults.regularisers.resize(1);
  Describer describer;
  visit_keys(defaults, describer);
  return describer.rows;
}

void print_config_help(std::ostream& out) {
  std::string table;
  bool aberrations = false;
  for (const KeyDescription& row : describe_keys()) {
    std::string name = within_table(row.key);
    if (table_of(row.key) != table) {
      table = table_of(row.key);
      out << "\n" << header_of(table) << "\n";
    }
    if (name.starts_with("aberrations.")) {
      if (std::exchange(aberrations, true)) continue;
      name = "aberrations";
      out << "  " << name << " = { C12_nm = ..., phi12_deg = ..., C30_nm = ... }\n      "
          << row.meaning << "; up to C56_nm, phi56_deg\n";
      continue;
    }
    out << "  " << name;
    if (!row.default_value.empty()) out << " = " << row.default_value;
    out << "\n      " << row.meaning << "\n      (" << row.type;
    if (!row.rule.empty()) out << "; must " << row.rule;
    out << ")\n";
  }
}

std::optional<FrameSlice> frame_slice(const std::string& text) {
  static const std::regex kSlice(R"(\s*([+-]?\d{1,18})?\s*(:\s*([+-]?\d{1,18})?\s*)+)");
  if (!std::regex_match(text, kSlice)) return std::nullopt;
  std::vector<std::optional<std::int64_t>> parts;
  std::istringstream in(text + ":");
  for (std::string part; std::getline(in, part, ':');) {
    const bool empty = part.find_first_of("0123456789") == std::string::npos;
    parts.push_back(empty ? std::nullopt : std::optional<std::int64_t>(std::stoll(part)));
  }
  if (parts.size() > 3) return std::nullopt;
  FrameSlice slice;
  slice.first = parts[0].value_or(0);
  slice.end = parts[1];
  if (parts.size() > 2) slice.step = parts[2].value_or(1);
  return slice;
}

void throw_config_error(const Config& config, const std::string& key, const std::string& rule,
                        const std::string& value) {
  throw ConfigError(config.path + ": " + key + " must " + rule +
                    (value.empty() ? std::string() : ", got " + value));
}

}  // namespace ptyle::driver
