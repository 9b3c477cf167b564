#include "driver/optics/optics.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>
#include <vector>

#include <ATen/ATen.h>

#include "driver/config/config.h"
#include "driver/errors.h"

namespace ptyle::driver {
namespace {

void check_window(const char* name, int64_t rows, int64_t columns, double pixel_row_A,
                  double pixel_column_A) {
  const auto positive = [](double x) { return std::isfinite(x) && x > 0.0; };
  if (rows < 1 || columns < 1 || !positive(pixel_row_A) || !positive(pixel_column_A)) {
    throw ConfigError(std::string(name) + ": the window and its pixels must be positive, got " +
                      std::to_string(rows) + " x " + std::to_string(columns) + " pixels of " +
                      std::to_string(pixel_row_A) + " x " + std::to_string(pixel_column_A) + " A");
  }
}

double fft_frequency(int64_t index, int64_t length, double pixel_A, double offset = 0.0) {
  const int64_t wrapped = index < (length + 1) / 2 ? index : index - length;
  const auto samples = static_cast<double>(length);
  // Moved ones stay within those that the window samples.
  const double moved = static_cast<double>(wrapped) - offset;
  return (moved - samples * std::floor(moved / samples + 0.5)) / (samples * pixel_A);
}

// Fills [rows, columns] by value(k_row, k_column), zero frequency at [0, 0].
template <typename Value>
at::Tensor complex_over_frequencies(int64_t rows, int64_t columns, double pixel_row_A,
                                    double pixel_column_A, Value value,
                                    std::array<double, 2> offset = {0.0, 0.0}) {
  at::Tensor result = at::empty({rows, columns}, at::kComplexDouble);
  auto* out = reinterpret_cast<Complex<double>*>(result.data_ptr<c10::complex<double>>());
  for (int64_t row = 0; row < rows; ++row) {
    const double k_row = fft_frequency(row, rows, pixel_row_A, offset[0]);
    for (int64_t column = 0; column < columns; ++column) {
      *out++ = value(k_row, fft_frequency(column, columns, pixel_column_A, offset[1]));
    }
  }
  return result;
}

struct NamedCoefficient {
  const char* name;
  double Aberrations<double>::*member;
};

constexpr std::array<NamedCoefficient, 25> kCoefficients = {{
    {"C10_nm", &Aberrations<double>::C10},      {"C12_nm", &Aberrations<double>::C12},
    {"phi12_deg", &Aberrations<double>::phi12}, {"C21_nm", &Aberrations<double>::C21},
    {"phi21_deg", &Aberrations<double>::phi21}, {"C23_nm", &Aberrations<double>::C23},
    {"phi23_deg", &Aberrations<double>::phi23}, {"C30_nm", &Aberrations<double>::C30},
    {"C32_nm", &Aberrations<double>::C32},      {"phi32_deg", &Aberrations<double>::phi32},
    {"C34_nm", &Aberrations<double>::C34},      {"phi34_deg", &Aberrations<double>::phi34},
    {"C41_nm", &Aberrations<double>::C41},      {"phi41_deg", &Aberrations<double>::phi41},
    {"C43_nm", &Aberrations<double>::C43},      {"phi43_deg", &Aberrations<double>::phi43},
    {"C45_nm", &Aberrations<double>::C45},      {"phi45_deg", &Aberrations<double>::phi45},
    {"C50_nm", &Aberrations<double>::C50},      {"C52_nm", &Aberrations<double>::C52},
    {"phi52_deg", &Aberrations<double>::phi52}, {"C54_nm", &Aberrations<double>::C54},
    {"phi54_deg", &Aberrations<double>::phi54}, {"C56_nm", &Aberrations<double>::C56},
    {"phi56_deg", &Aberrations<double>::phi56},
}};

// The shift theorem along one axis, -> [length] complex128.
at::Tensor shift_ramp(int64_t length, double pixels) {
  at::Tensor ramp = at::empty({length}, at::kComplexDouble);
  auto* out = ramp.data_ptr<c10::complex<double>>();
  for (int64_t i = 0; i < length; ++i) {
    const double k = fft_frequency(i, length, 1.0);
    const Complex<double> phasor = unit_phasor(-2.0 * kPi<double> * k * pixels);
    const bool nyquist = 2 * i == length;
    out[i] =
        nyquist ? c10::complex<double>(phasor.re, 0.0) : c10::complex<double>(phasor.re, phasor.im);
  }
  return ramp;
}

}  // namespace

double wavelength_A(BeamKind kind, double energy_keV) {
  if (!(std::isfinite(energy_keV) && energy_keV > 0.0)) {
    throw ConfigError("energy_keV: must be a positive number, got " + std::to_string(energy_keV));
  }
  return kind == BeamKind::kElectron ? electron_wavelength_A(energy_keV)
                                     : xray_wavelength_A(energy_keV);
}

void set_aberration(Aberrations<double>& aberrations, const std::string& name, double value) {
  constexpr double kAngstromPerNm = 10.0;
  const double unit = name.starts_with("phi") ? kPi<double> / 180.0 : kAngstromPerNm;
  std::string known;
  for (const NamedCoefficient& coefficient : kCoefficients) {
    if (name == coefficient.name) {
      aberrations.*coefficient.member = unit * value;
      return;
    }
    known += (known.empty() ? "" : ", ") + std::string(coefficient.name);
  }
  throw ConfigError("aberrations: \"" + name + "\" must be one of " + known);
}

at::Tensor frequencies(int64_t length, double pixel_A) {
  return at::fft_fftfreq(length, pixel_A, at::TensorOptions().dtype(at::kDouble));
}

at::Tensor squared_frequencies(int64_t rows, int64_t columns, double pixel_row_A,
                               double pixel_column_A) {
  check_window("squared_frequencies", rows, columns, pixel_row_A, pixel_column_A);
  return frequencies(rows, pixel_row_A).square().unsqueeze(1) +
         frequencies(columns, pixel_column_A).square().unsqueeze(0);
}

at::Tensor fresnel_propagator(int64_t rows, int64_t columns, double pixel_row_A,
                              double pixel_column_A, double wavelength_A, double distance_A,
                              std::array<double, 2> offset) {
  check_window("fresnel_propagator", rows, columns, pixel_row_A, pixel_column_A);
  return complex_over_frequencies(
      rows, columns, pixel_row_A, pixel_column_A,
      [&](double k_row, double k_column) {
        return fresnel_factor(k_row * k_row + k_column * k_column, wavelength_A, distance_A);
      },
      offset);
}

at::Tensor angular_spectrum_propagator(int64_t rows, int64_t columns, double pixel_row_A,
                                       double pixel_column_A, double wavelength_A,
                                       double distance_A, std::array<double, 2> offset) {
  check_window("angular_spectrum_propagator", rows, columns, pixel_row_A, pixel_column_A);
  return complex_over_frequencies(
      rows, columns, pixel_row_A, pixel_column_A,
      [&](double k_row, double k_column) {
        return angular_spectrum_factor(k_row * k_row + k_column * k_column, wavelength_A,
                                       distance_A);
      },
      offset);
}

at::Tensor band_limit_mask(int64_t rows, int64_t columns, double pixel_row_A, double pixel_column_A,
                           double fraction, std::array<double, 2> offset) {
  const double cutoff = fraction * 0.5 / std::max(pixel_row_A, pixel_column_A);
  const auto squared = [](int64_t length, double pixel_A, double moved) {
    at::Tensor result = at::empty({length}, at::kDouble);
    for (int64_t i = 0; i < length; ++i) {
      const double k = fft_frequency(i, length, pixel_A, moved);
      result.data_ptr<double>()[i] = k * k;
    }
    return result;
  };
  return (squared(rows, pixel_row_A, offset[0]).unsqueeze(1) +
          squared(columns, pixel_column_A, offset[1]).unsqueeze(0))
      .le(cutoff * cutoff)
      .to(at::kDouble);
}

at::Tensor frequency_ramp(int64_t rows, int64_t columns, std::array<double, 2> offset) {
  const auto along = [](int64_t length, double moved) {
    const double step = 2.0 * kPi<double> * moved / static_cast<double>(length);
    const at::Tensor phase = (at::arange(length, at::kDouble) - length / 2) * step;
    return at::polar(at::ones_like(phase), phase);
  };
  return along(rows, offset[0]).unsqueeze(1) * along(columns, offset[1]).unsqueeze(0);
}

at::Tensor aberrated_probe(int64_t rows, int64_t columns, double pixel_row_A, double pixel_column_A,
                           const ProbeOptics& optics) {
  check_window("aberrated_probe", rows, columns, pixel_row_A, pixel_column_A);
  if (!(optics.wavelength_A > 0.0) || !(optics.semiangle_mrad > 0.0)) {
    throw ConfigError(
        "aberrated_probe: wavelength and semiangle must be positive, got wavelength_A = " +
        std::to_string(optics.wavelength_A) +
        " and semiangle_mrad = " + std::to_string(optics.semiangle_mrad));
  }
  const double wavelength = optics.wavelength_A;
  const double cutoff = 1e-3 * optics.semiangle_mrad;
  const double sample = wavelength / std::min(static_cast<double>(rows) * pixel_row_A,
                                              static_cast<double>(columns) * pixel_column_A);
  const double edge = optics.aperture_edge_mrad < 0.0 ? sample : 1e-3 * optics.aperture_edge_mrad;
  const double nyquist = 0.5 * wavelength / std::max(pixel_row_A, pixel_column_A);
  if (cutoff > nyquist) {
    throw ConfigError("aberrated_probe: semiangle_mrad must fit the window's largest angle, " +
                      std::to_string(1e3 * nyquist) + " mrad, got " +
                      std::to_string(optics.semiangle_mrad));
  }
  at::Tensor probe = complex_over_frequencies(
      rows, columns, pixel_row_A, pixel_column_A, [&](double k_row, double k_column) {
        const double angle = wavelength * std::hypot(k_row, k_column);
        const double amplitude = soft_aperture(angle, cutoff, edge);
        const double chi = aberration_phase(k_row, k_column, wavelength, optics.aberrations);
        return amplitude * unit_phasor(-chi);
      });
  if (optics.band_limit > 0.0) {
    probe.mul_(band_limit_mask(rows, columns, pixel_row_A, pixel_column_A, optics.band_limit));
  }
  probe = at::fft_ifft2(probe, std::nullopt, {0, 1}, "ortho");
  probe = at::fft_fftshift(probe, at::IntArrayRef{0, 1});
  return probe / probe.abs().square().sum().sqrt();
}

at::Tensor add_hermite_modes(const at::Tensor& probe, int64_t modes) {
  constexpr double kPowerOfExtraMode = 0.02;
  const at::Tensor guess =
      (probe.dim() == 3 ? probe.select(0, 0) : probe).to(at::kComplexDouble).contiguous();
  constexpr std::int64_t kMost = Config::Probe::kMostModes;
  static_assert(static_cast<double>(kMost - 1) * kPowerOfExtraMode < 1.0);
  if (modes < 1 || modes > kMost) {
    throw ConfigError("probe.modes: must be from 1 to " + std::to_string(kMost) + ", got " +
                      std::to_string(modes));
  }
  if (modes == 1) return guess.unsqueeze(0).to(probe.scalar_type());
  const int64_t rows = guess.size(0);
  const int64_t columns = guess.size(1);
  const at::Tensor intensity = guess.abs().square();
  const double power = intensity.sum().item<double>();
  if (!(power > 0.0)) {
    throw DataError("probe: a guess for several modes must not be zero everywhere");
  }
  // Coordinates in units of the guess's own rms radius, so that the polynomials vary inside it.
  const auto axis = [&](int64_t length, int64_t other) {
    const at::Tensor weight = intensity.sum(other) / power;
    const at::Tensor x = at::arange(length, at::kDouble);
    const at::Tensor centred = x - (weight * x).sum();
    const at::Tensor width = (weight * centred.square()).sum().sqrt().clamp_min(0.5);
    return at::Tensor(centred / width);
  };
  const at::Tensor y = axis(rows, 1);
  const at::Tensor x = axis(columns, 0);
  const auto hermite = [](const at::Tensor& t, int64_t order) {
    at::Tensor previous = at::zeros_like(t);
    at::Tensor value = at::ones_like(t);
    for (int64_t n = 0; n < order; ++n) {  // He_{n+1} = t He_n - n He_{n-1}
      at::Tensor next = t * value - static_cast<double>(n) * previous;
      previous = std::exchange(value, next);
    }
    return value;
  };

  std::vector<at::Tensor> basis = {guess / std::sqrt(power)};
  for (int64_t order = 1; static_cast<int64_t>(basis.size()) < modes; ++order) {
    for (int64_t j = 0; j <= order && static_cast<int64_t>(basis.size()) < modes; ++j) {
      at::Tensor mode = guess * (hermite(y, j).unsqueeze(1) * hermite(x, order - j).unsqueeze(0));
      const double start = at::linalg_vector_norm(mode).item<double>();
      // Twice: one pass of Gram-Schmidt leaves a remainder where modes are nearly parallel.
      for (int pass = 0; pass < 2; ++pass) {
        for (const at::Tensor& before : basis) {
          mode = mode - before * (at::conj_physical(before) * mode).sum();
        }
      }
      const double norm = at::linalg_vector_norm(mode).item<double>();
      if (norm > 1e-6 * start) basis.push_back(mode / norm);
    }
    if (order > rows + columns) {
      throw ConfigError("probe.modes: a window of " + std::to_string(rows) + " x " +
                        std::to_string(columns) + " pixels has no " + std::to_string(modes) +
                        " independent modes");
    }
  }
  const double extra = kPowerOfExtraMode * power;
  basis[0] = basis[0] * std::sqrt(power - extra * static_cast<double>(modes - 1));
  for (size_t m = 1; m < basis.size(); ++m) basis[m] = basis[m] * std::sqrt(extra);
  return at::stack(basis).to(probe.scalar_type());
}

at::Tensor orthogonalised_modes(const at::Tensor& probe) {
  const int64_t modes = probe.size(0);
  if (modes < 2) return probe.clone();
  const at::Tensor flat = probe.reshape({modes, -1});
  const auto [u, s, vh] = at::linalg_svd(flat, /*full_matrices=*/false);
  return (s.unsqueeze(1) * vh).reshape(probe.sizes());
}

at::Tensor shift(const at::Tensor& wave, double rows, double columns) {
  const int64_t ndim = wave.dim();
  const std::array<int64_t, 2> axes = {ndim - 2, ndim - 1};
  const at::Tensor ramp = shift_ramp(wave.size(-2), rows).unsqueeze(1) *
                          shift_ramp(wave.size(-1), columns).unsqueeze(0);
  const at::Tensor spectrum = at::fft_fft2(wave, std::nullopt, axes, "ortho");
  return at::fft_ifft2(spectrum * ramp.to(spectrum.scalar_type()), std::nullopt, axes, "ortho");
}

}  // namespace ptyle::driver
