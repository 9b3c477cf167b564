#include "driver/run/judgement.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <utility>

#include <ATen/TensorOperators.h>

#include "driver/check/doubts.h"
#include "driver/engine/vectors.h"
#include "driver/io/pixels.h"
#include "driver/words.h"

namespace ptyle::driver {
namespace {

using words::number;

double unmasked_pixels(const Problem& problem) {
  return static_cast<double>(problem.positions.size(0) * problem.window[0] * problem.window[1]) -
         static_cast<double>(problem.masked_pixels);
}

// No counts leave more than this by their noise: (sqrt(I) - sqrt(n))^2 has a mean of at most 0.46,
// and of 2 I in dark pixels.
double most_noise(const Problem& problem) {
  return std::min(0.46, 2.0 * problem.total_counts / std::max(1.0, unmasked_pixels(problem)));
}

std::size_t place_of_least(const std::vector<double>& errors) {
  return static_cast<std::size_t>(std::min_element(errors.begin(), errors.end()) - errors.begin());
}

double median(std::vector<double> values) {
  if (values.empty()) return 0.0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// Which values stand out above the others, by 12 robust standard deviations and by as much again
// as the median; and what they have above it.
struct Outliers {
  std::vector<std::size_t> places;
  double above = 0.0;
};
Outliers outliers_of(const std::vector<double>& values) {
  const double middle = median(values);
  std::vector<double> deviations;
  deviations.reserve(values.size());
  for (const double value : values) deviations.push_back(std::abs(value - middle));
  constexpr double kDeviations = 12.0 * 1.4826;
  const double limit = middle + kDeviations * median(std::move(deviations)) + std::max(0.0, middle);
  Outliers found;
  for (std::size_t k = 0; k < values.size(); ++k) {
    if (!(values[k] > limit)) continue;
    found.places.push_back(k);
    found.above += values[k] - middle;
  }
  return found;
}

double positive_sum(const std::vector<double>& values) {
  double sum = 0.0;
  for (const double value : values) sum += std::max(0.0, value);
  return sum;
}

// Pixels with more than three times the excess of most of the 5 x 5 pixels around them, and more
// than noise gives in so many patterns: bright areas fit worse than dark ones as a whole, a bad
// pixel worse than its neighbours.
Outliers bad_pixels(const at::Tensor& excess, std::int64_t patterns) {
  const std::vector<double> values = as_vector(excess);
  const std::int64_t h = excess.size(0), w = excess.size(1);
  const double noise = 3.0 * std::sqrt(static_cast<double>(patterns));
  Outliers found;
  for (std::int64_t i = 0; i < h; ++i) {
    for (std::int64_t j = 0; j < w; ++j) {
      const auto here = static_cast<std::size_t>(i * w + j);
      if (!(values[here] > noise)) continue;
      std::vector<double> around;
      for (std::int64_t di = -2; di <= 2; ++di) {
        for (std::int64_t dj = -2; dj <= 2; ++dj) {
          // Zero frequency at [0, 0]: the window's edges meet.
          const std::int64_t row = ((i + di) % h + h) % h, column = ((j + dj) % w + w) % w;
          if (row != i || column != j) {
            around.push_back(values[static_cast<std::size_t>(row * w + column)]);
          }
        }
      }
      const auto most = around.begin() + static_cast<std::ptrdiff_t>(around.size() * 4 / 5);
      std::nth_element(around.begin(), most, around.end());
      const double usual = std::max(0.0, around.empty() ? 0.0 : *most);
      if (values[here] <= 3.0 * usual) continue;
      found.places.push_back(here);
      found.above += values[here] - usual;
    }
  }
  std::stable_sort(found.places.begin(), found.places.end(),
                   [&](std::size_t a, std::size_t b) { return values[a] > values[b]; });
  return found;
}

// "7, 30, 55" of the first ten, and how many more.
template <typename Word>
std::string listed(const std::vector<std::size_t>& places, const Word& word) {
  constexpr std::size_t kMost = 10;
  std::string text;
  for (std::size_t k = 0; k < std::min(kMost, places.size()); ++k) {
    text += (k > 0 ? ", " : "") + word(places[k]);
  }
  if (places.size() > kMost) text += " and " + std::to_string(places.size() - kMost) + " more";
  return text;
}

void add_once(std::vector<std::string>& texts, const std::string& text) {
  if (text.empty() || std::find(texts.begin(), texts.end(), text) != texts.end()) return;
  texts.push_back(text);
}

constexpr double kMuchOfMisfit = 0.15;

// What it often is, without what was named before.
std::string usual_causes(const Config& config, const Problem& problem,
                         const std::vector<std::string>& named) {
  struct Usual {
    const char *key, *words;
    bool may_be = true;
  };
  const std::array<Usual, 9> all = {{
      {"data.position_unit", "the positions' unit or order (data.position_unit)"},
      {"data.rotation_deg", "their rotation (data.rotation_deg)"},
      {"detector.orientation", "detector.orientation"},
      {"defocus", "the start's defocus or its sign"},
      {"window", "a window too small for the probe"},
      {"detector.gain", "values that are no counts (detector.gain)", !whole_counts(problem)},
      {"detector.dark", "a pedestal in the values (detector.dark)",
       config.detector.dark_dataset.empty()},
      {"probe.modes", "a probe of more than one mode (probe.modes)", config.probe.modes == 1},
      {"object.slices", "a thick object (object.slices)", config.object.slices == 1},
  }};
  std::string words;
  for (const Usual& usual : all) {
    const bool known = std::any_of(named.begin(), named.end(), [&](const std::string& text) {
      return text.find(usual.key) != std::string::npos;
    });
    if (usual.may_be && !known) words += std::string(words.empty() ? "" : ", ") + usual.words;
  }
  return (named.empty() ? "no pattern, pixel or doubt stands out; what it often is: "
                        : "what else it often is: ") +
         words;
}

}  // namespace

Course course_of(const History& history, const Problem& problem, double highest) {
  const std::vector<double>& errors = history.amplitude_error;
  if (errors.empty()) return Course::kFine;
  if (!(errors.back() <= highest)) {
    // A probe whose power is far from the data's may start there: then it falls.
    if (errors.size() < 2 || !(errors.back() <= errors[errors.size() - 2])) {
      return Course::kDiverged;
    }
  }
  const double least = errors[place_of_least(errors)];
  return errors.back() > 2.0 * std::max(least, most_noise(problem)) ? Course::kRising
                                                                    : Course::kFine;
}

bool ended_diverged(const History& history, const Problem& problem) {
  const std::vector<double>& errors = history.amplitude_error;
  if (errors.size() < 2) return false;
  const double noise = most_noise(problem), least = errors[place_of_least(errors)];
  const double last = errors.back();
  return last > 4.0 * std::max(least, noise) || last > 2.0 * std::max(errors.front(), noise);
}

std::string words_of_divergence(const Config& config, const Problem& problem,
                                const History& history, double highest, std::int64_t iterations) {
  const std::vector<double>& errors = history.amplitude_error;
  const std::size_t best = place_of_least(errors);
  std::string text = "the run diverged: its amplitude_error ";
  if (errors.size() > 1) {
    text += "was " + number(errors[best]) + " in iteration " + std::to_string(best + 1) + " and ";
  }
  const auto count = static_cast<std::int64_t>(errors.size());
  text += "is " + number(errors.back()) +
          (count > iterations ? " after the last" : " in iteration " + std::to_string(count));
  if (errors.back() > highest) {
    text += ", where an object without gain gives at most " + number(highest);
  }
  const std::int64_t positions = problem.positions.size(0);
  const std::int64_t a_batch =
      positions / std::max<std::int64_t>(1, std::min(config.reconstruct.batch_count(), positions));
  std::string change;
  const auto suggest = [&change](const std::string& what) {
    change += (change.empty() ? "" : ", ") + what;
  };
  constexpr std::int64_t kFewPositions = 8;
  if (a_batch < kFewPositions && config.reconstruct.batch_count() > 1) {
    suggest("batches of more than " + std::to_string(a_batch) +
            " positions (reconstruct.batches = " +
            std::to_string(std::max<std::int64_t>(1, positions / (2 * kFewPositions))) + ")");
  }
  if (!optimizer_kind(config.reconstruct.optimizer).every_batch) {
    if (config.reconstruct.momentum > 0.0) suggest("less reconstruct.momentum");
    suggest("shorter steps (reconstruct.step, half of " + number(config.reconstruct.step) +
            ", refine.NAME.step)");
  } else if (!optimizer_kind(config.reconstruct.optimizer).one_batch) {
    suggest("a smaller reconstruct.learning_rate and probe_learning_rate than " +
            number(config.reconstruct.learning_rate) + " and " +
            number(config.reconstruct.probe_learning_rate));
  }
  if (config.reconstruct.refines("probe") && config.reconstruct.refines("object")) {
    suggest("the probe fixed at first (refine.probe.start)");
  }
  return text + "; try " + change;
}

std::vector<std::string> likely_causes(const Config& config, const Problem& problem,
                                       const History& history, const Residuals& residuals,
                                       const std::vector<Doubt>& doubts) {
  std::vector<std::pair<double, std::string>> found;  // by the share that each explains
  std::array<bool, 3> told{};                         // what the doubts of a kind are about
  // With what was said about the same at the start before it.
  const auto add = [&](double share, Doubt::About about, const std::string& text) {
    std::vector<std::string> doubted;
    for (const Doubt& doubt : doubts) {
      if (doubt.about == about) add_once(doubted, doubt.cause);
    }
    std::string start;
    for (const std::string& cause : doubted) start += (start.empty() ? "" : ", ") + cause;
    found.emplace_back(share, start.empty() ? text : start + ", doubtful at the start: " + text);
    told[about] = true;
  };
  const std::vector<double> patterns = as_vector(residuals.error - residuals.expected);
  const double misfit = positive_sum(patterns);
  Outliers bad = outliers_of(patterns);
  // neighbours of a bad frame fit worse than the rest, and are none
  const double worst = patterns.empty() ? 0.0 : *std::max_element(patterns.begin(), patterns.end());
  std::erase_if(bad.places, [&](std::size_t k) { return patterns[k] < 0.05 * worst; });
  if (!bad.places.empty() && bad.places.size() * 5 <= patterns.size() &&
      bad.above > kMuchOfMisfit * misfit) {
    add(bad.above / misfit, Doubt::kFrames,
        std::to_string(bad.places.size()) + " of " + std::to_string(patterns.size()) +
            " patterns hold " + number(100.0 * bad.above / misfit, 2) +
            " % of the misfit: bad frames, or wrong positions of these (data.skip; numbers " +
            listed(bad.places,
                   [&problem](std::size_t k) {
                     return std::to_string(problem.frames.empty() ? static_cast<std::int64_t>(k)
                                                                  : problem.frames[k]);
                   }) +
            ")");
  }
  const Outliers pixels = bad_pixels(residuals.excess, problem.positions.size(0));
  const double pixel_misfit = positive_sum(as_vector(residuals.excess));
  const std::int64_t h = problem.window[0], w = problem.window[1];
  if (!pixels.places.empty() && static_cast<std::int64_t>(pixels.places.size()) * 20 <= h * w &&
      pixels.above > kMuchOfMisfit * pixel_misfit) {
    add(pixels.above / pixel_misfit, Doubt::kPixels,
        (pixels.places.size() == 1 ? std::string("1 pixel stands")
                                   : std::to_string(pixels.places.size()) + " pixels stand") +
            " out of their neighbours with " + number(100.0 * pixels.above / pixel_misfit, 2) +
            " % of the misfit: bad pixels (data.mask; worst first: " +
            pixel_words(problem, {pixels.places.begin(), pixels.places.end()}) + ")");
  }
  std::sort(found.begin(), found.end(),
            [](const auto& a, const auto& b) { return a.first > b.first; });
  std::vector<std::string> causes;
  for (auto& [share, text] : found) causes.push_back(std::move(text));

  for (const Doubt& doubt : doubts) {
    if (doubt.cause.empty() || told[doubt.about]) continue;
    add_once(causes, doubt.cause + " (doubtful at the start)");
  }
  const std::vector<double>& errors = history.amplitude_error;
  if (errors.size() > 2) {
    const double before = errors[errors.size() - 2], fall = (before - errors.back()) / before;
    if (fall > 0.01) {
      causes.push_back("too few iterations: the error still fell by " + number(100.0 * fall, 2) +
                       " % in the last one");
    }
  }
  causes.push_back(usual_causes(config, problem, causes));
  return causes;
}

std::string words_of_fit(const Config& config, const Residuals& residuals) {
  std::string text = "amplitude_error " + number(residuals.amplitude_error) +
                     " (counting noise alone would leave " +
                     number(residuals.expected_amplitude_error) + ")";
  if (likelihood_named(config.reconstruct.likelihood) != Likelihood::kAmplitude) {
    text += ", loss a pixel of the " + config.reconstruct.likelihood + " likelihood " +
            number(residuals.loss) + " (" + number(residuals.expected_loss) + ")";
  }
  return text;
}

}  // namespace ptyle::driver
