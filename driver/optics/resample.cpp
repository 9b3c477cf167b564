#include "driver/optics/resample.h"

#include <cmath>

#include <ATen/ATen.h>

namespace ptyle::driver {
namespace {

constexpr double kPi = 3.14159265358979323846;

// [to, from] complex128 along one axis: the sum over frequencies of exp(2 pi i k (x - j) / from).
at::Tensor interpolation(std::int64_t from, double pixel, std::int64_t to, double new_pixel) {
  at::Tensor matrix = at::zeros({to, from}, at::kComplexDouble);
  auto* out = matrix.data_ptr<c10::complex<double>>();
  const auto size = static_cast<double>(from);
  constexpr double kRounding = 1e-9;
  // Frequencies are held from minus Nyquist on, up to but without Nyquist.
  const double nyquist = 0.5 * size * std::min(1.0, pixel / new_pixel);
  const auto first = static_cast<std::int64_t>(std::ceil(-nyquist - kRounding));
  const auto end = static_cast<std::int64_t>(std::ceil(nyquist - kRounding));
  const double scale = std::sqrt(new_pixel / pixel) / size;
  for (std::int64_t i = 0; i < to; ++i) {
    const double x =
        static_cast<double>(i - to / 2) * new_pixel / pixel + static_cast<double>(from / 2);
    const double from_centre = x - static_cast<double>(from / 2);
    if (from_centre < -0.5 * size - kRounding || from_centre >= 0.5 * size - kRounding) continue;
    for (std::int64_t j = 0; j < from; ++j) {
      const double away = x - static_cast<double>(j);
      c10::complex<double> sum(0.0, 0.0);
      for (std::int64_t k = first; k < end; ++k) {
        const double phase = 2.0 * kPi * static_cast<double>(k) * away / size;
        sum += c10::complex<double>(std::cos(phase), std::sin(phase));
      }
      out[i * from + j] = scale * sum;
    }
  }
  return matrix;
}

}  // namespace

Resampled resampled(const at::Tensor& wave, std::array<double, 2> pixel,
                    std::array<std::int64_t, 2> window, std::array<double, 2> new_pixel) {
  const at::Tensor rows = interpolation(wave.size(1), pixel[0], window[0], new_pixel[0]);
  const at::Tensor columns = interpolation(wave.size(2), pixel[1], window[1], new_pixel[1]);
  const at::Tensor before = wave.to(at::kComplexDouble);
  Resampled result;
  result.wave = at::matmul(at::matmul(rows, before), columns.transpose(0, 1)).contiguous();
  const double power = before.abs().square().sum().item<double>();
  if (power > 0.0) result.kept = result.wave.abs().square().sum().item<double>() / power;
  return result;
}

}  // namespace ptyle::driver
