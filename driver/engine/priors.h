// Learned priors between and within updates.
//
// A prior sees each slice of the object as an image of phase (and amplitude), on tiles that are
// extended by its receptive field with what the neighbours have now: the result is that of the
// whole object, and no tile has a seam. It works block by block, each on one thread, so that bits
// depend on the grid alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "driver/config/config.h"
#include "driver/engine/state.h"
#include "driver/engine/terms.h"
#include "driver/io/problem.h"
#include "driver/priors/prior.h"
#include "driver/tiles/decomposition.h"
#include "driver/tiles/ranks.h"
#include "ops/halo/exchange.h"

namespace ptyle::driver {

// The model of one [[prior]] table. ConfigError where it does not fit the table or the tiles.
std::unique_ptr<Prior> load_prior(const Config& config, std::size_t number,
                                  const Decomposition& cut, const at::Device& device);

// Of all pixels of the object, lit by the guess of the probe at all positions: sum of the
// illumination, of its square, and the largest. The same on every rank.
struct Lighting {
  double sum = 0.0, squares = 0.0, most = 0.0;
};
Lighting lighting(const Problem& problem, const Decomposition& cut, const Ranks& ranks);

// What counting leaves in a phase, radians: 1 / sqrt(N), N the counts that light a pixel of the
// object, sum(I^2) / sum(I) over its illumination I, so that no edge of the scan has to be drawn.
// Twice what the best of measurements could reach, and what reconstructions of few counts have.
// Several slices share N's information about their sum: that much for each of them over their root.
// The same on every rank.
double counting_noise(const Problem& problem, const Decomposition& cut, const Ranks& ranks);

// What a denoiser is told: its table's noise, or where that has none what the data hold, within
// what it was trained with (the middle of it for a probe).
double noise_of(const Config::Prior& settings, const PriorCard& card, double counting_noise);

// A sentence for every prior that the run ends before using.
std::vector<std::string> never_used(const Config& config);
// and for every one that is told of much more noise than the counts leave.
std::vector<std::string> too_much_noise(const Config& config, double counting_noise);

// "; prior[0].file of checksum 1234" and so on: what must be the same on all ranks and on a
// restart.
std::string checksums_of_priors(const Config& config);

class Priors final : public Term, public Step {
 public:
  // Loads them all. ConfigError where one does not fit its table. All must outlive it.
  Priors(const Config& config, const Problem& problem, const Decomposition& cut, const Ranks& ranks,
         const at::Device& device);
  ~Priors() override;

  bool any() const { return !list_.empty(); }
  double counting_noise() const { return counting_noise_; }  // 0 without priors
  // Runs each once on a made-up image of the size that it will see, so that a model which fails
  // does so before hours of work. ConfigError with its reason. probe: [modes, rows, columns].
  void try_out(at::IntArrayRef probe) const;
  // kind = "red" | "gradient": adds to the gradients of what each tile updates of the object.
  // Strengths are in units of what the data weighs at 5 % of the largest illumination.
  bool joins(const State& state, std::int64_t batches) const override;
  void add(const State& state, std::int64_t batches, Evaluation& at, Joined& joined) override;

  // kind = "plug-and-play": moves object and probe towards what the prior makes of them. In frames
  // what is not `updated` is stale afterwards as after any update.
  bool due(const State& state, std::int64_t batches) const override;
  void act(State& state, std::int64_t batches, Optimizer& optimizer) override;
  // Whether one does so after a later batch of this iteration.
  bool due_again(const State& state, std::int64_t batches) const;
  // Of those: whether all work on phases.
  bool phases_alone() const;

  // Since the start.
  double seconds() const { return seconds_; }
  std::int64_t messages() const;
  std::int64_t bytes() const;

 private:
  struct One;
  struct Task;
  // Whether one is used when `done` batches of an iteration are.
  bool uses(const One& one, std::int64_t iteration, std::int64_t done, std::int64_t batches,
            bool replaces) const;
  // Whether any that replaces, or joins gradients, is used now.
  bool any_uses(const State& state, std::int64_t batches, bool replaces) const;
  // x [slices x channels, rows, columns] float32 of every tile, extended.
  std::vector<at::Tensor> images(One& one, const State& state);
  std::vector<Task> tasks(const One& one) const;
  template <typename Work>
  void run(const std::vector<Task>& all, std::int64_t slices, const Work& work) const;
  void apply_to_object(One& one, State& state);
  void apply_to_probe(One& one, State& state) const;
  void add_gradient(One& one, const State& state, const std::vector<at::Tensor>& data,
                    const std::vector<at::Tensor>& gradients, double scale, bool first,
                    Joined& joined);
  // The largest of what lights the first slice in the batch, of all tiles.
  double most_illumination(const Slopes& object) const;

  const Config& config_;
  const Decomposition& cut_;
  const Ranks& ranks_;
  at::Device device_;
  std::optional<at::Tensor> probe_ramp_;  // that the state's probe carries; models see it without
  double counting_noise_ = 0.0;
  std::vector<std::int64_t> mine_;  // tiles of this rank
  std::vector<std::unique_ptr<One>> list_;
  int calls_ = 0;
  double seconds_ = 0.0;
};

}  // namespace ptyle::driver
