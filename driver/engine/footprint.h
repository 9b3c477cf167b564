// The memory of a run, before it is taken: what each part of the engine says it needs.
#pragma once

#include <cstdint>
#include <string>

#include <ATen/core/Tensor.h>

#include "driver/config/config.h"
#include "driver/io/problem.h"
#include "driver/tiles/decomposition.h"

namespace ptyle::driver {

// What the program and its libraries take before any data: measured as the peak of `ptyle check`
// on a few kilobytes of patterns.
inline constexpr std::int64_t kBaseBytes = std::int64_t{140} << 20;

// Memory of one rank's tensors in a run, in bytes.
struct TensorBytes {
  std::int64_t data = 0;      // patterns, masks, positions: in the host's memory
  std::int64_t unknowns = 0;  // object, probe, gradients, the optimiser's memory: where it computes
  std::int64_t work = 0;      // a block of patterns, and what the kernels hold: likewise
  std::int64_t all() const { return data + unknowns + work; }
};
// On a GPU the work takes what it is given; the prediction is the least it needs.
TensorBytes predicted_tensors(const Config& config, const Problem& problem,
                              const Decomposition& decomposition, std::int64_t rank,
                              bool on_gpu = false);
// Of these, computed on the CPU, and the program itself.
std::int64_t predicted_bytes(const Config& config, const Problem& problem,
                             const Decomposition& decomposition, std::int64_t rank);

// "must fit into the memory that is free, ..." where a rank of a run would not, on a machine as
// free as this one is now; empty where it would.
std::string memory_shortage(const Config& config, const Problem& problem, const Decomposition& cut,
                            std::int64_t rank, const at::Device& device);

DecompositionOptions decomposition_options(const Config& config, const Problem& problem);

}  // namespace ptyle::driver
