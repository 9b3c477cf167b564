// The optics of electrons and X-rays: wavelengths, propagators, aberrations and apertures.
//
// Conventions (csrc/README.md states them for the whole project): plane waves are
// exp(+2 pi i k.r), k in 1/angstrom without 2 pi; a wave travels downstream by the Fresnel factor
// exp(-i pi lambda dz k^2); a lens multiplies by exp(-i chi), with chi = pi lambda C10 k^2 + ...
// and C10 = -defocus, underfocus positive. Hence 20 nm of underfocus is in focus 20 nm downstream.
// All lengths are in angstrom unless the name says otherwise.
#pragma once

#include "csrc/scalar.h"

namespace ptyle {

// CODATA 2018 (Tiesinga et al. 2021, Rev. Mod. Phys. 93, 025010). The first three are exact.
inline constexpr double kPlanckJs = 6.62607015e-34;
inline constexpr double kElementaryChargeC = 1.602176634e-19;
inline constexpr double kSpeedOfLightMPerS = 299792458.0;
inline constexpr double kElectronMassKg = 9.1093837015e-31;
inline constexpr double kBohrRadiusA = 0.529177210903;
inline constexpr double kHartreeV = 27.211386245988;
// e^2 / (4 pi epsilon_0) in volt angstrom per elementary charge: Hartree energy times Bohr radius.
inline constexpr double kCoulombVA = kHartreeV * kBohrRadiusA;
inline constexpr double kPlanckTimesSpeedOfLightKeVA =
    kPlanckJs * kSpeedOfLightMPerS / kElementaryChargeC * 1e7;

// Rest energy of the electron in joule.
inline constexpr double kElectronRestEnergyJ =
    kElectronMassKg * kSpeedOfLightMPerS * kSpeedOfLightMPerS;

// Relativistic de Broglie wavelength: h c / sqrt(E (2 m c^2 + E)).
inline double electron_wavelength_A(double energy_keV) {
  const double energy_J = energy_keV * 1e3 * kElementaryChargeC;
  return 1e10 * kPlanckJs * kSpeedOfLightMPerS /
         ptyle::sqrt(energy_J * (2.0 * kElectronRestEnergyJ + energy_J));
}

// Interaction constant sigma = 2 pi gamma m e lambda / h^2, in radian per (volt angstrom): a wave
// that crosses the projected potential V advances by sigma V (Kirkland 2010, eq. 5.6).
inline double interaction_constant_rad_per_VA(double energy_keV) {
  const double energy_J = energy_keV * 1e3 * kElementaryChargeC;
  const double gamma = 1.0 + energy_J / kElectronRestEnergyJ;
  const double wavelength_m = 1e-10 * electron_wavelength_A(energy_keV);
  return 1e-10 * 2.0 * kPi<double> * gamma * kElectronMassKg * kElementaryChargeC * wavelength_m /
         (kPlanckJs * kPlanckJs);
}

// lambda = h c / E.
inline double xray_wavelength_A(double energy_keV) {
  return kPlanckTimesSpeedOfLightKeVA / energy_keV;
}

// Free space in the paraxial approximation, over a distance downstream: exp(-i pi lambda dz k^2).
template <typename T>
PTYLE_HOST_DEVICE Complex<T> fresnel_factor(T k_squared, T wavelength, T distance) {
  return unit_phasor(-kPi<T> * wavelength * distance * k_squared);
}

// Free space without that approximation, the carrier exp(i k0 dz) left out:
// exp(+i dz (sqrt(k0^2 - kperp^2) - k0)) with k0 = 2 pi / lambda, kperp = 2 pi k; evanescent waves
// are 0. The difference of roots is written as -kperp^2 / (root + k0), which loses no digits.
template <typename T>
PTYLE_HOST_DEVICE Complex<T> angular_spectrum_factor(T k_squared, T wavelength, T distance) {
  const T sine_squared = wavelength * wavelength * k_squared;
  const bool travels = sine_squared < T(1);
  const T cosine = sqrt(select(travels, T(1) - sine_squared, T(0)));
  const T phase = -T(2) * kPi<T> * distance * wavelength * k_squared / (cosine + T(1));
  return select(travels, T(1), T(0)) * unit_phasor(phase);
}

// Coefficients of the aberration function in the notation of Krivanek, Dellby & Lupini (1999,
// Ultramicroscopy 78, 1), magnitudes in angstrom and azimuths in radian. The azimuth of an angle
// is measured from +column towards +row.
template <typename T>
struct Aberrations {
  T C10, C12, phi12;
  T C21, phi21, C23, phi23;
  T C30, C32, phi32, C34, phi34;
  T C41, phi41, C43, phi43, C45, phi45;
  T C50, C52, phi52, C54, phi54, C56, phi56;
};

// chi(k) = (2 pi / lambda) sum_nm alpha^(n+1) / (n+1) C_nm cos(m (phi - phi_nm)), alpha = lambda k.
// With C10 and C30 only: pi lambda C10 k^2 + (pi / 2) C30 lambda^3 k^4. `k_row` and `k_column` are
// the components of k in 1/angstrom.
template <typename T>
PTYLE_HOST_DEVICE T aberration_phase(T k_row, T k_column, T wavelength,
                                     const Aberrations<T>& aberrations) {
  const T x = wavelength * k_column;
  const T y = wavelength * k_row;
  const T r2 = x * x + y * y;
  // x_m + i y_m = (alpha exp(i phi))^m; alpha^m cos(m (phi - phi_m)) needs no arc tangent.
  const Complex<T> z1 = {x, y};
  const Complex<T> z2 = z1 * z1;
  const Complex<T> z3 = z2 * z1;
  const Complex<T> z4 = z2 * z2;
  const Complex<T> z5 = z4 * z1;
  const Complex<T> z6 = z3 * z3;
  const auto fold = [](Complex<T> z, T m, T azimuth) {
    return z.re * cos(m * azimuth) + z.im * sin(m * azimuth);
  };
  const Aberrations<T>& a = aberrations;
  const T order_2 = (a.C10 * r2 + a.C12 * fold(z2, T(2), a.phi12)) / T(2);
  const T order_3 = (a.C21 * r2 * fold(z1, T(1), a.phi21) + a.C23 * fold(z3, T(3), a.phi23)) / T(3);
  const T order_4 =
      (a.C30 * r2 * r2 + a.C32 * r2 * fold(z2, T(2), a.phi32) + a.C34 * fold(z4, T(4), a.phi34)) /
      T(4);
  const T order_5 = (a.C41 * r2 * r2 * fold(z1, T(1), a.phi41) +
                     a.C43 * r2 * fold(z3, T(3), a.phi43) + a.C45 * fold(z5, T(5), a.phi45)) /
                    T(5);
  const T order_6 = (a.C50 * r2 * r2 * r2 + a.C52 * r2 * r2 * fold(z2, T(2), a.phi52) +
                     a.C54 * r2 * fold(z4, T(4), a.phi54) + a.C56 * fold(z6, T(6), a.phi56)) /
                    T(6);
  return T(2) * kPi<T> / wavelength * (order_2 + order_3 + order_4 + order_5 + order_6);
}

// An aperture whose edge falls linearly from 1 to 0 over `width` about `cutoff` (same unit as
// `angle`). With a width of one sample the edge of a sampled disc is anti-aliased; width 0 is
// sharp.
template <typename T>
PTYLE_HOST_DEVICE T soft_aperture(T angle, T cutoff, T width) {
  const bool soft = width > T(0);
  const T ramp = (cutoff - angle) / select(soft, width, T(1)) + T(0.5);
  const T clipped = select(ramp < T(0), T(0), select(ramp > T(1), T(1), ramp));
  return select(soft, clipped, select(angle <= cutoff, T(1), T(0)));
}

}  // namespace ptyle
