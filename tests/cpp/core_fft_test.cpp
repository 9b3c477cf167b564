// Our transforms against a naive one in double, on every instruction set of this processor.
#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdint>
#include <cstdlib>
#include <numbers>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "csrc/cpu/plan.h"

namespace ptyle::cpu {
namespace {

template <typename T>
using Image = std::vector<std::complex<T>>;

template <typename T>
Image<T> random_image(int64_t pixels, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  Image<T> image(static_cast<size_t>(pixels));
  for (auto& z : image) z = {static_cast<T>(normal(random)), static_cast<T>(normal(random))};
  return image;
}

// Along one axis, by the definition: `count` transforms of n elements, `stride` apart; the next one
// begins `step` further.
void define(Image<double>& image, int64_t n, int64_t stride, int64_t count, int64_t step) {
  std::vector<std::complex<double>> roots, line(static_cast<size_t>(n));
  for (int64_t k = 0; k < n; ++k) {
    const long double turns = static_cast<long double>(k) / static_cast<long double>(n);
    roots.emplace_back(std::polar(1.0L, -2.0L * std::numbers::pi_v<long double> * turns));
  }
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t k = 0; k < n; ++k) {
      double re = 0, im = 0;
      for (int64_t x = 0, at = 0; x < n; ++x, at = at + k < n ? at + k : at + k - n) {
        const std::complex<double> z = image[static_cast<size_t>(i * step + x * stride)];
        const std::complex<double> by = roots[static_cast<size_t>(at)];
        re += z.real() * by.real() - z.imag() * by.imag();
        im += z.real() * by.imag() + z.imag() * by.real();
      }
      line[static_cast<size_t>(k)] = {re, im};
    }
    for (int64_t k = 0; k < n; ++k) {
      image[static_cast<size_t>(i * step + k * stride)] = line[static_cast<size_t>(k)];
    }
  }
}

template <typename T>
Image<double> naive(const Image<T>& image, int64_t h, int64_t w) {
  Image<double> all(image.begin(), image.end());
  define(all, w, 1, h, w);
  define(all, h, w, w, 1);
  return all;
}

template <typename A, typename B>
double difference(const A& a, const B& b) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    error += std::norm(std::complex<double>(a[i]) - std::complex<double>(b[i]));
    norm += std::norm(std::complex<double>(b[i]));
  }
  return std::sqrt(error / std::max(norm, 1e-300));
}

template <typename T>
class Transformer {
 public:
  Transformer(const InstructionSet& set, int64_t h, int64_t w)
      : kernels_(kernels<T>(set)),
        plan_(plan_for<T>(h, w, kernels_.lanes)),
        panels_(plan_->shape().panel_wave()),
        line_(plan_->shape().line()) {}

  Image<T> operator()(bool inverse, const Image<T>& from, bool permuted = false) {
    Image<T> to(from.size());
    (permuted ? kernels_.transform_permuted : kernels_.transform)(
        plan_->shape(), inverse, reinterpret_cast<const T*>(from.data()),
        reinterpret_cast<T*>(to.data()), panels_.data(), line_.data());
    return to;
  }
  const Shape<T>& shape() const { return plan_->shape(); }

 private:
  const Kernels<T>& kernels_;
  std::shared_ptr<const Plan<T>> plan_;
  Numbers<T> panels_, line_;
};

template <typename T>
void check_size(const InstructionSet& set, int64_t h, int64_t w) {
  SCOPED_TRACE(std::string(set.name) + ", " + std::to_string(h) + " x " + std::to_string(w));
  // and what the definition itself loses, sum by sum
  const double rounding =
      (sizeof(T) == 4 ? 4e-7 : 2e-15) + 3e-17 * std::sqrt(static_cast<double>(h * w));
  Transformer<T> transform(set, h, w);
  const Image<T> image = random_image<T>(h * w, static_cast<unsigned>(h * 1000 + w));
  const Image<T> spectrum = transform(false, image);
  EXPECT_LT(difference(spectrum, naive(image, h, w)), rounding);
  Image<T> back = transform(true, spectrum);
  for (auto& z : back) z /= static_cast<T>(h * w);
  EXPECT_LT(difference(back, image), 2 * rounding);
  double power = 0, spectral = 0;  // Parseval
  for (const auto& z : image) power += std::norm(std::complex<double>(z));
  for (const auto& z : spectrum) spectral += std::norm(std::complex<double>(z));
  EXPECT_NEAR(spectral / (power * static_cast<double>(h * w)), 1.0, 4 * rounding);

  const Image<T> slots = transform(false, image, true);
  Image<T> ordered(slots.size());
  for (int64_t r = 0; r < h; ++r) {
    for (int64_t c = 0; c < w; ++c) {
      const Shape<T>& shape = transform.shape();
      ordered[static_cast<size_t>(shape.rows.frequency[r] * w + shape.columns.frequency[c])] =
          slots[static_cast<size_t>(r * w + c)];
    }
  }
  EXPECT_LT(difference(ordered, spectrum), rounding);
  back = transform(true, slots, true);
  for (auto& z : back) z /= static_cast<T>(h * w);
  EXPECT_LT(difference(back, image), 2 * rounding);
}

TEST(Fft, EverySizeUpTo64IsTheDefinition) {
  for (const InstructionSet* set : instruction_sets()) {
    for (int64_t n = 1; n <= 64; ++n) {
      check_size<float>(*set, n, n);
      check_size<double>(*set, n, n);
    }
  }
}

TEST(Fft, LongAndNarrowWindowsAreTheDefinition) {
  for (const InstructionSet* set : instruction_sets()) {
    for (const int64_t n :
         {72, 75, 96, 100, 120, 125, 128, 192, 243, 256, 320, 384, 512, 625, 1024}) {
      for (const int64_t m : {1, 3, 10}) {
        check_size<float>(*set, n, m);
        check_size<double>(*set, m, n);
        check_size<double>(*set, n, m);
        check_size<float>(*set, m, n);
      }
    }
  }
}

// Primes by the definition and by convolutions of length p - 1 or longer, alone and beside factors.
TEST(Fft, LargePrimeFactorsAreTheDefinition) {
  for (const InstructionSet* set : instruction_sets()) {
    for (const int64_t n : {74, 77, 97, 101, 121, 127, 131, 167, 202, 254, 257, 343, 359, 431, 462,
                            719, 1009, 1018, 67 * 71}) {
      for (const int64_t m : {1, 7, 62}) {
        if (n * m > 10000) continue;
        check_size<float>(*set, n, m);
        check_size<double>(*set, m, n);
        if (n * m > 4000) continue;
        check_size<double>(*set, n, m);
        check_size<float>(*set, m, n);
      }
    }
  }
}

TEST(Fft, LargeSquaresReturn) {
  for (const InstructionSet* set : instruction_sets()) {
    for (const int64_t n : {128, 256, 320, 512}) {
      Transformer<float> transform(*set, n, n);
      const Image<float> image = random_image<float>(n * n, 3);
      Image<float> back = transform(true, transform(false, image));
      for (auto& z : back) z /= static_cast<float>(n * n);
      EXPECT_LT(difference(back, image), 5e-7) << set->name << n;
    }
  }
}

TEST(Fft, AShiftIsARamp) {
  const int64_t h = 20, w = 48, dy = 3, dx = 17;
  for (const InstructionSet* set : instruction_sets()) {
    Transformer<double> transform(*set, h, w);
    const Image<double> image = random_image<double>(h * w, 1);
    Image<double> shifted(image.size());
    for (int64_t y = 0; y < h; ++y) {
      for (int64_t x = 0; x < w; ++x) {
        shifted[static_cast<size_t>((y + dy) % h * w + (x + dx) % w)] =
            image[static_cast<size_t>(y * w + x)];
      }
    }
    Image<double> expected = transform(false, image);
    for (int64_t y = 0; y < h; ++y) {
      for (int64_t x = 0; x < w; ++x) {
        const double turns = static_cast<double>(y * dy) / static_cast<double>(h) +
                             static_cast<double>(x * dx) / static_cast<double>(w);
        expected[static_cast<size_t>(y * w + x)] *=
            std::polar(1.0, -2.0 * std::numbers::pi * turns);
      }
    }
    EXPECT_LT(difference(transform(false, shifted), expected), 1e-14) << set->name;
  }
}

TEST(Fft, ZerosHugeAndTinyNumbersStayWhatTheyAre) {
  for (const InstructionSet* set : instruction_sets()) {
    Transformer<float> transform(*set, 16, 12);
    for (const float scale : {0.0F, 1e-42F, 1e-38F, 1e30F}) {
      Image<float> image(16 * 12);
      image[0] = scale;  // its transform is constant
      for (const auto& z : transform(false, image)) {
        EXPECT_EQ(z, std::complex<float>(scale)) << set->name;
      }
    }
  }
}

TEST(InstructionSets, AreChosenByTheEnvironment) {
  const char* before = std::getenv("PTYLE_ISA");
  const std::string kept = before != nullptr ? before : "";
  for (const InstructionSet* set : instruction_sets()) {
    setenv("PTYLE_ISA", set->name, 1);
    EXPECT_EQ(&instruction_set(), set);
  }
  setenv("PTYLE_ISA", "sse9", 1);
  try {
    instruction_set();
    FAIL() << "sse9 was taken";
  } catch (const std::invalid_argument& error) {
    EXPECT_NE(std::string(error.what()).find("got \"sse9\""), std::string::npos) << error.what();
  }
  unsetenv("PTYLE_ISA");
  EXPECT_EQ(&instruction_set(), instruction_sets().front());
  if (before != nullptr) setenv("PTYLE_ISA", kept.c_str(), 1);
}

}  // namespace
}  // namespace ptyle::cpu
