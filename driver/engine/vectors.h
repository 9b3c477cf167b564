// Arithmetic on object and probe with bits that do not depend on the number of threads: elements
// are independent, sums run over rows in order. (Reductions of ATen split by threads, and its
// vector code rounds differently from its remainders.)
//
// Images are [slices or modes, rows, columns] of unit stride in columns: whole tensors, or the part
// of a tile that its owner works on; all of a call on one device. What returns a number waits for
// it. The formulae are those of csrc/updates.h.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

namespace ptyle::driver {

template <typename Number>
at::Tensor as_tensor(const std::vector<Number>& values) {
  at::Tensor tensor = at::empty({static_cast<std::int64_t>(values.size())},
                                c10::CppTypeToScalarType<Number>::value);
  std::copy(values.begin(), values.end(), tensor.data_ptr<Number>());
  return tensor;
}
inline std::vector<double> as_vector(const at::Tensor& numbers) {
  const at::Tensor dense = numbers.contiguous();
  const double* first = dense.const_data_ptr<double>();
  return {first, first + dense.numel()};
}

// Their sum, in order; float64.
double total(const at::Tensor& numbers);
// sum Re(conj(a) b) in double; both complex images of one type and size.
double real_inner_product(const at::Tensor& a, const at::Tensor& b);
// sum |a|^2 in double.
double power(const at::Tensor& a);
// max of a real contiguous tensor, at least 0.
double largest(const at::Tensor& a);
std::vector<double> largest_by_plane(const at::Tensor& image);  // [planes, rows, columns]

// FNV-1a hash of a tensor's bytes, as the signed integer that an HDF5 attribute can hold.
std::int64_t checksum(const at::Tensor& tensor);

// y += factor x
void add_scaled(at::Tensor y, double factor, const at::Tensor& x);
// y = factor y
void scale(at::Tensor y, double factor);
// y = weight y elementwise; weight real, of y's size, or [rows, columns] shared by the leading
// axis.
void multiply(at::Tensor y, const at::Tensor& weight);

// Pixels with less than this share of the largest illumination move as those with it.
inline constexpr double kLeastIllumination = 0.05;

// How much illumination damps a step: weight = step / (2 (illumination + 0.05 most)), 0 where most
// = 0. `illumination` real, [rows, columns] or [planes, rows, columns]; `most`: the largest of each
// plane, here or anywhere; -> real.
at::Tensor preconditioner(const at::Tensor& illumination, const std::vector<double>& most,
                          double step);

// x -= step gradient / (illumination + share before + floor) where floor > 0, its part along x
// shortened to `amplitude` of it, no element moved by more than `longest`; illumination is added to
// `sum`, which stands for `before` where that is undefined. All [planes, rows, columns] of x, real
// but x and gradient; one floor for each plane.
struct StepOptions {
  double step = 1.0, share = 0.0, amplitude = 1.0, longest = 0.5;
};
void illuminated_step(at::Tensor x, const at::Tensor& gradient, const at::Tensor& illumination,
                      const at::Tensor& before, const std::vector<double>& floors, at::Tensor sum,
                      const StepOptions& options);
// begin = x, and x += beta (x - last).
void extrapolate(at::Tensor x, at::Tensor begin, const at::Tensor& last, double beta);
// sum Re(conj(begin - x) (x - last)) in double.
double overshoot(const at::Tensor& begin, const at::Tensor& x, const at::Tensor& last);

// gradient += weight (x - 1); and sum |x - 1|^2 in double.
void pull_to_vacuum(at::Tensor gradient, const at::Tensor& x, double weight);
double distance_to_vacuum(const at::Tensor& x);
// x = x / |x|, or `share` of the way there; 0 stays.
void pure_phase(at::Tensor x, double share);

// One Adam step (Kingma & Ba 2015) with the second moment of a complex number taken as |g|^2, so
// that a rotation of the phase rotates the step. `t` counts from 1; moments contiguous.
void adam(at::Tensor x, at::Tensor first, at::Tensor second, const at::Tensor& gradient,
          double rate, std::int64_t t);

// sum over positions of |transmission|^2 in the window: [h, w] real. transmission [rows, columns],
// vacuum (1) outside; positions [n, 2], their whole-pixel part; origin: the transmission's corner
// in their frame.
at::Tensor windowed_power(const at::Tensor& transmission, const at::Tensor& positions,
                          std::int64_t height, std::int64_t width,
                          std::array<std::int64_t, 2> origin);

}  // namespace ptyle::driver
