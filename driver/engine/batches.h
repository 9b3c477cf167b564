// Which positions are updated together, and in which order. Depends on all positions, the number of
// batches and the seed; never on tiles, ranks or threads.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace ptyle::driver {

// Positions ordered along a Hilbert curve over their bounding square, so that neighbours in the
// list are neighbours in space. positions [n, 2]; -> n indices.
std::vector<std::int64_t> hilbert_order(const at::Tensor& positions);

class Batches {
 public:
  // `batches` is lowered to the number of positions: an empty batch updates nothing.
  Batches(const at::Tensor& positions, std::int64_t batches, std::uint64_t seed);

  std::int64_t count() const { return static_cast<std::int64_t>(members_.size()); }
  // Positions of a batch, in the curve's order: every count()-th one, so spread over the object.
  const at::Tensor& members(std::int64_t batch) const {
    return members_[static_cast<std::size_t>(batch)];
  }
  // The batches' order in an iteration: a permutation drawn from seed and iteration alone, so that
  // a restart needs no state of a generator.
  std::vector<std::int64_t> order(std::int64_t iteration) const;

 private:
  std::uint64_t seed_;
  std::vector<at::Tensor> members_;  // int64
};

}  // namespace ptyle::driver
