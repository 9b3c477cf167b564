// What acts besides the data: [[constraint]] and [[regulariser]] tables, and in which iterations
// unknowns are refined.
#include <string>

#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include "driver/engine/vectors.h"
#include "tests/cpp/small_problem.h"
#include "tests/cpp/tiled.h"

namespace ptyle::driver {
namespace {

using at::Tensor;
using namespace ptyle::driver::tests;

Config::Condition condition(const std::string& kind, double weight = 1.0) {
  Config::Condition one;
  one.kind = kind;
  one.weight = weight;
  return one;
}

TEST(Constraint, PurePhaseHoldsInTheResultOnAnyTilesAndRanks) {
  const Problem problem = make_problem(2, 16, 8, 1.5);
  for (const std::string optimizer : {"descent", "adam"}) {
    Config config = config_of(optimizer, "double");
    const Answer free = tiled(config, problem, 1, {Pair{1, 1}, std::nullopt, "direct", 0}, 3);
    EXPECT_GT((free.object.abs() - 1).abs().max().item<double>(), 1e-3);
    config.constraints = {condition("pure_phase")};
    const Answer whole = tiled(config, problem, 1, {Pair{1, 1}, std::nullopt, "direct", 0}, 3);
    EXPECT_LT((whole.object.abs() - 1).abs().max().item<double>(), 1e-12);
    EXPECT_LT(whole.loss.back(), whole.loss.front());
    for (const std::string exchange : {"direct", "passes"}) {
      const DecompositionOptions options{Pair{3, 2}, std::nullopt, exchange, 0};
      const Answer cut = tiled(config, problem, 1, options, 3);
      EXPECT_LT(difference(whole, cut, problem), 1e-9) << exchange;
      expect_same_bits(cut, tiled(config, problem, 3, options, 3, 2));
    }
  }
}

TEST(Constraint, GoesTheShareOfTheWayInItsIterations) {
  const Problem problem = make_problem(1, 16, 6);
  Config config = config_of("descent", "double");
  config.reconstruct.refine = {"object"};
  config.reconstruct.step = 1e-9;  // nothing else moves
  config.reconstruct.momentum = 0.0;
  config.constraints = {condition("pure_phase", 0.5)};
  config.constraints[0].start = 1;
  config.constraints[0].end = 5;
  config.constraints[0].every = 2;  // iterations 1 and 3
  Whole whole(config, problem);
  State state = whole.engine.start();
  state.object(0).mul_(3.0);
  std::vector<double> amplitude;
  for (int k = 0; k < 6; ++k) {
    whole.engine.iterate(state, kNeverStop, kIgnore);
    amplitude.push_back(state.object(0).abs().mean().item<double>());
  }
  const std::vector<double> expected{3.0, 2.0, 2.0, 1.5, 1.5, 1.5};
  for (size_t k = 0; k < 6; ++k) EXPECT_NEAR(amplitude[k], expected[k], 1e-4) << k;
}

TEST(Regulariser, TikhonovAddsItsGradientAndEnergy) {
  const Problem problem = make_problem(2, 16, 6, 1.5);
  Config config = config_of("descent", "double");
  config.reconstruct.batches = 1;
  Whole plain(config, problem);
  config.regularisers = {condition("tikhonov", 0.7)};
  Whole with(config, problem);
  State state = plain.engine.start();
  at::manual_seed(7);
  state.object(0).mul_(1 + 0.3 * at::randn_like(state.object(0)));
  const Tensor joined =
      with.engine.owned_gradients(state)[0] - plain.engine.owned_gradients(state)[0];
  const Tensor away = state.object(0) - 1;
  const double weight = real_inner_product(away, joined) / power(away);
  EXPECT_GT(weight, 0);
  EXPECT_LT((joined - weight * away).abs().max().item<double>(), 1e-9 * weight);
  // The loss is that of the same function: of one voxel more, by differences.
  State near = state;
  near.unknowns["object"].parts[0] = state.object(0).clone();
  near.object(0)[1][9][8] += 1e-4;
  const auto loss = [](Whole& of, State at) {
    for (auto& [name, values] : at.unknowns) {
      for (Tensor& part : values.parts) part = part.clone();
    }
    of.engine.iterate(at, kNeverStop, kIgnore);
    return at.history.loss.back();
  };
  const double added =
      loss(with, near) - loss(plain, near) - loss(with, state) + loss(plain, state);
  const double slope = weight * away[1][9][8].item<c10::complex<double>>().real();
  EXPECT_NEAR(added / 1e-4, slope, 1e-3 * std::abs(slope) + weight * 1e-4);
}

TEST(Regulariser, ReconstructionsOnTilesAreTheWholeOne) {
  const Problem problem = make_problem(2, 16, 8, 1.5);
  for (const std::string optimizer : {"descent", "adam", "lbfgs"}) {
    Config config = config_of(optimizer, "double");
    config.regularisers = {condition("tikhonov", 0.2)};
    const Answer whole = tiled(config, problem, 1, {Pair{1, 1}, std::nullopt, "direct", 0}, 3);
    const DecompositionOptions options{Pair{3, 2}, std::nullopt, "direct", 0};
    const Answer cut = tiled(config, problem, 1, options, 3);
    EXPECT_LT(difference(whole, cut, problem), 1e-8) << optimizer;
    expect_same_bits(cut, tiled(config, problem, 4, options, 3, 2));
    // Strong enough, and there is nothing but vacuum.
    config.regularisers[0].weight = 1e6;
    config.reconstruct.refine = {"object"};
    if (optimizer == "adam") continue;  // its first steps have the size of the learning rate
    const Answer vacuum = tiled(config, problem, 1, options, 10);
    EXPECT_LT((vacuum.object - 1).abs().max().item<double>(), 1e-3) << optimizer;
  }
}

// The weight is that of all positions: in how many batches they come is of no account.
TEST(Regulariser, HasTheSameWeightInAnyBatchesAndLikelihood) {
  const Problem problem = make_problem(1, 16, 6, 1.5);
  const auto weight = [&](const std::string& likelihood, int64_t batches) {
    Config config = config_of("descent", "double");
    config.reconstruct.likelihood = likelihood;
    config.reconstruct.batches = batches;
    Whole plain(config, problem);
    config.regularisers = {condition("tikhonov", 0.3)};
    Whole with(config, problem);
    State state = plain.engine.start();
    state.object(0).mul_(2.0);
    return (with.engine.owned_gradients(state)[0] - plain.engine.owned_gradients(state)[0])
        .abs()
        .max()
        .item<double>();
  };
  const double all = weight("amplitude", 1);
  EXPECT_NEAR(weight("amplitude", 4) / all, 0.25, 1e-6);
  EXPECT_NEAR(weight("poisson", 1) / all, 2.0, 1e-6);
  EXPECT_NEAR(weight("gaussian", 1) / all, 4 * problem.largest_count, 1e-5 * problem.largest_count);
}

// Losses with and without a term are no measure of one another.
TEST(Regulariser, InEveryOtherIterationIsNoReasonToTakeStepsBack) {
  const Problem problem = make_problem(1, 16, 6, 1.5);
  Config config = config_of("descent");
  config.regularisers = {condition("tikhonov", 5.0)};
  config.regularisers[0].every = 2;
  config.constraints = {condition("pure_phase")};
  config.constraints[0].every = 3;
  const State state = reconstruct(config, problem, 40);
  EXPECT_EQ(state.number("taken_back"), 0);
  EXPECT_LT(state.history.amplitude_error.back(), state.history.amplitude_error.front());
}

TEST(Refine, AnIterationAtRestKeepsWhatIsKnownOfTheLight) {
  const Problem problem = make_problem(2, 16, 6, 1.5);
  Config config = config_of("descent");
  config.refine["object"].start = 3;
  config.refine["object"].every = 2;
  Whole whole(config, problem);
  State state = whole.engine.start();
  for (int k = 0; k < 3; ++k) whole.engine.iterate(state, kNeverStop, kIgnore);
  EXPECT_EQ(state.number("step"), config.reconstruct.step) << "nothing tells that it was too long";
  whole.engine.iterate(state, kNeverStop, kIgnore);
  const std::vector<double> known = state.lists.at("most_illumination");
  EXPECT_GT(known.at(0), 0.0);
  whole.engine.iterate(state, kNeverStop, kIgnore);
  EXPECT_EQ(state.lists.at("most_illumination"), known);
}

TEST(Refine, HappensInTheIterationsOfItsTable) {
  const Problem problem = make_problem(1, 16, 6, 1.5);
  for (const std::string optimizer : {"descent", "adam", "lbfgs"}) {
    Config config = config_of(optimizer);
    config.refine["probe"].start = 1;
    config.refine["probe"].end = 6;
    config.refine["probe"].every = 2;  // iterations 1, 3, 5
    config.refine["object"].start = 2;
    Whole whole(config, problem);
    State state = whole.engine.start();
    for (int k = 0; k < 8; ++k) {
      const Tensor probe = state.probe().clone(), object = state.object(0).clone();
      whole.engine.iterate(state, kNeverStop, kIgnore);
      EXPECT_EQ(!at::equal(probe, state.probe()), k == 1 || k == 3 || k == 5) << optimizer << k;
      EXPECT_EQ(!at::equal(object, state.object(0)), k >= 2) << optimizer << k;
    }
    EXPECT_LT(state.history.loss.back(), state.history.loss.front());
  }
}

}  // namespace
}  // namespace ptyle::driver
