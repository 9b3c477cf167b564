// One sweep of the kernels over the positions of a batch, on tiles and ranks: which positions are
// worked on when, what is exchanged meanwhile, and what the kernels add up.
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <vector>

#include <ptyle/ops.h>

#include "csrc/likelihood.h"
#include "driver/config/config.h"
#include "driver/engine/batches.h"
#include "driver/engine/feed.h"
#include "driver/engine/state.h"
#include "driver/engine/unknown.h"
#include "driver/io/problem.h"
#include "driver/tiles/decomposition.h"
#include "driver/tiles/exchange.h"
#include "driver/tiles/ranks.h"
#include "driver/trace.h"

namespace ptyle::driver {

// What a state leaves unexplained, over all positions; the same on every rank.
struct Residuals {
  // By position, over unmasked pixels: sum of (sqrt(I) - sqrt(n))^2, and what counting noise alone
  // would leave of it for the model's intensities I.
  at::Tensor error, expected;  // [positions] float64
  at::Tensor excess;           // [h, w] float64: error - expected, summed over positions
  // A mean over unmasked pixels: of the amplitude likelihood, and of the run's own.
  double amplitude_error = 0.0, expected_amplitude_error = 0.0;
  double loss = 0.0, expected_loss = 0.0;
};

// Patterns are copied for the operators a block at a time: small enough for a cache, large enough
// for a call. A fixed size, so that sums have the same bits however ranks and threads share the
// work.
inline constexpr std::int64_t kPatternBlockBytes = std::int64_t{4} << 20;
// Likewise patches of the object, where they are moved.
inline constexpr std::int64_t kPatchBlockBytes = std::int64_t{64} << 20;
// Positions of a block. patch_bytes: of one position's patches; 0 where none are moved.
inline std::int64_t block_positions(std::int64_t pattern_bytes, std::int64_t patch_bytes) {
  std::int64_t count = std::max<std::int64_t>(1, kPatternBlockBytes / pattern_bytes);
  if (patch_bytes > 0) {
    count = std::min(count, std::max<std::int64_t>(1, kPatchBlockBytes / patch_bytes));
  }
  return count;
}

class Sweep {
 public:
  // All of them must outlive it. `problem` holds the patterns of this rank's tiles; needs: the
  // most that will be asked.
  Sweep(const Config& config, const Problem& problem, const Decomposition& decomposition,
        const Ranks& ranks, const at::Device& device, const Workplace& workplace,
        const Batches& batches, const Needs& needs);

  // ---- a batch ----
  // Complete gradients of the batch. next: the batch after it, whose patterns are read ahead; -1:
  // not known.
  KernelGradients gradients(const State& state, std::int64_t batch, const Needs& needs,
                            std::int64_t next);
  // Of that batch by tile: its loss, and its squared error.
  std::array<std::vector<double>, 2> losses() const;

  // ---- halos of the object ----
  // Owned voxels have changed.
  void changed() { halos_ = Halos::kStale; }
  // New voxels travel from now on, until they are waited for.
  void send(const State& state);
  void wait(const State& state);
  // Halos are what their owners have.
  void refresh(const State& state);

  // ---- tiles that follow their own gradients between exchanges (tiles.exchange_every) ----
  bool sums_later() const { return every_ > 1 && cut_.exchange.sums_later; }
  // Adds this batch's own gradients to what is kept of them with the state.
  void keep_own(State& state);
  // What others have found since the last exchange: the sum of all, less the tile's own.
  KernelGradients of_others(State& state);

  // ---- without gradients ----
  // A likelihood's loss of a batch's positions, per unmasked pixel.
  double error(const State& state, std::int64_t batch, Likelihood likelihood);
  // One pass over all positions. Refreshes halos: after a checkpoint.
  Residuals residuals(const State& state);

  double unmasked_pixels() const { return unmasked_pixels_; }  // of all patterns
  Traffic traffic() const { return exchange_->traffic(); }
  void record(Trace* trace) { trace_ = trace; }
  void stop_reading() { expect(-1); }  // while a checkpoint is written

  // Bytes on this rank of what it exchanges and adds up; static: before there is one.
  static double bytes(const Config& config, const Problem& problem, const Decomposition& cut,
                      std::int64_t rank, const Needs& needs);

 private:
  // Some positions of a batch in a tile, on the device, and where their patterns lie in this
  // rank's.
  struct Block {
    at::Tensor positions;  // [k, 2]
    at::Tensor rows;       // int64, on the CPU
    Rectangle reached;     // of the object, by all of their windows
  };
  struct Part {
    at::Tensor positions;       // [k, 2] all of them
    std::vector<Block> blocks;  // of kPatternBlockBytes of patterns
  };
  struct TileBatch {
    // In this order: half of those that need no halo while the halos of the last update arrive,
    // then those that do, and the rest while their gradients travel.
    Part before, boundary, after;
    Part extra;  // `voxels`: positions of other tiles; for the object's gradient alone
  };
  // What the exchange has done with the halos of the objects.
  enum class Halos { kFresh, kStale, kOnTheWay };
  // An object whose windows the operators take: a tile's own, or, where the probe stands still,
  // patches of it that are moved by the positions' fractions and put one below another.
  struct Windows {
    at::Tensor object;     // [slices, rows, columns]
    at::Tensor positions;  // [n, 2] float64
    std::array<std::int64_t, 2> origin;
  };
  using Blocks = std::vector<std::vector<at::Tensor>>;  // by tile, of each block: [k] float64

  void plan();
  std::int64_t positions() const { return problem_.positions.size(0); }
  // The batch's positions; behind the batches, those held out.
  const at::Tensor& members(std::int64_t batch) const {
    return batch < batches_.count() ? batches_.members(batch) : batches_.held_out();
  }
  // Of a batch, or of all: use(tile's place among this rank's, block).
  template <typename Use>
  void each_block(const std::vector<TileBatch>& batch, const Use& use) const;
  void expect(std::int64_t batch);
  Windows windows(const at::Tensor& object, const Tile& tile, const at::Tensor& positions) const;
  // diffraction_loss_accumulate_ of a block, whatever is moved by the positions' fractions.
  void accumulate(const State& state, std::size_t tile, const Block& block,
                  const PatternBlock& measured, Likelihood likelihood,
                  const GradientBuffers& buffers, const at::Tensor& losses) const;
  // The model's of some positions of a tile, [k, h, w] real.
  at::Tensor intensities(const State& state, std::size_t tile, const at::Tensor& positions) const;
  // Loss and gradients of a block, added to what is there.
  void add(const State& state, std::size_t tile, const Block& block, const Needs& needs,
           bool counts);
  // The same for a part of all tiles of this rank.
  void add_all(const State& state, std::int64_t batch, Part TileBatch::*part, const Needs& needs,
               bool counts = true);
  // Into what is exchanged, and out of it.
  void pack_illuminations();
  void unpack_illuminations();
  std::vector<std::vector<double>> sums_by_tile(const std::vector<const Blocks*>& lists) const;
  at::Tensor zeros_of_block(const Block& block) const;

  const Problem& problem_;
  const Decomposition& cut_;
  const Ranks& ranks_;
  const Workplace& workplace_;
  const std::vector<Tile>& tiles_;  // this rank's
  const Batches& batches_;
  at::Device device_;
  at::ScalarType type_;  // complex64 or complex128
  Likelihood likelihood_;
  std::int64_t every_;  // tiles.exchange_every
  Feed feed_;
  std::optional<at::Tensor> propagator_, detector_;
  // By batch, then by tile; behind the batches, what is held out of them.
  std::vector<std::vector<TileBatch>> plan_;
  double unmasked_pixels_ = 0.0;
  std::unique_ptr<Exchange> exchange_;

  // By tile; the memory is used again in every batch. An exchange sends what belongs to an object's
  // pixel: the gradient's planes and, two in one complex plane, those of the illumination.
  std::vector<at::Tensor> exchanged_, gradients_, illuminations_, probe_gradients_;
  Blocks losses_, squared_errors_;
  Halos halos_ = Halos::kFresh;
  std::int64_t expected_ = -1;  // the batch whose patterns the feed knows of
  Trace* trace_ = nullptr;
};

template <typename Use>
void Sweep::each_block(const std::vector<TileBatch>& batch, const Use& use) const {
  for (std::size_t k = 0; k < batch.size(); ++k) {
    for (const Part* part : {&batch[k].before, &batch[k].boundary, &batch[k].after}) {
      for (const Block& block : part->blocks) use(k, block);
    }
  }
}

}  // namespace ptyle::driver
