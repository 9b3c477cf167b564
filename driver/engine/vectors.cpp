#include "driver/engine/vectors.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include <ATen/DeviceGuard.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "csrc/updates.h"
#include "csrc/wave.h"
#include "ops/device.h"

namespace ptyle::driver {
namespace {

constexpr std::int64_t kGrain =
    16384;  // elements: below this a second thread costs more than it gives

template <typename Work>
auto with_real_type(const at::Tensor& tensor, const Work& work) {
  if (at::toRealValueType(tensor.scalar_type()) == at::kFloat) {
    return work.template operator()<float>();
  } else {
    return work.template operator()<double>();
  }
}

// [planes, rows, columns], or [rows, columns] shared by all planes.
template <typename V>
Image<V> image_of(const at::Tensor& tensor) {
  TORCH_INTERNAL_ASSERT(tensor.size(-1) <= 1 || tensor.stride(-1) == 1);
  using Plain = std::remove_const_t<V>;
  auto* data = static_cast<Plain*>(const_cast<void*>(tensor.const_data_ptr()));
  return {data, tensor.dim() == 3 ? tensor.stride(0) : 0, tensor.stride(-2)};
}

ImageSize size_of(const at::Tensor& tensor) {
  return {tensor.dim() == 3 ? tensor.size(0) : 1, tensor.size(-2), tensor.size(-1)};
}

// work(plane, row) for all rows, by threads.
template <typename Work>
void for_each_row(const ImageSize& size, const Work& work) {
  const std::int64_t grain =
      std::max<std::int64_t>(1, kGrain / std::max<std::int64_t>(1, size.columns));
  at::parallel_for(0, size.planes * size.rows, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) work(row / size.rows, row % size.rows);
  });
}

// The formula at every element of images like `image`, where they lie.
template <typename T, typename Formula>
void apply(const at::Tensor& image, const Formula& formula) {
  const ImageSize size = size_of(image);
  if (!image.device().is_cpu()) {
    const c10::DeviceGuard device(image.device());
    cuda_services().update(size, Update<T>(formula));
    return;
  }
  for_each_row(size, [&size, formula](std::int64_t plane, std::int64_t row) {
    if constexpr (requires { formula.row(plane, row, size.columns); }) {
      formula.row(plane, row, size.columns);
    } else {
      for (std::int64_t column = 0; column < size.columns; ++column) formula(plane, row, column);
    }
  });
}

// The term of every element, summed in double: each row by itself, the rows in order.
template <typename T, typename Term>
double sum_of(const at::Tensor& image, const Term& term) {
  const ImageSize size = size_of(image);
  const at::Tensor sums = at::empty({size.planes * size.rows}, image.options().dtype(at::kDouble));
  if (!image.device().is_cpu()) {
    const c10::DeviceGuard device(image.device());
    cuda_services().sum_rows(size, SumOf<T>(term), sums.data_ptr<double>());
  } else {
    double* to = sums.data_ptr<double>();
    for_each_row(size, [&, term](std::int64_t plane, std::int64_t row) {
      double sum = 0;
      for (std::int64_t column = 0; column < size.columns; ++column) {
        sum += term(plane, row, column);
      }
      to[plane * size.rows + row] = sum;
    });
  }
  return total(sums);
}

// One number for each plane, as [planes, 1, 1].
at::Tensor by_plane(const std::vector<double>& numbers, const at::Tensor& like) {
  const at::Tensor here = at::empty({static_cast<std::int64_t>(numbers.size()), 1, 1}, at::kDouble);
  std::copy(numbers.begin(), numbers.end(), here.data_ptr<double>());
  return here.to(like.options());
}

}  // namespace

double total(const at::Tensor& numbers) {
  const at::Tensor here = numbers.cpu();
  double sum = 0;
  for (std::int64_t i = 0; i < here.numel(); ++i) sum += here.const_data_ptr<double>()[i];
  return sum;
}

double real_inner_product(const at::Tensor& a, const at::Tensor& b) {
  return with_real_type(a, [&]<typename T>() {
    return sum_of<T>(a,
                     InnerProduct<T>{image_of<const Complex<T>>(a), image_of<const Complex<T>>(b)});
  });
}

double power(const at::Tensor& a) { return real_inner_product(a, a); }

double largest(const at::Tensor& a) {
  if (a.numel() == 0) return 0.0;
  if (!a.device().is_cpu()) return std::max(0.0, a.max().to(at::kDouble).item<double>());
  return with_real_type(a, [&]<typename T>() {
    const T* x = a.const_data_ptr<T>();
    T most = 0;
    for (std::int64_t i = 0; i < a.numel(); ++i) most = std::max(most, x[i]);
    return static_cast<double>(most);
  });
}

std::vector<double> largest_by_plane(const at::Tensor& image) {
  const ImageSize size = size_of(image);
  std::vector<double> most(static_cast<std::size_t>(size.planes), 0.0);
  if (image.numel() == 0) return most;
  if (!image.device().is_cpu()) {
    const at::Tensor all = image.amax({1, 2}).cpu().to(at::kDouble).clamp_min(0);
    std::copy_n(all.const_data_ptr<double>(), size.planes, most.begin());
    return most;
  }
  with_real_type(image, [&]<typename T>() {
    const auto x = image_of<const T>(image);
    at::parallel_for(0, size.planes, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t p = begin; p < end; ++p) {
        constexpr std::int64_t kLanes = 16;  // maxima that do not wait for one another
        std::array<T, kLanes> lane{};
        for (std::int64_t r = 0; r < size.rows; ++r) {
          const T* row = &x.at(p, r, 0);
          std::int64_t c = 0;
          for (; c + kLanes <= size.columns; c += kLanes) {
            for (std::int64_t l = 0; l < kLanes; ++l) {
              T& most_here = lane[static_cast<std::size_t>(l)];
              most_here = row[c + l] > most_here ? row[c + l] : most_here;
            }
          }
          for (; c < size.columns; ++c) lane[0] = row[c] > lane[0] ? row[c] : lane[0];
        }
        most[static_cast<std::size_t>(p)] =
            static_cast<double>(*std::max_element(lane.begin(), lane.end()));
      }
    });
  });
  return most;
}

std::int64_t checksum(const at::Tensor& tensor) {
  const at::Tensor plain = tensor.cpu().contiguous();
  const auto* bytes = static_cast<const unsigned char*>(plain.const_data_ptr());
  std::uint64_t hash = 14695981039346656037ULL;
  for (std::size_t i = 0; i < plain.nbytes(); ++i) hash = (hash ^ bytes[i]) * 1099511628211ULL;
  return static_cast<std::int64_t>(hash);
}

void add_scaled(at::Tensor y, double factor, const at::Tensor& x) {
  with_real_type(y, [&]<typename T>() {
    apply<T>(y, AddScaled<T>{image_of<Complex<T>>(y), image_of<const Complex<T>>(x),
                             static_cast<T>(factor)});
  });
}

void scale(at::Tensor y, double factor) {
  with_real_type(y, [&]<typename T>() {
    apply<T>(y, Scale<T>{image_of<Complex<T>>(y), static_cast<T>(factor)});
  });
}

void multiply(at::Tensor y, const at::Tensor& weight) {
  with_real_type(y, [&]<typename T>() {
    apply<T>(y, Multiply<T>{image_of<Complex<T>>(y), image_of<const T>(weight)});
  });
}

at::Tensor preconditioner(const at::Tensor& illumination, const std::vector<double>& most,
                          double step) {
  at::Tensor weight = at::empty(illumination.sizes(), illumination.options());
  const at::Tensor floor = by_plane(most, illumination).mul_(kLeastIllumination);
  with_real_type(illumination, [&]<typename T>() {
    apply<T>(weight, Precondition<T>{image_of<const T>(illumination), image_of<const T>(floor),
                                     image_of<T>(weight), static_cast<T>(step)});
  });
  return weight;
}

void illuminated_step(at::Tensor x, const at::Tensor& gradient, const at::Tensor& illumination,
                      const at::Tensor& before, const std::vector<double>& floors, at::Tensor sum,
                      const StepOptions& options) {
  const at::Tensor floor = by_plane(floors, illumination);
  with_real_type(x, [&]<typename T>() {
    const auto known = before.defined() ? image_of<const T>(before) : Image<const T>{nullptr, 0, 0};
    apply<T>(x, IlluminatedStep<T>{image_of<Complex<T>>(x), image_of<const Complex<T>>(gradient),
                                   image_of<const T>(illumination), known, image_of<const T>(floor),
                                   image_of<T>(sum), static_cast<T>(options.step),
                                   static_cast<T>(options.share), static_cast<T>(options.amplitude),
                                   static_cast<T>(options.longest)});
  });
}

void extrapolate(at::Tensor x, at::Tensor begin, const at::Tensor& last, double beta) {
  with_real_type(x, [&]<typename T>() {
    apply<T>(x, Extrapolate<T>{image_of<Complex<T>>(x), image_of<Complex<T>>(begin),
                               image_of<const Complex<T>>(last), static_cast<T>(beta)});
  });
}

double overshoot(const at::Tensor& begin, const at::Tensor& x, const at::Tensor& last) {
  return with_real_type(x, [&]<typename T>() {
    return sum_of<T>(x,
                     Overshoot<T>{image_of<const Complex<T>>(begin), image_of<const Complex<T>>(x),
                                  image_of<const Complex<T>>(last)});
  });
}

void pull_to_vacuum(at::Tensor gradient, const at::Tensor& x, double weight) {
  with_real_type(x, [&]<typename T>() {
    apply<T>(gradient, PullToVacuum<T>{image_of<Complex<T>>(gradient),
                                       image_of<const Complex<T>>(x), static_cast<T>(weight)});
  });
}

double distance_to_vacuum(const at::Tensor& x) {
  return with_real_type(x, [&]<typename T>() {
    return sum_of<T>(x, DistanceToVacuum<T>{image_of<const Complex<T>>(x)});
  });
}

void pure_phase(at::Tensor x, double share) {
  with_real_type(x, [&]<typename T>() {
    apply<T>(x, PurePhase<T>{image_of<Complex<T>>(x), static_cast<T>(share)});
  });
}

void adam(at::Tensor x, at::Tensor first, at::Tensor second, const at::Tensor& gradient,
          double rate, std::int64_t t) {
  constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kEpsilon = 1e-12;
  with_real_type(x, [&]<typename T>() {
    const double steps = static_cast<double>(t);
    apply<T>(x,
             AdamStep<T>{image_of<Complex<T>>(x), image_of<Complex<T>>(first), image_of<T>(second),
                         image_of<const Complex<T>>(gradient), T(kBeta1), T(kBeta2), T(kEpsilon),
                         static_cast<T>(rate / (1 - std::pow(kBeta1, steps))),
                         static_cast<T>(1 / (1 - std::pow(kBeta2, steps)))});
  });
}

at::Tensor windowed_power(const at::Tensor& transmission, const at::Tensor& positions,
                          std::int64_t height, std::int64_t width,
                          std::array<std::int64_t, 2> origin) {
  return with_real_type(transmission, [&]<typename T>() {
    const std::int64_t rows = transmission.size(0), columns = transmission.size(1);
    const auto object = image_of<const Complex<T>>(transmission);
    at::Tensor sums =
        at::zeros({height, width},
                  transmission.options().dtype(at::toRealValueType(transmission.scalar_type())));
    if (!transmission.device().is_cpu()) {
      at::Tensor corners = positions.floor().to(at::kLong);
      corners.select(1, 0).sub_(origin[0]);
      corners.select(1, 1).sub_(origin[1]);
      corners = corners.contiguous();
      apply<T>(sums, WindowedPower<T>{object, rows, columns, corners.const_data_ptr<int64_t>(),
                                      corners.size(0), image_of<T>(sums)});
      return sums;
    }
    const at::Tensor plain = positions.contiguous();
    const double* p = plain.const_data_ptr<double>();
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
          const Complex<T>* from = &object.at(0, row + y, 0);
          for (std::int64_t x = x0; x < x1; ++x) sum[x] += abs_squared(from[column + x]);
          for (std::int64_t x = x1; x < width; ++x) sum[x] += T(1);
        }
      }
    });
    return sums;
  });
}

}  // namespace ptyle::driver
