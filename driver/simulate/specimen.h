// Specimens as sampled slices: projected potentials of atoms, and a drawn X-ray test object.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "driver/simulate/crystals.h"
#include "driver/simulate/scattering_factors.h"

namespace ptyle::driver {

// A sampled rectangle, periodic in both directions.
struct Canvas {
  int64_t rows, columns;
  double pixel_A;
};

// Projected potential in volt angstrom of each slice. Atoms sit where they are, to any fraction of
// a pixel: the sum over atoms is made in Fourier space, F(k) = sum f_e(k) exp(-2 pi i k.r), with
// frequencies above `band_limit` x Nyquist removed (0: the whole square is kept). Each atom is in
// the slice that its depth falls in, whole; displaced ones beyond a face are in the outermost.
// -> [slices, rows, columns] float64
at::Tensor projected_potential(const std::vector<Atom>& atoms, const Canvas& canvas,
                               double thickness_A, int64_t slices, double band_limit,
                               ScatteringTable table = ScatteringTable::kKirkland);

// exp(i sigma V), optionally band-limited again (the exponential widens the spectrum).
// potential [slices, rows, columns] float64 -> the same shape, complex128
at::Tensor transmission(const at::Tensor& potential, double interaction_constant_rad_per_VA,
                        double band_limit, double pixel_A);

// Removes frequencies above fraction x Nyquist along a circle; 0: unchanged.
// image [..., rows, columns] real or complex -> the same type
at::Tensor band_limited(const at::Tensor& image, double fraction, double pixel_A);

// Keeps the centre of the spectrum: the image on fewer pixels, same field of view, values kept.
// image [..., rows, columns] -> [..., new_rows, new_columns]
at::Tensor fourier_cropped(const at::Tensor& image, int64_t new_rows, int64_t new_columns);

// Thickness of the X-ray test object between 0 and 1: a star of 36 spokes, two rings at a third and
// two thirds of its radius, and a row of dots of falling size that breaks its symmetry; edges are
// soft over three pixels. -> [rows, columns] float64
at::Tensor star_pattern(const Canvas& canvas);

// Refractive index 1 - delta + i beta.
struct RefractiveIndex {
  double delta, beta;
};
// Gold, from delta = 4.77e-5 and beta = 4.96e-6 at 8 keV (Henke, Gullikson & Davis 1993, Atomic
// Data and Nuclear Data Tables 54, 181), scaled as E^-2 and E^-3, good away from its edges only.
RefractiveIndex gold(double energy_keV);

// exp(i k (-delta + i beta) t). thickness [rows, columns] in angstrom -> [1, rows, columns]
at::Tensor xray_transmission(const at::Tensor& thickness_A, double wavelength_A,
                             const RefractiveIndex& index);

}  // namespace ptyle::driver
