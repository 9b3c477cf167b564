#include "driver/io/frames.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "driver/errors.h"
#include "driver/words.h"

namespace ptyle::driver {
namespace {

// A normal distribution's standard deviation in units of its median absolute deviation.
constexpr double kDeviations = 1.4826;

struct Spread {
  double median = 0.0, deviation = 0.0;  // median absolute deviation
};

Spread spread_of(const std::vector<double>& values) {
  Spread spread;
  spread.median = lower_median(values);
  std::vector<double> away;
  away.reserve(values.size());
  for (const double value : values) away.push_back(std::abs(value - spread.median));
  spread.deviation = lower_median(std::move(away));
  return spread;
}

// ---- which frames a config names ----

std::string range_words(std::int64_t frames) {
  return "name frames of the file, from 0 to " + std::to_string(frames - 1);
}

// A frame that is skipped twice is skipped; one that is selected twice takes part once, which may
// not be what was meant.
void mark_indices(const Config& config, const std::string& key, std::vector<bool>& marks,
                  const std::vector<std::int64_t>& indices) {
  const auto frames = static_cast<std::int64_t>(marks.size());
  for (const std::int64_t index : indices) {
    if (index < 0 || index >= frames) {
      throw_config_error(config, key, range_words(frames), std::to_string(index));
    }
    if (key == "data.select" && marks[static_cast<std::size_t>(index)]) {
      throw_config_error(config, key, "name each frame once", std::to_string(index) + " twice");
    }
    marks[static_cast<std::size_t>(index)] = true;
  }
}

void mark_dataset(const Config& config, const std::string& key, std::vector<bool>& marks,
                  const std::string& name, const at::Tensor& stored) {
  const auto frames = static_cast<std::int64_t>(marks.size());
  if (stored.is_floating_point() || stored.is_complex()) {
    throw_config_error(config, key, "hold indices or booleans",
                       "\"" + name + "\" of " + c10::toString(stored.scalar_type()));
  }
  const at::Tensor values = stored.to(at::kLong).flatten().contiguous();
  const auto* begin = values.const_data_ptr<std::int64_t>();
  const auto* end = begin + values.numel();
  // Zeros and ones, one for each frame, are no indices.
  const bool booleans = values.numel() == frames && frames > 2 &&
                        std::all_of(begin, end, [](std::int64_t v) { return v == 0 || v == 1; });
  if (!booleans) {
    if (stored.scalar_type() == at::kByte && values.numel() != frames) {
      throw_config_error(config, key,
                         "have one boolean for each of the " + words::counted(frames, "frame") +
                             ", or indices in a wider type",
                         "\"" + name + "\" with " + std::to_string(values.numel()));
    }
    if (stored.dim() > 1) {
      std::string shape;
      for (const std::int64_t size : stored.sizes()) {
        shape += (shape.empty() ? "[" : ", ") + std::to_string(size);
      }
      throw_config_error(config, key, "name one list of indices, or a boolean for each frame",
                         "\"" + name + "\" of the shape " + shape + "]");
    }
    mark_indices(config, key, marks, {begin, end});
    return;
  }
  for (std::int64_t k = 0; k < frames; ++k) marks[static_cast<std::size_t>(k)] = begin[k] != 0;
}

std::vector<bool> named_frames(const Config& config, const std::string& key,
                               const Config::Frames& named, std::int64_t frames,
                               const DatasetReader& read) {
  std::vector<bool> marks(static_cast<std::size_t>(frames), false);
  if (named.text.empty()) {
    mark_indices(config, key, marks, named.indices);
  } else if (const std::optional<FrameSlice> slice = frame_slice(named.text)) {
    const std::int64_t end = std::min(frames, slice->end.value_or(frames));
    for (std::int64_t k = slice->first; k < end; k += slice->step) {
      marks[static_cast<std::size_t>(k)] = true;
    }
  } else {
    mark_dataset(config, key, marks, named.text, read(key, named.text));
  }
  return marks;
}

// ---- what is wrong with a frame ----

// Both far by a factor, and far beyond the spread: of logarithms.
class FarOff {
 public:
  FarOff(const std::vector<double>& values, double factor) {
    std::vector<double> logs;
    for (const double value : values) {
      if (value > 0.0) logs.push_back(std::log(value));
    }
    const Spread spread = spread_of(logs);
    constexpr std::size_t kFewest = 8;  // of fewer there is no spread to speak of
    constexpr double kStandardDeviations = 8.0;
    median_ = spread.median;
    limit_ = logs.size() < kFewest
                 ? std::numeric_limits<double>::infinity()
                 : std::max(std::log(factor), kStandardDeviations * kDeviations * spread.deviation);
  }
  double median() const { return std::exp(median_); }
  bool above(double value) const { return value > 0.0 && std::log(value) - median_ > limit_; }
  bool below(double value) const { return value > 0.0 && median_ - std::log(value) > limit_; }

 private:
  double median_ = 0.0, limit_ = 0.0;
};

// ---- which positions are far from all others ----

// Positions [n, 2] of which some have been taken away.
class LeftOver {
 public:
  LeftOver(const double* positions, std::vector<std::int64_t> places) : p_(positions) {
    for (std::size_t axis = 0; axis < 2; ++axis) {
      order_[axis] = places;
      std::sort(order_[axis].begin(), order_[axis].end(),
                [&](std::int64_t a, std::int64_t b) { return along(a, axis) < along(b, axis); });
    }
  }
  // Of the wider axis; without `spared` at each end.
  double extent(std::size_t spared = 0) const {
    double widest = 0.0;
    for (std::size_t axis = 0; axis < 2; ++axis) {
      const auto& order = order_[axis];
      widest = std::max(widest,
                        along(order[order.size() - 1 - spared], axis) - along(order[spared], axis));
    }
    return widest;
  }
  double widest_gap() const {
    double widest = 0.0;
    for (std::size_t axis = 0; axis < 2; ++axis) {
      const auto& order = order_[axis];
      for (std::size_t k = 1; k < order.size(); ++k) {
        widest = std::max(widest, along(order[k], axis) - along(order[k - 1], axis));
      }
    }
    return widest;
  }

  // One or two positions, with all that are at the same places, and the gap behind them.
  struct End {
    double gap = 0.0;
    std::vector<std::int64_t> places;
  };
  End widest_end(std::size_t most) const {
    End widest;
    for (std::size_t axis = 0; axis < 2; ++axis) {
      look_along(order_[axis].begin(), order_[axis].end(), axis, most, widest);
      look_along(order_[axis].rbegin(), order_[axis].rend(), axis, most, widest);
    }
    return widest;
  }
  void take(const std::vector<std::int64_t>& places) {
    for (auto& order : order_) {
      std::erase_if(order, [&](std::int64_t k) {
        return std::find(places.begin(), places.end(), k) != places.end();
      });
    }
  }

 private:
  double along(std::int64_t k, std::size_t axis) const {
    return p_[2 * k + static_cast<std::int64_t>(axis)];
  }
  template <typename Iterator>
  void look_along(Iterator next, Iterator end, std::size_t axis, std::size_t most,
                  End& widest) const {
    constexpr std::size_t kTogether = 2;
    std::vector<std::int64_t> taken, different;
    for (; next != end && taken.size() <= most; ++next) {
      const bool known = std::any_of(different.begin(), different.end(), [&](std::int64_t k) {
        return along(k, 0) == along(*next, 0) && along(k, 1) == along(*next, 1);
      });
      if (!known && !taken.empty()) {
        const double gap = std::abs(along(*next, axis) - along(taken.back(), axis));
        if (gap > widest.gap) widest = {gap, taken};
      }
      if (!known && different.size() == kTogether) return;
      if (!known) different.push_back(*next);
      taken.push_back(*next);
    }
  }

  const double* p_;
  std::array<std::vector<std::int64_t>, 2> order_;
};

std::string short_number(double value) {
  char text[40];
  std::snprintf(text, sizeof(text), "%.4g", value);
  return text;
}

}  // namespace

std::string frame_words(const std::vector<std::int64_t>& frames) {
  constexpr std::size_t kNamed = 10;
  std::string text = words::counted(static_cast<std::int64_t>(frames.size()), "frame") + " (";
  for (std::size_t k = 0; k < std::min(kNamed, frames.size()); ++k) {
    text += (k > 0 ? ", " : "") + std::to_string(frames[k]);
  }
  if (frames.size() > kNamed) text += " and " + std::to_string(frames.size() - kNamed) + " more";
  return text + ")";
}

double lower_median(std::vector<double> values) {
  if (values.empty()) return 0.0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>((values.size() - 1) / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

bool skips_bad_frames(const Config& config) { return config.data.skip.text == "auto"; }

std::vector<bool> chosen_frames(const Config& config, std::int64_t frames,
                                const DatasetReader& read) {
  std::vector<bool> chosen(static_cast<std::size_t>(frames), true);
  if (config.data.select.given()) {
    chosen = named_frames(config, "data.select", config.data.select, frames, read);
    if (std::find(chosen.begin(), chosen.end(), true) == chosen.end()) {
      throw_config_error(config, "data.select",
                         "select a frame of the file's " + std::to_string(frames), "none");
    }
  }
  if (config.data.skip.given() && !skips_bad_frames(config)) {
    const std::vector<bool> skipped =
        named_frames(config, "data.skip", config.data.skip, frames, read);
    for (std::size_t k = 0; k < chosen.size(); ++k) chosen[k] = chosen[k] && !skipped[k];
    if (std::find(chosen.begin(), chosen.end(), true) == chosen.end()) {
      throw_config_error(config, "data.skip", "leave a frame of those selected", "none left");
    }
  }
  return chosen;
}

std::vector<std::int64_t> far_positions(const at::Tensor& positions) {
  const at::Tensor dense = positions.contiguous();
  const double* p = dense.const_data_ptr<double>();
  std::vector<std::int64_t> finite;
  for (std::int64_t k = 0; k < dense.size(0); ++k) {
    if (std::isfinite(p[2 * k]) && std::isfinite(p[2 * k + 1])) finite.push_back(k);
  }
  constexpr std::size_t kFewest = 8;
  const std::size_t most = std::max<std::size_t>(2, finite.size() / 10);
  if (finite.size() < kFewest + most) return {};
  LeftOver left(p, std::move(finite));
  // What is left at least is as wide as this.
  const double middle = left.extent(most);
  constexpr double kExtents = 0.5, kGaps = 5.0;
  std::vector<std::int64_t> taken, far;
  double least = std::numeric_limits<double>::infinity();  // of the gaps so far
  while (taken.size() < most) {
    const LeftOver::End end = left.widest_end(most - taken.size());
    least = std::min(least, end.gap);
    if (!(least > kExtents * middle)) break;
    left.take(end.places);
    taken.insert(taken.end(), end.places.begin(), end.places.end());
    // A position that is far hides one that is less far: judged against what is left in the end.
    if (least > kExtents * left.extent() && least > kGaps * left.widest_gap()) far = taken;
  }
  std::sort(far.begin(), far.end());
  return far;
}

std::vector<std::uint8_t> blocks_of(IntegerPair window) {
  std::vector<std::uint8_t> blocks;
  blocks.reserve(static_cast<std::size_t>(window[0] * window[1]));
  for (std::int64_t i = 0; i < window[0]; ++i) {
    for (std::int64_t j = 0; j < window[1]; ++j) {
      blocks.push_back(
          static_cast<std::uint8_t>(i * kBlocks / window[0] * kBlocks + j * kBlocks / window[1]));
    }
  }
  return blocks;
}

BadFrames bad_frames(const at::Tensor& statistics, const at::Tensor& evidence,
                     std::int64_t pixels) {
  const auto n = static_cast<std::size_t>(statistics.size(0));
  const auto columns = static_cast<std::size_t>(statistics.size(1));
  const double* row = statistics.const_data_ptr<double>();
  const double* told = evidence.const_data_ptr<double>();
  const auto statistic = [&](std::size_t k, std::size_t column) {
    return row[k * columns + column];
  };
  const auto evidence_of = [&](std::size_t k, std::int64_t column) {
    return told[k * FrameEvidence::kColumns + static_cast<std::size_t>(column)];
  };
  std::vector<double> counts, brightest;
  for (std::size_t k = 0; k < n; ++k) {
    counts.push_back(statistic(k, 0));
    brightest.push_back(statistic(k, 1));
  }
  constexpr double kFarCounts = 4.0, kFarPixel = 30.0;
  const FarOff by_counts(counts, kFarCounts), by_pixel(brightest, kFarPixel);
  const double median = by_counts.median();
  constexpr double kChance = 1e-3;
  const bool none_is_odd = static_cast<double>(n) * std::exp(-median) < kChance;
  constexpr double kMissingShare = 0.1;

  enum Kind { kFault, kMarked, kNone, kHalf, kFew, kMany, kPixel, kKinds };
  std::array<std::vector<std::int64_t>, kKinds> found;
  for (std::size_t k = 0; k < n; ++k) {
    const auto wholly = static_cast<double>(pixels);
    const double marked = statistic(k, 3) + statistic(k, 4), masked = statistic(k, 5);
    const double missing = evidence_of(k, FrameEvidence::kEmptyShare);
    Kind kind = kKinds;
    if (evidence_of(k, FrameEvidence::kFault) > 0.0) {
      kind = kFault;
    } else if (masked >= wholly) {  // by data.mask: as was wanted
      if (marked >= 0.5 * wholly) kind = kMarked;
    } else if (!(counts[k] > 0.0)) {
      if (none_is_odd) kind = kNone;
    } else if (missing >= kMissingShare && counts[k] <= (1.0 - 0.5 * missing) * median) {
      kind = kHalf;
    } else if (by_counts.below(counts[k])) {
      kind = kFew;
    } else if (by_counts.above(counts[k])) {
      kind = kMany;
    } else if (by_pixel.above(brightest[k])) {
      kind = kPixel;
    }
    if (kind != kKinds) found[kind].push_back(static_cast<std::int64_t>(k));
  }
  // What more than a fifth of the frames do belongs to the specimen.
  for (const Kind kind : {kFew, kMany, kPixel}) {
    if (5 * found[kind].size() > n) found[kind].clear();
  }
  const std::string typical = "the median of " + short_number(median);
  const std::array<std::string, kKinds> words = {
      "with values that are not finite or do not fit",
      "marked or saturated in all pixels",
      "without counts",
      "empty in a part of the pattern where the others have counts (half written?)",
      "with far fewer counts than " + typical,
      "with far more counts than " + typical,
      "whose brightest pixel is far above the others' (their median: " +
          short_number(by_pixel.median()) + ")"};
  BadFrames bad;
  for (std::size_t kind = 0; kind < kKinds; ++kind) {
    if (!found[kind].empty()) bad.emplace_back(words[kind], std::move(found[kind]));
  }
  return bad;
}

}  // namespace ptyle::driver
