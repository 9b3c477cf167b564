#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "ops/autograd/guards.h"
#include "ops/dispatch.h"

namespace ptyle::autograd {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Pair = std::vector<c10::SymInt>;

// Linear operators that are one another's adjoint: the derivative of each, to any order, is the
// other.
struct ExtractPatches : torch::autograd::Function<ExtractPatches> {
  static constexpr bool is_traceable = true;

  static at::Tensor forward(AutogradContext* context, const at::Tensor& object,
                            const at::Tensor& positions, const Pair& window, const Pair& origin) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->save_for_backward({positions});
    const Pair shape{object.sym_size(1), object.sym_size(2)};
    context->saved_data["shape"] = c10::SymIntArrayRef(shape);
    context->saved_data["origin"] = c10::SymIntArrayRef(origin);
    return dispatch::extract_patches(object, positions, window, origin);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    return {
        dispatch::add_patches(gradients[0], saved[0], context->saved_data["shape"].toSymIntVector(),
                              context->saved_data["origin"].toSymIntVector()),
        at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

struct AddPatches : torch::autograd::Function<AddPatches> {
  static constexpr bool is_traceable = true;

  static at::Tensor forward(AutogradContext* context, const at::Tensor& patches,
                            const at::Tensor& positions, const Pair& shape, const Pair& origin) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->save_for_backward({positions});
    const Pair window{patches.sym_size(2), patches.sym_size(3)};
    context->saved_data["window"] = c10::SymIntArrayRef(window);
    context->saved_data["origin"] = c10::SymIntArrayRef(origin);
    return dispatch::add_patches(patches, positions, shape, origin);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    return {dispatch::extract_patches(gradients[0], saved[0],
                                      context->saved_data["window"].toSymIntVector(),
                                      context->saved_data["origin"].toSymIntVector()),
            at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

at::Tensor extract_patches(const at::Tensor& object, const at::Tensor& positions,
                           c10::SymIntArrayRef window, c10::SymIntArrayRef origin) {
  forbid_tangent("extract_patches", "object", object);
  forbid_gradient("extract_patches", "positions", positions);
  if (wants_gradient(object)) {
    return ExtractPatches::apply(object, positions, window.vec(), origin.vec());
  }
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return dispatch::extract_patches(object, positions, window, origin);
}

at::Tensor add_patches(const at::Tensor& patches, const at::Tensor& positions,
                       c10::SymIntArrayRef shape, c10::SymIntArrayRef origin) {
  forbid_tangent("add_patches", "patches", patches);
  forbid_gradient("add_patches", "positions", positions);
  if (wants_gradient(patches)) {
    return AddPatches::apply(patches, positions, shape.vec(), origin.vec());
  }
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return dispatch::add_patches(patches, positions, shape, origin);
}

}  // namespace
}  // namespace ptyle::autograd

TORCH_LIBRARY_IMPL(ptyle, Autograd, library) {
  library.impl("extract_patches", &ptyle::autograd::extract_patches);
  library.impl("add_patches", &ptyle::autograd::add_patches);
}
