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

// Rows of an image [planes, rows, columns]; row r is row r % rows of plane r / rows. Weights
// [rows, columns] count their planes as one and repeat.
template <typename T>
class Rows {
 public:
  explicit Rows(const at::Tensor& image)
      : data_(static_cast<T*>(const_cast<void*>(image.const_data_ptr()))),
        rows_(image.size(-2)),
        columns_(image.size(-1)),
        planes_(image.dim() == 3 ? image.size(0) : 1),
        plane_stride_(image.dim() == 3 ? image.stride(0) : 0),
        row_stride_(image.stride(-2)) {
    TORCH_INTERNAL_ASSERT(columns_ <= 1 || image.stride(-1) == 1);
  }
  std::int64_t count() const { return planes_ * rows_; }
  std::int64_t columns() const { return columns_; }
  T* operator[](std::int64_t row) const {
    return data_ + (row / rows_) * plane_stride_ + (row % rows_) * row_stride_;
  }

 private:
  T* data_;
  std::int64_t rows_, columns_, planes_, plane_stride_, row_stride_;
};

std::int64_t row_grain(std::int64_t columns) {
  return std::max<std::int64_t>(1, kGrain / std::max<std::int64_t>(1, columns));
}

// work(row, column) everywhere in an image.
template <typename T, typename Work>
void for_each(const Rows<T>& image, const Work& work) {
  at::parallel_for(0, image.count(), row_grain(image.columns()),
                   [&](std::int64_t begin, std::int64_t end) {
                     for (std::int64_t row = begin; row < end; ++row) work(row);
                   });
}

// term(row, x) summed in double: each row by itself, the rows in order.
template <typename T, typename Term>
double ordered_sum(const Rows<T>& image, const Term& term) {
  std::vector<double> sums(static_cast<std::size_t>(image.count()));
  for_each(image, [&](std::int64_t row) {
    double sum = 0;
    term(row, sum);
    sums[static_cast<std::size_t>(row)] = sum;
  });
  double sum = 0;
  for (const double one : sums) sum += one;
  return sum;
}

}  // namespace

double real_inner_product(const at::Tensor& a, const at::Tensor& b) {
  return with_real_type(a, [&]<typename T>() {
    const Rows<const Complex<T>> xs(a), ys(b);
    return ordered_sum(xs, [&](std::int64_t row, double& sum) {
      const Complex<T>* x = xs[row];
      const Complex<T>* y = ys[row];
      for (std::int64_t i = 0; i < xs.columns(); ++i) {
        sum += static_cast<double>(x[i].re) * static_cast<double>(y[i].re) +
               static_cast<double>(x[i].im) * static_cast<double>(y[i].im);
      }
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

void add_scaled(at::Tensor y, double factor, const at::Tensor& x) {
  with_real_type(y, [&]<typename T>() {
    const Rows<Complex<T>> to(y);
    const Rows<const Complex<T>> from(x);
    const T f = static_cast<T>(factor);
    for_each(to, [&](std::int64_t row) {
      Complex<T>* out = to[row];
      const Complex<T>* in = from[row];
      for (std::int64_t i = 0; i < to.columns(); ++i) out[i] += f * in[i];
    });
    return 0;
  });
}

void scale(at::Tensor y, double factor) {
  with_real_type(y, [&]<typename T>() {
    const Rows<Complex<T>> to(y);
    const T f = static_cast<T>(factor);
    for_each(to, [&](std::int64_t row) {
      Complex<T>* out = to[row];
      for (std::int64_t i = 0; i < to.columns(); ++i) out[i] = f * out[i];
    });
    return 0;
  });
}

void multiply(at::Tensor y, const at::Tensor& weight) {
  with_real_type(y, [&]<typename T>() {
    const Rows<Complex<T>> to(y);
    const Rows<const T> weights(weight);
    for_each(to, [&](std::int64_t row) {
      Complex<T>* out = to[row];
      const T* w = weights[row % weights.count()];
      for (std::int64_t i = 0; i < to.columns(); ++i) out[i] = w[i] * out[i];
    });
    return 0;
  });
}

at::Tensor preconditioner(const at::Tensor& illumination, double most, double step) {
  at::Tensor weight = at::empty_like(illumination);
  with_real_type(illumination, [&]<typename T>() {
    const T floor = static_cast<T>(0.05 * most);
    const Rows<const T> from(illumination);
    const Rows<T> to(weight);
    const T s = static_cast<T>(step);
    for_each(to, [&](std::int64_t row) {
      const T* in = from[row];
      T* out = to[row];
      for (std::int64_t i = 0; i < to.columns(); ++i) {
        out[i] = floor > T(0) ? s / (T(2) * (in[i] + floor)) : T(0);
      }
    });
    return 0;
  });
  return weight;
}

Moved lit_step(const at::Tensor& x, const at::Tensor& gradient, const at::Tensor& weight,
               const at::Tensor& illumination) {
  return with_real_type(x, [&]<typename T>() {
    const Rows<const Complex<T>> xs(x), gradients(gradient);
    const Rows<const T> weights(weight), lights(illumination);
    Moved moved;
    moved.step = ordered_sum(xs, [&](std::int64_t row, double& sum) {
      const Complex<T>* g = gradients[row];
      const T* w = weights[row % weights.count()];
      const T* lit = lights[row % lights.count()];
      for (std::int64_t i = 0; i < xs.columns(); ++i) {
        sum += static_cast<double>(lit[i]) * static_cast<double>(abs_squared(w[i] * g[i]));
      }
    });
    moved.x = ordered_sum(xs, [&](std::int64_t row, double& sum) {
      const Complex<T>* there = xs[row];
      const T* lit = lights[row % lights.count()];
      for (std::int64_t i = 0; i < xs.columns(); ++i) {
        sum += static_cast<double>(lit[i]) * static_cast<double>(abs_squared(there[i]));
      }
    });
    return moved;
  });
}

void descend(at::Tensor x, at::Tensor velocity, const at::Tensor& gradient,
             const at::Tensor& weight, double momentum) {
  with_real_type(x, [&]<typename T>() {
    const Rows<Complex<T>> xs(x), velocities(momentum > 0 ? velocity : x);
    const Rows<const Complex<T>> gradients(gradient);
    const Rows<const T> weights(weight);
    const T mu = static_cast<T>(momentum);
    for_each(xs, [&](std::int64_t row) {
      Complex<T>* at_x = xs[row];
      Complex<T>* v = velocities[row];
      const Complex<T>* g = gradients[row];
      const T* w = weights[row % weights.count()];
      for (std::int64_t i = 0; i < xs.columns(); ++i) {
        Complex<T> move = -w[i] * g[i];
        if (mu > T(0)) {
          move = mu * v[i] + move;
          v[i] = move;
        }
        at_x[i] += move;
      }
    });
    return 0;
  });
}

void adam(at::Tensor x, at::Tensor first, at::Tensor second, const at::Tensor& gradient,
          double rate, std::int64_t t) {
  constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kEpsilon = 1e-12;
  with_real_type(x, [&]<typename T>() {
    const Rows<Complex<T>> xs(x), firsts(first);
    const Rows<T> seconds(second);
    const Rows<const Complex<T>> gradients(gradient);
    const T beta1 = T(kBeta1), beta2 = T(kBeta2), epsilon = T(kEpsilon);
    const T by_first = static_cast<T>(rate / (1 - std::pow(kBeta1, static_cast<double>(t))));
    const T by_second = static_cast<T>(1 / (1 - std::pow(kBeta2, static_cast<double>(t))));
    for_each(xs, [&](std::int64_t row) {
      Complex<T>* at_x = xs[row];
      Complex<T>* m = firsts[row];
      T* v = seconds[row];
      const Complex<T>* g = gradients[row];
      for (std::int64_t i = 0; i < xs.columns(); ++i) {
        m[i] = beta1 * m[i] + (T(1) - beta1) * g[i];
        v[i] = beta2 * v[i] + (T(1) - beta2) * abs_squared(g[i]);
        at_x[i] += (-by_first / (ptyle::sqrt(v[i] * by_second) + epsilon)) * m[i];
      }
    });
    return 0;
  });
}

at::Tensor windowed_power(const at::Tensor& transmission, const at::Tensor& positions,
                          std::int64_t height, std::int64_t width,
                          std::array<std::int64_t, 2> origin) {
  return with_real_type(transmission, [&]<typename T>() {
    const std::int64_t rows = transmission.size(0), columns = transmission.size(1);
    const Rows<const Complex<T>> object(transmission);
    const at::Tensor plain = positions.contiguous();
    const double* p = plain.const_data_ptr<double>();
    at::Tensor sums =
        at::zeros({height, width},
                  transmission.options().dtype(at::toRealValueType(transmission.scalar_type())));
    T* to = sums.data_ptr<T>();
    // Each thread owns rows of the window and goes through the positions in order.
    at::parallel_for(0, height, 8, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t n = 0; n < positions.size(0); ++n) {
        const auto row = static_cast<std::int64_t>(std::floor(p[2 * n])) - origin[0];
        const auto column = static_cast<std::int64_t>(std::floor(p[2 * n + 1])) - origin[1];
        const Footprint in = footprint(row, column, height, width, rows, columns);
        for (std::int64_t y = begin; y < end; ++y) {
          const bool inside = y >= in.row_begin && y < in.row_end;
          T* sum = to + y * width;
          const std::int64_t x0 = inside ? in.column_begin : width;
          const std::int64_t x1 = inside ? in.column_end : width;
          for (std::int64_t x = 0; x < x0; ++x) sum[x] += T(1);
          if (!inside) continue;
          const Complex<T>* from = object[row + y];
          for (std::int64_t x = x0; x < x1; ++x) sum[x] += abs_squared(from[column + x]);
          for (std::int64_t x = x1; x < width; ++x) sum[x] += T(1);
        }
      }
    });
    return sums;
  });
}

}  // namespace ptyle::driver
