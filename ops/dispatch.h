// Typed calls of our own operators through the dispatcher, so that autograd, autocast, FakeTensor
// and friends see every one of them.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>

#include "ops/arguments.h"

namespace ptyle::dispatch {

using ptyle::FourTensors;
using ptyle::OptionalTensor;
using ptyle::SixTensors;

at::Tensor exit_waves(const at::Tensor& object, const at::Tensor& probe,
                      const at::Tensor& positions, const OptionalTensor& propagator,
                      c10::SymIntArrayRef origin);
FourTensors exit_waves_backward(const at::Tensor& gradient, const at::Tensor& object,
                                const at::Tensor& probe, const at::Tensor& positions,
                                const OptionalTensor& propagator, c10::SymIntArrayRef origin,
                                Needs needs);
at::Tensor diffraction(const at::Tensor& object, const at::Tensor& probe,
                       const at::Tensor& positions, const OptionalTensor& propagator,
                       c10::SymIntArrayRef origin, const OptionalTensor& detector);
FourTensors diffraction_backward(const at::Tensor& gradient, const at::Tensor& object,
                                 const at::Tensor& probe, const at::Tensor& positions,
                                 const OptionalTensor& propagator, c10::SymIntArrayRef origin,
                                 const OptionalTensor& detector, Needs needs);
std::tuple<at::Tensor, at::Tensor> diffraction_loss(const LossArguments& arguments);
SixTensors diffraction_loss_gradients(const LossArguments& arguments, Needs needs);
void diffraction_loss_accumulate_(const LossArguments& arguments, const GradientBuffers& buffers,
                                  const at::Tensor& losses);
at::Tensor extract_patches(const at::Tensor& object, const at::Tensor& positions,
                           c10::SymIntArrayRef window, c10::SymIntArrayRef origin, double outside,
                           at::IntArrayRef derivative);
at::Tensor add_patches(const at::Tensor& patches, const at::Tensor& positions,
                       c10::SymIntArrayRef shape, c10::SymIntArrayRef origin,
                       at::IntArrayRef derivative);
at::Tensor illumination(const at::Tensor& probe, const at::Tensor& positions,
                        c10::SymIntArrayRef shape, c10::SymIntArrayRef origin);
std::string cpu_kernels(int64_t height, int64_t width);
int64_t good_size(int64_t size, bool down);
std::vector<at::Tensor> halo_insert(at::TensorList owned, at::IntArrayRef row_cuts,
                                    at::IntArrayRef column_cuts, at::IntArrayRef halo,
                                    at::IntArrayRef owners, std::string_view group);
std::vector<at::Tensor> halo_add(at::TensorList extended, at::IntArrayRef row_cuts,
                                 at::IntArrayRef column_cuts, at::IntArrayRef halo,
                                 at::IntArrayRef owners, std::string_view group);

}  // namespace ptyle::dispatch
