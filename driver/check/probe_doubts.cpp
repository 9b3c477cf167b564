#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ATen.h>

#include "csrc/optics.h"
#include "driver/check/parts.h"
#include "driver/check/words.h"
#include "driver/optics/optics.h"

namespace ptyle::driver {
namespace {

using words::length;
using words::number;

// Half turns by which the lens's phase differs between neighbouring detector pixels inside the
// aperture, at most: above 1 the rays of an edge leave the window, and come in on its other side.
double half_turns_per_pixel(const Problem& problem, const ProbeOptics& optics) {
  const double wavelength = optics.wavelength_A;
  const std::array<double, 2> step = {
      1.0 / (static_cast<double>(problem.window[0]) * *problem.pixel_row_A),
      1.0 / (static_cast<double>(problem.window[1]) * *problem.pixel_column_A)};
  const double edge = 1e-3 * optics.semiangle_mrad / wavelength;
  const auto rows = static_cast<std::int64_t>(std::floor(edge / step[0]));
  const auto columns = static_cast<std::int64_t>(std::floor(edge / step[1]));
  const auto phase = [&](double k_row, double k_column) {
    return aberration_phase(k_row, k_column, wavelength, optics.aberrations);
  };
  double most = 0.0;
  for (std::int64_t i = -rows; i <= rows; ++i) {
    for (std::int64_t j = -columns; j <= columns; ++j) {
      const double k_row = static_cast<double>(i) * step[0];
      const double k_column = static_cast<double>(j) * step[1];
      if (std::hypot(k_row, k_column) > edge) continue;
      // About the pixel itself: neighbours may lie outside.
      const std::array<double, 2> half = {0.5 * step[0], 0.5 * step[1]};
      most = std::max(
          {most, std::abs(phase(k_row + half[0], k_column) - phase(k_row - half[0], k_column)),
           std::abs(phase(k_row, k_column + half[1]) - phase(k_row, k_column - half[1]))});
    }
  }
  return most / kPi<double>;
}

void doubt_sampling(const Config& config, const Problem& problem, std::vector<Doubt>& found) {
  const ProbeOptics optics = probe_optics(config, problem);
  const double window_A =
      std::min(static_cast<double>(problem.window[0]) * *problem.pixel_row_A,
               static_cast<double>(problem.window[1]) * *problem.pixel_column_A);
  const double radius =
      1e-3 * optics.semiangle_mrad / optics.wavelength_A * window_A;  // in detector pixels
  const double turns = half_turns_per_pixel(problem, optics);
  if (turns > 1.0) {
    std::string text =
        "the computed probe does not fit its window of " + length(window_A) +
        ": 2 |defocus| x semiangle = " +
        length(20.0 * std::abs(config.probe.defocus_nm) * 1e-3 * optics.semiangle_mrad) +
        ", and its aberrations turn by " + number(turns, 3) +
        " half turns from one detector pixel to the next: it wraps around the window";
    // The same number in a smaller unit.
    ProbeOptics smaller = optics;
    for (const auto& [unit, factor] : {std::pair{"angstrom", 0.1}, std::pair{"pm", 1e-3}}) {
      smaller.aberrations.C10 = factor * optics.aberrations.C10;
      if (half_turns_per_pixel(problem, smaller) > 0.8) continue;
      text += "; is probe.defocus_nm = " + number(config.probe.defocus_nm, 6) + " in " + unit + "?";
      break;
    }
    found.push_back({text, "defocus against the window"});
  }
  constexpr double kFewPixels = 3.0;
  if (radius < kFewPixels) {
    const bool in_rad =
        1e3 * radius < 0.5 * static_cast<double>(std::min(problem.window[0], problem.window[1]));
    found.push_back({"the aperture of probe.semiangle_mrad = " + number(optics.semiangle_mrad, 6) +
                         " has a radius of " + number(radius, 3) + " detector pixels" +
                         (in_rad ? ": is it in rad?" : ": is the detector's sampling right?"),
                     "the semiangle"});
  } else if (radius >
             0.9 * 0.5 * static_cast<double>(std::min(problem.window[0], problem.window[1]))) {
    found.push_back(
        {"the aperture of probe.semiangle_mrad = " + number(optics.semiangle_mrad, 6) +
             " reaches to " +
             number(100.0 * radius /
                        (0.5 * static_cast<double>(std::min(problem.window[0], problem.window[1]))),
                    3) +
             " % of the detector's edge: nothing beyond it is measured",
         "the semiangle"});
  }
}

// Radius of the disc as large as the part of an image that is above half of its bright part.
double bright_radius(const at::Tensor& image) {
  const auto count =
      static_cast<double>((image > 0.5 * bright_level(image)).sum().item<std::int64_t>());
  return std::sqrt(count / kPi<double>);
}

// Electrons: the mean pattern's disc is the aperture of the probe.
void doubt_aperture(const Config& config, const Problem& problem, std::vector<Doubt>& found) {
  if (problem.positions.size(0) < kAveraged) return;
  if (config.beam.kind != "electron" || problem.detector || problem.masked_pixels > 0) return;
  const at::Tensor vacuum =
      at::fft_fft2(problem.probe, std::nullopt, {1, 2}, "ortho").abs().square().sum(0);
  const double expected = bright_radius(vacuum), measured = bright_radius(problem.pattern_sum);
  constexpr double kFewPixels = 3.0, kMuch = 1.4;
  if (expected < kFewPixels && measured < kFewPixels) return;
  if (measured < kMuch * expected && expected < kMuch * measured) return;
  const bool computed = config.probe.file.empty();
  found.push_back(
      {"the mean pattern's bright disc has a radius of " + number(measured, 3) +
           " detector pixels, the probe's aperture " + number(expected, 3) +
           (computed ? ": are probe.semiangle_mrad (" +
                           number(*config.probe.semiangle_mrad * measured / expected, 3) +
                           " would fit), beam.energy_keV and the sampling right?"
                     : ": does the probe belong to these patterns and their sampling?"),
       computed ? "the semiangle or the sampling" : "the probe's sampling"});
}

}  // namespace

void doubt_probe(const Config& config, const Problem& problem, const Scan& scan,
                 std::vector<Doubt>& found) {
  if (config.probe.file.empty()) doubt_sampling(config, problem, found);
  doubt_aperture(config, problem, found);
  const std::int64_t n = problem.positions.size(0);
  if (n > 1 && scan.overlap() < 0.6) {
    std::string text =
        "the linear overlap of neighbouring probes is " + number(100.0 * scan.overlap(), 3) +
        " %; below 60 % a reconstruction seldom converges (probe diameter " +
        number(scan.diameter, 3) + " pixels, step " + number(scan.step, 3) + " pixels)";
    // The unit in which the steps would suit the probe.
    const std::string& unit = config.data.position_unit;
    if (unit != "pixel" && problem.pixel_row_A) {
      const std::array<std::pair<const char*, double>, 4> units = {
          {{"angstrom", 1.0}, {"nm", 10.0}, {"um", 1e4}, {"m", 1e10}}};
      const double own = unit == "angstrom" ? 1.0 : unit == "nm" ? 10.0 : unit == "um" ? 1e4 : 1e10;
      for (const auto& [name, size] : units) {
        const double step = scan.step * size / own;
        if (name == unit || step > 0.4 * scan.diameter || step < 0.02 * scan.diameter) continue;
        text += std::string("; are the positions in ") + name + "?";
        break;
      }
    }
    found.push_back({text, "the positions' unit, or too large a step"});
  }
}

}  // namespace ptyle::driver
