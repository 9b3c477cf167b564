// Reconstructions on tiles: the same answer for any number of ranks and threads, and for any grid.
#include <map>
#include <mutex>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "driver/engine/gather.h"
#include "driver/engine/vectors.h"
#include "driver/errors.h"
#include "tests/cpp/ranks.h"
#include "tests/cpp/small_problem.h"
#include "tests/cpp/tiled.h"

namespace ptyle::driver {
namespace {

using at::Tensor;
using namespace ptyle::driver::tests;
using ptyle::tests::as_ranks;

TEST(TiledReconstruction, HasTheSameBitsForAnyNumberOfRanksAndThreads) {
  Problem problem = make_problem(2, 16, 8, 1.5);
  Tensor mask = at::rand(problem.patterns.sizes()).lt(0.05);
  problem.mask = mask;
  problem.masked_pixels = mask.sum().item<int64_t>();
  problem.good_share = mask.logical_not().to(at::kDouble).mean(0).contiguous();
  for (const std::string exchange : {"direct", "passes", "voxels"}) {
    for (const std::string optimizer : {"descent", "adam", "lbfgs"}) {
      if (exchange == "voxels" && optimizer == "lbfgs") continue;  // a config error
      SCOPED_TRACE(exchange + ", " + optimizer);
      const Config config = config_of(optimizer);
      const DecompositionOptions options{Pair{4, 3}, std::nullopt, exchange, 1};
      const Answer one = tiled(config, problem, 1, options, 3);
      EXPECT_LT(one.loss.back(), one.loss.front());
      expect_same_bits(one, tiled(config, problem, 1, options, 3, 2));
      for (const int64_t ranks : {2, 3, 4, 7}) {
        SCOPED_TRACE(ranks);
        expect_same_bits(one, tiled(config, problem, ranks, options, 3, ranks == 3 ? 2 : 1));
      }
    }
  }
}

// All that ranks tell one another in a reconstruction, through a backend that is as NCCL is.
TEST(TiledReconstruction, HasTheSameBitsWithGroupsOfMessages) {
  const Problem problem = make_problem(3, 16, 8, 1.5);
  Config config = config_of("descent");
  for (const auto& [exchange, averages] : {std::pair{"direct", false}, std::pair{"passes", false},
                                           std::pair{"voxels", false}, std::pair{"voxels", true}}) {
    for (const Pair grid : {Pair{4, 3}, Pair{1, 7}, Pair{2, 4}}) {
      SCOPED_TRACE(std::string(exchange) + (averages ? ", averaged, " : ", ") +
                   std::to_string(grid[0]) + " x " + std::to_string(grid[1]));
      const DecompositionOptions options{grid, std::nullopt, exchange, 1, averages};
      const Answer one = tiled(config, problem, 1, options, 2);
      for (const int64_t ranks : {2, 3, 5}) {
        expect_same_bits(one, tiled(config, problem, ranks, options, 2, 1, /*grouped=*/true));
      }
    }
  }
}

TEST(TiledReconstruction, IsThatOfOneTileForAnyGridWithExactHalos) {
  for (const std::string precision : {"single", "double"}) {
    const double limit = precision == "single" ? 1e-5 : 1e-12;
    for (const std::string optimizer : {"descent", "adam"}) {
      const Problem problem = make_problem(2, 32, 6, 1.5);
      const Config config = config_of(optimizer, precision);
      const Answer whole = tiled(config, problem, 1, {Pair{1, 1}, std::nullopt, "direct", 0}, 20);
      for (const std::string exchange : {"direct", "passes", "allreduce"}) {
        // 1 x 7, 9 x 7: tiles narrower than the halo.
        for (const auto& [grid, ranks] :
             {std::pair{Pair{3, 2}, 2}, std::pair{Pair{1, 7}, 3}, std::pair{Pair{9, 7}, 1}}) {
          const Answer cut = tiled(config, problem, ranks, {grid, std::nullopt, exchange, 0}, 20);
          EXPECT_LT(difference(whole, cut, problem), limit)
              << precision << ", " << optimizer << ", " << exchange << ", " << grid[0] << " x "
              << grid[1];
        }
      }
    }
  }
}

// Near-field patterns of a wavy phase object, two slices, positions between pixels; with patches of
// the object moved, or the probe.
Problem near_field_problem(bool moves_object) {
  Problem problem = make_problem(2, 20, 6, 1.5);
  const auto [slices, rows, columns] = problem.object_shape;
  const auto real = at::TensorOptions().dtype(at::kDouble);
  const Tensor y = at::arange(rows, real).unsqueeze(1), x = at::arange(columns, real);
  const Tensor phase = at::stack({at::sin(0.5 * y + 0.3 * x), at::cos(0.4 * y - 0.6 * x)}).mul(0.4);
  problem.detector = fresnel_propagator(20, 20, 1.0, 1.0, 0.0251, 300.0);
  ModelOptions options;
  options.detector = problem.detector;
  problem.patterns =
      diffraction(phase, problem.probe, problem.positions, problem.propagator, options)
          .to(at::kFloat);
  problem.source = std::make_shared<MemoryPatterns>(problem.patterns);
  if (moves_object) problem.reach = 6;
  return problem;
}

// Exact halos hold what is interpolated around windows too; blocks of many positions, whose patches
// reach over tiles' edges and the object's.
TEST(TiledReconstruction, OfTheNearFieldIsTheSameForAnyTilesAndRanks) {
  for (const bool moves_object : {false, true}) {
    SCOPED_TRACE(moves_object ? "moved object" : "moved probe");
    const Problem problem = near_field_problem(moves_object);
    Config config = config_of("descent", "double");
    config.reconstruct.momentum = 0.0;
    config.reconstruct.step = 0.5;
    const DecompositionOptions whole{Pair{1, 1}, std::nullopt, "direct", 0, false, problem.reach};
    const Answer one = tiled(config, problem, 1, whole, 10);
    EXPECT_LT(one.loss.back(), 0.5 * one.loss.front());
    for (const std::string exchange : {"direct", "passes", "allreduce"}) {
      for (const auto& [grid, ranks] : {std::pair{Pair{3, 2}, 2}, std::pair{Pair{9, 7}, 3}}) {
        const DecompositionOptions options{grid, std::nullopt, exchange, 0, false, problem.reach};
        const Answer cut = tiled(config, problem, ranks, options, 10);
        EXPECT_LT(difference(one, cut, problem), 1e-12) << exchange << ", " << grid[0];
        if (exchange == "allreduce") continue;
        expect_same_bits(cut, tiled(config, problem, 1, options, 10, 2));
      }
    }
    // a halo for the windows alone is too narrow where neighbours are looked at
    const DecompositionOptions narrow{Pair{3, 2}, std::nullopt, "direct", 0, false, 0};
    const double error = difference(one, tiled(config, problem, 1, narrow, 10), problem);
    EXPECT_EQ(error > 1e-12, moves_object) << error;
  }
}

TEST(TiledReconstruction, LocalDescentCountsNoGradientTwice) {
  const Problem problem = make_problem(2, 32, 6, 1.5);
  Config config = config_of("descent", "double");
  config.reconstruct.refine = {"object"};
  const auto object = [&](int64_t batches, int64_t every, Pair grid, int64_t ranks) {
    config.reconstruct.batches = batches;
    config.tiles.exchange_every = every;
    return tiled(config, problem, ranks, {grid, std::nullopt, "passes", 0}, 3).object;
  };
  // One tile: what it found itself comes back with the sum, and is not followed again.
  EXPECT_TRUE(at::allclose(object(6, 1, {1, 1}, 1), object(6, 4, {1, 1}, 1), 0.0, 1e-12));
  EXPECT_FALSE(at::allclose(object(6, 1, {3, 2}, 2), object(6, 4, {3, 2}, 2), 0.0, 1e-6));
}

TEST(TiledReconstruction, RareExchangesLearnAndHaveTheSameBits) {
  const Problem problem = make_problem(1, 32, 6, 1.5);
  Config config = config_of("descent");
  config.tiles.exchange_every = 3;
  for (const std::string exchange : {"passes", "voxels"}) {
    for (const bool averages : {false, true}) {
      const DecompositionOptions options{Pair{2, 3}, std::nullopt, exchange, 1, averages};
      const Answer one = tiled(config, problem, 1, options, 6);
      EXPECT_LT(one.loss.back(), 0.6 * one.loss.front()) << exchange << averages;
      expect_same_bits(one, tiled(config, problem, 4, options, 6));
    }
  }
}

TEST(TiledReconstruction, LbfgsReachesTheSameLossOnAnyGrid) {
  const Problem problem = make_problem(1, 32, 6, 1.5);
  const Config config = config_of("lbfgs", "double");
  const Answer whole = tiled(config, problem, 1, {Pair{1, 1}, std::nullopt, "direct", 0}, 20);
  for (const std::string exchange : {"direct", "passes"}) {
    const Answer cut = tiled(config, problem, 2, {Pair{2, 3}, std::nullopt, exchange, 0}, 20);
    EXPECT_NEAR(cut.loss.back() / whole.loss.back(), 1.0, 1e-4) << exchange;
  }
}

TEST(TiledReconstruction, ScansThatAreNoRastersAndTilesWithoutPositions) {
  Problem problem = make_problem(1, 32, 5);
  // A cross: corners of the object see nothing.
  std::vector<int64_t> cross;
  for (int64_t n = 0; n < 25; ++n) {
    if (n / 5 == 2 || n % 5 == 2) cross.push_back(n);
  }
  const Tensor rows = at::tensor(cross, at::kLong);
  problem.positions = problem.positions.index_select(0, rows).contiguous();
  problem.patterns = problem.patterns.index_select(0, rows).contiguous();
  problem.source = std::make_shared<MemoryPatterns>(problem.patterns);
  problem.held.resize(cross.size());
  const Config config = config_of("descent", "double");
  const Answer whole = tiled(config, problem, 1, {Pair{1, 1}, std::nullopt, "direct", 0}, 6);
  const DecompositionOptions options{Pair{5, 5}, std::nullopt, "direct", 0};
  const Decomposition cut = cut_up(problem, 4, options);
  EXPECT_TRUE(cut.positions_of_tile(0, problem.positions).empty());
  const Answer tiles = tiled(config, problem, 4, options, 6);
  EXPECT_LT(whole.loss.back(), 0.5 * whole.loss.front());
  EXPECT_LT(difference(whole, tiles, problem), 1e-12);
}

TEST(AveragedVoxels, AreTheMeanWithEachNeighbourInTurn) {
  const Problem problem = make_problem(1, 8, 6);
  const DecompositionOptions options{Pair{1, 3}, 3, "voxels", 0, true};
  for (const int64_t ranks : {1, 2, 3}) {
    const Decomposition cut = cut_up(problem, ranks, options);
    as_ranks(ranks, [&](int64_t rank, const std::string& name) {
      const Ranks group(name.empty() ? nullptr : c10d::resolve_process_group(name));
      const auto exchange = make_exchange(cut, group);
      std::vector<Tensor> frames;
      for (const int64_t tile : cut.tiles_of_rank(rank)) {
        const Rectangle frame = cut.tiles[size_t(tile)].frame;
        frames.push_back(
            at::full({1, frame.rows, frame.columns}, double(1 << tile), at::kComplexDouble));
      }
      exchange->begin_objects(frames);
      exchange->finish_objects(frames);
      size_t k = 0;
      for (const int64_t tile : cut.tiles_of_rank(rank)) {
        const Rectangle frame = cut.tiles[size_t(tile)].frame;
        for (int64_t column = 0; column < frame.columns; ++column) {
          double expected = double(1 << tile);
          for (int64_t other = 0; other < 3; ++other) {
            const Rectangle theirs = cut.tiles[size_t(other)].frame;
            const int64_t x = frame.column + column;
            if (other != tile && x >= theirs.column && x < theirs.column + theirs.columns) {
              expected = 0.5 * (expected + double(1 << other));
            }
          }
          EXPECT_EQ(at::real(frames[k][0][0][column]).item<double>(), expected);
        }
        ++k;
      }
    });
  }
}

// An interior tile sends its gradient's halo to eight neighbours and its voxels to eight: exactly
// 2 S b (2 h (t_h + t_w) + 4 h^2) bytes, as messages of no header.
TEST(TiledReconstruction, DirectSendsWhatTheFormulaSays) {
  Problem problem = make_problem(3, 8, 9);  // 48 x 48
  Config config = config_of("descent");
  config.reconstruct.refine = {"object"};
  config.reconstruct.batches = 1;
  const auto [slices, rows, columns] = problem.object_shape;
  for (const int64_t halo : {4, 7, 11, 20}) {
    const DecompositionOptions options{Pair{4, 4}, halo, "direct", 0};
    const Decomposition cut = cut_up(problem, 16, options);
    int64_t halo_pixels = 0;  // all that is borrowed, once a direction
    std::set<std::pair<int64_t, int64_t>> pairs;
    for (int64_t tile = 0; tile < 16; ++tile) {
      for (const Piece& piece : borrowed_by(cut.grid, tile)) {
        halo_pixels += piece.area.pixels();
        pairs.insert({piece.owner, piece.borrower});
      }
    }
    const auto bytes = [&](bool with_halos) {
      int64_t sent = 0, messages = 0;
      std::mutex mutex;
      as_ranks(16, [&](int64_t rank, const std::string& name) {
        at::set_num_threads(1);
        const Ranks group(c10d::resolve_process_group(name));
        const auto exchange = make_exchange(cut, group);
        std::vector<Tensor> frames;
        for (const int64_t tile : cut.tiles_of_rank(rank)) {
          const Rectangle frame = cut.tiles[size_t(tile)].frame;
          frames.push_back(at::zeros({slices, frame.rows, frame.columns}, at::kComplexFloat));
        }
        exchange->begin_gradients(frames);
        exchange->finish_gradients(frames);
        if (with_halos) {
          exchange->begin_objects(frames);
          exchange->finish_objects(frames);
        }
        const std::lock_guard<std::mutex> lock(mutex);
        sent += exchange->traffic().bytes;
        messages += exchange->traffic().messages;
        // tile 5 of 4 x 4 is an interior one: nine tiles meet there where the halo reaches one tile
        if (rank == 5 && with_halos) {
          const Rectangle t = cut.grid.owned(5);
          const bool one_away =
              halo <=
              std::min({t.rows, t.columns, cut.grid.owned(0).rows, cut.grid.owned(0).columns,
                        cut.grid.owned(10).rows, cut.grid.owned(10).columns});
          if (one_away) {
            EXPECT_EQ(exchange->traffic().bytes,
                      2 * slices * 8 * (2 * halo * (t.rows + t.columns) + 4 * halo * halo));
            EXPECT_EQ(exchange->traffic().messages, 2 * 8);
          }
        }
      });
      EXPECT_EQ(messages, (with_halos ? 2 : 1) * static_cast<int64_t>(pairs.size()));
      return sent;
    };
    EXPECT_EQ(bytes(false), slices * 8 * halo_pixels) << halo;
    EXPECT_EQ(bytes(true), 2 * slices * 8 * halo_pixels) << halo;
  }
}

TEST(Ranks, SumsOverTilesDoNotDependOnTheRanks) {
  for (const int64_t tiles : {1, 2, 5, 13}) {
    at::manual_seed(tiles);
    const Tensor values = at::randn({tiles, 3, 4}, at::kComplexFloat);
    Tensor expected;
    for (int64_t ranks = 1; ranks <= std::min<int64_t>(tiles, 5); ++ranks) {
      std::vector<int64_t> owners;
      for (int64_t tile = 0; tile < tiles; ++tile) owners.push_back(tile * ranks / tiles);
      as_ranks(ranks, [&](int64_t rank, const std::string& name) {
        const Ranks group(name.empty() ? nullptr : c10d::resolve_process_group(name));
        std::vector<Tensor> mine;
        for (int64_t tile = 0; tile < tiles; ++tile) {
          if (owners[size_t(tile)] == rank) mine.push_back(values[tile].clone());
        }
        const Tensor sum = group.sum_over_tiles(std::move(mine), owners);
        if (ranks == 1) {
          expected = sum.clone();
          EXPECT_TRUE(at::allclose(sum, values.sum(0), 1e-5, 1e-6));
        }
        EXPECT_TRUE(at::equal(sum, expected)) << tiles << " tiles on " << ranks;
      });
    }
  }
}

TEST(Decomposition, EveryRankHasARunOfTilesAndTheLoadIsEven) {
  at::manual_seed(1);
  const Tensor positions = at::rand({400, 2}, at::kDouble) * 80;
  for (const int64_t ranks : {1, 2, 3, 5, 12}) {
    const Decomposition cut =
        decompose(positions, {20, 20}, {101, 101}, ranks, {Pair{3, 4}, std::nullopt, "direct", 0});
    std::vector<int64_t> load(size_t(ranks), 0);
    for (size_t tile = 1; tile < cut.owners.size(); ++tile) {
      EXPECT_GE(cut.owners[tile], cut.owners[tile - 1]);
      EXPECT_LE(cut.owners[tile], cut.owners[tile - 1] + 1);
    }
    EXPECT_EQ(cut.owners.back(), ranks - 1);
    for (const int64_t tile : cut.tile_of) ++load[size_t(cut.owners[size_t(tile)])];
    EXPECT_EQ(std::accumulate(load.begin(), load.end(), int64_t{0}), 400);
    for (const int64_t one : load) EXPECT_GT(one, 0);
  }
  EXPECT_THROW(
      decompose(positions, {20, 20}, {101, 101}, 13, {Pair{3, 4}, std::nullopt, "direct", 0}),
      ConfigError);
  EXPECT_THROW(
      decompose(positions, {20, 20}, {101, 101}, 1, {Pair{102, 1}, std::nullopt, "direct", 0}),
      ConfigError);
  EXPECT_EQ(grid_for(6, {100, 150}), (Pair{2, 3}));
  EXPECT_EQ(grid_for(7, {100, 100}), (Pair{1, 7}));
}

}  // namespace
}  // namespace ptyle::driver
