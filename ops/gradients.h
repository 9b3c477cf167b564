// What the kernels of all devices share: plain memory, choice of types, gradients.
#pragma once

#include <optional>
#include <tuple>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "csrc/scalar.h"
#include "ops/checks.h"

namespace ptyle {

// Inputs are read through const pointers alone: a mutable one would copy a copy-on-write tensor,
// and torch forbids that inside parallel work. Null where undefined.
template <typename T>
const Complex<T>* complex_data(const at::Tensor& tensor) {
  return tensor.defined() ? static_cast<const Complex<T>*>(tensor.const_data_ptr()) : nullptr;
}
template <typename T>
Complex<T>* mutable_complex_data(const at::Tensor& tensor) {
  return tensor.defined() ? static_cast<Complex<T>*>(tensor.data_ptr()) : nullptr;
}

// Conjugated, negated or strided views become plain memory: kernels read it as it lies.
inline at::Tensor plain(const at::Tensor& tensor) {
  return tensor.resolve_conj().resolve_neg().contiguous();
}
inline at::Tensor plain(const std::optional<at::Tensor>& tensor) {
  return tensor ? plain(*tensor) : at::Tensor();
}

// What a call asks for: gradients with respect to object, probe, positions and propagator.
enum Need : size_t { kObject, kProbe, kPositions, kPropagator };

// Buffers of the caller into which gradients are added; null where not needed.
struct Gradients {
  at::Tensor object;        // [slices, rows, columns], complex or real as the object is
  at::Tensor probe;         // [modes, h, w]
  at::Tensor positions;     // [n, 2] float64
  at::Tensor propagator;    // as the propagator
  at::Tensor illumination;  // [slices, rows, columns] real, beside `object`
  Needs needs() const {
    return {object.defined(), probe.defined(), positions.defined(), propagator.defined()};
  }
  bool any() const {
    return object.defined() || probe.defined() || positions.defined() || propagator.defined();
  }
};

// Calls work.template operator()<float or double>(), by the probe's precision.
template <typename Work>
auto with_precision(const at::Tensor& probe, const Work& work) {
  return probe.scalar_type() == at::kComplexFloat ? work.template operator()<float>()
                                                  : work.template operator()<double>();
}

// The same by an image's elements: operator()<Complex<T> or T, T>().
template <typename Work>
void with_type(const at::Tensor& image, const Work& work) {
  switch (image.scalar_type()) {
    case at::kFloat:
      return work.template operator()<float, float>();
    case at::kDouble:
      return work.template operator()<double, double>();
    case at::kComplexFloat:
      return work.template operator()<Complex<float>, float>();
    default:
      return work.template operator()<Complex<double>, double>();
  }
}

inline Gradients zero_gradients(const at::Tensor& object, const at::Tensor& probe,
                                const at::Tensor& positions,
                                const std::optional<at::Tensor>& propagator, Needs needs) {
  const auto zeros = [](const at::Tensor& like) { return at::zeros(like.sizes(), like.options()); };
  Gradients out;
  if (needs[kObject]) out.object = zeros(object);
  if (needs[kProbe]) out.probe = zeros(probe);
  if (needs[kPositions]) out.positions = zeros(positions);
  if (needs[kPropagator] && propagator) out.propagator = zeros(*propagator);
  return out;
}

// What is not needed is empty({0}): an operator returns no undefined tensors.
inline std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> as_tuple(
    const Gradients& out, const at::Tensor& probe) {
  const auto or_empty = [&](const at::Tensor& gradient) {
    return gradient.defined() ? gradient : at::empty({0}, probe.options());
  };
  return {or_empty(out.object), or_empty(out.probe), or_empty(out.positions),
          or_empty(out.propagator)};
}

// Position n's image of a tensor [h, w] or [n, h, w]; null where there is none.
template <typename V>
const V* image(const std::optional<at::Tensor>& tensor, int64_t n, int64_t pixels) {
  if (!tensor) return nullptr;
  return static_cast<const V*>(tensor->const_data_ptr()) + (tensor->dim() == 3 ? n * pixels : 0);
}

// Calls work.template operator()<type>() of the patterns.
template <typename Work>
void with_count_type(const at::Tensor& patterns, const Work& work) {
  switch (patterns.scalar_type()) {
    case at::kByte:
      return work.template operator()<uint8_t>();
    case at::kShort:
      return work.template operator()<int16_t>();
    case at::kUInt16:
      return work.template operator()<uint16_t>();
    case at::kInt:
      return work.template operator()<int32_t>();
    case at::kFloat:
      return work.template operator()<float>();
    default:
      return work.template operator()<double>();
  }
}

}  // namespace ptyle
