// Sweeps over waves: along columns (panel by panel) and along rows (a group of W rows at a time).
// Each holds the transforms next to a point of the model and what happens there, so that a wave is
// read and written once between. Included within the namespace of one instruction set.

#pragma once

#include "csrc/cpu/butterflies.h"

// `count` of W complex numbers from memory, zeros behind them.
template <typename T>
PTYLE_INLINE ComplexVector<T> load_some(const T* from, int64_t count) {
  constexpr int W = kLanes<T>;
  if (count >= W) return load_interleaved(from);
  T some[2 * W] = {};
  for (int64_t i = 0; i < 2 * count; ++i) some[i] = from[i];
  return load_interleaved(some);
}
template <typename T>
PTYLE_INLINE void store_some(T* to, Vector<T> re, Vector<T> im, int64_t count) {
  constexpr int W = kLanes<T>;
  if (count >= W) return store_interleaved(to, re, im);
  T some[2 * W];
  store_interleaved(some, re, im);
  for (int64_t i = 0; i < 2 * count; ++i) to[i] = some[i];
}

// One panel of a window on the object: memory to read transmission from, and to add gradients and,
// where `illumination` is given, intensity to, row by row. Where the panel hangs over the object's
// or the window's edge both are scratch, with vacuum outside the object and 0 outside the window.
template <typename T>
class ObjectPanel {
 public:
  static constexpr int W = kLanes<T>;

  // gradient_numbers: of one pixel, 2 for a complex one, 1 for a real one, 0 for none.
  PTYLE_INLINE ObjectPanel(const Shape<T>& shape, const Place& place, int64_t panel,
                           const T* object, T* gradient, int gradient_numbers, T* illumination,
                           T* edge)
      : gradient_numbers_(gradient_numbers) {
    const int64_t column = place.column + panel * W;
    const int64_t height = shape.height(), width = shape.width();
    const bool inside = place.row >= 0 && place.row + height <= place.rows && column >= 0 &&
                        column + W <= place.columns && (panel + 1) * W <= width;
    if (inside) {
      const int64_t first = place.row * place.columns + column;
      object_ = object + 2 * first;
      object_stride_ = 2 * place.columns;
      if (gradient_numbers > 0) gradient_ = gradient + gradient_numbers * first;
      gradient_stride_ = gradient_numbers * place.columns;
      if (illumination != nullptr) illumination_ = illumination + first;
      illumination_stride_ = place.columns;
      return;
    }
    object_ = edge;
    object_stride_ = gradient_stride_ = 2 * W;
    gradient_ = edge + height * 2 * W;
    if (illumination != nullptr) illumination_ = edge + height * 4 * W;
    illumination_stride_ = W;
    const int64_t lanes = width - panel * W < W ? width - panel * W : W;  // of the window
    row_begin_ = clamp(-place.row, height);
    row_end_ = clamp(place.rows - place.row, height);
    lane_begin_ = clamp(-column, lanes);
    lane_end_ = clamp(place.columns - column, lanes);
    if (lane_end_ <= lane_begin_ || row_end_ <= row_begin_) row_end_ = row_begin_ = 0;
    for (int64_t y = 0; y < height; ++y) {
      T* to = edge + y * 2 * W;
      for (int64_t l = 0; l < W; ++l) {
        to[2 * l] = l < lanes ? T(1) : T(0);
        to[2 * l + 1] = T(0);
      }
      if (y < row_begin_ || y >= row_end_) continue;
      const int64_t at = (place.row + y) * place.columns + column;
      for (int64_t l = lane_begin_; l < lane_end_; ++l) {
        to[2 * l] = object[2 * (at + l)];
        to[2 * l + 1] = object[2 * (at + l) + 1];
      }
    }
    if (gradient_numbers == 0) return;
    const int64_t added = height * (illumination != nullptr ? 3 : 2) * W;
    for (int64_t i = 0; i < added; ++i) gradient_[i] = T(0);
    if (row_end_ == row_begin_) return;  // far away, where products would overflow
    whole_gradient_ = gradient;
    whole_illumination_ = illumination;
    first_ = place.row * place.columns + column;
    columns_ = place.columns;
  }

  PTYLE_INLINE const T* object(int64_t y) const { return object_ + y * object_stride_; }
  PTYLE_INLINE T* gradient(int64_t y) const { return gradient_ + y * gradient_stride_; }
  PTYLE_INLINE bool is_illuminated() const { return illumination_ != nullptr; }
  PTYLE_INLINE T* illumination(int64_t y) const { return illumination_ + y * illumination_stride_; }

  // What was added to scratch goes to the object's gradient and illumination.
  PTYLE_INLINE void finish() const {
    if (whole_gradient_ == nullptr) return;
    for (int64_t y = row_begin_; y < row_end_; ++y) {
      const int64_t at = first_ + y * columns_;
      add_row(gradient(y), whole_gradient_ + gradient_numbers_ * at, gradient_numbers_);
      if (is_illuminated()) add_row(illumination(y), whole_illumination_ + at, 1);
    }
  }

 private:
  PTYLE_INLINE void add_row(const T* from, T* to, int numbers) const {
    for (int64_t l = numbers * lane_begin_; l < numbers * lane_end_; ++l) to[l] += from[l];
  }
  PTYLE_INLINE static int64_t clamp(int64_t value, int64_t high) {
    return value < 0 ? 0 : (value > high ? high : value);
  }

  const T* object_;
  int64_t object_stride_;
  T* gradient_ = nullptr;
  int64_t gradient_stride_ = 0;
  int gradient_numbers_;
  T* illumination_ = nullptr;
  int64_t illumination_stride_ = 0;
  T *whole_gradient_ = nullptr, *whole_illumination_ = nullptr;
  int64_t first_ = 0, columns_ = 0;
  int64_t row_begin_ = 0, row_end_ = 0, lane_begin_ = 0, lane_end_ = 0;
};

// One panel: inverse levels, `get` (where there are none), `work`, forward levels, `put` (where
// there are none). spare: scratch of transforms.
template <bool Inverse, bool Forward, typename T, typename Get, typename Work, typename Put>
PTYLE_INLINE void along_columns(const Axis<T>& axis, T* x, T* spare, const Get& get,
                                const Work& work, const Put& put) {
  if constexpr (Inverse) inner_levels<true>(axis, x, spare);
  with_outermost(
      axis.radix[0], [&](auto radix) __attribute__((always_inline)) {
        outermost<decltype(radix)::value, Inverse, Forward>(axis, x, get, work, put);
      });
  if constexpr (Forward) inner_levels<false>(axis, x, spare);
}

// One group of rows in `line`.
template <bool Forward, bool Inverse, typename T, typename Get, typename Work, typename Put>
PTYLE_INLINE void along_rows(const Axis<T>& axis, T* line, const Get& get, const Work& work,
                             const Put& put) {
  constexpr int W = kLanes<T>;
  T* spare = line + (axis.size + W - 1) / W * W * 2 * W;
  if constexpr (Forward) outer_levels<false>(axis, line, spare);
  with_innermost(
      axis.radix[axis.levels - 1], [&](auto radix) __attribute__((always_inline)) {
        innermost<decltype(radix)::value, Forward, Inverse>(axis, line, get, work, put);
      });
  if constexpr (Inverse) outer_levels<true>(axis, line, spare);
}

// W rows of all panels -> a line: element x holds column x, a lane a row. And back.
template <typename T>
__attribute__((noinline)) void gather_rows(const Shape<T>& shape, const T* wave, int64_t group,
                                           T* line) {
  constexpr int W = kLanes<T>;
  const int64_t panels = shape.panels(), stride = shape.panel_rows() * 2 * W;
  const T* from = wave + group * W * 2 * W;
  for (int64_t p = 0; p < panels; ++p) {
    for (int part = 0; part < 2; ++part) {
      Vector<T> x[W];
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) x[i] = load(from + p * stride + i * 2 * W + part * W);
      transpose<T>(x);
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) store(line + (p * W + i) * 2 * W + part * W, x[i]);
    }
  }
}
template <typename T>
__attribute__((noinline)) void scatter_rows(const Shape<T>& shape, const T* line, int64_t group,
                                            T* wave) {
  constexpr int W = kLanes<T>;
  const int64_t panels = shape.panels(), stride = shape.panel_rows() * 2 * W;
  T* to = wave + group * W * 2 * W;
  for (int64_t p = 0; p < panels; ++p) {
    for (int part = 0; part < 2; ++part) {
      Vector<T> x[W];
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) x[i] = load(line + (p * W + i) * 2 * W + part * W);
      transpose<T>(x);
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) store(to + p * stride + i * 2 * W + part * W, x[i]);
    }
  }
}
// Elements of a line behind the last column stay 0.
template <typename T>
PTYLE_INLINE void clear_line_end(const Shape<T>& shape, T* line) {
  constexpr int W = kLanes<T>;
  for (int64_t i = shape.width() * 2 * W; i < shape.line() - shape.spare(); ++i) line[i] = T(0);
}
