// The engine on small problems made here: order of positions, arithmetic, optimisers, checkpoints.
#include <filesystem>
#include <fstream>
#include <limits>
#include <numeric>
#include <set>
#include <unistd.h>

#include <gtest/gtest.h>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <ptyle/ops.h>

#include "driver/engine/batches.h"
#include "driver/engine/checkpoint.h"
#include "driver/engine/engine.h"
#include "driver/engine/vectors.h"
#include "driver/errors.h"
#include "tests/cpp/small_problem.h"

namespace ptyle::driver {
namespace {

using at::Tensor;
using namespace ptyle::driver::tests;

// ---- batches ----

TEST(Batches, HoldEveryPositionOnceAndInAnyNumber) {
  for (const int64_t n : {0, 1, 2, 7, 36}) {
    const Tensor positions = at::rand({n, 2}, at::kDouble) * 50;
    for (const int64_t count : {1, 2, 5, 40}) {
      const Batches batches(positions, count, 11);
      EXPECT_EQ(batches.count(), std::max<int64_t>(1, std::min(count, n)));
      std::multiset<int64_t> seen;
      for (int64_t b = 0; b < batches.count(); ++b) {
        const Tensor& members = batches.members(b);
        for (int64_t i = 0; i < members.size(0); ++i) {
          seen.insert(members.const_data_ptr<int64_t>()[i]);
        }
      }
      ASSERT_EQ(static_cast<int64_t>(seen.size()), n);
      int64_t expected = 0;
      for (const int64_t member : seen) EXPECT_EQ(member, expected++);
    }
  }
}

TEST(Batches, AreTakenInAnOrderOfSeedAndIterationAlone) {
  const Tensor positions = at::rand({64, 2}, at::kDouble);
  const Batches a(positions, 8, 1), b(positions, 8, 1), c(positions, 8, 2);
  EXPECT_EQ(a.order(5), b.order(5));
  EXPECT_NE(a.order(5), a.order(6));
  EXPECT_NE(a.order(5), c.order(5));
  std::vector<int64_t> order = a.order(0);
  std::sort(order.begin(), order.end());
  for (int64_t k = 0; k < 8; ++k) EXPECT_EQ(order[size_t(k)], k);
}

TEST(HilbertOrder, GoesFromNeighbourToNeighbourOnARaster) {
  const Tensor line = at::arange(16, at::kDouble);
  const Tensor positions = at::stack({line.repeat_interleave(16), line.repeat({16})}, 1);
  const std::vector<int64_t> order = hilbert_order(positions);
  for (size_t k = 1; k < order.size(); ++k) {
    const double step = (positions[order[k]] - positions[order[k - 1]]).abs().sum().item<double>();
    EXPECT_LE(step, 2.0) << "from " << order[k - 1] << " to " << order[k];
  }
}

// ---- arithmetic ----

TEST(Vectors, GiveTheSameBitsForAnyNumberOfThreads) {
  const int threads = at::get_num_threads();
  std::vector<double> sums;
  std::vector<Tensor> moved;
  for (const int count : {1, 2, 3}) {
    at::set_num_threads(count);
    at::manual_seed(1);
    const Tensor a = at::randn({3, 211, 97}, at::kComplexFloat);
    const Tensor b = at::randn({3, 211, 97}, at::kComplexFloat);
    Tensor x = a.clone();
    const Tensor lit = at::rand({3, 211, 97}, at::kFloat), before = at::rand_like(lit);
    illuminated_step(x, b, lit, before, largest_by_plane(lit), at::zeros_like(lit),
                     {0.5, 0.1, 0.1, 0.3});
    sums.push_back(real_inner_product(a, b));
    sums.back() += overshoot(a, x, b);
    moved.push_back(x);
  }
  at::set_num_threads(threads);
  for (size_t k = 1; k < sums.size(); ++k) {
    EXPECT_EQ(sums[0], sums[k]);
    EXPECT_TRUE(at::equal(moved[0], moved[k]));
  }
}

TEST(Vectors, AreTheFormulae) {
  const Tensor a = at::randn({2, 5, 7}, at::kComplexDouble), b = at::randn_like(a);
  EXPECT_NEAR(real_inner_product(a, b), at::real(a.conj() * b).sum().item<double>(), 1e-12);
  const Tensor lit = at::rand({2, 9, 8}, at::kDouble).narrow(1, 2, 5).narrow(2, 1, 7);
  const Tensor most = lit.amax({1, 2}, true);
  const std::vector<double> floors{most[0].item<double>(), most[1].item<double>()};
  EXPECT_EQ(largest_by_plane(lit), floors);
  EXPECT_TRUE(at::allclose(preconditioner(lit, floors, 0.7), 0.7 / (2 * (lit + 0.05 * most))));
  EXPECT_TRUE(at::allclose(preconditioner(lit[0], {floors[0]}, 0.7),
                           0.7 / (2 * (lit[0] + 0.05 * most[0][0]))));
  EXPECT_EQ(preconditioner(at::zeros({2, 2}, at::kDouble), {0.0}, 1.0).sum().item<double>(), 0.0);
  const Tensor last = at::randn_like(a);
  EXPECT_NEAR(overshoot(b, a, last), at::real((b - a).conj() * (a - last)).sum().item<double>(),
              1e-12);
  Tensor y = a.clone(), begin = at::zeros_like(a);
  extrapolate(y, begin, last, 0.7);
  EXPECT_TRUE(at::allclose(y, a + 0.7 * (a - last)));
  EXPECT_TRUE(at::equal(begin, a));
  // |O|^2 in every window, vacuum outside.
  const Tensor positions =
      at::tensor({-1.0, 0.0, 2.5, 4.0, 90.0, 0.0}, at::kDouble).reshape({3, 2});
  const Tensor sums = windowed_power(a[0], positions, 3, 4, {0, 0});
  EXPECT_TRUE(at::equal(sums, windowed_power(a[0], positions + 7, 3, 4, {7, 7})));
  const Tensor padded = at::constant_pad_nd(a[0].abs().square(), {0, 9, 1, 9}, 1.0);
  const Tensor expected = padded.slice(0, 0, 3).slice(1, 0, 4) +
                          padded.slice(0, 3, 6).slice(1, 4, 8) + at::ones({3, 4}, at::kDouble);
  EXPECT_TRUE(at::allclose(sums, expected));
}

// The formula of csrc/updates.h, with what is known before and without, in a part of an image.
TEST(Vectors, AStepFollowsTheIllumination) {
  for (const bool known : {true, false}) {
    Tensor x = at::randn({2, 9, 8}, at::kComplexDouble).narrow(1, 2, 5).narrow(2, 1, 7);
    Tensor g = at::randn_like(x);
    const Tensor start = x.clone(), lit = at::rand({2, 5, 7}, at::kDouble);
    const Tensor before = at::rand_like(lit), sum = at::rand_like(lit), sum_before = sum.clone();
    const std::vector<double> floors{0.3, 0.2};
    const StepOptions options{0.5, 0.25, 0.1, 0.4};
    g[0][0][0].fill_(std::numeric_limits<double>::quiet_NaN());
    illuminated_step(x, g, lit, known ? before : Tensor(), floors, sum, options);
    EXPECT_TRUE(at::allclose(sum, sum_before + lit));
    const Tensor floor = at::tensor(floors, at::kDouble).reshape({2, 1, 1});
    Tensor d = -0.5 * g / (lit + 0.25 * (known ? before : sum) + floor);
    const Tensor u = start / start.abs();
    d = d - 0.9 * at::real(u.conj() * d) * u;
    EXPECT_GT(d.abs().nan_to_num().max().item<double>(), 0.4);
    d = d * at::clamp_max(0.4 / d.abs(), 1.0);
    d[0][0][0].zero_();  // a gradient that is not finite moves nothing
    EXPECT_TRUE(at::allclose(x, start + d, 1e-12, 1e-14));
    illuminated_step(x, g, lit, before, {0.0, 0.0}, sum, options);  // no light anywhere
    EXPECT_TRUE(at::allclose(x, start + d, 1e-12, 1e-14));
  }
}

TEST(Batches, WhatIsHeldOutIsSpreadAndInNone) {
  const Tensor positions = at::rand({203, 2}, at::kDouble);
  for (const double share : {0.001, 0.02, 0.1, 0.5}) {
    const Batches some(positions, 8, 3, share), others(positions, 8, 4, share);
    const Tensor held = some.held_out();
    EXPECT_NEAR(double(held.numel()), std::max(1.0, 203 * share), 1.0) << share;
    std::set<int64_t> seen;
    for (int64_t batch = 0; batch < 8; ++batch) {
      const Tensor& members = some.members(batch);
      for (int64_t i = 0; i < members.numel(); ++i) {
        seen.insert(members.const_data_ptr<int64_t>()[i]);
      }
    }
    EXPECT_EQ(int64_t(seen.size()) + held.numel(), 203);
    for (int64_t i = 0; i < held.numel(); ++i) {
      EXPECT_EQ(seen.count(held.const_data_ptr<int64_t>()[i]), 0U);
    }
    EXPECT_TRUE(share < 0.1 || !at::equal(held, others.held_out()));
  }
  EXPECT_EQ(Batches(positions, 8, 3).held_out().numel(), 0);
  EXPECT_EQ(Batches(positions.narrow(0, 0, 1), 8, 3, 0.5).held_out().numel(), 0);
  EXPECT_EQ(Batches(positions.narrow(0, 0, 2), 8, 3, 0.01).held_out().numel(), 1);
}

// What is held out has no say, and its error is the result's own of those positions.
TEST(Reconstruction, WhatIsHeldOutJudgesAndDoesNotTeach) {
  const Problem problem = make_problem(2);
  Config config;
  config.data.hold_out = 0.1;
  const Batches batches(problem.positions, 8, 0, 0.1);
  Problem spoilt = problem;
  spoilt.patterns = problem.patterns.clone();
  spoilt.patterns.index_fill_(0, batches.held_out(), 3.0);
  spoilt.source = std::make_shared<MemoryPatterns>(spoilt.patterns);
  config.reconstruct.batches = 8;
  Whole whole(config, problem), other(config, spoilt);
  State state = whole.engine.start(), same = other.engine.start();
  double before = 0.0;
  for (int k = 0; k < 6; ++k) {
    whole.engine.iterate(state, kNeverStop, kIgnore);
    other.engine.iterate(same, kNeverStop, kIgnore);
    if (k == 0) before = whole.engine.work().held_out_error.value();
  }
  EXPECT_TRUE(at::equal(state.object(0), same.object(0)));
  EXPECT_EQ(state.history.amplitude_error, same.history.amplitude_error);
  const double after = whole.engine.work().held_out_error.value();
  EXPECT_LT(after, 0.5 * before);
  EXPECT_GT(other.engine.work().held_out_error.value(), after);
  const Residuals fit = whole.engine.residuals(state);
  const double own = fit.error.index_select(0, batches.held_out()).sum().item<double>();
  EXPECT_NEAR(after, own / (double(batches.held_out().numel()) * 32 * 32), 1e-4 * after);
}

TEST(Batches, TheirNumberFollowsTheOverlap) {
  const auto raster = [](int64_t side, double step) {
    const Tensor line = at::arange(side, at::kDouble) * step;
    return at::stack({line.repeat_interleave(side), line.repeat({side})}, 1);
  };
  Tensor probe = at::zeros({1, 64, 64}, at::kComplexDouble);
  probe.narrow(1, 24, 16).narrow(2, 24, 16).fill_(1.0);    // 256 pixels
  EXPECT_EQ(good_batch_count(raster(100, 4), probe), 61);  // 4 x 15.2 windows
  EXPECT_EQ(good_batch_count(raster(100, 16), probe), 16);
  EXPECT_EQ(good_batch_count(raster(6, 4), probe), 9);
  EXPECT_EQ(good_batch_count(raster(6, 4), probe, 24), 1);
  EXPECT_EQ(good_batch_count(raster(1, 4), probe), 1);
  EXPECT_EQ(good_batch_count(raster(0, 4), probe), 1);
  EXPECT_EQ(good_batch_count(raster(20, 0), probe), 100);
  EXPECT_EQ(good_batch_count(raster(20, 4), at::zeros_like(probe)), 1);
}

TEST(Adam, TurnsItsStepWithThePhaseOfTheUnknown) {
  const Tensor a = at::randn({1, 4, 4}, at::kComplexDouble), g = at::randn_like(a);
  const Tensor turn = at::polar(at::ones({1}, at::kDouble), at::full({1}, 1.1, at::kDouble));
  Tensor x = a.clone(), y = turn * a;
  Tensor m1 = at::zeros_like(a), m2 = at::zeros_like(a);
  Tensor v1 = at::zeros({1, 4, 4}, at::kDouble), v2 = v1.clone();
  for (int64_t t = 1; t < 4; ++t) {
    adam(x, m1, v1, g, 0.1, t);
    adam(y, m2, v2, turn * g, 0.1, t);
  }
  EXPECT_TRUE(at::allclose(turn * x, y));
  EXPECT_FALSE(at::allclose(x, a));
}

// ---- reconstructions ----

TEST(Reconstruction, DefaultStepNeverDivergesForAnyNumberOfSlices) {
  for (const int64_t slices : {1, 2, 4, 8, 20}) {
    const Problem problem = make_problem(slices);
    Config config;
    const State state = reconstruct(config, problem, 12);
    const std::vector<double>& loss = state.history.loss;
    EXPECT_LT(loss.back(), 0.1 * loss.front()) << slices << " slices";
    for (size_t k = 1; k < loss.size(); ++k) {
      EXPECT_LT(loss[k], 1.2 * loss[k - 1]) << slices << " slices, iteration " << k + 1;
    }
  }
}

TEST(Reconstruction, EveryOptimizerAndLikelihoodLowersTheLoss) {
  const Problem problem = make_problem(2);
  for (const std::string optimizer : {"descent", "adam", "lbfgs"}) {
    for (const std::string likelihood : {"amplitude", "poisson", "gaussian"}) {
      Config config;
      config.reconstruct.optimizer = optimizer;
      config.reconstruct.likelihood = likelihood;
      config.reconstruct.precision = "double";
      if (optimizer == "lbfgs") config.reconstruct.batches = 1;
      SCOPED_TRACE(optimizer + ", " + likelihood);
      const State state = reconstruct(config, problem, 15);
      EXPECT_LT(state.history.loss.back(), 0.6 * state.history.loss.front())
          << state.history.loss.front();
      EXPECT_LT(state.history.amplitude_error.back(), 0.8 * state.history.amplitude_error.front());
    }
  }
}

TEST(Reconstruction, LbfgsNeverRaisesTheLoss) {
  const Problem problem = make_problem(1);
  Config config;
  config.reconstruct.precision = "double";
  config.reconstruct.batches = 1;
  config.reconstruct.refine = {"object"};
  config.reconstruct.optimizer = "lbfgs";
  const std::vector<double> loss = reconstruct(config, problem, 25).history.loss;
  for (size_t k = 1; k < loss.size(); ++k) EXPECT_LE(loss[k], loss[k - 1]);
  EXPECT_LT(loss.back(), 0.02 * loss.front());
}

TEST(Reconstruction, HasTheSameBitsForAnyNumberOfThreads) {
  const Problem problem = make_problem(2);
  const int threads = at::get_num_threads();
  for (const std::string optimizer : {"descent", "adam", "lbfgs"}) {
    Config config;
    config.reconstruct.optimizer = optimizer;
    config.reconstruct.momentum = 0.3;
    if (optimizer == "lbfgs") config.reconstruct.batches = 1;
    std::vector<State> states;
    for (const int count : {1, 2, 3}) {
      at::set_num_threads(count);
      states.push_back(reconstruct(config, problem, 4));
    }
    at::set_num_threads(threads);
    for (size_t k = 1; k < states.size(); ++k) {
      EXPECT_TRUE(at::equal(states[0].object(0), states[k].object(0))) << optimizer;
      EXPECT_TRUE(at::equal(states[0].probe(), states[k].probe())) << optimizer;
      EXPECT_EQ(states[0].history.loss, states[k].history.loss) << optimizer;
    }
  }
}

TEST(Reconstruction, KeepsThePowerOfARefinedProbe) {
  const Problem problem = make_problem(4);
  Config config;
  const State state = reconstruct(config, problem, 5);
  EXPECT_NEAR(power(state.probe()) / state.start_power, 1.0, 1e-6);
  EXPECT_NEAR(state.start_power / problem.mean_counts_per_pattern, 1.0, 1e-5);
}

TEST(Reconstruction, LeavesAloneWhatIsNotRefined) {
  const Problem problem = make_problem(1);
  Config config;
  config.reconstruct.refine = {"object"};
  Whole whole(config, problem);
  const State start = whole.engine.start();
  EXPECT_TRUE(at::equal(reconstruct(config, problem, 2).probe(), start.probe()));
  config.reconstruct.refine = {"probe"};
  EXPECT_TRUE(at::equal(reconstruct(config, problem, 2).object(0), start.object(0)));
  config.reconstruct.refine = {"object", "probe"};
  config.refine["probe"].start = 2;
  EXPECT_TRUE(at::equal(reconstruct(config, problem, 2).probe(), start.probe()));
  EXPECT_FALSE(at::equal(reconstruct(config, problem, 3).probe(), start.probe()));
}

TEST(Reconstruction, AMaskedPixelHasNoSay) {
  Problem problem = make_problem(1);
  Problem spoilt = problem;
  spoilt.patterns = problem.patterns.clone();
  spoilt.patterns.select(1, 3).fill_(1e6);
  spoilt.source = std::make_shared<MemoryPatterns>(spoilt.patterns);
  Tensor mask = at::zeros({32, 32}, at::kBool);
  mask.select(0, 3).fill_(true);
  problem.mask = spoilt.mask = mask;
  problem.good_share = spoilt.good_share = mask.logical_not().to(at::kDouble);
  problem.masked_pixels = spoilt.masked_pixels = 32 * problem.positions.size(0);
  Config config;
  const State a = reconstruct(config, problem, 2), b = reconstruct(config, spoilt, 2);
  EXPECT_TRUE(at::equal(a.object(0), b.object(0)));
  EXPECT_EQ(a.history.amplitude_error, b.history.amplitude_error);
}

// Ten times too long, a step is taken back and shortened until it learns; the history tells all.
TEST(Reconstruction, StepsThatAreTooLongAreTakenBack) {
  for (const int64_t batches : {1, 4}) {
    const Problem problem = make_problem(3);
    Config config;
    config.reconstruct.batches = batches;
    config.reconstruct.step = 20.0;
    Whole whole(config, problem);
    State state = whole.engine.start();
    for (int k = 0; k < 40; ++k) whole.engine.iterate(state, kNeverStop, kIgnore);
    EXPECT_GT(state.numbers.at("taken_back"), 0);
    EXPECT_LT(state.history.loss.back(), 0.3 * state.history.loss.front()) << batches;
    EXPECT_LT(at::abs(state.object(0)).max().item<double>(), 3.0);
  }
}

// Vacuum cannot be lit through a propagator that gains a million: no step is short enough.
TEST(Reconstruction, WhatNoStepCanMendIsAnError) {
  Problem problem = make_problem(2);
  Config config;
  Whole whole(config, problem);
  State state = whole.engine.start();
  whole.engine.iterate(state, kNeverStop, kIgnore);
  problem.propagator = *problem.propagator * std::numeric_limits<double>::quiet_NaN();
  Whole broken(config, problem);
  EXPECT_THROW(
      {
        for (int k = 0; k < 10; ++k) broken.engine.iterate(state, kNeverStop, kIgnore);
      },
      Diverged);
}

// ---- checkpoints ----

class Checkpoint : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        std::filesystem::temp_directory_path() / ("ptyle_checkpoint_" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
    path_ = (folder_ / "checkpoint.h5").string();
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::filesystem::path folder_;
  std::string path_;
};

TEST_F(Checkpoint, GoesOnWithTheBitsOfTheRunThatWasNotInterrupted) {
  const Problem problem = make_problem(2);
  for (const std::string optimizer : {"descent", "adam", "lbfgs"}) {
    Config config;
    config.reconstruct.optimizer = optimizer;
    config.reconstruct.momentum = 0.3;
    if (optimizer == "lbfgs") config.reconstruct.batches = 1;
    const State whole = reconstruct(config, problem, 6);

    Whole first(config, problem);
    State state = first.engine.start();
    for (int k = 0; k < 3; ++k) first.engine.iterate(state, kNeverStop, kIgnore);
    // Stopped after the third batch of the fourth iteration.
    int batches = 0;
    first.engine.iterate(
        state, [&] { return ++batches == 3; }, kIgnore);
    first.write(path_, state);

    Whole second(config, problem);
    State resumed = second.read(path_);
    while (resumed.iteration < 6) second.engine.iterate(resumed, kNeverStop, kIgnore);
    EXPECT_TRUE(at::equal(whole.object(0), resumed.object(0))) << optimizer;
    EXPECT_TRUE(at::equal(whole.probe(), resumed.probe())) << optimizer;
    EXPECT_EQ(whole.history.loss, resumed.history.loss) << optimizer;
    EXPECT_EQ(whole.history.amplitude_error, resumed.history.amplitude_error) << optimizer;
  }
}

TEST_F(Checkpoint, RefusesAnotherConfigAndNamesTheKey) {
  const Problem problem = make_problem(1);
  Config config;
  Whole first(config, problem);
  first.write(path_, reconstruct(config, problem, 1));
  config.reconstruct.iterations = 999;  // may change
  EXPECT_NO_THROW(Whole(config, problem).read(path_));
  config.reconstruct.seed = 1;
  try {
    Whole(config, problem).read(path_);
    FAIL() << "another seed was accepted";
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("reconstruct.seed"), std::string::npos)
        << error.what();
  }
}

// Other steps, another optimiser: object and probe stay, what updates remember does not.
TEST_F(Checkpoint, GoesOnWithOtherUpdates) {
  const Problem problem = make_problem(2);
  Config config;
  config.reconstruct.optimizer = "descent";
  config.reconstruct.batches = 4;
  Whole first(config, problem);
  State state = first.engine.start();
  for (int k = 0; k < 3; ++k) first.engine.iterate(state, kNeverStop, kIgnore);
  int batches = 0;
  first.engine.iterate(
      state, [&] { return ++batches == 2; }, kIgnore);
  ASSERT_GT(state.batch, 0);
  first.write(path_, state);

  config.reconstruct.optimizer = "adam";
  config.reconstruct.batches = 6;
  Whole second(config, problem);
  State other = second.read(path_);
  EXPECT_TRUE(at::equal(other.object(0), state.object(0)));
  EXPECT_TRUE(at::equal(other.probe(), state.probe()));
  for (const auto& [name, values] : other.unknowns) {
    for (const Memory& memory : values.memory) EXPECT_TRUE(memory.empty()) << name;
  }
  EXPECT_TRUE(other.numbers.empty() && other.lists.empty());
  EXPECT_EQ(other.batch, 0);
  const std::vector<std::string> changes{
      "after iteration 3: reconstruct.batches = 6, was 4",
      "after iteration 3: reconstruct.optimizer = \"adam\", was \"descent\""};
  EXPECT_EQ(other.changes, changes);
  const double before = state.history.loss.back();
  for (int k = 0; k < 3; ++k) second.engine.iterate(other, kNeverStop, kIgnore);
  EXPECT_LT(other.history.loss.back(), before);
  second.write(path_, other);
  const State again = second.read(path_);
  EXPECT_EQ(again.changes, changes);
  EXPECT_FALSE(again.unknowns.at("probe").memory[0].empty());
}

TEST_F(Checkpoint, RefusesDamagedBytes) {
  const Problem problem = make_problem(1);
  const Config config;
  const State state = reconstruct(config, problem, 1);
  Whole whole(config, problem);
  whole.write(path_, state);
  // Find the object's bytes in the file and turn one over.
  std::ifstream in(path_, std::ios::binary);
  std::string bytes((std::istreambuf_iterator<char>(in)), {});
  const std::string part(static_cast<const char*>(state.object(0).const_data_ptr()) + 4096, 64);
  const size_t at = bytes.find(part);
  ASSERT_NE(at, std::string::npos);
  bytes[at + 5] = static_cast<char>(bytes[at + 5] ^ 1);
  std::ofstream(path_, std::ios::binary) << bytes;
  EXPECT_THROW(whole.read(path_), DataError);
}

}  // namespace
}  // namespace ptyle::driver
