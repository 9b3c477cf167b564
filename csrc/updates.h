// Arithmetic on object and probe between two evaluations, an element at a time: what optimisers do
// with gradients, and sums over images. One source for host and device.
#pragma once

#include <cstdint>
#include <variant>

#include "csrc/scalar.h"

namespace ptyle {

// [planes, rows, columns]
struct ImageSize {
  int64_t planes, rows, columns;
};

// An image of unit stride in columns, whole or a part of a larger one. plane_stride 0: all planes
// share one.
template <typename V>
struct Image {
  V* data;
  int64_t plane_stride, row_stride;
  PTYLE_HOST_DEVICE V& at(int64_t plane, int64_t row, int64_t column) const {
    return data[plane * plane_stride + row * row_stride + column];
  }
};

// y += factor x
template <typename T>
struct AddScaled {
  Image<Complex<T>> y;
  Image<const Complex<T>> x;
  T factor;
  PTYLE_HOST_DEVICE void operator()(int64_t p, int64_t r, int64_t c) const {
    y.at(p, r, c) += factor * x.at(p, r, c);
  }
};

// y = factor y
template <typename T>
struct Scale {
  Image<Complex<T>> y;
  T factor;
  PTYLE_HOST_DEVICE void operator()(int64_t p, int64_t r, int64_t c) const {
    y.at(p, r, c) = factor * y.at(p, r, c);
  }
};

// y = weight y
template <typename T>
struct Multiply {
  Image<Complex<T>> y;
  Image<const T> weight;
  PTYLE_HOST_DEVICE void operator()(int64_t p, int64_t r, int64_t c) const {
    y.at(p, r, c) = weight.at(p, r, c) * y.at(p, r, c);
  }
};

// weight = step / (2 (illumination + floor)); 0 where floor is 0
template <typename T>
struct Precondition {
  Image<const T> illumination;
  Image<T> weight;
  T floor, step;
  PTYLE_HOST_DEVICE void operator()(int64_t p, int64_t r, int64_t c) const {
    weight.at(p, r, c) = floor > T(0) ? step / (T(2) * (illumination.at(p, r, c) + floor)) : T(0);
  }
};

// velocity = momentum velocity - weight gradient; x += velocity. Without momentum there is no
// velocity.
template <typename T>
struct Descend {
  Image<Complex<T>> x, velocity;
  Image<const Complex<T>> gradient;
  Image<const T> weight;
  T momentum;
  PTYLE_HOST_DEVICE void operator()(int64_t p, int64_t r, int64_t c) const {
    Complex<T> move = -weight.at(p, r, c) * gradient.at(p, r, c);
    if (momentum > T(0)) {
      move = momentum * velocity.at(p, r, c) + move;
      velocity.at(p, r, c) = move;
    }
    x.at(p, r, c) += move;
  }
};

// A step of Adam (Kingma & Ba 2015) with the second moment of a complex number taken as |g|^2, so
// that a rotation of the phase rotates the step. by_first = rate / (1 - beta1^t), by_second = 1 /
// (1 - beta2^t).
template <typename T>
struct AdamStep {
  Image<Complex<T>> x, first;
  Image<T> second;
  Image<const Complex<T>> gradient;
  T beta1, beta2, epsilon, by_first, by_second;
  PTYLE_HOST_DEVICE void operator()(int64_t p, int64_t r, int64_t c) const {
    const Complex<T> g = gradient.at(p, r, c);
    Complex<T>& m = first.at(p, r, c);
    T& v = second.at(p, r, c);
    m = beta1 * m + (T(1) - beta1) * g;
    v = beta2 * v + (T(1) - beta2) * abs_squared(g);
    x.at(p, r, c) += (-by_first / (ptyle::sqrt(v * by_second) + epsilon)) * m;
  }
};

// sum [h, w] = sum over windows, in order, of |transmission|^2, vacuum (1) outside it. corners
// [windows, 2] in its array.
template <typename T>
struct WindowedPower {
  Image<const Complex<T>> transmission;
  int64_t rows, columns;  // of the transmission
  const int64_t* corners;
  int64_t windows;
  Image<T> sum;
  PTYLE_HOST_DEVICE void operator()(int64_t p, int64_t r, int64_t c) const {
    T total = 0;
    for (int64_t n = 0; n < windows; ++n) {
      const int64_t row = corners[2 * n] + r, column = corners[2 * n + 1] + c;
      const bool inside = row >= 0 && row < rows && column >= 0 && column < columns;
      total += inside ? abs_squared(transmission.at(p, row, column)) : T(1);
    }
    sum.at(p, r, c) = total;
  }
};

template <typename T>
using Update = std::variant<AddScaled<T>, Scale<T>, Multiply<T>, Precondition<T>, Descend<T>,
                            AdamStep<T>, WindowedPower<T>>;

// ---- terms of sums, added in double ----

// Re(conj(a) b)
template <typename T>
struct InnerProduct {
  Image<const Complex<T>> a, b;
  PTYLE_HOST_DEVICE double operator()(int64_t p, int64_t r, int64_t c) const {
    const Complex<T> x = a.at(p, r, c), y = b.at(p, r, c);
    return static_cast<double>(x.re) * static_cast<double>(y.re) +
           static_cast<double>(x.im) * static_cast<double>(y.im);
  }
};

// illumination |weight x|^2
template <typename T>
struct LitPower {
  Image<const Complex<T>> x;
  Image<const T> weight, illumination;  // weight null: 1
  PTYLE_HOST_DEVICE double operator()(int64_t p, int64_t r, int64_t c) const {
    const Complex<T> value =
        weight.data != nullptr ? weight.at(p, r, c) * x.at(p, r, c) : x.at(p, r, c);
    return static_cast<double>(illumination.at(p, r, c)) * static_cast<double>(abs_squared(value));
  }
};

template <typename T>
using SumOf = std::variant<InnerProduct<T>, LitPower<T>>;

}  // namespace ptyle
