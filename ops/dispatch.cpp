#include "ops/dispatch.h"

#include <ATen/core/dispatch/Dispatcher.h>

// One static handle an operator: the schema is looked up once.
#define PTYLE_CALL(name, ...)                                                                      \
  static const auto handle =                                                                       \
      c10::Dispatcher::singleton().findSchemaOrThrow("ptyle::" #name, "").typed<decltype(name)>(); \
  return handle.call(__VA_ARGS__)

namespace ptyle::dispatch {

at::Tensor exit_waves(const at::Tensor& object, const at::Tensor& probe,
                      const at::Tensor& positions, const OptionalTensor& propagator,
                      c10::SymIntArrayRef origin) {
  PTYLE_CALL(exit_waves, object, probe, positions, propagator, origin);
}

FourTensors exit_waves_backward(const at::Tensor& gradient, const at::Tensor& object,
                                const at::Tensor& probe, const at::Tensor& positions,
                                const OptionalTensor& propagator, c10::SymIntArrayRef origin,
                                Needs needs) {
  PTYLE_CALL(exit_waves_backward, gradient, object, probe, positions, propagator, origin, needs);
}

at::Tensor diffraction(const at::Tensor& object, const at::Tensor& probe,
                       const at::Tensor& positions, const OptionalTensor& propagator,
                       c10::SymIntArrayRef origin, const OptionalTensor& detector) {
  PTYLE_CALL(diffraction, object, probe, positions, propagator, origin, detector);
}

FourTensors diffraction_backward(const at::Tensor& gradient, const at::Tensor& object,
                                 const at::Tensor& probe, const at::Tensor& positions,
                                 const OptionalTensor& propagator, c10::SymIntArrayRef origin,
                                 const OptionalTensor& detector, Needs needs) {
  PTYLE_CALL(diffraction_backward, gradient, object, probe, positions, propagator, origin, detector,
             needs);
}

namespace {

// One that takes LossArguments, and More.
template <typename Result, typename... More>
class LossOperator {
 public:
  explicit LossOperator(const char* name)
      : handle_(c10::Dispatcher::singleton()
                    .findSchemaOrThrow(name, "")
                    .typed<LossSignature<Result, More...>>()) {}
  Result operator()(const LossArguments& a, More... more) const {
    return handle_.call(a.object, a.probe, a.positions, a.propagator, a.patterns, a.weights, a.mask,
                        a.background, a.likelihood, a.origin, a.detector,
                        std::forward<More>(more)...);
  }

 private:
  c10::TypedOperatorHandle<LossSignature<Result, More...>> handle_;
};

}  // namespace

std::tuple<at::Tensor, at::Tensor> diffraction_loss(const LossArguments& arguments) {
  static const LossOperator<std::tuple<at::Tensor, at::Tensor>> call("ptyle::diffraction_loss");
  return call(arguments);
}

SixTensors diffraction_loss_gradients(const LossArguments& arguments, Needs needs) {
  static const LossOperator<SixTensors, Needs> call("ptyle::diffraction_loss_gradients");
  return call(arguments, needs);
}

void diffraction_loss_accumulate_(const LossArguments& arguments, const GradientBuffers& out,
                                  const at::Tensor& losses) {
  using Buffer = const OptionalTensor&;
  static const LossOperator<void, Buffer, Buffer, Buffer, Buffer, at::Tensor, Buffer, Buffer> call(
      "ptyle::diffraction_loss_accumulate_");
  call(arguments, out.object, out.probe, out.positions, out.propagator, losses, out.illumination,
       out.amplitude_errors);
}

at::Tensor extract_patches(const at::Tensor& object, const at::Tensor& positions,
                           c10::SymIntArrayRef window, c10::SymIntArrayRef origin, double outside,
                           at::IntArrayRef derivative) {
  PTYLE_CALL(extract_patches, object, positions, window, origin, outside, derivative);
}

at::Tensor add_patches(const at::Tensor& patches, const at::Tensor& positions,
                       c10::SymIntArrayRef shape, c10::SymIntArrayRef origin,
                       at::IntArrayRef derivative) {
  PTYLE_CALL(add_patches, patches, positions, shape, origin, derivative);
}

at::Tensor illumination(const at::Tensor& probe, const at::Tensor& positions,
                        c10::SymIntArrayRef shape, c10::SymIntArrayRef origin) {
  PTYLE_CALL(illumination, probe, positions, shape, origin);
}

std::string cpu_kernels(int64_t height, int64_t width) { PTYLE_CALL(cpu_kernels, height, width); }

int64_t good_size(int64_t size, bool down) { PTYLE_CALL(good_size, size, down); }

std::vector<at::Tensor> halo_insert(at::TensorList owned, at::IntArrayRef row_cuts,
                                    at::IntArrayRef column_cuts, at::IntArrayRef halo,
                                    at::IntArrayRef owners, std::string_view group) {
  PTYLE_CALL(halo_insert, owned, row_cuts, column_cuts, halo, owners, group);
}

std::vector<at::Tensor> halo_add(at::TensorList extended, at::IntArrayRef row_cuts,
                                 at::IntArrayRef column_cuts, at::IntArrayRef halo,
                                 at::IntArrayRef owners, std::string_view group) {
  PTYLE_CALL(halo_add, extended, row_cuts, column_cuts, halo, owners, group);
}

}  // namespace ptyle::dispatch
