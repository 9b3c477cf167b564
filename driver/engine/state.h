// What a reconstruction is on this rank, between two updates. A checkpoint holds exactly this, of
// all ranks. Tensors lie where the rank computes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace ptyle::driver {

struct History {
  std::vector<double> loss, amplitude_error, seconds;  // one entry per iteration
};

// What an optimiser remembers of a part of an unknown, by name (moments, pairs of L-BFGS): of the
// size of what it updates.
using Memory = std::map<std::string, at::Tensor>;

// An unknown: one part for each of this rank's tiles, ascending, or one that is the same on every
// rank (engine/unknown.h).
struct Values {
  std::vector<at::Tensor> parts;
  std::vector<Memory> memory;  // as many
};

struct State {
  std::map<std::string, Values> unknowns;  // by name
  // The optimiser's, the same on every rank.
  std::map<std::string, double> numbers;
  std::map<std::string, std::vector<double>> lists;

  std::int64_t iteration = 0;  // complete ones
  std::int64_t batch = 0;      // batches done of the iteration that is under way
  // Sums over the positions of the iteration that is under way.
  double loss = 0.0;
  double squared_error = 0.0;
  double seconds = 0.0;
  double start_power = 0.0;  // of the probe

  History history;
  // What was changed on a restart, a line each: "after iteration 12: reconstruct.step = 0.5,
  // was 1.0".
  std::vector<std::string> changes;
  std::size_t changed_now = 0;  // of these, on the restart that made this state

  // What every model takes.
  at::Tensor& object(std::size_t tile) { return unknowns.at("object").parts[tile]; }
  const at::Tensor& object(std::size_t tile) const { return unknowns.at("object").parts[tile]; }
  const std::vector<at::Tensor>& objects() const { return unknowns.at("object").parts; }
  at::Tensor& probe() { return unknowns.at("probe").parts.front(); }
  const at::Tensor& probe() const { return unknowns.at("probe").parts.front(); }

  double number(const std::string& name) const;  // 0 where there is none
  std::string change_lines() const;              // `changes`, a line each
};

}  // namespace ptyle::driver
