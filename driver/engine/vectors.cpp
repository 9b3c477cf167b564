#include "driver/engine/vectors.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include "csrc/scalar.h"
#include "csrc/wave.h"

namespace ptyle::driver {
namespace {

constexpr std::int64_t kGrain =
    16384;  // elements: below this a second thread costs more than it gives

template <typename Work>
auto with_real_type(const at::Tensor& tensor, const Work& work) {
  return at::toRealValueType(tensor.scalar_type()) == at::kFloat
             ? work.template operator()<float>()
             : work.template operator()<double>();
}

template <typename T>
const Complex<T>* complex_data(const at::Tensor& tensor) {
  return static_cast<const Complex<T>*>(tensor.const_data_ptr());
}
template <typename T>
Complex<T>* mutable_complex_data(at::Tensor& tensor) {
  return static_cast<Complex<T>*>(tensor.data_ptr());
}

// term(i) summed in double over fixed blocks, the blocks in order.
template <typename Term>
double ordered_sum(std::int64_t n, const Term& term) {
  constexpr std::int64_t kBlock = 4096;
  std::vector<double> blocks(static_cast<std::size_t>((n + kBlock - 1) / kBlock));
  at::parallel_for(0, static_cast<std::int64_t>(blocks.size()), 4,
                   [&](std::int64_t begin, std::int64_t end) {
                     for (std::int64_t b = begin; b < end; ++b) {
                       double sum = 0;
                       const std::int64_t last = std::min(n, (b + 1) * kBlock);
                       for (std::int64_t i = b * kBlock; i < last; ++i) sum += term(i);
                       blocks[static_cast<std::size_t>(b)] = sum;
                     }
                   });
  double sum = 0;
  for (const double block : blocks) sum += block;
  return sum;
}

template <typename Work>
void for_each(std::int64_t n, const Work& work) {
  at::parallel_for(0, n, kGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) work(i);
  });
}

}  // namespace

double real_inner_product(const at::Tensor& a, const at::Tensor& b) {
  return with_real_type(a, [&]<typename T>() {
    const Complex<T>* x = complex_data<T>(a);
    const Complex<T>* y = complex_data<T>(b);
    return ordered_sum(a.numel(), [&](std::int64_t i) {
      return static_cast<double>(x[i].re) * static_cast<double>(y[i].re) +
             static_cast<double>(x[i].im) * static_cast<double>(y[i].im);
    });
  });
}

double power(const at::Tensor& a) { return real_inner_product(a, a); }

double largest(const at::Tensor& a) {
  return with_real_type(a, [&]<typename T>() {
    const T* x = a.const_data_ptr<T>();
    T most = 0;
    for (std::int64_t i = 0; i < a.numel(); ++i) most = std::max(most, x[i]);
    return static_cast<double>(most);
  });
}

std::int64_t checksum(const at::Tensor& tensor) {
  const at::Tensor plain = tensor.contiguous();
  const auto* bytes = static_cast<const unsigned char*>(plain.const_data_ptr());
  std::uint64_t hash = 14695981039346656037ULL;
  for (std::size_t i = 0; i < plain.nbytes(); ++i) hash = (hash ^ bytes[i]) * 1099511628211ULL;
  return static_cast<std::int64_t>(hash);
}

void add_scaled(at::Tensor& y, double factor, const at::Tensor& x) {
  with_real_type(y, [&]<typename T>() {
    Complex<T>* to = mutable_complex_data<T>(y);
    const Complex<T>* from = complex_data<T>(x);
    const T f = static_cast<T>(factor);
    for_each(y.numel(), [&](std::int64_t i) { to[i] += f * from[i]; });
    return 0;
  });
}

void scale(at::Tensor& y, double factor) {
  with_real_type(y, [&]<typename T>() {
    Complex<T>* to = mutable_complex_data<T>(y);
    const T f = static_cast<T>(factor);
    for_each(y.numel(), [&](std::int64_t i) { to[i] = f * to[i]; });
    return 0;
  });
}

void multiply(at::Tensor& y, const at::Tensor& weight) {
  with_real_type(y, [&]<typename T>() {
    Complex<T>* to = mutable_complex_data<T>(y);
    const T* w = weight.const_data_ptr<T>();
    const std::int64_t plane = weight.numel();
    for_each(y.numel(), [&](std::int64_t i) { to[i] = w[i % plane] * to[i]; });
    return 0;
  });
}

at::Tensor preconditioner(const at::Tensor& illumination, double step) {
  at::Tensor weight = at::empty_like(illumination);
  with_real_type(illumination, [&]<typename T>() {
    const T floor = static_cast<T>(0.05 * largest(illumination));
    const T* from = illumination.const_data_ptr<T>();
    T* to = weight.data_ptr<T>();
    const T s = static_cast<T>(step);
    for_each(weight.numel(),
             [&](std::int64_t i) { to[i] = floor > T(0) ? s / (T(2) * (from[i] + floor)) : T(0); });
    return 0;
  });
  return weight;
}

double relative_step(const at::Tensor& x, const at::Tensor& gradient, const at::Tensor& weight,
                     const at::Tensor& illumination) {
  return with_real_type(x, [&]<typename T>() {
    const Complex<T>* at_x = complex_data<T>(x);
    const Complex<T>* g = complex_data<T>(gradient);
    const T* w = weight.const_data_ptr<T>();
    const T* lit = illumination.const_data_ptr<T>();
    const std::int64_t plane = weight.numel();
    const auto lit_sum = [&](const auto& of) {
      return ordered_sum(x.numel(), [&](std::int64_t i) {
        return static_cast<double>(lit[i % plane]) * static_cast<double>(of(i));
      });
    };
    const double moved = lit_sum([&](std::int64_t i) { return abs_squared(w[i % plane] * g[i]); });
    const double there = lit_sum([&](std::int64_t i) { return abs_squared(at_x[i]); });
    return there > 0 ? std::sqrt(moved / there) : 0.0;
  });
}

void descend(at::Tensor& x, at::Tensor& velocity, const at::Tensor& gradient,
             const at::Tensor& weight, double momentum) {
  with_real_type(x, [&]<typename T>() {
    Complex<T>* at_x = mutable_complex_data<T>(x);
    Complex<T>* v = momentum > 0 ? mutable_complex_data<T>(velocity) : nullptr;
    const Complex<T>* g = complex_data<T>(gradient);
    const T* w = weight.const_data_ptr<T>();
    const std::int64_t plane = weight.numel();
    const T mu = static_cast<T>(momentum);
    for_each(x.numel(), [&](std::int64_t i) {
      Complex<T> move = -w[i % plane] * g[i];
      if (v != nullptr) {
        move = mu * v[i] + move;
        v[i] = move;
      }
      at_x[i] += move;
    });
    return 0;
  });
}

void adam(at::Tensor& x, at::Tensor& first, at::Tensor& second, const at::Tensor& gradient,
          double rate, std::int64_t t) {
  constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kEpsilon = 1e-12;
  with_real_type(x, [&]<typename T>() {
    Complex<T>* at_x = mutable_complex_data<T>(x);
    Complex<T>* m = mutable_complex_data<T>(first);
    T* v = second.data_ptr<T>();
    const Complex<T>* g = complex_data<T>(gradient);
    const T beta1 = T(kBeta1), beta2 = T(kBeta2), epsilon = T(kEpsilon);
    const T by_first = static_cast<T>(rate / (1 - std::pow(kBeta1, static_cast<double>(t))));
    const T by_second = static_cast<T>(1 / (1 - std::pow(kBeta2, static_cast<double>(t))));
    for_each(x.numel(), [&](std::int64_t i) {
      m[i] = beta1 * m[i] + (T(1) - beta1) * g[i];
      v[i] = beta2 * v[i] + (T(1) - beta2) * abs_squared(g[i]);
      at_x[i] += (-by_first / (ptyle::sqrt(v[i] * by_second) + epsilon)) * m[i];
    });
    return 0;
  });
}

at::Tensor windowed_power(const at::Tensor& transmission, const at::Tensor& positions,
                          std::int64_t height, std::int64_t width) {
  return with_real_type(transmission, [&]<typename T>() {
    const std::int64_t rows = transmission.size(0), columns = transmission.size(1);
    const Complex<T>* o = complex_data<T>(transmission);
    const at::Tensor plain = positions.contiguous();
    const double* p = plain.const_data_ptr<double>();
    at::Tensor sums =
        at::zeros({height, width},
                  transmission.options().dtype(at::toRealValueType(transmission.scalar_type())));
    T* to = sums.data_ptr<T>();
    // Each thread owns rows of the window and goes through the positions in order.
    at::parallel_for(0, height, 8, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t n = 0; n < positions.size(0); ++n) {
        const auto row = static_cast<std::int64_t>(std::floor(p[2 * n]));
        const auto column = static_cast<std::int64_t>(std::floor(p[2 * n + 1]));
        const Footprint in = footprint(row, column, height, width, rows, columns);
        for (std::int64_t y = begin; y < end; ++y) {
          const bool inside = y >= in.row_begin && y < in.row_end;
          T* sum = to + y * width;
          const std::int64_t x0 = inside ? in.column_begin : width;
          const std::int64_t x1 = inside ? in.column_end : width;
          for (std::int64_t x = 0; x < x0; ++x) sum[x] += T(1);
          if (!inside) continue;
          const Complex<T>* from = o + (row + y) * columns + column;
          for (std::int64_t x = x0; x < x1; ++x) sum[x] += abs_squared(from[x]);
          for (std::int64_t x = x1; x < width; ++x) sum[x] += T(1);
        }
      }
    });
    return sums;
  });
}

}  // namespace ptyle::driver
