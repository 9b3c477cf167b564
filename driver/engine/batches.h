// Which positions are updated together, and in which order. Depends on all positions, the number of
// batches and the seed; never on tiles, ranks or threads.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "driver/config/config.h"
#include "driver/io/problem.h"

namespace ptyle::driver {

// How many batches suit positions [n, 2] of a probe [modes, h, w]: four for each window that lights
// a pixel of the scanned area on average. An update then moves what a few positions see, so that
// they hardly pull against one another, and an iteration holds many updates. At least 16, at most
// one for every `fewest` positions (4 in the far field; 24 in the near field, where a pattern tells
// of all that its probe covers), at least 1.
std::int64_t good_batch_count(const at::Tensor& positions, const at::Tensor& probe,
                              std::int64_t fewest = 4);

// reconstruct.optimizer and batches where they are "auto".
void settle_updates(Config& config, const Problem& problem);

// Positions ordered along a Hilbert curve over their bounding square, so that neighbours in the
// list are neighbours in space. positions [n, 2]; -> n indices.
std::vector<std::int64_t> hilbert_order(const at::Tensor& positions);

class Batches {
 public:
  // `batches` is lowered to the number of positions: an empty batch updates nothing. hold_out: the
  // share of positions that are in no batch, at least one of two positions where it is not 0.
  Batches(const at::Tensor& positions, std::int64_t batches, std::uint64_t seed,
          double hold_out = 0.0);

  std::int64_t count() const { return static_cast<std::int64_t>(members_.size()); }
  // Positions of a batch, in the curve's order: every count()-th one, so spread over the object.
  const at::Tensor& members(std::int64_t batch) const {
    return members_[static_cast<std::size_t>(batch)];
  }
  // Those in no batch, spread along the curve.
  const at::Tensor& held_out() const { return held_out_; }
  // The batches' order in an iteration: a permutation drawn from seed and iteration alone, so that
  // a restart needs no state of a generator.
  std::vector<std::int64_t> order(std::int64_t iteration) const;

 private:
  std::uint64_t seed_;
  std::vector<at::Tensor> members_;  // int64
  at::Tensor held_out_;
};

}  // namespace ptyle::driver
