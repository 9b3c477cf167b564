// How a reconstruction is cut: the tile grid, which rank holds which tile, which positions belong
// to which tile, and what of a tile is worked on. The same on every rank.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "csrc/tiles.h"
#include "driver/config/modes.h"

namespace ptyle::driver {

using Pair = std::array<std::int64_t, 2>;  // (row, column)

// Half a window, rounded up, and what is looked at around windows: nothing that a tile's positions
// see lies beyond its extended tile.
Pair exact_halo(Pair window, std::int64_t reach = 0);

// Median distance, in pixels, from a position to its nearest neighbour; 0 for fewer than two. From
// at most 500 positions, spread over the scan.
double neighbour_distance(const at::Tensor& positions);

// The part `area` of an image [..., rows, columns] whose corner lies at that of `frame`; a view.
at::Tensor cut_out(const at::Tensor& image, const Rectangle& frame, const Rectangle& area);

// Cuts so that every row of tiles has about as many window centres, and every column too.
// ConfigError where the object has fewer pixels than tiles.
TileGrid make_grid(const at::Tensor& positions, Pair window, Pair object, Pair tiles, Pair halo);

// For "auto": rows and columns of tiles, one for each rank, as square as the object lets them be.
Pair grid_for(std::int64_t ranks, Pair object);

struct Tile {
  std::int64_t number = 0;
  Rectangle owned;    // every pixel of the object is in one of these; sums go over them
  Rectangle frame;    // of the tensors: the extended tile
  Rectangle updated;  // what the optimiser works on: owned, or all of the frame
};

struct Decomposition {
  ExchangeKind exchange = kExchanges[0];
  TileGrid grid{{0, 0}, {0, 0}, {0, 0}};
  std::vector<Tile> tiles;            // all
  std::vector<std::int64_t> owners;   // the rank of every tile: ascending, each rank has one
  std::vector<std::int64_t> tile_of;  // by position
  Pair window{0, 0};
  std::int64_t reach = 0;  // pixels around a window that it looks at
  // `voxels`: pixels around a tile from where it takes the positions of others too.
  Pair extra{0, 0};
  bool averages = false;  // `voxels`: overlaps are averaged, not copied from their owners

  std::vector<std::int64_t> tiles_of_rank(std::int64_t rank) const;
  // Positions whose patterns a tile needs: its own, and with `voxels` others near it; ascending.
  std::vector<std::int64_t> positions_of_tile(std::int64_t tile, const at::Tensor& positions) const;
  std::vector<std::int64_t> positions_of_rank(std::int64_t rank, const at::Tensor& positions) const;
};

struct DecompositionOptions {
  std::optional<Pair> grid;          // nothing: from the number of ranks
  std::optional<std::int64_t> halo;  // nothing: exact
  std::string exchange = "direct";
  std::int64_t extra_rows = 2;  // `voxels`: steps of the scan around a tile
  bool averages = false;        // `voxels`
  std::int64_t reach = 0;       // pixels around a window that it looks at (Problem::reach)
};

// positions [n, 2] in the object's frame. ConfigError where ranks, grid and object do not fit.
Decomposition decompose(const at::Tensor& positions, Pair window, Pair object, std::int64_t ranks,
                        const DecompositionOptions& options);

}  // namespace ptyle::driver
