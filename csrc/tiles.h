// How an object is cut into tiles, and what tiles have of one another. Geometry alone: no tensors,
// no ranks.
//
// A tile owns a rectangle of the object; its extended tile is that and a halo around it, clipped to
// the object. Every pixel has exactly one owner. Rectangles are in object pixels, (row, column).
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

namespace ptyle {

struct Rectangle {
  std::int64_t row = 0, column = 0, rows = 0, columns = 0;
  std::int64_t pixels() const { return rows * columns; }
  bool empty() const { return rows <= 0 || columns <= 0; }
  friend bool operator==(const Rectangle&, const Rectangle&) = default;
};

inline Rectangle intersection(const Rectangle& a, const Rectangle& b) {
  const std::int64_t row = std::max(a.row, b.row), column = std::max(a.column, b.column);
  const std::int64_t row_end = std::min(a.row + a.rows, b.row + b.rows);
  const std::int64_t column_end = std::min(a.column + a.columns, b.column + b.columns);
  if (row_end <= row || column_end <= column) return {row, column, 0, 0};
  return {row, column, row_end - row, column_end - column};
}

inline bool contains(const Rectangle& outer, const Rectangle& inner) {
  return inner.row >= outer.row && inner.column >= outer.column &&
         inner.row + inner.rows <= outer.row + outer.rows &&
         inner.column + inner.columns <= outer.column + outer.columns;
}

// Rows of tiles times columns of tiles, numbered line by line. Cuts ascend from 0 to the object's
// size; two equal ones leave a tile without pixels, which has no halo either.
class TileGrid {
 public:
  using Cuts = std::vector<std::int64_t>;

  TileGrid(Cuts row_cuts, Cuts column_cuts, std::array<std::int64_t, 2> halo)
      : row_cuts_(std::move(row_cuts)), column_cuts_(std::move(column_cuts)), halo_(halo) {}

  std::int64_t rows() const { return static_cast<std::int64_t>(row_cuts_.size()) - 1; }
  std::int64_t columns() const { return static_cast<std::int64_t>(column_cuts_.size()) - 1; }
  std::int64_t tiles() const { return rows() * columns(); }
  const Cuts& row_cuts() const { return row_cuts_; }
  const Cuts& column_cuts() const { return column_cuts_; }
  std::array<std::int64_t, 2> halo() const { return halo_; }
  Rectangle object() const { return {0, 0, row_cuts_.back(), column_cuts_.back()}; }

  Rectangle owned(std::int64_t tile) const {
    const std::int64_t r = cut(row_cuts_, tile / columns());
    const std::int64_t c = cut(column_cuts_, tile % columns());
    return {r, c, cut(row_cuts_, tile / columns() + 1) - r,
            cut(column_cuts_, tile % columns() + 1) - c};
  }

  Rectangle extended(std::int64_t tile) const { return widened(owned(tile), halo_); }

  // `inner` with a margin on each side, clipped to the object; empty stays empty.
  Rectangle widened(const Rectangle& inner, std::array<std::int64_t, 2> margin) const {
    if (inner.empty()) return inner;
    const Rectangle wide{inner.row - margin[0], inner.column - margin[1],
                         inner.rows + 2 * margin[0], inner.columns + 2 * margin[1]};
    return intersection(wide, object());
  }

  // The tile that holds a point of the object; the nearest one for points outside.
  std::int64_t tile_at(double row, double column) const {
    return interval_of(row_cuts_, row) * columns() + interval_of(column_cuts_, column);
  }

  // Tiles whose owned region meets the rectangle, ascending.
  std::vector<std::int64_t> tiles_meeting(const Rectangle& area) const {
    std::vector<std::int64_t> met;
    const Rectangle there = intersection(area, object());
    if (there.empty()) return met;
    const std::int64_t last_row =
        interval_of(row_cuts_, static_cast<double>(there.row + there.rows - 1));
    const std::int64_t last_column =
        interval_of(column_cuts_, static_cast<double>(there.column + there.columns - 1));
    for (std::int64_t r = interval_of(row_cuts_, static_cast<double>(there.row)); r <= last_row;
         ++r) {
      for (std::int64_t c = interval_of(column_cuts_, static_cast<double>(there.column));
           c <= last_column; ++c) {
        if (!owned(r * columns() + c).empty()) met.push_back(r * columns() + c);
      }
    }
    return met;
  }

 private:
  static std::int64_t cut(const Cuts& cuts, std::int64_t k) {
    return cuts[static_cast<std::size_t>(k)];
  }
  // k with cuts[k] <= x < cuts[k + 1], held to the first and last interval that has pixels.
  static std::int64_t interval_of(const Cuts& cuts, double x) {
    const auto last = static_cast<double>(cuts.back() - 1);
    const double held = std::clamp(x, 0.0, std::max(0.0, last));
    const auto after = std::upper_bound(
        cuts.begin(), cuts.end(), held,
        [](double value, std::int64_t c) { return value < static_cast<double>(c); });
    const auto k = static_cast<std::int64_t>(after - cuts.begin()) - 1;
    return std::clamp<std::int64_t>(k, 0, static_cast<std::int64_t>(cuts.size()) - 2);
  }

  Cuts row_cuts_, column_cuts_;
  std::array<std::int64_t, 2> halo_;
};

// What one extended tile has of another tile's owned region.
struct Piece {
  std::int64_t owner = 0;     // whose pixels they are
  std::int64_t borrower = 0;  // in whose halo they are
  Rectangle area;
};

// The pieces in the halo of `tile`, by ascending owner.
inline std::vector<Piece> borrowed_by(const TileGrid& grid, std::int64_t tile) {
  std::vector<Piece> pieces;
  const Rectangle extended = grid.extended(tile);
  for (const std::int64_t owner : grid.tiles_meeting(extended)) {
    if (owner != tile) pieces.push_back({owner, tile, intersection(extended, grid.owned(owner))});
  }
  return pieces;
}

// The pieces that others have of `tile`, by ascending borrower. A halo is as wide for everybody:
// whoever is borrowed from borrows.
inline std::vector<Piece> lent_by(const TileGrid& grid, std::int64_t tile) {
  std::vector<Piece> pieces;
  const Rectangle owned = grid.owned(tile);
  for (const std::int64_t borrower : grid.tiles_meeting(grid.extended(tile))) {
    if (borrower != tile)
      pieces.push_back({tile, borrower, intersection(grid.extended(borrower), owned)});
  }
  return pieces;
}

}  // namespace ptyle
