// Whether a run is judged rightly: what noise leaves of the fit, what counts as divergence, and
// which cause is named.
#include "driver/run/judgement.h"

#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/cpp/small_problem.h"

namespace ptyle::driver {
namespace {

using tests::make_problem;
using tests::Whole;

// The object of make_problem is not kept: here a state that explains its patterns exactly.
struct Known {
  Problem problem;
  at::Tensor object;
};

void set_patterns(Problem& problem, const at::Tensor& patterns) {
  problem.patterns = patterns;
  problem.source = std::make_shared<MemoryPatterns>(patterns);
  problem.pattern_sum = patterns.sum(0, false, at::kDouble);
  problem.good_patterns = at::full(problem.pattern_sum.sizes(), patterns.size(0), at::kLong);
  problem.summed_patterns = problem.good_patterns.clone();
  problem.total_counts = problem.pattern_sum.sum().item<double>();
  problem.mean_counts_per_pattern = problem.total_counts / double(patterns.size(0));
  problem.largest_count = patterns.max().item<double>();
}

// Counts drawn from the model of a random phase object, `dose` counts a pattern.
Known noisy(double dose, double jitter = 0.0) {
  Known known{make_problem(1, 32, 6, jitter), {}};
  Problem& problem = known.problem;
  const auto [slices, rows, columns] = problem.object_shape;
  const at::Tensor phase = 0.5 * at::randn({slices, rows, columns}, at::kDouble);
  known.object = at::polar(at::ones_like(phase), phase);
  problem.probe *= std::sqrt(dose / problem.probe.abs().square().sum().item<double>());
  const at::Tensor model = diffraction(known.object, problem.probe, problem.positions);
  set_patterns(problem, at::poisson(model).to(at::kFloat));
  return known;
}

Residuals residuals_of(const Config& config, const Known& known) {
  Whole whole(config, known.problem);
  State state = whole.engine.start();
  state.probe() = known.problem.probe.to(state.probe().scalar_type());
  state.object(0) = known.object.to(state.probe().scalar_type()).contiguous();
  return whole.engine.residuals(state);
}

TEST(Residuals, OfTheTruthAreThoseOfNoiseAtAnyDose) {
  for (const char* likelihood : {"amplitude", "poisson", "gaussian"}) {
    for (const double dose : {30.0, 1000.0, 1e5}) {
      Config config;
      config.reconstruct.likelihood = likelihood;
      const Residuals one = residuals_of(config, noisy(dose, 0.4));
      EXPECT_NEAR(one.amplitude_error / one.expected_amplitude_error, 1.0, 0.06)
          << likelihood << " " << dose;
      EXPECT_NEAR(one.loss / one.expected_loss, 1.0, 0.06) << likelihood << " " << dose;
    }
  }
}

TEST(Residuals, AreTheFormulaOverUnmaskedPixelsPatternByPattern) {
  Known known = noisy(1e4);
  known.problem.mask = at::rand({32, 32}) < 0.2;
  known.problem.masked_pixels =
      known.problem.mask->sum().item<int64_t>() * known.problem.positions.size(0);
  set_patterns(known.problem,
               known.problem.patterns.masked_fill(*known.problem.mask, 0.0).contiguous());
  Config config;
  config.reconstruct.precision = "double";
  const Residuals one = residuals_of(config, known);
  const at::Tensor model = diffraction(known.object, known.problem.probe, known.problem.positions);
  const at::Tensor error = (model.sqrt() - known.problem.patterns.to(at::kDouble).sqrt())
                               .square()
                               .masked_fill(*known.problem.mask, 0.0);
  EXPECT_TRUE(at::allclose(one.error, error.sum(at::IntArrayRef{1, 2}), 1e-9));
  const double good = 36.0 * 32 * 32 - double(known.problem.masked_pixels);
  EXPECT_NEAR(one.amplitude_error, error.sum().item<double>() / good, 1e-9);
  // Masked pixels have no excess, and the sums over patterns and over pixels agree.
  EXPECT_EQ(one.excess.masked_select(*known.problem.mask).abs().max().item<double>(), 0.0);
  EXPECT_NEAR(one.excess.sum().item<double>(), (one.error - one.expected).sum().item<double>(),
              1e-6);
}

Config descent() { return Config{}; }

TEST(LikelyCauses, NameFramesAndPixelsThatHoldTheMisfit) {
  Known known = noisy(1e4);
  const History still;
  // Three frames five times too bright.
  at::Tensor bright = known.problem.patterns.clone();
  for (const int64_t k : {4, 17, 30}) bright.select(0, k).mul_(5);
  Known frames = known;
  set_patterns(frames.problem, bright);
  std::vector<std::string> causes =
      likely_causes(descent(), frames.problem, still, residuals_of(descent(), frames), {});
  ASSERT_FALSE(causes.empty());
  EXPECT_NE(causes[0].find("3 of 36 patterns"), std::string::npos) << causes[0];
  EXPECT_NE(causes[0].find("4, 17, 30"), std::string::npos) << causes[0];
  // Numbers are those of the file.
  frames.problem.frames.resize(36);
  std::iota(frames.problem.frames.begin(), frames.problem.frames.end(), 100);
  causes = likely_causes(descent(), frames.problem, still, residuals_of(descent(), frames), {});
  EXPECT_NE(causes[0].find("104, 117, 130"), std::string::npos) << causes[0];
  // Two hot pixels in all frames; [3, 5] and [20, 30] with the zero frequency at [0, 0].
  at::Tensor hot = known.problem.patterns.clone();
  hot.select(1, 3).select(1, 5).add_(2000);
  hot.select(1, 20).select(1, 30).add_(6000);
  Known pixels = known;
  set_patterns(pixels.problem, hot);
  causes = likely_causes(descent(), pixels.problem, still, residuals_of(descent(), pixels), {});
  ASSERT_FALSE(causes.empty());
  EXPECT_NE(causes[0].find("2 pixels"), std::string::npos) << causes[0];
  EXPECT_NE(causes[0].find("worst first: [4, 14], [19, 21] of the stored pattern)"),
            std::string::npos)
      << causes[0];
  // What was doubtful about pixels at the start is the same thing.
  const std::vector<Doubt> doubted = {{"text", "hot pixels (data.mask; [4, 14])", Doubt::kPixels},
                                      {"text", "bad frames (data.skip)", Doubt::kFrames},
                                      {"more", "bad frames (data.skip)", Doubt::kFrames}};
  causes =
      likely_causes(descent(), pixels.problem, still, residuals_of(descent(), pixels), doubted);
  ASSERT_EQ(causes.size(), 3U);
  EXPECT_EQ(causes[0].find("hot pixels (data.mask; [4, 14]), doubtful at the start: 2 pixels"), 0U)
      << causes[0];
  EXPECT_EQ(causes[1], "bad frames (data.skip) (doubtful at the start)");
  // The truth has neither.
  causes = likely_causes(descent(), known.problem, still, residuals_of(descent(), known),
                         {{"text", "a beam off the centre"}});
  ASSERT_EQ(causes.size(), 2U);
  EXPECT_EQ(causes[0], "a beam off the centre (doubtful at the start)");
  EXPECT_EQ(causes[1].find("what else it often is: the positions' unit"), 0U) << causes[1];
}

TEST(LikelyCauses, EndWithWhatItOftenIsWithoutWhatWasNamed) {
  Known known = noisy(1e4);
  Config config;
  const Residuals residuals = residuals_of(config, known);
  const auto last = [&](const std::vector<double>& errors, const std::vector<Doubt>& doubts) {
    History history;
    history.amplitude_error = errors;
    return likely_causes(config, known.problem, history, residuals, doubts).back();
  };
  const std::string all = last({}, {});
  for (const char* word :
       {"no pattern, pixel or doubt stands out", "data.position_unit", "data.rotation_deg",
        "detector.orientation", "defocus", "window", "probe.modes", "object.slices"}) {
    EXPECT_NE(all.find(word), std::string::npos) << word << ": " << all;
  }
  EXPECT_EQ(all.find("detector.gain"), std::string::npos) << all;  // whole counts
  // An error that still falls hides none of them.
  const std::string falling = last({3.0, 2.0, 1.0}, {});
  EXPECT_NE(falling.find("what else it often is"), std::string::npos) << falling;
  EXPECT_NE(falling.find("detector.orientation"), std::string::npos) << falling;
  const std::string rest = last({}, {{"text", "turned patterns (data.rotation_deg)"}});
  EXPECT_EQ(rest.find("data.rotation_deg"), std::string::npos) << rest;
  config.probe.modes = 2;
  EXPECT_EQ(last({}, {}).find("probe.modes"), std::string::npos);
}

History errors(std::vector<double> values) {
  History history;
  history.amplitude_error = std::move(values);
  return history;
}

TEST(Course, TripsOnDivergenceAndOnNothingElse) {
  Problem problem = noisy(1e5).problem;  // 98 counts a pixel: noise leaves at most 0.46
  const double highest = 400.0;
  const auto course = [&](const std::vector<double>& values) {
    return course_of(errors(values), problem, highest);
  };
  EXPECT_EQ(course({}), Course::kFine);
  EXPECT_EQ(course({3.0, 1.0, 0.3, 0.25}), Course::kFine);
  EXPECT_EQ(course({3.0, 1.0, 0.3, 0.8}), Course::kFine);  // within twice what noise may leave
  EXPECT_EQ(course({30.0, 10.0, 25.0}), Course::kRising);
  EXPECT_EQ(course({3.0, 0.3, 5000.0}), Course::kDiverged);
  EXPECT_EQ(course({5000.0}), Course::kDiverged);
  EXPECT_EQ(course({3.0, std::nan("")}), Course::kDiverged);
  EXPECT_EQ(course({3.0, 1.0, INFINITY}), Course::kDiverged);
  // From a start on a wrong scale, falling.
  EXPECT_EQ(course({9000.0, 5000.0, 1000.0}), Course::kFine);

  EXPECT_FALSE(ended_diverged(errors({}), problem));
  EXPECT_FALSE(ended_diverged(errors({3.0}), problem));
  EXPECT_FALSE(ended_diverged(errors({3.0, 0.3, 0.25}), problem));
  EXPECT_FALSE(ended_diverged(errors({0.3, 0.31, 0.5}), problem));  // noise
  EXPECT_FALSE(ended_diverged(errors({30.0, 10.0, 25.0}), problem));
  EXPECT_TRUE(ended_diverged(errors({30.0, 1.0, 5.0}), problem));
  EXPECT_TRUE(ended_diverged(errors({30.0, 29.0, 70.0}), problem));
}

TEST(Course, NoPassiveObjectIsBeyondTheHighestError) {
  // A phase object as wrong as can be, and vacuum, against patterns of something else.
  const Known known = noisy(1e3);
  const Config config;
  Whole whole(config, known.problem);
  State state = whole.engine.start();
  const double highest = whole.engine.highest_error(state);
  EXPECT_LT(whole.engine.residuals(state).amplitude_error, highest);
  at::manual_seed(8);
  const at::Tensor phase = 6.0 * at::rand(state.object(0).sizes());
  state.object(0) = at::polar(at::ones_like(phase), phase);
  EXPECT_LT(whole.engine.residuals(state).amplitude_error, highest);
  state.object(0).mul_(4.0);  // gain
  EXPECT_GT(whole.engine.residuals(state).amplitude_error, highest);
}

TEST(Course, HealthyRunsOfEveryKindAreFine) {
  for (const char* optimizer : {"descent", "adam", "lbfgs"}) {
    for (const double dose : {50.0, 1e5}) {
      Config config;
      config.reconstruct.optimizer = optimizer;
      config.reconstruct.batches = config.reconstruct.optimizer == "lbfgs" ? 1 : 4;
      const Known known = noisy(dose);
      Whole whole(config, known.problem);
      State state = whole.engine.start();
      const double highest = whole.engine.highest_error(state);
      for (int k = 0; k < 12; ++k) {
        whole.engine.iterate(state, tests::kNeverStop, tests::kIgnore);
        EXPECT_EQ(course_of(state.history, known.problem, highest), Course::kFine)
            << optimizer << " " << dose << " " << state.history.amplitude_error.back();
      }
      EXPECT_FALSE(ended_diverged(state.history, known.problem));
    }
  }
}

TEST(WordsOfDivergence, TellTheCourseAndWhatToChange) {
  const Problem problem = noisy(1e3).problem;
  Config config;
  config.reconstruct.batches = 36;
  const std::string words =
      words_of_divergence(config, problem, errors({3.0, 0.3, 5000.0}), 4.0, 3);
  for (const char* part : {"0.3 in iteration 2", "5000 in iteration 3", "at most 4",
                           "reconstruct.batches = 2", "reconstruct.step"}) {
    EXPECT_NE(words.find(part), std::string::npos) << words;
  }
  EXPECT_NE(words_of_divergence(config, problem, errors({3.0, 0.3, 5000.0}), 4.0, 2)
                .find("is 5000 after the last, where"),
            std::string::npos);
}

}  // namespace
}  // namespace ptyle::driver
