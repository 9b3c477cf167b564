#include "driver/engine/engine.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ops/abs.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>

#include "driver/engine/vectors.h"
#include "driver/errors.h"

namespace ptyle::driver {
namespace {

[[noreturn]] void diverged(const State& state, const std::string& what, double value,
                           bool with_priors) {
  throw Diverged("the run diverged: the " + what + " must stay finite, got " +
                 std::to_string(value) + " in iteration " + std::to_string(state.iteration + 1) +
                 ": the steps are too long (reconstruct.step, refine.NAME.step, momentum, "
                 "learning_rate" +
                 (with_priors ? "), or a prior pulls too hard (prior.strength)" : ")"));
}

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

BatchFacts batch_facts(const Batches& batches, const Problem& problem) {
  BatchFacts facts;
  for (std::int64_t batch = 0; batch < batches.count(); ++batch) {
    const at::Tensor& members = batches.members(batch);
    facts.positions.push_back(static_cast<double>(members.numel()));
    facts.counts.push_back(total(problem.counts_per_pattern.index_select(0, members)));
  }
  return facts;
}

}  // namespace

Needs needs_of(const Config& config) {
  const bool light = optimizer_kind(config.reconstruct.optimizer).illuminated;
  const bool joins = std::any_of(config.priors.begin(), config.priors.end(),
                                 [](const auto& one) { return one.kind != "plug-and-play"; });
  return {config.reconstruct.refines("object"), config.reconstruct.refines("probe"), light || joins,
          light};
}

Engine::Engine(const Config& config, const Problem& problem, const Decomposition& decomposition,
               const Ranks& ranks, const at::Device& device)
    : config_(config),
      problem_(problem),
      cut_(decomposition),
      ranks_(ranks),
      needs_(needs_of(config)),
      likelihood_(likelihood_named(config.reconstruct.likelihood).value()),
      kind_(optimizer_kind(config.reconstruct.optimizer)),
      workplace_(decomposition, ranks.rank(), &ranks),
      unknowns_(make_unknowns(config, problem, decomposition, workplace_,
                              at::TensorOptions().dtype(complex_type(config)).device(device))),
      batches_(problem.positions, config.reconstruct.batch_count(),
               static_cast<std::uint64_t>(config.reconstruct.seed), config.data.hold_out),
      sweep_(config, problem, decomposition, ranks, device, workplace_, batches_, needs_),
      priors_(config, problem, decomposition, ranks, device) {
  const double curvature = relative_curvature(likelihood_, std::max(1e-30, problem.largest_count));
  optimizer_ =
      make_optimizer(config.reconstruct, curvature, unknowns_, batch_facts(batches_, problem));
  priors_.try_out(problem.probe.sizes());
  if (priors_.any()) terms_.push_back(&priors_);
  // What the data weigh at 5 % of the largest illumination, by all positions at the start.
  const double unit = config.regularisers.empty()
                          ? 0.0
                          : 2 * kLeastIllumination * curvature *
                                lighting(problem, cut_, ranks).most *
                                power(start_probe(config, problem)) / power(problem.probe);
  for (const Config::Condition& one : config.regularisers) {
    regularisers_.push_back(make_regulariser(one, unknowns_, unit));
    terms_.push_back(regularisers_.back().get());
  }
  for (const Config::Condition& one : config.constraints) {
    steps_.push_back(make_constraint(one, unknowns_));
  }
  steps_.push_back(make_power_step(unknowns_, config.constraints));
}

std::string Engine::fingerprint() const {
  std::ostringstream out;
  const auto& shape = problem_.object_shape;
  out.precision(17);
  out << positions() << " positions; a window of " << problem_.window[0] << " x "
      << problem_.window[1] << "; an object of " << shape[0] << " x " << shape[1] << " x "
      << shape[2] << "; " << problem_.masked_pixels << " masked pixels; " << problem_.total_counts
      << " counts; counts per pattern of checksum " << checksum(problem_.counts_per_pattern);
  if (problem_.pattern_checksums.defined()) {
    out << "; patterns and masks of checksum " << checksum(problem_.pattern_checksums);
  }
  out << "; positions of checksum " << checksum(problem_.positions) << "; a probe of checksum "
      << checksum(problem_.probe) << checksums_of_priors(config_);
  return out.str();
}

State Engine::start() const {
  State state;
  for (const auto& unknown : unknowns_) {
    Values& values = state.unknowns[unknown->name()];
    values.parts = unknown->start();
    values.memory.resize(values.parts.size());
  }
  state.start_power = power(state.probe());
  return state;
}

void Engine::record(Trace* trace) {
  trace_ = trace;
  sweep_.record(trace);
}

void Engine::chain(const State& state, const KernelGradients& kernel, Evaluation& at) const {
  for (const auto& unknown : unknowns_) {
    if (unknown->refined(state.iteration)) at.of[unknown->name()] = unknown->slopes(kernel);
  }
}

// What this rank has done since it was made.
class Engine::Meter {
 public:
  explicit Meter(const Engine& engine) : engine_(engine), begin_(now()) {}
  void read(IterationWork& work) const {
    const Reading end = now();
    work.pack_seconds = end.traffic.pack_seconds - begin_.traffic.pack_seconds;
    work.wait_seconds = end.traffic.wait_seconds - begin_.traffic.wait_seconds;
    work.messages = end.traffic.messages - begin_.traffic.messages;
    work.bytes = end.traffic.bytes - begin_.traffic.bytes;
    work.prior_seconds = end.prior_seconds - begin_.prior_seconds;
    work.compute_seconds = seconds_since(begin_.at) - work.pack_seconds - work.wait_seconds;
  }

 private:
  struct Reading {
    std::chrono::steady_clock::time_point at;
    Traffic traffic;
    double prior_seconds;
  };
  Reading now() const {
    const Ranks& ranks = engine_.ranks_;
    const Priors& priors = engine_.priors_;
    Traffic traffic = engine_.sweep_.traffic();
    traffic.wait_seconds += ranks.wait_seconds();
    traffic.messages += priors.messages();
    traffic.bytes += ranks.bytes_sent() + priors.bytes();
    return {std::chrono::steady_clock::now(), traffic, priors.seconds()};
  }
  const Engine& engine_;
  Reading begin_;
};

Evaluation Engine::evaluate(const State& state, std::int64_t batch, const Stop& stop,
                            std::int64_t next) {
  Evaluation at;
  at.batch = batch;
  at.share = static_cast<double>(batches_.members(batch).numel()) /
             static_cast<double>(std::max<std::int64_t>(1, positions_in_batches()));
  Needs needs = needs_;
  needs.object = needs.probe = false;
  for (const auto& unknown : unknowns_) {
    if (!unknown->refined(state.iteration)) continue;
    needs.object = needs.object || unknown->needs().object;
    needs.probe = needs.probe || unknown->needs().probe;
  }
  chain(state, sweep_.gradients(state, batch, needs, next), at);
  std::optional<Joined> joined;
  for (Term* term : terms_) {
    if (!term->joins(state, batches_.count())) continue;
    const Trace::Box box(trace_, "terms");
    if (!joined) joined.emplace(workplace_.tiles.size());
    term->add(state, batches_.count(), at, *joined);
  }
  join(joined ? &*joined : nullptr, stop, at);
  return at;
}

std::vector<double> Engine::most_of(const Unknown& unknown, const Slopes& slopes) const {
  std::vector<double> most;
  for (std::size_t k = 0; k < slopes.illumination.size(); ++k) {
    const std::vector<double> here = largest_by_plane(unknown.counted(slopes.illumination[k], k));
    most.resize(here.size(), 0.0);
    for (std::size_t s = 0; s < here.size(); ++s) most[s] = std::max(most[s], here[s]);
  }
  return most;
}

void Engine::join(const Joined* joined, const Stop& stop, Evaluation& at) {
  const Trace::Box box(trace_, "sum the loss");
  const auto [losses, squared_errors] = sweep_.losses();
  const std::vector<Tile>& tiles = workplace_.tiles;
  // By row, a number for each of this rank's tiles.
  std::vector<std::vector<double>> rows{losses, squared_errors,
                                        std::vector<double>(tiles.size(), 0.0)};
  if (stop && stop()) rows[2].front() = 1.0;
  if (joined != nullptr) {
    for (std::size_t k = 0; k < tiles.size(); ++k) rows[0][k] += joined->energies[k];
    rows.push_back(joined->along);
    rows.push_back(joined->squares);
  }
  const std::size_t sums = rows.size();
  std::vector<double*> maxima;
  for (const auto& unknown : unknowns_) {
    const auto found = at.of.find(unknown->name());
    if (!unknown->tiled() || found == at.of.end()) continue;
    std::vector<double>& most = found->second.most;
    most = most_of(*unknown, found->second);
    for (double& one : most) {
      rows.emplace_back(tiles.size(), 0.0).front() = one;
      maxima.push_back(&one);
    }
  }
  const at::Tensor numbers =
      at::zeros({static_cast<std::int64_t>(rows.size()), workplace_.all_tiles}, at::kDouble);
  double* to = numbers.data_ptr<double>();
  for (std::size_t row = 0; row < rows.size(); ++row) {
    for (std::size_t k = 0; k < tiles.size(); ++k) {
      to[static_cast<std::int64_t>(row) * workplace_.all_tiles + tiles[k].number] = rows[row][k];
    }
  }
  ranks_.gather(numbers);
  at.loss = total(numbers[0]);
  at.squared_error = total(numbers[1]);
  stopped_ = stopped_ || total(numbers[2]) > 0;
  if (joined != nullptr) {
    const double square = total(numbers[4]);
    if (square > 0) work_.prior_descent = total(numbers[3]) / square;
  }
  for (std::size_t s = 0; s < maxima.size(); ++s) {
    const double* row = to + static_cast<std::int64_t>(sums + s) * workplace_.all_tiles;
    *maxima[s] = *std::max_element(row, row + workplace_.all_tiles);
  }
}

void Engine::update(State& state, const Evaluation& at, const Stop& stop) {
  if (!std::isfinite(at.loss) && !optimizer_->recovers()) {
    diverged(state, "loss", at.loss, priors_.any());
  }
  const Trace::Box box(trace_, "update");
  optimizer_->update(state, at, [&] {
    sweep_.changed();
    return evaluate(state, at.batch, stop, -1);
  });
}

void Engine::act(State& state, std::int64_t batch) {
  apply_priors(state, batch);
  for (const auto& step : steps_) {
    if (step->due(state, batches_.count())) step->act(state, batches_.count(), *optimizer_);
  }
}

// What priors do to the data error is measured once per iteration, where they are applied for the
// last time.
void Engine::apply_priors(State& state, std::int64_t batch) {
  if (!priors_.due(state, batches_.count())) return;
  const Trace::Box box(trace_, "priors");
  if (priors_.due_again(state, batches_.count())) {
    priors_.act(state, batches_.count(), *optimizer_);
    return;
  }
  // What the object explains is a matter of the run's own likelihood: at few counts vacuum's
  // amplitude error may be less than that of the truth.
  const auto errors = [&](const State& at) {
    const double amplitude = sweep_.error(at, batch, Likelihood::kAmplitude);
    const bool same = likelihood_ == Likelihood::kAmplitude;
    return std::pair(amplitude, same ? amplitude : sweep_.error(at, batch, likelihood_));
  };
  sweep_.refresh(state);
  const auto [before, own_before] = errors(state);
  // without what priors work on: the phase alone, or all of the object
  State without = state;
  for (at::Tensor& object : without.unknowns.at("object").parts) {
    object =
        priors_.phases_alone() ? at::abs(object).to(object.scalar_type()) : at::ones_like(object);
  }
  const double nothing = sweep_.error(without, batch, likelihood_);
  priors_.act(state, batches_.count(), *optimizer_);
  sweep_.refresh(state);
  const auto [after, own_after] = errors(state);
  work_.error_before_priors = before;
  work_.error_after_priors = after;
  if (nothing > own_before) work_.left_by_priors = (nothing - own_after) / (nothing - own_before);
}

std::vector<at::Tensor> Engine::owned_gradients(const State& state) {
  const c10::InferenceMode no_autograd;
  const Evaluation at = evaluate(state, 0, {}, -1);
  std::vector<at::Tensor> owned;
  for (const auto& unknown : unknowns_) {
    if (!unknown->tiled()) continue;
    const std::vector<at::Tensor>& gradients = at.of.at(unknown->name()).gradients;
    for (std::size_t k = 0; k < gradients.size(); ++k) {
      owned.push_back(unknown->counted(gradients[k], k).clone());
    }
  }
  return owned;
}

bool Engine::iterate(State& state, const Stop& stop,
                     const std::function<void(std::int64_t)>& batch_done) {
  const c10::InferenceMode no_autograd;
  const std::vector<std::int64_t> order =
      batches_.order(optimizer_->keeps_order() ? 0 : state.iteration);
  const auto batch_at = [&](std::int64_t b) { return order[static_cast<std::size_t>(b)]; };
  const Meter meter(*this);
  std::int64_t done = 0;
  for (std::int64_t b = 0; b < state.batch; ++b) done += batches_.members(batch_at(b)).size(0);
  work_ = {};
  if (state.batch == 0) {
    if (const double now = acting(state); std::exchange(state.numbers["acting"], now) != now) {
      optimizer_->changed(state);
    }
    if (optimizer_->begin_iteration(state)) sweep_.changed();
  }
  while (state.batch < batches_.count()) {
    const auto begin = std::chrono::steady_clock::now();
    const std::int64_t batch = batch_at(state.batch);
    const bool goes_on = state.batch + 1 < batches_.count() && !stopped_ && !kind_.one_batch;
    const Evaluation at = evaluate(state, batch, stop, goes_on ? batch_at(state.batch + 1) : -1);
    update(state, at, stop);
    if (needs_.object && sweep_.sums_later()) follow_others(state, at);
    if (std::isfinite(at.loss)) state.loss += at.loss;
    state.squared_error += at.squared_error;
    const bool sends = !cut_.exchange.copies_voxels || exchange_is_due(state);
    ++state.batch;
    done += batches_.members(batch).size(0);
    act(state, batch);
    if (state.batch == batches_.count()) optimizer_->end_iteration(state);
    if (needs_.object && sends) sweep_.send(state);  // halos travel while the next batch begins
    state.seconds += seconds_since(begin);
    batch_done(done);
    if (state.batch < batches_.count() && stopped_) break;
  }
  sweep_.stop_reading();
  sweep_.wait(state);  // whole frames are what a checkpoint holds
  check_finite(state);
  meter.read(work_);
  if (state.batch < batches_.count()) return false;
  close_iteration(state);
  return true;
}

double Engine::acting(const State& state) const {
  double code = 1, digit = 2;
  const auto add = [&](bool acts) {
    code += acts ? digit : 0;
    digit *= 2;
  };
  for (const auto& unknown : unknowns_) add(unknown->refined(state.iteration));
  for (const Config::Condition& one : config_.regularisers) add(one.due(state.iteration));
  for (const Config::Condition& one : config_.constraints) add(one.due(state.iteration - 1));
  return code;
}

void Engine::close_iteration(State& state) {
  if (batches_.held_out().numel() > 0) {
    work_.held_out_error = sweep_.error(state, batches_.count(), Likelihood::kAmplitude);
  }
  const double pixels = sweep_.unmasked_pixels();
  const double worked_on = static_cast<double>(positions_in_batches()) /
                           static_cast<double>(std::max<std::int64_t>(1, positions()));
  state.history.loss.push_back(state.loss);
  state.history.amplitude_error.push_back(pixels > 0 ? state.squared_error / (worked_on * pixels)
                                                     : 0.0);
  state.history.seconds.push_back(state.seconds);
  state.loss = state.squared_error = state.seconds = 0;
  state.batch = 0;
  ++state.iteration;
}

bool Engine::exchange_is_due(const State& state) const {
  return (state.batch + 1) % config_.tiles.exchange_every == 0 ||
         state.batch + 1 == batches_.count();
}

void Engine::follow_others(State& state, const Evaluation& at) {
  if (at.of.find("object") == at.of.end()) return;
  sweep_.keep_own(state);
  if (!exchange_is_due(state)) return;
  Evaluation others = at;
  others.of.clear();
  others.follows = true;
  KernelGradients found = sweep_.of_others(state);
  for (const auto& unknown : unknowns_) {
    if (!unknown->tiled()) continue;
    Slopes slopes = unknown->slopes(found);
    slopes.most = workplace_.maximum(most_of(*unknown, slopes));
    others.of[unknown->name()] = std::move(slopes);
  }
  optimizer_->update(state, others, {});
}

void Engine::check_finite(const State& state) const {
  for (const auto& unknown : unknowns_) {
    const double size = unknown->power(state.unknowns.at(unknown->name()));
    if (!std::isfinite(size)) {
      diverged(state, "sum of |" + unknown->name() + "|^2", size, priors_.any());
    }
  }
}

Residuals Engine::settle(State& state) {
  Residuals fit = residuals(state);
  if (state.history.loss.empty()) return fit;
  const double share = static_cast<double>(positions_in_batches()) /
                       static_cast<double>(std::max<std::int64_t>(1, positions()));
  const double most = kMuchMore * state.history.loss.back();
  if (fit.loss * share * sweep_.unmasked_pixels() <= most || !retreat(state)) return fit;
  return residuals(state);
}

bool Engine::retreat(State& state) {
  const c10::InferenceMode no_autograd;
  if (!optimizer_->retreat(state)) return false;
  sweep_.refresh(state);
  return true;
}

double Engine::highest_error(const State& state) const {
  // |psi - m|^2 summed over a pattern is at most (|psi| + |m|)^2.
  const double counts = problem_.mean_counts_per_pattern;
  const double most = std::sqrt(counts) + std::sqrt(std::max(counts, state.start_power));
  const double pixels = sweep_.unmasked_pixels();
  return pixels > 0 ? most * most * static_cast<double>(positions()) / pixels : 0.0;
}

}  // namespace ptyle::driver
