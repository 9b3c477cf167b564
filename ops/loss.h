// The operators of loss and gradients, made of the one kernel for them that a device has.
#pragma once

#include <torch/library.h>

#include "ops/arguments.h"
#include "ops/gradients.h"

namespace ptyle {

// Adds every pattern's loss to losses [n], its amplitude error to amplitude_errors [n] (both
// float64 on the device), and the gradients of sum(weights x losses) to what is defined in `out`;
// undefined: not computed. The arguments are checked, the measurement is plain memory. name: for
// errors.
using LossKernel = void (*)(const char* name, const LossArguments& arguments, const Gradients& out,
                            const at::Tensor& losses, const at::Tensor& amplitude_errors);

PTYLE_API SixTensors loss_and_gradients(LossKernel kernel, const LossArguments& arguments,
                                        Needs needs);
PTYLE_API void accumulate_loss(LossKernel kernel, const LossArguments& arguments,
                               const GradientBuffers& buffers, const at::Tensor& losses);

template <LossKernel kernel>
struct LossOperators {
  static std::tuple<at::Tensor, at::Tensor> loss(const LossArguments& arguments) {
    SixTensors all = loss_and_gradients(kernel, arguments, {});
    return {std::get<0>(all), std::get<1>(all)};
  }
  static SixTensors gradients(const LossArguments& arguments, Needs needs) {
    return loss_and_gradients(kernel, arguments, needs);
  }
  static void accumulate(const LossArguments& arguments, const GradientBuffers& buffers,
                         const at::Tensor& losses) {
    accumulate_loss(kernel, arguments, buffers, losses);
  }
  static void add_to(torch::Library& library) {
    library.impl("diffraction_loss", &Unpacked<&loss>::call);
    library.impl("diffraction_loss_gradients", &Unpacked<&gradients>::call);
    library.impl("diffraction_loss_accumulate_", &Unpacked<&with_buffers<&accumulate>>::call);
  }
};

}  // namespace ptyle
