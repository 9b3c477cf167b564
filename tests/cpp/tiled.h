// Reconstructions on threads that act as ranks.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "driver/engine/gather.h"
#include "tests/cpp/ranks.h"
#include "tests/cpp/small_problem.h"

namespace ptyle::driver::tests {

using at::Tensor;
using ptyle::tests::as_ranks;

struct Answer {
  Tensor object, probe;
  std::vector<double> loss, amplitude_error;
  std::int64_t messages = 0, bytes = 0;  // of all ranks, in the last iteration
};

inline Answer tiled(const Config& config, const Problem& problem, int64_t ranks,
                    const DecompositionOptions& options, int64_t iterations, int threads = 1,
                    bool grouped = false) {
  Answer answer;
  std::mutex mutex;
  const int before = at::get_num_threads();
  const Decomposition cut = cut_up(problem, ranks, options);
  const auto work = [&](int64_t rank, const std::string& name) {
    at::set_num_threads(threads);
    const Ranks group(name.empty() ? nullptr : c10d::resolve_process_group(name));
    const Problem part = part_of(problem, cut, rank);
    Engine engine(config, part, cut, group);
    State state = engine.start();
    for (int64_t k = 0; k < iterations; ++k) engine.iterate(state, kNeverStop, kIgnore);
    const auto mine = cut.tiles_of_rank(rank);
    const auto [slices, rows, columns] = problem.object_shape;
    Tensor object = at::zeros({slices, rows, columns}, state.probe().options());
    gather_tiles(
        cut, group, Extent::kOwned, slices, state.probe().scalar_type(),
        [&](size_t k) {
          const Tile& tile = cut.tiles[size_t(mine[k])];
          return state.object(k)
              .narrow(1, tile.owned.row - tile.frame.row, tile.owned.rows)
              .narrow(2, tile.owned.column - tile.frame.column, tile.owned.columns);
        },
        [&](const Tile& tile, const Tensor& tensor) {
          object.narrow(1, tile.owned.row, tile.owned.rows)
              .narrow(2, tile.owned.column, tile.owned.columns)
              .copy_(tensor);
        });
    const std::lock_guard<std::mutex> lock(mutex);
    answer.messages += engine.work().messages;
    answer.bytes += engine.work().bytes;
    if (rank == 0) {
      answer.object = object;
      answer.probe = state.probe();
      answer.loss = state.history.loss;
      answer.amplitude_error = state.history.amplitude_error;
    } else {
      EXPECT_TRUE(state.probe().numel() > 0);
    }
  };
  if (grouped) {
    ptyle::tests::as_recorded_ranks(ranks, work);
  } else {
    as_ranks(ranks, work);
  }
  at::set_num_threads(before);
  return answer;
}

inline void expect_same_bits(const Answer& a, const Answer& b) {
  EXPECT_TRUE(at::equal(a.object, b.object));
  EXPECT_TRUE(at::equal(a.probe, b.probe));
  EXPECT_EQ(a.loss, b.loss);
  EXPECT_EQ(a.amplitude_error, b.amplitude_error);
}

// Relative L2 over voxels with at least 1 % of the largest illumination.
inline double difference(const Answer& a, const Answer& b, const Problem& problem) {
  const auto [slices, rows, columns] = problem.object_shape;
  const Tensor lit = illumination(problem.probe, problem.positions, {rows, columns});
  const Tensor where = lit.ge(0.01 * lit.max()).to(at::kDouble);
  return ((a.object - b.object).abs().to(at::kDouble) * where).norm().item<double>() /
         (a.object.abs().to(at::kDouble) * where).norm().item<double>();
}

inline Config config_of(const std::string& optimizer, const std::string& precision = "single") {
  Config config;
  config.reconstruct.optimizer = optimizer;
  config.reconstruct.precision = precision;
  config.reconstruct.batches = optimizer == "lbfgs" ? 1 : 4;
  if (optimizer == "descent") config.reconstruct.momentum = 0.3;
  return config;
}

}  // namespace ptyle::driver::tests
