// The reconstruction on one rank: batches, gradients, updates.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "driver/config/config.h"
#include "driver/engine/batches.h"
#include "driver/engine/optimizer.h"
#include "driver/engine/state.h"
#include "driver/io/problem.h"

namespace ptyle::driver {

class Engine {
 public:
  Engine(const Config& config, const Problem& problem);

  // Vacuum and the scaled guess of the probe.
  State start() const;

  // Works until the iteration under way is complete or `stop` says so after a batch; both leave the
  // state ready for a checkpoint. True if the iteration is complete. `batch_done` is told how many
  // positions of the iteration are done. Throws RunError where the loss is not finite.
  bool iterate(State& state, const std::function<bool()>& stop,
               const std::function<void(std::int64_t)>& batch_done);

  std::int64_t positions() const { return positions_.size(0); }
  // What the data is, in one line: a checkpoint goes on with the same data alone.
  std::string fingerprint() const;

 private:
  // What of the measurement a batch needs, as the operators take it.
  struct Data {
    at::Tensor positions, patterns;
    std::optional<at::Tensor> mask;
  };
  Data data_of(std::int64_t batch) const;
  Evaluation evaluate(const State& state, const Data& data, double* squared_error) const;
  bool refines_probe(const State& state) const;
  // Keeps the probe's power at its start by one scalar, moved into the object: where both are
  // refined, only their product is measured.
  void fix_power(State& state);

  const Config& config_;
  const Problem& problem_;
  at::ScalarType type_;  // complex64 or complex128
  at::Tensor positions_;
  std::optional<at::Tensor> propagator_, detector_;
  Batches batches_;
  double unmasked_pixels_ = 0.0;  // of all patterns
  std::unique_ptr<Optimizer> optimizer_;
};

}  // namespace ptyle::driver
