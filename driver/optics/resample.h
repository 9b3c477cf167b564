// A wave on another grid.
#pragma once

#include <array>
#include <cstdint>

#include <ATen/core/Tensor.h>

namespace ptyle::driver {

struct Resampled {
  at::Tensor wave;    // [modes, rows, columns] complex128
  double kept = 1.0;  // share of the power that is left
};

// The Fourier series of `wave` [modes, h, w] complex128, whose centre is [h / 2, w / 2], on a
// window [rows, columns] of other pixels about its own centre. Frequencies that the new pixels
// cannot hold are cut off, and what lies outside either window is 0. Amplitudes are per pixel: the
// power stays but for that.
Resampled resampled(const at::Tensor& wave, std::array<double, 2> pixel,
                    std::array<std::int64_t, 2> window, std::array<double, 2> new_pixel);

}  // namespace ptyle::driver
