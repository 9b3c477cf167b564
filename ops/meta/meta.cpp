// Shapes and types without data, for FakeTensor, torch.compile and torch.export: the CPU kernels'
// checks, then empty outputs.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "ops/checks.h"
#include "ops/dispatch.h"

namespace ptyle::meta {
namespace {

using dispatch::FourTensors;
using dispatch::OptionalTensor;
using dispatch::SixTensors;

at::TensorOptions real_options(const at::Tensor& probe) {
  return probe.options().dtype(at::toRealValueType(probe.scalar_type()));
}

FourTensors empty_gradients(const at::Tensor& object, const at::Tensor& probe,
                            const at::Tensor& positions, const OptionalTensor& propagator,
                            Needs needs) {
  const auto like = [&](bool needed, const at::Tensor& tensor) {
    return needed ? at::empty_symint(tensor.sym_sizes(), tensor.options())
                  : at::empty({0}, probe.options());
  };
  return {like(needs[0], object), like(needs[1], probe), like(needs[2], positions),
          like(needs[3] && propagator.has_value(), propagator ? *propagator : probe)};
}

at::Tensor exit_waves(const at::Tensor& object, const at::Tensor& probe,
                      const at::Tensor& positions, const OptionalTensor& propagator,
                      c10::SymIntArrayRef origin) {
  check_model("exit_waves", object, probe, positions, propagator, origin);
  return at::empty_symint(
      {positions.sym_size(0), probe.sym_size(0), probe.sym_size(1), probe.sym_size(2)},
      probe.options());
}

FourTensors exit_waves_backward(const at::Tensor& gradient, const at::Tensor& object,
                                const at::Tensor& probe, const at::Tensor& positions,
                                const OptionalTensor& propagator, c10::SymIntArrayRef origin,
                                Needs needs) {
  const char* name = "exit_waves_backward";
  check_model(name, object, probe, positions, propagator, origin);
  check_gradient(name, "gradient", gradient,
                 {positions.sym_size(0), probe.sym_size(0), probe.sym_size(1), probe.sym_size(2)},
                 probe.options());
  return empty_gradients(object, probe, positions, propagator, needs);
}

at::Tensor diffraction(const at::Tensor& object, const at::Tensor& probe,
                       const at::Tensor& positions, const OptionalTensor& propagator,
                       c10::SymIntArrayRef origin, const OptionalTensor& detector) {
  check_model("diffraction", object, probe, positions, propagator, origin);
  check_detector("diffraction", probe, detector);
  return at::empty_symint({positions.sym_size(0), probe.sym_size(1), probe.sym_size(2)},
                          real_options(probe));
}

FourTensors diffraction_backward(const at::Tensor& gradient, const at::Tensor& object,
                                 const at::Tensor& probe, const at::Tensor& positions,
                                 const OptionalTensor& propagator, c10::SymIntArrayRef origin,
                                 const OptionalTensor& detector, Needs needs) {
  const char* name = "diffraction_backward";
  check_model(name, object, probe, positions, propagator, origin);
  check_detector(name, probe, detector);
  check_gradient(name, "gradient", gradient,
                 {positions.sym_size(0), probe.sym_size(1), probe.sym_size(2)},
                 real_options(probe));
  return empty_gradients(object, probe, positions, propagator, needs);
}

std::tuple<at::Tensor, at::Tensor> diffraction_loss(const LossArguments& a) {
  check_loss("diffraction_loss", a);
  return {at::empty({}, real_options(a.probe)),
          at::empty_symint({a.positions.sym_size(0)}, real_options(a.probe))};
}

SixTensors diffraction_loss_gradients(const LossArguments& a, Needs needs) {
  return std::tuple_cat(diffraction_loss(a),
                        empty_gradients(a.object, a.probe, a.positions, a.propagator, needs));
}

void diffraction_loss_accumulate_(const LossArguments& arguments, const GradientBuffers& buffers,
                                  const at::Tensor& losses) {
  const char* name = "diffraction_loss_accumulate_";
  check_loss(name, arguments);
  check_accumulators(name, arguments, buffers, losses);
}

at::Tensor extract_patches(const at::Tensor& object, const at::Tensor& positions,
                           c10::SymIntArrayRef window, c10::SymIntArrayRef origin,
                           double /*outside*/, at::IntArrayRef derivative) {
  check_patches("extract_patches", "object", object, 3, positions, "window", window, origin,
                derivative);
  return at::empty_symint({positions.sym_size(0), object.sym_size(0), window[0], window[1]},
                          object.options());
}

at::Tensor add_patches(const at::Tensor& patches, const at::Tensor& positions,
                       c10::SymIntArrayRef shape, c10::SymIntArrayRef origin,
                       at::IntArrayRef derivative) {
  check_patches("add_patches", "patches", patches, 4, positions, "shape", shape, origin,
                derivative);
  return at::empty_symint({patches.sym_size(1), shape[0], shape[1]}, patches.options());
}

at::Tensor illumination(const at::Tensor& probe, const at::Tensor& positions,
                        c10::SymIntArrayRef shape, c10::SymIntArrayRef origin) {
  check_illumination(probe, positions, shape, origin);
  return at::empty_symint(shape, real_options(probe));
}

}  // namespace
}  // namespace ptyle::meta

TORCH_LIBRARY_IMPL(ptyle, Meta, library) {
  library.impl("exit_waves", &ptyle::meta::exit_waves);
  library.impl("exit_waves_backward", &ptyle::meta::exit_waves_backward);
  library.impl("diffraction", &ptyle::meta::diffraction);
  library.impl("diffraction_backward", &ptyle::meta::diffraction_backward);
  library.impl("diffraction_loss", &ptyle::Unpacked<&ptyle::meta::diffraction_loss>::call);
  library.impl("diffraction_loss_gradients",
               &ptyle::Unpacked<&ptyle::meta::diffraction_loss_gradients>::call);
  library.impl(
      "diffraction_loss_accumulate_",
      &ptyle::Unpacked<&ptyle::with_buffers<&ptyle::meta::diffraction_loss_accumulate_>>::call);
  library.impl("extract_patches", &ptyle::meta::extract_patches);
  library.impl("add_patches", &ptyle::meta::add_patches);
  library.impl("illumination", &ptyle::meta::illumination);
}
