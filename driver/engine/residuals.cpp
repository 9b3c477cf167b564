// How well a state fits, beside what counting noise alone would leave.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>

#include <ptyle/ops.h>

#include "csrc/likelihood.h"
#include "driver/engine/sweep.h"
#include "driver/engine/vectors.h"

namespace ptyle::driver {
namespace {

// csrc's expected_loss from a table: it is asked for every pixel of every pattern.
class NoiseTable {
 public:
  explicit NoiseTable(Likelihood likelihood) : likelihood_(likelihood) {
    for (std::size_t k = 0; k < values_.size(); ++k) {
      const double root = static_cast<double>(k) / kPerUnit;
      values_[k] = expected_loss(likelihood, root * root);
    }
  }
  double operator()(double intensity) const {
    const double at = kPerUnit * std::sqrt(std::max(0.0, intensity));
    if (!(at < static_cast<double>(kSize - 1))) return expected_loss(likelihood_, intensity);
    const auto k = static_cast<std::size_t>(at);
    const double part = at - static_cast<double>(k);
    return (1.0 - part) * values_[k] + part * values_[k + 1];
  }

 private:
  static constexpr std::size_t kSize = 4096;
  static constexpr double kPerUnit = 640.0;  // of sqrt(I), which is below 6.4 in it
  Likelihood likelihood_;
  std::array<double, kSize> values_{};
};

double pixel_loss(Likelihood likelihood, double expected, double count) {
  return with_likelihood(likelihood, [&](auto functor) { return functor(expected, count).loss; });
}

}  // namespace

at::Tensor Sweep::intensities(const State& state, std::size_t tile,
                              const at::Tensor& positions) const {
  ModelOptions options;
  options.detector = detector_;
  const Windows seen = windows(state.object(tile), tiles_[tile], positions);
  options.origin = seen.origin;
  return diffraction(seen.object, state.probe(), seen.positions, propagator_, options);
}

Residuals Sweep::residuals(const State& state) {
  const c10::InferenceMode no_autograd;
  refresh(state);
  const NoiseTable noise(Likelihood::kAmplitude), own_noise(likelihood_);
  const std::int64_t pixels = problem_.window[0] * problem_.window[1];
  // [5, positions]: error, expected, loss, expected loss, unmasked pixels
  at::Tensor sums = at::zeros({5, positions()}, at::kDouble);
  std::vector<at::Tensor> excess;
  for (std::size_t k = 0; k < tiles_.size(); ++k) {
    excess.push_back(at::zeros({problem_.window[0], problem_.window[1]}, at::kDouble));
  }
  std::vector<at::Tensor> all;
  for (const std::vector<TileBatch>& batch : plan_) {
    each_block(batch, [&](std::size_t, const Block& block) { all.push_back(block.rows); });
  }
  expect(-1);
  feed_.expect(all);
  // One position's numbers, and its excess in place of its intensities.
  const auto judge = [&](double* intensity, const double* count, const std::uint8_t* mask,
                         std::int64_t position) {
    double error = 0.0, expected = 0.0, loss = 0.0, expected_own = 0.0, good = 0.0;
    for (std::int64_t i = 0; i < pixels; ++i) {
      if (mask != nullptr && mask[i] != 0) {
        intensity[i] = 0.0;
        continue;
      }
      const double model = intensity[i];
      const double here = pixel_loss(Likelihood::kAmplitude, model, count[i]);
      const double from_noise = noise(model);
      error += here;
      expected += from_noise;
      if (likelihood_ != Likelihood::kAmplitude) {
        loss += pixel_loss(likelihood_, model, count[i]);
        expected_own += own_noise(model);
      }
      intensity[i] = here - from_noise;
      good += 1.0;
    }
    if (likelihood_ == Likelihood::kAmplitude) {
      loss = error;
      expected_own = expected;
    }
    double* to = sums.data_ptr<double>() + position;
    const std::int64_t row = positions();
    to[0] = error;
    to[row] = expected;
    to[2 * row] = loss;
    to[3 * row] = expected_own;
    to[4 * row] = good;
  };
  constexpr std::int64_t kPieceBytes = std::int64_t{4} << 20;
  const std::int64_t piece = std::max<std::int64_t>(1, kPieceBytes / (8 * pixels));
  const auto judge_block = [&](std::size_t tile, const Block& block) {
    const PatternBlock measured = feed_.take(block.rows);
    const auto* row = block.rows.const_data_ptr<std::int64_t>();
    for (std::int64_t first = 0; first < block.rows.numel(); first += piece) {
      const std::int64_t count = std::min(piece, block.rows.numel() - first);
      const at::Tensor model = intensities(state, tile, block.positions.narrow(0, first, count))
                                   .cpu()
                                   .to(at::kDouble)
                                   .contiguous();
      const at::Tensor counts =
          measured.patterns.narrow(0, first, count).cpu().to(at::kDouble).contiguous();
      const bool each = measured.mask && measured.mask->dim() == 3;
      at::Tensor mask;
      if (measured.mask) {
        mask = (each ? measured.mask->narrow(0, first, count) : *measured.mask).cpu().contiguous();
      }
      const auto* bad =
          mask.defined() ? static_cast<const std::uint8_t*>(mask.const_data_ptr()) : nullptr;
      double* modelled = model.data_ptr<double>();
      const double* n = counts.const_data_ptr<double>();
      at::parallel_for(0, count, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t k = begin; k < end; ++k) {
          judge(modelled + k * pixels, n + k * pixels,
                bad == nullptr ? nullptr : bad + (each ? k * pixels : 0),
                problem_.held[static_cast<std::size_t>(row[first + k])]);
        }
      });
      double* sum = excess[tile].data_ptr<double>();
      for (std::int64_t k = 0; k < count; ++k) {
        for (std::int64_t i = 0; i < pixels; ++i) sum[i] += modelled[k * pixels + i];
      }
    }
  };
  for (const std::vector<TileBatch>& batch : plan_) each_block(batch, judge_block);
  feed_.forget();
  ranks_.gather(sums);
  Residuals result;
  result.error = sums.select(0, 0);
  result.expected = sums.select(0, 1);
  result.excess = ranks_.sum_over_tiles(std::move(excess), cut_.owners);
  const double good = total(sums.select(0, 4));
  if (good > 0) {
    result.amplitude_error = total(sums.select(0, 0)) / good;
    result.expected_amplitude_error = total(sums.select(0, 1)) / good;
    result.loss = total(sums.select(0, 2)) / good;
    result.expected_loss = total(sums.select(0, 3)) / good;
  }
  return result;
}

}  // namespace ptyle::driver
