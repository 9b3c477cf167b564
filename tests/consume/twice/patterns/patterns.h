#pragma once

#include <ATen/core/Tensor.h>

// Sum over all diffraction patterns.
double energy_of_patterns(const at::Tensor& object, const at::Tensor& probe,
                          const at::Tensor& positions);
