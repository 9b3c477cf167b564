// What counting noise alone leaves of each likelihood's loss.
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "csrc/likelihood.h"

namespace ptyle {
namespace {

// The second derivative with respect to sqrt(I) where the model fits, and farther away.
double curvature_at(Likelihood likelihood, double intensity, double count) {
  constexpr double kStep = 1e-3;
  const double root = std::sqrt(intensity);
  return with_likelihood(likelihood, [&](auto functor) {
    const auto loss = [&](double amplitude) { return functor(amplitude * amplitude, count).loss; };
    return (loss(root + kStep) - 2 * loss(root) + loss(root - kStep)) / (kStep * kStep);
  });
}

TEST(Likelihoods, AreNamedByTheTableWhichKnowsTheirCurvature) {
  const std::vector<std::string> names = likelihood_names();
  EXPECT_EQ(names, (std::vector<std::string>{"amplitude", "poisson", "gaussian"}));
  EXPECT_EQ(likelihood_named("ampltude"), std::nullopt);
  for (size_t row = 0; row < names.size(); ++row) {
    const auto kind = static_cast<Likelihood>(row);
    EXPECT_EQ(likelihood_named(names[row]), kind);
    for (const double count : {0.5, 4.0, 60.0}) {
      EXPECT_NEAR(curvature_at(kind, count, count), 2 * relative_curvature(kind, count),
                  1e-4 * count)
          << names[row];
    }
    // Without bound: where I is small beside n, or where it is large.
    const bool grows = curvature_at(kind, 1.0, 1e4) > 1e3 || curvature_at(kind, 1e4, 1.0) > 1e3;
    EXPECT_EQ(grows, !has_bounded_curvature(kind)) << names[row];
  }
}

// Sums over the distribution in extended precision, made apart from this code.
TEST(ExpectedLoss, IsTheMeanOverThePoissonDistribution) {
  struct Case {
    double intensity, amplitude, poisson;
  };
  for (const Case& one : {Case{0.01, 0.018005841587546784, 0.046120873019580434},
                          Case{0.25, 0.26710016745521326, 0.3877538091457149},
                          Case{1.0, 0.45361468724142806, 0.5734028091226203},
                          Case{3.0, 0.3502112164990151, 0.547292544764503},
                          Case{10.0, 0.2630301213368793, 0.5094142698469388},
                          Case{30.0, 0.2538226414158778, 0.5028768746374417}}) {
    EXPECT_NEAR(expected_loss(Likelihood::kAmplitude, one.intensity), one.amplitude, 1e-12);
    EXPECT_NEAR(expected_loss(Likelihood::kPoisson, one.intensity), one.poisson, 1e-6);
    EXPECT_EQ(expected_loss(Likelihood::kGaussian, one.intensity), one.intensity);
  }
  // Beyond 30 counts the series.
  EXPECT_NEAR(expected_loss(Likelihood::kAmplitude, 50.0), 0.2522489765224852, 2e-6);
  EXPECT_NEAR(expected_loss(Likelihood::kAmplitude, 100.0), 0.251108746177066, 2e-7);
  EXPECT_NEAR(expected_loss(Likelihood::kPoisson, 50.0), 0.5017013447398835, 1e-7);
  EXPECT_NEAR(expected_loss(Likelihood::kAmplitude, 1e9), 0.25, 1e-9);
}

TEST(ExpectedLoss, IsNothingWithoutCountsAndJoinsItsSeries) {
  for (const Likelihood kind :
       {Likelihood::kAmplitude, Likelihood::kPoisson, Likelihood::kGaussian}) {
    EXPECT_EQ(expected_loss(kind, 0.0), 0.0);
    EXPECT_TRUE(std::isnan(expected_loss(kind, std::nan(""))));
    if (kind == Likelihood::kGaussian) continue;
    EXPECT_NEAR(expected_loss(kind, 30.0 - 1e-9), expected_loss(kind, 30.0 + 1e-9), 1e-5);
  }
}

TEST(ExpectedLoss, IsWhatDrawnCountsGive) {
  std::mt19937_64 generator(5);
  for (const double intensity : {0.3, 2.0, 200.0}) {
    std::poisson_distribution<int> counts(intensity);
    double amplitude = 0.0, poisson = 0.0;
    constexpr int kDraws = 400000;
    for (int k = 0; k < kDraws; ++k) {
      const double n = counts(generator);
      amplitude += AmplitudeLikelihood()(intensity, n).loss / kDraws;
      poisson += PoissonLikelihood()(intensity, n).loss / kDraws;
    }
    EXPECT_NEAR(expected_loss(Likelihood::kAmplitude, intensity), amplitude, 0.01 * amplitude);
    EXPECT_NEAR(expected_loss(Likelihood::kPoisson, intensity), poisson, 0.01 * poisson);
  }
}

}  // namespace
}  // namespace ptyle
