// ptyle check: the geometry the program understood, and what is doubtful about it.
#pragma once

#include <cstdint>
#include <iosfwd>

#include <ATen/core/Tensor.h>

#include "driver/config/config.h"

namespace ptyle::driver {

struct Problem;
struct Decomposition;
struct DecompositionOptions;

struct CheckOptions {
  std::int64_t ranks = 1;   // of the run that memory and tiles are told of
  bool halo_error = false;  // compute the gradient's error that a truncated halo makes
};

// Loads everything a run would load, prints what it means, writes nothing. Returns the exit code.
int check(Config config, std::ostream& out, const CheckOptions& options = {});

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
std::int64_t predicted_tensor_bytes(const Config& config, const Problem& problem,
                                    const Decomposition& decomposition, std::int64_t rank);
// Of these, computed on the CPU, and the program itself.
std::int64_t predicted_bytes(const Config& config, const Problem& problem,
                             const Decomposition& decomposition, std::int64_t rank);

// "3.1 % of the pixels (...)": what is masked, and by what.
std::string mask_words(const Problem& problem);

// "must fit into the memory that is free, ..." where a rank of a run would not, on a machine as
// free as this one is now; empty where it would.
std::string memory_shortage(const Config& config, const Problem& problem, const Decomposition& cut,
                            std::int64_t rank, const at::Device& device);

DecompositionOptions decomposition_options(const Config& config, const Problem& problem);

}  // namespace ptyle::driver
