#include <algorithm>
#include <array>
#include <cmath>
#include <complex>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "driver/check/parts.h"
#include "driver/io/guesses.h"
#include "driver/io/patterns.h"
#include "driver/words.h"

namespace ptyle::driver {
namespace {

using words::number;

constexpr double kPi = 3.14159265358979323846;

using Point = std::array<double, 2>;
// How the pattern's centre of mass changes with the position: [[dr/dr, dr/dc], [dc/dr, dc/dc]].
using Slope = std::array<double, 4>;

// Positions in cells as wide as `reach`, so that neighbours are found among nine cells.
class Cells {
 public:
  Cells(const std::vector<Point>& points, double reach) : points_(points), reach_(reach) {
    for (std::size_t k = 0; k < points.size(); ++k) {
      order_.emplace_back(cell_of(points[k]), k);
    }
    std::sort(order_.begin(), order_.end());
  }
  template <typename Use>
  void for_neighbours(std::size_t k, const Use& use) const {
    const auto [row, column] = cell_of(points_[k]);
    for (std::int64_t i = row - 1; i <= row + 1; ++i) {
      const std::pair<std::array<std::int64_t, 2>, std::size_t> first{{i, column - 1}, 0};
      for (auto one = std::lower_bound(order_.begin(), order_.end(), first);
           one != order_.end() && one->first[0] == i && one->first[1] <= column + 1; ++one) {
        const Point& p = points_[one->second];
        const double distance = std::hypot(p[0] - points_[k][0], p[1] - points_[k][1]);
        if (distance > 0.0 && distance <= reach_) use(one->second);
      }
    }
  }

 private:
  std::array<std::int64_t, 2> cell_of(const Point& p) const {
    return {static_cast<std::int64_t>(std::floor(p[0] / reach_)),
            static_cast<std::int64_t>(std::floor(p[1] / reach_))};
  }
  const std::vector<Point>& points_;
  double reach_;
  std::vector<std::pair<std::array<std::int64_t, 2>, std::size_t>> order_;
};

// Least squares over the neighbours of each position that has enough of them.
std::vector<Slope> slopes(const std::vector<Point>& points, const std::vector<Point>& centres,
                          double reach) {
  const Cells cells(points, reach);
  std::vector<Slope> found;
  for (std::size_t k = 0; k < points.size(); ++k) {
    double rr = 0.0, rc = 0.0, cc = 0.0;
    Slope right{};  // sums of (change of the centre) x (change of the position)
    int count = 0;
    cells.for_neighbours(k, [&](std::size_t other) {
      const double r = points[other][0] - points[k][0], c = points[other][1] - points[k][1];
      const double dr = centres[other][0] - centres[k][0];
      const double dc = centres[other][1] - centres[k][1];
      rr += r * r;
      rc += r * c;
      cc += c * c;
      right[0] += dr * r;
      right[1] += dr * c;
      right[2] += dc * r;
      right[3] += dc * c;
      ++count;
    });
    const double determinant = rr * cc - rc * rc;
    if (count < 3 || determinant < 0.05 * (rr + cc) * (rr + cc)) continue;
    Slope slope{};
    for (std::size_t row = 0; row < 2; ++row) {
      slope[2 * row] = (cc * right[2 * row] - rc * right[2 * row + 1]) / determinant;
      slope[2 * row + 1] = (rr * right[2 * row + 1] - rc * right[2 * row]) / determinant;
    }
    found.push_back(slope);
  }
  return found;
}

double power_of(const Slope& slope) {
  return std::inner_product(slope.begin(), slope.end(), slope.begin(), 0.0);
}

// Without those next to a pattern or a position that is wrong.
std::vector<Slope> without_outliers(std::vector<Slope> all) {
  if (all.empty()) return all;
  std::vector<double> powers;
  for (const Slope& slope : all) powers.push_back(power_of(slope));
  // The upper quartile: half of the scan may be vacuum.
  const auto usual = powers.begin() + static_cast<std::ptrdiff_t>(powers.size() * 3 / 4);
  std::nth_element(powers.begin(), usual, powers.end());
  constexpr double kMuch = 30.0;
  std::erase_if(all, [&](const Slope& slope) { return power_of(slope) > kMuch * *usual; });
  return all;
}

struct Turn {
  double curl = 1.0;       // what is left of it, as a share of all change
  double angle_deg = 0.0;  // from -90 to 90, by which the centres are turned for that
};

// curl(angle) = c11 - 2 c12 ... : with J turned by t, J01 - J10 = cos t (J01 - J10) - sin t (J00 +
// J11). Summed squares are a quadratic form in (cos t, sin t); least along its smaller axis.
Turn least_curl(const std::vector<Slope>& all, bool mirrored) {
  double aa = 0.0, ab = 0.0, bb = 0.0, power = 0.0;
  for (Slope j : all) {
    if (mirrored) {
      j[2] = -j[2];
      j[3] = -j[3];
    }
    const double a = j[1] - j[2], b = -(j[0] + j[3]);
    aa += a * a;
    ab += a * b;
    bb += b * b;
    for (const double value : j) power += value * value;
  }
  Turn turn;
  if (!(power > 0.0)) return turn;
  const double angle = 0.5 * std::atan2(-2.0 * ab, bb - aa);
  const double c = std::cos(angle), s = std::sin(angle);
  turn.curl = (c * c * aa + 2.0 * c * s * ab + s * s * bb) / power;
  turn.angle_deg = angle * 180.0 / kPi;
  return turn;
}

double curl_as_is(const std::vector<Slope>& all) {
  double curl = 0.0, power = 0.0;
  for (const Slope& j : all) {
    curl += (j[1] - j[2]) * (j[1] - j[2]);
    for (const double value : j) power += value * value;
  }
  return power > 0.0 ? curl / power : 0.0;
}

// ---- the specimen's shadow ----

using Matrix = std::array<double, 4>;  // [[0, 1], [2, 3]], of (row, column)

Point times(const Matrix& m, const Point& p) {
  return {m[0] * p[0] + m[1] * p[1], m[2] * p[0] + m[3] * p[1]};
}

// One of the eight ways to lay a pattern: transposed first, then reversed.
struct Way {
  bool transpose = false, flip_rows = false, flip_columns = false;

  Matrix matrix() const {
    const double rows = flip_rows ? -1.0 : 1.0, columns = flip_columns ? -1.0 : 1.0;
    return transpose ? Matrix{0.0, rows, columns, 0.0} : Matrix{rows, 0.0, 0.0, columns};
  }
  bool is_as_it_is() const { return !transpose && !flip_rows && !flip_columns; }
  bool is_half_turn() const { return !transpose && flip_rows && flip_columns; }
  bool is_quarter_turn() const { return transpose && flip_rows != flip_columns; }
  std::string words() const {
    if (is_half_turn()) return "turned by 180 degrees";
    if (is_quarter_turn()) return "turned by 90 degrees";
    if (!transpose) return flip_rows ? "mirrored (rows reversed)" : "mirrored (columns reversed)";
    return flip_rows ? "transposed and turned by 180 degrees" : "transposed";
  }
  // What a config must say in place of `now` so that this is undone.
  Way undone_after(const Config::Orientation& now) const {
    const Matrix own = matrix();
    const Matrix set = Way{now.transpose, now.flip_rows, now.flip_columns}.matrix();
    const Matrix inverse = {own[0], own[2], own[1], own[3]};
    const Matrix both = {
        inverse[0] * set[0] + inverse[1] * set[2], inverse[0] * set[1] + inverse[1] * set[3],
        inverse[2] * set[0] + inverse[3] * set[2], inverse[2] * set[1] + inverse[3] * set[3]};
    const bool swaps = both[0] == 0.0;
    return {swaps, (swaps ? both[1] : both[0]) < 0.0, (swaps ? both[2] : both[3]) < 0.0};
  }
  std::string as_toml() const {
    const auto word = [](bool value) { return std::string(value ? "true" : "false"); };
    return "{ transpose = " + word(transpose) + ", flip_rows = " + word(flip_rows) +
           ", flip_columns = " + word(flip_columns) + " }";
  }
};

// Detector pixels by which a feature of the specimen moves on the detector as the probe moves by a
// pixel: a ray that leaves at k passes the specimen at x(k) = -grad(phase of the probe's transform)
// / 2 pi, so that a step s moves what it meets by -(dx/dk)^-1 s. The mean over the aperture.
std::optional<Matrix> shadow_of(const Problem& problem) {
  const at::Tensor wave =
      at::fft_fft2(problem.probe.select(0, 0).to(at::kComplexDouble), std::nullopt, {0, 1});
  const auto step = [](const at::Tensor& field, std::int64_t axis) {
    return at::roll(field, {-1}, {axis}) * at::conj_physical(field);
  };
  Matrix x{};
  for (std::int64_t a = 0; a < 2; ++a) {
    const at::Tensor slope = step(wave, a);
    for (std::int64_t b = 0; b < 2; ++b) {
      const auto sum = step(slope, b).sum().item<c10::complex<double>>();
      x[static_cast<std::size_t>(2 * a + b)] =
          -static_cast<double>(wave.size(a)) / (2.0 * kPi) * std::arg(std::complex<double>(sum));
    }
  }
  const double determinant = x[0] * x[3] - x[1] * x[2];
  const double size = std::abs(x[0] * x[3]) + std::abs(x[1] * x[2]);
  if (!(std::abs(determinant) > 1e-3 * size)) return std::nullopt;  // no defocus, or along one axis
  return Matrix{-x[3] / determinant, x[1] / determinant, x[2] / determinant, -x[0] / determinant};
}

// Positions of four clumps of neighbours, ascending; all where there are few.
std::vector<std::int64_t> clumps(const Problem& problem, std::int64_t most) {
  const std::int64_t n = problem.positions.size(0);
  std::vector<std::int64_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  if (n <= most) return order;
  const double* p = problem.positions.const_data_ptr<double>();
  std::vector<std::int64_t> chosen;
  constexpr std::int64_t kClumps = 4;
  for (std::int64_t clump = 0; clump < kClumps; ++clump) {
    const double* middle = p + 2 * ((2 * clump + 1) * n / (2 * kClumps));
    const auto distance = [&](std::int64_t k) {
      return std::hypot(p[2 * k] - middle[0], p[2 * k + 1] - middle[1]);
    };
    std::sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
      return std::pair{distance(a), a} < std::pair{distance(b), b};
    });
    chosen.insert(chosen.end(), order.begin(), order.begin() + most / kClumps);
  }
  std::sort(chosen.begin(), chosen.end());
  chosen.erase(std::unique(chosen.begin(), chosen.end()), chosen.end());
  return chosen;
}

// What the specimen changes of the bright disc, pattern by pattern: [k, h, w] float64, about 0; and
// the disc [h, w].
struct Shadows {
  at::Tensor change, disc;
  std::int64_t coarse = 1;  // detector pixels in one of these
};
Shadows shadows_of(at::Tensor patterns, bool far_field) {
  constexpr std::int64_t kLargest = 96;
  Shadows shadows;
  shadows.coarse = (std::max(patterns.size(1), patterns.size(2)) + kLargest - 1) / kLargest;
  if (far_field)
    patterns = at::roll(patterns, {patterns.size(1) / 2, patterns.size(2) / 2}, {1, 2});
  if (shadows.coarse > 1) patterns = at::avg_pool2d(patterns, shadows.coarse);
  const at::Tensor mean = patterns.mean(0);
  shadows.disc = mean.gt(0.3 * bright_level(mean)).to(at::kDouble);
  const at::Tensor lit = (patterns * shadows.disc).sum({1, 2}, true);
  const at::Tensor share = patterns / lit.clamp_min(1e-300);
  const at::Tensor usual = share.mean(0).clamp_min(1e-300);
  shadows.change = ((share / usual - 1.0) * shadows.disc).contiguous();
  shadows.disc = shadows.disc.contiguous();
  return shadows;
}

// Correlation of one pattern at k + s / 2 with another at k - s / 2, inside the disc at both.
double agreement(const double* ahead, const double* behind, const double* disc, std::int64_t h,
                 std::int64_t w, const Point& s) {
  struct Place {
    std::int64_t row, column;
    std::array<double, 4> weights;
    double of(const double* image, std::int64_t width, std::int64_t i, std::int64_t j) const {
      const double* p = image + (i + row) * width + j + column;
      return weights[0] * p[0] + weights[1] * p[1] + weights[2] * p[width] +
             weights[3] * p[width + 1];
    }
  };
  const auto place = [](double row, double column) {
    const double i = std::floor(row), j = std::floor(column), u = row - i, v = column - j;
    return Place{static_cast<std::int64_t>(i),
                 static_cast<std::int64_t>(j),
                 {(1.0 - u) * (1.0 - v), (1.0 - u) * v, u * (1.0 - v), u * v}};
  };
  const Place plus = place(0.5 * s[0], 0.5 * s[1]), minus = place(-0.5 * s[0], -0.5 * s[1]);
  const std::int64_t rows = std::max(std::abs(plus.row), std::abs(minus.row)) + 1;
  const std::int64_t columns = std::max(std::abs(plus.column), std::abs(minus.column)) + 1;
  double both = 0.0, first = 0.0, second = 0.0;
  for (std::int64_t i = rows; i < h - rows; ++i) {
    for (std::int64_t j = columns; j < w - columns; ++j) {
      const double weight = plus.of(disc, w, i, j) * minus.of(disc, w, i, j);
      if (weight == 0.0) continue;
      const double a = plus.of(ahead, w, i, j), b = minus.of(behind, w, i, j);
      both += weight * a * b;
      first += weight * a * a;
      second += weight * b * b;
    }
  }
  return first > 0.0 && second > 0.0 ? both / std::sqrt(first * second) : 0.0;
}

struct Orientation {
  Way best;
  double agreement = 0.0, as_it_is = 0.0;  // of neighbours, mean correlations
};

// How the patterns lie, by how what the specimen casts into the bright disc moves from position to
// position; nullopt where that cannot be told: in focus, without contrast, or on a single line.
std::optional<Orientation> orientation_of_shadows(const Config& config, const Problem& problem,
                                                  const Scan& scan) {
  const std::optional<Matrix> moves = shadow_of(problem);
  if (!moves) return std::nullopt;
  constexpr double kBytes = 2.56e8;
  constexpr std::int64_t kMost = 400;
  const auto pixels = static_cast<double>(problem.window[0] * problem.window[1]);
  std::vector<std::int64_t> chosen;
  for (const std::int64_t k :
       clumps(problem, std::min(kMost, static_cast<std::int64_t>(kBytes / 8.0 / pixels)))) {
    const bool lit = problem.counts_per_pattern.const_data_ptr<double>()[k] > 0.0;
    if (lit && !problem.suspected[static_cast<std::size_t>(k)]) chosen.push_back(k);
  }
  const double* p = problem.positions.const_data_ptr<double>();
  std::vector<Point> points;
  for (const std::int64_t k : chosen) points.push_back({p[2 * k], p[2 * k + 1]});
  constexpr double kReach = 1.9;  // steps: the eight neighbours of a raster with some jitter
  std::vector<std::pair<std::size_t, std::size_t>> pairs;
  const Cells cells(points, kReach * scan.step);
  for (std::size_t k = 0; k < points.size(); ++k) {
    cells.for_neighbours(k, [&](std::size_t other) {
      if (k < other) pairs.emplace_back(k, other);
    });
  }
  constexpr std::size_t kEnough = 40;
  if (pairs.size() < kEnough) return std::nullopt;
  const Shadows shadows =
      shadows_of(patterns_of(config, problem, chosen).patterns.to(at::kDouble), !problem.detector);
  const std::int64_t h = shadows.disc.size(0), w = shadows.disc.size(1);
  // Neither hidden within a pixel nor beyond the disc.
  const Point along_rows = times(*moves, {scan.step, 0.0}),
              along_columns = times(*moves, {0.0, scan.step});
  const double move = std::max(std::hypot(along_rows[0], along_rows[1]),
                               std::hypot(along_columns[0], along_columns[1])) /
                      static_cast<double>(shadows.coarse);
  const double radius = std::sqrt(shadows.disc.sum().item<double>() / kPi);
  constexpr double kLeast = 0.3;
  if (!(move > kLeast && move < radius)) return std::nullopt;

  std::vector<Way> ways;
  for (int k = 0; k < 8; ++k) ways.push_back({(k & 4) != 0, (k & 2) != 0, (k & 1) != 0});
  std::vector<double> scores(pairs.size() * ways.size());
  const double* change = shadows.change.const_data_ptr<double>();
  const double* disc = shadows.disc.const_data_ptr<double>();
  at::parallel_for(
      0, static_cast<std::int64_t>(pairs.size()), 1, [&](std::int64_t begin, std::int64_t end) {
        for (auto k = static_cast<std::size_t>(begin); k < static_cast<std::size_t>(end); ++k) {
          const auto [from, to] = pairs[k];
          Point step =
              times(*moves, {points[to][0] - points[from][0], points[to][1] - points[from][1]});
          for (double& one : step) one /= static_cast<double>(shadows.coarse);
          for (std::size_t way = 0; way < ways.size(); ++way) {
            scores[k * ways.size() + way] =
                agreement(change + static_cast<std::int64_t>(to) * h * w,
                          change + static_cast<std::int64_t>(from) * h * w, disc, h, w,
                          times(ways[way].matrix(), step));
          }
        }
      });
  std::vector<double> mean(ways.size(), 0.0);
  for (std::size_t k = 0; k < scores.size(); ++k) {
    mean[k % ways.size()] += scores[k] / static_cast<double>(pairs.size());
  }
  const auto best =
      static_cast<std::size_t>(std::max_element(mean.begin(), mean.end()) - mean.begin());
  // By how many standard errors the best one is better, if each pattern tells one thing.
  constexpr double kSure = 4.0, kAgrees = 0.1;
  for (std::size_t way = 0; way < ways.size(); ++way) {
    if (way == best) continue;
    double squares = 0.0;
    const double by = mean[best] - mean[way];
    for (std::size_t k = 0; k < pairs.size(); ++k) {
      const double one = scores[k * ways.size() + best] - scores[k * ways.size() + way] - by;
      squares += one * one;
    }
    const double error = std::sqrt(squares / static_cast<double>(pairs.size() * points.size()));
    if (!(by > kSure * error) || mean[best] < kAgrees) return std::nullopt;
  }
  return Orientation{ways[best], mean[best], mean[0]};
}

// ---- the curl of the centres of mass ----

// Of a random phase a wrong orientation leaves half (mirrored) or all (a quarter turn) of the
// change as curl, a turn by t sin^2 t; noise alone half, whatever the orientation.
void doubt_curl(const Config& config, const Problem& problem, const Scan& scan, bool mirrored_too,
                std::vector<Doubt>& found) {
  if (problem.masked_pixels > 0) return;
  std::vector<Point> points, centres;
  const std::int64_t n = problem.positions.size(0), columns = problem.statistics.size(1);
  const double* p = problem.positions.const_data_ptr<double>();
  const double* s = problem.statistics.const_data_ptr<double>();
  for (std::int64_t k = 0; k < n; ++k, p += 2, s += columns) {
    if (!(s[0] > 0.0) || problem.suspected[static_cast<std::size_t>(k)]) continue;
    points.push_back({p[0], p[1]});
    centres.push_back({s[7] / s[0], s[8] / s[0]});
  }
  constexpr double kReach = 1.9;  // steps: the eight neighbours of a raster with some jitter
  const std::vector<Slope> all = without_outliers(slopes(points, centres, kReach * scan.step));
  constexpr std::size_t kEnough = 30;
  if (all.size() < kEnough) return;
  const double now = curl_as_is(all);
  const Turn turned = least_curl(all, false), mirrored = least_curl(all, true);
  constexpr double kClear = 0.2, kMuch = 0.15;
  if (turned.curl <= mirrored.curl) {
    if (turned.curl > kClear || now - turned.curl < kMuch) return;
    const double proposed = std::remainder(config.data.rotation_deg - turned.angle_deg, 180.0);
    found.push_back(
        {"the patterns seem to be turned against the scan by " + number(turned.angle_deg, 2) +
             " degrees (their centres of mass would lose their curl, " + number(now, 2) + " to " +
             number(turned.curl, 2) +
             " of their change): data.rotation_deg = " + number(proposed, 3) + ", or 180 more?",
         "patterns turned against the scan (data.rotation_deg, detector.orientation)"});
    return;
  }
  if (!mirrored_too || mirrored.curl > kClear || now - mirrored.curl < kMuch) return;
  constexpr double kQuarter = 45.0;
  const std::string which = std::abs(mirrored.angle_deg) < kQuarter
                                ? "flip_rows or flip_columns"
                                : "transpose (alone, or with both flips)";
  found.push_back(
      {"the patterns seem to be mirrored against the scan (their centres of mass would "
       "lose their curl, " +
           number(now, 2) + " to " + number(mirrored.curl, 2) +
           " of their change): is detector.orientation right (" + which + ")?",
       "patterns mirrored against the scan (detector.orientation)"});
}

}  // namespace

void doubt_orientation(const Config& config, const Problem& problem, const Scan& scan,
                       std::vector<Doubt>& found) {
  constexpr double kLeastStep = 1e-6;  // pixels: positions that are all at one place have none
  if (problem.detector || !(scan.step > kLeastStep)) return;
  const std::optional<Orientation> seen = orientation_of_shadows(config, problem, scan);
  if (!seen) {
    doubt_curl(config, problem, scan, /*mirrored_too=*/true, found);
  } else if (seen->best.is_as_it_is()) {
    doubt_curl(config, problem, scan, /*mirrored_too=*/false, found);  // a turn by some degrees
  } else {
    const Way meant = seen->best.undone_after(config.detector.orientation);
    found.push_back(
        {"the patterns seem to be " + seen->best.words() +
             " against the scan: from position to position the specimen's shadow moves on the "
             "detector as if they were (neighbours agree to " +
             number(seen->agreement, 2) + " so, to " + number(seen->as_it_is, 2) +
             " as they are): detector.orientation = " + meant.as_toml() +
             (seen->best.is_half_turn()      ? ", or has the probe's defocus the other sign?"
              : seen->best.is_quarter_turn() ? ", or is the scan turned (data.rotation_deg)?"
                                             : "?"),
         "detector.orientation"});
  }
}

}  // namespace ptyle::driver
