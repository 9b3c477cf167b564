#include "driver/engine/batches.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <utility>

#include <ATen/ops/abs.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/max.h>
#include <ATen/ops/min.h>

#include "driver/config/modes.h"
#include "driver/engine/vectors.h"

namespace ptyle::driver {
namespace {

// Distance along the Hilbert curve through a grid of side 2^order (Warren, Hacker's Delight, 2nd
// edition, section 16.4).
std::uint64_t hilbert_distance(std::uint32_t x, std::uint32_t y, int order) {
  std::uint64_t distance = 0;
  for (int level = order - 1; level >= 0; --level) {
    const std::uint32_t x_bit = (x >> level) & 1U;
    const std::uint32_t y_bit = (y >> level) & 1U;
    distance = (distance << 2) | ((3U * x_bit) ^ y_bit);
    if (y_bit == 0) {  // rotate the quadrant
      if (x_bit == 1) {
        x = ~x;
        y = ~y;
      }
      std::swap(x, y);
    }
  }
  return distance;
}

// A uniform integer below `bound`. std::uniform_int_distribution differs between libraries.
std::uint64_t draw(std::mt19937_64& generator, std::uint64_t bound) {
  const std::uint64_t limit = bound * (std::mt19937_64::max() / bound);
  std::uint64_t value = generator();
  while (value >= limit) value = generator();
  return value % bound;
}

}  // namespace

std::vector<std::int64_t> hilbert_order(const at::Tensor& positions) {
  const at::Tensor plain = positions.contiguous();
  const double* p = plain.const_data_ptr<double>();
  const std::int64_t n = positions.size(0);
  std::vector<std::int64_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  if (n == 0) return order;
  double low[2] = {p[0], p[1]}, high[2] = {p[0], p[1]};
  for (std::int64_t i = 0; i < n; ++i) {
    for (int axis = 0; axis < 2; ++axis) {
      low[axis] = std::min(low[axis], p[2 * i + axis]);
      high[axis] = std::max(high[axis], p[2 * i + axis]);
    }
  }
  constexpr int kOrder = 16;
  const double extent = std::max({high[0] - low[0], high[1] - low[1], 1e-300});
  const double scale = ((1 << kOrder) - 1) / extent;
  std::vector<std::uint64_t> distance;
  distance.reserve(order.size());
  for (std::int64_t i = 0; i < n; ++i) {
    distance.push_back(hilbert_distance(
        static_cast<std::uint32_t>(std::lround((p[2 * i] - low[0]) * scale)),
        static_cast<std::uint32_t>(std::lround((p[2 * i + 1] - low[1]) * scale)), kOrder));
  }
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    return distance[static_cast<std::size_t>(a)] < distance[static_cast<std::size_t>(b)];
  });
  return order;
}

std::int64_t good_batch_count(const at::Tensor& positions, const at::Tensor& probe,
                              std::int64_t fewest) {
  const auto n = static_cast<double>(positions.size(0));
  const at::Tensor intensity = probe.abs().to(at::kDouble).square().sum(0);
  const double square = intensity.square().sum().item<double>();
  const double sum = intensity.sum().item<double>();
  if (!(n > 0) || !(square > 0) || !std::isfinite(square)) return 1;
  const double lit = sum * sum / square;  // pixels
  const at::Tensor extent = std::get<0>(positions.max(0)).sub_(std::get<0>(positions.min(0)));
  const double* side = extent.const_data_ptr<double>();
  const double scanned = (side[0] + std::sqrt(lit)) * (side[1] + std::sqrt(lit));
  const double wanted = std::max(16.0, std::ceil(4 * n * lit / scanned));
  return std::max<std::int64_t>(
      1, static_cast<std::int64_t>(std::min(wanted, n / static_cast<double>(fewest))));
}

void settle_updates(Config& config, const Problem& problem) {
  config.reconstruct.optimizer = optimizer_kind(config.reconstruct.optimizer).name;  // of "auto"
  if (config.reconstruct.batches) return;
  config.reconstruct.batches =
      optimizer_kind(config.reconstruct.optimizer).one_batch
          ? 1
          : good_batch_count(problem.positions, problem.probe, problem.detector ? 24 : 4);
}

namespace {

// Takes that share out of a list, at even distances from a place that the seed draws.
std::vector<std::int64_t> take_out(std::vector<std::int64_t>& list, double share,
                                   std::uint64_t seed) {
  std::vector<std::int64_t> taken, left;
  if (!(share > 0.0) || list.size() < 2) return taken;
  std::mt19937_64 generator(seed);
  constexpr std::uint64_t kParts = 1 << 20;
  const double from = static_cast<double>(draw(generator, kParts)) / static_cast<double>(kParts);
  const double by = std::max(share, 1.0 / static_cast<double>(list.size()));
  for (std::size_t i = 0; i < list.size(); ++i) {
    const double here = from + by * static_cast<double>(i);
    (std::floor(here + by) > std::floor(here) ? taken : left).push_back(list[i]);
  }
  list = left;
  return taken;
}

}  // namespace

Batches::Batches(const at::Tensor& positions, std::int64_t batches, std::uint64_t seed,
                 double hold_out)
    : seed_(seed) {
  std::vector<std::int64_t> curve = hilbert_order(positions);
  held_out_ = as_tensor(take_out(curve, hold_out, seed));
  const auto n = static_cast<std::int64_t>(curve.size());
  const std::int64_t count = std::max<std::int64_t>(1, std::min(batches, n));
  std::mt19937_64 generator(seed);
  const auto offset = static_cast<std::int64_t>(draw(generator, static_cast<std::uint64_t>(count)));
  std::vector<std::vector<std::int64_t>> lists(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < n; ++i) {
    lists[static_cast<std::size_t>((i + offset) % count)].push_back(
        curve[static_cast<std::size_t>(i)]);
  }
  for (const std::vector<std::int64_t>& list : lists) members_.push_back(as_tensor(list));
}

std::vector<std::int64_t> Batches::order(std::int64_t iteration) const {
  std::vector<std::int64_t> order(members_.size());
  std::iota(order.begin(), order.end(), 0);
  std::seed_seq sequence{static_cast<std::uint32_t>(seed_), static_cast<std::uint32_t>(seed_ >> 32),
                         static_cast<std::uint32_t>(iteration),
                         static_cast<std::uint32_t>(iteration >> 32)};
  std::mt19937_64 generator(sequence);
  for (std::size_t i = order.size(); i > 1; --i) {
    std::swap(order[i - 1], order[static_cast<std::size_t>(draw(generator, i))]);
  }
  return order;
}

}  // namespace ptyle::driver
