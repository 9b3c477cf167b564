#include "patterns.h"

#include <ptyle/ops.h>

double energy_of_patterns(const at::Tensor& object, const at::Tensor& probe,
                          const at::Tensor& positions) {
  return ptyle::diffraction(object, probe, positions).sum().item<double>();
}
