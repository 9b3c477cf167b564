#include "driver/check/doubts.h"

#include <algorithm>
#include <array>
#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>

#include <ptyle/ops.h>

#include "csrc/cpu/layout.h"
#include "driver/check/parts.h"
#include "driver/engine/priors.h"
#include "driver/io/guesses.h"
#include "driver/io/pixels.h"
#include "driver/io/png.h"
#include "driver/io/problem.h"
#include "driver/tiles/decomposition.h"
#include "driver/words.h"
#include "ops/hints.h"

namespace ptyle::driver {
namespace {

using words::by;
using words::counted;
using words::length;
using words::number;

// Batches of fewer positions than the first are doubtful; of so many as the second they are usual.
constexpr std::int64_t kFewInBatch = 2, kEnoughInBatch = 16;

// ---- the scan ----

using Point = std::array<double, 2>;

std::vector<Point> points_of(const at::Tensor& positions) {
  const at::Tensor dense = positions.contiguous();
  const auto* data = dense.const_data_ptr<double>();
  std::vector<Point> points(static_cast<std::size_t>(dense.size(0)));
  for (std::size_t k = 0; k < points.size(); ++k) points[k] = {data[2 * k], data[2 * k + 1]};
  return points;
}

// Area that the scan covers, in pixels squared: the convex hull (monotone chain, Andrew 1979) with
// half a step added around it, which is exact for a raster.
double scanned_area(std::vector<Point> points, double step) {
  std::sort(points.begin(), points.end());
  points.erase(std::unique(points.begin(), points.end()), points.end());
  std::vector<Point> hull;
  const auto turns_right = [&hull](const Point& c) {
    const Point& a = hull[hull.size() - 2];
    const Point& b = hull.back();
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]) <= 0.0;
  };
  for (int pass = 0; pass < 2; ++pass) {
    const std::size_t fixed = hull.size() + 1;
    for (const Point& point : points) {
      while (hull.size() > fixed && turns_right(point)) hull.pop_back();
      hull.push_back(point);
    }
    hull.pop_back();
    std::reverse(points.begin(), points.end());
  }
  double area = 0.0, perimeter = 0.0;
  for (std::size_t k = 0; k < hull.size(); ++k) {
    const Point& a = hull[k];
    const Point& b = hull[(k + 1) % hull.size()];
    area += 0.5 * (a[0] * b[1] - b[0] * a[1]);
    perimeter += std::hypot(b[0] - a[0], b[1] - a[1]);
  }
  return std::abs(area) + 0.5 * perimeter * step + step * step;
}

// ---- the probe and the patterns ----

double probe_power(const Problem& problem) {
  return problem.probe.abs().square().sum().item<double>();
}

std::int64_t overhanging(const Problem& problem) {
  std::int64_t count = 0;
  for (const Point& p : points_of(problem.positions)) {
    bool over = false;
    for (std::size_t axis = 0; axis < 2; ++axis) {
      const double first = std::floor(p[axis]);
      over = over || first < 0.0 ||
             first + static_cast<double>(problem.window[axis]) >
                 static_cast<double>(problem.object_shape[axis + 1]);
    }
    count += over ? 1 : 0;
  }
  return count;
}

// Whether the largest value occurs more often than measured values do: that of few counts does too,
// but then one less occurs more often still.
bool is_clipped(const Problem& problem) {
  const std::int64_t n = problem.positions.size(0);
  const std::int64_t hot = n * static_cast<std::int64_t>(problem.hot.size());  // told on their own
  if (problem.pixels_at_largest <= hot + std::max<std::int64_t>(10, n / 10)) return false;
  constexpr double kMany = 255.0, kFew = 7.0;
  if (problem.largest_count >= kMany) return true;
  return problem.largest_count >= kFew && one_count(problem) == 1 &&
         problem.pixels_at_largest > 2 * problem.pixels_below_largest;
}

// "[60, 64]", of windows as data.crop and data.pad take them.
std::string pair_words(std::int64_t rows, std::int64_t columns) {
  return c10::str("[", rows, ", ", columns, "]");
}

// What crop or pad makes of a window that is slow on the CPU; empty where it is not.
std::string doubt_of_sizes(const Config& config, const Problem& problem) {
  std::array<std::int64_t, 2> crop{}, pad{}, padded{};
  const auto better = [](std::int64_t size, bool down) {
    return cpu::is_slow(size) ? good_size(size, down) : size;
  };
  const std::int64_t h = problem.window[0], w = problem.window[1];
  if (!cpu::is_slow(h) && !cpu::is_slow(w)) return "";
  for (std::size_t axis = 0; axis < 2; ++axis) {
    const std::int64_t size = problem.window[axis], had = config.detector.pad[axis];
    crop[axis] = (better(size, true) - 2 * had) * config.detector.bin[axis];
    padded[axis] = better(size, false);  // pad adds as much on both sides
    while ((padded[axis] - size) % 2 != 0) padded[axis] = good_size(padded[axis] + 1);
    pad[axis] = had + (padded[axis] - size) / 2;
  }
  std::string proposals;
  if (crop[0] > 0 && crop[1] > 0 && config.detector.crop.size() != 4) {
    proposals = "detector.crop = " + pair_words(crop[0], crop[1]) + " makes " +
                by(better(h, true), better(w, true)) + " of them, ";
  }
  return "windows of " + by(h, w) +
         " pixels take 1.5 to 4 times as long on the CPU as sizes with no prime factors but 2, "
         "3 "
         "and 5: " +
         proposals + "detector.pad = " + pair_words(pad[0], pad[1]) + " makes " +
         by(padded[0], padded[1]);
}

}  // namespace

double Scan::overlap() const { return overlap_of(step, diameter); }

Scan scan_of(const Problem& problem) {
  const std::vector<Point> points = points_of(problem.positions);
  Scan scan;
  scan.step = neighbour_distance(problem.positions);
  scan.diameter = probe_diameter(problem.probe);
  scan.area = scanned_area(points, scan.step);
  return scan;
}

double energy_cut(const Problem& problem, const Decomposition& decomposition, std::int64_t tile) {
  const auto [h, w] = problem.window;
  // |probe|^2 summed over modes, as a table of sums from the corner.
  at::Tensor table = at::zeros({h + 1, w + 1}, at::kDouble);
  table.narrow(0, 1, h).narrow(1, 1, w).copy_(
      problem.probe.abs().square().sum(0).cumsum(0).cumsum(1));
  const double* sums = table.const_data_ptr<double>();
  const auto energy = [&, w = w](const Rectangle& area) {
    const auto at = [&](std::int64_t row, std::int64_t column) {
      return sums[row * (w + 1) + column];
    };
    return at(area.row + area.rows, area.column + area.columns) -
           at(area.row, area.column + area.columns) - at(area.row + area.rows, area.column) +
           at(area.row, area.column);
  };
  const Tile& here = decomposition.tiles[static_cast<std::size_t>(tile)];
  const double* p = problem.positions.const_data_ptr<double>();
  double all = 0.0, inside = 0.0;
  for (const std::int64_t n : decomposition.positions_of_tile(tile, problem.positions)) {
    const auto row = static_cast<std::int64_t>(std::floor(p[2 * n]));
    const auto column = static_cast<std::int64_t>(std::floor(p[2 * n + 1]));
    const Rectangle window{row, column, h, w};
    const auto part = [&](const Rectangle& of) {
      Rectangle area = intersection(window, of);
      if (area.empty()) return 0.0;
      area.row -= row;
      area.column -= column;
      return energy(area);
    };
    all += part(decomposition.grid.object());  // beyond the object there is vacuum for everybody
    inside += part(here.frame);
  }
  return all > 0.0 ? 1.0 - inside / all : 0.0;
}

double worst_energy_cut(const Problem& problem, const Decomposition& decomposition) {
  double worst = 0.0;
  for (const Tile& tile : decomposition.tiles)
    worst = std::max(worst, energy_cut(problem, decomposition, tile.number));
  return worst;
}

std::vector<Doubt> doubts(const Config& config, const Problem& problem,
                          const Decomposition& decomposition) {
  const Scan scan = scan_of(problem);
  std::vector<Doubt> result;
  const auto doubt = [&result](const std::string& text, const std::string& cause = {}) {
    result.push_back({text, cause});
  };
  const std::int64_t n = problem.positions.size(0);
  const auto pixels = static_cast<double>(n * problem.window[0] * problem.window[1]);

  result = problem.found;
  doubt_units(config, problem, result);
  doubt_repeats(problem, result);
  doubt_patterns(config, problem, result);
  doubt_orientation(config, problem, scan, result);
  doubt_probe(config, problem, scan, result);
  const double power = probe_power(problem);
  const double target = config.probe.power == "number" ? config.probe.power_value : power;
  if (config.probe.power != "data") {
    const double ratio = target / problem.mean_counts_per_pattern;
    if (ratio > 2.0 || ratio < 0.5) {
      doubt("the probe's power is " + number(target) + ", but a pattern has " +
                number(problem.mean_counts_per_pattern) +
                " counts: probe.power = \"data\" makes them agree",
            "the probe's power");
    }
  }
  if (problem.pixel_row_A &&
      std::abs(*problem.pixel_row_A / *problem.pixel_column_A - 1.0) > 1e-6) {
    doubt("the object's pixels are not square: " + length(*problem.pixel_row_A) + " x " +
          length(*problem.pixel_column_A));
  }
  // Neighbouring frequencies at the edge must not be more than half a turn apart.
  const auto check_sampling = [&](double distance_A, const std::string& what) {
    const std::array<double, 2> pixel_A = {*problem.pixel_row_A, *problem.pixel_column_A};
    for (std::size_t axis = 0; axis < 2; ++axis) {
      const double reach = static_cast<double>(problem.window[axis]) * pixel_A[axis] *
                           pixel_A[axis] / *problem.wavelength_A;
      if (std::abs(distance_A) > reach) {
        doubt("the window samples " + what + " only up to " + length(reach) + ", but it is " +
                  length(distance_A) + ": waves wrap around the window (rows and columns: " +
                  (axis == 0 ? "rows)" : "columns)"),
              "the propagation's distance against the window");
        break;
      }
    }
  };
  if (problem.propagator) check_sampling(problem.slice_distance_A, "the distance between slices");
  if (problem.detector) check_sampling(1e10 * *config.detector.distance_m, "the distance");
  const double masked = static_cast<double>(problem.masked_pixels) / pixels;
  if (masked > 0.1) {
    doubt(number(100.0 * masked, 3) + " % of the pixels are masked");
  }
  const std::int64_t sporadic =
      problem.sentinel_pixels - n * problem.good_patterns.eq(0).sum().item<std::int64_t>();
  if (sporadic > std::max<std::int64_t>(10, n / 10)) {
    doubt(counted(sporadic, "pixel") + " (" +
              number(100.0 * static_cast<double>(sporadic) / pixels, 3) +
              " %) hold the largest value of their type, but not in all frames: masked, as where a "
              "detector is saturated or has lost them",
          "saturated or lost pixels");
  }
  if (!config.detector.saturation && is_clipped(problem)) {
    doubt("the largest value, " + number(problem.largest_count, 10) + ", occurs " +
              counted(problem.pixels_at_largest, "time") +
              ": is the detector saturated there (detector.saturation)?",
          "saturated pixels");
  }
  if (problem.negative_pixels > 0) {
    silence(Hint::kNegativeCounts);
    doubt(counted(problem.negative_pixels, "pixel") + " (" +
          number(100.0 * static_cast<double>(problem.negative_pixels) / pixels, 3) +
          (problem.negative_pixels == 1 ? " %) is" : " %) are") +
          " negative; the amplitude and Poisson likelihoods count them as 0");
  }
  for (const std::int64_t mode : problem.replaced_modes) {
    doubt("probe mode " + std::to_string(mode + 1) +
          " of the file has no share of the power, or is a multiple of modes before it, and would "
          "stay so: a guess takes its place");
  }
  if (problem.stored_probe_modes > config.probe.modes) {
    doubt("the file holds " + counted(problem.stored_probe_modes, "probe mode") +
          ", of which probe.modes = " + std::to_string(config.probe.modes) + " takes the first");
  }
  if (const std::int64_t over = overhanging(problem); over > 0) {
    doubt(counted(over, "window") + (over == 1 ? " hangs" : " hang") +
          " over the edge of the object, where there is vacuum");
  }
  if (config.device != "cuda") {
    if (const std::string text = doubt_of_sizes(config, problem); !text.empty()) {
      doubt(text);
      silence(Hint::kSlowSize);  // the operators would say it once more
    }
  }
  const std::int64_t a_batch = std::max<std::int64_t>(1, n / config.reconstruct.batch_count());
  if (n > 1 && a_batch < kFewInBatch && config.reconstruct.batch_count() > 1) {
    const std::int64_t better = std::max<std::int64_t>(1, n / kEnoughInBatch);
    doubt("reconstruct.batches = " + std::to_string(config.reconstruct.batch_count()) +
              " makes batches of " + counted(a_batch, "position") + " of the " + std::to_string(n) +
              ", whose updates seldom converge: reconstruct.batches = " + std::to_string(better) +
              " makes " + std::to_string(n / better) + " of each",
          "too few positions a batch (reconstruct.batches)");
  }
  const double cut_off =
      decomposition.grid.tiles() > 1 ? worst_energy_cut(problem, decomposition) : 0.0;
  if (cut_off > 0.01) {
    const auto exact = exact_halo(problem.window, problem.reach);
    doubt("the halo cuts off " + number(100.0 * cut_off, 3) +
              " % of the illumination of a tile; more than 1 % shows in the image (tiles.halo, at "
              "most exact: " +
              std::to_string(std::max(exact[0], exact[1])) + ")",
          "a halo that cuts off illumination (tiles.halo)");
  }
  for (const std::string& text : never_used(config)) doubt(text);
  return result;
}

}  // namespace ptyle::driver
