// Bodies of the kernels of the multislice model, its detection and its adjoint, for a chunk of b
// positions: what the Fourier transforms between them do not do. Compiled for devices by nvcc, and
// for the host by the tests' emulator. Formulae are those of csrc (wave.h, likelihood.h); layouts
// are row-major, waves [b, modes, h, w]. Sums have a fixed order.
#pragma once

#include <cstdint>

#include "csrc/cuda/memory.cuh"
#include "csrc/cuda/multislice.h"
#include "csrc/cuda/sums.cuh"
#include "csrc/likelihood.h"
#include "csrc/wave.h"

namespace ptyle::cuda {

PTYLE_DEVICE int64_t pixels_of(const Chunk& c) { return c.height * c.width; }
PTYLE_DEVICE int64_t waves_of(const Chunk& c) { return c.positions * c.modes; }
PTYLE_DEVICE bool shifted(const Chunk& c, int64_t n) {
  return read_small(c.fractions + 2 * n) != 0.0 || read_small(c.fractions + 2 * n + 1) != 0.0;
}

// A block works on so many pixels of a wave at a time: within a wave 32 bits are enough, and the
// divisions that tell rows from columns are cheap.
constexpr int64_t kSegment = 4 * kBlockThreads;

// Blocks for `waves` waves [h, w].
PTYLE_HOST_DEVICE int64_t segments_of(int64_t pixels) { return (pixels + kSegment - 1) / kSegment; }

// body(wave, pixel): this thread's pixels of all waves.
template <typename Body>
PTYLE_DEVICE void for_each_pixel(const Chunk& c, int64_t waves, const Body& body) {
  const int64_t pixels = pixels_of(c), segments = segments_of(pixels);
  for (int64_t block = blockIdx.x; block < waves * segments; block += gridDim.x) {
    const int64_t wave = static_cast<unsigned>(block) / static_cast<unsigned>(segments);
    const int64_t first = (block - wave * segments) * kSegment;
    const int64_t end = first + kSegment < pixels ? first + kSegment : pixels;
    for (int64_t pixel = first + threadIdx.x; pixel < end; pixel += blockDim.x) {
      body(wave, static_cast<unsigned>(pixel));
    }
  }
}

PTYLE_DEVICE int64_t position_of(const Chunk& c, int64_t wave) {
  return static_cast<unsigned>(wave) / static_cast<unsigned>(c.modes);
}

// A pixel of a window [h, w], and where it lies on a slice of the object; -1 in vacuum.
struct Place {
  unsigned y, x;
  int64_t at;
};

PTYLE_DEVICE Place place_of(const Chunk& c, int64_t n, unsigned pixel) {
  Place p;
  p.y = pixel / static_cast<unsigned>(c.width);
  p.x = pixel - p.y * static_cast<unsigned>(c.width);
  const int64_t row = read_small(c.corners + 2 * n) + p.y;
  const int64_t column = read_small(c.corners + 2 * n + 1) + p.x;
  const bool inside = row >= 0 && row < c.rows && column >= 0 && column < c.columns;
  p.at = inside ? row * c.columns + column : -1;
  return p;
}

// Both axes' Fourier ramps and slopes of all positions: [b, h + w] each.
template <typename T>
__global__ void fill_ramps(Chunk c, Complex<T>* ramps, Complex<T>* slopes) {
  const int64_t length = c.height + c.width;
  for (int64_t i = first_item(); i < c.positions * length; i += item_step()) {
    const int64_t n = i / length, k = i % length;
    const bool row = k < c.height;
    const ShiftRamp<double> z =  // in double: frequency times a fraction
        shift_ramp<double>(row ? k : k - c.height, row ? c.height : c.width,
                           read_small(c.fractions + 2 * n + (row ? 0 : 1)));
    write(ramps + i, Complex<T>{static_cast<T>(z.value.re), static_cast<T>(z.value.im)});
    write(slopes + i, Complex<T>{static_cast<T>(z.slope.re), static_cast<T>(z.slope.im)});
  }
}

// waves = ramp x spectrum [modes, h, w], to be transformed back.
template <typename T>
__global__ void move_probe(Chunk c, const Complex<T>* spectrum, const Complex<T>* ramps,
                           Complex<T>* waves) {
  for_each_pixel(c, waves_of(c), [&](int64_t wave, unsigned pixel) {
    const int64_t n = position_of(c, wave), mode = wave - n * c.modes;
    const unsigned y = pixel / static_cast<unsigned>(c.width);
    const unsigned x = pixel - y * static_cast<unsigned>(c.width);
    const Complex<T>* ramp = ramps + n * (c.height + c.width);
    const Complex<T> factor = read(ramp + y) * read(ramp + c.height + x);
    write(waves + wave * pixels_of(c) + pixel,
          factor * read(spectrum + mode * pixels_of(c) + pixel));
  });
}

// waves = probe where a position has no fraction, to the bit.
template <typename T>
__global__ void copy_probe(Chunk c, const Complex<T>* probe, Complex<T>* waves) {
  for_each_pixel(c, waves_of(c), [&](int64_t wave, unsigned pixel) {
    const int64_t n = position_of(c, wave), mode = wave - n * c.modes;
    if (shifted(c, n)) return;
    write(waves + wave * pixels_of(c) + pixel, read(probe + mode * pixels_of(c) + pixel));
  });
}

// to = from x O, vacuum outside the object.
template <typename T>
__global__ void transmit(Chunk c, const Complex<T>* slice, const Complex<T>* from, Complex<T>* to) {
  for_each_pixel(c, waves_of(c), [&](int64_t wave, unsigned pixel) {
    const Place p = place_of(c, position_of(c, wave), pixel);
    const int64_t i = wave * pixels_of(c) + pixel;
    const Complex<T> value = read(from + i);
    write(to + i, p.at < 0 ? value : value * read(slice + p.at));
  });
}

// wave *= factor, or its conjugate.
template <typename T>
PTYLE_DEVICE void multiply(Complex<T>* wave, Complex<T> factor, bool conjugate) {
  const Complex<T> value = read(static_cast<const Complex<T>*>(wave));
  write(wave, conjugate ? conj_times(factor, value) : factor * value);
}

// waves *= scale x factor [h, w], or its conjugate.
template <typename T>
__global__ void propagate(Chunk c, const Complex<T>* factor, T scale, bool conjugate,
                          Complex<T>* waves) {
  for_each_pixel(c, waves_of(c), [&](int64_t wave, unsigned pixel) {
    multiply(waves + wave * pixels_of(c) + pixel, scale * read(factor + pixel), conjugate);
  });
}

// waves *= scale x factor [h, w] x conj(ramp), or the conjugate of that: the near field's waves are
// moved back by what the probe was moved.
template <typename T>
__global__ void propagate_back(Chunk c, const Complex<T>* factor, T scale, const Complex<T>* ramps,
                               bool conjugate, Complex<T>* waves) {
  for_each_pixel(c, waves_of(c), [&](int64_t wave, unsigned pixel) {
    const unsigned y = pixel / static_cast<unsigned>(c.width);
    const unsigned x = pixel - y * static_cast<unsigned>(c.width);
    const Complex<T>* ramp = ramps + position_of(c, wave) * (c.height + c.width);
    const Complex<T> moved = read(ramp + y) * read(ramp + c.height + x);
    multiply(waves + wave * pixels_of(c) + pixel, conj_times(moved, scale * read(factor + pixel)),
             conjugate);
  });
}

// intensity [b, h, w] = scale x sum over modes |wave|^2
template <typename T>
__global__ void sum_intensity(Chunk c, const Complex<T>* waves, T scale, T* intensity) {
  for_each_pixel(c, c.positions, [&](int64_t n, unsigned pixel) {
    T sum = 0;
    for (int64_t m = 0; m < c.modes; ++m) {
      sum += abs_squared(read(waves + (n * c.modes + m) * pixels_of(c) + pixel));
    }
    write(intensity + n * pixels_of(c) + pixel, scale * sum);
  });
}

// waves *= 2 scale slope, slope [b, h, w] = dL/dI
template <typename T>
__global__ void scale_by_slope(Chunk c, const T* slope, T scale, Complex<T>* waves) {
  for_each_pixel(c, waves_of(c), [&](int64_t wave, unsigned pixel) {
    const T factor = T(2) * scale * read(slope + position_of(c, wave) * pixels_of(c) + pixel);
    Complex<T>* to = waves + wave * pixels_of(c) + pixel;
    write(to, factor * read(static_cast<const Complex<T>*>(to)));
  });
}

// Modulus, loss and the gradient of the detected waves in one: a block a segment of a position's
// pixels, whose losses it sums into `parts` [b, segments], and what the amplitude likelihood's
// would be into `error_parts`, or null. With `gradient`, waves *= 2 weight scale dloss/dI.
template <typename T, typename Count, typename Functor>
__global__ void compare(Chunk c, Patterns<T, Count> patterns, Functor likelihood, T scale,
                        bool gradient, Complex<T>* waves, double* parts, double* error_parts) {
  const int64_t pixels = pixels_of(c), segments = segments_of(pixels);
  for (int64_t block = blockIdx.x; block < c.positions * segments; block += gridDim.x) {
    const int64_t n = static_cast<unsigned>(block) / static_cast<unsigned>(segments);
    const int64_t first = (block - n * segments) * kSegment;
    const int64_t end = first + kSegment < pixels ? first + kSegment : pixels;
    const T weight = patterns.weights != nullptr ? read_small(patterns.weights + n) : T(1);
    double loss = 0, error = 0;
    for (int64_t pixel = first + threadIdx.x; pixel < end; pixel += blockDim.x) {
      Complex<T>* wave = waves + n * c.modes * pixels + pixel;
      T expected = 0;
      for (int64_t m = 0; m < c.modes; ++m) {
        expected += abs_squared(read(static_cast<const Complex<T>*>(wave) + m * pixels));
      }
      expected = scale * expected;
      if (patterns.background != nullptr) {
        expected += read(patterns.background + (patterns.background_each ? n * pixels : 0) + pixel);
      }
      const bool bad = patterns.mask != nullptr &&
                       read(patterns.mask + (patterns.mask_each ? n * pixels : 0) + pixel) != 0;
      const T count = static_cast<T>(read(patterns.counts + n * pixels + pixel));
      const LossAndSlope<T> at = likelihood(expected, count);
      loss += bad ? 0.0 : static_cast<double>(at.loss);
      if (error_parts != nullptr && !bad) {
        error += static_cast<double>(AmplitudeLikelihood{}(expected, count).loss);
      }
      if (!gradient) continue;
      const T factor = bad ? T(0) : T(2) * weight * scale * at.slope;
      for (int64_t m = 0; m < c.modes; ++m) {
        Complex<T>* to = wave + m * pixels;
        write(to, factor * read(static_cast<const Complex<T>*>(to)));
      }
    }
    const double sum = block_sum(loss);
    if (threadIdx.x == 0) write(parts + block, sum);
    if (error_parts == nullptr) continue;
    const double error_sum = block_sum(error);
    if (threadIdx.x == 0) write(error_parts + block, error_sum);
  }
}

// losses [b] += the parts of each, in order.
__global__ inline void add_losses(Chunk c, const double* parts, double* losses) {
  const int64_t segments = segments_of(pixels_of(c));
  for (int64_t n = first_item(); n < c.positions; n += item_step()) {
    double sum = 0;
    for (int64_t k = 0; k < segments; ++k) sum += read(parts + n * segments + k);
    add(losses + n, sum);
  }
}

// Gradient of phi -> gradient of psi in place, and the object's patches [b, h, w]: sum over modes
// of conj(psi) g, or for a real object O = exp(i v) its Im(conj(O) .); intensity [b, h, w]: that of
// psi. Both may be null.
template <typename T, typename Patch>
__global__ void transmit_adjoint(Chunk c, const Complex<T>* slice, const Complex<T>* psi,
                                 Complex<T>* gradient, Patch* patches, T* intensity) {
  for_each_pixel(c, c.positions, [&](int64_t n, unsigned pixel) {
    const Place p = place_of(c, n, pixel);
    Patch* patch = patches != nullptr ? patches + n * pixels_of(c) + pixel : nullptr;
    T* power = intensity != nullptr ? intensity + n * pixels_of(c) + pixel : nullptr;
    if (p.at < 0) {
      if (patch != nullptr) write(patch, Patch{});
      if (power != nullptr) write(power, T(0));
      return;
    }
    const Complex<T> o = read(slice + p.at);
    Complex<T> sum{0, 0};
    T power_sum = 0;
    for (int64_t m = 0; m < c.modes; ++m) {
      const int64_t at = (n * c.modes + m) * pixels_of(c) + pixel;
      const Complex<T> g = read(static_cast<const Complex<T>*>(gradient) + at);
      if (patch != nullptr) {
        const Complex<T> wave = read(psi + at);
        sum += conj_times(wave, g);
        power_sum += abs_squared(wave);
      }
      write(gradient + at, conj_times(o, g));
    }
    if (power != nullptr) write(power, power_sum);
    if (patch == nullptr) return;
    if constexpr (sizeof(Patch) == sizeof(T)) {
      write(patch, conj_times(o, sum).im);
    } else {
      write(patch, sum);
    }
  });
}

// Adds patches to a slice of the object's gradient in no order: what add_windows (windows.cuh) does
// in order.
template <typename T, typename Patch>
__global__ void add_patches_atomic(Chunk c, const Patch* patches, Patch* slice) {
  for_each_pixel(c, c.positions, [&](int64_t n, unsigned pixel) {
    const Place p = place_of(c, n, pixel);
    if (p.at < 0) return;
    const Patch patch = read(patches + n * pixels_of(c) + pixel);
    T* to = reinterpret_cast<T*>(slice + p.at);
    if constexpr (sizeof(Patch) == sizeof(T)) {
      atomicAdd(to, patch);
    } else {
      atomicAdd(to, patch.re);
      atomicAdd(to + 1, patch.im);
    }
  });
}

// probe [modes, h, w] += the gradients of positions without a fraction, ascending.
template <typename T>
__global__ void add_probe(Chunk c, const Complex<T>* gradient, Complex<T>* probe) {
  const int64_t size = c.modes * pixels_of(c);
  for (int64_t i = first_item(); i < size; i += item_step()) {
    const Complex<T> before = read(static_cast<const Complex<T>*>(probe) + i);
    write(probe + i, sum_in_order(before, c.positions, [&](int64_t n) {
            return shifted(c, n) ? Complex<T>{0, 0} : read(gradient + n * size + i);
          }));
  }
}

// spectrum [modes, h, w] += conj(ramp) F gradient of positions with a fraction, ascending.
template <typename T>
__global__ void add_spectrum(Chunk c, const Complex<T>* transformed, const Complex<T>* ramps,
                             Complex<T>* spectrum) {
  const int64_t size = c.modes * pixels_of(c);
  for (int64_t i = first_item(); i < size; i += item_step()) {
    const int64_t y = i / c.width % c.height, x = i % c.width;
    const Complex<T> before = read(static_cast<const Complex<T>*>(spectrum) + i);
    write(spectrum + i, sum_in_order(before, c.positions, [&](int64_t n) {
            if (!shifted(c, n)) return Complex<T>{0, 0};
            const Complex<T>* ramp = ramps + n * (c.height + c.width);
            return conj_times(read(ramp + y) * read(ramp + c.height + x),
                              read(transformed + n * size + i));
          }));
  }
}

// positions [b, 2] += Re sum weight(n, i) d ramp / d fraction, i over modes and pixels; a block a
// position.
template <typename T, typename Weight>
PTYLE_DEVICE void add_by_slopes(const Chunk& c, const Complex<T>* ramps, const Complex<T>* slopes,
                                double* positions, const Weight& weight) {
  const int64_t size = c.modes * pixels_of(c), length = c.height + c.width;
  for (int64_t n = blockIdx.x; n < c.positions; n += gridDim.x) {
    double row_sum = 0, column_sum = 0;
    for (int64_t i = threadIdx.x; i < size; i += blockDim.x) {
      const int64_t y = i / c.width % c.height, x = c.height + i % c.width;
      const Complex<T> at_pixel = weight(n, i);
      const Complex<T> by_row = read(slopes + n * length + y) * read(ramps + n * length + x);
      const Complex<T> by_column = read(ramps + n * length + y) * read(slopes + n * length + x);
      row_sum += static_cast<double>((at_pixel * by_row).re);
      column_sum += static_cast<double>((at_pixel * by_column).re);
    }
    row_sum = block_sum(row_sum);
    column_sum = block_sum(column_sum);
    if (threadIdx.x == 0) {
      add(positions + 2 * n, row_sum);
      add(positions + 2 * n + 1, column_sum);
    }
  }
}

// positions [b, 2] += Re sum conj(F gradient) (d ramp / d fraction) F P
template <typename T>
__global__ void add_positions(Chunk c, const Complex<T>* transformed, const Complex<T>* spectrum,
                              const Complex<T>* ramps, const Complex<T>* slopes,
                              double* positions) {
  const int64_t size = c.modes * pixels_of(c);
  add_by_slopes(c, ramps, slopes, positions, [&](int64_t n, int64_t i) {
    return conj_times(read(transformed + n * size + i), read(spectrum + i));
  });
}

// positions [b, 2] += Re sum conj(F gradient) scale factor conj(d ramp / d fraction) F phi: what
// propagate_back adds to their gradient.
template <typename T>
__global__ void add_detected_positions(Chunk c, const Complex<T>* transformed,
                                       const Complex<T>* spectrum, const Complex<T>* factor,
                                       T scale, const Complex<T>* ramps, const Complex<T>* slopes,
                                       double* positions) {
  const int64_t size = c.modes * pixels_of(c);
  add_by_slopes(c, ramps, slopes, positions, [&](int64_t n, int64_t i) {
    return conj_times(scale * read(factor + i % pixels_of(c)) * read(spectrum + n * size + i),
                      read(transformed + n * size + i));
  });
}

// sum [h, w] += scale x sum over positions and modes of conj(F phi) F gradient, ascending.
template <typename T>
__global__ void add_propagator(Chunk c, const Complex<T>* transmitted,
                               const Complex<T>* transformed, T scale, Complex<T>* sum) {
  for (int64_t i = first_item(); i < pixels_of(c); i += item_step()) {
    const Complex<T> before = read(static_cast<const Complex<T>*>(sum) + i);
    write(sum + i, sum_in_order(before, c.positions * c.modes, [&](int64_t k) {
            return scale * conj_times(read(transmitted + k * pixels_of(c) + i),
                                      read(transformed + k * pixels_of(c) + i));
          }));
  }
}

}  // namespace ptyle::cuda
