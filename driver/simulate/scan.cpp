#include <cmath>
#include <random>

#include <ATen/ATen.h>

#include "driver/errors.h"
#include "driver/simulate/simulate.h"

namespace ptyle::driver {

at::Tensor raster_positions(int64_t rows, int64_t columns, double step_A, double jitter_A,
                            double rotation_deg, uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::uniform_real_distribution<double> uniform(-1.0, 1.0);
  const double cosine = std::cos(rotation_deg * kPi<double> / 180.0);
  const double sine = std::sin(rotation_deg * kPi<double> / 180.0);
  at::Tensor positions = at::empty({rows * columns, 2}, at::kDouble);
  double* out = positions.data_ptr<double>();
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      const double row = step_A * static_cast<double>(i) + jitter_A * uniform(generator);
      const double column = step_A * static_cast<double>(j) + jitter_A * uniform(generator);
      *out++ = cosine * row - sine * column;
      *out++ = sine * row + cosine * column;
    }
  }
  return positions - positions.amin(0, /*keepdim=*/true);
}

at::Tensor partially_coherent_modes(const at::Tensor& probe, double pixel_A, double fwhm_A,
                                    int64_t modes, double* power_kept) {
  // A Gaussian summed on a regular grid converges faster than any power of the step; 0.75 sigma
  // and 3 sigma on each side are good to a few parts in a thousand for any probe a source this
  // wide leaves visible.
  constexpr int kReach = 4;
  constexpr double kStep = 0.75;
  const double power = probe.abs().square().sum().item<double>();
  const double sigma_pixels = fwhm_A / pixel_A / (2.0 * std::sqrt(2.0 * std::log(2.0)));
  std::vector<at::Tensor> mixture;
  double total = 0.0;
  for (int i = -kReach; i <= kReach; ++i) {
    for (int j = -kReach; j <= kReach; ++j) {
      const double weight = std::exp(-0.5 * kStep * kStep * (i * i + j * j));
      const double step = kStep * sigma_pixels;
      mixture.push_back(shift(probe, step * i, step * j) * std::sqrt(weight));
      total += weight;
    }
  }
  if (modes < 1 || modes > static_cast<int64_t>(mixture.size())) {
    throw ConfigError("--modes: must be from 1 to " + std::to_string(mixture.size()) + ", got " +
                      std::to_string(modes));
  }
  at::Tensor strongest =
      orthogonalised_modes(at::stack(mixture) / std::sqrt(total)).narrow(0, 0, modes);
  const double kept = strongest.abs().square().sum().item<double>();
  if (power_kept != nullptr) *power_kept = kept / power;
  return (strongest * std::sqrt(power / kept)).contiguous();
}

}  // namespace ptyle::driver
