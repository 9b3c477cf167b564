// The arguments of the operators of loss and gradients as one thing; between it and the dispatcher,
// which takes them one by one. Their meaning: ptyle/ops.h.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include "ptyle/ops.h"

namespace ptyle {

using FourTensors = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
using SixTensors =
    std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

// Which gradients are asked for: of object, probe, positions and propagator.
using Needs = std::array<bool, 4>;

using NamedTensors = std::vector<std::pair<const char*, OptionalTensor>>;

struct LossArguments {
  at::Tensor object, probe, positions;
  OptionalTensor propagator;
  at::Tensor patterns;
  OptionalTensor weights, mask, background;
  std::string likelihood;
  std::vector<c10::SymInt> origin;
  OptionalTensor detector;

  // The four that have gradients, then the measurement's.
  NamedTensors tensors() const {
    return {{"object", object},       {"probe", probe},
            {"positions", positions}, {"propagator", propagator},
            {"patterns", patterns},   {"weights", weights},
            {"mask", mask},           {"background", background},
            {"detector", detector}};
  }
  static constexpr size_t kMeasurement = 4;  // where they begin
};

// What diffraction_loss_accumulate_ adds to.
inline NamedTensors buffers_of(const GradientBuffers& out, const at::Tensor& losses) {
  return {{"grad_object", out.object},
          {"grad_probe", out.probe},
          {"grad_positions", out.positions},
          {"grad_propagator", out.propagator},
          {"losses", losses},
          {"illumination", out.illumination},
          {"amplitude_errors", out.amplitude_errors}};
}

// A function as the dispatcher calls it; More: what is not in LossArguments.
template <typename Result, typename... More>
using LossSignature = Result(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                             const OptionalTensor&, const at::Tensor&, const OptionalTensor&,
                             const OptionalTensor&, const OptionalTensor&, std::string_view,
                             c10::SymIntArrayRef, const OptionalTensor&, More...);

// Of a function that takes LossArguments: `call` is what the dispatcher calls.
template <auto function>
struct Unpacked;
template <typename Result, typename... More, Result (*function)(const LossArguments&, More...)>
struct Unpacked<function> {
  static Result call(const at::Tensor& object, const at::Tensor& probe, const at::Tensor& positions,
                     const OptionalTensor& propagator, const at::Tensor& patterns,
                     const OptionalTensor& weights, const OptionalTensor& mask,
                     const OptionalTensor& background, std::string_view likelihood,
                     c10::SymIntArrayRef origin, const OptionalTensor& detector, More... more) {
    return function({object, probe, positions, propagator, patterns, weights, mask, background,
                     std::string(likelihood), origin.vec(), detector},
                    std::forward<More>(more)...);
  }
};

// The same of one that takes buffers too.
template <void (*function)(const LossArguments&, const GradientBuffers&, const at::Tensor& losses)>
void with_buffers(const LossArguments& arguments, const OptionalTensor& grad_object,
                  const OptionalTensor& grad_probe, const OptionalTensor& grad_positions,
                  const OptionalTensor& grad_propagator, at::Tensor losses,
                  const OptionalTensor& illumination, const OptionalTensor& amplitude_errors) {
  function(
      arguments,
      {grad_object, grad_probe, grad_positions, grad_propagator, illumination, amplitude_errors},
      losses);
}

}  // namespace ptyle
