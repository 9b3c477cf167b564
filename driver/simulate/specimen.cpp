#include "driver/simulate/specimen.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include <ATen/ATen.h>

#include "csrc/optics.h"
#include "driver/errors.h"
#include "driver/optics/optics.h"

namespace ptyle::driver {
namespace {

// exp(-2 pi i k x) for all frequencies and atoms. -> [atoms, length] complex128
at::Tensor structure_phases(const at::Tensor& positions_A, int64_t length, double pixel_A) {
  const at::Tensor phase =
      positions_A.unsqueeze(1) * frequencies(length, pixel_A) * (-2.0 * kPi<double>);
  return at::polar(at::ones_like(phase), phase);
}

at::Tensor scattering_factors(ScatteringTable table, int atomic_number,
                              const at::Tensor& k_squared) {
  at::Tensor factors = at::empty_like(k_squared);
  const double* in = k_squared.const_data_ptr<double>();
  double* out = factors.data_ptr<double>();
  for (int64_t i = 0; i < k_squared.numel(); ++i) {
    out[i] = electron_scattering_factor_A(table, atomic_number, in[i]);
  }
  return factors;
}

}  // namespace

at::Tensor projected_potential(const std::vector<Atom>& atoms, const Canvas& canvas,
                               double thickness_A, int64_t slices, double band_limit,
                               ScatteringTable table) {
  const double pixel = canvas.pixel_A;
  at::Tensor k_squared = squared_frequencies(canvas.rows, canvas.columns, pixel, pixel);
  // A potential in volt angstrom is the Fourier coefficient over the area of a pixel.
  at::Tensor kept = at::full_like(k_squared, potential_per_scattering_factor_VA2() / pixel / pixel);
  if (band_limit > 0.0) {
    kept.mul_(band_limit_mask(canvas.rows, canvas.columns, pixel, pixel, band_limit));
  }

  // Rows, columns of the atoms of one element in one slice.
  std::map<int, std::vector<std::vector<std::array<double, 2>>>> by_element;
  const double slice_thickness = thickness_A / static_cast<double>(slices);
  for (const Atom& atom : atoms) {
    auto& element = by_element[atom.atomic_number];
    element.resize(static_cast<size_t>(slices));
    // An atom on the face between two slices belongs to the lower one, whatever the rounding.
    const auto slice = static_cast<int64_t>(std::floor(atom.depth_A / slice_thickness + 1e-9));
    element[static_cast<size_t>(std::clamp<int64_t>(slice, 0, slices - 1))].push_back(
        {atom.row_A, atom.column_A});
  }

  at::Tensor spectrum = at::zeros({slices, canvas.rows, canvas.columns}, at::kComplexDouble);
  for (const auto& [atomic_number, slices_of_element] : by_element) {
    const at::Tensor factors = scattering_factors(table, atomic_number, k_squared) * kept;
    for (size_t slice = 0; slice < slices_of_element.size(); ++slice) {
      const auto& positions = slices_of_element[slice];
      if (positions.empty()) continue;
      const at::Tensor where =
          at::from_blob(const_cast<double*>(positions.front().data()),
                        {static_cast<int64_t>(positions.size()), 2}, at::kDouble)
              .t()
              .contiguous();
      const at::Tensor along_rows = structure_phases(where[0], canvas.rows, pixel);
      const at::Tensor along_columns = structure_phases(where[1], canvas.columns, pixel);
      spectrum[static_cast<int64_t>(slice)].add_(at::mm(along_rows.t(), along_columns) * factors);
    }
  }
  return at::real(at::fft_ifft2(spectrum)).contiguous();
}

at::Tensor transmission(const at::Tensor& potential, double interaction_constant_rad_per_VA,
                        double band_limit, double pixel_A) {
  const at::Tensor phase = potential * interaction_constant_rad_per_VA;
  return band_limited(at::polar(at::ones_like(phase), phase), band_limit, pixel_A);
}

at::Tensor band_limited(const at::Tensor& image, double fraction, double pixel_A) {
  if (!(fraction > 0.0)) return image;
  const at::Tensor mask =
      band_limit_mask(image.size(-2), image.size(-1), pixel_A, pixel_A, fraction);
  const at::Tensor filtered = at::fft_ifft2(at::fft_fft2(image) * mask);
  return image.is_complex() ? filtered : at::real(filtered).contiguous();
}

at::Tensor fourier_cropped(const at::Tensor& image, int64_t new_rows, int64_t new_columns) {
  const int64_t rows = image.size(-2);
  const int64_t columns = image.size(-1);
  if (rows == new_rows && columns == new_columns) return image;
  const std::array<int64_t, 2> axes = {image.dim() - 2, image.dim() - 1};
  at::Tensor spectrum = at::fft_fftshift(at::fft_fft2(image), axes);
  spectrum = spectrum.narrow(-2, rows / 2 - new_rows / 2, new_rows)
                 .narrow(-1, columns / 2 - new_columns / 2, new_columns);
  const double scale =
      static_cast<double>(new_rows * new_columns) / static_cast<double>(rows * columns);
  const at::Tensor cropped = at::fft_ifft2(at::fft_ifftshift(spectrum, axes)) * scale;
  return image.is_complex() ? cropped : at::real(cropped).contiguous();
}

at::Tensor star_pattern(const Canvas& canvas) {
  constexpr double kSpokes = 36.0;
  constexpr double kEdge = 3.0;  // pixels; sharper ones ring when they are band-limited
  const auto rows = static_cast<double>(canvas.rows);
  const auto columns = static_cast<double>(canvas.columns);
  const double radius = 0.45 * std::min(rows, columns);  // in pixels, as all below
  const at::Tensor y = at::arange(canvas.rows, at::kDouble).sub_(0.5 * rows).unsqueeze(1);
  const at::Tensor x = at::arange(canvas.columns, at::kDouble).sub_(0.5 * columns).unsqueeze(0);
  const at::Tensor r = (y * y + x * x).sqrt();
  // Signed distance in pixels to the nearest edge, positive inside, to thickness.
  const auto soft = [](const at::Tensor& distance) {
    return (distance / kEdge + 0.5).clamp(0.0, 1.0);
  };
  const at::Tensor spokes = soft(at::sin(at::atan2(y, x) * kSpokes) * r.clamp_min(1e-9) / kSpokes);
  const at::Tensor annulus = soft(radius - r) * soft(r - 0.06 * radius);
  at::Tensor image = spokes * annulus;
  for (const double part : {1.0 / 3.0, 2.0 / 3.0}) {
    image = at::maximum(image, soft(0.02 * radius - (r - part * radius).abs()));
  }
  double dot_radius = 0.05 * radius;
  double dot_column = -0.25 * radius;
  for (int dot = 0; dot < 6; ++dot) {
    const at::Tensor distance = ((y + 0.5 * radius).square() + (x - dot_column).square()).sqrt();
    image = at::maximum(image * soft(distance - 1.6 * dot_radius), soft(dot_radius - distance));
    dot_column += 3.2 * dot_radius;
    dot_radius *= 0.75;
  }
  return image;
}

RefractiveIndex gold(double energy_keV) {
  const double ratio = 8.0 / energy_keV;
  return {4.77e-5 * ratio * ratio, 4.96e-6 * ratio * ratio * ratio};
}

at::Tensor xray_transmission(const at::Tensor& thickness_A, double wavelength_A,
                             const RefractiveIndex& index) {
  const double wavenumber = 2.0 * kPi<double> / wavelength_A;
  return at::polar(at::exp(thickness_A * (-wavenumber * index.beta)),
                   thickness_A * (-wavenumber * index.delta))
      .unsqueeze(0);
}

}  // namespace ptyle::driver
