// The reconstruction: batches, gradients, exchanges, updates, as the paper's algorithm has them.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "driver/config/config.h"
#include "driver/engine/batches.h"
#include "driver/engine/optimizer.h"
#include "driver/engine/priors.h"
#include "driver/engine/state.h"
#include "driver/engine/sweep.h"
#include "driver/engine/terms.h"
#include "driver/engine/unknown.h"
#include "driver/io/problem.h"
#include "driver/tiles/decomposition.h"
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

// What a run of this config asks of the kernels at most.
Needs needs_of(const Config& config);

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

  const Unknowns& unknowns() const { return unknowns_; }
  std::int64_t positions() const { return problem_.positions.size(0); }
  // Those that an iteration works on.
  std::int64_t positions_in_batches() const { return positions() - batches_.held_out().numel(); }
  // The object's gradient at `state`, of the first batch, in every tile's owned pixels: complete,
  // exchanged.
  std::vector<at::Tensor> owned_gradients(const State& state);
  // One more pass over all positions, without gradients. Refreshes halos: after a checkpoint.
  Residuals residuals(const State& state) { return sweep_.residuals(state); }
  // Takes the last iteration's steps back, where the optimiser remembers what was before them.
  bool retreat(State& state);
  // The same, after the last iteration: where its last updates, which no batch has seen, raised the
  // loss by more than half, they are taken back before.
  Residuals settle(State& state);
  // The mean over unmasked pixels that no object without gain can exceed.
  double highest_error(const State& state) const;
  // From now on steps are recorded there.
  void record(Trace* trace);
  const IterationWork& work() const { return work_; }
  // What the data is, in one line: a checkpoint goes on with the same data alone.
  std::string fingerprint() const;

 private:
  using Stop = std::function<bool()>;
  class Meter;

  Evaluation evaluate(const State& state, std::int64_t batch, const Stop& stop, std::int64_t next);
  // The slopes of what is refined in this iteration.
  void chain(const State& state, const KernelGradients& kernel, Evaluation& at) const;
  // The largest illumination by plane of what is this rank's.
  std::vector<double> most_of(const Unknown& unknown, const Slopes& slopes) const;
  // Loss, squared error, whether a rank was asked to stop, what terms added, and the largest
  // illuminations: of all tiles, in one message.
  void join(const Joined* joined, const Stop& stop, Evaluation& at);
  void update(State& state, const Evaluation& at, const Stop& stop);
  // Steps that are due, between an update and the halos that it sends.
  void act(State& state, std::int64_t batch);
  void apply_priors(State& state, std::int64_t batch);
  // `passes`: after every so many batches, and after the last of an iteration.
  bool exchange_is_due(const State& state) const;
  void follow_others(State& state, const Evaluation& at);
  // A loss is known only before an update; nothing that is not finite may become a checkpoint.
  void check_finite(const State& state) const;
  void close_iteration(State& state);
  // Which unknowns, regularisers and constraints shape an iteration's loss, as a number.
  double acting(const State& state) const;

  const Config& config_;
  const Problem& problem_;
  const Decomposition& cut_;
  const Ranks& ranks_;
  Needs needs_;
  Likelihood likelihood_;
  const OptimizerKind& kind_;
  Workplace workplace_;
  Unknowns unknowns_;
  Batches batches_;
  Sweep sweep_;
  Priors priors_;
  std::vector<std::unique_ptr<Term>> regularisers_;
  std::vector<Term*> terms_;
  std::vector<std::unique_ptr<Step>> steps_;
  std::unique_ptr<Optimizer> optimizer_;
  bool stopped_ = false;
  IterationWork work_;
  Trace* trace_ = nullptr;
};

}  // namespace ptyle::driver
