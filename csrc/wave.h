// Pointwise physics of one window: what happens to a wave between two Fourier transforms.
//
// Gradients follow torch's convention for a real loss L of a complex z: dL/dRe(z) + i dL/dIm(z),
// twice the Wirtinger derivative dL/dz*. For y = a b this gives g_a = g_y conj(b).
#pragma once

#include <cstdint>

#include "csrc/scalar.h"

namespace ptyle {

// One axis of the Fourier ramp that moves a wave by `fraction` pixels towards higher indices:
// exp(-2 pi i k fraction / n), k = -n/2 .. n/2 in fftfreq's order. The Nyquist frequency of an even
// n stands for +n/2 and -n/2; half of each gives cos(pi fraction), so that a real wave stays real.
template <typename T>
struct ShiftRamp {
  Complex<T> value;
  Complex<T> slope;  // d value / d fraction
};

template <typename T>
PTYLE_HOST_DEVICE ShiftRamp<T> shift_ramp(int64_t index, int64_t n, T fraction) {
  const int64_t k = 2 * index < n ? index : index - n;
  const T rate = -T(2) * kPi<T> * T(k) / T(n);
  const T real_only = select(2 * index == n, T(0), T(1));
  const Complex<T> ramp = unit_phasor(rate * fraction);
  return {{ramp.re, real_only * ramp.im}, {-rate * ramp.im, real_only * rate * ramp.re}};
}

// The part of a window that lies on the object: rows [row_begin, row_end) of the window, likewise
// columns. Outside the object there is vacuum (transmission 1).
struct Footprint {
  int64_t row_begin, row_end, column_begin, column_end;
};

PTYLE_HOST_DEVICE int64_t clamp_index(int64_t value, int64_t low, int64_t high) {
  return value < low ? low : (value > high ? high : value);
}

// `row`, `column`: the window's corner in the object's array (after subtracting the origin).
PTYLE_HOST_DEVICE Footprint footprint(int64_t row, int64_t column, int64_t height, int64_t width,
                                      int64_t rows, int64_t columns) {
  return {clamp_index(-row, 0, height), clamp_index(rows - row, 0, height),
          clamp_index(-column, 0, width), clamp_index(columns - column, 0, width)};
}

}  // namespace ptyle
