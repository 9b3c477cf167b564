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
#include "driver/io/guesses.h"
#include "driver/io/png.h"
#include "driver/optics/optics.h"
#include "driver/words.h"

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

// A stored probe whose middle is its first pixel.
void doubt_order(const Problem& problem, std::vector<Doubt>& found) {
  const at::Tensor intensity = problem.probe.abs().square().sum(0).to(at::kDouble).contiguous();
  const double here = spread_around(intensity, problem.window[0] / 2, problem.window[1] / 2);
  constexpr double kMuchLess = 0.8;
  if (!(spread_around(intensity, 0, 0) < kMuchLess * here)) return;
  found.push_back({"the probe of " + problem.probe_origin +
                       " lies around the corners of its window: its middle must be that of the "
                       "window (numpy.fft.fftshift moves it there)",
                   "a probe in the order of a Fourier transform (probe.file)"});
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

// Electrons: the mean pattern's disc is the aperture of the probe.
void doubt_aperture(const Config& config, const Problem& problem, std::vector<Doubt>& found) {
  if (problem.positions.size(0) < kAveraged) return;
  if (config.beam.kind != "electron" || problem.detector || problem.masked_pixels > 0) return;
  const double measured = bright_radius(problem.pattern_sum);
  double expected = 0.0;
  if (config.probe.file.empty()) {
    const ProbeOptics optics = probe_optics(config, problem);
    const double window_A2 = *problem.pixel_row_A * *problem.pixel_column_A *
                             static_cast<double>(problem.window[0] * problem.window[1]);
    expected = 1e-3 * optics.semiangle_mrad / optics.wavelength_A * std::sqrt(window_A2);
  } else {
    expected = bright_radius(
        at::fft_fft2(problem.probe, std::nullopt, {1, 2}, "ortho").abs().square().sum(0));
  }
  constexpr double kFewPixels = 3.0, kMuch = 1.4;
  if (expected < kFewPixels && measured < kFewPixels) return;
  if (measured < kMuch * expected && expected < kMuch * measured) return;
  std::string text = "the mean pattern's bright disc has a radius of " + number(measured, 3) +
                     " detector pixels, the probe's aperture " + number(expected, 3) + ": ";
  if (!config.probe.file.empty()) {
    found.push_back({text + "does the probe belong to these patterns and their sampling?",
                     "the probe's sampling"});
    return;
  }
  // A slip is named first; else all that decides the aperture's radius.
  const std::string semiangle = "probe.semiangle_mrad (" +
                                number(*config.probe.semiangle_mrad * measured / expected, 3) +
                                " would fit)";
  const std::string slip = sampling_slip(config, expected / measured);
  text += slip.empty()
              ? "are " + semiangle + ", " + sampling_words(config) + " and beam.energy_keV right?"
              : slip + " Or are " + semiangle + " or beam.energy_keV wrong?";
  found.push_back({text, "the semiangle or the sampling"});
}

// The defocus, 10 or 1000 times the config's, whose disc would overlap with its neighbours', as
// usual; 0 where there is none.
double defocus_that_overlaps(const Config& config, const Problem& problem, const Scan& scan) {
  if (!config.probe.file.empty() || config.probe.defocus_nm == 0.0) return 0.0;
  const double window_A =
      std::min(static_cast<double>(problem.window[0]) * *problem.pixel_row_A,
               static_cast<double>(problem.window[1]) * *problem.pixel_column_A);
  for (const double factor : {10.0, 1000.0}) {
    const double defocus_nm = factor * config.probe.defocus_nm;
    const double disc_A = 20.0 * std::abs(defocus_nm) * 1e-3 * *config.probe.semiangle_mrad;
    constexpr double kUsual = 0.7;
    if (disc_A < 0.8 * window_A && overlap_of(scan.step, disc_A / *problem.pixel_row_A) > kUsual) {
      return defocus_nm;
    }
  }
  return 0.0;
}

// Steps between positions against the probe: a wrong unit makes them far too long or too short.
void doubt_steps(const Config& config, const Problem& problem, const Scan& scan,
                 std::vector<Doubt>& found) {
  if (problem.positions.size(0) < 2) return;
  const std::string own = "data.position_unit = \"" + config.data.position_unit + "\"";
  const std::string other = usual_unit(config, problem.pixel_row_A, scan.step, scan.diameter);
  std::string question = ": is " + own + " right" + (other.empty() ? "" : " (" + other + ")") + "?";
  const std::string cause = "the positions' unit (data.position_unit), or their steps";
  const std::string overlap =
      "the linear overlap of neighbouring probes is " + number(100.0 * scan.overlap(), 4) + " %";
  const std::string sizes = " (probe diameter " + number(scan.diameter, 3) + " pixels, step " +
                            number(scan.step, 3) + " pixels)";
  if (scan.overlap() < 0.6) {
    if (const double larger = defocus_that_overlaps(config, problem, scan); larger != 0.0) {
      question += " Or is probe.defocus_nm = " + number(config.probe.defocus_nm, 6) +
                  " too small (" + number(larger, 6) + " would make them overlap)?";
    }
    found.push_back(
        {overlap + ", and below 60 % a reconstruction seldom converges" + sizes + question, cause});
    return;
  }
  // Between such positions patterns do not differ.
  constexpr double kLeastStep = 0.1;
  if (scan.step > 0.0 && scan.step < kLeastStep && other.empty()) {
    found.push_back({"the positions are " + number(scan.step, 3) +
                         " pixels of the object apart, and less than " + number(kLeastStep) +
                         " teaches nothing" + question,
                     cause});
    return;
  }
  // Many scans are smaller than a window, or the probe; with steps that another unit would make
  // usual that is odd.
  if (other.empty()) return;
  const Region region = scanned_region(problem.positions, problem.window[0], problem.window[1],
                                       problem.object_shape[1], problem.object_shape[2]);
  if (scan.step < 0.03 * scan.diameter &&
      static_cast<double>(std::max(region.rows, region.columns)) < scan.diameter) {
    found.push_back({"the positions span " + words::by(region.rows, region.columns) +
                         " pixels, less than the probe's diameter of " + number(scan.diameter, 3) +
                         " pixels" + question,
                     cause});
    return;
  }
  // Near-field probes fill the window, and steps are short against them; below a pixel they teach
  // little there too.
  const double short_step = problem.detector ? 0.5 : 0.01 * scan.diameter;
  if (scan.step < short_step) found.push_back({overlap + sizes + question, cause});
}

}  // namespace

void doubt_probe(const Config& config, const Problem& problem, const Scan& scan,
                 std::vector<Doubt>& found) {
  if (config.probe.file.empty()) {
    doubt_sampling(config, problem, found);
  } else {
    doubt_order(problem, found);
  }
  doubt_aperture(config, problem, found);
  doubt_steps(config, problem, scan, found);
}

}  // namespace ptyle::driver
