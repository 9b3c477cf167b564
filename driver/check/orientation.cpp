#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "driver/check/parts.h"
#include "driver/check/words.h"

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

}  // namespace

// Of a random phase a wrong orientation leaves half (mirrored) or all (a quarter turn) of the
// change as curl, a turn by t sin^2 t; noise alone half, whatever the orientation.
void doubt_orientation(const Config& config, const Problem& problem, const Scan& scan,
                       std::vector<Doubt>& found) {
  if (problem.detector || problem.masked_pixels > 0) return;
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
  const std::vector<Slope> all = slopes(points, centres, kReach * scan.step);
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
  if (mirrored.curl > kClear || now - mirrored.curl < kMuch) return;
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

}  // namespace ptyle::driver
