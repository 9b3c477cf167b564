#include "driver/io/problem.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <numeric>
#include <sstream>
#include <type_traits>
#include <utility>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/conj_physical.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include "csrc/interpolation.h"
#include "driver/errors.h"
#include "driver/io/frames.h"
#include "driver/io/guesses.h"
#include "driver/io/hdf5.h"
#include "driver/io/patterns.h"
#include "driver/io/pixels.h"
#include "driver/io/prefetch.h"
#include "driver/log.h"
#include "driver/memory.h"
#include "driver/optics/optics.h"
#include "driver/optics/resample.h"
#include "driver/tiles/decomposition.h"
#include "driver/words.h"

// Of the library that torch brings; a thread's own number.
extern "C" void omp_set_num_threads(int threads) __attribute__((weak));

namespace ptyle::driver {
namespace {

using hdf5::File;

constexpr double kPi = 3.14159265358979323846;
// Patterns are read in blocks of about this size: whole chunks, and never two copies of all.
constexpr std::int64_t kBlockBytes = std::int64_t{32} << 20;
// An object wider than this is a mistake in a unit.
constexpr double kLargestSide = 1e6;

std::string shape_words(const std::vector<std::int64_t>& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    text += (i ? ", " : "") + std::to_string(shape[i]);
  }
  return text + "]";
}

std::string number_words(double value) {
  std::ostringstream out;
  out.precision(value == std::floor(value) ? 17 : 10);
  out << value;
  return out.str();
}

// ---- files and datasets that keys name ----

struct Located {
  File file;
  std::string name;
  // "star.h5: data.mask \"bad\"": how messages begin.
  std::string where(const std::string& key) const {
    return file.path() + ": " + key + " \"" + name + "\"";
  }
};

File open_named(const Config& config, const std::string& key, const std::string& path) {
  std::error_code status;
  if (!std::filesystem::is_regular_file(path, status)) {
    throw_config_error(config, key, "name an existing file", "\"" + path + "\"");
  }
  return File::open(path);
}

// A dataset of the data file, or FILE:DATASET.
Located locate(const Config& config, const std::string& key, const std::string& value,
               const std::string& file_key, const std::string& default_file) {
  const DatasetName parts = split_dataset_name(value);
  const bool elsewhere = !parts.file.empty();
  const std::string path = elsewhere ? parts.file : default_file;
  const std::string& name = parts.dataset;
  Located located{open_named(config, elsewhere ? key : file_key, path), name};
  if (!located.file.is_dataset(name)) {
    const std::string why = located.file.trouble(name);
    if (!why.empty() && !located.file.is_group(name)) {
      throw DataError(located.where(key) + " cannot be opened: " + why);
    }
    throw_config_error(config, key,
                       "name a dataset of " + path + " (it has " + located.file.contents() + ")",
                       "\"" + name + "\"" + (why.empty() ? "" : ": " + why));
  }
  return located;
}

Located locate_in_data(const Config& config, const std::string& key, const std::string& value) {
  return locate(config, key, value, "data.file", config.data.file);
}

// The first value that is not finite, as its index in words; empty where all are.
std::string first_not_finite(const at::Tensor& values) {
  const at::Tensor real = values.is_complex() ? at::Tensor(values.abs()) : values;
  const at::Tensor bad = real.isfinite().logical_not().flatten();
  if (!bad.any().item<bool>()) return "";
  std::int64_t flat = bad.to(at::kByte).argmax().item<std::int64_t>();
  std::vector<std::int64_t> index(static_cast<std::size_t>(values.dim()));
  for (std::size_t axis = index.size(); axis-- > 0;) {
    const std::int64_t size = values.size(static_cast<std::int64_t>(axis));
    index[axis] = flat % size;
    flat /= size;
  }
  return shape_words(index);
}

// ---- from the stored pattern to the window ----

// What of the stored pattern the window takes; known before anything large is made.
struct Layout {
  IntegerPair stored = {0, 0}, oriented = {0, 0};
  IntegerPair start = {0, 0}, size = {0, 0};            // of the oriented pattern, unbinned
  IntegerPair used_start = {0, 0}, used_size = {0, 0};  // what is measured
  IntegerPair window = {0, 0};
  std::int64_t per_pixel = 1;                                 // stored pixels summed into one
  bool corner = false;                                        // far field, data.zero_frequency
  NumberPair zero_at = {0.0, 0.0}, zero_offset = {0.0, 0.0};  // as in Problem
  std::int64_t pixels() const { return window[0] * window[1]; }
};

// Which stored pixels make up each pixel of the window: orientation, crop, binning, padding and the
// move of the zero frequency in one table, the same for patterns, masks and dark images.
struct PixelMap : Layout {
  std::vector<std::int64_t> source;  // [h, w, per_pixel]; -1: not measured
};

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
                         "lie inside the pattern of " + shape_words({oriented[0], oriented[1]}),
                         "[" + number_words(zero_at[0]) + ", " + number_words(zero_at[1]) + "]");
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
                         "lie inside the pattern of " + shape_words({oriented[0], oriented[1]}),
                         shape_words(detector.crop));
    }
    if (size[axis] % detector.bin[axis] != 0) {
      throw_config_error(config, "detector.bin",
                         "divide the cropped pattern of " + shape_words({size[0], size[1]}),
                         shape_words({detector.bin[0], detector.bin[1]}));
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

// ---- reading in blocks ----

// A stack of patterns [n, H, W] or [scan_rows, scan_columns, H, W], read along its first axis.
struct Stack {
  Located at;
  hdf5::DatasetInfo info;
  std::int64_t patterns = 0;
  std::int64_t per_row = 1;  // patterns in one step of the first axis
  IntegerPair frame = {0, 0};

  std::int64_t rows() const { return info.shape[0]; }
  std::int64_t block_rows() const {
    const auto element = static_cast<std::int64_t>(c10::elementSize(info.type));
    const std::int64_t row_bytes =
        std::max<std::int64_t>(1, per_row * frame[0] * frame[1] * element);
    std::int64_t count = std::max<std::int64_t>(1, kBlockBytes / row_bytes);
    // Whole chunks, so that none is decompressed twice.
    const std::int64_t chunk = info.chunk.empty() ? 1 : std::max<std::int64_t>(1, info.chunk[0]);
    return (count + chunk - 1) / chunk * chunk;
  }
};

// A part of the first axis, and of the second where that is the scan's too.
struct Box {
  std::int64_t row = 0, rows = 0, column = 0, columns = 1;
};

// Boxes that hold all of the patterns `held` (ascending): of whole chunks along the first axis, so
// that none is decompressed twice, of about kBlockBytes, and no wider than needed.
std::vector<Box> boxes_of(const Stack& stack, const std::vector<std::int64_t>& held) {
  const std::int64_t chunk =
      stack.info.chunk.empty() ? 1 : std::max<std::int64_t>(1, stack.info.chunk[0]);
  const std::int64_t most = stack.block_rows();
  std::vector<Box> boxes;
  for (const std::int64_t pattern : held) {
    const std::int64_t row = pattern / stack.per_row, column = pattern % stack.per_row;
    Box* last = boxes.empty() ? nullptr : &boxes.back();
    const bool follows = last != nullptr &&
                         row / chunk <= (last->row + last->rows - 1) / chunk + 1 &&
                         (row < last->row + last->rows || row + 1 - last->row <= most ||
                          row / chunk == (last->row + last->rows - 1) / chunk);
    if (!follows) {
      boxes.push_back({row, 1, column, 1});
      continue;
    }
    last->rows = row + 1 - last->row;
    const std::int64_t end = std::max(last->column + last->columns, column + 1);
    last->column = std::min(last->column, column);
    last->columns = end - last->column;
  }
  return boxes;
}

at::Tensor read_box(const Stack& stack, const Box& box) {
  std::vector<std::int64_t> start(stack.info.shape.size(), 0), count = stack.info.shape;
  start[0] = box.row;
  count[0] = box.rows;
  if (stack.info.shape.size() == 4) {
    start[1] = box.column;
    count[1] = box.columns;
  }
  return stack.at.file.read_area(stack.at.name, start, count);
}

// work(place in the box, place in `held`) for every pattern of the box; `next` walks through
// `held`.
template <typename Work>
void for_each_in(const Stack& stack, const Box& box, const std::vector<std::int64_t>& held,
                 std::size_t& next, const Work& work) {
  const std::int64_t end = (box.row + box.rows) * stack.per_row;
  for (; next < held.size() && held[next] < end; ++next) {
    const std::int64_t row = held[next] / stack.per_row - box.row;
    const std::int64_t column = held[next] % stack.per_row - box.column;
    work(row * box.columns + column, static_cast<std::int64_t>(next));
  }
}

Stack open_stack(Located located, const std::string& key) {
  Stack stack{std::move(located), {}, 0, 1, {0, 0}};
  stack.info = stack.at.file.info(stack.at.name);
  const std::vector<std::int64_t>& shape = stack.info.shape;
  if (shape.size() != 3 && shape.size() != 4) {
    throw DataError(stack.at.where(key) +
                    " must have the shape [positions, rows, columns] or [scan_rows, scan_columns, "
                    "rows, columns], got " +
                    shape_words(shape));
  }
  if (c10::isComplexType(stack.info.type)) {
    throw DataError(stack.at.where(key) + " must hold integers or real numbers, got " +
                    stack.info.stored_type);
  }
  for (const std::int64_t size : shape) {
    if (size == 0) {
      throw DataError(stack.at.where(key) + " must not be empty, got the shape " +
                      shape_words(shape));
    }
  }
  stack.per_row = shape.size() == 4 ? shape[1] : 1;
  stack.patterns = shape[0] * stack.per_row;
  stack.frame = {shape[shape.size() - 2], shape[shape.size() - 1]};
  return stack;
}

// Of each frame, whether all of its values are on the disk.
hdf5::Gaps gaps_of(const Stack& stack) {
  return stack.at.file.gaps(stack.at.name, static_cast<int>(stack.info.shape.size()) - 2);
}

// Frames by what they lack, in words: "3 frames (1, 2, 3) are not stored: ...".
std::string gap_words(const hdf5::Gaps& gaps, const std::vector<std::int64_t>& frames) {
  std::string text;
  for (std::size_t reason = 0; reason < gaps.reasons.size(); ++reason) {
    std::vector<std::int64_t> these;
    for (const std::int64_t frame : frames) {
      const std::int32_t number = gaps.reason_of[static_cast<std::size_t>(frame)];
      if (number == static_cast<std::int32_t>(reason)) these.push_back(frame);
    }
    if (these.empty()) continue;
    text += (text.empty() ? "" : "; ") + frame_words(these) +
            (these.size() == 1 ? " is not stored: " : " are not stored: ") + gaps.reasons[reason];
  }
  return text;
}

void refuse_gaps(const Stack& stack, const std::string& key) {
  const hdf5::Gaps gaps = gaps_of(stack);
  if (!gaps.any()) return;
  std::vector<std::int64_t> frames(gaps.reason_of.size());
  std::iota(frames.begin(), frames.end(), 0);
  throw DataError(stack.at.where(key) + " has frames without values: " + gap_words(gaps, frames));
}

template <typename Function>
void with_type(at::ScalarType type, const Function& function) {
  switch (type) {
    case at::kByte:
      return function(std::uint8_t{});
    case at::kChar:
      return function(std::int8_t{});
    case at::kShort:
      return function(std::int16_t{});
    case at::kUInt16:
      return function(std::uint16_t{});
    case at::kInt:
      return function(std::int32_t{});
    case at::kUInt32:
      return function(std::uint32_t{});
    case at::kLong:
      return function(std::int64_t{});
    case at::kUInt64:
      return function(std::uint64_t{});
    case at::kFloat:
      return function(float{});
    case at::kDouble:
      return function(double{});
    default:
      throw DataError(std::string("a dataset must hold real numbers, got ") + c10::toString(type));
  }
}

// ---- masks ----

// The mask of the config in window layout: [h, w], or [held, h, w] where it differs by pattern.
// Bytes, 1 = bad. Unmeasured pixels are bad.
struct Mask {
  std::vector<std::uint8_t> common;  // [h, w]
  at::Tensor each;                   // [held, h, w] bool; undefined where `common` says it all
};

template <typename T>
void map_mask(const T* stored, const PixelMap& map, std::uint8_t* out) {
  const std::int64_t* source = map.source.data();
  for (std::int64_t pixel = 0; pixel < map.pixels(); ++pixel) {
    std::uint8_t bad = 0;
    for (std::int64_t k = 0; k < map.per_pixel; ++k, ++source) {
      // NaN counts as nonzero.
      bad |= static_cast<std::uint8_t>(*source < 0 || !(stored[*source] == T(0)));
    }
    out[pixel] = bad;
  }
}

Mask load_mask(const Config& config, const PixelMap& map, const Stack& patterns_of,
               const std::optional<at::Tensor>& unmeasured, const std::vector<std::int64_t>& held) {
  const std::int64_t patterns = patterns_of.patterns;
  Mask mask;
  mask.common.assign(static_cast<std::size_t>(map.pixels()), 0);
  for (std::int64_t pixel = 0; pixel < map.pixels(); ++pixel) {
    mask.common[static_cast<std::size_t>(pixel)] =
        map.source[static_cast<std::size_t>(pixel * map.per_pixel)] < 0 ? 1 : 0;
  }
  const auto add_unmeasured = [&] {
    if (!unmeasured) return;
    const auto* marked = static_cast<const std::uint8_t*>(unmeasured->const_data_ptr());
    for (std::size_t k = 0; k < mask.common.size(); ++k) mask.common[k] |= marked[k];
  };
  if (config.data.mask.empty()) {
    add_unmeasured();
    return mask;
  }

  Located located = locate_in_data(config, "data.mask", config.data.mask);
  const hdf5::DatasetInfo info = located.file.info(located.name);
  if (c10::isComplexType(info.type)) {
    throw DataError(located.where("data.mask") + " must hold real numbers, nonzero = bad, got " +
                    info.stored_type);
  }
  const auto wrong_shape = [&]() {
    throw DataError(located.where("data.mask") + " must have the shape " +
                    shape_words({map.stored[0], map.stored[1]}) + " or [" +
                    std::to_string(patterns) + ", " + std::to_string(map.stored[0]) + ", " +
                    std::to_string(map.stored[1]) + "], as the patterns have, got " +
                    shape_words(info.shape));
  };
  if (info.shape.size() == 2) {
    if (info.shape[0] != map.stored[0] || info.shape[1] != map.stored[1]) wrong_shape();
    const at::Tensor stored = located.file.read(located.name);
    with_type(info.type, [&](auto tag) {
      map_mask(static_cast<const decltype(tag)*>(stored.data_ptr()), map, mask.common.data());
    });
    add_unmeasured();
    return mask;
  }
  add_unmeasured();
  const Stack stack = open_stack(std::move(located), "data.mask");
  const bool scans = stack.info.shape.size() == 4 && patterns_of.info.shape.size() == 4;
  if (stack.patterns != patterns || stack.frame != map.stored ||
      (scans && stack.per_row != patterns_of.per_row)) {
    throw DataError(stack.at.where("data.mask") + " must have the shape of the patterns, " +
                    std::to_string(patterns) + " of " +
                    shape_words({map.stored[0], map.stored[1]}) + ", got " +
                    shape_words(stack.info.shape));
  }
  // A mask in which only bad pixels were ever written is a mask; one whose source is gone is none.
  const hdf5::Gaps gaps = gaps_of(stack);
  if (std::find(gaps.never_written.begin(), gaps.never_written.end(), false) !=
      gaps.never_written.end()) {
    refuse_gaps(stack, "data.mask");
  }
  mask.each =
      at::empty({static_cast<std::int64_t>(held.size()), map.window[0], map.window[1]}, at::kBool);
  auto* out = static_cast<std::uint8_t*>(mask.each.data_ptr());
  std::size_t next = 0;
  for (const Box& box : boxes_of(stack, held)) {
    const at::Tensor block = read_box(stack, box);
    with_type(stack.info.type, [&](auto tag) {
      const auto* stored = static_cast<const decltype(tag)*>(block.data_ptr());
      for_each_in(stack, box, held, next, [&](std::int64_t in_box, std::int64_t k) {
        map_mask(stored + in_box * map.stored[0] * map.stored[1], map, out + k * map.pixels());
      });
    });
  }
  return mask;
}

// ---- patterns ----

enum class Fault : std::uint8_t { kNone, kNotFinite, kTooLarge, kNotExact };

// Whether so many patterns are read again in every iteration, instead of being kept in memory.
bool streams_patterns(const Config& config, std::int64_t patterns, std::int64_t pixels) {
  const double bytes = static_cast<double>(patterns) * static_cast<double>(pixels) * 4.0;
  return config.data.stream.value_or(bytes > static_cast<double>(available_bytes()) / 2);
}

// As it is stored, and as it was meant.
std::string marker_words(double value, bool in_float) {
  constexpr double k32 = 4294967295.0;
  return number_words(value) +
         (in_float && value == k32 + 1.0 ? " (4294967295 as a 32-bit float)" : "");
}
template <typename T>
bool is_not_finite(T value) {
  if constexpr (std::is_floating_point_v<T>) {
    return !std::isfinite(value);
  } else {
    return false;
  }
}

// What one pattern's pixels gave, added up in the order of positions: the same for any threads.
struct PatternStatistics {
  double sum = 0.0;
  double largest = -std::numeric_limits<double>::infinity();
  std::int64_t negative = 0, sentinel = 0, saturated = 0, masked = 0, at_largest = 0;
  Fault fault = Fault::kNone;
  std::int64_t fault_index = 0;  // stored pixel
  double fault_value = 0.0;
  std::int64_t markers = 0;  // values as detectors mark unmeasured pixels with, taken for counts
  double marker = 0.0;       // the largest of them
  // Blocks of the pattern in which there is a count, or a masked pixel.
  std::array<bool, static_cast<std::size_t>(kBlocks* kBlocks)> lit{};
};

struct Conversion {
  const PixelMap* map = nullptr;
  const std::uint8_t* blocks = nullptr;  // [h, w]
  const double* dark = nullptr;          // [H, W] stored, or null for dark_value
  double dark_value = 0.0;
  double gain = 1.0;
  double saturation = std::numeric_limits<double>::infinity();
  bool calibrated = false;
};

// One pattern. `fixed_mask` [h, w]; `own_mask` [h, w] or null: where pixels of this pattern alone
// are marked. Returns whether there were any.
template <typename Stored, typename Out>
bool convert_pattern(const Stored* stored, const Conversion& conversion,
                     const std::uint8_t* fixed_mask, std::uint8_t* own_mask, Out* out,
                     PatternStatistics& statistics) {
  const PixelMap& map = *conversion.map;
  const std::int64_t* source = map.source.data();
  bool marked = false;
  statistics = {};
  const auto fault = [&statistics](Fault kind, std::int64_t index, double value) {
    // The first in the file's order, whatever the order of the window.
    if (statistics.fault != Fault::kNone && statistics.fault_index <= index) return;
    statistics.fault = kind;
    statistics.fault_index = index;
    statistics.fault_value = value;
  };
  for (std::int64_t pixel = 0; pixel < map.pixels(); ++pixel, source += map.per_pixel) {
    out[pixel] = Out(0);
    const bool masked_alone = own_mask != nullptr && own_mask[pixel] != 0;
    if (fixed_mask[pixel] != 0 || masked_alone) {
      if (masked_alone) statistics.lit[conversion.blocks[pixel]] = true;
      ++statistics.masked;
      continue;
    }
    double sum = 0.0;
    bool bad = false;
    for (std::int64_t k = 0; k < map.per_pixel; ++k) {
      const Stored raw = stored[source[k]];
      const double value = static_cast<double>(raw);
      if constexpr (std::is_unsigned_v<Stored>) {
        if (raw == std::numeric_limits<Stored>::max()) {
          ++statistics.sentinel;
          bad = true;
          continue;
        }
      }
      if constexpr (std::is_floating_point_v<Stored>) {
        if (!std::isfinite(raw)) {
          fault(Fault::kNotFinite, source[k], value);
          continue;
        }
      }
      if (value >= conversion.saturation) {
        ++statistics.saturated;
        bad = true;
        continue;
      }
      if (is_large_marker(raw)) {
        ++statistics.markers;
        statistics.marker = std::max(statistics.marker, value);
      }
      sum += conversion.calibrated
                 ? (value - (conversion.dark != nullptr ? conversion.dark[source[k]]
                                                        : conversion.dark_value)) /
                       conversion.gain
                 : value;
    }
    if (bad) {
      marked = true;
      statistics.lit[conversion.blocks[pixel]] = true;
      ++statistics.masked;
      if (own_mask != nullptr) own_mask[pixel] = 1;
      continue;
    }
    if constexpr (std::is_same_v<Out, float>) {
      if (std::abs(sum) > static_cast<double>(std::numeric_limits<float>::max())) {
        fault(Fault::kTooLarge, source[0], sum);
        continue;
      }
      out[pixel] = static_cast<float>(sum);
      // Counts stay exact; fractions are rounded, far below their noise.
      if (!conversion.calibrated && static_cast<double>(out[pixel]) != sum &&
          sum == std::floor(sum)) {
        fault(Fault::kNotExact, source[0], sum);
      }
    } else {
      if (sum < static_cast<double>(std::numeric_limits<Out>::min()) ||
          sum > static_cast<double>(std::numeric_limits<Out>::max())) {
        fault(Fault::kTooLarge, source[0], sum);
        continue;
      }
      out[pixel] = static_cast<Out>(sum);
    }
    if (sum != 0.0) statistics.lit[conversion.blocks[pixel]] = true;
    statistics.sum += sum;
    if (sum > statistics.largest) statistics.at_largest = 0;
    statistics.largest = std::max(statistics.largest, sum);
    if (sum == statistics.largest) ++statistics.at_largest;
    if (sum < 0.0) ++statistics.negative;
  }
  return marked;
}

bool is_calibrated(const Config& config) {
  const Config::Detector& detector = config.detector;
  return !detector.dark_dataset.empty() || detector.dark != 0.0 || detector.gain != 1.0;
}

// The type that patterns are kept in.
at::ScalarType kept_type(at::ScalarType stored, bool calibrated, std::int64_t per_pixel) {
  if (calibrated || stored == at::kFloat || stored == at::kDouble) return at::kFloat;
  if (per_pixel > 1) return stored == at::kByte && per_pixel <= 257 ? at::kUInt16 : at::kInt;
  switch (stored) {
    case at::kByte:
    case at::kShort:
    case at::kUInt16:
    case at::kInt:
      return stored;
    case at::kChar:
      return at::kShort;
    default:
      return at::kInt;
  }
}

template <typename Function>
void with_kept_type(at::ScalarType type, const Function& function) {
  switch (type) {
    case at::kByte:
      return function(std::uint8_t{});
    case at::kShort:
      return function(std::int16_t{});
    case at::kUInt16:
      return function(std::uint16_t{});
    case at::kInt:
      return function(std::int32_t{});
    default:
      return function(float{});
  }
}

[[noreturn]] void throw_fault(const Stack& stack, std::int64_t pattern,
                              const PatternStatistics& statistics, at::ScalarType kept,
                              bool calibrated) {
  std::vector<std::int64_t> index;
  if (stack.info.shape.size() == 4) {
    index = {pattern / stack.per_row, pattern % stack.per_row};
  } else {
    index = {pattern};
  }
  index.push_back(statistics.fault_index / stack.frame[1]);
  index.push_back(statistics.fault_index % stack.frame[1]);
  std::string rule = "be finite";
  if (statistics.fault == Fault::kTooLarge) {
    rule = std::string("fit ") + (kept == at::kFloat ? "a 32-bit float" : "a 32-bit integer");
  } else if (statistics.fault == Fault::kNotExact) {
    rule = "hold counts that a 32-bit float holds exactly (up to 16777216)";
  }
  if (calibrated) rule += " after detector.dark and detector.gain";
  throw DataError(stack.at.where("data.patterns") + " must " + rule + ", got " +
                  number_words(statistics.fault_value) + " at " + shape_words(index));
}

// A checksum one value further (FNV-1a, but of whole values).
std::uint64_t mixed(std::uint64_t sum, std::uint64_t value) {
  sum = (sum ^ value) * 0x100000001B3U;
  return sum ^ (sum >> 32);
}
template <typename T>
std::uint64_t bits_of(T value) {
  if constexpr (std::is_same_v<T, float>) {
    return std::bit_cast<std::uint32_t>(value + 0.0F);  // one zero
  } else {
    return static_cast<std::uint64_t>(value);
  }
}

constexpr std::int64_t kStatistics = 10;  // columns of Problem::statistics

// Patterns of problem.held, mask and statistics. Values that are not finite or do not fit are told
// in `evidence` where `tolerant`, else thrown.
void read_patterns(const Config& config, const Stack& stack, const PixelMap& map, bool tolerant,
                   Problem& problem) {
  const std::vector<std::uint8_t> blocks = blocks_of(map.window);
  Conversion conversion;
  conversion.map = &map;
  conversion.blocks = blocks.data();
  conversion.gain = config.detector.gain;
  conversion.dark_value = config.detector.dark;
  conversion.saturation =
      config.detector.saturation.value_or(std::numeric_limits<double>::infinity());
  at::Tensor dark;
  if (!config.detector.dark_dataset.empty()) {
    const Located at = locate_in_data(config, "detector.dark", config.detector.dark_dataset);
    const hdf5::DatasetInfo info = at.file.info(at.name);
    if (info.shape != std::vector<std::int64_t>{map.stored[0], map.stored[1]} ||
        c10::isComplexType(info.type)) {
      throw DataError(at.where("detector.dark") + " must be real with the shape " +
                      shape_words({map.stored[0], map.stored[1]}) + ", as the patterns have, got " +
                      info.stored_type + " " + shape_words(info.shape));
    }
    dark = at.file.read(at.name).to(at::kDouble).contiguous();
    if (const std::string index = first_not_finite(dark); !index.empty()) {
      throw DataError(at.where("detector.dark") + " must be finite, got another value at " + index);
    }
    conversion.dark = dark.const_data_ptr<double>();
  }
  conversion.calibrated = is_calibrated(config);

  const std::vector<std::int64_t>& positions = problem.held;
  std::vector<std::int64_t> held;  // in the file
  for (const std::int64_t k : positions) {
    held.push_back(problem.frames.empty() ? k : problem.frames[static_cast<std::size_t>(k)]);
  }
  Mask mask = load_mask(config, map, stack, problem.unmeasured, held);
  const auto n = static_cast<std::int64_t>(held.size());
  const std::int64_t pixels = map.pixels();
  const at::ScalarType kept = kept_type(stack.info.type, conversion.calibrated, map.per_pixel);
  problem.patterns = at::empty({n, map.window[0], map.window[1]}, at::TensorOptions().dtype(kept));
  std::vector<PatternStatistics> statistics(static_cast<std::size_t>(n));

  using Place = std::pair<std::int64_t, std::int64_t>;  // in the block, in `held`
  const auto convert_block = [&](const at::Tensor& block, const std::vector<Place>& places) {
    bool marked = false;
    with_type(stack.info.type, [&](auto stored_tag) {
      using Stored = decltype(stored_tag);
      with_kept_type(kept, [&](auto out_tag) {
        using Out = decltype(out_tag);
        if constexpr (std::is_floating_point_v<Stored> && !std::is_same_v<Out, float>) {
          return;  // kept_type never asks for it
        } else {
          const auto* stored = static_cast<const Stored*>(block.data_ptr());
          auto* out = static_cast<Out*>(problem.patterns.data_ptr());
          auto* own =
              mask.each.defined() ? static_cast<std::uint8_t*>(mask.each.data_ptr()) : nullptr;
          const auto count = static_cast<std::int64_t>(places.size());
          std::vector<std::uint8_t> any(places.size());
          at::parallel_for(0, count, 4, [&](std::int64_t begin, std::int64_t end) {
            for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) {
              const auto [in_block, k] = places[i];
              any[i] =
                  convert_pattern(stored + in_block * map.stored[0] * map.stored[1], conversion,
                                  mask.common.data(), own != nullptr ? own + k * pixels : nullptr,
                                  out + k * pixels, statistics[static_cast<std::size_t>(k)]);
            }
          });
          marked = std::find(any.begin(), any.end(), 1) != any.end();
        }
      });
    });
    return marked;
  };
  std::size_t next = 0;
  for (const Box& box : boxes_of(stack, held)) {
    const at::Tensor block = read_box(stack, box);
    std::vector<Place> places;
    for_each_in(stack, box, held, next,
                [&](std::int64_t in_block, std::int64_t k) { places.emplace_back(in_block, k); });
    // A mask per pattern costs as much as half the patterns: only made once a pixel needs it.
    if (convert_block(block, places) && !mask.each.defined()) {
      mask.each = at::zeros({n, map.window[0], map.window[1]}, at::kBool);
      convert_block(block, places);
    }
    for (const auto& [in_block, k] : places) {
      const PatternStatistics& one = statistics[static_cast<std::size_t>(k)];
      if (one.fault != Fault::kNone && !tolerant) {
        throw_fault(stack, held[static_cast<std::size_t>(k)], one, kept, conversion.calibrated);
      }
    }
  }

  const std::int64_t count =
      problem.frames.empty() ? stack.patterns : static_cast<std::int64_t>(problem.frames.size());
  problem.statistics = at::zeros({count, kStatistics}, at::kDouble);
  problem.evidence = at::zeros({count, FrameEvidence::kColumns}, at::kDouble);
  auto* numbers = problem.statistics.data_ptr<double>();
  auto* told = problem.evidence.data_ptr<double>();
  problem.good_patterns = at::zeros({map.window[0], map.window[1]}, at::kLong);
  auto* good = problem.good_patterns.data_ptr<std::int64_t>();
  problem.pattern_sum = at::zeros({map.window[0], map.window[1]}, at::kDouble);
  with_kept_type(kept, [&](auto tag) {
    const auto* counts = static_cast<const decltype(tag)*>(problem.patterns.data_ptr());
    const auto [h, w] = map.window;
    // Distances from the zero frequency; in the near field from the window's corner.
    const auto from_zero = [&](std::int64_t i, std::int64_t size) {
      return static_cast<double>(
          config.detector.geometry == "far" ? (i + size / 2) % size - size / 2 : i);
    };
    for (std::int64_t k = 0; k < n; ++k) {
      double* moments = numbers + positions[static_cast<std::size_t>(k)] * kStatistics + 7;
      auto* sums = problem.pattern_sum.data_ptr<double>();
      for (std::int64_t i = 0; i < h; ++i) {
        double row = 0.0, columns = 0.0;
        for (std::int64_t j = 0; j < w; ++j) {
          const auto value = static_cast<double>(*counts++);
          *sums++ += value;
          row += value;
          columns += value * from_zero(j, w);
        }
        moments[0] += row * from_zero(i, h);
        moments[1] += columns;
      }
    }
  });
  const auto* each =
      mask.each.defined() ? static_cast<std::uint8_t*>(mask.each.data_ptr()) : nullptr;
  for (std::int64_t k = 0; k < n; ++k) {
    const PatternStatistics& one = statistics[static_cast<std::size_t>(k)];
    double* tells = told + positions[static_cast<std::size_t>(k)] * FrameEvidence::kColumns;
    for (std::size_t block = 0; problem.block_shares.defined() && block < one.lit.size(); ++block) {
      if (!one.lit[block]) {
        tells[FrameEvidence::kEmptyShare] += problem.block_shares.const_data_ptr<double>()[block];
      }
    }
    tells[FrameEvidence::kMarkers] = static_cast<double>(one.markers);
    tells[FrameEvidence::kMarker] = one.marker;
    tells[FrameEvidence::kFault] = one.fault == Fault::kNone ? 0.0 : 1.0;
    double* to = numbers + positions[static_cast<std::size_t>(k)] * kStatistics;
    to[0] = one.sum;
    to[1] = std::isfinite(one.largest) ? one.largest : 0.0;
    to[2] = static_cast<double>(one.negative);
    to[3] = static_cast<double>(one.sentinel);
    to[4] = static_cast<double>(one.saturated);
    to[5] = static_cast<double>(one.masked);
    to[6] = static_cast<double>(one.at_largest);
    std::uint64_t seen = 0;
    for (std::int64_t pixel = 0; pixel < pixels; ++pixel) {
      const bool bad = mask.common[static_cast<std::size_t>(pixel)] != 0 ||
                       (each != nullptr && each[k * pixels + pixel] != 0);
      good[pixel] += bad ? 0 : 1;
      seen = mixed(seen, bad);
    }
    with_kept_type(kept, [&](auto tag) {
      const auto* values = static_cast<const decltype(tag)*>(problem.patterns.const_data_ptr());
      for (std::int64_t pixel = 0; pixel < pixels; ++pixel) {
        seen = mixed(seen, bits_of(values[k * pixels + pixel]));
      }
    });
    to[9] = static_cast<double>(seen >> 12);  // exact in a float64
  }

  if (mask.each.defined()) {
    auto* all = static_cast<std::uint8_t*>(mask.each.data_ptr());
    bool same = true;
    for (std::int64_t k = 0; k < n; ++k) {
      for (std::int64_t pixel = 0; pixel < pixels; ++pixel) {
        all[k * pixels + pixel] |= mask.common[static_cast<std::size_t>(pixel)];
      }
      same = same && std::memcmp(all, all + k * pixels, static_cast<std::size_t>(pixels)) == 0;
    }
    problem.mask = same && n > 0 ? mask.each.select(0, 0).clone() : mask.each;
  } else if (std::find(mask.common.begin(), mask.common.end(), 1) != mask.common.end()) {
    at::Tensor common = at::empty({map.window[0], map.window[1]}, at::kBool);
    std::memcpy(common.data_ptr(), mask.common.data(), mask.common.size());
    problem.mask = common;
  }
}

// ---- geometry ----

void set_wavelength(const Config& config, Problem& problem) {
  if (!config.beam.energy_keV) return;
  problem.wavelength_A = wavelength_A(
      config.beam.kind == "xray" ? BeamKind::kXray : BeamKind::kElectron, *config.beam.energy_keV);
}

void set_object_pixel(const Config& config, Problem& problem) {
  const Config::Detector& detector = config.detector;
  NumberPair pixel_A{};
  for (std::size_t axis = 0; axis < 2; ++axis) {
    const auto bin = static_cast<double>(detector.bin[axis]);
    const auto size = static_cast<double>(problem.window[axis]);
    double frequency_per_A = 0.0;  // of one binned detector pixel
    if (detector.object_pixel_nm) {
      pixel_A[axis] = 10.0 * (*detector.object_pixel_nm)[axis];
      continue;
    }
    if (detector.pixel_per_nm) {
      frequency_per_A = bin * (*detector.pixel_per_nm)[axis] / 10.0;
    } else if (detector.pixel_mrad) {
      frequency_per_A = bin * 1e-3 * (*detector.pixel_mrad)[axis] / *problem.wavelength_A;
    } else if (detector.pixel_size_um && detector.geometry == "near") {
      pixel_A[axis] = bin * 1e4 * (*detector.pixel_size_um)[axis];
      continue;
    } else if (detector.pixel_size_um) {
      frequency_per_A = bin * 1e-6 * (*detector.pixel_size_um)[axis] /
                        (*problem.wavelength_A * *detector.distance_m);
    } else {
      return;
    }
    pixel_A[axis] = 1.0 / (size * frequency_per_A);
  }
  problem.pixel_row_A = pixel_A[0];
  problem.pixel_column_A = pixel_A[1];
}

// Lengths are physical: a sampling (and for waves an energy) must be known.
void need_pixel(const Config& config, const Problem& problem, const std::string& reason) {
  if (problem.pixel_row_A) return;
  throw_config_error(config,
                     "detector.pixel_mrad, pixel_per_nm, object_pixel_nm or pixel_size_um with "
                     "distance_m",
                     "be given (one of them) for " + reason, "");
}

void need_wavelength(const Config& config, const Problem& problem, const std::string& reason) {
  if (problem.wavelength_A) return;
  throw_config_error(config, "beam.energy_keV", "be given for " + reason, "");
}

at::Tensor propagator_over(const Config& config, const Problem& problem, double distance_A) {
  const auto make =
      config.object.propagator == "fresnel" ? fresnel_propagator : angular_spectrum_propagator;
  return make(problem.window[0], problem.window[1], *problem.pixel_row_A, *problem.pixel_column_A,
              *problem.wavelength_A, distance_A, problem.zero_offset);
}

// ---- positions ----

bool is_finite_pair(const at::Tensor& positions, std::int64_t frame) {
  const double* p = positions.const_data_ptr<double>() + 2 * frame;
  return std::isfinite(p[0]) && std::isfinite(p[1]);
}

// [frames, 2] of as many as were chosen -> of all, NaN for the others.
at::Tensor spread_over(const std::vector<bool>& chosen, const at::Tensor& positions) {
  at::Tensor all = at::full({static_cast<std::int64_t>(chosen.size()), 2},
                            std::numeric_limits<double>::quiet_NaN(), at::kDouble);
  auto* out = all.data_ptr<double>();
  const double* next = positions.const_data_ptr<double>();
  for (std::size_t k = 0; k < chosen.size(); ++k) {
    if (chosen[k]) {
      out[2 * k] = *next++;
      out[2 * k + 1] = *next++;
    }
  }
  return all;
}

// One for each of the file's frames, in the file's unit; NaN where there is none. A raster, or a
// list, may also have one for each frame that data.select and data.skip leave.
// epsilon: of the type that holds them; 0 where they are whole numbers or a raster.
at::Tensor stored_positions(const Config& config, const Stack& stack,
                            const std::vector<bool>& chosen, double& epsilon) {
  epsilon = 0.0;
  const std::int64_t left = std::count(chosen.begin(), chosen.end(), true);
  const std::string of_those_left =
      left == stack.patterns
          ? ""
          : " (or " + std::to_string(left) + ", which data.select and data.skip leave)";
  const bool scan = stack.info.shape.size() == 4;
  if (config.data.raster_step) {
    IntegerPair shape{};
    if (config.data.raster_shape) {
      shape = *config.data.raster_shape;
    } else if (stack.info.shape.size() == 4) {
      shape = {stack.info.shape[0], stack.info.shape[1]};
    } else {
      throw_config_error(config, "data.raster.shape",
                         "be given where data.patterns has the shape [positions, rows, columns]",
                         "");
    }
    // Divided rather than multiplied: the product of two large wrong numbers may not fit.
    const auto has = [&shape](std::int64_t count) {
      return count % shape[0] == 0 && count / shape[0] == shape[1];
    };
    const bool of_all = has(stack.patterns);
    if (!of_all && !has(left)) {
      throw DataError(stack.at.where("data.patterns") + " must hold one pattern for each of the " +
                      std::to_string(shape[0]) + " x " + std::to_string(shape[1]) +
                      " positions of data.raster.shape, got " +
                      words::counted(stack.patterns, "pattern") + of_those_left);
    }
    if (of_all && scan && (shape[0] != stack.info.shape[0] || shape[1] != stack.info.shape[1])) {
      throw_config_error(
          config, "data.raster.shape",
          "be the scan's shape in \"" + stack.at.name + "\", " + shape_words(stack.info.shape),
          shape_words({shape[0], shape[1]}));
    }
    const std::int64_t count = of_all ? stack.patterns : left;
    at::Tensor positions = at::empty({count, 2}, at::kDouble);
    auto* out = positions.data_ptr<double>();
    for (std::int64_t k = 0; k < count; ++k) {
      out[2 * k] = static_cast<double>(k / shape[1]) * (*config.data.raster_step)[0];
      out[2 * k + 1] = static_cast<double>(k % shape[1]) * (*config.data.raster_step)[1];
    }
    return of_all ? positions : spread_over(chosen, positions);
  }
  const Located at = locate_in_data(config, "data.positions", config.data.positions);
  const hdf5::DatasetInfo info = at.file.info(at.name);
  const bool pairs = (info.shape.size() == 2 || info.shape.size() == 3) && info.shape.back() == 2;
  if (!pairs || c10::isComplexType(info.type)) {
    throw DataError(at.where("data.positions") +
                    " must hold real (row, column) pairs in the shape [positions, 2], got " +
                    info.stored_type + " " + shape_words(info.shape));
  }
  const at::Tensor stored = at.file.read(at.name);
  if (c10::isFloatingType(stored.scalar_type())) {
    epsilon = stored.scalar_type() == at::kDouble  ? std::numeric_limits<double>::epsilon()
              : stored.scalar_type() == at::kFloat ? std::numeric_limits<float>::epsilon()
                                                   : std::ldexp(1.0, -10);
  }
  const at::Tensor positions = stored.to(at::kDouble).reshape({-1, 2}).contiguous();
  if (positions.size(0) != stack.patterns && positions.size(0) != left) {
    throw DataError(at.where("data.positions") + " must have one position for each of the " +
                    words::counted(stack.patterns, "pattern") + " of \"" + stack.at.name + "\"" +
                    of_those_left + ", got " + std::to_string(positions.size(0)));
  }
  if (positions.size(0) != stack.patterns) return spread_over(chosen, positions);
  if (scan && info.shape.size() == 3 &&
      (info.shape[0] != stack.info.shape[0] || info.shape[1] != stack.info.shape[1])) {
    throw DataError(at.where("data.positions") + " must have the scan's shape in \"" +
                    stack.at.name + "\", " + shape_words(stack.info.shape) + ", got " +
                    shape_words(info.shape));
  }
  return positions;
}

// Turned, or put through the affine matrix, about the mean of `counted`; in their own unit.
void turn(const Config& config, const std::vector<std::int64_t>& counted, at::Tensor& positions) {
  std::array<double, 4> m = {1.0, 0.0, 0.0, 1.0};
  if (config.data.affine) {
    m = *config.data.affine;
  } else if (config.data.rotation_deg != 0.0) {
    const double angle = config.data.rotation_deg * kPi / 180.0;
    m = {std::cos(angle), -std::sin(angle), std::sin(angle), std::cos(angle)};
  } else {
    return;
  }
  auto* p = positions.data_ptr<double>();
  const std::int64_t n = positions.size(0);
  NumberPair mean = {0.0, 0.0};
  for (const std::int64_t k : counted) {
    mean[0] += p[2 * k] / static_cast<double>(counted.size());
    mean[1] += p[2 * k + 1] / static_cast<double>(counted.size());
  }
  for (std::int64_t k = 0; k < n; ++k) {
    const double row = p[2 * k] - mean[0];
    const double column = p[2 * k + 1] - mean[1];
    p[2 * k] = mean[0] + m[0] * row + m[1] * column;
    p[2 * k + 1] = mean[1] + m[2] * row + m[3] * column;
  }
}

void to_pixels(const Config& config, const Problem& problem, at::Tensor& positions) {
  const std::string& unit = config.data.position_unit;
  if (unit == "pixel") return;
  need_pixel(config, problem, "data.position_unit = \"" + unit + "\"");
  const double unit_A = unit == "nm" ? 10.0 : unit == "um" ? 1e4 : unit == "m" ? 1e10 : 1.0;
  auto* p = positions.data_ptr<double>();
  for (std::int64_t k = 0; k < positions.size(0); ++k) {
    p[2 * k] *= unit_A / *problem.pixel_row_A;
    p[2 * k + 1] *= unit_A / *problem.pixel_column_A;
  }
}

// Stage positions far from zero lose their fractions in a type that is too short for both.
void doubt_rounding(const Config& config, const at::Tensor& stored, double epsilon,
                    Problem& problem) {
  if (stored.size(0) == 0 || epsilon == 0.0) return;
  const double largest = stored.abs().max().item<double>();
  if (!(largest > 0.0)) return;
  at::Tensor spacing = at::full({1, 2}, std::ldexp(epsilon, std::ilogb(largest)), at::kDouble);
  to_pixels(config, problem, spacing);
  const double pixels = spacing.max().item<double>();
  constexpr double kCoarse = 0.1;
  if (!(pixels > kCoarse)) return;
  const int bits = epsilon < 1e-9 ? 64 : epsilon < 1e-4 ? 32 : 16;
  problem.found.push_back(
      {"positions up to " + words::number(largest) + " in floats of " + std::to_string(bits) +
           " bits are " + words::number(pixels, 2) +
           " pixels apart at least: take what they have in common off them before they are stored",
       "positions rounded by their type (data.positions)"});
}

// ---- the probe ----

// Modes beyond the stored ones: Hermite modes of the first, freed from what is there already.
at::Tensor with_more_modes(const at::Tensor& probe, std::int64_t modes) {
  const std::int64_t stored = probe.size(0);
  if (modes <= stored) return probe.narrow(0, 0, modes).contiguous();
  if (stored == 1) return add_hermite_modes(probe, modes);
  const at::Tensor extra = add_hermite_modes(probe.narrow(0, 0, 1), modes - stored + 1);
  std::vector<at::Tensor> all = {probe};
  std::vector<at::Tensor> basis;  // orthonormal
  const auto without_basis = [&basis](const at::Tensor& mode) {
    at::Tensor rest = mode.flatten();
    for (const at::Tensor& other : basis) {
      rest = rest - other * (at::conj_physical(other) * rest).sum();
    }
    return rest;
  };
  const auto norm_of = [](const at::Tensor& mode) {
    return std::sqrt(mode.abs().square().sum().item<double>());
  };
  for (std::int64_t k = 0; k < modes; ++k) {
    const bool is_stored = k < stored;
    const at::Tensor mode = is_stored ? probe.select(0, k) : extra.select(0, k - stored + 1);
    const at::Tensor rest = without_basis(mode);
    const double norm = norm_of(rest);
    const at::Tensor unit = norm > 0.0 ? at::Tensor(rest / norm) : rest;
    basis.push_back(unit);
    if (!is_stored) {
      all.push_back((unit * norm_of(mode)).reshape({1, probe.size(1), probe.size(2)}));
    }
  }
  return at::cat(all, 0);
}

// The pixel of a stored probe, in angstrom, where its file says it: our results and simulations,
// and ptychodus.
std::optional<NumberPair> stored_pixel_A(const Located& at) {
  const auto numbers = [&at](const char* name) {
    return at.file.has_attribute(at.name, name) ? at.file.numbers_attribute(at.name, name)
                                                : std::vector<double>{};
  };
  const auto usable = [](double value) { return std::isfinite(value) && value > 0.0; };
  for (const char* name : {"pixel_size_nm", "pixel_nm"}) {
    const std::vector<double> nm = numbers(name);
    if (nm.empty() || nm.size() > 2 || !usable(nm.front()) || !usable(nm.back())) continue;
    return NumberPair{10.0 * nm.front(), 10.0 * nm.back()};
  }
  const std::vector<double> height = numbers("pixel_height_m"), width = numbers("pixel_width_m");
  if (height.size() != 1 || width.size() != 1 || !usable(height[0]) || !usable(width[0])) return {};
  return NumberPair{1e10 * height[0], 1e10 * width[0]};
}

// A probe of another beam is another probe.
void compare_wavelength(const Located& at, const Problem& problem) {
  if (!problem.wavelength_A || !at.file.has_attribute(at.name, "wavelength_pm")) return;
  const double stored_A = at.file.number_attribute(at.name, "wavelength_pm") / 100.0;
  constexpr double kSame = 1e-3;
  if (std::abs(stored_A / *problem.wavelength_A - 1.0) <= kSame) return;
  throw DataError(at.where("probe.dataset") + " must be of the beam's wavelength, " +
                  number_words(100.0 * *problem.wavelength_A) + " pm (beam.energy_keV), got " +
                  number_words(100.0 * stored_A) + " pm");
}

// Patterns of another beam: our simulations say of which they are.
void compare_energy(const Config& config, const hdf5::File& file, Problem& problem) {
  if (!config.beam.energy_keV || !file.has_attribute("/", "energy_keV")) return;
  const double stored = file.number_attribute("/", "energy_keV");
  constexpr double kSame = 1e-3;
  if (std::abs(stored / *config.beam.energy_keV - 1.0) <= kSame) return;
  problem.found.push_back({"beam.energy_keV = " + number_words(*config.beam.energy_keV) + ", but " +
                               file.path() + " says energy_keV = " + number_words(stored),
                           "the energy (beam.energy_keV)"});
}

// Onto the window's pixels where the file says that it has others. `corner`: of the stored probe,
// in the window.
at::Tensor on_our_pixels(const Config& config, const Located& at, const at::Tensor& probe,
                         Problem& problem, NumberPair& corner) {
  const std::optional<NumberPair> stored_A = stored_pixel_A(at);
  constexpr double kSame = 1e-3;
  if (!stored_A || !problem.pixel_row_A) return probe;
  const NumberPair pixel_A = {*problem.pixel_row_A, *problem.pixel_column_A};
  bool same = true;
  for (std::size_t axis = 0; axis < 2; ++axis) {
    same = same && std::abs((*stored_A)[axis] / pixel_A[axis] - 1.0) <= kSame;
  }
  if (same) return probe;
  const Resampled result = resampled(probe, *stored_A, problem.window, pixel_A);
  const auto by = [](const NumberPair& pair) {
    return number_words(pair[0] / 10.0) + " x " + number_words(pair[1] / 10.0) + " nm";
  };
  const double ratio = pixel_A[0] / (*stored_A)[0];
  const std::string slip = sampling_slip(config, ratio);
  constexpr double kKept = 0.99, kMuch = 1.15;
  if (result.kept < kKept) {
    throw DataError(at.where("probe.dataset") + " has pixels of " + by(*stored_A) +
                    ", the object's are " + by(pixel_A) + ", and must fit into their window with " +
                    "its frequencies, got " + number_words(100.0 * (1.0 - result.kept)) +
                    " % of its power outside" + (slip.empty() ? "" : ": " + slip));
  }
  if (!slip.empty() && kMuch * std::max(ratio, 1.0 / ratio) > 10.0) {
    problem.found.push_back({"the probe of " + at.file.path() + " has pixels of " + by(*stored_A) +
                                 ", the object's are " + by(pixel_A) + ": " + slip,
                             "the probe's sampling"});
  }
  for (std::size_t axis = 0; axis < 2; ++axis) {
    corner[axis] = static_cast<double>(problem.window[axis] / 2) -
                   static_cast<double>(probe.size(static_cast<std::int64_t>(axis) + 1) / 2) *
                       (*stored_A)[axis] / pixel_A[axis];
  }
  problem.notes.push_back("the probe of " + at.file.path() + " is resampled from pixels of " +
                          by(*stored_A) + " to " + by(pixel_A));
  return result.wave;
}

// Without the modes that no update would bring to life or apart: those without a share of the
// power, and multiples (or sums of multiples) of modes before them. The power stays. `dropped`:
// their numbers.
at::Tensor without_dead_modes(const at::Tensor& probe, std::vector<std::int64_t>& dropped) {
  constexpr double kLeastShare = 1e-6, kLeastRest = 1e-3;
  const auto power_of = [](const at::Tensor& wave) {
    return wave.abs().square().sum().item<double>();
  };
  const double power = power_of(probe);
  std::vector<at::Tensor> kept, basis;
  for (std::int64_t k = 0; k < probe.size(0); ++k) {
    const at::Tensor mode = probe.select(0, k);
    at::Tensor rest = mode.flatten();
    for (const at::Tensor& other : basis) {
      rest = rest - other * (at::conj_physical(other) * rest).sum();
    }
    const double own = power_of(mode), left = power_of(rest);
    if (own < kLeastShare * power || left < kLeastRest * kLeastRest * own) {
      dropped.push_back(k);
      continue;
    }
    kept.push_back(mode);
    basis.push_back(rest / std::sqrt(left));
  }
  if (dropped.empty()) return probe;
  const at::Tensor alive = at::stack(kept);
  return alive * std::sqrt(power / power_of(alive));
}

// [modes, h, w] complex128 as stored, before it is padded to the window.
at::Tensor read_probe(const Config& config, Problem& problem, NumberPair& corner) {
  const Located at =
      locate(config, "probe.dataset", config.probe.dataset, "probe.file", config.probe.file);
  const hdf5::DatasetInfo info = at.file.info(at.name);
  std::vector<std::int64_t> shape = info.shape;
  if (shape.size() == 4 && shape[0] == 1) shape.erase(shape.begin());
  if (shape.size() == 2) shape.insert(shape.begin(), 1);
  if (shape.size() != 3 || shape[0] < 1 || shape[1] < 1 || shape[2] < 1) {
    throw DataError(at.where("probe.dataset") +
                    " must have the shape [rows, columns] or [modes, rows, columns], got " +
                    shape_words(info.shape));
  }
  compare_wavelength(at, problem);
  at::Tensor probe = at.file.read(at.name).to(at::kComplexDouble).reshape(shape);
  if (const std::string index = first_not_finite(probe); !index.empty()) {
    throw DataError(at.where("probe.dataset") + " must be finite, got another value at " + index);
  }
  if (!(probe.select(0, 0).abs().max().item<double>() > 0.0)) {
    throw DataError(at.where("probe.dataset") + " must not be zero everywhere in its first mode");
  }
  corner = {static_cast<double>(problem.window[0] / 2 - shape[1] / 2),
            static_cast<double>(problem.window[1] / 2 - shape[2] / 2)};
  probe = on_our_pixels(config, at, probe, problem, corner);
  if (probe.size(1) > problem.window[0] || probe.size(2) > problem.window[1]) {
    throw DataError(at.where("probe.dataset") + " must not be larger than the pattern of " +
                    shape_words({problem.window[0], problem.window[1]}) +
                    " (detector.pad enlarges it), got " + shape_words(info.shape));
  }
  if (!c10::isComplexType(info.type)) {
    log_warning() << at.where("probe.dataset") << " is real (" << info.stored_type << " "
                  << shape_words(info.shape) << "); a probe has a phase: is it the right dataset?";
  }
  problem.probe_origin = at.file.path() + ": " + at.name + " (" + info.stored_type + " " +
                         shape_words(info.shape) + ")";
  return probe;
}

// `shift`: of the corner of the probe's own window in the pattern's.
void load_probe(const Config& config, Problem& problem, NumberPair& shift) {
  at::Tensor probe;
  if (!config.probe.file.empty()) {
    const at::Tensor stored = read_probe(config, problem, shift);
    problem.stored_probe_modes = stored.size(0);
    probe = at::zeros({stored.size(0), problem.window[0], problem.window[1]}, stored.options());
    probe.narrow(1, problem.window[0] / 2 - stored.size(1) / 2, stored.size(1))
        .narrow(2, problem.window[1] / 2 - stored.size(2) / 2, stored.size(2))
        .copy_(stored);
  } else {
    const ProbeOptics optics = probe_optics(config, problem);
    probe = aberrated_probe(problem.window[0], problem.window[1], *problem.pixel_row_A,
                            *problem.pixel_column_A, optics)
                .reshape({1, problem.window[0], problem.window[1]});
    problem.probe_origin = "computed: " + number_words(optics.semiangle_mrad) + " mrad, defocus " +
                           number_words(config.probe.defocus_nm) + " nm";
  }
  if (config.reconstruct.refines("probe") && probe.size(0) > 1 && config.probe.modes > 1) {
    probe = without_dead_modes(probe.narrow(0, 0, std::min(probe.size(0), config.probe.modes)),
                               problem.replaced_modes);
  }
  problem.probe = with_more_modes(probe, config.probe.modes).contiguous();
  if (const auto ramp = probe_ramp(problem)) problem.probe.mul_(*ramp);
}

// Share of the probe's energy within an eighth of the window's edges.
double energy_at_edge(const at::Tensor& probe) {
  const at::Tensor intensity = probe.abs().square().sum(0);
  const std::int64_t h = intensity.size(0), w = intensity.size(1);
  const double inside = intensity.narrow(0, h / 8, h - 2 * (h / 8))
                            .narrow(1, w / 8, w - 2 * (w / 8))
                            .sum()
                            .item<double>();
  return 1.0 - inside / intensity.sum().item<double>();
}

// The probe is moved by a Fourier ramp, which is periodic in the window: what a probe that fills
// the window loses on one side comes back on the other. In the far field that is what other
// programs do too, and what the probe then means; in the near field it is seen on the detector as
// it is.
void choose_what_moves(const Config& config, const at::Tensor& positions, Problem& problem) {
  constexpr double kMuchAtEdge = 1e-4;
  problem.between_pixels = !positions.eq(positions.floor()).all().item<bool>();
  problem.probe_at_edge = energy_at_edge(problem.probe);
  const std::string& choice = config.detector.subpixel;
  const bool fills = config.detector.geometry == "near" && problem.probe_at_edge > kMuchAtEdge;
  const bool moves_object =
      problem.between_pixels && (choice == "object" || (choice == "auto" && fills));
  problem.reach = moves_object ? std::max(kInterpolationBefore, kInterpolationAfter) : 0;
}

}  // namespace

namespace {

at::Tensor selected(const at::Tensor& patterns, const at::Tensor& indices) {
  // ATen cannot select rows of uint16; its bits can move as int16.
  if (patterns.scalar_type() == at::kUInt16) {
    return patterns.view(at::kShort).index_select(0, indices).view(at::kUInt16);
  }
  return patterns.index_select(0, indices);
}

}  // namespace

ProbeOptics probe_optics(const Config& config, const Problem& problem) {
  ProbeOptics optics;
  optics.wavelength_A = *problem.wavelength_A;
  optics.semiangle_mrad = *config.probe.semiangle_mrad;
  optics.aberrations.C10 = -10.0 * config.probe.defocus_nm;
  for (const auto& [name, value] : config.probe.aberrations) {
    set_aberration(optics.aberrations, name, value);
  }
  return optics;
}

std::optional<at::Tensor> probe_ramp(const Problem& problem) {
  if (problem.zero_offset[0] == 0.0 && problem.zero_offset[1] == 0.0) return std::nullopt;
  return frequency_ramp(problem.window[0], problem.window[1], problem.zero_offset);
}

at::Tensor without_ramp(const Problem& problem, const at::Tensor& probe) {
  const std::optional<at::Tensor> ramp = probe_ramp(problem);
  if (!ramp) return probe;
  return probe.to(at::kComplexDouble).mul(at::conj_physical(*ramp)).to(probe.scalar_type());
}

PatternBlock MemoryPatterns::rows(const at::Tensor& indices) const {
  return {selected(patterns_, indices), std::nullopt};
}

ObjectFrame object_frame(const at::Tensor& positions, IntegerPair window, std::int64_t padding,
                         std::optional<IntegerPair> shape) {
  ObjectFrame frame;
  frame.positions = positions.to(at::kDouble).clone();
  frame.offset = {0.0, 0.0};
  frame.shape = shape.value_or(IntegerPair{window[0], window[1]});
  if (positions.size(0) == 0) return frame;
  for (std::size_t axis = 0; axis < 2; ++axis) {
    at::Tensor along = frame.positions.select(1, static_cast<std::int64_t>(axis));
    const double least = std::floor(along.min().item<double>());  // NaN stays NaN, and is refused
    const double most = std::floor(along.max().item<double>());
    frame.offset[axis] = least - static_cast<double>(padding);
    along -= frame.offset[axis];
    if (!shape) {
      const double size = most - least + static_cast<double>(window[axis] + 1 + 2 * padding);
      // The caller says which key is to blame; a cast beyond the range would be undefined.
      frame.shape[axis] = size <= kLargestSide ? static_cast<std::int64_t>(size)
                                               : std::numeric_limits<std::int64_t>::max();
    }
  }
  return frame;
}

namespace {

// The frames that take part, while it is found out which do.
struct Choice {
  const Config& config;
  const Stack& stack;
  Problem& problem;
  std::vector<bool> used;

  bool is_used(std::int64_t frame) const { return used[static_cast<std::size_t>(frame)]; }
  std::vector<std::int64_t> of_used(const std::vector<std::int64_t>& frames) const {
    std::vector<std::int64_t> those;
    for (const std::int64_t frame : frames) {
      if (is_used(frame)) those.push_back(frame);
    }
    return those;
  }
  std::vector<std::int64_t> all_used() const {
    std::vector<std::int64_t> all(used.size());
    std::iota(all.begin(), all.end(), 0);
    return of_used(all);
  }
  void leave_out(const std::vector<std::int64_t>& frames, const std::string& why) {
    for (const std::int64_t frame : frames) used[static_cast<std::size_t>(frame)] = false;
    problem.left_out.push_back(frame_words(frames) + " " + why);
  }

  void without_gaps() {
    const hdf5::Gaps gaps = gaps_of(stack);
    if (!gaps.any()) return;
    const std::string words = gap_words(gaps, all_used());
    if (words.empty()) return;
    if (!skips_bad_frames(config)) {
      throw DataError(stack.at.where("data.patterns") + " has frames without values: " + words +
                      " (data.skip = \"auto\" leaves them out)");
    }
    for (std::size_t reason = 0; reason < gaps.reasons.size(); ++reason) {
      std::vector<std::int64_t> frames;
      for (const std::int64_t frame : all_used()) {
        if (gaps.reason_of[static_cast<std::size_t>(frame)] == static_cast<std::int32_t>(reason)) {
          frames.push_back(frame);
        }
      }
      if (!frames.empty()) leave_out(frames, "not stored: " + gaps.reasons[reason]);
    }
  }

  // positions [frames, 2] in the file's unit.
  void with_finite_positions(const at::Tensor& positions) {
    at::Tensor seen = positions.clone();
    auto* values = seen.data_ptr<double>();
    std::vector<std::int64_t> without;
    for (std::int64_t frame = 0; frame < positions.size(0); ++frame) {
      if (!is_used(frame)) {
        values[2 * frame] = values[2 * frame + 1] = 0.0;
      } else if (!is_finite_pair(positions, frame)) {
        without.push_back(frame);
      }
    }
    if (without.empty()) return;
    if (!skips_bad_frames(config)) {
      throw DataError(config.data.file + ": data.positions \"" + config.data.positions +
                      "\" must be finite, got another value at " + first_not_finite(seen) + ": " +
                      frame_words(without) + (without.size() == 1 ? " has" : " have") +
                      " no position (data.skip leaves frames out)");
    }
    leave_out(without, "without a finite position");
  }

  // Returns the frames far from all others, used or not. `pixels`: positions in pixels.
  std::vector<std::int64_t> without_far_positions(const at::Tensor& stored,
                                                  const at::Tensor& pixels) {
    const std::vector<std::int64_t> far = far_positions(pixels);
    const std::vector<std::int64_t> those = of_used(far);
    if (those.empty()) return far;
    const auto pair = [](double row, double column) {
      std::string text = "(";
      text.append(number_words(row)).append(", ").append(number_words(column)).append(")");
      return text;
    };
    std::string words;
    constexpr std::size_t kNamed = 3;
    for (std::size_t k = 0; k < std::min(kNamed, those.size()); ++k) {
      const at::Tensor one = stored[those[k]];
      words += (k > 0 ? ", number " : "number ") + std::to_string(those[k]) + " is " +
               pair(one[0].item<double>(), one[1].item<double>());
    }
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    NumberPair least = {kInfinity, kInfinity}, most = {-kInfinity, -kInfinity};
    const double* p = stored.const_data_ptr<double>();
    std::vector<bool> is_far(static_cast<std::size_t>(stored.size(0)), false);
    for (const std::int64_t frame : far) is_far[static_cast<std::size_t>(frame)] = true;
    for (std::int64_t frame = 0; frame < stored.size(0); ++frame) {
      if (is_far[static_cast<std::size_t>(frame)]) continue;
      for (std::size_t axis = 0; axis < 2; ++axis) {
        const double value = p[2 * frame + static_cast<std::int64_t>(axis)];
        if (std::isnan(value)) continue;
        least[axis] = std::min(least[axis], value);
        most[axis] = std::max(most[axis], value);
      }
    }
    words += ", the others lie from " + pair(least[0], least[1]) + " to " + pair(most[0], most[1]);
    if (skips_bad_frames(config)) {
      leave_out(those, "far from all other positions: " + words);
      return far;
    }
    problem.far_position =
        config.data.file + ": data.positions \"" + config.data.positions + "\" has " +
        words::counted(static_cast<std::int64_t>(those.size()), "position") +
        " far from all others: " + words + " (data.skip = [" + std::to_string(those[0]) +
        (those.size() > 1 ? ", ..." : "") + "] leaves such frames out)";
    problem.found.push_back(
        {problem.far_position, "a position far from the others (data.skip)", Doubt::kFrames});
    return far;
  }
};

// Finds marks and the usual shares of counts in a few frames, the same on every rank.
void look_at_some(const Config& config, const Stack& stack, const PixelMap& map, Problem& problem);

// ---- what is known from sizes alone ----

// Before anything of the window's size is made: what reading and looking at the data takes, and
// `patterns_bytes` that are kept, must be free.
void require_room(const Config& config, const Layout& layout, std::int64_t patterns,
                  std::int64_t patterns_bytes) {
  constexpr std::int64_t kSamples = 16;  // look_at_some's
  const double waves = 2.0 * static_cast<double>(config.probe.modes) + 4.0 +
                       (config.object.slices > 1 ? 1.0 : 0.0) +
                       (config.detector.geometry == "near" ? 1.0 : 0.0);
  // The map, waves of 16 bytes, sums and counts over patterns, and a few patterns.
  const double per_pixel = 8.0 * static_cast<double>(layout.per_pixel) + 16.0 * waves + 48.0 +
                           4.0 * static_cast<double>(std::min(patterns, kSamples));
  const double needed =
      per_pixel * static_cast<double>(layout.pixels()) + static_cast<double>(patterns_bytes);
  const auto available = static_cast<double>(available_bytes());
  if (needed <= available) return;
  std::string keys;
  const auto name = [&keys](const std::string& key, const std::string& value) {
    keys += (keys.empty() ? " (" : ", ") + key + " = " + value;
  };
  const auto [h, w] = layout.window;
  const IntegerPair pad = config.detector.pad;
  if (pad[0] > 0 || pad[1] > 0) name("detector.pad", shape_words({pad[0], pad[1]}));
  if (config.probe.modes > 1) name("probe.modes", std::to_string(config.probe.modes));
  if (patterns_bytes > 0 && config.data.stream == false) name("data.stream", "false");
  throw RunError(config.data.file + ": data.patterns \"" + config.data.patterns +
                 "\" as windows of " + std::to_string(h) + " x " + std::to_string(w) +
                 " pixels must fit into the memory that is free, " + gigabytes(available) +
                 ", got a need of about " + gigabytes(needed) + keys + (keys.empty() ? "" : ")"));
}

// Of the patterns' bright disc, in pixels of the window, from a few of them.
double radius_in_patterns(const Config& config, const Stack& stack, const Layout& layout) {
  constexpr std::int64_t kSome = 16;
  const std::int64_t some = std::min(stack.patterns, kSome);
  Problem sample;
  sample.window = layout.window;
  for (std::int64_t k = 0; k < some; ++k) {
    sample.held.push_back(some > 1 ? k * (stack.patterns - 1) / (some - 1) : 0);
  }
  read_patterns(config, stack, make_pixel_map(config, layout), /*tolerant=*/true, sample);
  return bright_radius(sample.pattern_sum);
}

// The aperture of a computed probe must lie inside the frequencies that the window samples.
void require_aperture_inside(const Config& config, const Stack& stack, const Layout& layout,
                             const Problem& problem) {
  if (!config.probe.file.empty()) return;
  need_wavelength(config, problem, "a computed probe (probe.semiangle_mrad)");
  need_pixel(config, problem, "a computed probe (probe.semiangle_mrad)");
  const ProbeOptics optics = probe_optics(config, problem);
  const double edge_per_A = 1e-3 * optics.semiangle_mrad / optics.wavelength_A;
  const double nyquist_per_A = 0.5 / std::max(*problem.pixel_row_A, *problem.pixel_column_A);
  if (edge_per_A <= nyquist_per_A) return;
  constexpr double kFastest = 1000.0, kWidest = 500.0;  // keV, mrad
  std::string slip;
  if (*config.beam.energy_keV > kFastest) {
    slip = "is beam.energy_keV = " + number_words(*config.beam.energy_keV) + " in eV (" +
           number_words(1e-3 * *config.beam.energy_keV) + " keV)?";
  } else if (optics.semiangle_mrad > kWidest) {
    slip = "is it in urad (" + number_words(1e-3 * optics.semiangle_mrad) + " mrad)?";
  } else if (config.beam.kind == "electron" && !problem.detector) {
    // Where the patterns' own disc is that of the aperture the sampling has slipped.
    const double area = static_cast<double>(layout.pixels()) * *problem.pixel_row_A *
                        *problem.pixel_column_A;  // of the window
    slip = sampling_slip(config,
                         edge_per_A * std::sqrt(area) / radius_in_patterns(config, stack, layout));
  }
  throw_config_error(config, "probe.semiangle_mrad",
                     "lie inside the detector, which reaches to " +
                         number_words(1e3 * nyquist_per_A * optics.wavelength_A) + " mrad",
                     number_words(optics.semiangle_mrad) + ": " +
                         (slip.empty() ? "is it in mrad, and are beam.energy_keV = " +
                                             number_words(*config.beam.energy_keV) + " and " +
                                             sampling_words(config) + " in their units?"
                                       : slip));
}

// The position unit that would bring the probes of neighbours together, where they are apart; in
// words, or empty.
std::string unit_for_steps(const Config& config, const at::Tensor& positions,
                           const Problem& problem) {
  const double step = neighbour_distance(positions);
  // The probe takes its time where windows are large.
  if (2.0 * step < static_cast<double>(std::min(problem.window[0], problem.window[1]))) return "";
  Problem with_probe = problem;
  NumberPair shift{};
  load_probe(config, with_probe, shift);
  const double diameter = probe_diameter(with_probe.probe);
  return step > diameter ? usual_unit(config, problem.pixel_row_A, step, diameter) : "";
}

// An object that no machine holds is a mistake: in which key, and what would be usual.
[[noreturn]] void refuse_object(const Config& config, const at::Tensor& positions,
                                const ObjectFrame& frame, const Problem& problem) {
  const std::string rule = "keep the object below a million pixels a side";
  if (!problem.far_position.empty()) throw DataError(problem.far_position);
  if (static_cast<double>(config.object.padding) > 0.1 * kLargestSide) {
    throw_config_error(config, "object.padding", rule, std::to_string(config.object.padding));
  }
  if (config.data.affine) {
    const std::array<double, 4>& m = *config.data.affine;
    throw_config_error(config, "data.affine", rule,
                       "[[" + number_words(m[0]) + ", " + number_words(m[1]) + "], [" +
                           number_words(m[2]) + ", " + number_words(m[3]) + "]]");
  }
  const double span = (frame.positions.amax(0) - frame.positions.amin(0)).max().item<double>();
  const std::string other = unit_for_steps(config, positions, problem);
  throw_config_error(config, "data.position_unit", "suit the positions and " + rule,
                     "\"" + config.data.position_unit + "\", in which they span " +
                         words::number(span, 3) + " pixels" +
                         (other.empty() ? "" : " (" + other + ")"));
}

// What a run will hold, told to `fits` in shapes alone.
void outline(const Config& config, const Stack& stack, const at::Tensor& positions,
             const std::vector<std::int64_t>& counted, const Problem& problem,
             const OutlineCheck& fits) {
  const at::Tensor in_frame = positions.index_select(0, at::tensor(counted));
  const ObjectFrame frame =
      object_frame(in_frame, problem.window, config.object.padding, config.object.shape);
  if (static_cast<double>(std::max(frame.shape[0], frame.shape[1])) > kLargestSide) {
    refuse_object(config, in_frame, frame, problem);
  }
  if (!fits) return;
  const auto only_shape = [](const std::vector<std::int64_t>& shape, at::ScalarType type) {
    return at::empty(shape, at::TensorOptions().dtype(type).device(at::kMeta));
  };
  const auto [h, w] = problem.window;
  const auto n = static_cast<std::int64_t>(problem.frames.size());
  Problem shapes = problem;
  shapes.positions = positions.index_select(0, at::tensor(problem.frames)).contiguous();
  for (std::int64_t axis = 0; axis < 2; ++axis) {
    shapes.positions.select(1, axis) -= frame.offset[static_cast<std::size_t>(axis)];
  }
  shapes.object_shape = {config.object.slices, frame.shape[0], frame.shape[1]};
  shapes.held.resize(static_cast<std::size_t>(n));
  const std::int64_t in_memory = streams_patterns(config, n, h * w) ? 0 : n;
  const std::int64_t per_pixel = config.detector.bin[0] * config.detector.bin[1];
  shapes.patterns =
      only_shape({in_memory, h, w}, kept_type(stack.info.type, is_calibrated(config), per_pixel));
  shapes.probe = only_shape({config.probe.modes, h, w}, at::kComplexDouble);
  if (config.object.slices > 1) shapes.propagator = only_shape({h, w}, at::kComplexDouble);
  if (config.detector.geometry == "near") shapes.detector = only_shape({h, w}, at::kComplexDouble);
  shapes.between_pixels = true;
  try {
    fits(shapes);
  } catch (const RunError& error) {
    const std::string other = unit_for_steps(config, in_frame, problem);
    if (other.empty()) throw;
    std::string text = error.what();
    text +=
        "; is data.position_unit = \"" + config.data.position_unit + "\" right (" + other + ")?";
    throw RunError(text);
  }
}

}  // namespace

Problem load_geometry(const Config& config, const OutlineCheck& fits) {
  Problem problem;
  Located located = locate_in_data(config, "data.patterns", config.data.patterns);
  const Stack stack = open_stack(std::move(located), "data.patterns");
  problem.stored_type = stack.info.stored_type;
  problem.stored_shape = stack.info.shape;
  const Layout layout = lay_out(config, stack.frame);
  problem.window = layout.window;
  problem.zero_at = layout.zero_at;
  problem.zero_offset = layout.zero_offset;

  // What is cheap to check comes first: nothing large is made before it is known to fit.
  require_room(config, layout, stack.patterns, 0);
  set_wavelength(config, problem);
  compare_energy(config, stack.at.file, problem);
  set_object_pixel(config, problem);
  require_aperture_inside(config, stack, layout, problem);
  const std::vector<bool> chosen =
      chosen_frames(config, stack.patterns, [&](const std::string& key, const std::string& name) {
        const Located at = locate_in_data(config, key, name);
        return at.file.read(at.name);
      });
  Choice choice{config, stack, problem, chosen};
  if (const std::vector<std::int64_t> left = choice.all_used();
      static_cast<std::int64_t>(left.size()) < stack.patterns) {
    problem.left_out.push_back(
        std::to_string(stack.patterns - static_cast<std::int64_t>(left.size())) + " of the " +
        words::counted(stack.patterns, "frame") + " by data.select and data.skip");
  }
  choice.without_gaps();
  double epsilon = 0.0;
  at::Tensor positions = stored_positions(config, stack, chosen, epsilon);
  choice.with_finite_positions(positions);
  at::Tensor pixels = positions.clone();
  to_pixels(config, problem, pixels);
  const std::vector<std::int64_t> far = choice.without_far_positions(positions, pixels);
  problem.frames = choice.all_used();
  doubt_rounding(config, positions.index_select(0, at::tensor(problem.frames)), epsilon, problem);
  if (problem.frames.empty()) {
    throw DataError(stack.at.where("data.patterns") +
                    " must have a frame that can take part, got none: " + problem.left_out.back());
  }
  // The object reaches over frames that take no part too, unless their positions are the trouble.
  std::vector<bool> is_trouble(chosen.size(), false);
  for (const std::int64_t frame : far) is_trouble[static_cast<std::size_t>(frame)] = true;
  std::vector<std::int64_t> counted;
  for (std::int64_t frame = 0; frame < stack.patterns; ++frame) {
    if (choice.is_used(frame) ||
        (!is_trouble[static_cast<std::size_t>(frame)] && is_finite_pair(positions, frame))) {
      counted.push_back(frame);
    }
  }
  turn(config, counted, positions);
  to_pixels(config, problem, positions);
  outline(config, stack, positions, counted, problem, fits);
  const PixelMap map = make_pixel_map(config, layout);
  problem.first_stored = at::empty({map.window[0], map.window[1]}, at::kLong);
  for (std::int64_t pixel = 0; pixel < map.pixels(); ++pixel) {
    problem.first_stored.data_ptr<std::int64_t>()[pixel] =
        map.source[static_cast<std::size_t>(pixel * map.per_pixel)];
  }

  NumberPair shift = {0.0, 0.0};
  load_probe(config, problem, shift);
  positions.select(1, 0) -= shift[0];
  positions.select(1, 1) -= shift[1];

  choose_what_moves(config, positions.index_select(0, at::tensor(problem.frames)), problem);

  ObjectFrame frame = object_frame(positions.index_select(0, at::tensor(counted)), problem.window,
                                   config.object.padding, config.object.shape);
  for (std::int64_t axis = 0; axis < 2; ++axis) {
    positions.select(1, axis) -= frame.offset[static_cast<std::size_t>(axis)];
  }
  problem.file_positions = positions;
  problem.positions = positions.index_select(0, at::tensor(problem.frames)).contiguous();
  problem.offset = {frame.offset[0] + shift[0], frame.offset[1] + shift[1]};
  problem.object_shape = {config.object.slices, frame.shape[0], frame.shape[1]};

  if (config.object.slices > 1) {
    const std::string reason = "object.slices = " + std::to_string(config.object.slices);
    need_wavelength(config, problem, reason);
    need_pixel(config, problem, reason);
    problem.slice_distance_A =
        10.0 * config.object.thickness_nm / static_cast<double>(config.object.slices);
    problem.propagator = propagator_over(config, problem, problem.slice_distance_A);
  }
  if (config.detector.geometry == "near") {
    problem.detector = propagator_over(config, problem, 1e10 * *config.detector.distance_m);
  }
  look_at_some(config, stack, map, problem);
  return problem;
}

namespace {

// What reading patterns must know of a problem.
Problem for_reading(const Problem& problem) {
  Problem some;
  some.window = problem.window;
  some.frames = problem.frames;
  some.unmeasured = problem.unmeasured;
  some.block_shares = problem.block_shares;
  return some;
}

// Patterns, mask and statistics of some positions, ascending, alone.
Problem read_some(const Config& config, const Problem& problem, std::vector<std::int64_t> held) {
  Problem some = for_reading(problem);
  some.held = std::move(held);
  Located located = locate_in_data(config, "data.patterns", config.data.patterns);
  const Stack stack = open_stack(std::move(located), "data.patterns");
  read_patterns(config, stack, make_pixel_map(config, lay_out(config, stack.frame)),
                skips_bad_frames(config), some);
  return some;
}

// A mark that pixels of a few frames hold.
struct Mark {
  std::vector<std::int32_t> frames;  // by stored pixel, how many of the frames hold it there
  std::int32_t frames_with = 0;      // how many hold it anywhere
  bool in_this_frame = false;
};

// By value; all that is not finite is one.
template <typename T>
void count_marks(const T* stored, std::size_t pixels, double saturation,
                 std::map<std::string, Mark>& marks) {
  for (std::size_t pixel = 0; pixel < pixels; ++pixel) {
    const T value = stored[pixel];
    const bool odd = is_not_finite(value);
    if (!odd && !is_large_marker(value)) continue;
    if (!odd && static_cast<double>(value) >= saturation) continue;  // masked for that
    Mark& mark = marks[odd ? "no number (NaN or infinity)"
                           : marker_words(static_cast<double>(value), std::is_same_v<T, float>)];
    mark.frames.resize(pixels, 0);
    ++mark.frames[pixel];
    mark.in_this_frame = true;
  }
  for (auto& [value, mark] : marks) {
    mark.frames_with += std::exchange(mark.in_this_frame, false) ? 1 : 0;
  }
}

void look_at_some(const Config& config, const Stack& stack, const PixelMap& map, Problem& problem) {
  constexpr std::int64_t kSome = 16, kFewest = 3;
  const auto n = static_cast<std::int64_t>(problem.frames.size());
  const std::int64_t some = std::min(n, kSome);
  if (some < kFewest) return;
  std::vector<std::int64_t> positions, frames;
  for (std::int64_t k = 0; k < some; ++k) {
    positions.push_back(k * (n - 1) / (some - 1));
    frames.push_back(problem.frames[static_cast<std::size_t>(positions.back())]);
  }
  const auto pixels = static_cast<std::size_t>(map.stored[0] * map.stored[1]);
  std::map<std::string, Mark> marks;
  NegativeMarks negative(pixels);
  std::size_t next = 0;
  // The largest value of these two is masked wherever it occurs, and there is no other mark.
  const bool has_marks = stack.info.type != at::kByte && stack.info.type != at::kUInt16;
  for (const Box& box : has_marks ? boxes_of(stack, frames) : std::vector<Box>{}) {
    const at::Tensor block = read_box(stack, box);
    with_type(stack.info.type, [&](auto tag) {
      const auto* stored = static_cast<const decltype(tag)*>(block.data_ptr());
      for_each_in(stack, box, frames, next, [&](std::int64_t in_box, std::int64_t) {
        const auto* frame = stored + static_cast<std::size_t>(in_box) * pixels;
        count_marks(frame, pixels,
                    config.detector.saturation.value_or(std::numeric_limits<double>::infinity()),
                    marks);
        negative.add(frame);
      });
    });
  }
  const auto take_for_unmeasured = [&](const std::string& value,
                                       const std::vector<std::uint8_t>& stored) {
    const std::int64_t count = std::count(stored.begin(), stored.end(), 1);
    if (2 * count > static_cast<std::int64_t>(pixels)) {
      problem.found.push_back({std::to_string(count) + " of " + std::to_string(pixels) +
                                   " pixels hold " + value +
                                   " in every frame that was looked at: too many to take them for "
                                   "unmeasured (data.mask, detector.dark)",
                               "unmeasured pixels that count (data.mask)", Doubt::kPixels});
      return;
    }
    std::vector<std::uint8_t> window(static_cast<std::size_t>(map.pixels()));
    map_mask(stored.data(), map, window.data());
    if (!problem.unmeasured) {
      problem.unmeasured = at::zeros({map.window[0], map.window[1]}, at::kBool);
    }
    auto* all = static_cast<std::uint8_t*>(problem.unmeasured->data_ptr());
    std::int64_t here = 0;
    for (std::size_t pixel = 0; pixel < window.size(); ++pixel) {
      if (map.source[pixel * static_cast<std::size_t>(map.per_pixel)] < 0) continue;  // padding
      all[pixel] |= window[pixel];
      here += window[pixel];
    }
    problem.notes.push_back(words::counted(here, "pixel") + (here == 1 ? " holds " : " hold ") +
                            value + " in all frames: masked as unmeasured");
  };
  // Some of the frames may be bad themselves: without any mark, or one of them with half of them.
  const auto in_most = [some](std::int64_t with) { return 4 * with >= 3 * some; };
  for (const auto& [value, mark] : marks) {
    if (!in_most(mark.frames_with)) continue;
    std::vector<std::uint8_t> stored(pixels);
    for (std::size_t pixel = 0; pixel < pixels; ++pixel) {
      stored[pixel] = mark.frames[pixel] + 1 >= mark.frames_with ? 1 : 0;
    }
    if (std::find(stored.begin(), stored.end(), 1) != stored.end()) {
      take_for_unmeasured(value, stored);
    }
  }
  if (in_most(negative.frames())) {
    for (const NegativeMarks::Mark& mark : negative.found()) {
      take_for_unmeasured(number_words(mark.value), mark.pixels);
    }
  }

  Problem sample = for_reading(problem);
  sample.held = positions;
  read_patterns(config, stack, map, /*tolerant=*/true, sample);
  const std::vector<std::int64_t> hot =
      hot_pixels(sample.patterns, config.detector.geometry == "far");
  if (!hot.empty()) {
    const std::string words = pixel_words(problem, hot);
    problem.found.push_back({words::counted(static_cast<std::int64_t>(hot.size()), "pixel") +
                                 (hot.size() == 1 ? " is" : " are") +
                                 " 30 times brighter than all around in every frame: hot (" +
                                 words + "; data.mask)?",
                             "hot pixels (data.mask; " + words + ")", Doubt::kPixels});
  }
  const std::vector<std::uint8_t> blocks = blocks_of(map.window);
  constexpr auto kAll = static_cast<std::size_t>(kBlocks * kBlocks);
  std::vector<std::vector<double>> shares(kAll);
  std::vector<double> totals;
  for (std::int64_t k = 0; k < some; ++k) {
    const at::Tensor pattern = sample.patterns.select(0, k).to(at::kDouble).contiguous();
    const double* counts = pattern.const_data_ptr<double>();
    const double total =
        sample.statistics[positions[static_cast<std::size_t>(k)]][0].item<double>();
    if (!(total > 0.0)) continue;
    std::array<double, kAll> sums{};
    for (std::size_t pixel = 0; pixel < blocks.size(); ++pixel)
      sums[blocks[pixel]] += counts[pixel];
    for (std::size_t block = 0; block < kAll; ++block) shares[block].push_back(sums[block] / total);
    totals.push_back(total);
  }
  if (static_cast<std::int64_t>(totals.size()) < kFewest) return;
  problem.block_shares = at::zeros({kBlocks * kBlocks}, at::kDouble);
  for (std::size_t block = 0; block < kAll; ++block) {
    // Where chance leaves a block empty now and then, an empty one says nothing.
    constexpr double kSure = 20.0;
    const double share = lower_median(shares[block]);
    if (share * lower_median(totals) >= kSure) {
      problem.block_shares[static_cast<std::int64_t>(block)] = share;
    }
  }
}

// Patterns that are read from the file again whenever they are needed, ahead of time.
class FilePatterns final : public PatternSource {
 public:
  FilePatterns(const Config& config, const Problem& problem)
      : config_(config),
        window_(for_reading(problem)),
        held_(problem.held),
        type_(problem.patterns.scalar_type()) {}
  at::ScalarType type() const override { return type_; }
  PatternBlock rows(const at::Tensor& indices) const override {
    return prefetch_.take(request(indices));
  }
  void expect(const std::vector<at::Tensor>& next) const override {
    std::vector<Request> requests;
    for (const at::Tensor& indices : next) requests.push_back(request(indices));
    prefetch_.expect(requests);
  }
  void forget() const override { prefetch_.forget(); }

 private:
  using Request = std::vector<std::int64_t>;

  static Request request(const at::Tensor& indices) {
    const auto* begin = indices.const_data_ptr<std::int64_t>();
    return {begin, begin + indices.numel()};
  }

  PatternBlock read(const Request& indices) const {
    std::vector<std::int64_t> order(indices.size());
    std::iota(order.begin(), order.end(), 0);
    const auto row = [&](std::int64_t k) { return indices[static_cast<std::size_t>(k)]; };
    std::sort(order.begin(), order.end(),
              [&](std::int64_t a, std::int64_t b) { return row(a) < row(b); });
    std::vector<std::int64_t> held;
    at::Tensor back = at::empty({static_cast<std::int64_t>(order.size())}, at::kLong);
    for (const std::int64_t k : order) {
      back.data_ptr<std::int64_t>()[k] = static_cast<std::int64_t>(held.size());
      held.push_back(held_[static_cast<std::size_t>(row(k))]);
    }
    const Problem some = read_some(config_, window_, std::move(held));
    PatternBlock block{selected(some.patterns, back), some.mask};
    if (block.mask && block.mask->dim() == 3) block.mask = block.mask->index_select(0, back);
    return block;
  }

  Config config_;
  Problem window_;  // what reading must know
  std::vector<std::int64_t> held_;
  at::ScalarType type_;
  static constexpr std::size_t kAhead = 3;  // blocks
  mutable Prefetch<Request, PatternBlock> prefetch_{
      [this](const Request& indices) { return read(indices); }, kAhead,
      [] {                      // the other threads are at work
        at::get_num_threads();  // torch sets the thread's number when it is first asked
        if (omp_set_num_threads != nullptr) omp_set_num_threads(1);
      }};
};

}  // namespace

void load_patterns(const Config& config, Problem& problem, std::vector<std::int64_t> held) {
  const std::int64_t pixels = problem.window[0] * problem.window[1];
  if (!streams_patterns(config, static_cast<std::int64_t>(held.size()), pixels)) {
    Problem all = read_some(config, problem, std::move(held));
    problem.held = std::move(all.held);
    problem.patterns = all.patterns;
    problem.mask = all.mask;
    problem.statistics = all.statistics;
    problem.evidence = all.evidence;
    problem.good_patterns = all.good_patterns;
    problem.pattern_sum = all.pattern_sum;
    problem.summed_patterns = problem.good_patterns.clone();
    problem.source = std::make_shared<MemoryPatterns>(problem.patterns);
    return;
  }
  problem.held = std::move(held);
  constexpr std::int64_t kChunkBytes = std::int64_t{64} << 20;
  const std::size_t chunk =
      static_cast<std::size_t>(std::max<std::int64_t>(1, kChunkBytes / (4 * pixels)));
  for (std::size_t first = 0; first < problem.held.size() || first == 0; first += chunk) {
    const std::size_t end = std::min(problem.held.size(), first + chunk);
    const Problem some = read_some(config, problem,
                                   {problem.held.begin() + static_cast<std::ptrdiff_t>(first),
                                    problem.held.begin() + static_cast<std::ptrdiff_t>(end)});
    if (first == 0) {
      problem.statistics = some.statistics;
      problem.evidence = some.evidence;
      problem.good_patterns = some.good_patterns;
      problem.pattern_sum = some.pattern_sum;
      problem.patterns = some.patterns.narrow(0, 0, 0).clone();
    } else {
      problem.statistics.add_(some.statistics);  // each row comes from one chunk
      problem.evidence.add_(some.evidence);
      problem.good_patterns.add_(some.good_patterns);
      problem.pattern_sum.add_(some.pattern_sum);
    }
  }
  problem.summed_patterns = problem.good_patterns.clone();
  problem.source = std::make_shared<FilePatterns>(config, problem);
}

PatternBlock patterns_of(const Config& config, const Problem& problem,
                         std::vector<std::int64_t> positions) {
  const Problem some = read_some(config, problem, std::move(positions));
  return {some.patterns, some.mask};
}

void uncount(Problem& problem, std::int64_t held, bool stays) {
  const PatternBlock one = problem.source->rows(at::full({1}, held, at::kLong));
  problem.pattern_sum.sub_(one.patterns.select(0, 0).to(at::kDouble));
  std::optional<at::Tensor> mask = problem.mask ? problem.mask : one.mask;
  at::Tensor good = at::ones({problem.window[0], problem.window[1]}, at::kLong);
  if (mask) {
    if (mask->dim() == 3) mask = mask->select(0, problem.streams() ? 0 : held);
    good = mask->logical_not().to(at::kLong);
  }
  problem.summed_patterns.sub_(good);
  if (!stays) problem.good_patterns.sub_(good);
}

std::vector<bool> judge_frames(const Config& config, Problem& problem) {
  const auto n = static_cast<std::size_t>(problem.positions.size(0));
  std::vector<bool> stays(n, true);
  problem.suspected.assign(n, false);
  const bool automatic = skips_bad_frames(config);
  std::vector<std::int64_t> all_bad;
  for (auto& [what, places] :
       bad_frames(problem.statistics, problem.evidence, problem.window[0] * problem.window[1])) {
    std::vector<std::int64_t> frames;
    for (const std::int64_t k : places) {
      frames.push_back(problem.frames[static_cast<std::size_t>(k)]);
      if (automatic) stays[static_cast<std::size_t>(k)] = false;
    }
    all_bad.insert(all_bad.end(), frames.begin(), frames.end());
    const std::string words = frame_words(frames) + " " + what;
    if (automatic) {
      problem.left_out.push_back(words);
    } else {
      problem.found.push_back({words + ": fitted as they are; data.skip = \"auto\", or a list of "
                                       "frames, leaves them out",
                               "bad frames (data.skip)", Doubt::kFrames});
      for (const std::int64_t k : places) problem.suspected[static_cast<std::size_t>(k)] = true;
    }
  }
  // Without most of them there is nothing to compare with.
  if (2 * all_bad.size() > n) problem.suspected.assign(n, false);
  if (automatic && all_bad.size() == n) {
    throw DataError(
        config.data.file + ": data.patterns \"" + config.data.patterns +
        "\" must have a frame that can take part, got none: " + problem.left_out.back());
  }
  if (automatic && 4 * all_bad.size() > n) {
    problem.found.push_back({"data.skip = \"auto\" leaves out " + std::to_string(all_bad.size()) +
                                 " of " + words::counted(static_cast<std::int64_t>(n), "frame"),
                             ""});
  }
  // Marks that come and go.
  double pixels = 0.0, value = 0.0;
  std::int64_t frames = 0;
  for (std::size_t k = 0; k < n; ++k) {
    if (!stays[k]) continue;
    const double* row = problem.evidence.const_data_ptr<double>() +
                        k * static_cast<std::size_t>(FrameEvidence::kColumns);
    pixels += row[FrameEvidence::kMarkers];
    frames += row[FrameEvidence::kMarkers] > 0.0 ? 1 : 0;
    value = std::max(value, row[FrameEvidence::kMarker]);
  }
  if (pixels > 0.0) {
    problem.found.push_back({words::counted(static_cast<std::int64_t>(pixels), "pixel") + " of " +
                                 words::counted(frames, "frame") +
                                 (pixels == 1.0 ? " holds a value like " : " hold values like ") +
                                 marker_words(value, problem.stored_type == "float32") +
                                 ", with which detectors mark what they did not measure, but not "
                                 "the same pixels in all frames: taken for counts "
                                 "(detector.saturation masks them)",
                             "marks that are taken for counts (detector.saturation)",
                             Doubt::kPixels});
  }
  return stays;
}

void keep_positions(const Config& config, Problem& problem, const std::vector<bool>& stays) {
  if (std::find(stays.begin(), stays.end(), false) == stays.end()) return;
  std::vector<std::int64_t> kept, number_of(stays.size(), -1);
  for (std::size_t k = 0; k < stays.size(); ++k) {
    if (!stays[k]) continue;
    number_of[k] = static_cast<std::int64_t>(kept.size());
    kept.push_back(static_cast<std::int64_t>(k));
  }
  std::vector<std::int64_t> held;
  // In place: there may be no room for a second copy.
  const bool streams = problem.streams();
  const bool each = problem.mask && problem.mask->dim() == 3;
  const auto move_row = [](const at::Tensor& rows, std::size_t from, std::size_t to) {
    const std::size_t bytes =
        static_cast<std::size_t>(rows.numel() / rows.size(0)) * rows.element_size();
    auto* data = static_cast<char*>(rows.data_ptr());
    std::memmove(data + to * bytes, data + from * bytes, bytes);
  };
  for (std::size_t k = 0; k < problem.held.size(); ++k) {
    const std::int64_t number = number_of[static_cast<std::size_t>(problem.held[k])];
    if (number < 0) continue;
    if (!streams && k != held.size()) move_row(problem.patterns, k, held.size());
    if (each && k != held.size()) move_row(*problem.mask, k, held.size());
    held.push_back(number);
  }
  const at::Tensor rows = at::tensor(kept);
  problem.held = std::move(held);
  const auto here = static_cast<std::int64_t>(problem.held.size());
  std::vector<std::int64_t> frames;
  for (const std::int64_t k : kept) frames.push_back(problem.frames[static_cast<std::size_t>(k)]);
  problem.frames = std::move(frames);
  problem.positions = problem.positions.index_select(0, rows).contiguous();
  problem.statistics = problem.statistics.index_select(0, rows).contiguous();
  problem.evidence = problem.evidence.index_select(0, rows).contiguous();
  problem.suspected.assign(kept.size(), false);  // the suspected ones are those that went
  if (each) problem.mask = problem.mask->narrow(0, 0, here);
  if (streams) {
    problem.source = std::make_shared<FilePatterns>(config, problem);
  } else {
    problem.patterns = problem.patterns.narrow(0, 0, here);
    problem.source = std::make_shared<MemoryPatterns>(problem.patterns);
  }
}

void summarise_patterns(const Config& config, Problem& problem) {
  const std::int64_t n = problem.positions.size(0);
  const std::int64_t pixels = problem.window[0] * problem.window[1];
  problem.counts_per_pattern = problem.statistics.select(1, 0).contiguous();
  problem.pattern_checksums = problem.statistics.select(1, 9).contiguous();
  double largest = -std::numeric_limits<double>::infinity();
  const auto* row = problem.statistics.const_data_ptr<double>();
  for (std::int64_t k = 0; k < n; ++k, row += kStatistics) {
    problem.total_counts += row[0];
    if (row[5] < static_cast<double>(pixels)) largest = std::max(largest, row[1]);
    problem.negative_pixels += static_cast<std::int64_t>(row[2]);
    problem.sentinel_pixels += static_cast<std::int64_t>(row[3]);
    problem.saturated_pixels += static_cast<std::int64_t>(row[4]);
    problem.masked_pixels += static_cast<std::int64_t>(row[5]);
  }
  row = problem.statistics.const_data_ptr<double>();
  for (std::int64_t k = 0; k < n; ++k, row += kStatistics) {
    if (row[1] == largest) problem.pixels_at_largest += static_cast<std::int64_t>(row[6]);
  }
  problem.mean_counts_per_pattern = problem.total_counts / static_cast<double>(n);
  problem.largest_count = largest;
  const std::string where = config.data.file + ": data.patterns \"" + config.data.patterns + "\"";
  if (problem.masked_pixels == n * pixels) {
    throw DataError(where +
                    " must have an unmasked pixel (data.mask, detector.saturation), got all of "
                    "them masked");
  }
  if (!(problem.total_counts > 0.0)) {
    throw DataError(where +
                    " must hold counts over unmasked pixels (data.mask, detector.dark, "
                    "detector.saturation), got a sum of " +
                    number_words(problem.total_counts));
  }
  if (problem.masked_pixels > 0) {
    problem.good_share =
        problem.good_patterns.to(at::kDouble).div_(static_cast<double>(n)).contiguous();
  }
}

Problem load_problem(const Config& config) {
  Problem problem = load_geometry(config, [&config](const Problem& outline) {
    Layout layout;
    layout.window = outline.window;
    layout.per_pixel = config.detector.bin[0] * config.detector.bin[1];
    require_room(config, layout, outline.positions.size(0),
                 static_cast<std::int64_t>(outline.patterns.nbytes()));
  });
  std::vector<std::int64_t> all(static_cast<std::size_t>(problem.positions.size(0)));
  std::iota(all.begin(), all.end(), 0);
  load_patterns(config, problem, std::move(all));
  const std::vector<bool> stays = judge_frames(config, problem);
  for (std::size_t k = 0; k < stays.size(); ++k) {
    if (!stays[k] || problem.suspected[k]) {
      uncount(problem, static_cast<std::int64_t>(k), stays[k]);
    }
  }
  keep_positions(config, problem, stays);
  summarise_patterns(config, problem);
  return problem;
}

}  // namespace ptyle::driver
