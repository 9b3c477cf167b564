#include "driver/io/sampling.h"

#include <cstddef>

#include "driver/errors.h"
#include "driver/optics/optics.h"

namespace ptyle::driver {

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

}  // namespace ptyle::driver
