// How badly a model intensity explains a measured count, and the slope of that.
//
// A likelihood is a functor and its row in the table below; everything else that names one reads
// the table. The functor takes the expected count `expected` = I + b (intensity plus background)
// and the measured count, and gives one pixel's loss and d loss / d I. Sums over pixels are made by
// the caller, in double. What is not a number stays one, in either argument: questions are asked so
// that it is noticed. T may be a number, lanes of a vector or a tensor. Beside it:
//
//   kName
//   kBoundedCurvature        whether the second derivative with respect to the amplitude sqrt(I)
//   has
//                            a bound over all intensities and counts
//   curvature(largest)       that derivative where the model fits, in units of amplitude's, 2;
//   where
//                            it grows with the count, at the largest
//   kBright, noise(I)        the mean loss that counting noise alone leaves, above so many counts
#pragma once

#include <cmath>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "csrc/scalar.h"

namespace ptyle {

template <typename T>
struct LossAndSlope {
  T loss;
  T slope;  // d loss / d intensity
};

// (sqrt(I + b) - sqrt(n))^2, the maximum-likelihood loss of counts whose square root has a constant
// variance (Thibault & Guizar-Sicairos 2012, New J. Phys. 14, 063004, section 2.3). Negative counts
// are taken as 0. Where I + b = 0 the slope is 0: the square root has none.
struct AmplitudeLikelihood {
  static constexpr std::string_view kName = "amplitude";
  static constexpr bool kBoundedCurvature = true;
  static constexpr double curvature(double /*largest*/) { return 1.0; }
  static constexpr double kBright = 30.0;
  static double noise(double intensity) {
    const double x = 1.0 / intensity;
    return 0.25 + x * (7.0 / 64.0 + x * (75.0 / 512.0 + x * (3263.0 / 16384.0)));
  }

  template <typename T>
  PTYLE_HOST_DEVICE LossAndSlope<T> operator()(T expected, T count) const {
    const T measured = sqrt(select(count <= T(0), T(0), count));
    const auto dark = expected <= T(0);
    const T root = sqrt(select(dark, T(1), expected));
    const T residual = select(dark, T(0), root) - measured;
    return {residual * residual, select(dark, T(0), residual / root)};
  }
};

// I + b - n ln(I + b), minus its value at I + b = n, so that a perfect fit has loss 0 (Thibault &
// Guizar-Sicairos 2012, section 2.2). The logarithm's argument is held above 1e-6; negative counts
// are taken as 0; a term with n = 0 is exactly I + b.
struct PoissonLikelihood {
  static constexpr std::string_view kName = "poisson";
  static constexpr bool kBoundedCurvature = false;  // 2 + 2 n / I
  static constexpr double curvature(double /*largest*/) { return 2.0; }
  static constexpr double kBright = 30.0;
  static double noise(double intensity) {
    const double x = 1.0 / intensity;
    return 0.5 + x * (1.0 / 12.0 + x * (1.0 / 12.0 + x * (19.0 / 120.0)));
  }

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
  static constexpr std::string_view kName = "gaussian";
  static constexpr bool kBoundedCurvature = false;  // 8 I
  static constexpr double curvature(double largest) { return 4.0 * largest; }
  static constexpr double kBright = 0.0;
  static double noise(double intensity) { return intensity; }

  template <typename T>
  PTYLE_HOST_DEVICE LossAndSlope<T> operator()(T expected, T count) const {
    const T residual = expected - count;
    return {residual * residual, T(2) * residual};
  }
};

// The table, and its rows' numbers.
using Likelihoods = std::tuple<AmplitudeLikelihood, PoissonLikelihood, GaussianLikelihood>;
enum class Likelihood { kAmplitude, kPoisson, kGaussian };

// use(functor of the likelihood)
template <std::size_t kRow = 0, typename Use>
auto with_likelihood(Likelihood likelihood, const Use& use) {
  if constexpr (kRow + 1 < std::tuple_size_v<Likelihoods>) {
    if (static_cast<std::size_t>(likelihood) != kRow) {
      return with_likelihood<kRow + 1>(likelihood, use);
    }
  }
  return use(std::tuple_element_t<kRow, Likelihoods>{});
}

inline std::string_view name_of(Likelihood likelihood) {
  return with_likelihood(likelihood, []<typename F>(F) { return F::kName; });
}
inline bool has_bounded_curvature(Likelihood likelihood) {
  return with_likelihood(likelihood, []<typename F>(F) { return F::kBoundedCurvature; });
}
inline double relative_curvature(Likelihood likelihood, double largest_count) {
  return with_likelihood(likelihood, [&]<typename F>(F) { return F::curvature(largest_count); });
}

inline std::vector<std::string> likelihood_names() {
  std::vector<std::string> names;
  for (std::size_t row = 0; row < std::tuple_size_v<Likelihoods>; ++row) {
    names.emplace_back(name_of(static_cast<Likelihood>(row)));
  }
  return names;
}

inline std::optional<Likelihood> likelihood_named(std::string_view name) {
  for (std::size_t row = 0; row < std::tuple_size_v<Likelihoods>; ++row) {
    if (name_of(static_cast<Likelihood>(row)) == name) return static_cast<Likelihood>(row);
  }
  return std::nullopt;
}

// What counting noise alone leaves of a pixel's loss: its mean over counts n of the Poisson
// distribution of mean I. By the distribution itself up to kBright counts, beyond by its asymptotic
// series `noise`, which there is right to 3e-5:
//   amplitude  2 I - 2 sqrt(I) E[sqrt n] = 1/4 + 7/(64 I) + ...;  2 I where I is small;
//              largest, 0.46, at 1.2 counts
//   poisson    E[n ln(n / I)] = 1/2 + 1/(12 I) + ...
//   gaussian   I
inline double expected_loss(Likelihood likelihood, double intensity) {
  if (!(intensity > 0.0)) return intensity == 0.0 ? 0.0 : intensity;  // not a number stays one
  return with_likelihood(likelihood, [&]<typename F>(F functor) {
    if (intensity > F::kBright) return F::noise(intensity);
    double probability = std::exp(-intensity), sum = 0.0;
    const double most = intensity + 12.0 * std::sqrt(intensity) + 20.0;
    for (double n = 0.0; n <= most; n += 1.0) {
      sum += probability * functor(intensity, n).loss;
      probability *= intensity / (n + 1.0);
    }
    return sum;
  });
}

}  // namespace ptyle
