// Wavelength and pixels of the object, and what needs them.
#pragma once

#include <string>

#include <ATen/core/Tensor.h>

#include "driver/config/config.h"
#include "driver/io/problem.h"

namespace ptyle::driver {

// From beam.energy_keV, and from the detector's sampling and problem.window: into the problem.
void set_wavelength(const Config& config, Problem& problem);
void set_object_pixel(const Config& config, Problem& problem);

// Lengths are physical: a sampling (and for waves an energy) must be known. ConfigError "must be
// given for REASON".
void need_pixel(const Config& config, const Problem& problem, const std::string& reason);
void need_wavelength(const Config& config, const Problem& problem, const std::string& reason);

// [h, w] complex128, object.propagator over a distance in angstrom.
at::Tensor propagator_over(const Config& config, const Problem& problem, double distance_A);

}  // namespace ptyle::driver
