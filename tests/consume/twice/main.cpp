// The transform to the detector is unitary: exit waves and patterns hold the same energy.
#include <cmath>
#include <cstdio>

#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include "patterns.h"
#include "waves.h"

int main() {
  const at::Tensor object = at::rand({1, 32, 32}, at::kDouble);
  const at::Tensor probe = at::randn({2, 16, 16}, at::kComplexDouble);
  const at::Tensor positions = at::zeros({3, 2}, at::kDouble);
  const double waves = energy_of_waves(object, probe, positions);
  const double patterns = energy_of_patterns(object, probe, positions);
  std::printf("energy of the exit waves %.9g, of the patterns %.9g\n", waves, patterns);
  return std::abs(patterns - waves) < 1e-12 * waves ? 0 : 1;
}
