// What data tell about units and the sampling: guesses for messages and doubts.
#pragma once

#include <optional>
#include <string>

#include <ATen/core/Tensor.h>

#include "driver/config/config.h"

namespace ptyle::driver {

// Diameter in pixels of the disc of even intensity that is as concentrated as the probe [modes, h,
// w]: area = (sum I)^2 / sum I^2.
double probe_diameter(const at::Tensor& probe);

// What the brightest hundredth of an image's pixels have, their median: no hot pixel decides it.
double bright_level(const at::Tensor& image);
// Radius in pixels of the disc as large as the part of an image that is above half of that.
double bright_radius(const at::Tensor& image);

double overlap_of(double step, double diameter);  // linear, of neighbouring probes

// "\"angstrom\" would make neighbouring probes overlap by 83 %": the position unit other than the
// config's in which the steps would suit the probe best; empty where none would. `step`: as the
// config has it, in pixels of the object, which are `pixel_A` wide.
std::string usual_unit(const Config& config, std::optional<double> pixel_A, double step,
                       double diameter);

// The key that gives the sampling, with its value: "detector.pixel_mrad = 0.5"; empty without one.
std::string sampling_words(const Config& config);
// Where the object's pixel comes out `ratio` times as large as it should be: "is
// detector.pixel_mrad = 0.5 10 times too small (5 would fit)?" Empty without a sampling, and where
// no usual slip (a factor of 2, 10, 100, 1000) explains the ratio to 15 %.
std::string sampling_slip(const Config& config, double ratio);

}  // namespace ptyle::driver
