// Checks of operator arguments, one function a kind of argument, used by the CPU, CUDA and Meta
// kernels alike. Each failure names the operator, the argument, the rule and the value received.
// They work on symbolic sizes and never branch on the number of positions.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>

#include "csrc/likelihood.h"
#include "ops/arguments.h"

namespace ptyle {

// object [slices, rows, columns] complex or real, probe [modes, h, w] complex of the same
// precision, positions [n, 2] float64, propagator [h, w] or [slices - 1, h, w] complex (needed for
// more than one slice), origin: two integers; all on one device.
PTYLE_API void check_model(const char* name, const at::Tensor& object, const at::Tensor& probe,
                           const at::Tensor& positions, const std::optional<at::Tensor>& propagator,
                           c10::SymIntArrayRef origin);

// detector [h, w] complex of the probe's precision.
PTYLE_API void check_detector(const char* name, const at::Tensor& probe,
                              const std::optional<at::Tensor>& detector);

// All of that, and patterns [n, h, w] of any real type (see counts.h); weights [n] real; mask [h,
// w] or [n, h, w] bool or uint8, nonzero = bad pixel; background [h, w] or [n, h, w] real;
// likelihood.
PTYLE_API void check_loss(const char* name, const LossArguments& arguments);

// gradient has the shape `sizes` and the type and device of `like`.
PTYLE_API void check_gradient(const char* name, const char* argument, const at::Tensor& gradient,
                              c10::SymIntArrayRef sizes, const at::TensorOptions& like);

// Buffers into which gradients are added: the shape and type of what they belong to, plain memory;
// losses and amplitude_errors [n] float64; illumination real, of the object's shape.
PTYLE_API void check_accumulators(const char* name, const LossArguments& arguments,
                                  const GradientBuffers& buffers, const at::Tensor& losses);

// What is added into must lie apart from what is read and from one another: chunks of positions
// read the inputs while earlier ones are being added.
PTYLE_API void check_no_overlap(const char* name, const LossArguments& arguments,
                                const GradientBuffers& buffers, const at::Tensor& losses);

// probe [modes, h, w] complex, positions [n, 2] float64, shape and origin two integers each.
PTYLE_API void check_illumination(const at::Tensor& probe, const at::Tensor& positions,
                                  c10::SymIntArrayRef shape, c10::SymIntArrayRef origin);

// image (object [slices, rows, columns] or patches [n, slices, h, w], `rank` axes) real or complex
// floating point, positions [n, 2] float64, `size` (window or shape), origin and derivative two
// integers each.
PTYLE_API void check_patches(const char* name, const char* argument, const at::Tensor& image,
                             int64_t rank, const at::Tensor& positions, const char* size_argument,
                             c10::SymIntArrayRef size, c10::SymIntArrayRef origin,
                             at::IntArrayRef derivative);

PTYLE_API Likelihood likelihood_from(const char* name, std::string_view likelihood);

}  // namespace ptyle
