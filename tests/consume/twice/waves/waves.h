#pragma once

#include <ATen/core/Tensor.h>

// Sum over all exit waves of their intensity.
double energy_of_waves(const at::Tensor& object, const at::Tensor& probe,
                       const at::Tensor& positions);
