// ptyle check: the geometry the program understood, and what is doubtful about it.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <string>
#include <vector>

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
int check(const Config& config, std::ostream& out, const CheckOptions& options = {});

// The doubts alone, one sentence each.
std::vector<std::string> doubts(const Config& config, const Problem& problem);

// Memory of one rank of a run, in bytes: of tensors, and of these and the program itself.
std::int64_t predicted_tensor_bytes(const Config& config, const Problem& problem,
                                    const Decomposition& decomposition, std::int64_t rank);
std::int64_t predicted_bytes(const Config& config, const Problem& problem,
                             const Decomposition& decomposition, std::int64_t rank);

// The share of the illumination of a tile's positions that lies outside its extended tile, where a
// truncated halo takes the object for vacuum.
double energy_cut(const Problem& problem, const Decomposition& decomposition, std::int64_t tile);

DecompositionOptions decomposition_options(const Config& config);

}  // namespace ptyle::driver
