// The kernels of one instruction set: this file is compiled once for each, with PTYLE_ISA_NAME and
// PTYLE_VECTOR_BYTES. Everything lies in that instruction set's namespace, and nothing that other
// files use is instantiated here: an inline function compiled for a new processor must not be the
// one that an old processor runs.
#include <cstdint>
#include <type_traits>
#include <utility>

#include "csrc/cpu/layout.h"
#include "csrc/likelihood.h"

namespace ptyle::cpu::PTYLE_ISA_NAME {
namespace {

#include "csrc/cpu/sweeps.h"

template <typename T>
T* panel_of(const Shape<T>& shape, T* waves, int64_t mode, int64_t panel) {
  return waves + mode * shape.panel_wave() + panel * shape.panel_rows() * 2 * shape.lanes;
}
template <typename T>
const T* panel_of(const Shape<T>& shape, const T* waves, int64_t mode, int64_t panel) {
  return panel_of(shape, const_cast<T*>(waves), mode, panel);
}
template <typename T>
int64_t lanes_of(const Shape<T>& shape, int64_t panel) {
  const int64_t left = shape.width() - panel * kLanes<T>;
  return left < kLanes<T> ? left : kLanes<T>;
}

// ---- whole transforms ----

// An inverse transform is the forward one with real and imaginary parts exchanged.
template <bool Exchanged, typename T>
void transform_ordered(const Shape<T>& shape, const T* from, T* to, T* panels, T* line) {
  constexpr int W = kLanes<T>;
  T* spare = line + (shape.line() - shape.spare());
  const int64_t w = shape.width();
  for (int64_t p = 0; p < shape.panels(); ++p) {
    const int64_t lanes = lanes_of(shape, p);
    along_columns<false, true>(
        shape.rows, panel_of(shape, panels, 0, p), spare,
        [&](int64_t y, Vector<T> & re, Vector<T> & im) __attribute__((always_inline)) {
          const ComplexVector<T> z = load_some(from + 2 * (y * w + p * W), lanes);
          re = Exchanged ? z.im : z.re;
          im = Exchanged ? z.re : z.im;
        },
        Nothing{}, Nothing{});
  }
  for (int64_t g = 0; g < shape.groups(); ++g) {
    gather_rows(shape, panels, g, line);
    along_rows<true, false>(
        shape.columns, line, Nothing{},
        Nothing{}, [&](int64_t slot, Vector<T> re, Vector<T> im) __attribute__((always_inline)) {
          store(line + slot * 2 * W, re);
          store(line + slot * 2 * W + W, im);
        });
    for (int64_t p = 0; p < shape.panels(); ++p) {
      const int64_t lanes = lanes_of(shape, p);
      Vector<T> re[W], im[W];
      for (int i = 0; i < W; ++i) {
        const int64_t slot = shape.columns.slot[p * W + (i < lanes ? i : 0)];
        re[i] = load(line + slot * 2 * W);
        im[i] = load(line + slot * 2 * W + W);
      }
      transpose<T>(re);
      transpose<T>(im);
      for (int i = 0; i < W && g * W + i < shape.height(); ++i) {
        T* row = to + 2 * (shape.rows.frequency[g * W + i] * w + p * W);
        store_some(row, Exchanged ? im[i] : re[i], Exchanged ? re[i] : im[i], lanes);
      }
    }
  }
}

template <typename T>
void transform(const Shape<T>& shape, bool inverse, const T* from, T* to, T* panels, T* line) {
  clear_line_end(shape, line);
  if (inverse) {
    transform_ordered<true>(shape, from, to, panels, line);
  } else {
    transform_ordered<false>(shape, from, to, panels, line);
  }
}

template <typename T>
void transform_permuted(const Shape<T>& shape, bool inverse, const T* from, T* to, T* panels,
                        T* line) {
  constexpr int W = kLanes<T>;
  const int64_t w = shape.width(), h = shape.height();
  T* spare = line + (shape.line() - shape.spare());
  clear_line_end(shape, line);
  const auto rows = [&](const T* read, T* written) {  // between panels and rows of slots
    for (int64_t g = 0; g < shape.groups(); ++g) {
      if (inverse) {
        for (int64_t x = 0; x < w; ++x) {
          for (int l = 0; l < W; ++l) {
            const bool there = g * W + l < h;
            line[x * 2 * W + l] = there ? read[2 * ((g * W + l) * w + x)] : T(0);
            line[x * 2 * W + W + l] = there ? read[2 * ((g * W + l) * w + x) + 1] : T(0);
          }
        }
        along_rows<false, true>(
            shape.columns, line,
            [&](int64_t slot, Vector<T> & re, Vector<T> & im) __attribute__((always_inline)) {
              re = load(line + slot * 2 * W);
              im = load(line + slot * 2 * W + W);
            },
            Nothing{}, Nothing{});
        scatter_rows(shape, line, g, written);
      } else {
        gather_rows(shape, read, g, line);
        along_rows<true, false>(
            shape.columns, line, Nothing{}, Nothing{},
            [&](int64_t slot, Vector<T> re, Vector<T> im) __attribute__((always_inline)) {
              store(line + slot * 2 * W, re);
              store(line + slot * 2 * W + W, im);
            });
        for (int64_t x = 0; x < w; ++x) {
          for (int l = 0; l < W && g * W + l < h; ++l) {
            written[2 * ((g * W + l) * w + x)] = line[x * 2 * W + l];
            written[2 * ((g * W + l) * w + x) + 1] = line[x * 2 * W + W + l];
          }
        }
      }
    }
  };
  if (inverse) rows(from, panels);
  for (int64_t p = 0; p < shape.panels(); ++p) {
    const int64_t lanes = lanes_of(shape, p);
    T* x = panel_of(shape, panels, 0, p);
    if (inverse) {
      along_columns<true, false>(
          shape.rows, x, spare, Nothing{},
          Nothing{}, [&](int64_t y, Vector<T> re, Vector<T> im) __attribute__((always_inline)) {
            store_some(to + 2 * (y * w + p * W), re, im, lanes);
          });
    } else {
      along_columns<false, true>(
          shape.rows, x, spare,
          [&](int64_t y, Vector<T> & re, Vector<T> & im) __attribute__((always_inline)) {
            const ComplexVector<T> z = load_some(from + 2 * (y * w + p * W), lanes);
            re = z.re;
            im = z.im;
          },
          Nothing{}, Nothing{});
    }
  }
  if (!inverse) rows(panels, to);
}

// ---- sweeps along columns: real space ----

template <From from, To to, bool Keep, typename T>
__attribute__((noinline)) void transmit_all(const Shape<T>& shape, int64_t modes,
                                            const Transmit<T>& a) {
  constexpr int W = kLanes<T>;
  T* spare = a.edge + (shape.edge() - shape.spare());
  for (int64_t p = 0; p < shape.panels(); ++p) {
    const ObjectPanel<T> on(shape, a.place, p, a.object, nullptr, 0, nullptr, a.edge);
    const int64_t lanes = lanes_of(shape, p);
    for (int64_t mode = 0; mode < modes; ++mode) {
      const T* probe = from == From::kProbe ? panel_of(shape, a.probe, mode, p) : nullptr;
      T* keep = Keep ? panel_of(shape, a.keep, mode, p) : nullptr;
      T* memory = a.memory;
      if (memory != nullptr) memory += 2 * (mode * shape.height() * shape.width() + p * W);
      along_columns<from == From::kSpectrum, to == To::kSpectrum>(
          shape.rows, panel_of(shape, a.waves, mode, p), spare,
          [&](int64_t y, Vector<T> & re, Vector<T> & im) __attribute__((always_inline)) {
            re = load(probe + y * 2 * W);
            im = load(probe + y * 2 * W + W);
          },
          [&](int64_t y, Vector<T> & re, Vector<T> & im) __attribute__((always_inline)) {
            if constexpr (Keep) {
              store(keep + y * 2 * W, re);
              store(keep + y * 2 * W + W, im);
            }
            const ComplexVector<T> o = load_interleaved(on.object(y));
            const Vector<T> r = re * o.re - im * o.im;
            im = re * o.im + im * o.re;
            re = r;
          },
          [&](int64_t y, Vector<T> re, Vector<T> im) __attribute__((always_inline)) {
            if (memory != nullptr) store_some(memory + 2 * y * shape.width(), re, im, lanes);
          });
    }
  }
}

template <typename T>
void transmit(const Shape<T>& shape, int64_t modes, const Transmit<T>& a) {
  const auto with = [&]<From from, To to>() {
    if (a.keep != nullptr) return transmit_all<from, to, true>(shape, modes, a);
    return transmit_all<from, to, false>(shape, modes, a);
  };
  if (a.from == From::kProbe) {
    if (a.to == To::kSpectrum) return with.template operator()<From::kProbe, To::kSpectrum>();
    return with.template operator()<From::kProbe, To::kMemory>();
  }
  if (a.to == To::kSpectrum) return with.template operator()<From::kSpectrum, To::kSpectrum>();
  return with.template operator()<From::kSpectrum, To::kMemory>();
}

template <typename T>
PTYLE_INLINE void add_power(T* intensity, Vector<T> re, Vector<T> im) {
  store(intensity, load(intensity) + (re * re + im * im));
}

enum class Object { kFixed, kComplex, kReal };

template <From from, To to, Object object, typename T>
__attribute__((noinline)) void transmit_adjoint_all(const Shape<T>& shape, int64_t modes,
                                                    const TransmitAdjoint<T>& a) {
  constexpr int W = kLanes<T>;
  T* spare = a.edge + (shape.edge() - shape.spare());
  constexpr int kNumbers = object == Object::kFixed ? 0 : object == Object::kComplex ? 2 : 1;
  for (int64_t p = 0; p < shape.panels(); ++p) {
    const int64_t lanes = lanes_of(shape, p);
    // Scratch is used once for all modes; what is shared is touched when it is this position's
    // turn.
    const ObjectPanel<T> on(shape, a.place, p, a.object, a.object_gradient, kNumbers,
                            a.illumination, a.edge);
    for (int64_t mode = 0; mode < modes; ++mode) {
      T* x = panel_of(shape, a.waves, mode, p);
      const T* psi = panel_of(shape, a.psi, mode, p);
      const T* memory = a.memory;
      if (memory != nullptr) memory += 2 * (mode * shape.height() * shape.width() + p * W);
      T* probe = a.probe_gradient;
      if (probe != nullptr) probe = panel_of(shape, probe, mode, p);
      if constexpr (from == From::kSpectrum) inner_levels<true>(shape.rows, x, spare);
      if (mode == 0 && a.turn.wait != nullptr) a.turn.wait(a.turn.owner, a.first_unit + p);
      const auto get = [&](int64_t y, Vector<T> & re, Vector<T> & im)
          __attribute__((always_inline)) {
        const ComplexVector<T> z = load_some(memory + 2 * y * shape.width(), lanes);
        re = z.re;
        im = z.im;
      };
      const auto work = [&](int64_t y, Vector<T> & re, Vector<T> & im)
          __attribute__((always_inline)) {
        const ComplexVector<T> o = load_interleaved(on.object(y));
        if constexpr (object != Object::kFixed) {
          const Vector<T> pr = load(psi + y * 2 * W);
          const Vector<T> pi = load(psi + y * 2 * W + W);
          const Vector<T> gr = pr * re + pi * im, gi = pr * im - pi * re;
          T* sum = on.gradient(y);
          if constexpr (object == Object::kComplex) {
            constexpr std::make_integer_sequence<int, W> all;
            store(sum, load(sum) + mixed_low(gr, gi, all));
            store(sum + W, load(sum + W) + mixed_high(gr, gi, all));
          } else {  // O = exp(i v): dL/dv = Im(conj(O) g_O)
            store(sum, load(sum) + (o.re * gi - o.im * gr));
          }
          if (on.is_illuminated()) add_power<T>(on.illumination(y), pr, pi);
        }
        const Vector<T> r = o.re * re + o.im * im;
        im = o.re * im - o.im * re;
        re = r;
        if (probe != nullptr) {
          T* sum = probe + y * 2 * W;
          store(sum, load(sum) + re);
          store(sum + W, load(sum + W) + im);
        }
      };
      with_outermost(
          shape.rows.radix[0], [&](auto radix) __attribute__((always_inline)) {
            outermost<decltype(radix)::value, from == From::kSpectrum, to == To::kSpectrum>(
                shape.rows, x, get, work, Nothing{});
          });
      if (mode == modes - 1) {
        on.finish();
        if (a.turn.done != nullptr) a.turn.done(a.turn.owner, a.first_unit + p);
      }
      if constexpr (to == To::kSpectrum) inner_levels<false>(shape.rows, x, spare);
    }
  }
}

template <typename T>
void transmit_adjoint(const Shape<T>& shape, int64_t modes, const TransmitAdjoint<T>& a) {
  const auto with = [&]<From from, To to>() {
    if (a.object_gradient == nullptr) {
      return transmit_adjoint_all<from, to, Object::kFixed>(shape, modes, a);
    }
    if (a.real_object) return transmit_adjoint_all<from, to, Object::kReal>(shape, modes, a);
    return transmit_adjoint_all<from, to, Object::kComplex>(shape, modes, a);
  };
  if (a.from == From::kMemory) {
    if (a.to == To::kSpectrum) return with.template operator()<From::kMemory, To::kSpectrum>();
    return with.template operator()<From::kMemory, To::kMemory>();
  }
  if (a.to == To::kSpectrum) return with.template operator()<From::kSpectrum, To::kSpectrum>();
  return with.template operator()<From::kSpectrum, To::kMemory>();
}

template <typename T>
void to_panels(const Shape<T>& shape, int64_t modes, T* waves, T* intensity, T* line) {
  constexpr int W = kLanes<T>;
  T* spare = line + (shape.line() - shape.spare());
  for (int64_t p = 0; p < shape.panels(); ++p) {
    T* power = intensity + p * shape.panel_rows() * W;
    for (int64_t mode = 0; mode < modes; ++mode) {
      T* x = panel_of(shape, waves, mode, p);
      along_columns<true, false>(
          shape.rows, x, spare, Nothing{},
          Nothing{}, [&](int64_t y, Vector<T> re, Vector<T> im) __attribute__((always_inline)) {
            store(x + y * 2 * W, re);
            store(x + y * 2 * W + W, im);
            add_power<T>(power + y * W, re, im);
          });
    }
  }
}

template <typename T>
void from_panels(const Shape<T>& shape, int64_t modes, T* waves, const T* factor, T* line) {
  constexpr int W = kLanes<T>;
  T* spare = line + (shape.line() - shape.spare());
  for (int64_t p = 0; p < shape.panels(); ++p) {
    const T* f = factor + p * shape.panel_rows() * W;
    for (int64_t mode = 0; mode < modes; ++mode) {
      T* x = panel_of(shape, waves, mode, p);
      along_columns<false, true>(
          shape.rows, x, spare,
          [&](int64_t y, Vector<T> & re, Vector<T> & im) __attribute__((always_inline)) {
            re = load(x + y * 2 * W) * load(f + y * W);
            im = load(x + y * 2 * W + W) * load(f + y * W);
          },
          Nothing{}, Nothing{});
    }
  }
}

// ---- sweeps along rows: Fourier space ----

template <bool Conjugate, bool Gradient, typename T>
__attribute__((noinline)) void propagate_all(const Shape<T>& shape, int64_t modes,
                                             const Propagate<T>& a, T* line) {
  constexpr int W = kLanes<T>;
  const int64_t row = shape.width() * 2 * W;
  for (int64_t mode = 0; mode < modes; ++mode) {
    T* wave = a.waves + mode * shape.panel_wave();
    for (int64_t g = 0; g < shape.groups(); ++g) {
      const T* factor = a.factor + g * row;
      const T* phi = Gradient ? a.transmitted + mode * shape.spectrum_wave() + g * row : nullptr;
      T* sum = Gradient ? a.gradient + g * row : nullptr;
      gather_rows(shape, wave, g, line);
      along_rows<true, true>(
          shape.columns, line, Nothing{},
          [&](int64_t slot, Vector<T> & re, Vector<T> & im) __attribute__((always_inline)) {
            const int64_t at = slot * 2 * W;
            if constexpr (Gradient) {
              const Vector<T> pr = load(phi + at), pi = load(phi + at + W);
              store(sum + at, load(sum + at) + (pr * re + pi * im));
              store(sum + at + W, load(sum + at + W) + (pr * im - pi * re));
            }
            const Vector<T> c = load(factor + at), s = load(factor + at + W);
            const Vector<T> r = Conjugate ? re * c + im * s : re * c - im * s;
            im = Conjugate ? im * c - re * s : im * c + re * s;
            re = r;
          },
          Nothing{});
      scatter_rows(shape, line, g, wave);
    }
  }
}

template <typename T>
void propagate(const Shape<T>& shape, int64_t modes, const Propagate<T>& a, T* line) {
  clear_line_end(shape, line);
  if (a.gradient != nullptr) {
    if (a.turn.wait != nullptr) a.turn.wait(a.turn.owner, a.unit);
    propagate_all<true, true>(shape, modes, a, line);
    if (a.turn.done != nullptr) a.turn.done(a.turn.owner, a.unit);
  } else if (a.conjugate) {
    propagate_all<true, false>(shape, modes, a, line);
  } else {
    propagate_all<false, false>(shape, modes, a, line);
  }
}

template <typename T>
double sum_of_lanes(Vector<T> x) {
  double sum = 0;
  for (int l = 0; l < kLanes<T>; ++l) sum += static_cast<double>(x[l]);
  return sum;
}

template <bool Conjugate, typename T>
__attribute__((noinline)) void propagate_back_all(const Shape<T>& shape, int64_t modes,
                                                  const PropagateBack<T>& a, T* line) {
  constexpr int W = kLanes<T>;
  const int64_t row = shape.width() * 2 * W;
  double row_sum = 0, column_sum = 0;
  for (int64_t mode = 0; mode < modes; ++mode) {
    T* wave = a.waves + mode * shape.panel_wave();
    for (int64_t g = 0; g < shape.groups(); ++g) {
      const T* factor = a.factor + g * row;
      T* phi = a.spectra != nullptr ? a.spectra + mode * shape.spectrum_wave() + g * row : nullptr;
      const Vector<T> yr = load(a.ramp.row + g * 2 * W), yi = load(a.ramp.row + g * 2 * W + W);
      const Vector<T> ysr = load(a.ramp.row_slope + g * 2 * W);
      const Vector<T> ysi = load(a.ramp.row_slope + g * 2 * W + W);
      Vector<T> by_row{}, by_column{};
      gather_rows(shape, wave, g, line);
      along_rows<true, true>(
          shape.columns, line, Nothing{},
          [&](int64_t slot, Vector<T> & re, Vector<T> & im) __attribute__((always_inline)) {
            const int64_t at = slot * 2 * W;
            const T xr = a.ramp.column[2 * slot], xi = a.ramp.column[2 * slot + 1];
            const Vector<T> fr = load(factor + at), fi = load(factor + at + W);
            if constexpr (Conjugate) {
              if (a.positions != nullptr) {
                const T xsr = a.ramp.column_slope[2 * slot];
                const T xsi = a.ramp.column_slope[2 * slot + 1];
                const Vector<T> pr = load(phi + at), pi = load(phi + at + W);
                // conj(wave) factor F phi, of which the conjugate slopes' real part is taken
                const Vector<T> wr = re * pr + im * pi, wi = re * pi - im * pr;
                const Vector<T> vr = wr * fr - wi * fi, vi = wr * fi + wi * fr;
                by_row += vr * (ysr * xr - ysi * xi) + vi * (ysr * xi + ysi * xr);
                by_column += vr * (yr * xsr - yi * xsi) + vi * (yr * xsi + yi * xsr);
              }
            } else if (phi != nullptr) {
              store(phi + at, re);
              store(phi + at + W, im);
            }
            const Vector<T> c = yr * xr - yi * xi, s = yr * xi + yi * xr;
            const Vector<T> br = fr * c + fi * s, bi = fi * c - fr * s;  // factor conj(ramp)
            const Vector<T> r = Conjugate ? re * br + im * bi : re * br - im * bi;
            im = Conjugate ? im * br - re * bi : im * br + re * bi;
            re = r;
          },
          Nothing{});
      scatter_rows(shape, line, g, wave);
      row_sum += sum_of_lanes<T>(by_row);
      column_sum += sum_of_lanes<T>(by_column);
    }
  }
  if (Conjugate && a.positions != nullptr) {
    a.positions[0] += row_sum;
    a.positions[1] += column_sum;
  }
}

template <typename T>
void propagate_back(const Shape<T>& shape, int64_t modes, const PropagateBack<T>& a, T* line) {
  clear_line_end(shape, line);
  if (a.conjugate) {
    propagate_back_all<true>(shape, modes, a, line);
  } else {
    propagate_back_all<false>(shape, modes, a, line);
  }
}

template <typename T>
void to_spectrum(const Shape<T>& shape, int64_t modes, const T* waves, T scale, T* spectra,
                 T* intensity, T* line) {
  constexpr int W = kLanes<T>;
  clear_line_end(shape, line);
  for (int64_t mode = 0; mode < modes; ++mode) {
    for (int64_t g = 0; g < shape.groups(); ++g) {
      T* spectrum = spectra + mode * shape.spectrum_wave() + g * shape.width() * 2 * W;
      T* power = intensity != nullptr ? intensity + g * shape.width() * W : nullptr;
      gather_rows(shape, waves + mode * shape.panel_wave(), g, line);
      along_rows<true, false>(
          shape.columns, line, Nothing{},
          Nothing{}, [&](int64_t slot, Vector<T> re, Vector<T> im) __attribute__((always_inline)) {
            re = re * scale;
            im = im * scale;
            store(spectrum + slot * 2 * W, re);
            store(spectrum + slot * 2 * W + W, im);
            if (power != nullptr) {
              if (mode == 0) {
                store(power + slot * W, re * re + im * im);
              } else {
                add_power<T>(power + slot * W, re, im);
              }
            }
          });
    }
  }
}

template <typename T>
void from_spectrum(const Shape<T>& shape, int64_t modes, const T* spectra, const T* factor,
                   T* waves, T* line) {
  constexpr int W = kLanes<T>;
  clear_line_end(shape, line);
  for (int64_t mode = 0; mode < modes; ++mode) {
    for (int64_t g = 0; g < shape.groups(); ++g) {
      const T* spectrum = spectra + mode * shape.spectrum_wave() + g * shape.width() * 2 * W;
      const T* f = factor + g * shape.width() * W;
      along_rows<false, true>(
          shape.columns, line,
          [&](int64_t slot, Vector<T> & re, Vector<T> & im) __attribute__((always_inline)) {
            const Vector<T> by = load(f + slot * W);
            re = load(spectrum + slot * 2 * W) * by;
            im = load(spectrum + slot * 2 * W + W) * by;
          },
          Nothing{}, Nothing{});
      scatter_rows(shape, line, g, waves + mode * shape.panel_wave());
    }
  }
}

template <typename T>
void illuminate(const Shape<T>& shape, int64_t modes, const T* spectra, const Ramp<T>& ramp,
                T* waves, T* line) {
  constexpr int W = kLanes<T>;
  clear_line_end(shape, line);
  for (int64_t mode = 0; mode < modes; ++mode) {
    for (int64_t g = 0; g < shape.groups(); ++g) {
      const T* spectrum = spectra + mode * shape.spectrum_wave() + g * shape.width() * 2 * W;
      const Vector<T> yr = load(ramp.row + g * 2 * W), yi = load(ramp.row + g * 2 * W + W);
      along_rows<false, true>(
          shape.columns, line,
          [&](int64_t slot, Vector<T> & re, Vector<T> & im) __attribute__((always_inline)) {
            const T xr = ramp.column[2 * slot], xi = ramp.column[2 * slot + 1];
            const Vector<T> c = yr * xr - yi * xi, s = yr * xi + yi * xr;
            const Vector<T> pr = load(spectrum + slot * 2 * W);
            const Vector<T> pi = load(spectrum + slot * 2 * W + W);
            re = c * pr - s * pi;
            im = c * pi + s * pr;
          },
          Nothing{}, Nothing{});
      scatter_rows(shape, line, g, waves + mode * shape.panel_wave());
    }
  }
}

template <typename T>
void illuminate_adjoint(const Shape<T>& shape, int64_t modes, const IlluminateAdjoint<T>& a,
                        T* line) {
  constexpr int W = kLanes<T>;
  clear_line_end(shape, line);
  double row_sum = 0, column_sum = 0;
  if (a.turn.wait != nullptr) a.turn.wait(a.turn.owner, a.unit);
  for (int64_t mode = 0; mode < modes; ++mode) {
    for (int64_t g = 0; g < shape.groups(); ++g) {
      const int64_t first = mode * shape.spectrum_wave() + g * shape.width() * 2 * W;
      const T* spectrum = a.spectrum + first;
      T* sum = a.sum != nullptr ? a.sum + first : nullptr;
      const Vector<T> yr = load(a.ramp.row + g * 2 * W), yi = load(a.ramp.row + g * 2 * W + W);
      const Vector<T> ysr = load(a.ramp.row_slope + g * 2 * W);
      const Vector<T> ysi = load(a.ramp.row_slope + g * 2 * W + W);
      Vector<T> by_row{}, by_column{};
      gather_rows(shape, a.waves + mode * shape.panel_wave(), g, line);
      along_rows<true, false>(
          shape.columns, line, Nothing{},
          Nothing{}, [&](int64_t slot, Vector<T> re, Vector<T> im) __attribute__((always_inline)) {
            const T xr = a.ramp.column[2 * slot], xi = a.ramp.column[2 * slot + 1];
            if (sum != nullptr) {
              const Vector<T> c = yr * xr - yi * xi, s = yr * xi + yi * xr;
              store(sum + slot * 2 * W, load(sum + slot * 2 * W) + (c * re + s * im));
              store(sum + slot * 2 * W + W, load(sum + slot * 2 * W + W) + (c * im - s * re));
            }
            if (a.positions == nullptr) return;
            const T xsr = a.ramp.column_slope[2 * slot], xsi = a.ramp.column_slope[2 * slot + 1];
            const Vector<T> pr = load(spectrum + slot * 2 * W);
            const Vector<T> pi = load(spectrum + slot * 2 * W + W);
            // conj(wave) F P, of which the slopes' real part is taken
            const Vector<T> wr = re * pr + im * pi, wi = re * pi - im * pr;
            by_row += wr * (ysr * xr - ysi * xi) - wi * (ysr * xi + ysi * xr);
            by_column += wr * (yr * xsr - yi * xsi) - wi * (yr * xsi + yi * xsr);
          });
      row_sum += sum_of_lanes<T>(by_row);
      column_sum += sum_of_lanes<T>(by_column);
    }
  }
  if (a.positions != nullptr) {
    a.positions[0] += row_sum;
    a.positions[1] += column_sum;
  }
  if (a.turn.done != nullptr) a.turn.done(a.turn.owner, a.unit);
}

// ---- images ----

// AmplitudeError: beside another likelihood's loss.
template <bool AmplitudeError, typename T, typename Likelihood>
Misfit compare_with(const Compare<T>& a, Likelihood likelihood) {
  constexpr int W = kLanes<T>;
  using Wide = typename VectorBeside<T, double>::type;
  Wide sum{}, errors{};
  const Vector<T> zero{};
  const Vector<T> twice = zero + T(2) * a.weight * a.scale;
  for (int64_t i = 0; i < a.numbers; i += W) {
    Vector<T> expected = load(a.intensity + i);
    if (a.background != nullptr) expected += load(a.background + i);
    const Lanes<T> model(expected), counts(load(a.counts + i));
    const auto at = likelihood(model, counts);
    Vector<T> loss = at.loss.lanes, slope = twice * at.slope.lanes;
    if (a.bad != nullptr) {
      const auto counted = load(a.bad + i) == zero;
      loss = counted ? loss : zero;
      slope = counted ? slope : zero;
    }
    if constexpr (AmplitudeError) {
      Vector<T> error = AmplitudeLikelihood{}(model, counts).loss.lanes;
      if (a.bad != nullptr) error = load(a.bad + i) == zero ? error : zero;
      errors += __builtin_convertvector(error, Wide);
    }
    sum += __builtin_convertvector(loss, Wide);
    store(a.intensity + i, slope);
  }
  Misfit all{};
  for (int l = 0; l < W; ++l) {
    all.loss += sum[l];
    all.amplitude_error += errors[l];
  }
  return all;
}

template <typename T>
Misfit compare(const Compare<T>& a) {
  return with_likelihood(static_cast<Likelihood>(a.likelihood), [&](auto likelihood) {
    if constexpr (std::is_same_v<decltype(likelihood), AmplitudeLikelihood>) {
      const double loss = compare_with<false>(a, likelihood).loss;
      return Misfit{loss, loss};
    } else {
      return a.amplitude_error ? compare_with<true>(a, likelihood)
                               : compare_with<false>(a, likelihood);
    }
  });
}

template <typename T, typename Number>
PTYLE_INLINE Vector<T> load_converted(const Number* from) {
  using Numbers = typename VectorBeside<T, Number>::unaligned;
  return __builtin_convertvector(*reinterpret_cast<const Numbers*>(from), Vector<T>);
}
template <typename T, typename Number>
PTYLE_INLINE Vector<T> load_converted_some(const Number* from, int64_t count) {
  if (count >= kLanes<T>) return load_converted<T>(from);
  Vector<T> some{};
  for (int64_t l = 0; l < count; ++l) some[l] = static_cast<T>(from[l]);
  return some;
}

template <typename T, typename Number>
void load_image_of(const Shape<T>& shape, bool spectrum, const Number* from, T* to) {
  constexpr int W = kLanes<T>;
  const int64_t w = shape.width(), h = shape.height();
  for (int64_t p = 0; p < shape.panels(); ++p) {
    const int64_t lanes = lanes_of(shape, p);
    if (!spectrum) {
      for (int64_t y = 0; y < h; ++y) {
        store(to + (p * shape.panel_rows() + y) * W,
              load_converted_some<T>(from + y * w + p * W, lanes));
      }
      continue;
    }
    for (int64_t g = 0; g < shape.groups(); ++g) {
      Vector<T> x[W];
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) {
        x[i] = g * W + i < h ? load_converted_some<T>(
                                   from + shape.rows.frequency[g * W + i] * w + p * W, lanes)
                             : Vector<T>{};
      }
      transpose<T>(x);
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) {
        if (i < lanes) store(to + (g * w + shape.columns.slot[p * W + i]) * W, x[i]);
      }
    }
  }
}

template <typename T>
void load_image(const Shape<T>& shape, bool spectrum, Count type, const void* from, T* to) {
  switch (type) {
    case Count::kUInt8:
      return load_image_of(shape, spectrum, static_cast<const uint8_t*>(from), to);
    case Count::kInt16:
      return load_image_of(shape, spectrum, static_cast<const int16_t*>(from), to);
    case Count::kUInt16:
      return load_image_of(shape, spectrum, static_cast<const uint16_t*>(from), to);
    case Count::kInt32:
      return load_image_of(shape, spectrum, static_cast<const int32_t*>(from), to);
    case Count::kFloat:
      return load_image_of(shape, spectrum, static_cast<const float*>(from), to);
    case Count::kDouble:
      return load_image_of(shape, spectrum, static_cast<const double*>(from), to);
  }
}

template <typename T>
void store_image(const Shape<T>& shape, bool spectrum, const T* from, T scale, T* to) {
  constexpr int W = kLanes<T>;
  const int64_t w = shape.width(), h = shape.height();
  for (int64_t p = 0; p < shape.panels(); ++p) {
    const int64_t lanes = lanes_of(shape, p);
    for (int64_t g = 0; g < shape.groups(); ++g) {
      Vector<T> x[W];
      for (int i = 0; i < W; ++i) {
        const int64_t at = spectrum ? g * w + shape.columns.slot[p * W + (i < lanes ? i : 0)]
                                    : p * shape.panel_rows() + g * W + i;
        x[i] = load(from + at * W) * scale;
      }
      if (spectrum) transpose<T>(x);
      for (int i = 0; i < W && g * W + i < h; ++i) {
        T* row = to + (spectrum ? shape.rows.frequency[g * W + i] : g * W + i) * w + p * W;
        if (lanes == W) {
          store(row, x[i]);
        } else {
          for (int64_t l = 0; l < lanes; ++l) row[l] = x[i][l];
        }
      }
    }
  }
}

template <typename T>
constexpr Kernels<T> kKernels{
    kLanes<T>,      transform<T>,      transform_permuted<T>, transmit<T>,      transmit_adjoint<T>,
    propagate<T>,   propagate_back<T>, to_spectrum<T>,        from_spectrum<T>, to_panels<T>,
    from_panels<T>, illuminate<T>,     illuminate_adjoint<T>, compare<T>,       load_image<T>,
    store_image<T>};

#define PTYLE_TEXT_OF(name) #name
#define PTYLE_TEXT(name) PTYLE_TEXT_OF(name)

}  // namespace

extern const InstructionSet kInstructionSet;
const InstructionSet kInstructionSet{PTYLE_TEXT(PTYLE_ISA_NAME), &kKernels<float>,
                                     &kKernels<double>};

}  // namespace ptyle::cpu::PTYLE_ISA_NAME
