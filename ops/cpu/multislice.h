// The multislice model and its adjoint for chunks of positions, with ATen's Fourier transforms.
//
// A chunk is a fixed run of positions (its size depends on the problem alone, never on the number
// of threads), worked on by one thread. What a chunk adds to the gradients is added by
// `run_ordered` in ascending order of positions, so that the result is bitwise the same for any
// number of threads. The model, the adjoint and their names are those of csrc/README.md.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_fft_c2c.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "csrc/scalar.h"
#include "csrc/wave.h"
#include "ops/gradients.h"

// Inside libtorch_cpu where it was built with MKL; the thread's own number of threads, 0: the
// global one; returns the one before.
extern "C" int MKL_Set_Num_Threads_Local(int threads) __attribute__((weak));

namespace ptyle::cpu {

enum class Transform { kForward, kInverse };

// The transform's library plans by the number of threads that it believes to have, even where it is
// called by one of several workers, and another plan has other last bits. While this lives the
// calling thread counts as one.
class OneTransformThread {
 public:
  OneTransformThread() : before_(set_mkl_threads(1)) {}
  OneTransformThread(const OneTransformThread&) = delete;
  OneTransformThread& operator=(const OneTransformThread&) = delete;
  ~OneTransformThread() { set_mkl_threads(before_); }

 private:
  static int set_mkl_threads(int threads) {
    return MKL_Set_Num_Threads_Local != nullptr ? MKL_Set_Num_Threads_Local(threads) : 0;
  }
  int before_;
};

// Unitary 2-D transform over the last two of four axes, on the calling thread.
inline at::Tensor fourier(const at::Tensor& waves, Transform direction) {
  if (waves.numel() == 0) return at::empty_like(waves);
  const OneTransformThread one_thread;
  constexpr int64_t kUnitary = 1;  // at::native::fft_norm_mode::by_root_n
  return at::_fft_c2c(waves, {2, 3}, kUnitary, direction == Transform::kForward);
}

// exp(i phase) of a real object; complex_options: the probe's.
template <typename T>
at::Tensor transmission_of(const at::Tensor& phase, const at::TensorOptions& complex_options) {
  at::Tensor transmission = at::empty(phase.sizes(), complex_options);
  const T* from = phase.const_data_ptr<T>();
  Complex<T>* to = mutable_complex_data<T>(transmission);
  at::parallel_for(0, phase.numel(), 4096, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) to[i] = unit_phasor(from[i]);
  });
  return transmission;
}

// The whole-pixel part of position n.
inline std::pair<int64_t, int64_t> window_corner(const char* name, const double* position,
                                                 int64_t n) {
  constexpr double kLimit = 4503599627370496.0;  // 2^52: beyond it there are no fractions
  for (int axis = 0; axis < 2; ++axis) {
    TORCH_CHECK_VALUE(std::abs(position[axis]) < kLimit, "ptyle::", name,
                      ": positions must be finite and below 2^52, got ", position[axis], " at [", n,
                      ", ", axis, "]");
  }
  return {static_cast<int64_t>(std::floor(position[0])),
          static_cast<int64_t>(std::floor(position[1]))};
}

// The grain of a parallel loop over `items` that touches `elements` in all: waking a thread takes
// longer than 2^17 of them.
inline int64_t grain(int64_t items, int64_t elements) {
  constexpr int64_t kWorthAThread = int64_t{1} << 17;
  return std::max<int64_t>(1, items * kWorthAThread / std::max<int64_t>(1, elements));
}

template <typename T>
class Multislice {
 public:
  using C = Complex<T>;

  Multislice(const char* name, const at::Tensor& object, const at::Tensor& probe,
             const at::Tensor& positions, const std::optional<at::Tensor>& propagator,
             at::IntArrayRef origin, bool needs_positions)
      : real_object_(!object.is_complex()),
        slices_(object.size(0)),
        rows_(object.size(1)),
        columns_(object.size(2)),
        modes_(probe.size(0)),
        height_(probe.size(1)),
        width_(probe.size(2)),
        positions_count_(positions.size(0)),
        probe_(plain(probe)),
        needs_positions_(needs_positions) {
    transmission_ =
        real_object_ ? transmission_of<T>(plain(object), probe.options()) : plain(object);
    // One slice is not followed by a propagation: a propagator given for it is ignored.
    if (propagator && slices_ > 1) propagator_ = plain(*propagator);
    place_windows(name, plain(positions), origin);
    if (any_shift_ || needs_positions_) {
      spectrum_ = fourier(probe_.unsqueeze(0), Transform::kForward).squeeze(0);
    }
    // About half a mebibyte of waves a chunk: enough to hide the cost of a call to the transform,
    // small enough for a second-level cache.
    constexpr int64_t kChunkBytes = int64_t{512} << 10;
    // The waves of all slices are kept for the adjoint: with many slices they decide.
    constexpr int64_t kStackBytes = int64_t{64} << 20;
    const int64_t bytes = std::max<int64_t>(1, modes_ * pixels()) * int64_t(sizeof(C));
    chunk_positions_ = std::max<int64_t>(
        1, std::min(kChunkBytes / bytes, kStackBytes / (bytes * std::max<int64_t>(1, slices_))));
  }

  int64_t pixels() const { return height_ * width_; }
  int64_t slices() const { return slices_; }
  int64_t modes() const { return modes_; }
  int64_t height() const { return height_; }
  int64_t width() const { return width_; }
  int64_t positions_count() const { return positions_count_; }
  int64_t chunks() const { return (positions_count_ + chunk_positions_ - 1) / chunk_positions_; }
  at::TensorOptions complex_options() const { return probe_.options(); }
  at::TensorOptions real_options() const {
    return probe_.options().dtype(at::toRealValueType(probe_.scalar_type()));
  }

  // What one chunk computes on its way and contributes to the gradients.
  struct Chunk {
    int64_t begin = 0;
    int64_t end = 0;
    std::vector<at::Tensor> waves;  // psi_s [b, modes, h, w] before slice s, kept for the adjoint
    at::Tensor object_patches;      // [b, slices, h, w], complex or real as the object is
    at::Tensor intensity_patches;   // [b, slices, h, w] of psi_s, modes summed
    at::Tensor exit_spectrum;  // [b, modes, h, w] F of the exit waves, where a detector keeps it
    at::Tensor probe;          // [modes, h, w] sum over the chunk's whole-pixel positions
    at::Tensor spectrum;       // [modes, h, w] likewise in Fourier space, shifted positions
    at::Tensor propagator;     // as the propagator
    int64_t size() const { return end - begin; }
  };

  Chunk chunk(int64_t index) const {
    Chunk c;
    c.begin = index * chunk_positions_;
    c.end = std::min(positions_count_, c.begin + chunk_positions_);
    return c;
  }

  // Exit waves [b, modes, h, w] of a chunk. With `keep`, the waves before every slice stay in it.
  at::Tensor forward(Chunk& c, bool keep) const {
    at::Tensor wave = illuminate(c);
    for (int64_t s = 0; s < slices_; ++s) {
      if (keep) {
        at::Tensor transmitted = at::empty_like(wave);
        transmit(c, s, complex_data<T>(wave), mutable_complex_data<T>(transmitted));
        c.waves.push_back(std::move(wave));
        wave = std::move(transmitted);
      } else {
        transmit(c, s, complex_data<T>(wave), mutable_complex_data<T>(wave));
      }
      if (s + 1 < slices_ && propagator_.defined()) {
        wave = fourier(wave, Transform::kForward);
        propagate(s, mutable_complex_data<T>(wave), c.size());
        wave = fourier(wave, Transform::kInverse);
      }
    }
    return wave;
  }

  // Carries the gradient of the exit waves [b, modes, h, w] back to everything that is needed. The
  // chunk must come from forward(..., keep = true).
  void adjoint(Chunk& c, at::Tensor gradient, const Gradients& out) const {
    const Needs needs = out.needs();
    if (needs[kObject]) {
      c.object_patches = at::empty({c.size(), slices_, height_, width_},
                                   real_object_ ? real_options() : complex_options());
    }
    if (out.illumination.defined()) {
      c.intensity_patches = at::empty({c.size(), slices_, height_, width_}, real_options());
    }
    if (needs[kPropagator] && propagator_.defined()) c.propagator = at::zeros_like(propagator_);
    for (int64_t s = slices_ - 1; s >= 0; --s) {
      transmit_adjoint(c, s, mutable_complex_data<T>(gradient), needs[kObject]);
      c.waves[static_cast<size_t>(s)].reset();
      if (s == 0 && !needs[kProbe] && !needs[kPositions]) return;
      if (s > 0 && propagator_.defined()) {
        gradient = fourier(gradient, Transform::kForward);
        if (c.propagator.defined()) add_propagator_gradient(c, s - 1, gradient);
        propagate_adjoint(s - 1, mutable_complex_data<T>(gradient), c.size());
        gradient = fourier(gradient, Transform::kInverse);
      }
    }
    if (needs[kProbe] || needs[kPositions]) illuminate_adjoint(c, gradient, out);
  }

  bool needs_positions() const { return needs_positions_; }

  // spectra [b, modes, h, w] *= factor [h, w] x conj(ramp) of each position, or the conjugate of
  // that: the near field's waves are moved back by what the probe was moved.
  void propagate_back(const Chunk& c, const C* factor, bool conjugate, at::Tensor& spectra) const {
    for_each_in_spectra(c, [&](int64_t, C ramp, C, C, int64_t pixel, int64_t i) {
      const C back = conj_times(ramp, factor[pixel]);
      C& wave = mutable_complex_data<T>(spectra)[i];
      wave = conjugate ? conj_times(back, wave) : back * wave;
    });
  }

  // The part of the positions' gradient that comes from propagate_back. gradient: of its result;
  // c.exit_spectrum: what it was given.
  void add_detected_positions(const Chunk& c, const C* factor, const at::Tensor& gradient,
                              const at::Tensor& positions) const {
    const C* phi = complex_data<T>(c.exit_spectrum);
    const C* g = complex_data<T>(gradient);
    double* to = positions.data_ptr<double>();
    for_each_in_spectra(c, [&](int64_t n, C, C by_row, C by_column, int64_t pixel, int64_t i) {
      const C weight = conj_times(g[i], factor[pixel] * phi[i]);
      to[2 * n] += static_cast<double>(conj_times(by_row, weight).re);
      to[2 * n + 1] += static_cast<double>(conj_times(by_column, weight).re);
    });
  }

  // Adds a run of finished chunks to the caller's buffers, in ascending order of positions: each
  // thread owns rows of the object and goes through the positions in order; the chunks' sums for
  // the probe and the propagator follow one another.
  void add_in_order(std::vector<Chunk>& chunks, const Gradients& out,
                    at::Tensor& spectrum_sum) const {
    if (out.object.defined()) {
      if (real_object_) {
        add_patches<T>(chunks, &Chunk::object_patches, out.object);
      } else {
        add_patches<C>(chunks, &Chunk::object_patches, out.object);
      }
    }
    if (out.illumination.defined()) {
      add_patches<T>(chunks, &Chunk::intensity_patches, out.illumination);
    }
    for (Chunk& c : chunks) {
      if (c.probe.defined()) out.probe.add_(c.probe);
      if (c.spectrum.defined()) spectrum_sum.add_(c.spectrum);
      if (c.propagator.defined()) out.propagator.add_(c.propagator);
    }
  }

  // Runs `work(chunk)` for all chunks on all threads, one chunk a thread at a time, and adds what
  // they contribute in order.
  template <typename Work>
  void run_ordered(const Gradients& out, const Work& work) const {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    at::Tensor spectrum_sum;
    if (out.probe.defined() && any_shift_) spectrum_sum = at::zeros_like(probe_);
    const int64_t round = std::max(1, at::get_num_threads());
    for (int64_t first = 0; first < chunks(); first += round) {
      const int64_t count = std::min(round, chunks() - first);
      std::vector<Chunk> done(static_cast<size_t>(count));
      at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
        at::AutoDispatchBelowADInplaceOrView worker_below_autograd;
        for (int64_t i = begin; i < end; ++i) {
          Chunk c = chunk(first + i);
          work(c);
          done[static_cast<size_t>(i)] = std::move(c);
        }
      });
      add_in_order(done, out, spectrum_sum);
    }
    if (spectrum_sum.defined()) {
      out.probe.add_(fourier(spectrum_sum.unsqueeze(0), Transform::kInverse).squeeze(0));
    }
  }

 private:
  struct Window {
    int64_t row, column;             // corner in the object's array
    double row_shift, column_shift;  // fraction in [0, 1)
    Footprint inside;
    bool shifted() const { return row_shift != 0 || column_shift != 0; }
  };

  void place_windows(const char* name, const at::Tensor& positions, at::IntArrayRef origin) {
    const double* p = positions.const_data_ptr<double>();
    windows_.reserve(static_cast<size_t>(positions_count_));
    for (int64_t n = 0; n < positions_count_; ++n) {
      const auto [row, column] = window_corner(name, p + 2 * n, n);
      Window window{row - origin[0],
                    column - origin[1],
                    p[2 * n] - static_cast<double>(row),
                    p[2 * n + 1] - static_cast<double>(column),
                    {}};
      window.inside = footprint(window.row, window.column, height_, width_, rows_, columns_);
      any_shift_ = any_shift_ || window.shifted();
      windows_.push_back(window);
    }
  }

  const Window& window(int64_t position) const { return windows_[static_cast<size_t>(position)]; }

  // The two axes of a position's Fourier ramp, and of its slope.
  struct Ramp {
    std::vector<C> row, column, row_slope, column_slope;
  };
  Ramp ramp(const Window& at_window) const {
    Ramp r;
    const auto fill = [](std::vector<C>& value, std::vector<C>& slope, int64_t n, double fraction) {
      for (int64_t k = 0; k < n; ++k) {
        const ShiftRamp<double> z = shift_ramp(k, n, fraction);  // in double: k times a fraction
        value.push_back({static_cast<T>(z.value.re), static_cast<T>(z.value.im)});
        slope.push_back({static_cast<T>(z.slope.re), static_cast<T>(z.slope.im)});
      }
    };
    fill(r.row, r.row_slope, height_, at_window.row_shift);
    fill(r.column, r.column_slope, width_, at_window.column_shift);
    return r;
  }

  // work(position, ramp, its slopes by row and column, pixel of [h, w], index in [b, modes, h, w])
  template <typename Work>
  void for_each_in_spectra(const Chunk& c, const Work& work) const {
    for (int64_t i = 0, n = c.begin; n < c.end; ++n) {
      const Ramp r = ramp(window(n));
      for (int64_t m = 0; m < modes_; ++m) {
        for (int64_t pixel = 0, y = 0; y < height_; ++y) {
          const auto row = static_cast<size_t>(y);
          for (size_t x = 0; x < static_cast<size_t>(width_); ++x, ++pixel, ++i) {
            work(n, r.row[row] * r.column[x], r.row_slope[row] * r.column[x],
                 r.row[row] * r.column_slope[x], pixel, i);
          }
        }
      }
    }
  }

  bool shifts_in(const Chunk& c) const {
    for (int64_t n = c.begin; n < c.end; ++n) {
      if (window(n).shifted()) return true;
    }
    return false;
  }

  // psi_0: the probe of every position, moved by its fraction. No shift is the probe, bit by bit.
  at::Tensor illuminate(const Chunk& c) const {
    at::Tensor wave = at::empty({c.size(), modes_, height_, width_}, complex_options());
    const int64_t size = modes_ * pixels();
    if (shifts_in(c)) {
      const C* spectrum = complex_data<T>(spectrum_);
      for (int64_t n = c.begin; n < c.end; ++n) {
        const Ramp r = ramp(window(n));
        C* to = mutable_complex_data<T>(wave) + (n - c.begin) * size;
        for (int64_t m = 0; m < modes_; ++m) {
          for (int64_t y = 0; y < height_; ++y) {
            const int64_t line = (m * height_ + y) * width_;
            const C row = r.row[static_cast<size_t>(y)];
            for (int64_t x = 0; x < width_; ++x) {
              to[line + x] = (row * r.column[static_cast<size_t>(x)]) * spectrum[line + x];
            }
          }
        }
      }
      wave = fourier(wave, Transform::kInverse);
    }
    const C* probe = complex_data<T>(probe_);
    for (int64_t n = c.begin; n < c.end; ++n) {
      if (!window(n).shifted()) {
        std::copy(probe, probe + size, mutable_complex_data<T>(wave) + (n - c.begin) * size);
      }
    }
    return wave;
  }

  void illuminate_adjoint(Chunk& c, const at::Tensor& gradient, const Gradients& out) const {
    const int64_t size = modes_ * pixels();
    if (out.probe.defined()) {
      c.probe = at::zeros_like(probe_);
      C* sum = mutable_complex_data<T>(c.probe);
      for (int64_t n = c.begin; n < c.end; ++n) {
        if (window(n).shifted()) continue;
        const C* g = complex_data<T>(gradient) + (n - c.begin) * size;
        for (int64_t i = 0; i < size; ++i) sum[i] += g[i];
      }
    }
    const bool shifts = shifts_in(c);
    if (!out.positions.defined() && !shifts) return;
    const at::Tensor transformed = fourier(gradient, Transform::kForward);
    if (out.probe.defined() && shifts) c.spectrum = at::zeros_like(probe_);
    const C* spectrum = complex_data<T>(spectrum_);
    for (int64_t n = c.begin; n < c.end; ++n) {
      const Ramp r = ramp(window(n));
      const C* g = complex_data<T>(transformed) + (n - c.begin) * size;
      if (c.spectrum.defined() && window(n).shifted()) {
        C* sum = mutable_complex_data<T>(c.spectrum);
        for (int64_t i = 0, m = 0; m < modes_; ++m) {
          for (int64_t y = 0; y < height_; ++y) {
            const C row = r.row[static_cast<size_t>(y)];
            for (int64_t x = 0; x < width_; ++x, ++i) {
              sum[i] += conj_times(row * r.column[static_cast<size_t>(x)], g[i]);
            }
          }
        }
      }
      if (out.positions.defined()) {
        double row_sum = 0, column_sum = 0;
        for (int64_t i = 0, m = 0; m < modes_; ++m) {
          for (int64_t y = 0; y < height_; ++y) {
            const C row = r.row[static_cast<size_t>(y)];
            const C row_slope = r.row_slope[static_cast<size_t>(y)];
            for (int64_t x = 0; x < width_; ++x, ++i) {
              const C weight = conj_times(g[i], spectrum[i]);  // conj(g) F P
              const C by_row = row_slope * r.column[static_cast<size_t>(x)];
              const C by_column = row * r.column_slope[static_cast<size_t>(x)];
              row_sum += static_cast<double>((weight * by_row).re);
              column_sum += static_cast<double>((weight * by_column).re);
            }
          }
        }
        double* to = out.positions.data_ptr<double>() + 2 * n;  // n belongs to this chunk alone
        to[0] += row_sum;
        to[1] += column_sum;
      }
    }
  }

  // phi_s = psi_s O_s; the object is vacuum where the window hangs over its edge.
  void transmit(const Chunk& c, int64_t s, const C* wave, C* out) const {
    const C* slice = complex_data<T>(transmission_) + s * rows_ * columns_;
    for (int64_t n = c.begin; n < c.end; ++n) {
      const Window& at_window = window(n);
      const Footprint& in = at_window.inside;
      for (int64_t m = 0; m < modes_; ++m) {
        const int64_t base = ((n - c.begin) * modes_ + m) * pixels();
        for (int64_t y = 0; y < height_; ++y) {
          const int64_t line = base + y * width_;
          const bool outside = y < in.row_begin || y >= in.row_end;
          const int64_t x0 = outside ? width_ : in.column_begin;
          const int64_t x1 = outside ? width_ : std::max(x0, in.column_end);
          if (out != wave) {
            std::copy(wave + line, wave + line + x0, out + line);
            std::copy(wave + line + x1, wave + line + width_, out + line + x1);
          }
          if (outside) continue;
          const C* o = slice + (at_window.row + y) * columns_ + at_window.column;
          const C* from = wave + line;
          C* to = out + line;
          for (int64_t x = x0; x < x1; ++x) to[x] = from[x] * o[x];
        }
      }
    }
  }

  // In place: gradient of phi_s -> gradient of psi_s, and the object's patches of this slice.
  void transmit_adjoint(Chunk& c, int64_t s, C* gradient, bool needs_object) const {
    const C* slice = complex_data<T>(transmission_) + s * rows_ * columns_;
    const C* wave = complex_data<T>(c.waves[static_cast<size_t>(s)]);
    std::vector<C> sum(static_cast<size_t>(width_));
    T* intensity =
        c.intensity_patches.defined() ? c.intensity_patches.template data_ptr<T>() : nullptr;
    for (int64_t n = c.begin; n < c.end; ++n) {
      const Window& at_window = window(n);
      const Footprint& in = at_window.inside;
      const int64_t patch = ((n - c.begin) * slices_ + s) * pixels();
      for (int64_t y = in.row_begin; y < in.row_end; ++y) {
        const C* o = slice + (at_window.row + y) * columns_ + at_window.column;
        std::fill(sum.begin(), sum.end(), C{0, 0});
        T* lit = intensity != nullptr ? intensity + patch + y * width_ : nullptr;
        if (lit != nullptr) std::fill(lit, lit + width_, T(0));
        for (int64_t m = 0; m < modes_; ++m) {
          const int64_t line = ((n - c.begin) * modes_ + m) * pixels() + y * width_;
          const C* psi = wave + line;
          C* g = gradient + line;
          C* sums = sum.data();
          for (int64_t x = in.column_begin; x < in.column_end; ++x) {
            sums[x] += conj_times(psi[x], g[x]);
            g[x] = conj_times(o[x], g[x]);
          }
          if (lit == nullptr) continue;
          for (int64_t x = in.column_begin; x < in.column_end; ++x) lit[x] += abs_squared(psi[x]);
        }
        if (!needs_object) continue;
        if (real_object_) {
          // O = exp(i v): dL/dv = Re(conj(i O) g_O) = Im(conj(O) g_O)
          T* to = c.object_patches.template data_ptr<T>() + patch + y * width_;
          for (int64_t x = in.column_begin; x < in.column_end; ++x) {
            to[x] = conj_times(o[x], sum[static_cast<size_t>(x)]).im;
          }
        } else {
          C* to = mutable_complex_data<T>(c.object_patches) + patch + y * width_;
          std::copy(sum.begin() + in.column_begin,
                    sum.begin() + std::max(in.column_begin, in.column_end), to + in.column_begin);
        }
      }
    }
  }

  const C* propagator_after(int64_t s) const {
    const bool per_slice = propagator_.dim() == 3;
    return complex_data<T>(propagator_) + (per_slice ? s * pixels() : 0);
  }

  void propagate(int64_t s, C* waves, int64_t positions) const {
    const C* factor = propagator_after(s);
    for (int64_t k = 0; k < positions * modes_; ++k, waves += pixels()) {
      for (int64_t i = 0; i < pixels(); ++i) waves[i] = factor[i] * waves[i];
    }
  }

  void propagate_adjoint(int64_t s, C* waves, int64_t positions) const {
    const C* factor = propagator_after(s);
    for (int64_t k = 0; k < positions * modes_; ++k, waves += pixels()) {
      for (int64_t i = 0; i < pixels(); ++i) waves[i] = conj_times(factor[i], waves[i]);
    }
  }

  // `gradient`: transformed gradient of the propagated wave. F phi_s is made anew: keeping it would
  // double the memory of every chunk for a gradient that is rarely asked for.
  void add_propagator_gradient(Chunk& c, int64_t s, const at::Tensor& gradient) const {
    at::Tensor transmitted = at::empty_like(gradient);
    transmit(c, s, complex_data<T>(c.waves[static_cast<size_t>(s)]),
             mutable_complex_data<T>(transmitted));
    transmitted = fourier(transmitted, Transform::kForward);
    const C* phi = complex_data<T>(transmitted);
    const C* g = complex_data<T>(gradient);
    C* sum = mutable_complex_data<T>(c.propagator) + (propagator_.dim() == 3 ? s * pixels() : 0);
    for (int64_t k = 0; k < c.size() * modes_; ++k, phi += pixels(), g += pixels()) {
      for (int64_t i = 0; i < pixels(); ++i) sum[i] += conj_times(phi[i], g[i]);
    }
  }

  template <typename V>
  void add_patches(const std::vector<Chunk>& chunks, at::Tensor Chunk::*part,
                   const at::Tensor& object) const {
    int64_t low = rows_, high = 0;
    for (int64_t n = chunks.front().begin; n < chunks.back().end; ++n) {
      const Window& at_window = window(n);
      if (at_window.inside.row_begin >= at_window.inside.row_end) continue;
      low = std::min(low, at_window.row + at_window.inside.row_begin);
      high = std::max(high, at_window.row + at_window.inside.row_end);
    }
    if (low >= high) return;
    V* target = static_cast<V*>(object.data_ptr());
    // One item is one row of one slice.
    at::parallel_for(0, slices_ * (high - low), 64, [&](int64_t begin, int64_t end) {
      for (const Chunk& c : chunks) {
        const V* patches = static_cast<const V*>((c.*part).const_data_ptr());
        for (int64_t n = c.begin; n < c.end; ++n) {
          const Window& at_window = window(n);
          const Footprint& in = at_window.inside;
          for (int64_t s = begin / (high - low); s < slices_ && s * (high - low) < end; ++s) {
            const int64_t from =
                std::max(begin - s * (high - low) + low, at_window.row + in.row_begin);
            const int64_t to = std::min(end - s * (high - low) + low, at_window.row + in.row_end);
            for (int64_t row = from; row < to; ++row) {
              const V* patch = patches + ((n - c.begin) * slices_ + s) * pixels() +
                               (row - at_window.row) * width_;
              V* sum = target + (s * rows_ + row) * columns_ + at_window.column;
              for (int64_t x = in.column_begin; x < in.column_end; ++x) sum[x] += patch[x];
            }
          }
        }
      }
    });
  }

  bool real_object_;
  int64_t slices_, rows_, columns_, modes_, height_, width_, positions_count_;
  int64_t chunk_positions_ = 1;
  at::Tensor transmission_, probe_, propagator_, spectrum_;
  bool needs_positions_;
  bool any_shift_ = false;
  std::vector<Window> windows_;
};

}  // namespace ptyle::cpu
