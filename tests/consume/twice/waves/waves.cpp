#include "waves.h"

#include <ptyle/ops.h>

double energy_of_waves(const at::Tensor& object, const at::Tensor& probe,
                       const at::Tensor& positions) {
  return ptyle::exit_waves(object, probe, positions).abs().square().sum().item<double>();
}
