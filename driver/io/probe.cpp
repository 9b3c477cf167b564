#include "driver/io/probe.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/conj_physical.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include "csrc/interpolation.h"
#include "driver/errors.h"
#include "driver/io/guesses.h"
#include "driver/io/stack.h"
#include "driver/log.h"
#include "driver/optics/optics.h"
#include "driver/optics/resample.h"
#include "driver/words.h"

namespace ptyle::driver {
namespace {

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
                  words::exact(100.0 * *problem.wavelength_A) + " pm (beam.energy_keV), got " +
                  words::exact(100.0 * stored_A) + " pm");
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
    return words::exact(pair[0] / 10.0) + " x " + words::exact(pair[1] / 10.0) + " nm";
  };
  const double ratio = pixel_A[0] / (*stored_A)[0];
  const std::string slip = sampling_slip(config, ratio);
  constexpr double kKept = 0.99, kMuch = 1.15;
  if (result.kept < kKept) {
    throw DataError(at.where("probe.dataset") + " has pixels of " + by(*stored_A) +
                    ", the object's are " + by(pixel_A) + ", and must fit into their window with " +
                    "its frequencies, got " + words::exact(100.0 * (1.0 - result.kept)) +
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
                    words::shape(info.shape));
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
                    words::shape({problem.window[0], problem.window[1]}) +
                    " (detector.pad enlarges it), got " + words::shape(info.shape));
  }
  if (!c10::isComplexType(info.type)) {
    log_warning() << at.where("probe.dataset") << " is real (" << info.stored_type << " "
                  << words::shape(info.shape) << "); a probe has a phase: is it the right dataset?";
  }
  problem.probe_origin = at.file.path() + ": " + at.name + " (" + info.stored_type + " " +
                         words::shape(info.shape) + ")";
  return probe;
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

}  // namespace

void compare_with_file(const Config& config, const Stack& stack, Problem& problem) {
  const hdf5::File& file = stack.at.file;
  constexpr double kSame = 1e-3;
  if (config.beam.energy_keV && file.has_attribute("/", "energy_keV")) {
    const double stored = file.number_attribute("/", "energy_keV");
    if (std::abs(stored / *config.beam.energy_keV - 1.0) > kSame) {
      problem.found.push_back({"beam.energy_keV = " + words::exact(*config.beam.energy_keV) +
                                   ", but " + file.path() +
                                   " says energy_keV = " + words::exact(stored),
                               "the energy (beam.energy_keV)"});
    }
  }
  if (!problem.pixel_row_A || !file.has_attribute("/", "object_pixel_nm")) return;
  const double stored = file.number_attribute("/", "object_pixel_nm");
  // In the far field crop, bin and pad change the object's pixel, and not what a detector pixel
  // samples.
  NumberPair ours = {*problem.pixel_row_A / 10.0, *problem.pixel_column_A / 10.0};
  for (std::size_t axis = 0; axis < 2; ++axis) {
    const auto bin = static_cast<double>(config.detector.bin[axis]);
    const auto size =
        static_cast<double>(stack.frame[config.detector.orientation.transpose ? 1 - axis : axis]);
    ours[axis] *= config.detector.geometry == "near"
                      ? 1.0 / bin
                      : bin * static_cast<double>(problem.window[axis]) / size;
  }
  constexpr double kSamePixel = 1e-2;
  for (const double pixel : ours) {
    if (std::abs(pixel / stored - 1.0) <= kSamePixel) continue;
    problem.found.push_back({"the sampling (" + sampling_words(config) +
                                 ") gives the stored patterns an object pixel of " +
                                 words::number(pixel) + " nm, but " + file.path() +
                                 " says object_pixel_nm = " + words::number(stored),
                             "the detector's sampling (" + sampling_words(config) + ")"});
    return;
  }
}

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
    problem.probe_origin = "computed: " + words::exact(optics.semiangle_mrad) + " mrad, defocus " +
                           words::exact(config.probe.defocus_nm) + " nm";
  }
  if (config.reconstruct.refines("probe") && probe.size(0) > 1 && config.probe.modes > 1) {
    probe = without_dead_modes(probe.narrow(0, 0, std::min(probe.size(0), config.probe.modes)),
                               problem.replaced_modes);
  }
  problem.probe = with_more_modes(probe, config.probe.modes).contiguous();
  if (const auto ramp = probe_ramp(problem)) problem.probe.mul_(*ramp);
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

}  // namespace ptyle::driver
