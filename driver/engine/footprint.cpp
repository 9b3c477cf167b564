#include "driver/engine/footprint.h"

#include <algorithm>
#include <cmath>
#include <string>

#include <ATen/Parallel.h>

#include <ptyle/ops.h>

#include "csrc/cpu/layout.h"
#include "driver/device.h"
#include "driver/engine/engine.h"
#include "driver/memory.h"

namespace ptyle::driver {
namespace {

// What the kernels hold while they work: `calls` at once, on parts of so many positions.
template <typename T>
std::int64_t scratch_bytes(const Problem& problem, std::int64_t positions, std::int64_t calls) {
  const auto [h, w] = problem.window;
  const std::int64_t slices = problem.object_shape[0], modes = problem.probe.size(0);
  const std::int64_t threads = at::get_num_threads();
  const std::string kernels = cpu_kernels(h, w);
  cpu::Shape<T> shape{};
  shape.rows.size = h;
  shape.columns.size = w;
  shape.rows.scratch = cpu::transform_scratch(h);
  shape.columns.scratch = cpu::transform_scratch(w);
  const std::int64_t vector_bytes = kernels == "fused v4" ? 64 : kernels == "fused v3" ? 32 : 16;
  shape.lanes = vector_bytes / static_cast<std::int64_t>(sizeof(T));
  const bool moves = problem.between_pixels && !problem.moves_object();
  const cpu::Extent extent{slices,
                           modes,
                           problem.propagator && problem.propagator->dim() == 3,
                           problem.detector.has_value(),
                           moves,
                           true,
                           problem.mask.has_value() || problem.masked_pixels > 0};
  const std::int64_t every = cpu::kept_every(
      slices, modes * shape.panel_wave() * static_cast<std::int64_t>(sizeof(T)), cpu::kKeepBytes);
  const std::int64_t workers = calls > 1 ? threads : std::min(threads, positions);
  return static_cast<std::int64_t>(sizeof(T)) *
         (workers * cpu::worker_numbers(shape, extent, every) +
          calls * cpu::model_numbers(shape, extent));
}

}  // namespace

DecompositionOptions decomposition_options(const Config& config, const Problem& problem) {
  return {config.tiles.grid,
          config.tiles.halo,
          config.tiles.exchange,
          config.tiles.extra_rows,
          config.tiles.voxels == "mean",
          problem.reach};
}

TensorBytes predicted_tensors(const Config& config, const Problem& problem,
                              const Decomposition& decomposition, std::int64_t rank, bool on_gpu) {
  const at::TensorOptions like = at::TensorOptions().dtype(complex_type(config));
  const auto unit = static_cast<std::int64_t>(like.dtype().itemsize());
  const std::int64_t slices = problem.object_shape[0];
  const Workplace workplace(decomposition, rank, nullptr);
  const std::int64_t remembered =
      optimizer_kind(config.reconstruct.optimizer).remembered(config.reconstruct.history);
  double values = Sweep::bytes(config, problem, decomposition, rank, needs_of(config));
  for (const auto& unknown : make_unknowns(config, problem, decomposition, workplace, like)) {
    values += unknown->bytes(unknown->refined() ? remembered : 0);
  }
  std::int64_t most_positions = 0;
  for (const Tile& tile : workplace.tiles) {
    const auto here = decomposition.positions_of_tile(tile.number, problem.positions).size();
    most_positions = std::max(most_positions, static_cast<std::int64_t>(here));
  }
  const auto held =
      static_cast<std::int64_t>(decomposition.positions_of_rank(rank, problem.positions).size());
  const std::int64_t window = problem.window[0] * problem.window[1];
  // Streamed patterns: one block at work, three ready, one being read and converted.
  const std::int64_t all =
      held * window * static_cast<std::int64_t>(problem.patterns.element_size());
  const std::int64_t patterns =
      problem.streams()
          ? std::min(all, 6 * std::max(kPatternBlockBytes, all / std::max<std::int64_t>(1, held)))
          : all;
  const std::int64_t mask = problem.mask ? (problem.mask->dim() == 3 ? held * window : window) : 0;
  const std::int64_t batches = config.reconstruct.batch_count();
  const std::int64_t part =  // of a tile's positions in a batch
      std::max<std::int64_t>(1, (most_positions + batches - 1) / batches);
  // Threads work on tiles of their own where there are many, each with all that a call holds.
  const std::int64_t threads = at::get_num_threads();
  const auto here = static_cast<std::int64_t>(workplace.tiles.size());
  const std::int64_t calls = here >= 2 * threads ? threads : 1;
  // A block of patterns once more, as the operators take them.
  const std::int64_t pattern = window * static_cast<std::int64_t>(problem.patterns.element_size());
  const std::int64_t block =
      calls * std::min(part * pattern, std::max(pattern, kPatternBlockBytes));
  // Positions, their order and what was found in each pattern: on every rank.
  const std::int64_t lists = 100 * problem.positions.size(0) + 40 * held;
  constexpr double kMost = 1e18;
  TensorBytes bytes{patterns + mask + lists, static_cast<std::int64_t>(std::min(values, kMost)), 0};
  if (on_gpu) {
    // Two blocks and what is copied ahead; one position's waves, a part of them recomputed.
    const auto every = static_cast<std::int64_t>(std::ceil(std::sqrt(static_cast<double>(slices))));
    bytes.work = 3 * block + (2 * every + 8) * unit * problem.probe.numel() + 3 * window * unit;
  } else {
    if (problem.moves_object()) {
      // Patches, the stack of them that the kernels see, its gradient and what is added of it.
      const std::int64_t patch = slices * window * unit;
      bytes.work += calls * 4 * std::min(part, block_positions(pattern, patch)) * patch;
    }
    bytes.work += block + (unit == 8 ? scratch_bytes<float>(problem, part, calls)
                                     : scratch_bytes<double>(problem, part, calls));
  }
  return bytes;
}

std::int64_t predicted_bytes(const Config& config, const Problem& problem,
                             const Decomposition& decomposition, std::int64_t rank) {
  return kBaseBytes + predicted_tensors(config, problem, decomposition, rank).all();
}

std::string memory_shortage(const Config& config, const Problem& problem, const Decomposition& cut,
                            std::int64_t rank, const at::Device& device) {
  const TensorBytes tensors = predicted_tensors(config, problem, cut, rank, !device.is_cpu());
  // Patterns that are in memory already are not counted once more.
  const auto loaded =
      static_cast<std::int64_t>(problem.patterns.is_meta() ? 0 : problem.patterns.nbytes());
  const std::int64_t needed = device.is_cpu() ? predicted_bytes(config, problem, cut, rank) - loaded
                                              : tensors.unknowns + tensors.work;
  const std::int64_t available = free_bytes(device);
  if (needed <= available) return {};
  return "must fit into the memory that is free" +
         std::string(device.is_cpu() ? ", " : " on the GPU, ") +
         gigabytes(static_cast<double>(available)) + ", got a need of about " +
         gigabytes(static_cast<double>(needed)) +
         " (object.slices, padding, probe.modes, reconstruct.history; `ptyle check` says what)";
}

}  // namespace ptyle::driver
