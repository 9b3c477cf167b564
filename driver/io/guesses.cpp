#include "driver/io/guesses.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <utility>

#include <ATen/TensorOperators.h>

#include "driver/words.h"

namespace ptyle::driver {
namespace {

using words::number;

constexpr double kPi = 3.14159265358979323846;

struct Sampling {
  std::string key;
  NumberPair value;
  bool grows;  // the object's pixel with the value
};

std::optional<Sampling> sampling_of(const Config& config) {
  const Config::Detector& detector = config.detector;
  const bool near = detector.geometry == "near";
  if (detector.pixel_mrad) return Sampling{"detector.pixel_mrad", *detector.pixel_mrad, false};
  if (detector.pixel_per_nm) {
    return Sampling{"detector.pixel_per_nm", *detector.pixel_per_nm, false};
  }
  if (detector.object_pixel_nm) {
    return Sampling{"detector.object_pixel_nm", *detector.object_pixel_nm, true};
  }
  if (detector.pixel_size_um) {
    return Sampling{"detector.pixel_size_um", *detector.pixel_size_um, near};
  }
  return std::nullopt;
}

// "0.5", "[0.5, 0.6]"
std::string pair_words(const NumberPair& pair, double factor = 1.0, int digits = 6) {
  if (pair[0] == pair[1]) return number(pair[0] * factor, digits);
  std::string text = "[";
  text.append(number(pair[0] * factor, digits)).append(", ");
  return text.append(number(pair[1] * factor, digits)).append("]");
}

}  // namespace

double probe_diameter(const at::Tensor& probe) {
  const at::Tensor intensity = probe.abs().square().sum(0);
  const double sum = intensity.sum().item<double>();
  const double squares = intensity.square().sum().item<double>();
  return squares > 0.0 ? 2.0 * std::sqrt(sum * sum / squares / kPi) : 0.0;
}

double bright_level(const at::Tensor& image) {
  const at::Tensor sorted = std::get<0>(image.flatten().sort(0, /*descending=*/true));
  const std::int64_t most = std::max<std::int64_t>(4, sorted.numel() / 100);
  return sorted.narrow(0, 0, std::min(most, sorted.numel())).median().item<double>();
}

double bright_radius(const at::Tensor& image) {
  const auto count =
      static_cast<double>((image > 0.5 * bright_level(image)).sum().item<std::int64_t>());
  return std::sqrt(count / kPi);
}

double overlap_of(double step, double diameter) {
  return diameter > 0.0 ? std::max(0.0, 1.0 - step / diameter) : 0.0;
}

std::string usual_unit(const Config& config, std::optional<double> pixel_A, double step,
                       double diameter) {
  if (!pixel_A || !(step > 0.0) || !(diameter > 0.0)) return "";
  const std::array<std::pair<const char*, double>, 5> units = {
      {{"pixel", *pixel_A}, {"angstrom", 1.0}, {"nm", 10.0}, {"um", 1e4}, {"m", 1e10}}};
  double own = 1.0;
  for (const auto& [name, size] : units) {
    if (config.data.position_unit == name) own = size;
  }
  // Steps, in diameters, of scans that converge and are not wasteful; the most usual one.
  constexpr double kLeast = 0.03, kMost = 0.4, kUsual = 0.2;
  const char* best = nullptr;
  double best_away = 0.0, best_step = 0.0;
  for (const auto& [name, size] : units) {
    const double there = step * size / own;
    if (config.data.position_unit == name || there < kLeast * diameter || there > kMost * diameter)
      continue;
    const double away = std::abs(std::log(there / (kUsual * diameter)));
    if (best != nullptr && away >= best_away) continue;
    best = name;
    best_away = away;
    best_step = there;
  }
  if (best == nullptr) return "";
  std::string text = "\"";
  text.append(best).append("\" would make neighbouring probes overlap by ");
  return text.append(number(100.0 * overlap_of(best_step, diameter), 2)).append(" %");
}

std::string sampling_words(const Config& config) {
  const std::optional<Sampling> sampling = sampling_of(config);
  return sampling ? sampling->key + " = " + pair_words(sampling->value) : "";
}

std::string sampling_slip(const Config& config, double ratio) {
  const std::optional<Sampling> sampling = sampling_of(config);
  if (!sampling || !(ratio > 0.0) || !std::isfinite(ratio)) return "";
  const double factor = std::max(ratio, 1.0 / ratio);
  for (const double slip : {2.0, 10.0, 100.0, 1000.0}) {
    constexpr double kNear = 1.15;
    if (factor > kNear * slip || kNear * factor < slip) continue;
    const bool too_large = (ratio > 1.0) == sampling->grows;
    return "is " + sampling_words(config) + " " + number(slip) + " times too " +
           (too_large ? "large" : "small") + " (" +
           pair_words(sampling->value, sampling->grows ? 1.0 / ratio : ratio, 3) + " would fit)?";
  }
  return "";
}

}  // namespace ptyle::driver
