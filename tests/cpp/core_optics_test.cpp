// The optics' formulae against numbers from elsewhere.
#include <cmath>
#include <complex>

#include <gtest/gtest.h>

#include "csrc/optics.h"

namespace ptyle {
namespace {

TEST(CoreOptics, ElectronConstantsAt200KeVAreThoseOfCodata2018) {
  EXPECT_NEAR(electron_wavelength_A(200.0) / 0.02507934045, 1.0, 1e-9);
  EXPECT_NEAR(interaction_constant_rad_per_VA(200.0) / 7.288401041e-4, 1.0, 1e-9);
}

TEST(CoreOptics, ElectronWavelengthsAreThoseOfKirklandsTable) {
  // Kirkland 2010, table 2.2, in angstrom to the digits printed.
  EXPECT_NEAR(electron_wavelength_A(100.0), 0.0370, 5e-5);
  EXPECT_NEAR(electron_wavelength_A(300.0), 0.0197, 5e-5);
  EXPECT_NEAR(electron_wavelength_A(1000.0), 0.0087, 5e-5);
}

TEST(CoreOptics, XrayWavelengthTimesEnergyIsHTimesC) {
  EXPECT_NEAR(xray_wavelength_A(12.398419843320026), 1.0, 1e-12);
  EXPECT_NEAR(xray_wavelength_A(8.0), 1.549802, 1e-6);
}

TEST(CoreOptics, AberrationPhaseOfDefocusAndSphericalAberrationIsTheTextbooks) {
  Aberrations<double> aberrations{};
  aberrations.C10 = -700.0;
  aberrations.C30 = 1.3e7;
  const double wavelength = 0.025;
  const double k_row = 0.2;
  const double k_column = -0.3;
  const double k2 = k_row * k_row + k_column * k_column;
  const double expected = kPi<double> * wavelength * -700.0 * k2 +
                          kPi<double> / 2.0 * 1.3e7 * std::pow(wavelength, 3) * k2 * k2;
  EXPECT_NEAR(aberration_phase(k_row, k_column, wavelength, aberrations), expected, 1e-12);
}

TEST(CoreOptics, EveryAberrationHasItsOrderItsFoldAndItsAzimuth) {
  using Member = double Aberrations<double>::*;
  struct Case {
    Member magnitude, azimuth;
    int n, m;
  };
  using A = Aberrations<double>;
  const Case cases[] = {
      {&A::C12, &A::phi12, 1, 2}, {&A::C21, &A::phi21, 2, 1}, {&A::C23, &A::phi23, 2, 3},
      {&A::C32, &A::phi32, 3, 2}, {&A::C34, &A::phi34, 3, 4}, {&A::C41, &A::phi41, 4, 1},
      {&A::C43, &A::phi43, 4, 3}, {&A::C45, &A::phi45, 4, 5}, {&A::C52, &A::phi52, 5, 2},
      {&A::C54, &A::phi54, 5, 4}, {&A::C56, &A::phi56, 5, 6}, {&A::C50, nullptr, 5, 0}};
  const double wavelength = 0.02;
  for (const Case& c : cases) {
    A aberrations{};
    aberrations.*c.magnitude = 1234.5;
    const double azimuth = c.azimuth != nullptr ? 0.4 : 0.0;
    if (c.azimuth != nullptr) aberrations.*c.azimuth = azimuth;
    const double angle = 1.1;
    const double alpha = 0.03;
    const double expected = 2.0 * kPi<double> / wavelength * 1234.5 * std::pow(alpha, c.n + 1) /
                            (c.n + 1) * std::cos(c.m * (angle - azimuth));
    const double k = alpha / wavelength;
    EXPECT_NEAR(aberration_phase(k * std::sin(angle), k * std::cos(angle), wavelength, aberrations),
                expected, 1e-9 * std::abs(expected) + 1e-15)
        << "C" << c.n << c.m;
  }
}

TEST(CoreOptics, PropagatorsAgreeNearTheAxisAndTheAngularSpectrumStopsEvanescentWaves) {
  const double wavelength = 0.025;
  const double distance = 50.0;
  const double k2 = 0.01;
  const Complex<double> fresnel = fresnel_factor(k2, wavelength, distance);
  const Complex<double> exact = angular_spectrum_factor(k2, wavelength, distance);
  EXPECT_NEAR(fresnel.re, exact.re, 1e-7);
  EXPECT_NEAR(fresnel.im, exact.im, 1e-7);
  EXPECT_LT(fresnel.im, 0.0) << "a tilted wave lags behind downstream";
  const double wide = 400.0;  // lambda k = 0.5
  const double carrier = 2.0 * kPi<double> / wavelength;
  const std::complex<double> direct =
      std::polar(1.0, distance * carrier * (std::sqrt(1.0 - 0.25) - 1.0));
  const Complex<double> factor = angular_spectrum_factor(wide, wavelength, distance);
  EXPECT_NEAR(factor.re, direct.real(), 1e-9);
  EXPECT_NEAR(factor.im, direct.imag(), 1e-9);
  const Complex<double> evanescent = angular_spectrum_factor(1601.0, wavelength, distance);
  EXPECT_EQ(evanescent.re, 0.0);
  EXPECT_EQ(evanescent.im, 0.0);
}

TEST(CoreOptics, SoftApertureIsHalfOpenAtItsEdge) {
  EXPECT_EQ(soft_aperture(1.0, 10.0, 2.0), 1.0);
  EXPECT_EQ(soft_aperture(10.0, 10.0, 2.0), 0.5);
  EXPECT_EQ(soft_aperture(10.5, 10.0, 2.0), 0.25);
  EXPECT_EQ(soft_aperture(11.5, 10.0, 2.0), 0.0);
  EXPECT_EQ(soft_aperture(10.0, 10.0, 0.0), 1.0);
  EXPECT_EQ(soft_aperture(10.1, 10.0, 0.0), 0.0);
}

}  // namespace
}  // namespace ptyle
