// Tensors of all tiles, one after another, on rank 0: what files are written from. Nobody holds
// more than one tile of another rank.
#pragma once

#include <functional>

#include <ATen/core/Tensor.h>

#include "driver/tiles/decomposition.h"
#include "driver/tiles/ranks.h"

namespace ptyle::driver {

// Which part of a tile a tensor covers.
enum class Extent { kOwned, kFrame, kUpdated };
Rectangle extent_of(const Tile& tile, Extent extent);

// use(tile, tensor) on rank 0 for every tile with pixels of its own, ascending; other ranks send
// mine(index among this rank's tiles), [planes, rows, columns] of `extent`. `planes` and `type` are
// those of all of them.
void gather_tiles(const Decomposition& decomposition, const Ranks& ranks, Extent extent,
                  std::int64_t planes, at::ScalarType type,
                  const std::function<at::Tensor(std::size_t)>& mine,
                  const std::function<void(const Tile&, const at::Tensor&)>& use);

}  // namespace ptyle::driver
