// Counts in types that no kernel reads, in one that all kernels do.
#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

#include "ptyle/ops.h"  // PTYLE_API

namespace ptyle {

// Plain patterns [n, h, w] in uint8, int16, uint16, int32, float32 or float64: as they are; bool,
// int8 and floats of 16 bits in the next larger type; wider integers in int32, where every count
// that is not under the mask must fit (ValueError: the first pattern with one that does not, and
// its count).
PTYLE_API at::Tensor readable_counts(const char* name, const at::Tensor& patterns,
                                     const std::optional<at::Tensor>& mask);

}  // namespace ptyle
