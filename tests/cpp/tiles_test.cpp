// The geometry of tiles, and the exchange of halos between threads that act as ranks.
#include "csrc/tiles.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include <torch/torch.h>

#include <ptyle/ops.h>

#include "ops/halo/exchange.h"
#include "tests/cpp/ranks.h"

namespace ptyle {
namespace {

using tests::as_ranks;

// Random grids: uneven cuts, tiles of one pixel and of none, halos wider than tiles.
struct RandomTiling {
  Tiling tiling;
  std::int64_t rows, columns, ranks;
};

std::vector<std::int64_t> random_cuts(std::mt19937& random, std::int64_t size, std::int64_t tiles) {
  std::vector<std::int64_t> cuts{0, size};
  for (std::int64_t k = 1; k < tiles; ++k) {
    cuts.push_back(std::uniform_int_distribution<std::int64_t>(0, size)(random));
  }
  std::sort(cuts.begin(), cuts.end());
  return cuts;
}

RandomTiling random_tiling(unsigned seed) {
  std::mt19937 random(seed);
  const auto draw = [&random](std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(random);
  };
  RandomTiling result;
  result.rows = draw(1, 23);
  result.columns = draw(1, 19);
  result.tiling.row_cuts = random_cuts(random, result.rows, draw(1, 5));
  result.tiling.column_cuts = random_cuts(random, result.columns, draw(1, 4));
  result.tiling.halo = {draw(0, 9), draw(0, 9)};
  const auto tiles = static_cast<std::int64_t>((result.tiling.row_cuts.size() - 1) *
                                               (result.tiling.column_cuts.size() - 1));
  result.ranks = draw(1, std::min<std::int64_t>(4, tiles));
  // Every rank has a tile; otherwise any rank any tiles.
  for (std::int64_t tile = 0; tile < tiles; ++tile) {
    result.tiling.owners.push_back(tile < result.ranks ? tile : draw(0, result.ranks - 1));
  }
  std::shuffle(result.tiling.owners.begin(), result.tiling.owners.end(), random);
  return result;
}

TileGrid grid_of(const Tiling& tiling) {
  return {tiling.row_cuts, tiling.column_cuts, tiling.halo};
}

std::vector<std::int64_t> tiles_of(const Tiling& tiling, std::int64_t rank) {
  std::vector<std::int64_t> tiles;
  for (std::size_t tile = 0; tile < tiling.owners.size(); ++tile) {
    if (tiling.owners[tile] == rank) tiles.push_back(static_cast<std::int64_t>(tile));
  }
  return tiles;
}

torch::Tensor cut_out(const torch::Tensor& object, const Rectangle& area) {
  return object.narrow(1, area.row, area.rows).narrow(2, area.column, area.columns);
}

TEST(TileGrid, EveryPixelHasOneOwnerAndHalosAreClipped) {
  for (unsigned seed = 0; seed < 200; ++seed) {
    const RandomTiling random = random_tiling(seed);
    const TileGrid grid = grid_of(random.tiling);
    torch::Tensor owners = torch::zeros({1, random.rows, random.columns}, torch::kInt);
    for (std::int64_t tile = 0; tile < grid.tiles(); ++tile) {
      const Rectangle owned = grid.owned(tile), extended = grid.extended(tile);
      cut_out(owners, owned) += 1;
      EXPECT_TRUE(owned.empty() || contains(extended, owned));
      EXPECT_TRUE(owned.empty() || contains(grid.object(), extended));
      for (std::int64_t row = owned.row; row < owned.row + owned.rows; ++row) {
        for (std::int64_t column = owned.column; column < owned.column + owned.columns; ++column) {
          EXPECT_EQ(grid.tile_at(static_cast<double>(row), static_cast<double>(column)), tile);
          EXPECT_EQ(grid.tile_at(static_cast<double>(row) + 0.99, static_cast<double>(column)),
                    tile);
        }
      }
    }
    EXPECT_TRUE(owners.eq(1).all().item<bool>()) << seed;
  }
}

TEST(TileGrid, PointsOutsideBelongToTheNearestTileWithPixels) {
  const TileGrid grid({0, 0, 4, 7, 7}, {0, 5}, {1, 1});
  EXPECT_EQ(grid.tile_at(-3.0, -8.0), 1);
  EXPECT_EQ(grid.tile_at(100.0, 100.0), 2);
  EXPECT_EQ(grid.tile_at(3.999, 0.0), 1);
  EXPECT_EQ(grid.tile_at(4.0, 0.0), 2);
}

TEST(TileGrid, WhatIsLentIsWhatIsBorrowed) {
  for (unsigned seed = 0; seed < 200; ++seed) {
    const TileGrid grid = grid_of(random_tiling(seed).tiling);
    std::int64_t borrowed = 0, lent = 0, halos = 0;
    for (std::int64_t tile = 0; tile < grid.tiles(); ++tile) {
      for (const Piece& piece : borrowed_by(grid, tile)) borrowed += piece.area.pixels();
      for (const Piece& piece : lent_by(grid, tile)) lent += piece.area.pixels();
      halos += grid.extended(tile).pixels() - grid.owned(tile).pixels();
    }
    EXPECT_EQ(borrowed, lent) << seed;
    EXPECT_EQ(borrowed, halos) << seed;
  }
}

TEST(HaloInsert, IsWhatTheObjectHasThere) {
  for (unsigned seed = 0; seed < 60; ++seed) {
    const RandomTiling random = random_tiling(seed);
    const TileGrid grid = grid_of(random.tiling);
    torch::manual_seed(seed);
    const auto type = seed % 2 == 0 ? torch::kComplexDouble : torch::kFloat;
    const torch::Tensor object = torch::randn({3, random.rows, random.columns}, type);
    as_ranks(random.ranks, [&](std::int64_t rank, const std::string& group) {
      Tiling tiling = random.tiling;
      tiling.group = group;
      std::vector<torch::Tensor> owned;
      for (const std::int64_t tile : tiles_of(tiling, rank)) {
        owned.push_back(cut_out(object, grid.owned(tile)));
      }
      const std::vector<torch::Tensor> extended = halo_insert(owned, tiling);
      const std::vector<std::int64_t> tiles = tiles_of(tiling, rank);
      ASSERT_EQ(extended.size(), tiles.size());
      for (std::size_t k = 0; k < tiles.size(); ++k) {
        EXPECT_TRUE(extended[k].equal(cut_out(object, grid.extended(tiles[k])))) << seed;
      }
    });
  }
}

TEST(HaloAdd, IsTheAdjointOfInsertAndTheSumOfTilesInTheirOrder) {
  for (unsigned seed = 0; seed < 60; ++seed) {
    const RandomTiling random = random_tiling(seed);
    const TileGrid grid = grid_of(random.tiling);
    torch::manual_seed(seed);
    const torch::Tensor x = torch::randn({2, random.rows, random.columns}, torch::kComplexDouble);
    std::vector<torch::Tensor> y;
    for (std::int64_t tile = 0; tile < grid.tiles(); ++tile) {
      const Rectangle frame = grid.extended(tile);
      y.push_back(torch::randn({2, frame.rows, frame.columns}, torch::kComplexDouble));
    }
    // What one rank that holds everything would make of it: own parts first, then by tile.
    torch::Tensor sum = torch::zeros_like(x);
    for (std::int64_t tile = 0; tile < grid.tiles(); ++tile) {
      const Rectangle owned = grid.owned(tile), frame = grid.extended(tile);
      cut_out(sum, owned)
          .copy_(cut_out(
              y[static_cast<std::size_t>(tile)],
              {owned.row - frame.row, owned.column - frame.column, owned.rows, owned.columns}));
    }
    for (std::int64_t tile = 0; tile < grid.tiles(); ++tile) {
      for (const Piece& piece : lent_by(grid, tile)) {
        const Rectangle frame = grid.extended(piece.borrower), area = piece.area;
        cut_out(sum, area) +=
            cut_out(y[static_cast<std::size_t>(piece.borrower)],
                    {area.row - frame.row, area.column - frame.column, area.rows, area.columns});
      }
    }
    double inserted = 0, scale = 0;
    for (std::int64_t tile = 0; tile < grid.tiles(); ++tile) {
      const torch::Tensor& there = y[static_cast<std::size_t>(tile)];
      inserted +=
          torch::real(torch::conj(cut_out(x, grid.extended(tile))) * there).sum().item<double>();
      scale += there.abs().square().sum().item<double>();
    }
    const double added = torch::real(torch::conj(x) * sum).sum().item<double>();
    EXPECT_NEAR(inserted, added, 1e-13 * scale) << seed;
    as_ranks(random.ranks, [&](std::int64_t rank, const std::string& group) {
      Tiling tiling = random.tiling;
      tiling.group = group;
      const std::vector<std::int64_t> tiles = tiles_of(tiling, rank);
      std::vector<torch::Tensor> extended;
      for (const std::int64_t tile : tiles) extended.push_back(y[static_cast<std::size_t>(tile)]);
      const std::vector<torch::Tensor> owned = halo_add(extended, tiling);
      for (std::size_t k = 0; k < tiles.size(); ++k) {
        EXPECT_TRUE(owned[k].equal(cut_out(sum, grid.owned(tiles[k])))) << seed;
      }
    });
  }
}

// What NCCL is asked for: one group a step, matching messages, memory that lives until the wait.
TEST(HaloExchange, PostsOneGroupAStepWithWhatTheFormulaSays) {
  for (unsigned seed = 0; seed < 40; ++seed) {
    const RandomTiling random = random_tiling(seed);
    if (random.ranks == 1) continue;
    const TileGrid grid = grid_of(random.tiling);
    const torch::Tensor object =
        torch::randn({2, random.rows, random.columns}, torch::kComplexFloat);
    const auto records =
        tests::as_recorded_ranks(random.ranks, [&](std::int64_t rank, const std::string& group) {
          Tiling tiling = random.tiling;
          tiling.group = group;
          std::vector<torch::Tensor> owned;
          for (const std::int64_t tile : tiles_of(tiling, rank)) {
            owned.push_back(cut_out(object, grid.owned(tile)));
          }
          const std::vector<torch::Tensor> extended = halo_insert(owned, tiling);
          const std::vector<std::int64_t> tiles = tiles_of(tiling, rank);
          for (std::size_t k = 0; k < tiles.size(); ++k) {
            EXPECT_TRUE(extended[k].equal(cut_out(object, grid.extended(tiles[k])))) << seed;
          }
          halo_add(extended, tiling);
        });
    for (std::int64_t rank = 0; rank < random.ranks; ++rank) {
      // What this rank borrows from each other one, once to insert and once, back, to add.
      std::map<int, std::int64_t> borrowed, lent;
      const auto owner = [&](std::int64_t tile) {
        return static_cast<int>(random.tiling.owners[static_cast<std::size_t>(tile)]);
      };
      for (const std::int64_t tile : tiles_of(random.tiling, rank)) {
        for (const Piece& piece : borrowed_by(grid, tile)) {
          if (owner(piece.owner) != rank) borrowed[owner(piece.owner)] += 16 * piece.area.pixels();
        }
        for (const Piece& piece : lent_by(grid, tile)) {
          if (owner(piece.borrower) != rank)
            lent[owner(piece.borrower)] += 16 * piece.area.pixels();
        }
      }
      const auto& groups = records[static_cast<std::size_t>(rank)].groups;
      ASSERT_EQ(groups.size(), borrowed.empty() ? 0u : 2u) << seed;
      for (std::size_t step = 0; step < groups.size(); ++step) {
        std::map<int, std::int64_t> received, sent;
        for (const tests::RecordedMessage& message : groups[step]) {
          EXPECT_TRUE(
              (message.sends ? sent : received).emplace(message.peer, message.bytes).second);
        }
        EXPECT_EQ(received, step == 0 ? borrowed : lent) << seed;
        EXPECT_EQ(sent, step == 0 ? lent : borrowed) << seed;
      }
    }
  }
}

// The check finds what it is there for.
TEST(RecordedSchedule, PlaysAsNcclDoes) {
  using tests::Record;
  const auto sends = [](int peer) { return tests::RecordedMessage{true, peer, 8}; };
  const auto receives = [](int peer) { return tests::RecordedMessage{false, peer, 8}; };
  EXPECT_EQ(tests::play({Record{{{sends(1), receives(1)}}, {}}, {{{sends(0), receives(0)}}, {}}}),
            "");
  // Both send first, in groups of their own: each waits for the other to receive.
  EXPECT_EQ(tests::play(
                {Record{{{sends(1)}, {receives(1)}}, {}}, Record{{{sends(0)}, {receives(0)}}, {}}}),
            "all ranks wait for one another");
  // A sum before a message on one rank, after it on the other.
  const tests::RecordedMessage sum{true, tests::kEverybody, 8};
  EXPECT_EQ(tests::play({Record{{{sum}, {sends(1)}}, {}}, Record{{{receives(0)}, {sum}}, {}}}),
            "all ranks wait for one another");
  EXPECT_EQ(tests::play({Record{{{sum}, {sends(1)}}, {}}, Record{{{sum}, {receives(0)}}, {}}}), "");
  EXPECT_EQ(tests::play({Record{{{sends(1)}}, {}}, Record{}}),
            "messages without a match from rank 0 to 1");
}

// Ten lines that train over four ranks: nobody holds the whole object.
TEST(HaloInsert, TrainsOverFourRanksAsOverOne) {
  torch::manual_seed(1);
  const torch::Tensor truth = 0.5 * torch::rand({1, 22, 26}, torch::kDouble);
  const torch::Tensor probe = torch::randn({1, 8, 8}, torch::kComplexDouble);
  const torch::Tensor positions =
      torch::rand({60, 2}, torch::kDouble) * torch::tensor({14.0, 18.0}, torch::kDouble);
  const torch::Tensor patterns = diffraction(truth, probe, positions);

  const auto train = [&](const Tiling& tiling, std::int64_t rank) {
    const TileGrid grid = grid_of(tiling);
    const std::vector<std::int64_t> tiles = tiles_of(tiling, rank);
    std::vector<torch::Tensor> owned, members;
    for (const std::int64_t tile : tiles) {
      const Rectangle area = grid.owned(tile);
      owned.push_back(torch::zeros({1, area.rows, area.columns}, torch::kDouble).requires_grad_());
      std::vector<std::int64_t> mine;
      for (std::int64_t n = 0; n < positions.size(0); ++n) {
        const auto centre = positions[n] + 4.0;
        if (grid.tile_at(centre[0].item<double>(), centre[1].item<double>()) == tile)
          mine.push_back(n);
      }
      members.push_back(torch::tensor(mine, torch::kLong));
    }
    torch::optim::Adam optimizer(owned, torch::optim::AdamOptions(0.02));
    double loss = 0, start = 0;
    for (int iteration = 0; iteration < 40; ++iteration) {
      optimizer.zero_grad();
      const std::vector<torch::Tensor> extended = halo_insert(owned, tiling);
      torch::Tensor sum = torch::zeros({}, torch::kDouble);
      for (std::size_t k = 0; k < tiles.size(); ++k) {
        const Rectangle frame = grid.extended(tiles[k]);
        LossOptions options;
        options.origin = {frame.row, frame.column};
        sum = sum + diffraction_loss(extended[k], probe, positions.index_select(0, members[k]), {},
                                     patterns.index_select(0, members[k]), options)
                        .loss;
      }
      sum.backward();
      optimizer.step();
      loss = sum.item<double>();
      if (iteration == 0) start = loss;
    }
    return std::tuple(owned, loss, start);
  };

  Tiling one{{0, 22}, {0, 26}, {4, 4}, {0}, ""};
  const auto [whole, loss, start] = train(one, 0);
  EXPECT_LT(loss, 0.05 * start);
  Tiling four{{0, 9, 22}, {0, 15, 26}, {4, 4}, {0, 1, 2, 3}, ""};
  std::vector<double> losses(4);
  as_ranks(4, [&, expected = whole[0]](std::int64_t rank, const std::string& group) {
    Tiling tiling = four;
    tiling.group = group;
    const auto [owned, own_loss, own_start] = train(tiling, rank);
    losses[static_cast<std::size_t>(rank)] = own_loss;
    EXPECT_TRUE(owned[0].allclose(cut_out(expected, grid_of(four).owned(rank)), 1e-7, 1e-9));
  });
  EXPECT_NEAR(std::accumulate(losses.begin(), losses.end(), 0.0), loss, 1e-9 * loss);
}

// A peer that is known to be gone: Gloo throws when something is posted already.
class GoneBackend : public c10d::Backend {
 public:
  explicit GoneBackend(const c10d::Backend& other)
      : c10d::Backend(other.getRank(), other.getSize()) {}
  const std::string getBackendName() const override { return "gone"; }
  c10::intrusive_ptr<c10d::Work> send(std::vector<at::Tensor>&, int, int) override { fail(); }
  c10::intrusive_ptr<c10d::Work> recv(std::vector<at::Tensor>&, int, int) override { fail(); }

 private:
  [[noreturn]] static void fail() { throw std::runtime_error("Connection closed by peer"); }
};

TEST(Messages, APeerThatIsGoneIsAnErrorOfTheExchangeWhenItIsPosted) {
  as_ranks(
      2,
      [](std::int64_t rank, const std::string& name) {
        for (const bool sends : {false, true}) {
          Messages messages(c10d::resolve_process_group(name));
          const torch::Tensor values = torch::zeros({3});
          if (sends) {
            messages.send(values, 1 - rank, 1);
          } else {
            messages.receive(values, 1 - rank, 1);
          }
          try {
            messages.post();
            ADD_FAILURE() << "nothing was said";
          } catch (const c10::DistBackendError& error) {
            const std::string said = error.what_without_backtrace();
            EXPECT_EQ(said, "the exchange with rank " + std::to_string(1 - rank) +
                                " failed: Connection closed by peer");
          }
        }
      },
      [](std::int64_t, c10d::ProcessGroup& group) {
        group.setBackend(c10::DeviceType::CPU, c10d::ProcessGroup::BackendType::CUSTOM,
                         c10::make_intrusive<GoneBackend>(*group.getBackend(c10::DeviceType::CPU)));
      });
}

// Two ranks add to the same pixels: the thread sanitizer's run starts this by name, and it must
// fail there; elsewhere the fault is harmless and nobody asks for it.
TEST(Planted, DISABLED_Race) {
  torch::Tensor shared = torch::zeros({1, 8, 6});
  as_ranks(2, [&](std::int64_t rank, const std::string& name) {
    HaloExchange exchange(TileGrid({0, 8}, {0, 6, 12}, {0, 6}), {0, 1}, rank,
                          c10d::resolve_process_group(name));
    exchange.begin_add({torch::ones({1, 8, 12})}, 1);
    exchange.finish_add({shared});
  });
}

}  // namespace
}  // namespace ptyle
