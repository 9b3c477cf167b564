#include "driver/engine/gather.h"

#include <ATen/ops/empty.h>

namespace ptyle::driver {

Rectangle extent_of(const Tile& tile, Extent extent) {
  switch (extent) {
    case Extent::kOwned:
      return tile.owned;
    case Extent::kFrame:
      return tile.frame;
    default:
      return tile.updated;
  }
}

void gather_tiles(const Decomposition& decomposition, const Ranks& ranks, Extent extent,
                  std::int64_t planes, at::ScalarType type,
                  const std::function<at::Tensor(std::size_t)>& mine,
                  const std::function<void(const Tile&, const at::Tensor&)>& use) {
  std::size_t local = 0;
  for (const Tile& tile : decomposition.tiles) {
    const std::int64_t owner = decomposition.owners[static_cast<std::size_t>(tile.number)];
    const bool here = owner == ranks.rank();
    const std::size_t index = local;
    if (here) ++local;
    if (tile.owned.empty()) continue;
    if (here) {
      const at::Tensor tensor = mine(index).cpu().contiguous();
      if (ranks.first()) {
        use(tile, tensor);
      } else {
        ranks.send(tensor, 0, Ranks::kFileTag);
      }
    } else if (ranks.first()) {
      const Rectangle area = extent_of(tile, extent);
      const at::Tensor tensor = at::empty({planes, area.rows, area.columns}, type);
      ranks.receive(tensor, owner, Ranks::kFileTag);
      use(tile, tensor);
    }
  }
}

}  // namespace ptyle::driver
