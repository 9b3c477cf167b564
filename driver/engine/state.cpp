#include "driver/engine/state.h"

namespace ptyle::driver {

void State::move_to(const at::Device& device) {
  const auto move = [&](at::Tensor& tensor) {
    if (tensor.defined()) tensor = tensor.to(device);
  };
  for (TileState& tile : tiles) {
    move(tile.object);
    for (auto& [name, tensor] : tile.optimizer) move(tensor);
  }
  move(probe);
  for (auto& [name, tensor] : optimizer) move(tensor);
}

}  // namespace ptyle::driver
