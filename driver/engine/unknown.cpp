#include "driver/engine/unknown.h"

#include <ATen/ops/zeros.h>

#include "driver/engine/vectors.h"

namespace ptyle::driver {
namespace {

Rectangle relative(const Rectangle& inner, const Rectangle& outer) {
  return {inner.row - outer.row, inner.column - outer.column, inner.rows, inner.columns};
}

}  // namespace

Workplace::Workplace(const Decomposition& cut, std::int64_t rank, const Ranks* ranks)
    : all_tiles(static_cast<std::int64_t>(cut.tiles.size())) {
  for (const std::int64_t number : cut.tiles_of_rank(rank)) {
    const Tile& tile = cut.tiles[static_cast<std::size_t>(number)];
    tiles.push_back(tile);
    updated.push_back(relative(tile.updated, tile.frame));
    counted.push_back(tile.owned.empty() ? Rectangle{} : relative(tile.owned, tile.updated));
  }
  if (ranks == nullptr) return;
  // Every rank knows every tile's number afterwards, and adds them up in the same order.
  sum = [this, ranks](const std::vector<double>& values) {
    const at::Tensor all = at::zeros({all_tiles}, at::kDouble);
    for (std::size_t k = 0; k < tiles.size(); ++k) {
      all.data_ptr<double>()[tiles[k].number] = values[k];
    }
    ranks->gather(all);
    return total(all);
  };
  maximum = [ranks](const std::vector<double>& values) {
    const at::Tensor all = as_tensor(values);
    ranks->maximum(all);
    return as_vector(all);
  };
}

double Unknown::power(const Values& values) const {
  std::vector<double> powers;
  for (std::size_t k = 0; k < values.parts.size(); ++k) {
    powers.push_back(driver::power(counted(updated(values.parts[k], k), k)));
  }
  return sum(powers);
}

Unknowns make_unknowns(const Config& config, const Problem& problem, const Decomposition& cut,
                       const Workplace& workplace, const at::TensorOptions& like) {
  Unknowns all;
  all.push_back(make_object(config, problem, cut, workplace, like));
  all.push_back(make_probe(config, problem, workplace, like));
  return all;
}

at::ScalarType complex_type(const Config& config) {
  return config.reconstruct.in_double() ? at::kComplexDouble : at::kComplexFloat;
}

at::Tensor& tensor_like(Memory& memory, const std::string& name, const at::Tensor& like,
                        at::ScalarType type) {
  at::Tensor& tensor = memory[name];
  if (!tensor.defined()) tensor = at::zeros(like.sizes(), like.options().dtype(type));
  return tensor;
}

void scale_if_present(Memory& memory, const std::string& name, double factor) {
  const auto found = memory.find(name);
  if (found == memory.end()) return;
  if (found->second.is_complex()) {
    scale(found->second, factor);
  } else {
    found->second.mul_(factor);  // one rounding per element, the same by any path
  }
}

}  // namespace ptyle::driver
