// The reconstruction: batches, gradients, exchanges, updates.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ptyle/ops.h>

#include "csrc/likelihood.h"
#include "driver/config/config.h"
#include "driver/engine/batches.h"
#include "driver/engine/feed.h"
#include "driver/engine/optimizer.h"
#include "driver/engine/priors.h"
#include "driver/engine/state.h"
#include "driver/io/problem.h"
#include "driver/tiles/decomposition.h"
#include "driver/tiles/exchange.h"
#include "driver/tiles/ranks.h"
#include "driver/trace.h"

namespace ptyle::driver {

// Of this rank, in the iteration that ended last.
struct IterationWork {
  double compute_seconds = 0.0, pack_seconds = 0.0, wait_seconds = 0.0;
  double prior_seconds = 0.0;  // of the first of these
  std::int64_t messages = 0, bytes = 0;
  // Of all ranks: the amplitude error of the last batch before and after priors replaced the
  // object; absent where none did.
  std::optional<double> error_before_priors, error_after_priors, left_by_priors, prior_descent;
  // The amplitude error of the positions in no batch, after the last update.
  std::optional<double> held_out_error;
};

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

// The guess of the probe, scaled, on the CPU in the precision of the run. ConfigError and DataError
// where there is none.
at::Tensor start_probe(const Config& config, const Problem& problem);

class Engine {
 public:
  // All of them must outlive the engine. `problem` holds the patterns of this rank's tiles.
  Engine(const Config& config, const Problem& problem, const Decomposition& decomposition,
         const Ranks& ranks, const at::Device& device = at::kCPU);
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Vacuum and the scaled guess of the probe, on the device.
  State start() const;

  // Works until the iteration under way is complete or some rank's `stop` said so during a batch;
  // both leave the state ready for a checkpoint. True if the iteration is complete. `batch_done` is
  // told how many positions of the iteration are done. Throws RunError where the loss is not
  // finite.
  bool iterate(State& state, const std::function<bool()>& stop,
               const std::function<void(std::int64_t)>& batch_done);
  // Some rank was asked to stop; all ranks know it after the same batch.
  bool stopped() const { return stopped_; }
  // What the counts leave in a phase, for priors; 0 without any.
  double counting_noise() const { return priors_.counting_noise(); }

  std::int64_t positions() const { return problem_.positions.size(0); }
  // Those that an iteration works on.
  std::int64_t positions_in_batches() const { return positions() - batches_.held_out().numel(); }
  // The object's gradient at `state`, of the first batch, in every tile's owned pixels: complete,
  // exchanged.
  std::vector<at::Tensor> owned_gradients(const State& state);
  // One more pass over all positions, without gradients. Refreshes halos: after a checkpoint.
  Residuals residuals(const State& state);
  // Takes the last iteration's steps back, where the optimiser remembers what was before them.
  bool retreat(State& state);
  // The same, after the last iteration: where its last updates, which no batch has seen, raised the
  // loss by more than half, they are taken back before.
  Residuals settle(State& state);
  // The mean over unmasked pixels that no object without gain can exceed.
  double highest_error(const State& state) const;
  // From now on steps are recorded there.
  void record(Trace* trace) { trace_ = trace; }
  const IterationWork& work() const { return work_; }
  // What the data is, in one line: a checkpoint goes on with the same data alone.
  std::string fingerprint() const;

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

  void plan();
  // An object whose windows the operators take: a tile's own, or, where the probe stands still,
  // patches of it that are moved by the positions' fractions and put one below another.
  struct Windows {
    at::Tensor object;     // [slices, rows, columns]
    at::Tensor positions;  // [n, 2] float64
    std::array<std::int64_t, 2> origin;
  };
  Windows windows(const at::Tensor& object, const Tile& tile, const at::Tensor& positions) const;
  // diffraction_loss_accumulate_ of a block, whatever is moved by the positions' fractions.
  void accumulate(const at::Tensor& object, const at::Tensor& probe, const Tile& tile,
                  const Block& block, const at::Tensor& patterns, const GradientBuffers& buffers,
                  const at::Tensor& losses, LossOptions options) const;
  // The model's of some positions of a tile, [k, h, w] real.
  at::Tensor intensities(const at::Tensor& object, const at::Tensor& probe, const Tile& tile,
                         const at::Tensor& positions) const;
  // Loss and gradients of some positions of a tile, added to what is there.
  void add(const State& state, std::size_t tile, const Block& block, bool with_probe, bool counts);
  // The same for a part of all tiles of this rank.
  void add_all(const State& state, std::int64_t batch, Part TileBatch::*part, bool with_probe,
               bool counts = true);
  Evaluation evaluate(const State& state, std::int64_t batch, const std::function<bool()>& stop,
                      std::int64_t next_batch);
  // Into what is exchanged, and out of it.
  void pack_illuminations();
  void unpack_illuminations();
  void expect(std::int64_t batch);
  std::vector<std::vector<double>> sums_by_tile(
      const std::vector<const std::vector<std::vector<at::Tensor>>*>& lists) const;
  std::vector<at::Tensor> objects(const State& state) const;
  double sum_over_tiles(const std::vector<double>& values) const;
  // Halos are what their owners have.
  void refresh_halos(const State& state);
  void apply_priors(State& state, std::int64_t batch);
  // The batch's positions; behind the batches, those held out.
  const at::Tensor& members(std::int64_t batch) const {
    return batch < batches_.count() ? batches_.members(batch) : batches_.held_out();
  }
  // A likelihood's loss of a batch's positions, per unmasked pixel.
  double error(const State& state, std::int64_t batch, const std::string& likelihood);
  bool refines_probe(const State& state) const;
  void check_finite(const State& state) const;
  // Keeps the probe's power at its start by one scalar, moved into the object: where both are
  // refined, only their product is measured.
  void fix_power(State& state);
  // Between exchanges of `passes` a tile follows its own gradient; these carry what others found
  // into it, which no update has used yet.
  bool exchanges_rarely() const;
  bool exchange_is_due(const State& state) const;
  void follow_others(State& state, const Evaluation& at);

  const Config& config_;
  const Problem& problem_;
  const Decomposition& cut_;
  const Ranks& ranks_;
  at::Device device_;
  at::ScalarType type_;  // complex64 or complex128
  Likelihood likelihood_;
  Feed feed_;
  std::optional<at::Tensor> propagator_, detector_;
  Batches batches_;
  std::vector<Tile> tiles_;  // this rank's
  // By batch, then by tile; behind the batches, what is held out of them.
  std::vector<std::vector<TileBatch>> plan_;
  double unmasked_pixels_ = 0.0;  // of all patterns
  Workplace workplace_;
  std::unique_ptr<Exchange> exchange_;
  std::unique_ptr<Optimizer> optimizer_;
  Priors priors_;
  bool preconditioned_;  // the optimiser divides by the illumination
  bool illuminated_;     // it, or a prior, asks for the object's

  // By tile; the memory is used again in every batch. An exchange sends what belongs to an object's
  // pixel: the gradient's planes and, two in one complex plane, those of the illumination.
  std::vector<at::Tensor> exchanged_, gradients_, illuminations_, probe_gradients_;
  // By tile, of each block that was added: [k] float64 on the device.
  std::vector<std::vector<at::Tensor>> losses_, squared_errors_;
  Halos halos_ = Halos::kFresh;
  std::int64_t expected_ = -1;  // the batch whose patterns the feed knows of
  bool stopped_ = false;
  IterationWork work_;
  Trace* trace_ = nullptr;
};

}  // namespace ptyle::driver
