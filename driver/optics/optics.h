// Propagators and probes as tensors, built in complex128 on the CPU from the formulae of
// csrc/optics.h. Lengths are in angstrom.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include <ATen/core/Tensor.h>

#include "csrc/optics.h"

namespace ptyle::driver {

enum class BeamKind { kElectron, kXray };

// Throws ConfigError unless the energy is a positive, finite number.
double wavelength_A(BeamKind kind, double energy_keV);

// What forms a probe: an aperture of `semiangle_mrad` and the lens behind it. C10 = -defocus.
struct ProbeOptics {
  double wavelength_A = 0.0;
  double semiangle_mrad = 0.0;
  // Width of the aperture's edge; negative: one sample of the window's reciprocal grid, which
  // anti-aliases the disc; 0: sharp.
  double aperture_edge_mrad = -1.0;
  Aberrations<double> aberrations{};
  // Band limit as a fraction of the Nyquist frequency (a circle of the smaller of the two axes); 0:
  // none.
  double band_limit = 0.0;
};

// Sets one coefficient by its name with its unit: "C30_nm", "phi12_deg". Throws ConfigError with
// the known names if there is none of this name.
void set_aberration(Aberrations<double>& aberrations, const std::string& name, double value);

// Spatial frequencies of a window in 1/angstrom, fftfreq order. -> [length] float64
at::Tensor frequencies(int64_t length, double pixel_A);

// k^2 of a window, zero frequency at [0, 0]. -> [rows, columns] float64
at::Tensor squared_frequencies(int64_t rows, int64_t columns, double pixel_row_A,
                               double pixel_column_A);

// Free space over `distance_A` downstream. Zero frequency at [0, 0], or `offset` samples beyond it:
// for waves that carry frequency_ramp. -> [rows, columns] complex128
at::Tensor fresnel_propagator(int64_t rows, int64_t columns, double pixel_row_A,
                              double pixel_column_A, double wavelength_A, double distance_A,
                              std::array<double, 2> offset = {0.0, 0.0});
at::Tensor angular_spectrum_propagator(int64_t rows, int64_t columns, double pixel_row_A,
                                       double pixel_column_A, double wavelength_A,
                                       double distance_A,
                                       std::array<double, 2> offset = {0.0, 0.0});

// exp(+2 pi i (c.r)) about the window's middle, r in windows: a wave times this has its spectrum
// moved by `offset` = c samples, whole or not. It commutes with transmission; what it does to a
// wave that is moved by a fraction of a pixel is one constant phase. -> [rows, columns] complex128
at::Tensor frequency_ramp(int64_t rows, int64_t columns, std::array<double, 2> offset);

// 1 where |k| <= fraction x Nyquist (of the coarser axis), else 0, the zero frequency at [0, 0], or
// `offset` samples beyond it.
// -> [rows, columns] float64
at::Tensor band_limit_mask(int64_t rows, int64_t columns, double pixel_row_A, double pixel_column_A,
                           double fraction, std::array<double, 2> offset = {0.0, 0.0});

// F^-1[A exp(-i chi)], its centre at [rows / 2, columns / 2], sum |P|^2 = 1.
// -> [rows, columns] complex128
at::Tensor aberrated_probe(int64_t rows, int64_t columns, double pixel_row_A, double pixel_column_A,
                           const ProbeOptics& optics);

// Extra incoherent modes of a guess: the guess times Hermite polynomials about its centre of
// intensity, in ascending order, made orthogonal to all before them; each carries 2 % of the
// guess's power, which the guess itself gives up, so that the sum stays.
// probe [h, w] or [1, h, w] -> [modes, h, w], in the probe's type.
at::Tensor add_hermite_modes(const at::Tensor& probe, int64_t modes);

// Modes along the first axis made orthogonal by a singular value decomposition and sorted by
// descending power; the sum of intensities is unchanged. -> [modes, h, w]
at::Tensor orthogonalised_modes(const at::Tensor& probe);

// The wave moved by (rows, columns) pixels, sub-pixel, periodic, by the Fourier ramp
// exp(-2 pi i k.f); Nyquist rows and columns take cos(pi f), so that a real wave stays real.
// wave [..., h, w] complex -> same shape
at::Tensor shift(const at::Tensor& wave, double rows, double columns);

}  // namespace ptyle::driver
