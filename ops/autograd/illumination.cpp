#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/library.h>

#include "ops/autograd/guards.h"
#include "ops/composite.h"
#include "ops/dispatch.h"

namespace ptyle::autograd {
namespace {

at::Tensor illumination(const at::Tensor& probe, const at::Tensor& positions,
                        c10::SymIntArrayRef shape, c10::SymIntArrayRef origin) {
  forbid_tangent("illumination", "probe", probe);
  forbid_gradient("illumination", "positions", positions);
  at::Tensor plain;
  {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    plain = dispatch::illumination(probe, positions, shape, origin);  // with all its checks
  }
  return wants_gradient(probe) ? composite::illumination(probe, positions, shape, origin) : plain;
}

}  // namespace
}  // namespace ptyle::autograd

TORCH_LIBRARY_IMPL(ptyle, Autograd, library) {
  library.impl("illumination", &ptyle::autograd::illumination);
}
