// A small data set that a start fits already.
#pragma once

#include <cmath>

#include <ATen/ATen.h>

namespace ptyle::driver::tests {

struct Vacuum {
  at::Tensor probe;   // [size, size] complex128, narrow
  at::Tensor counts;  // [count, size, size] int32: through nothing, zero frequency in the centre
};

// With the noise of counts, 60 a pixel.
inline Vacuum vacuum(std::int64_t count, std::int64_t size) {
  const at::Tensor line = at::arange(size, at::kDouble) - static_cast<double>(size / 2);
  const at::Tensor square = line.square();
  at::Tensor probe = at::exp(-(square.unsqueeze(0) + square.unsqueeze(1)) / 4.0);
  probe *= std::sqrt(60.0 * static_cast<double>(size * size) / probe.square().sum().item<double>());
  const at::Tensor wave = at::_fft_c2c(probe.to(at::kComplexDouble), {0, 1}, 1, true);
  const at::Tensor pattern = at::fft_fftshift(wave).abs().square();
  return {probe.to(at::kComplexDouble),
          at::poisson(pattern.expand({count, size, size}).contiguous()).to(at::kInt)};
}

}  // namespace ptyle::driver::tests
