// How badly a model intensity explains a measured count, and the slope of that.
//
// Each functor takes the expected count `expected` = I + b (intensity plus background) and the
// measured count, and gives one pixel's loss and d loss / d I. Sums over pixels are made by the
// caller, in double. What is not a number stays one, in either argument: questions are asked so
// that it is noticed.
#pragma once

#include <cmath>
#include <optional>
#include <string_view>
#include <utility>

#include "csrc/scalar.h"

namespace ptyle {

enum class Likelihood { kAmplitude, kPoisson, kGaussian };

template <typename T>
struct LossAndSlope {
  T loss;
  T slope;  // d loss / d intensity
};

// (sqrt(I + b) - sqrt(n))^2, the maximum-likelihood loss of counts whose square root has a constant
// variance (Thibault & Guizar-Sicairos 2012, New J. Phys. 14, 063004, section 2.3). Negative counts
// are taken as 0. Where I + b = 0 the slope is 0: the square root has none.
struct AmplitudeLikelihood {
  template <typename T>
  PTYLE_HOST_DEVICE LossAndSlope<T> operator()(T expected, T count) const {
    const T measured = sqrt(select(count <= T(0), T(0), count));
    const auto dark = expected <= T(0);
    const T model = sqrt(select(dark, T(0), expected));
    const T residual = model - measured;
    return {residual * residual, select(dark, T(0), residual / select(dark, T(1), model))};
  }
};

// I + b - n ln(I + b), minus its value at I + b = n, so that a perfect fit has loss 0 (Thibault &
// Guizar-Sicairos 2012, section 2.2). The logarithm's argument is held above 1e-6; negative counts
// are taken as 0; a term with n = 0 is exactly I + b.
struct PoissonLikelihood {
  template <typename T>
  PTYLE_HOST_DEVICE LossAndSlope<T> operator()(T expected, T count) const {
    const T kFloor = T(1e-6);
    const auto none = count <= T(0);
    const T n = select(none, T(0), count);
    const auto below = expected <= kFloor;
    const T argument = select(below, kFloor, expected);
    // One logarithm of the ratio: the difference of two would cancel for large counts.
    const T loss = expected - n - n * log(argument / select(none, T(1), n));
    return {select(none, expected, loss), T(1) - select(below, T(0), n / argument)};
  }
};

// (I + b - n)^2, counts as they are, also negative ones.
struct GaussianLikelihood {
  template <typename T>
  PTYLE_HOST_DEVICE LossAndSlope<T> operator()(T expected, T count) const {
    const T residual = expected - count;
    return {residual * residual, T(2) * residual};
  }
};

inline std::optional<Likelihood> likelihood_named(std::string_view name) {
  if (name == "amplitude") return Likelihood::kAmplitude;
  if (name == "poisson") return Likelihood::kPoisson;
  if (name == "gaussian") return Likelihood::kGaussian;
  return std::nullopt;
}

// use(functor of the likelihood)
template <typename Use>
auto with_likelihood(Likelihood likelihood, Use&& use) {
  switch (likelihood) {
    case Likelihood::kPoisson:
      return std::forward<Use>(use)(PoissonLikelihood{});
    case Likelihood::kGaussian:
      return std::forward<Use>(use)(GaussianLikelihood{});
    default:
      return std::forward<Use>(use)(AmplitudeLikelihood{});
  }
}

// What counting noise alone leaves of a pixel's loss: its mean over counts n of the Poisson
// distribution of mean I. By the distribution itself up to 30 counts, beyond by its asymptotic
// series, which there is right to 3e-5:
//   amplitude  2 I - 2 sqrt(I) E[sqrt n] = 1/4 + 7/(64 I) + ...;  2 I where I is small;
//              largest, 0.46, at 1.2 counts
//   poisson    E[n ln(n / I)] = 1/2 + 1/(12 I) + ...
//   gaussian   I
inline double expected_loss(Likelihood likelihood, double intensity) {
  constexpr double kBright = 30.0;
  if (!(intensity > 0.0)) return intensity == 0.0 ? 0.0 : intensity;  // not a number stays one
  if (likelihood == Likelihood::kGaussian) return intensity;
  const bool amplitude = likelihood == Likelihood::kAmplitude;
  if (intensity > kBright) {
    const double x = 1.0 / intensity;
    return amplitude ? 0.25 + x * (7.0 / 64.0 + x * (75.0 / 512.0 + x * (3263.0 / 16384.0)))
                     : 0.5 + x * (1.0 / 12.0 + x * (1.0 / 12.0 + x * (19.0 / 120.0)));
  }
  double probability = std::exp(-intensity), sum = 0.0;
  const double most = intensity + 12.0 * std::sqrt(intensity) + 20.0;
  for (double n = 0.0; n <= most; n += 1.0) {
    const double loss = amplitude ? AmplitudeLikelihood()(intensity, n).loss
                                  : PoissonLikelihood()(intensity, n).loss;
    sum += probability * loss;
    probability *= intensity / (n + 1.0);
  }
  return sum;
}

}  // namespace ptyle
