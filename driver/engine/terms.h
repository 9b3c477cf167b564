// What acts on the unknowns besides the data. A Term adds to loss and gradients of a batch: RED and
// gradient priors, regularisers. A Step acts between two updates: the probe's power, plug-and-play
// priors, constraints. Each works on what a tile updates, so that with exact halos any tiling gives
// the same result to rounding, and any ranks the same bits.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "driver/config/config.h"
#include "driver/engine/optimizer.h"
#include "driver/engine/state.h"
#include "driver/engine/unknown.h"

namespace ptyle::driver {

// What a term added, by tile.
struct Joined {
  explicit Joined(std::size_t tiles = 0) : energies(tiles), along(tiles), squares(tiles) {}
  std::vector<double> energies;  // to the loss
  // Of the pixels that the tile owns: Re <data's gradient, what joined it>, |data's gradient|^2.
  std::vector<double> along, squares;
};

class Term {
 public:
  virtual ~Term() = default;
  // Whether it joins the batch that comes next, of so many in an iteration.
  virtual bool joins(const State& state, std::int64_t batches) const = 0;
  // Adds to the gradients in `at`, and to what it tells of itself.
  virtual void add(const State& state, std::int64_t batches, Evaluation& at, Joined& joined) = 0;
};

class Step {
 public:
  virtual ~Step() = default;
  // Whether it acts now, state.batch of so many batches done.
  virtual bool due(const State& state, std::int64_t batches) const = 0;
  virtual void act(State& state, std::int64_t batches, Optimizer& optimizer) = 0;
};

// Of [[constraint]] and [[regulariser]] tables. unit: a weight of 1, for all positions. A new kind
// is a file, a line in terms.cpp's table and its name in config/modes.h.
std::unique_ptr<Step> make_constraint(const Config::Condition& settings, const Unknowns& unknowns);
std::unique_ptr<Term> make_regulariser(const Config::Condition& settings, const Unknowns& unknowns,
                                       double unit);
std::unique_ptr<Step> make_pure_phase(const Config::Condition& settings, const Unknowns& unknowns);
std::unique_ptr<Term> make_tikhonov(const Config::Condition& settings, const Unknowns& unknowns,
                                    double unit);

// Keeps the probe's power at its start by one scalar at the end of an iteration, moved into the
// object: where both are refined, only their product is measured, unless a constraint says what
// the object's amplitudes are.
std::unique_ptr<Step> make_power_step(const Unknowns& unknowns,
                                      const std::vector<Config::Condition>& constraints);

}  // namespace ptyle::driver
