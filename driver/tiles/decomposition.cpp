#include "driver/tiles/decomposition.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "driver/errors.h"

namespace ptyle::driver {
namespace {

struct Point {
  double row, column;
};

// A window's centre; positions that are refined stay with their tile.
std::vector<Point> centres_of(const at::Tensor& positions, Pair window) {
  const at::Tensor plain = positions.contiguous();
  const double* p = plain.const_data_ptr<double>();
  std::vector<Point> centres;
  for (std::int64_t n = 0; n < positions.size(0); ++n) {
    centres.push_back({p[2 * n] + 0.5 * static_cast<double>(window[0]),
                       p[2 * n + 1] + 0.5 * static_cast<double>(window[1])});
  }
  return centres;
}

// `count` intervals over [0, size) with as many of the ascending `places` in each, as whole pixels
// and at least one pixel each allow.
std::vector<std::int64_t> balanced_cuts(std::vector<double> places, std::int64_t size,
                                        std::int64_t count, const char* axis) {
  if (count > size) {
    throw ConfigError(
        std::string("tiles.grid: must have at most as many tiles as the object has ") + axis +
        ", " + std::to_string(size) + ", got " + std::to_string(count));
  }
  std::sort(places.begin(), places.end());
  std::vector<std::int64_t> cuts{0};
  for (std::int64_t k = 1; k < count; ++k) {
    std::int64_t cut = size * k / count;
    if (!places.empty()) {
      // Half way between the last place of one interval and the first of the next.
      const auto n = static_cast<std::int64_t>(places.size());
      const std::int64_t after = std::clamp<std::int64_t>(n * k / count, 1, n - 1 > 0 ? n - 1 : 1);
      const double left = places[static_cast<std::size_t>(after - 1)];
      const double right = places[static_cast<std::size_t>(std::min(after, n - 1))];
      cut = static_cast<std::int64_t>(std::ceil(0.5 * (left + right)));
    }
    cuts.push_back(std::clamp(cut, cuts.back() + 1, size - (count - k)));
  }
  cuts.push_back(size);
  return cuts;
}

// Contiguous runs of tiles, balanced by positions (a tile without any counts a little); every rank
// has a tile.
std::vector<std::int64_t> assign(const std::vector<std::int64_t>& tile_of, std::int64_t tiles,
                                 std::int64_t ranks) {
  std::vector<double> load(static_cast<std::size_t>(tiles), 1e-3);
  for (const std::int64_t tile : tile_of) load[static_cast<std::size_t>(tile)] += 1.0;
  const double all = std::accumulate(load.begin(), load.end(), 0.0);
  std::vector<std::int64_t> owners;
  double before = 0.0;
  for (std::int64_t tile = 0; tile < tiles; ++tile) {
    const double middle = before + 0.5 * load[static_cast<std::size_t>(tile)];
    auto owner = static_cast<std::int64_t>(middle / all * static_cast<double>(ranks));
    const std::int64_t last = owners.empty() ? -1 : owners.back();
    // ascending without a gap, and a tile left for every rank that follows
    owner = std::clamp(owner, std::max<std::int64_t>(last, 0), last + 1);
    owner = std::max(owner, ranks - (tiles - tile));
    owners.push_back(std::min(owner, ranks - 1));
    before += load[static_cast<std::size_t>(tile)];
  }
  return owners;
}

std::string by(Pair pair) { return std::to_string(pair[0]) + " x " + std::to_string(pair[1]); }

}  // namespace

double neighbour_distance(const at::Tensor& positions) {
  const at::Tensor plain = positions.contiguous();
  const double* p = plain.const_data_ptr<double>();
  const std::int64_t n = positions.size(0);
  if (n < 2) return 0.0;
  std::vector<double> nearest;
  const std::int64_t samples = std::min<std::int64_t>(n, 500);
  for (std::int64_t s = 0; s < samples; ++s) {
    const std::int64_t a = s * n / samples;
    double best = std::numeric_limits<double>::infinity();
    for (std::int64_t b = 0; b < n; ++b) {
      if (b == a) continue;
      best = std::min(best, std::hypot(p[2 * a] - p[2 * b], p[2 * a + 1] - p[2 * b + 1]));
    }
    nearest.push_back(best);
  }
  std::nth_element(nearest.begin(), nearest.begin() + samples / 2, nearest.end());
  return nearest[static_cast<std::size_t>(samples / 2)];
}

at::Tensor cut_out(const at::Tensor& image, const Rectangle& frame, const Rectangle& area) {
  return image.narrow(-2, area.row - frame.row, area.rows)
      .narrow(-1, area.column - frame.column, area.columns);
}

Pair exact_halo(Pair window, std::int64_t reach) {
  return {(window[0] + 1) / 2 + reach, (window[1] + 1) / 2 + reach};
}

TileGrid make_grid(const at::Tensor& positions, Pair window, Pair object, Pair tiles, Pair halo) {
  std::vector<double> rows, columns;
  for (const Point& centre : centres_of(positions, window)) {
    rows.push_back(std::clamp(centre.row, 0.0, static_cast<double>(object[0])));
    columns.push_back(std::clamp(centre.column, 0.0, static_cast<double>(object[1])));
  }
  return {balanced_cuts(std::move(rows), object[0], tiles[0], "rows"),
          balanced_cuts(std::move(columns), object[1], tiles[1], "columns"), halo};
}

Pair grid_for(std::int64_t ranks, Pair object) {
  Pair best{1, ranks};
  double best_edge = std::numeric_limits<double>::infinity();
  for (std::int64_t rows = 1; rows <= ranks; ++rows) {
    if (ranks % rows != 0) continue;
    const std::int64_t columns = ranks / rows;
    // The length of all cuts is what is exchanged.
    const double edge = static_cast<double>((rows - 1) * object[1] + (columns - 1) * object[0]);
    if (rows <= object[0] && columns <= object[1] && edge < best_edge) {
      best = {rows, columns};
      best_edge = edge;
    }
  }
  return best;
}

std::vector<std::int64_t> Decomposition::tiles_of_rank(std::int64_t rank) const {
  std::vector<std::int64_t> mine;
  for (std::size_t tile = 0; tile < owners.size(); ++tile) {
    if (owners[tile] == rank) mine.push_back(static_cast<std::int64_t>(tile));
  }
  return mine;
}

std::vector<std::int64_t> Decomposition::positions_of_tile(std::int64_t tile,
                                                           const at::Tensor& positions) const {
  std::vector<std::int64_t> needed;
  if (!exchange.copies_voxels) {
    for (std::size_t n = 0; n < tile_of.size(); ++n) {
      if (tile_of[n] == tile) needed.push_back(static_cast<std::int64_t>(n));
    }
    return needed;
  }
  const Rectangle owned = grid.owned(tile);
  const std::vector<Point> centres = centres_of(positions, window);
  for (std::size_t n = 0; n < centres.size(); ++n) {
    const auto [row, column] = centres[n];
    const bool near = !owned.empty() && row >= static_cast<double>(owned.row - extra[0]) &&
                      row < static_cast<double>(owned.row + owned.rows + extra[0]) &&
                      column >= static_cast<double>(owned.column - extra[1]) &&
                      column < static_cast<double>(owned.column + owned.columns + extra[1]);
    if (near || tile_of[n] == tile) needed.push_back(static_cast<std::int64_t>(n));
  }
  return needed;
}

std::vector<std::int64_t> Decomposition::positions_of_rank(std::int64_t rank,
                                                           const at::Tensor& positions) const {
  std::vector<std::int64_t> needed;
  for (const std::int64_t tile : tiles_of_rank(rank)) {
    const std::vector<std::int64_t> of_tile = positions_of_tile(tile, positions);
    needed.insert(needed.end(), of_tile.begin(), of_tile.end());
  }
  std::sort(needed.begin(), needed.end());
  needed.erase(std::unique(needed.begin(), needed.end()), needed.end());
  return needed;
}

Decomposition decompose(const at::Tensor& positions, Pair window, Pair object, std::int64_t ranks,
                        const DecompositionOptions& options) {
  Decomposition cut;
  cut.exchange = exchange_kind(options.exchange);
  cut.window = window;
  cut.averages = options.averages;
  const Pair tiles = options.grid.value_or(grid_for(ranks, object));
  cut.reach = options.reach;
  const Pair exact = exact_halo(window, options.reach);
  const Pair halo = options.halo ? Pair{*options.halo, *options.halo} : exact;
  cut.grid = make_grid(positions, window, object, tiles, halo);
  const std::int64_t count = cut.grid.tiles();
  if (count < ranks) {
    throw ConfigError("tiles.grid: must have a tile for each of the " + std::to_string(ranks) +
                      " ranks (tiles.grid = \"auto\" makes one for each), got " + by(tiles));
  }
  for (const Point& centre : centres_of(positions, window)) {
    cut.tile_of.push_back(cut.grid.tile_at(centre.row, centre.column));
  }
  if (cut.exchange.copies_voxels) {
    const double step = positions.size(0) < 2 ? 1.0 : neighbour_distance(positions);
    const auto reach =
        static_cast<std::int64_t>(std::ceil(static_cast<double>(options.extra_rows) * step));
    cut.extra = {reach, reach};
    // Windows of the extra positions fit too.
    cut.grid =
        TileGrid(cut.grid.row_cuts(), cut.grid.column_cuts(), {halo[0] + reach, halo[1] + reach});
  }
  cut.owners = assign(cut.tile_of, count, ranks);
  if (cut.exchange.whole_object) {
    // Every rank holds all of the object and the positions of its tiles; rank 0's copy counts.
    const std::vector<std::int64_t> ranks_of = cut.owners;
    for (std::int64_t& tile : cut.tile_of) tile = ranks_of[static_cast<std::size_t>(tile)];
    const Rectangle whole = cut.grid.object();
    cut.owners.resize(static_cast<std::size_t>(ranks));
    std::iota(cut.owners.begin(), cut.owners.end(), 0);
    for (std::int64_t rank = 0; rank < ranks; ++rank) {
      cut.tiles.push_back({rank, rank == 0 ? whole : Rectangle{}, whole, whole});
    }
    return cut;
  }
  for (std::int64_t tile = 0; tile < count; ++tile) {
    const Rectangle owned = cut.grid.owned(tile), frame = cut.grid.extended(tile);
    cut.tiles.push_back({tile, owned, frame, cut.exchange.updates_frames ? frame : owned});
  }
  return cut;
}

}  // namespace ptyle::driver
