#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <ATen/ATen.h>

#include "driver/check/parts.h"
#include "driver/io/guesses.h"
#include "driver/io/pixels.h"
#include "driver/words.h"

namespace ptyle::driver {
namespace {

using words::number;

using Point = std::array<double, 2>;

// [h, w] float64, the zero frequency in the middle.
at::Tensor centred(const Problem& problem, const at::Tensor& image) {
  return at::roll(image, {problem.window[0] / 2, problem.window[1] / 2}, {0, 1}).contiguous();
}

// The mean over the patterns that measured a pixel; 0 where none did, and where a pixel is hot.
at::Tensor mean_pattern(const Problem& problem) {
  const at::Tensor mean =
      problem.pattern_sum / problem.summed_patterns.clamp_min(1).to(at::kDouble);
  for (const std::int64_t pixel : problem.hot) mean.data_ptr<double>()[pixel] = 0.0;
  return mean;
}

// The middle of an image's bright part: of values above a tenth of what its brightest hundredth
// has, held at half of it, so that neither a hot pixel nor weak scattering has much say. Pixels
// whose mirror image was not measured are left out, round by round.
std::optional<Point> middle_of(const at::Tensor& image, const at::Tensor& measured, Point start) {
  const std::int64_t h = image.size(0), w = image.size(1);
  const double bright = bright_level(image);
  if (!(bright > 0.0)) return std::nullopt;
  const double* value = image.const_data_ptr<double>();
  const auto* good = static_cast<const std::uint8_t*>(measured.const_data_ptr());
  Point centre = start;
  for (int round = 0; round < 8; ++round) {
    double sum = 0.0, rows = 0.0, columns = 0.0;
    std::int64_t used = 0, unusable = 0;
    for (std::int64_t i = 0; i < h; ++i) {
      for (std::int64_t j = 0; j < w; ++j) {
        const double weight = std::min(value[i * w + j], 0.5 * bright) - 0.1 * bright;
        if (good[i * w + j] == 0 || weight <= 0.0) continue;
        const std::int64_t k = std::llround(2.0 * centre[0]) - i;
        const std::int64_t l = std::llround(2.0 * centre[1]) - j;
        if (k < 0 || k >= h || l < 0 || l >= w || good[k * w + l] == 0) {
          ++unusable;
          continue;
        }
        ++used;
        sum += weight;
        rows += weight * static_cast<double>(i);
        columns += weight * static_cast<double>(j);
      }
    }
    if (used < 4 || unusable > 3 * used || !(sum > 0.0)) return std::nullopt;
    centre = {rows / sum, columns / sum};
  }
  return centre;
}

// A disc is as far from the middle as from the corner in no order but the right one.
bool in_the_other_order(const Problem& problem, const at::Tensor& image) {
  const double here = spread_around(image, problem.window[0] / 2, problem.window[1] / 2);
  const double there = spread_around(image, 0, 0);
  return there < 0.8 * here;
}

void doubt_centre(const Config& config, const Problem& problem, std::vector<Doubt>& found) {
  const at::Tensor image = centred(problem, mean_pattern(problem));
  if (in_the_other_order(problem, image)) {
    const bool corner = config.data.zero_frequency == "corner";
    found.push_back({"the counts lie around " + std::string(corner ? "the middle" : "the corners") +
                         " of the mean pattern: is data.zero_frequency \"" +
                         (corner ? "center" : "corner") + "\"?",
                     "the order of the patterns (data.zero_frequency)"});
    return;
  }
  const std::optional<Point> where = zero_frequency_of(problem);
  if (!where || problem.positions.size(0) < kAveraged) return;
  const Point off = {(*where)[0] - problem.zero_offset[0], (*where)[1] - problem.zero_offset[1]};
  // A specimen's mean gradient of the phase moves the pattern by less, as a rule.
  constexpr double kOff = 0.3;
  if (std::abs(off[0]) <= kOff && std::abs(off[1]) <= kOff) return;
  Point proposed{};
  for (std::size_t axis = 0; axis < 2; ++axis) {
    proposed[axis] =
        problem.zero_at[axis] + off[axis] * static_cast<double>(config.detector.bin[axis]);
    proposed[axis] = std::round(100.0 * proposed[axis]) / 100.0;
  }
  found.push_back({"the middle of the mean pattern's bright part is (" + number(off[0], 3) + ", " +
                       number(off[1], 3) + ") pixels from the zero frequency: detector.center = [" +
                       number(proposed[0], 7) + ", " + number(proposed[1], 7) + "]?",
                   "a beam off the centre (detector.center)"});
}

// All counts are multiples of one number.
void doubt_gain(const Problem& problem, std::vector<Doubt>& found) {
  const std::int64_t common = one_count(problem);
  if (common < 2) return;
  found.push_back({"all values are multiples of " + std::to_string(common) +
                       ": detector.gain = " + std::to_string(common) + " would make them counts",
                   "values that are no counts (detector.gain)"});
}

// Fractions of one count everywhere: the likelihoods' noise is that of counts.
void doubt_scale(const Problem& problem, std::vector<Doubt>& found) {
  if (whole_counts(problem) || !(problem.largest_count > 0.0) || problem.largest_count >= 1.0) {
    return;
  }
  found.push_back({"the largest value is " + number(problem.largest_count, 3) +
                       ", less than one count: divided by what one count is (detector.gain) "
                       "values are counts, and errors have a meaning",
                   "values that are no counts (detector.gain)"});
}

// No counts where there should be many.
void doubt_dead(const Problem& problem, std::vector<Doubt>& found) {
  const DeadPixels dead = dead_pixels(problem);
  if (dead.count == 0) return;
  const bool one = dead.count == 1;
  found.push_back(
      {std::to_string(dead.count) + (one ? " pixel holds" : " pixels hold") +
           " 0 in all frames between pixels with counts: dead, or behind a beam stop (" +
           dead.words + ")? A data.mask that is nonzero there leaves " + (one ? "it" : "them") +
           " out",
       "dead pixels (data.mask; " + dead.words + ")", Doubt::kPixels});
}

// What one count more or less means is the Poisson likelihood's: where counts are few, the
// amplitudes' likelihood takes their noise for a missing intensity.
void doubt_dose(const Config& config, const Problem& problem, std::vector<Doubt>& found) {
  if (config.reconstruct.likelihood == "poisson" || !whole_counts(problem)) return;
  const at::Tensor image = mean_pattern(problem);
  const double bright =
      image.masked_select(image > 0.5 * bright_level(image)).mean().item<double>();
  constexpr double kFew = 2.0;
  if (!(bright < kFew)) return;
  found.push_back({"the pixels of the bright part have " + number(bright, 2) +
                       " counts each: reconstruct.likelihood = \"poisson\" with fewer, larger "
                       "batches (reconstruct.batches = 1 or 2) suits so few",
                   "few counts a pixel (reconstruct.likelihood)"});
}

}  // namespace

double spread_around(const at::Tensor& image, std::int64_t row, std::int64_t column) {
  const double* value = image.const_data_ptr<double>();
  const std::int64_t h = image.size(0), w = image.size(1);
  double sum = 0.0, moment = 0.0;
  for (std::int64_t i = 0; i < h; ++i) {
    for (std::int64_t j = 0; j < w; ++j) {
      const auto y = static_cast<double>((i - row + h + h / 2) % h - h / 2);
      const auto x = static_cast<double>((j - column + w + w / 2) % w - w / 2);
      sum += value[i * w + j];
      moment += value[i * w + j] * (y * y + x * x);
    }
  }
  const double even = static_cast<double>(h * h + w * w) / 12.0;
  return sum > 0.0 ? moment / sum / even : 1.0;
}

std::optional<std::array<double, 2>> zero_frequency_of(const Problem& problem) {
  if (problem.detector) return std::nullopt;
  const at::Tensor image = centred(problem, mean_pattern(problem));
  const at::Tensor good_ones = problem.summed_patterns.gt(0).to(at::kByte);
  for (const std::int64_t pixel : problem.hot) good_ones.data_ptr<std::uint8_t>()[pixel] = 0;
  const at::Tensor measured = centred(problem, good_ones);
  auto* good = measured.mutable_data_ptr<std::uint8_t>();
  for (const std::size_t dead : dead_pixels(problem).centred) good[dead] = 0;
  const Point middle = {static_cast<double>(problem.window[0] / 2),
                        static_cast<double>(problem.window[1] / 2)};
  const std::optional<Point> found = middle_of(image, measured, middle);
  if (!found) return std::nullopt;
  return Point{(*found)[0] - middle[0], (*found)[1] - middle[1]};
}

bool whole_counts(const Problem& problem) {
  return problem.pattern_sum.eq(problem.pattern_sum.floor()).all().item<bool>();
}

void doubt_patterns(const Config& config, const Problem& problem, std::vector<Doubt>& found) {
  if (problem.positions.size(0) == 1) {
    found.push_back(
        {"one frame takes part: without others that overlap it object and probe cannot "
         "be told apart (data.select, data.skip)",
         "a single frame (data.select, data.skip)"});
  }
  if (!problem.detector) doubt_centre(config, problem, found);
  doubt_dead(problem, found);
  doubt_gain(problem, found);
  doubt_scale(problem, found);
  doubt_dose(config, problem, found);
}

}  // namespace ptyle::driver
