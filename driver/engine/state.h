// What a reconstruction is on this rank, between two updates. A checkpoint holds exactly this, of
// all ranks. Tensors lie where the rank computes.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace ptyle::driver {

struct History {
  std::vector<double> loss, amplitude_error, seconds;  // one entry an iteration
};

struct TileState {
  at::Tensor object;  // [slices, rows, columns] complex transmission of the tile's frame
  // The optimiser's tensors by name (velocity, moments, pairs of L-BFGS), of what it works on.
  std::map<std::string, at::Tensor> optimizer;
};

struct State {
  std::vector<TileState> tiles;  // this rank's, ascending
  // The same on every rank:
  at::Tensor probe;                             // [modes, h, w] complex
  std::map<std::string, at::Tensor> optimizer;  // the probe's
  std::map<std::string, double> numbers;        // the optimiser's scalars
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

  void move_to(const at::Device& device);
};

}  // namespace ptyle::driver
