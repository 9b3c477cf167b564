// Formulae of csrc/wave.h and csrc/likelihood.h by themselves.
#include <cmath>
#include <complex>
#include <limits>

#include <gtest/gtest.h>

#include "csrc/likelihood.h"
#include "csrc/wave.h"

namespace ptyle {
namespace {

TEST(ShiftRamp, IsTheFourierPhaseOfAShift) {
  for (const int64_t n : {1, 2, 5, 8}) {
    for (const double fraction : {0.0, 0.25, 0.9}) {
      for (int64_t k = 0; k < n; ++k) {
        const Complex<double> got = shift_ramp(k, n, fraction).value;
        const double frequency = double(2 * k < n ? k : k - n) / double(n);
        const std::complex<double> expected =
            2 * k == n ? std::complex<double>(std::cos(kPi<double> * fraction))
                       : std::polar(1.0, -2 * kPi<double> * frequency * fraction);
        EXPECT_NEAR(got.re, expected.real(), 1e-15);
        EXPECT_NEAR(got.im, expected.imag(), 1e-15);
      }
    }
  }
}

TEST(ShiftRamp, SlopeIsItsDerivative) {
  const double step = 1e-6;
  for (const int64_t n : {2, 5, 8}) {
    for (int64_t k = 0; k < n; ++k) {
      const Complex<double> slope = shift_ramp(k, n, 0.3).slope;
      const Complex<double> above = shift_ramp(k, n, 0.3 + step).value;
      const Complex<double> below = shift_ramp(k, n, 0.3 - step).value;
      EXPECT_NEAR(slope.re, (above.re - below.re) / (2 * step), 1e-8);
      EXPECT_NEAR(slope.im, (above.im - below.im) / (2 * step), 1e-8);
    }
  }
}

TEST(Footprint, IsThePartOfTheWindowOnTheObject) {
  for (const int64_t row : {-9, -3, 0, 4, 9, 30}) {
    const Footprint f = footprint(row, -row, 5, 4, 10, 7);
    for (int64_t y = 0; y < 5; ++y) {
      EXPECT_EQ(y >= f.row_begin && y < f.row_end, row + y >= 0 && row + y < 10) << row << " " << y;
    }
    for (int64_t x = 0; x < 4; ++x) {
      EXPECT_EQ(x >= f.column_begin && x < f.column_end, -row + x >= 0 && -row + x < 7)
          << row << " " << x;
    }
  }
}

template <typename Functor>
void expect_slope(Functor likelihood, double expected, double count) {
  const double step = 1e-6 * (1 + expected);
  const double slope =
      (likelihood(expected + step, count).loss - likelihood(expected - step, count).loss) /
      (2 * step);
  EXPECT_NEAR(likelihood(expected, count).slope, slope, 1e-7 * (1 + std::abs(slope)));
}

TEST(Likelihoods, SlopesAreDerivatives) {
  for (const double expected : {0.01, 0.5, 7.0, 3000.0}) {
    for (const double count : {0.0, 1.0, 6.0, 3100.0}) {
      expect_slope(AmplitudeLikelihood{}, expected, count);
      expect_slope(PoissonLikelihood{}, expected, count);
      expect_slope(GaussianLikelihood{}, expected, count);
    }
  }
}

TEST(Likelihoods, AreZeroAtThePerfectFitAndPositiveElsewhere) {
  for (const double count : {1.0, 5.0, 65535.0}) {
    for (const double factor : {0.5, 1.0, 1.7}) {
      const double amplitude = AmplitudeLikelihood{}(factor * count, count).loss;
      const double poisson = PoissonLikelihood{}(factor * count, count).loss;
      const double gaussian = GaussianLikelihood{}(factor * count, count).loss;
      for (const double loss : {amplitude, poisson, gaussian}) {
        if (factor == 1.0) {
          EXPECT_EQ(loss, 0.0);
        } else {
          EXPECT_GT(loss, 0.0);
        }
      }
    }
  }
}

TEST(Likelihoods, PoissonInSinglePrecisionDoesNotCancel) {
  const float count = 60000.0f;
  for (const float expected : {59000.0f, 60010.0f, 61000.0f}) {
    const double exact = PoissonLikelihood{}(double(expected), double(count)).loss;
    EXPECT_NEAR(PoissonLikelihood{}(expected, count).loss, exact, 0.02 + 0.002 * exact);
  }
}

TEST(Likelihoods, EdgesAreAsStated) {
  EXPECT_EQ(AmplitudeLikelihood{}(0.0, 4.0).slope, 0.0);
  EXPECT_EQ(AmplitudeLikelihood{}(0.0, 4.0).loss, 4.0);
  EXPECT_EQ(AmplitudeLikelihood{}(4.0, -3.0).loss, 4.0);  // a negative count is 0
  EXPECT_EQ(PoissonLikelihood{}(2.5, 0.0).loss, 2.5);
  EXPECT_EQ(PoissonLikelihood{}(2.5, -1.0).slope, 1.0);
  EXPECT_EQ(PoissonLikelihood{}(0.0, 3.0).slope, 1.0);  // below the floor: that of I + b alone
  EXPECT_TRUE(std::isfinite(PoissonLikelihood{}(0.0, 3.0).loss));
  EXPECT_EQ(GaussianLikelihood{}(1.0, -2.0).loss, 9.0);
  const double none = std::nan("");
  for (const auto& [expected, count] : {std::pair{1.0, none}, std::pair{none, 1.0}}) {
    EXPECT_TRUE(std::isnan(AmplitudeLikelihood{}(expected, count).loss));
    EXPECT_TRUE(std::isnan(PoissonLikelihood{}(expected, count).loss));
    EXPECT_TRUE(std::isnan(GaussianLikelihood{}(expected, count).loss));
  }
}

TEST(Likelihoods, WhatIsNotANumberStaysNotANumber) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_TRUE(std::isnan(AmplitudeLikelihood{}(nan, 4.0).loss));
  EXPECT_TRUE(std::isnan(AmplitudeLikelihood{}(nan, 4.0).slope));
  EXPECT_TRUE(std::isnan(PoissonLikelihood{}(nan, 4.0).loss));
  EXPECT_TRUE(std::isnan(GaussianLikelihood{}(nan, 4.0).loss));
}

}  // namespace
}  // namespace ptyle
