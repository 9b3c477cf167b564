// A small problem for engines: patterns without noise of a smooth random phase object.
#pragma once

#include <memory>
#include <numeric>
#include <vector>

#include <ATen/ATen.h>

#include <ptyle/ops.h>

#include "driver/engine/checkpoint.h"
#include "driver/engine/engine.h"
#include "driver/optics/optics.h"

namespace ptyle::driver::tests {

// A raster of side x side positions, 5 pixels apart; `jitter`: off by up to this, also by
// fractions.
inline Problem make_problem(int64_t slices, int64_t window = 32, int64_t side = 6,
                            double jitter = 0.0) {
  at::manual_seed(3);
  Problem problem;
  const auto real = at::TensorOptions().dtype(at::kDouble);
  const int64_t step = 5, extent = (side - 1) * step + window + (jitter > 0 ? 1 : 0);
  problem.window = {window, window};
  problem.object_shape = {slices, extent, extent};
  const at::Tensor line = at::arange(side, real) * step;
  problem.positions = at::stack({line.repeat_interleave(side), line.repeat({side})}, 1);
  if (jitter > 0) {
    problem.positions += jitter * (2 * at::rand(problem.positions.sizes(), real) - 1);
    problem.positions.clamp_(0.0, static_cast<double>((side - 1) * step));
  }
  problem.positions = problem.positions.contiguous();
  // Smooth phase: noise blurred by a Gaussian in Fourier space.
  const at::Tensor k2 = squared_frequencies(extent, extent, 1.0, 1.0);
  const at::Tensor noise = at::randn({slices, extent, extent}, real);
  const at::Tensor phase = at::real(
      at::_fft_c2c(at::_fft_c2c(noise.to(at::kComplexDouble), {1, 2}, 0, true) * at::exp(-60 * k2),
                   {1, 2}, 2, false));
  const at::Tensor object = at::polar(at::ones_like(phase), 4.0 / double(slices) * phase);
  ProbeOptics optics;
  optics.wavelength_A = 0.0251;
  optics.semiangle_mrad = 4.0;
  optics.aberrations.C10 = -600.0;
  problem.probe = aberrated_probe(window, window, 1.0, 1.0, optics).unsqueeze(0) * 200.0;
  if (slices > 1) {
    problem.propagator = fresnel_propagator(window, window, 1.0, 1.0, 0.0251, 30.0);
  }
  problem.patterns =
      diffraction(object, problem.probe, problem.positions, problem.propagator).to(at::kFloat);
  problem.source = std::make_shared<MemoryPatterns>(problem.patterns);
  problem.held.resize(static_cast<size_t>(problem.positions.size(0)));
  std::iota(problem.held.begin(), problem.held.end(), 0);
  problem.counts_per_pattern =
      problem.patterns.sum(std::vector<int64_t>{1, 2}, false, at::kDouble).contiguous();
  problem.total_counts = problem.patterns.sum(at::kDouble).item<double>();
  problem.mean_counts_per_pattern = problem.total_counts / double(problem.positions.size(0));
  problem.largest_count = problem.patterns.max().item<double>();
  // As if stored with the zero frequency in the middle.
  problem.stored_shape = problem.patterns.sizes().vec();
  problem.first_stored = at::arange(window * window, at::kLong)
                             .reshape({window, window})
                             .roll({-(window / 2), -(window / 2)}, {0, 1})
                             .contiguous();
  return problem;
}

// What a rank reads of it.
inline Problem part_of(const Problem& problem, const Decomposition& cut, int64_t rank) {
  Problem part = problem;
  part.held = cut.positions_of_rank(rank, problem.positions);
  const at::Tensor rows = at::tensor(part.held, at::kLong);
  part.patterns = problem.patterns.index_select(0, rows);
  if (problem.mask && problem.mask->dim() == 3) part.mask = problem.mask->index_select(0, rows);
  part.source = std::make_shared<MemoryPatterns>(part.patterns);
  return part;
}

inline Decomposition cut_up(const Problem& problem, int64_t ranks,
                            const DecompositionOptions& options) {
  return decompose(problem.positions, problem.window,
                   {problem.object_shape[1], problem.object_shape[2]}, ranks, options);
}

inline Decomposition whole_object(const Problem& problem) {
  return cut_up(problem, 1, {Pair{1, 1}, std::nullopt, "direct", 0});
}

// An engine on one rank with one tile.
struct Whole {
  Whole(const Config& of_run, const Problem& problem)
      : config(of_run), cut(whole_object(problem)), engine(config, problem, cut, ranks) {}
  void write(const std::string& checkpoint, const State& state) const {
    write_checkpoint(checkpoint, state, engine.unknowns(), config, "data", cut, ranks);
  }
  State read(const std::string& checkpoint) const {
    return read_checkpoint(checkpoint, engine.start(), engine.unknowns(), config, "data", cut,
                           ranks);
  }
  Config config;
  Decomposition cut;
  Ranks ranks;
  Engine engine;
};

inline const auto kNeverStop = [] { return false; };
inline const auto kIgnore = [](int64_t) {};

inline State reconstruct(const Config& config, const Problem& problem, int64_t iterations) {
  Whole whole(config, problem);
  State state = whole.engine.start();
  for (int64_t k = 0; k < iterations; ++k) whole.engine.iterate(state, kNeverStop, kIgnore);
  return state;
}

}  // namespace ptyle::driver::tests
