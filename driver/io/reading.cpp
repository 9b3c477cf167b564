#include "driver/io/reading.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "driver/errors.h"
#include "driver/io/frames.h"
#include "driver/io/pixels.h"
#include "driver/memory.h"
#include "driver/words.h"

namespace ptyle::driver {
namespace {

// The mask of the config in window layout: [h, w], or [held, h, w] where it differs by pattern.
// Bytes, 1 = bad. Unmeasured pixels are bad.
struct Mask {
  std::vector<std::uint8_t> common;  // [h, w]
  at::Tensor each;                   // [held, h, w] bool; undefined where `common` says it all
};

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
                    words::shape({map.stored[0], map.stored[1]}) + " or [" +
                    std::to_string(patterns) + ", " + std::to_string(map.stored[0]) + ", " +
                    std::to_string(map.stored[1]) + "], as the patterns have, got " +
                    words::shape(info.shape));
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
                    words::shape({map.stored[0], map.stored[1]}) + ", got " +
                    words::shape(stack.info.shape));
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

enum class Fault : std::uint8_t { kNone, kNotFinite, kTooLarge, kNotExact };

// What one pattern's pixels gave, added up in the order of positions: the same for any threads.
struct PatternStatistics {
  double sum = 0.0;
  double largest = -std::numeric_limits<double>::infinity();
  std::int64_t negative = 0, sentinel = 0, saturated = 0, masked = 0, at_largest = 0;
  std::int64_t below_largest = 0;  // have one less
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
    if (sum > statistics.largest) {
      statistics.below_largest = sum - 1.0 == statistics.largest ? statistics.at_largest : 0;
      statistics.at_largest = 0;
      statistics.largest = sum;
    }
    if (sum == statistics.largest) ++statistics.at_largest;
    if (sum == statistics.largest - 1.0) ++statistics.below_largest;
    if (sum < 0.0) ++statistics.negative;
  }
  return marked;
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
                  words::exact(statistics.fault_value) + " at " + words::shape(index));
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

}  // namespace

bool streams_patterns(const Config& config, std::int64_t patterns, std::int64_t pixels) {
  const double bytes = static_cast<double>(patterns) * static_cast<double>(pixels) * 4.0;
  return config.data.stream.value_or(bytes > static_cast<double>(available_bytes()) / 2);
}

bool is_calibrated(const Config& config) {
  const Config::Detector& detector = config.detector;
  return !detector.dark_dataset.empty() || detector.dark != 0.0 || detector.gain != 1.0;
}

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

std::string marker_words(double value, bool in_float) {
  constexpr double k32 = 4294967295.0;
  return words::exact(value) +
         (in_float && value == k32 + 1.0 ? " (4294967295 as a 32-bit float)" : "");
}

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
                      words::shape({map.stored[0], map.stored[1]}) +
                      ", as the patterns have, got " + info.stored_type + " " +
                      words::shape(info.shape));
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
    to[10] = static_cast<double>(one.below_largest);
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

}  // namespace ptyle::driver
