// One-dimensional transforms of W lanes at once: n elements of {W re, W im}, in place. Included
// within the namespace of one instruction set.
//
// Forward: decimation in frequency, natural order in, the order of slots out, exp(-2 pi i jk / n).
// Inverse: decimation in time, the other way round, not scaled. The inverse of everything is the
// forward code with real and imaginary parts exchanged: if s(z) = im + i re, then
// s(DFT s(z)) = inverse DFT of z, and s(w s(z)) = conj(w) z.
//
// Short transforms follow Winograd's and the split radices' textbook forms (Blahut 2010, "Fast
// algorithms for signal processing", chapters 3 and 6). `scratch`: Axis::scratch elements.

#pragma once

#include "csrc/cpu/lanes.h"

template <typename V>
PTYLE_INLINE void butterfly_2(V& ar, V& ai, V& br, V& bi) {
  const V r = ar - br, i = ai - bi;
  ar = ar + br;
  ai = ai + bi;
  br = r;
  bi = i;
}

template <typename V>
PTYLE_INLINE void butterfly_4(V& ar, V& ai, V& br, V& bi, V& cr, V& ci, V& dr, V& di) {
  const V s0r = ar + cr, s0i = ai + ci, d0r = ar - cr, d0i = ai - ci;
  const V s1r = br + dr, s1i = bi + di, d1r = br - dr, d1i = bi - di;
  ar = s0r + s1r;
  ai = s0i + s1i;
  cr = s0r - s1r;
  ci = s0i - s1i;
  br = d0r + d1i;  // d0 - i d1
  bi = d0i - d1r;
  dr = d0r - d1i;  // d0 + i d1
  di = d0i + d1r;
}

template <int Radix, typename T, typename V>
PTYLE_INLINE void butterfly(V* re, V* im) {
  if constexpr (Radix == 2) {
    butterfly_2(re[0], im[0], re[1], im[1]);
  } else if constexpr (Radix == 3) {
    constexpr T kHalfRoot3 = T(0.866025403784438646763723170752936183L);
    const V sr = re[1] + re[2], si = im[1] + im[2];
    const V dr = kHalfRoot3 * (re[1] - re[2]), di = kHalfRoot3 * (im[1] - im[2]);
    const V mr = re[0] - T(0.5) * sr, mi = im[0] - T(0.5) * si;
    re[0] = re[0] + sr;
    im[0] = im[0] + si;
    re[1] = mr + di;
    im[1] = mi - dr;
    re[2] = mr - di;
    im[2] = mi + dr;
  } else if constexpr (Radix == 4) {
    butterfly_4(re[0], im[0], re[1], im[1], re[2], im[2], re[3], im[3]);
  } else if constexpr (Radix == 5) {
    constexpr T c1 = T(0.309016994374947424102293417182819059L);
    constexpr T c2 = T(-0.809016994374947424102293417182819059L);
    constexpr T s1 = T(0.951056516295153572116439333379382143L);
    constexpr T s2 = T(0.587785252292473129168705954639072769L);
    const V ar = re[1] + re[4], ai = im[1] + im[4], br = re[1] - re[4], bi = im[1] - im[4];
    const V cr = re[2] + re[3], ci = im[2] + im[3], dr = re[2] - re[3], di = im[2] - im[3];
    const V er = re[0] + c1 * ar + c2 * cr, ei = im[0] + c1 * ai + c2 * ci;
    const V fr = re[0] + c2 * ar + c1 * cr, fi = im[0] + c2 * ai + c1 * ci;
    const V gr = s1 * bi + s2 * di, gi = s1 * br + s2 * dr;
    const V hr = s2 * bi - s1 * di, hi = s2 * br - s1 * dr;
    re[0] = re[0] + ar + cr;
    im[0] = im[0] + ai + ci;
    re[1] = er + gr;
    im[1] = ei - gi;
    re[4] = er - gr;
    im[4] = ei + gi;
    re[2] = fr + hr;
    im[2] = fi - hi;
    re[3] = fr - hr;
    im[3] = fi + hi;
  } else if constexpr (Radix == 8) {
    constexpr T kRootHalf = T(0.707106781186547524400844362104849039L);
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) butterfly_2(re[k], im[k], re[k + 4], im[k + 4]);
    butterfly_4(re[0], im[0], re[1], im[1], re[2], im[2], re[3], im[3]);
    // odd outputs: twiddles 1, (1 - i) / sqrt 2, -i, (-1 - i) / sqrt 2
    const V r5 = kRootHalf * (re[5] + im[5]), i5 = kRootHalf * (im[5] - re[5]);
    const V r6 = im[6], i6 = -re[6];
    const V r7 = kRootHalf * (im[7] - re[7]), i7 = -kRootHalf * (im[7] + re[7]);
    re[5] = r5;
    im[5] = i5;
    re[6] = r6;
    im[6] = i6;
    re[7] = r7;
    im[7] = i7;
    butterfly_4(re[4], im[4], re[5], im[5], re[6], im[6], re[7], im[7]);
    // evens are 0 2 4 6 in 0..3, odds 1 3 5 7 in 4..7: put them in order
    const V tr[8] = {re[0], re[4], re[1], re[5], re[2], re[6], re[3], re[7]};
    const V ti[8] = {im[0], im[4], im[1], im[5], im[2], im[6], im[3], im[7]};
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) {
      re[k] = tr[k];
      im[k] = ti[k];
    }
  }
}

// re + i im times a complex number.
template <typename T, typename V>
PTYLE_INLINE void multiply(V& re, V& im, const T* by) {
  const V r = re * by[0] - im * by[1];
  im = re * by[1] + im * by[0];
  re = r;
}

// Elements 1 ... Radix - 1 times their twiddles; `twiddles`: [Radix - 1] complex.
template <int Radix, typename T, typename V>
PTYLE_INLINE void twiddle(V* re, V* im, const T* twiddles) {
#pragma GCC unroll 8
  for (int q = 1; q < Radix; ++q) multiply(re[q], im[q], twiddles + 2 * (q - 1));
}

template <int Radix, bool Inverse, typename T>
PTYLE_INLINE void element(Vector<T>* re, Vector<T>* im, const T* twiddles) {
  if constexpr (Inverse) {
    if (twiddles != nullptr) twiddle<Radix, T>(im, re, twiddles);
    butterfly<Radix, T>(im, re);
  } else {
    butterfly<Radix, T>(re, im);
    if (twiddles != nullptr) twiddle<Radix, T>(re, im, twiddles);
  }
}

template <int Radix, typename T>
PTYLE_INLINE void load_elements(const T* at, int64_t stride, Vector<T>* re, Vector<T>* im) {
  constexpr int W = kLanes<T>;
#pragma GCC unroll 8
  for (int q = 0; q < Radix; ++q) {
    re[q] = load(at + q * stride);
    im[q] = load(at + q * stride + W);
  }
}
template <int Radix, typename T>
PTYLE_INLINE void store_elements(T* at, int64_t stride, const Vector<T>* re, const Vector<T>* im) {
  constexpr int W = kLanes<T>;
#pragma GCC unroll 8
  for (int q = 0; q < Radix; ++q) {
    store(at + q * stride, re[q]);
    store(at + q * stride + W, im[q]);
  }
}

// All butterflies of one level over `count` elements that consist of blocks of Radix x m.
template <int Radix, bool Inverse, typename T>
__attribute__((noinline)) void level(T* x, int64_t count, int64_t m, const T* twiddles) {
  constexpr int W = kLanes<T>;
  Vector<T> re[Radix], im[Radix];
  if (m == 1) {
    for (int64_t b = 0; b < count; b += Radix) {
      T* at = x + b * 2 * W;
      load_elements<Radix>(at, 2 * W, re, im);
      element<Radix, Inverse, T>(re, im, nullptr);
      store_elements<Radix>(at, 2 * W, re, im);
    }
    return;
  }
  for (int64_t b = 0; b < count; b += Radix * m) {
    for (int64_t j = 0; j < m; ++j) {
      T* at = x + (b + j) * 2 * W;
      load_elements<Radix>(at, m * 2 * W, re, im);
      element<Radix, Inverse, T>(re, im, twiddles + j * 2 * (Radix - 1));
      store_elements<Radix>(at, m * 2 * W, re, im);
    }
  }
}

// ---- the ends of a transform, with what happens there ----

template <int... Radices, typename Work>
PTYLE_INLINE void with_radix(int radix, const Work& work) {
  (void)((radix == Radices ? (work(std::integral_constant<int, Radices>{}), true) : false) || ...);
}
template <typename Work>
PTYLE_INLINE void with_outermost(int radix, const Work& work) {
  with_radix<4, 3, 5, 2, 1>(radix, work);
}
template <typename Work>
PTYLE_INLINE void with_innermost(int radix, const Work& work) {
  with_radix<4, 8, 3, 5, 2, 1>(radix, work);
}

struct Nothing {
  template <typename... Arguments>
  PTYLE_INLINE void operator()(Arguments&&...) const {}
};

// The outermost butterflies with what happens to their elements in real space: `get(y, re, im)`
// reads where there is no inverse, `work(y, re, im)` changes element y, `put(y, re, im)` takes it
// where there is no forward transform.
template <int Radix, bool Inverse, bool Forward, typename T, typename Get, typename Work,
          typename Put>
PTYLE_INLINE void outermost(const Axis<T>& axis, T* x, const Get& get, const Work& work,
                            const Put& put) {
  constexpr int W = kLanes<T>;
  const int64_t m = axis.size / Radix;
  const T* twiddles = axis.twiddles[0];
  Vector<T> re[Radix], im[Radix];
  for (int64_t j = 0; j < m; ++j) {
    T* at = x + j * 2 * W;
    const T* here = twiddles + j * 2 * (Radix - 1);
    if constexpr (Inverse) {
      load_elements<Radix>(at, m * 2 * W, re, im);
      element<Radix, true, T>(re, im, here);
    } else {
#pragma GCC unroll 8
      for (int q = 0; q < Radix; ++q) get(j + q * m, re[q], im[q]);
    }
#pragma GCC unroll 8
    for (int q = 0; q < Radix; ++q) work(j + q * m, re[q], im[q]);
    if constexpr (Forward) {
      element<Radix, false, T>(re, im, here);
      store_elements<Radix>(at, m * 2 * W, re, im);
    } else {
#pragma GCC unroll 8
      for (int q = 0; q < Radix; ++q) put(j + q * m, re[q], im[q]);
    }
  }
}

// The innermost butterflies with what happens to a spectrum: `get(slot, ...)` reads where there is
// no forward transform, `work(slot, ...)` changes, `put(slot, ...)` takes where there is no
// inverse.
template <int Radix, bool Forward, bool Inverse, typename T, typename Get, typename Work,
          typename Put>
PTYLE_INLINE void innermost(const Axis<T>& axis, T* x, const Get& get, const Work& work,
                            const Put& put) {
  constexpr int W = kLanes<T>;
  Vector<T> re[Radix], im[Radix];
  for (int64_t slot = 0; slot < axis.size; slot += Radix) {
    T* at = x + slot * 2 * W;
    if constexpr (Forward) {
      load_elements<Radix>(at, 2 * W, re, im);
      element<Radix, false, T>(re, im, nullptr);
    } else {
#pragma GCC unroll 8
      for (int q = 0; q < Radix; ++q) get(slot + q, re[q], im[q]);
    }
#pragma GCC unroll 8
    for (int q = 0; q < Radix; ++q) work(slot + q, re[q], im[q]);
    if constexpr (Inverse) {
      element<Radix, true, T>(re, im, nullptr);
      store_elements<Radix>(at, 2 * W, re, im);
    } else {
#pragma GCC unroll 8
      for (int q = 0; q < Radix; ++q) put(slot + q, re[q], im[q]);
    }
  }
}

// ---- primes above 5 ----

// By the definition, elements j and p - j together: products with cosines and sines alone.
template <typename T, typename Get, typename Put>
PTYLE_INLINE void by_definition(const Prime<T>& prime, int64_t p, T* scratch, const Get& get,
                                const Put& put) {
  constexpr int W = kLanes<T>;
  const int64_t h = p / 2;
  const ComplexVector<T> x0 = get(0);
  ComplexVector<T> sum = x0;
  for (int64_t j = 0; j < h; ++j) {
    const ComplexVector<T> a = get(j + 1), b = get(p - 1 - j);
    const Vector<T> re[] = {a.re + b.re, a.re - b.re}, im[] = {a.im + b.im, a.im - b.im};
    store_elements<2>(scratch + j * 4 * W, 2 * W, re, im);
    sum = {sum.re + re[0], sum.im + im[0]};
  }
  put(0, sum.re, sum.im);
  // outputs k ... k + K - 1, and those that mirror them
  const auto outputs = [&]<int K>(std::integral_constant<int, K>, int64_t k)
      __attribute__((always_inline)) {
    const T* factors = prime.factors + 2 * (k - 1) * h;
    Vector<T> cr[K], ci[K], sr[K] = {}, si[K] = {};
    for (int i = 0; i < K; ++i) {
      cr[i] = x0.re;
      ci[i] = x0.im;
    }
    for (int64_t j = 0; j < h; ++j) {
      Vector<T> re[2], im[2];
      load_elements<2>(scratch + j * 4 * W, 2 * W, re, im);
#pragma GCC unroll 4
      for (int i = 0; i < K; ++i) {
        const T c = factors[2 * (i * h + j)], s = factors[2 * (i * h + j) + 1];
        cr[i] += c * re[0];
        ci[i] += c * im[0];
        sr[i] += s * re[1];
        si[i] += s * im[1];
      }
    }
    for (int i = 0; i < K; ++i) {
      put(k + i, cr[i] + si[i], ci[i] - sr[i]);
      put(p - k - i, cr[i] - si[i], ci[i] + sr[i]);
    }
  };
  constexpr int kAtOnce = kVectorBytes == 64 ? 4 : 2;  // as many as there are registers for
  int64_t k = 1;
  for (; k + kAtOnce <= h + 1; k += kAtOnce) outputs(std::integral_constant<int, kAtOnce>{}, k);
  for (; k <= h; ++k) outputs(std::integral_constant<int, 1>{}, k);
}

template <bool Inverse, typename T>
void outer_levels(const Axis<T>& axis, T* x, T* scratch);

// After Rader (1968): in the order of a primitive root's powers all outputs but the first are a
// convolution, which is a product between two transforms of another length.
template <typename T, typename Get, typename Put>
PTYLE_INLINE void by_convolution(const Prime<T>& prime, int64_t p, T* scratch, const Get& get,
                                 const Put& put) {
  constexpr int W = kLanes<T>;
  const Axis<T>& axis = prime.convolution;
  T* rest = scratch + axis.size * 2 * W;
  const ComplexVector<T> x0 = get(0);
  ComplexVector<T> sum = x0;
  for (int64_t i = 0; i < p - 1; ++i) {
    const ComplexVector<T> z = get(prime.powers[i]);
    store(scratch + i * 2 * W, z.re);
    store(scratch + i * 2 * W + W, z.im);
    sum = {sum.re + z.re, sum.im + z.im};
  }
  for (int64_t i = (p - 1) * 2 * W; i < axis.size * 2 * W; ++i) scratch[i] = T(0);
  put(0, sum.re, sum.im);
  outer_levels<false>(axis, scratch, rest);
  with_innermost(
      axis.radix[axis.levels - 1], [&](auto radix) __attribute__((always_inline)) {
        innermost<decltype(radix)::value, true, true>(
            axis, scratch, Nothing{},
            [&](int64_t slot, Vector<T> & re, Vector<T> & im)
                __attribute__((always_inline)) { multiply(re, im, prime.factors + 2 * slot); },
            Nothing{});
      });
  outer_levels<true>(axis, scratch, rest);
  for (int64_t i = 0; i < p - 1; ++i) {
    const T* from = scratch + i * 2 * W;
    put(prime.powers[i == 0 ? 0 : p - 1 - i], x0.re + load(from), x0.im + load(from + W));
  }
}

// As `level`, of a prime radix.
template <bool Inverse, typename T>
__attribute__((noinline)) void prime_level(const Prime<T>& prime, int64_t p, T* x, int64_t count,
                                           int64_t m, const T* twiddles, T* scratch) {
  constexpr int W = kLanes<T>;
  constexpr int kRe = Inverse ? W : 0, kIm = W - kRe;  // exchanged
  for (int64_t b = 0; b < count; b += p * m) {
    for (int64_t j = 0; j < m; ++j) {
      T* at = x + (b + j) * 2 * W;
      const T* here = twiddles + j * 2 * (p - 1) - 2;
      const auto get = [&](int64_t q) __attribute__((always_inline)) {
        const T* from = at + q * m * 2 * W;
        ComplexVector<T> z{load(from + kRe), load(from + kIm)};
        if (Inverse && j > 0 && q > 0) multiply(z.re, z.im, here + 2 * q);
        return z;
      };
      const auto put = [&](int64_t q, Vector<T> re, Vector<T> im) __attribute__((always_inline)) {
        if (!Inverse && j > 0 && q > 0) multiply(re, im, here + 2 * q);
        store(at + q * m * 2 * W + kRe, re);
        store(at + q * m * 2 * W + kIm, im);
      };
      if (prime.powers == nullptr) {
        by_definition(prime, p, scratch, get, put);
      } else {
        by_convolution(prime, p, scratch, get, put);
      }
    }
  }
}

// ---- all levels ----

template <bool Inverse, typename T>
PTYLE_INLINE void level(const Axis<T>& axis, int k, T* x, int64_t count, int64_t m, T* scratch) {
  const T* twiddles = axis.twiddles[k];
  switch (axis.radix[k]) {
    case 1:
      return;
    case 2:
      return level<2, Inverse>(x, count, m, twiddles);
    case 3:
      return level<3, Inverse>(x, count, m, twiddles);
    case 4:
      return level<4, Inverse>(x, count, m, twiddles);
    case 5:
      return level<5, Inverse>(x, count, m, twiddles);
    case 8:
      return level<8, Inverse>(x, count, m, twiddles);
    default:
      return prime_level<Inverse>(*axis.prime[k], axis.radix[k], x, count, m, twiddles, scratch);
  }
}

// Levels [first, last) of a transform over `count` of its elements, in the direction's order.
template <bool Inverse, typename T>
void levels(const Axis<T>& axis, T* x, int64_t count, int first, int last, T* scratch) {
  int64_t block = axis.size;
  for (int k = 0; k < first; ++k) block /= axis.radix[k];
  if constexpr (Inverse) {
    int64_t m = block;
    for (int k = first; k < last; ++k) m /= axis.radix[k];
    for (int k = last - 1; k >= first; --k) {
      level<true>(axis, k, x, count, m, scratch);
      m *= axis.radix[k];
    }
  } else {
    for (int k = first; k < last; ++k) {
      block /= axis.radix[k];
      level<false>(axis, k, x, count, block, scratch);
    }
  }
}

// All levels but the outermost. What does not fit into the first-level cache is finished one block
// after the other.
template <bool Inverse, typename T>
void inner_levels(const Axis<T>& axis, T* x, T* scratch) {
  constexpr int W = kLanes<T>;
  constexpr int64_t kCacheBytes = 32 << 10;
  const int64_t blocks = axis.levels > 0 ? axis.radix[0] : 1;
  if (axis.size * 2 * W * static_cast<int64_t>(sizeof(T)) <= kCacheBytes) {
    levels<Inverse>(axis, x, axis.size, 1, axis.levels, scratch);
    return;
  }
  const int64_t block = axis.size / blocks;
  for (int64_t b = 0; b < blocks; ++b) {
    levels<Inverse>(axis, x + b * block * 2 * W, block, 1, axis.levels, scratch);
  }
}
// All levels but the innermost.
template <bool Inverse, typename T>
void outer_levels(const Axis<T>& axis, T* x, T* scratch) {
  levels<Inverse>(axis, x, axis.size, 0, axis.levels - 1, scratch);
}
