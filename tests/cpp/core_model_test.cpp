// The fused model of a position against the same formulae written down slowly in double.
#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdint>
#include <functional>
#include <memory>
#include <numbers>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

#include "csrc/cpu/model.h"
#include "csrc/wave.h"

namespace ptyle::cpu {
namespace {

using Z = std::complex<double>;
using Waves = std::vector<Z>;

// Everything that a reconstruction could ask of a few positions.
struct Problem {
  int64_t h = 8, w = 6, slices = 3, modes = 2, rows = 11, columns = 9;
  Waves object, probe, propagators, detector;
  std::vector<double> phase;  // of a real object; then `object` is exp(i phase)
  bool real_object = false, per_slice = true, near_field = false;
  std::vector<Window> windows;
  std::vector<double> counts, background;
  std::vector<uint8_t> mask;
  std::vector<double> weights;
  Likelihood likelihood = Likelihood::kAmplitude;
  int64_t pixels() const { return h * w; }
};

Problem random_problem(unsigned seed, Problem problem) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  const auto fill = [&](int64_t count, double scale, Z mean) {
    Waves waves(static_cast<size_t>(count));
    for (Z& z : waves) z = mean + scale * Z(normal(random), normal(random));
    return waves;
  };
  const auto phases = [&](int64_t count) {
    Waves waves(static_cast<size_t>(count));
    for (Z& z : waves) z = std::polar(1.0, 3.0 * normal(random));
    return waves;
  };
  const int64_t pixels = problem.pixels();
  const int64_t object = problem.slices * problem.rows * problem.columns;
  problem.object = fill(object, 0.3, 1.0);
  if (problem.real_object) {
    for (Z& z : problem.object) {
      problem.phase.push_back(normal(random));
      z = std::polar(1.0, problem.phase.back());
    }
  }
  problem.probe = fill(problem.modes * pixels, 1.0, 0.0);
  problem.propagators =
      phases((problem.per_slice ? std::max<int64_t>(0, problem.slices - 1) : 1) * pixels);
  if (problem.near_field) problem.detector = phases(pixels);
  std::uniform_int_distribution<int64_t> place(-3, 6);
  std::uniform_real_distribution<double> fraction(0.0, 1.0);
  for (size_t n = 0; n < 5; ++n) {
    const bool moved = n % 2 == 1;
    problem.windows.push_back({place(random), place(random), moved ? fraction(random) : 0.0,
                               moved ? fraction(random) : 0.0});
    problem.weights.push_back(0.5 + fraction(random));
  }
  const size_t all = problem.windows.size() * static_cast<size_t>(pixels);
  std::poisson_distribution<int> poisson(3.0);
  for (size_t i = 0; i < all; ++i) {
    problem.counts.push_back(poisson(random));
    problem.background.push_back(0.1 + fraction(random));
    problem.mask.push_back(i % 7 == 0 ? 3 : 0);
  }
  return problem;
}

// ---- slowly ----

Waves unitary(const Waves& image, int64_t h, int64_t w, double sign) {
  const auto at = [w](int64_t y, int64_t x) { return static_cast<size_t>(y * w + x); };
  const auto phase = [sign](int64_t k, int64_t n) {
    return std::polar(
        1.0, sign * 2.0 * std::numbers::pi * static_cast<double>(k % n) / static_cast<double>(n));
  };
  Waves rows(image.size()), all(image.size());
  for (int64_t y = 0; y < h; ++y) {
    for (int64_t k = 0; k < w; ++k) {
      for (int64_t x = 0; x < w; ++x) rows[at(y, k)] += image[at(y, x)] * phase(k * x, w);
    }
  }
  for (int64_t k = 0; k < h; ++k) {
    for (int64_t y = 0; y < h; ++y) {
      for (int64_t x = 0; x < w; ++x) all[at(k, x)] += rows[at(y, x)] * phase(k * y, h);
    }
  }
  for (Z& z : all) z /= std::sqrt(static_cast<double>(h * w));
  return all;
}

// What moves pixel i of a probe's spectrum by the window's fractions.
Z slow_ramp(const Problem& p, const Window& window, int64_t i) {
  const auto ramp = [](int64_t k, int64_t n, double fraction) {
    const ShiftRamp<double> z = shift_ramp<double>(k, n, fraction);
    return Z(z.value.re, z.value.im);
  };
  return ramp(i / p.w, p.h, window.row_fraction) * ramp(i % p.w, p.w, window.column_fraction);
}

// Pixel i of a window on a slice of the object, or -1 outside.
int64_t slow_place(const Problem& p, const Window& window, int64_t i) {
  const int64_t row = window.row + i / p.w, column = window.column + i % p.w;
  const bool inside = row >= 0 && row < p.rows && column >= 0 && column < p.columns;
  return inside ? row * p.columns + column : -1;
}

// The waves that fall on every slice, and last the exit wave.
std::vector<Waves> slow_waves(const Problem& p, const Window& window, int64_t mode) {
  Waves wave(p.probe.begin() + mode * p.pixels(), p.probe.begin() + (mode + 1) * p.pixels());
  wave = unitary(wave, p.h, p.w, -1);
  for (int64_t i = 0; i < p.pixels(); ++i) {
    wave[static_cast<size_t>(i)] *= slow_ramp(p, window, i);
  }
  wave = unitary(wave, p.h, p.w, 1);
  std::vector<Waves> waves;
  for (int64_t s = 0; s < p.slices; ++s) {
    waves.push_back(wave);
    for (int64_t i = 0; i < p.pixels(); ++i) {
      const int64_t at = slow_place(p, window, i);
      if (at < 0) continue;
      wave[static_cast<size_t>(i)] *= p.object[static_cast<size_t>(s * p.rows * p.columns + at)];
    }
    if (s + 1 == p.slices) break;
    wave = unitary(wave, p.h, p.w, -1);
    for (int64_t i = 0; i < p.pixels(); ++i) {
      wave[static_cast<size_t>(i)] *=
          p.propagators[static_cast<size_t>((p.per_slice ? s * p.pixels() : 0) + i)];
    }
    wave = unitary(wave, p.h, p.w, 1);
  }
  waves.push_back(wave);
  return waves;
}

Waves slow_exit_wave(const Problem& p, const Window& window, int64_t mode) {
  return slow_waves(p, window, mode).back();
}

std::vector<double> slow_illumination(const Problem& p) {
  std::vector<double> illumination(p.object.size());
  for (const Window& window : p.windows) {
    for (int64_t mode = 0; mode < p.modes; ++mode) {
      const std::vector<Waves> waves = slow_waves(p, window, mode);
      for (int64_t s = 0; s < p.slices; ++s) {
        for (int64_t i = 0; i < p.pixels(); ++i) {
          const int64_t at = slow_place(p, window, i);
          if (at < 0) continue;
          illumination[static_cast<size_t>(s * p.rows * p.columns + at)] +=
              std::norm(waves[static_cast<size_t>(s)][static_cast<size_t>(i)]);
        }
      }
    }
  }
  return illumination;
}

std::vector<double> slow_intensity(const Problem& p, const Window& window) {
  std::vector<double> intensity(static_cast<size_t>(p.pixels()));
  for (int64_t mode = 0; mode < p.modes; ++mode) {
    Waves wave = unitary(slow_exit_wave(p, window, mode), p.h, p.w, -1);
    if (p.near_field) {
      for (int64_t i = 0; i < p.pixels(); ++i) {  // moved back: the detector stands still
        wave[static_cast<size_t>(i)] *=
            p.detector[static_cast<size_t>(i)] * std::conj(slow_ramp(p, window, i));
      }
      wave = unitary(wave, p.h, p.w, 1);
    }
    for (size_t i = 0; i < wave.size(); ++i) intensity[i] += std::norm(wave[i]);
  }
  return intensity;
}

double pixel_loss(Likelihood likelihood, double expected, double count) {
  switch (likelihood) {
    case Likelihood::kAmplitude:
      return std::pow(std::sqrt(expected) - std::sqrt(count), 2);
    case Likelihood::kPoisson:
      return count > 0 ? expected - count - count * std::log(expected / count) : expected;
    case Likelihood::kGaussian:
      return std::pow(expected - count, 2);
  }
  return 0;
}

std::vector<double> slow_losses(const Problem& p) {
  std::vector<double> losses;
  for (size_t n = 0; n < p.windows.size(); ++n) {
    const std::vector<double> intensity = slow_intensity(p, p.windows[n]);
    double loss = 0;
    for (size_t i = 0; i < intensity.size(); ++i) {
      const size_t at = n * static_cast<size_t>(p.pixels()) + i;
      if (p.mask[at] == 0) {
        loss += pixel_loss(p.likelihood, intensity[i] + p.background[at], p.counts[at]);
      }
    }
    losses.push_back(loss);
  }
  return losses;
}

double slow_loss(const Problem& p) {
  const std::vector<double> losses = slow_losses(p);
  double sum = 0;
  for (size_t n = 0; n < losses.size(); ++n) sum += p.weights[n] * losses[n];
  return sum;
}

// ---- fused ----

template <typename T>
struct Result {
  std::vector<double> losses, amplitude_errors, positions;
  std::vector<T> object, illumination, probe, propagator, intensity, exit;
};

template <typename T>
std::vector<T> as_numbers(const Waves& waves) {
  std::vector<T> numbers;
  for (const Z& z : waves) {
    numbers.push_back(static_cast<T>(z.real()));
    numbers.push_back(static_cast<T>(z.imag()));
  }
  return numbers;
}

constexpr int64_t kKeepAll = int64_t{1} << 40;

template <typename T>
Result<T> fused(const InstructionSet& set, const Problem& p, int threads = 1,
                int64_t keep_bytes = kKeepAll) {
  const std::vector<T> object = as_numbers<T>(p.object), probe = as_numbers<T>(p.probe);
  const std::vector<T> propagators = as_numbers<T>(p.propagators);
  const std::vector<T> detector = as_numbers<T>(p.detector);
  const std::vector<T> background(p.background.begin(), p.background.end());
  Inputs<T> in{};
  in.slices = p.slices;
  in.rows = p.rows;
  in.columns = p.columns;
  in.modes = p.modes;
  in.height = p.h;
  in.width = p.w;
  in.transmission = object.data();
  in.probe = probe.data();
  in.propagator = p.slices > 1 ? propagators.data() : nullptr;
  in.propagator_per_slice = p.per_slice;
  in.detector = p.near_field ? detector.data() : nullptr;
  in.real_object = p.real_object;
  in.moves = true;
  Model<T> model(set, in, keep_bytes);

  Result<T> result;
  const size_t n = p.windows.size(), pixels = static_cast<size_t>(p.pixels());
  result.losses.resize(n);
  result.amplitude_errors.resize(n);
  result.positions.resize(2 * n);
  result.object.resize(object.size() / (p.real_object ? 2 : 1));
  result.illumination.resize(p.object.size());
  result.probe.resize(probe.size());
  if (p.slices > 1) result.propagator.resize(propagators.size());
  result.intensity.resize(n * pixels);
  result.exit.resize(n * probe.size());
  Sums<T> sums;
  sums.object = result.object.data();
  sums.illumination = result.illumination.data();
  sums.probe = result.probe.data();
  sums.propagator = p.slices > 1 ? result.propagator.data() : nullptr;
  sums.positions = result.positions.data();
  model.begin(sums);
  const auto measured = [&](size_t k) {
    return Measured<T>{Count::kDouble,
                       p.counts.data() + k * pixels,
                       p.mask.data() + k * pixels,
                       background.data() + k * pixels,
                       static_cast<T>(p.weights[k]),
                       p.likelihood,
                       /*amplitude_error=*/true};
  };
  Turns turns(p.windows, p.w, p.h, kernels<T>(set).lanes, p.slices);
  const auto work = [&] {
    Worker<T> worker(model, true);
    for (int64_t k = turns.next(); k >= 0; k = turns.next()) {
      const auto at = static_cast<size_t>(k);
      const Misfit misfit = model.loss(worker, p.windows[at], measured(at), sums, k, &turns);
      result.losses[at] = misfit.loss;
      result.amplitude_errors[at] = misfit.amplitude_error;
    }
  };
  std::vector<std::thread> others;
  for (int k = 1; k < threads; ++k) others.emplace_back(work);
  work();
  for (std::thread& other : others) other.join();
  model.finish(sums);
  Worker<T> worker(model, false);
  for (size_t k = 0; k < n; ++k) {
    model.diffraction(worker, p.windows[k], result.intensity.data() + k * pixels);
    model.exit_waves(worker, p.windows[k], result.exit.data() + k * probe.size());
  }
  return result;
}

template <typename A, typename B>
double relative(const A& a, const B& b) {
  EXPECT_EQ(a.size(), b.size());
  double error = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    error += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
    norm += std::pow(static_cast<double>(b[i]), 2);
  }
  return std::sqrt(error / std::max(norm, 1e-300));
}

std::vector<Problem> problems() {
  std::vector<Problem> all;
  unsigned seed = 0;
  for (const Likelihood likelihood :
       {Likelihood::kAmplitude, Likelihood::kPoisson, Likelihood::kGaussian}) {
    for (const auto& [h, w] :
         {std::pair<int64_t, int64_t>{8, 6}, {5, 20}, {16, 18}, {1, 9}, {7, 11}, {61, 1}}) {
      Problem p;
      p.h = h;
      p.w = w;
      p.likelihood = likelihood;
      p.slices = 1 + seed % 3;
      p.modes = 1 + seed % 2;
      p.real_object = seed % 4 == 1;
      p.near_field = seed % 5 == 2;
      p.per_slice = seed % 2 == 0;
      p.rows = h + 2;
      p.columns = w > 10 ? w - 1 : w + 4;
      all.push_back(random_problem(seed++, p));
    }
  }
  return all;
}

TEST(FusedModel, LossesWavesAndIntensitiesAreTheFormulae) {
  for (const InstructionSet* set : instruction_sets()) {
    for (const Problem& p : problems()) {
      const Result<double> result = fused<double>(*set, p);
      EXPECT_LT(relative(result.losses, slow_losses(p)), 1e-12) << set->name;
      for (size_t n = 0; n < p.windows.size(); ++n) {
        const auto pixels = static_cast<std::ptrdiff_t>(p.pixels());
        const auto first = static_cast<std::ptrdiff_t>(n) * pixels;
        const std::vector<double> intensity(result.intensity.begin() + first,
                                            result.intensity.begin() + first + pixels);
        EXPECT_LT(relative(intensity, slow_intensity(p, p.windows[n])), 1e-13);
        for (int64_t mode = 0; mode < p.modes; ++mode) {
          const auto at = 2 * (first * p.modes + mode * pixels);
          const std::vector<double> exit(result.exit.begin() + at,
                                         result.exit.begin() + at + 2 * pixels);
          EXPECT_LT(relative(exit, as_numbers<double>(slow_exit_wave(p, p.windows[n], mode))),
                    1e-13);
        }
      }
    }
  }
}

TEST(FusedModel, IlluminationIsWhatFallsOnEverySliceWithoutWeights) {
  for (const InstructionSet* set : instruction_sets()) {
    for (const Problem& p : problems()) {
      EXPECT_LT(relative(fused<double>(*set, p).illumination, slow_illumination(p)), 1e-13)
          << set->name;
    }
  }
}

TEST(FusedModel, AmplitudeErrorsAreTheAmplitudeLikelihoodsLosses) {
  for (const InstructionSet* set : instruction_sets()) {
    for (Problem p : problems()) {
      const Result<double> result = fused<double>(*set, p);
      if (p.likelihood == Likelihood::kAmplitude) {
        EXPECT_EQ(result.amplitude_errors, result.losses);
      }
      p.likelihood = Likelihood::kAmplitude;
      EXPECT_LT(relative(result.amplitude_errors, slow_losses(p)), 1e-12) << set->name;
    }
  }
}

// d loss along a random direction of one unknown, by Richardson's central difference.
double slow_slope(const Problem& p, const std::function<void(Problem&, double)>& move) {
  const auto central = [&](double step) {
    Problem plus = p, minus = p;
    move(plus, step);
    move(minus, -step);
    return (slow_loss(plus) - slow_loss(minus)) / (2 * step);
  };
  constexpr double kStep = 1e-3;
  return (4 * central(kStep / 2) - central(kStep)) / 3;
}

double product(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

TEST(FusedModel, GradientsAreDirectionalDerivatives) {
  std::mt19937 random(9);
  std::normal_distribution<double> normal;
  for (const Problem& p : problems()) {
    const auto check =
        [&](const std::string& what, const std::vector<double>& gradient,
            const std::function<void(Problem&, const std::vector<double>&, double)>& move) {
          std::vector<double> direction(gradient.size());
          for (double& d : direction) d = normal(random) / std::sqrt(double(direction.size()));
          const double expected =
              slow_slope(p, [&](Problem& moved, double step) { move(moved, direction, step); });
          const double found = product(gradient, direction);
          const double scale = std::sqrt(product(gradient, gradient) / double(gradient.size()));
          // a gradient that vanishes by symmetry is 0 to the rounding of the loss
          const double least = 1e-4 * slow_loss(p);
          EXPECT_NEAR(found, expected, 1e-7 * std::max({scale, std::abs(expected), least})) << what;
        };
    const auto add = [](Waves& to, const std::vector<double>& direction, double step) {
      for (size_t i = 0; i < to.size(); ++i) {
        to[i] += step * Z(direction[2 * i], direction[2 * i + 1]);
      }
    };
    for (const InstructionSet* set : instruction_sets()) {
      SCOPED_TRACE(set->name);
      const Result<double> r = fused<double>(*set, p);
      check("object", r.object, [&](Problem& q, const std::vector<double>& d, double step) {
        if (!q.real_object) return add(q.object, d, step);
        for (size_t i = 0; i < d.size(); ++i) {
          q.object[i] = std::polar(1.0, q.phase[i] + step * d[i]);
        }
      });
      check("probe", r.probe,
            [&](Problem& q, const std::vector<double>& d, double step) { add(q.probe, d, step); });
      if (p.slices > 1) {
        check("propagator", r.propagator,
              [&](Problem& q, const std::vector<double>& d, double step) {
                add(q.propagators, d, step);
              });
      }
      check("positions", r.positions, [&](Problem& q, const std::vector<double>& d, double step) {
        for (size_t n = 0; n < q.windows.size(); ++n) {
          q.windows[n].row_fraction += step * d[2 * n];
          q.windows[n].column_fraction += step * d[2 * n + 1];
        }
      });
    }
  }
}

TEST(FusedModel, SinglePrecisionIsDoubleToSixDigits) {
  for (const InstructionSet* set : instruction_sets()) {
    for (const Problem& p : problems()) {
      const Result<float> single = fused<float>(*set, p);
      const Result<double> precise = fused<double>(*set, p);
      // amplitudes near 0 magnify rounding; a background keeps them away from it
      EXPECT_LT(relative(single.losses, precise.losses), 1e-6) << set->name;
      EXPECT_LT(relative(single.amplitude_errors, precise.amplitude_errors), 1e-6) << set->name;
      EXPECT_LT(relative(single.object, precise.object), 3e-6) << set->name;
      EXPECT_LT(relative(single.illumination, precise.illumination), 1e-6) << set->name;
      EXPECT_LT(relative(single.probe, precise.probe), 3e-6) << set->name;
      for (size_t i = 0; i < precise.positions.size(); ++i) {
        const double least = precise.losses[i / 2];
        EXPECT_NEAR(single.positions[i], precise.positions[i],
                    1e-5 * std::max(std::abs(precise.positions[i]), least))
            << set->name;
      }
    }
  }
}

template <typename T>
bool same_bits(const Result<T>& a, const Result<T>& b) {
  const auto all = [](const Result<T>& r) {
    return std::tie(r.losses, r.amplitude_errors, r.positions, r.object, r.illumination, r.probe,
                    r.propagator);
  };
  return all(a) == all(b);
}

TEST(FusedModel, BitsDoNotDependOnThreads) {
  const InstructionSet& set = *instruction_sets().front();
  for (const Problem& p : problems()) {
    const Result<float> one = fused<float>(set, p);
    for (const int threads : {2, 3, 5}) {
      for (int repeat = 0; repeat < 4; ++repeat) {
        EXPECT_TRUE(same_bits(fused<float>(set, p, threads), one)) << threads;
      }
    }
  }
}

TEST(FusedModel, RecomputedWavesChangeNothing) {
  EXPECT_EQ(kept_every(100, 10, 1000), 1);
  EXPECT_EQ(kept_every(100, 10, 999), 10);
  for (const int64_t slices : {1, 2, 3, 5, 9, 10}) {
    Problem p;
    p.slices = slices;
    p.real_object = slices == 5;
    p.near_field = slices == 3;
    p = random_problem(7, p);
    for (const InstructionSet* set : instruction_sets()) {
      EXPECT_TRUE(same_bits(fused<double>(*set, p, 1, 0), fused<double>(*set, p))) << slices;
      EXPECT_TRUE(same_bits(fused<double>(*set, p, 2, 0), fused<double>(*set, p))) << slices;
    }
  }
}

TEST(FusedModel, WindowsFarFromTheObjectSeeVacuum) {
  Problem p = random_problem(3, {});
  constexpr int64_t kFar = (int64_t{1} << 52) - 1;
  p.windows[0] = {kFar, -kFar, 0.0, 0.0};
  p.windows[2] = {-kFar, 2, 0.0, 0.0};
  for (const InstructionSet* set : instruction_sets()) {
    for (const int threads : {1, 2}) {
      const Result<double> result = fused<double>(*set, p, threads);
      EXPECT_LT(relative(result.losses, slow_losses(p)), 1e-12);
      EXPECT_LT(relative(result.illumination, slow_illumination(p)), 1e-13);
    }
  }
}

TEST(FusedModel, NoModesGiveNoLightForEveryPosition) {
  Problem p = random_problem(3, {});
  p.modes = 0;
  p.probe.clear();
  EXPECT_LT(relative(fused<double>(*instruction_sets().front(), p).losses, slow_losses(p)), 1e-12);
}

TEST(FusedModel, AWeightThatIsNotANumberStaysWithItsPosition) {
  Problem p = random_problem(4, {});
  p.weights[0] = std::nan("");
  for (const InstructionSet* set : instruction_sets()) {
    EXPECT_LT(relative(fused<double>(*set, p).losses, slow_losses(p)), 1e-12) << set->name;
  }
}

TEST(FusedModel, NobodyWaitsForAPositionThatFailed) {
  const Problem p = random_problem(3, {});
  Turns turns(p.windows, p.w, p.h, 4, p.slices);
  EXPECT_EQ(turns.next(), 0);
  EXPECT_EQ(turns.next(), 1);
  std::thread other([&] { turns.wait(1, turns.first_unit(0), true); });
  turns.fail();  // position 0's thread
  other.join();
  EXPECT_EQ(turns.next(), -1);
}

TEST(FusedModel, WhatIsNotANumberIsNoticed) {
  Problem p = random_problem(1, {});
  p.counts[3] = std::nan("");
  p.mask[3] = 0;
  for (const Likelihood likelihood :
       {Likelihood::kAmplitude, Likelihood::kPoisson, Likelihood::kGaussian}) {
    p.likelihood = likelihood;
    for (const InstructionSet* set : instruction_sets()) {
      const Result<float> result = fused<float>(*set, p);
      EXPECT_TRUE(std::isnan(result.losses[0])) << set->name;
      EXPECT_TRUE(std::isnan(result.amplitude_errors[0])) << set->name;
    }
  }
  p.mask[3] = 1;  // a bad pixel counts for nothing
  const Result<float> result = fused<float>(*instruction_sets().front(), p);
  EXPECT_TRUE(std::isfinite(result.losses[0]));
  EXPECT_TRUE(std::isfinite(result.amplitude_errors[0]));
}

TEST(FusedModel, DarkHugeAndTinyIntensitiesHaveFiniteGradients) {
  for (const double scale : {0.0, 1e-30, 1e-18, 1e-6, 1e6}) {
    for (const Likelihood likelihood : {Likelihood::kAmplitude, Likelihood::kPoisson}) {
      Problem p = random_problem(2, {});
      p.likelihood = likelihood;
      for (Z& z : p.probe) z *= scale;
      std::fill(p.background.begin(), p.background.end(), 0.0);
      for (const InstructionSet* set : instruction_sets()) {
        const Result<float> result = fused<float>(*set, p);
        for (const double loss : result.losses) EXPECT_TRUE(std::isfinite(loss)) << set->name;
        for (const float g : result.object) ASSERT_TRUE(std::isfinite(g)) << set->name << scale;
        for (const float g : result.probe) ASSERT_TRUE(std::isfinite(g)) << set->name << scale;
      }
    }
  }
}

}  // namespace
}  // namespace ptyle::cpu
