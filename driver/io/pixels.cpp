#include "driver/io/pixels.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <numeric>
#include <optional>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "driver/io/problem.h"

namespace ptyle::driver {
namespace {

// "[3, 5], [7, 9] and 4 more" of pixels of the stored pattern.
std::string words_of(const std::vector<std::int64_t>& stored, std::int64_t width) {
  constexpr std::size_t kNamed = 10;
  std::string words;
  for (std::size_t k = 0; k < std::min(kNamed, stored.size()); ++k) {
    words += k > 0 ? ", [" : "[";
    words += std::to_string(stored[k] / width) + ", ";
    words += std::to_string(stored[k] % width) + "]";
  }
  if (stored.size() > kNamed) words += " and " + std::to_string(stored.size() - kNamed) + " more";
  return words;
}

// ---- dead pixels ----

// A problem's summed pattern, the zero frequency in the middle.
class Sums {
 public:
  explicit Sums(const Problem& problem)
      : h_(problem.window[0]), w_(problem.window[1]), stored_w_(problem.stored_shape.back()) {
    const bool far = !problem.detector;
    const double* sums = problem.pattern_sum.const_data_ptr<double>();
    const auto* patterns = problem.summed_patterns.const_data_ptr<std::int64_t>();
    const auto* stored = problem.first_stored.const_data_ptr<std::int64_t>();
    for (std::int64_t i = 0; i < h_; ++i) {
      for (std::int64_t j = 0; j < w_; ++j) {
        const std::int64_t row = far ? (i + h_ - h_ / 2) % h_ : i;
        const std::int64_t column = far ? (j + w_ - w_ / 2) % w_ : j;
        const std::int64_t at = row * w_ + column;
        pixels_.push_back({sums[at], patterns[at] > 0 && stored[at] >= 0, false, stored[at]});
      }
    }
    // So many counts are not missed in any of a million pixels.
    constexpr double kSure = 30.0;
    sure_ = kSure * static_cast<double>(std::max<std::int64_t>(1, one_count(problem)));
  }

  DeadPixels find() {
    DeadPixels found;
    for (const bool rows : {true, false}) {
      const std::int64_t length = rows ? w_ : h_;
      for (const auto& [first, end] : std::array<std::pair<std::int64_t, std::int64_t>, 3>{
               {{0, length}, {0, length / 2}, {length / 2, length}}}) {
        find_lines(rows, first, end, found.words);
      }
    }
    for (std::int64_t k = 0; k < h_ * w_; ++k) find_hole(k);
    std::vector<std::int64_t> holes;
    for (std::size_t k = 0; k < pixels_.size(); ++k) {
      const Pixel& pixel = pixels_[k];
      if (pixel.dead) found.centred.push_back(k);
      if (pixel.dead && !pixel.in_line) holes.push_back(pixel.stored);
    }
    found.count = static_cast<std::int64_t>(found.centred.size());
    const std::string words = words_of(holes, stored_w_);
    if (!words.empty()) found.words += (found.words.empty() ? "" : ", ") + words;
    if (found.count > 0) found.words += " of the stored pattern";
    return found;
  }

 private:
  struct Pixel {
    double sum;
    bool measured, dead;
    std::int64_t stored;
    bool in_line = false, seen = false;
  };

  Pixel& at(bool rows, std::int64_t line, std::int64_t along) {
    return pixels_[static_cast<std::size_t>(rows ? line * w_ + along : along * w_ + line)];
  }

  void find_lines(bool rows, std::int64_t first, std::int64_t end, std::string& words) {
    const std::int64_t lines = rows ? h_ : w_;
    std::int64_t before = -1;         // the last line with enough counts
    std::vector<std::int64_t> empty;  // since then
    for (std::int64_t line = 0; line < lines; ++line) {
      double sum = 0.0;
      std::int64_t measured = 0;
      for (std::int64_t k = first; k < end; ++k) {
        const Pixel& pixel = at(rows, line, k);
        sum += pixel.measured ? pixel.sum : 0.0;
        measured += pixel.measured && !pixel.dead ? 1 : 0;
      }
      if (measured == 0) continue;  // padding, masked, or found before
      if (sum == 0.0) {
        empty.push_back(line);
        continue;
      }
      if (sum >= sure_ && before >= 0 && static_cast<std::int64_t>(empty.size()) <= widest(lines)) {
        for (const std::int64_t one : empty) mark_line(rows, one, first, end, words);
      }
      empty.clear();
      before = sum >= sure_ ? line : -1;
    }
  }

  static std::int64_t widest(std::int64_t size) { return std::max<std::int64_t>(3, size / 8); }

  void mark_line(bool rows, std::int64_t line, std::int64_t first, std::int64_t end,
                 std::string& words) {
    std::int64_t least_row = -1, most_row = -1, least_column = -1, most_column = -1;
    for (std::int64_t k = first; k < end; ++k) {
      Pixel& pixel = at(rows, line, k);
      if (!pixel.measured) continue;
      pixel.dead = pixel.in_line = true;
      const std::int64_t row = pixel.stored / stored_w_, column = pixel.stored % stored_w_;
      least_row = least_row < 0 ? row : std::min(least_row, row);
      most_row = std::max(most_row, row);
      least_column = least_column < 0 ? column : std::min(least_column, column);
      most_column = std::max(most_column, column);
    }
    const bool is_row = least_row == most_row;  // stored: the window may be transposed
    if (!words.empty()) words += ", ";
    words += (is_row ? "row " : "column ") + std::to_string(is_row ? least_row : least_column);
    if (end - first < (rows ? w_ : h_)) {
      words += (is_row ? " in columns " : " in rows ") +
               std::to_string(is_row ? least_column : least_row) + " to " +
               std::to_string(is_row ? most_column : most_row);
    }
  }

  // The pixels without counts that hang together with this one, where all around them have enough.
  void find_hole(std::int64_t start) {
    const auto is_empty = [](const Pixel& pixel) {
      return pixel.measured && !pixel.dead && pixel.sum == 0.0;
    };
    if (!is_empty(pixels_[static_cast<std::size_t>(start)]) ||
        pixels_[static_cast<std::size_t>(start)].seen) {
      return;
    }
    std::vector<std::int64_t> hole = {start};
    pixels_[static_cast<std::size_t>(start)].seen = true;
    std::int64_t top = h_, bottom = 0, left = w_, right = 0, lit = 0;
    bool closed = true;
    for (std::size_t next = 0; next < hole.size(); ++next) {
      const std::int64_t row = hole[next] / w_, column = hole[next] % w_;
      top = std::min(top, row);
      bottom = std::max(bottom, row);
      left = std::min(left, column);
      right = std::max(right, column);
      for (std::int64_t i = row - 1; i <= row + 1; ++i) {
        for (std::int64_t j = column - 1; j <= column + 1; ++j) {
          if (i < 0 || j < 0 || i >= h_ || j >= w_) {
            closed = false;
            continue;
          }
          Pixel& pixel = pixels_[static_cast<std::size_t>(i * w_ + j)];
          if (is_empty(pixel)) {
            if (!pixel.seen) hole.push_back(i * w_ + j);
            pixel.seen = true;
          } else if (!pixel.measured) {  // the edge of what there is, as far as one can see
            closed = false;
          } else if (!pixel.dead) {
            closed = closed && pixel.sum >= sure_;
            ++lit;
          }
        }
      }
    }
    const bool small = bottom - top < 2 * widest(h_) && right - left < 2 * widest(w_);
    if (!closed || !small || lit < 4) return;
    for (const std::int64_t k : hole) pixels_[static_cast<std::size_t>(k)].dead = true;
  }

  std::int64_t h_, w_, stored_w_;
  std::vector<Pixel> pixels_;
  double sure_ = 0.0;  // what is never missed by chance
};

// ---- hot pixels ----

// The sum of some patterns, periodic.
class Bright {
 public:
  Bright(const at::Tensor& sum, const at::Tensor& lit, std::int64_t patterns, bool far_field)
      : h_(sum.size(0)), w_(sum.size(1)), patterns_(patterns), far_field_(far_field) {
    const double *sums = sum.const_data_ptr<double>(), *lits = lit.const_data_ptr<double>();
    sums_.assign(sums, sums + h_ * w_);
    for (std::int64_t k = 0; k < h_ * w_; ++k) {
      steady_.push_back(4.0 * lits[k] >= 3.0 * static_cast<double>(patterns));
    }
  }

  HotPixels find() {
    HotPixels found;
    for (const bool rows : {true, false}) find_lines(rows, found);
    candidate_.assign(sums_.size(), false);
    for (std::int64_t k = 0; k < h_ * w_; ++k) candidate_[index(k)] = stands_out(k);
    std::vector<bool> seen(sums_.size(), false);
    for (std::int64_t k = 0; k < h_ * w_; ++k) {
      if (candidate_[index(k)] && !seen[index(k)]) add_cluster(k, seen, found.single);
    }
    std::stable_sort(found.single.begin(), found.single.end(), [&](std::int64_t a, std::int64_t b) {
      return sums_[index(a)] > sums_[index(b)];
    });
    return found;
  }

 private:
  static constexpr double kHot = 30.0;  // times brighter
  static constexpr std::int64_t kAround = 2;
  static std::size_t index(std::int64_t k) { return static_cast<std::size_t>(k); }

  // work(pixel) for all around, in 5 x 5.
  template <typename Work>
  void around(std::int64_t pixel, const Work& work) const {
    const std::int64_t i = pixel / w_, j = pixel % w_;
    for (std::int64_t a = -kAround; a <= kAround; ++a) {
      for (std::int64_t b = -kAround; b <= kAround; ++b) {
        if (a != 0 || b != 0) work(((i + a) % h_ + h_) % h_ * w_ + ((j + b) % w_ + w_) % w_);
      }
    }
  }

  // The beam itself may be sharp.
  bool is_beam(std::int64_t row, std::int64_t column) const {
    return far_field_ && std::min(row, h_ - row) <= kAround &&
           std::min(column, w_ - column) <= kAround;
  }

  // Above most of what is around: some of that may be hot too.
  bool stands_out(std::int64_t pixel) const {
    const double here = sums_[index(pixel)];
    if (here < kHot * static_cast<double>(patterns_) || !steady_[index(pixel)] ||
        is_beam(pixel / w_, pixel % w_)) {
      return false;
    }
    std::vector<double> values;
    around(pixel, [&](std::int64_t other) { values.push_back(sums_[index(other)]); });
    const auto most = values.begin() + 2 * static_cast<std::ptrdiff_t>(values.size()) / 3;
    std::nth_element(values.begin(), most, values.end());
    return here > kHot * *most;
  }

  // What stands out side by side is hot where it is little and all around it is dark: a spot of a
  // crystal has a rim.
  void add_cluster(std::int64_t start, std::vector<bool>& seen,
                   std::vector<std::int64_t>& hot) const {
    constexpr std::size_t kMost = 6;
    std::vector<std::int64_t> cluster = {start};
    seen[index(start)] = true;
    for (std::size_t next = 0; next < cluster.size(); ++next) {
      around(cluster[next], [&](std::int64_t other) {
        if (!candidate_[index(other)] || seen[index(other)]) return;
        seen[index(other)] = true;
        cluster.push_back(other);
      });
    }
    bool dark = cluster.size() <= kMost;
    for (const std::int64_t pixel : cluster) {
      around(pixel, [&](std::int64_t other) {
        dark =
            dark && (candidate_[index(other)] || sums_[index(pixel)] > kHot * sums_[index(other)]);
      });
    }
    if (dark) hot.insert(hot.end(), cluster.begin(), cluster.end());
  }

  // Rows, or columns, that are half as bright again as the two on either side in nine of ten
  // pixels, by more than noise; not those through the beam, where slits leave streaks.
  void find_lines(bool rows, HotPixels& found) const {
    constexpr std::int64_t kShortest = 16;
    constexpr double kMore = 1.5, kDeviations = 5.0, kShare = 0.9;
    const std::int64_t lines = rows ? h_ : w_, length = rows ? w_ : h_;
    if (lines < 2 * kAround + 1) return;
    const auto value = [&](std::int64_t line, std::int64_t along) {
      line = (line % lines + lines) % lines;
      return sums_[index(rows ? line * w_ + along : along * w_ + line)];
    };
    for (std::int64_t line = 0; line < lines; ++line) {
      if (far_field_ && std::min(line, lines - line) <= kAround) continue;
      std::int64_t above = 0, all = 0;
      for (std::int64_t along = 0; along < length; ++along) {
        double most = 0.0;
        for (std::int64_t a = 1; a <= kAround; ++a) {
          most = std::max({most, value(line - a, along), value(line + a, along)});
        }
        const double here = value(line, along);
        all += here != 0.0 || most != 0.0 ? 1 : 0;
        above += here > kMore * most && here - most > kDeviations * std::sqrt(here) ? 1 : 0;
      }
      if (all < kShortest || static_cast<double>(above) < kShare * static_cast<double>(all)) {
        continue;
      }
      std::vector<std::int64_t> pixels;
      for (std::int64_t along = 0; along < length; ++along) {
        pixels.push_back(rows ? line * w_ + along : along * w_ + line);
      }
      found.lines.push_back(std::move(pixels));
    }
  }

  std::int64_t h_, w_, patterns_;
  bool far_field_;
  std::vector<double> sums_;
  std::vector<bool> steady_, candidate_;
};

}  // namespace

std::int64_t one_count(const Problem& problem) {
  const double* sums = problem.pattern_sum.const_data_ptr<double>();
  std::int64_t common = 0, nonzero = 0;
  for (std::int64_t i = 0; i < problem.pattern_sum.numel(); ++i) {
    constexpr double kExact = 9007199254740992.0;  // 2^53
    if (sums[i] != std::floor(sums[i]) || std::abs(sums[i]) > kExact) return 0;
    if (sums[i] == 0.0) continue;
    common = std::gcd(common, static_cast<std::int64_t>(std::abs(sums[i])));
    ++nonzero;
  }
  constexpr std::int64_t kEnough = 32;  // fewer may agree by chance
  return nonzero < kEnough ? 0 : common;
}

std::vector<NegativeMarks::Mark> NegativeMarks::found() const {
  std::map<double, Mark> marks;
  for (std::size_t k = 0; k < value_.size(); ++k) {
    if (value_[k] == 0.0 || votes_[k] + 2 < frames_) continue;
    Mark& mark = marks[value_[k]];
    mark.value = value_[k];
    mark.pixels.resize(value_.size(), 0);
    mark.pixels[k] = 1;
    ++mark.count;
  }
  std::vector<Mark> all;
  for (auto& [value, mark] : marks) {
    const std::int64_t inside = mark.count * frames_;
    if (1000 * (occurrences_.at(value) - inside) <= inside) all.push_back(std::move(mark));
  }
  return all;
}

HotPixels hot_pixels(const at::Tensor& patterns, bool far_field) {
  const std::int64_t k = patterns.size(0), h = patterns.size(1), w = patterns.size(2);
  // One by one: in float64 all of them may not fit.
  const at::Tensor sum = at::zeros({h, w}, at::kDouble), lit = at::zeros({h, w}, at::kDouble);
  for (std::int64_t one = 0; one < k; ++one) {
    const at::Tensor pattern = patterns.select(0, one).to(at::kDouble);
    sum.add_(pattern);
    lit.add_(pattern.gt(0.0));
  }
  return Bright(sum, lit, k, far_field).find();
}

DeadPixels dead_pixels(const Problem& problem) {
  constexpr std::int64_t kEnough = 9;  // patterns: interference has no zero in so many
  if (problem.positions.size(0) < kEnough) return {};
  return Sums(problem).find();
}

std::optional<Pedestal> pedestal_of(const at::Tensor& patterns,
                                    const std::optional<at::Tensor>& mask) {
  constexpr std::int64_t kFewestPatterns = 8, kFewestPixels = 64;
  const std::int64_t n = patterns.size(0);
  if (n < kFewestPatterns) return std::nullopt;
  // One by one: in float64 all of them may not fit.
  at::Tensor least = patterns.select(0, 0).to(at::kDouble).flatten();
  at::Tensor means = at::zeros_like(least), squares = at::zeros_like(least);  // of deviations
  for (std::int64_t one = 0; one < n; ++one) {
    const at::Tensor values = patterns.select(0, one).to(at::kDouble).flatten();
    const at::Tensor off = values - means;
    means.add_(off, 1.0 / static_cast<double>(one + 1));
    squares.addcmul_(off, values - means);  // Welford, Technometrics 4, 1962, 419
    least = at::minimum(least, values);
  }
  at::Tensor order = means.argsort();
  if (mask) {
    const at::Tensor good = mask->reshape({-1, means.size(0)}).any(0).logical_not();
    order = order.masked_select(good.index_select(0, order));
  }
  const std::int64_t darkest = order.size(0) / 4;
  if (darkest < kFewestPixels) return std::nullopt;
  order = order.narrow(0, 0, darkest);
  const auto mean_of = [&order](const at::Tensor& image) {
    return image.index_select(0, order).mean().item<double>();
  };
  const double mean = mean_of(means), variance = mean_of(squares) / static_cast<double>(n - 1);
  constexpr double kFewCounts = 5.0;
  // Counts vary by their mean; specimens make dark pixels vary more, not less.
  if (mean < kFewCounts || variance > 0.5 * mean ||
      least.index_select(0, order).min().item<double>() < 0.5 * mean) {
    return std::nullopt;
  }
  return Pedestal{mean, std::sqrt(variance)};
}

std::string line_words(const Problem& problem, const std::vector<std::int64_t>& line) {
  const auto* stored = problem.first_stored.const_data_ptr<std::int64_t>();
  const std::int64_t width = problem.stored_shape.back();
  std::vector<std::int64_t> rows, columns;
  for (const std::int64_t pixel : line) {
    if (stored[pixel] < 0) continue;
    rows.push_back(stored[pixel] / width);
    columns.push_back(stored[pixel] % width);
  }
  const bool is_row =
      std::adjacent_find(rows.begin(), rows.end(), std::not_equal_to<>()) == rows.end();
  return (is_row ? "row " : "column ") + std::to_string(is_row ? rows.front() : columns.front());
}

std::string pixel_words(const Problem& problem, const std::vector<std::int64_t>& pixels) {
  const auto* stored = problem.first_stored.const_data_ptr<std::int64_t>();
  std::vector<std::int64_t> places;
  for (const std::int64_t pixel : pixels) places.push_back(stored[pixel]);
  return words_of(places, problem.stored_shape.back()) + " of the stored pattern";
}

}  // namespace ptyle::driver
