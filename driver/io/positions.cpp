#include "driver/io/positions.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include "driver/errors.h"
#include "driver/io/frames.h"
#include "driver/io/sampling.h"
#include "driver/words.h"

namespace ptyle::driver {
namespace {

constexpr double kPi = 3.14159265358979323846;

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

}  // namespace

bool is_finite_pair(const at::Tensor& positions, std::int64_t frame) {
  const double* p = positions.const_data_ptr<double>() + 2 * frame;
  return std::isfinite(p[0]) && std::isfinite(p[1]);
}

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
          "be the scan's shape in \"" + stack.at.name + "\", " + words::shape(stack.info.shape),
          words::shape({shape[0], shape[1]}));
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
                    info.stored_type + " " + words::shape(info.shape));
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
                    stack.at.name + "\", " + words::shape(stack.info.shape) + ", got " +
                    words::shape(info.shape));
  }
  return positions;
}

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

std::vector<std::int64_t> Choice::of_used(const std::vector<std::int64_t>& frames) const {
  std::vector<std::int64_t> those;
  for (const std::int64_t frame : frames) {
    if (is_used(frame)) those.push_back(frame);
  }
  return those;
}

std::vector<std::int64_t> Choice::all_used() const {
  std::vector<std::int64_t> all(used.size());
  std::iota(all.begin(), all.end(), 0);
  return of_used(all);
}

void Choice::leave_out(const std::vector<std::int64_t>& frames, const std::string& why) {
  for (const std::int64_t frame : frames) used[static_cast<std::size_t>(frame)] = false;
  problem.left_out.push_back(frame_words(frames) + " " + why);
}

void Choice::without_gaps() {
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

void Choice::with_finite_positions(const at::Tensor& positions) {
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

std::vector<std::int64_t> Choice::without_far_positions(const at::Tensor& stored,
                                                        const at::Tensor& pixels) {
  const std::vector<std::int64_t> far = far_positions(pixels);
  const std::vector<std::int64_t> those = of_used(far);
  if (those.empty()) return far;
  const auto pair = [](double row, double column) {
    std::string text = "(";
    text.append(words::exact(row)).append(", ").append(words::exact(column)).append(")");
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

}  // namespace ptyle::driver
