// Vectors of lanes, in the compiler's own vector extension: no intrinsics. Included within the
// namespace of one instruction set, so that no code of another one is ever shared.

#pragma once

#define PTYLE_INLINE inline __attribute__((always_inline))

inline constexpr int kVectorBytes = PTYLE_VECTOR_BYTES;

template <typename T>
inline constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

template <typename T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
  typedef T unaligned __attribute__((vector_size(kVectorBytes), aligned(sizeof(T)), may_alias));
};
template <typename T>
using Vector = typename VectorOf<T>::type;

// A vector of as many Numbers as there are lanes of T; only sizes that do not depend on a parameter
// are taken by the extension.
template <typename Number, int Eighths>  // of kVectorBytes
struct VectorOfSize;
#define PTYLE_VECTOR_OF_SIZE(Eighths)                                                \
  template <typename Number>                                                         \
  struct VectorOfSize<Number, Eighths> {                                             \
    typedef Number type __attribute__((vector_size(kVectorBytes * Eighths / 8)));    \
    typedef Number unaligned __attribute__((vector_size(kVectorBytes * Eighths / 8), \
                                            aligned(sizeof(Number)), may_alias));    \
  };
PTYLE_VECTOR_OF_SIZE(1)
PTYLE_VECTOR_OF_SIZE(2)
PTYLE_VECTOR_OF_SIZE(4)
PTYLE_VECTOR_OF_SIZE(8)
PTYLE_VECTOR_OF_SIZE(16)
#undef PTYLE_VECTOR_OF_SIZE
template <typename T, typename Number>
using VectorBeside = VectorOfSize<Number, 8 * sizeof(Number) / sizeof(T)>;

template <typename T>
PTYLE_INLINE Vector<T> load(const T* from) {
  return *reinterpret_cast<const typename VectorOf<T>::unaligned*>(from);
}
template <typename T>
PTYLE_INLINE void store(T* to, Vector<T> value) {
  *reinterpret_cast<typename VectorOf<T>::unaligned*>(to) = value;
}
template <typename T>
PTYLE_INLINE Vector<T> broadcast(T value) {
  return value - Vector<T>{};
}

// Two complex rows of W numbers as they lie in memory (re, im, re, im ...) <-> W re and W im.
template <typename V, int... I>
PTYLE_INLINE V even_numbers(V a, V b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (2 * I)...);
}
template <typename V, int... I>
PTYLE_INLINE V odd_numbers(V a, V b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (2 * I + 1)...);
}
template <typename V, int... I>
PTYLE_INLINE V mixed_low(V a, V b, std::integer_sequence<int, I...>) {
  constexpr int kCount = sizeof...(I);
  return __builtin_shufflevector(a, b, (I / 2 + (I % 2) * kCount)...);
}
template <typename V, int... I>
PTYLE_INLINE V mixed_high(V a, V b, std::integer_sequence<int, I...>) {
  constexpr int kCount = sizeof...(I);
  return __builtin_shufflevector(a, b, (kCount / 2 + I / 2 + (I % 2) * kCount)...);
}

template <typename T>
struct ComplexVector {
  Vector<T> re, im;
};

template <typename T>
PTYLE_INLINE ComplexVector<T> load_interleaved(const T* from) {
  constexpr std::make_integer_sequence<int, kLanes<T>> all;
  const Vector<T> a = load(from), b = load(from + kLanes<T>);
  return {even_numbers(a, b, all), odd_numbers(a, b, all)};
}
template <typename T>
PTYLE_INLINE void store_interleaved(T* to, Vector<T> re, Vector<T> im) {
  constexpr std::make_integer_sequence<int, kLanes<T>> all;
  store(to, mixed_low(re, im, all));
  store(to + kLanes<T>, mixed_high(re, im, all));
}

// Lane l of the result: `low` where l does not have bit `Bit`: a[l] and b[l - Bit]; `high`: a[l +
// Bit] and b[l]. Blocks of Bit lanes of two vectors change places.
template <int Bit, typename V, int... I>
PTYLE_INLINE V blocks_low(V a, V b, std::integer_sequence<int, I...>) {
  constexpr int kCount = sizeof...(I);
  return __builtin_shufflevector(a, b, ((I & Bit) == 0 ? I : I - Bit + kCount)...);
}
template <int Bit, typename V, int... I>
PTYLE_INLINE V blocks_high(V a, V b, std::integer_sequence<int, I...>) {
  constexpr int kCount = sizeof...(I);
  return __builtin_shufflevector(a, b, ((I & Bit) == 0 ? I + Bit : I + kCount)...);
}
// Within blocks of Block lanes: pieces of Piece lanes alternately from a and b, from the blocks'
// lower or upper halves. These are the shuffles that old instruction sets have, too.
template <int Block, int Piece, bool Upper, typename V, int... I>
PTYLE_INLINE V unpacked(V a, V b, std::integer_sequence<int, I...>) {
  constexpr int kCount = sizeof...(I);
  return __builtin_shufflevector(
      a, b,
      (I / Block * Block + (Upper ? Block / 2 : 0) + I % Block / (2 * Piece) * Piece + I % Piece +
       (I / Piece % 2) * kCount)...);
}

template <int Bit, typename T>
PTYLE_INLINE void exchange_blocks(Vector<T>* x) {
  constexpr int kCount = kLanes<T>;
  constexpr std::make_integer_sequence<int, kCount> all;
  if constexpr (Bit < kCount) {
#pragma GCC unroll 16
    for (int i = 0; i < kCount; ++i) {
      if ((i & Bit) != 0) continue;
      const Vector<T> a = x[i], b = x[i + Bit];
      x[i] = blocks_low<Bit>(a, b, all);
      x[i + Bit] = blocks_high<Bit>(a, b, all);
    }
    exchange_blocks<2 * Bit, T>(x);
  }
}

// W x W numbers in W vectors: rows become columns.
template <typename T>
PTYLE_INLINE void transpose(Vector<T>* x) {
  constexpr int kCount = kLanes<T>;
  constexpr std::make_integer_sequence<int, kCount> all;
  constexpr int kBlock = 16 / static_cast<int>(sizeof(T));  // lanes of 128 bits: 4 or 2
  if constexpr (kBlock == 4) {
#pragma GCC unroll 16
    for (int i = 0; i < kCount; i += 4) {
      const Vector<T> a = unpacked<4, 1, false>(x[i], x[i + 1], all);
      const Vector<T> b = unpacked<4, 1, true>(x[i], x[i + 1], all);
      const Vector<T> c = unpacked<4, 1, false>(x[i + 2], x[i + 3], all);
      const Vector<T> d = unpacked<4, 1, true>(x[i + 2], x[i + 3], all);
      x[i] = unpacked<4, 2, false>(a, c, all);
      x[i + 1] = unpacked<4, 2, true>(a, c, all);
      x[i + 2] = unpacked<4, 2, false>(b, d, all);
      x[i + 3] = unpacked<4, 2, true>(b, d, all);
    }
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < kCount; i += 2) {
      const Vector<T> a = unpacked<2, 1, false>(x[i], x[i + 1], all);
      x[i + 1] = unpacked<2, 1, true>(x[i], x[i + 1], all);
      x[i] = a;
    }
  }
  exchange_blocks<kBlock, T>(x);
}

// What formulae of csrc are written in: arithmetic of whole vectors, comparisons as masks.
template <typename T>
struct Mask {
  decltype(Vector<T>{} < Vector<T>{}) lanes;
};

template <typename T>
struct Lanes {
  Vector<T> lanes;
  Lanes() = default;
  PTYLE_INLINE Lanes(Vector<T> from) : lanes(from) {}
  template <typename Scalar>
  requires std::is_arithmetic_v<Scalar> PTYLE_INLINE explicit Lanes(Scalar from)
      : lanes(broadcast<T>(static_cast<T>(from))) {}

  PTYLE_INLINE friend Lanes operator+(Lanes a, Lanes b) { return a.lanes + b.lanes; }
  PTYLE_INLINE friend Lanes operator-(Lanes a, Lanes b) { return a.lanes - b.lanes; }
  PTYLE_INLINE friend Lanes operator*(Lanes a, Lanes b) { return a.lanes * b.lanes; }
  PTYLE_INLINE friend Lanes operator/(Lanes a, Lanes b) { return a.lanes / b.lanes; }
  PTYLE_INLINE friend Mask<T> operator<=(Lanes a, Lanes b) { return {a.lanes <= b.lanes}; }
  PTYLE_INLINE friend Lanes select(Mask<T> mask, Lanes a, Lanes b) {
    return mask.lanes ? a.lanes : b.lanes;
  }
  PTYLE_INLINE friend Lanes sqrt(Lanes a) {
    Vector<T> root;
#pragma GCC unroll 16
    for (int l = 0; l < kLanes<T>; ++l) {
      if constexpr (sizeof(T) == 4) {
        root[l] = __builtin_sqrtf(a.lanes[l]);
      } else {
        root[l] = __builtin_sqrt(a.lanes[l]);
      }
    }
    return root;
  }
};

// Natural logarithm of positive numbers, also denormal ones; infinity and what is not a number stay
// what they are. x = m 2^e with m in [sqrt(1/2), sqrt(2)), and ln m = 2 artanh((m - 1) / (m + 1))
// as its series, whose first missing term is below half a unit in the last place.
template <typename T>
PTYLE_INLINE Lanes<T> log(Lanes<T> argument) {
  typedef decltype(Vector<T>{} < Vector<T>{}) Integers;
  constexpr int kMantissa = sizeof(T) == 4 ? 23 : 52;
  constexpr T kTiny = sizeof(T) == 4 ? T(1.17549435e-38) : T(2.2250738585072014e-308);
  constexpr T kUp = T(1ull << 25) * T(1ull << (sizeof(T) == 4 ? 0 : 30));
  constexpr int kUpBits = sizeof(T) == 4 ? 25 : 55;
  const Vector<T> x = argument.lanes;
  const Vector<T> zero{};
  const auto small = x < kTiny + zero;
  const Vector<T> normal = small ? x * kUp : x;
  Integers bits = __builtin_bit_cast(Integers, normal);
  // The exponent changes where the mantissa passes sqrt(2).
  constexpr T kRootHalf = T(0.70710678118654752440L);
  const Vector<T> root = kRootHalf + zero;
  const Integers shifted = bits - __builtin_bit_cast(Integers, root);
  const Integers exponent = shifted >> kMantissa;
  bits = bits - (exponent << kMantissa);
  const Vector<T> m = __builtin_bit_cast(Vector<T>, bits);
  const Vector<T> s = (m - T(1)) / (m + T(1));
  const Vector<T> s2 = s * s;
  constexpr int kTerms = sizeof(T) == 4 ? 5 : 12;
  Vector<T> sum = zero + T(1) / T(2 * kTerms + 1);
#pragma GCC unroll 16
  for (int k = kTerms - 1; k >= 0; --k) sum = sum * s2 + T(1) / T(2 * k + 1);
  const Vector<T> e =
      __builtin_convertvector(exponent, Vector<T>) - (small ? T(kUpBits) + zero : zero);
  const Vector<T> result = e * T(0.693147180559945309417L) + T(2) * s * sum;
  const auto finite = x <= (sizeof(T) == 4 ? T(3.40282347e+38) : T(1.7976931348623157e308)) + zero;
  return finite ? result : x;
}
