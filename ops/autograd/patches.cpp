#include <array>

#include <ATen/ops/real.h>
#include <ATen/ops/stack.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "ops/autograd/guards.h"
#include "ops/dispatch.h"

namespace ptyle::autograd {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Pair = std::vector<c10::SymInt>;
using Order = std::vector<int64_t>;  // of a derivative, by axis

// Linear operators that are one another's adjoint, and whose derivatives with respect to positions
// are themselves with a higher order: so is what is differentiated, to any order.

// dL/dposition of patches [n, slices, h, w] at positions: by `derivative(order)`, the patches' own
// derivatives, and `gradient`, of the patches.
template <typename Derivative>
at::Tensor positions_gradient(const at::Tensor& gradient, const Order& order,
                              const Derivative& derivative) {
  std::array<at::Tensor, 2> along;
  for (size_t axis = 0; axis < 2; ++axis) {
    Order higher = order;
    ++higher[axis];
    const at::Tensor product = gradient.conj().mul(derivative(higher));
    along[axis] = (product.is_complex() ? at::real(product) : product)
                      .to(at::kDouble)
                      .sum(at::IntArrayRef{1, 2, 3});
  }
  return at::stack({along[0], along[1]}, 1);
}

struct ExtractPatches : torch::autograd::Function<ExtractPatches> {
  static constexpr bool is_traceable = true;

  static at::Tensor forward(AutogradContext* context, const at::Tensor& object,
                            const at::Tensor& positions, const Pair& window, const Pair& origin,
                            double outside, const Order& derivative) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->save_for_backward({object, positions});
    context->saved_data["origin"] = c10::SymIntArrayRef(origin);
    context->saved_data["window"] = c10::SymIntArrayRef(window);
    context->saved_data["outside"] = outside;
    context->saved_data["derivative"] = derivative;
    return dispatch::extract_patches(object, positions, window, origin, outside, derivative);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &object = saved[0], &positions = saved[1];
    const Pair shape{object.sym_size(1), object.sym_size(2)};
    const Pair origin = context->saved_data["origin"].toSymIntVector();
    const Order order = context->saved_data["derivative"].toIntVector();
    at::Tensor to_object, to_positions;
    if (context->needs_input_grad(0)) {
      to_object = dispatch::add_patches(gradients[0], positions, shape, origin, order);
    }
    if (context->needs_input_grad(1)) {
      const Pair window = context->saved_data["window"].toSymIntVector();
      const double outside = context->saved_data["outside"].toDouble();
      to_positions = positions_gradient(gradients[0], order, [&](const Order& higher) {
        return dispatch::extract_patches(object, positions, window, origin, outside, higher);
      });
    }
    return {to_object, to_positions, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

struct AddPatches : torch::autograd::Function<AddPatches> {
  static constexpr bool is_traceable = true;

  static at::Tensor forward(AutogradContext* context, const at::Tensor& patches,
                            const at::Tensor& positions, const Pair& shape, const Pair& origin,
                            const Order& derivative) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->save_for_backward({patches, positions});
    context->saved_data["origin"] = c10::SymIntArrayRef(origin);
    context->saved_data["derivative"] = derivative;
    return dispatch::add_patches(patches, positions, shape, origin, derivative);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &patches = saved[0], &positions = saved[1];
    const Pair window{patches.sym_size(2), patches.sym_size(3)};
    const Pair origin = context->saved_data["origin"].toSymIntVector();
    const Order order = context->saved_data["derivative"].toIntVector();
    const auto extracted = [&](const Order& derivative) {
      return dispatch::extract_patches(gradients[0], positions, window, origin, 0.0, derivative);
    };
    at::Tensor to_patches, to_positions;
    if (context->needs_input_grad(0)) to_patches = extracted(order);
    if (context->needs_input_grad(1)) to_positions = positions_gradient(patches, order, extracted);
    return {to_patches, to_positions, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

at::Tensor extract_patches(const at::Tensor& object, const at::Tensor& positions,
                           c10::SymIntArrayRef window, c10::SymIntArrayRef origin, double outside,
                           at::IntArrayRef derivative) {
  forbid_tangent("extract_patches", "object", object);
  forbid_tangent("extract_patches", "positions", positions);
  if (wants_gradient(object) || wants_gradient(positions)) {
    forbid_functorch("extract_patches");
    return ExtractPatches::apply(object, positions, window.vec(), origin.vec(), outside,
                                 derivative.vec());
  }
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return dispatch::extract_patches(object, positions, window, origin, outside, derivative);
}

at::Tensor add_patches(const at::Tensor& patches, const at::Tensor& positions,
                       c10::SymIntArrayRef shape, c10::SymIntArrayRef origin,
                       at::IntArrayRef derivative) {
  forbid_tangent("add_patches", "patches", patches);
  forbid_tangent("add_patches", "positions", positions);
  if (wants_gradient(patches) || wants_gradient(positions)) {
    forbid_functorch("add_patches");
    return AddPatches::apply(patches, positions, shape.vec(), origin.vec(), derivative.vec());
  }
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return dispatch::add_patches(patches, positions, shape, origin, derivative);
}

}  // namespace
}  // namespace ptyle::autograd

TORCH_LIBRARY_IMPL(ptyle, Autograd, library) {
  library.impl("extract_patches", &ptyle::autograd::extract_patches);
  library.impl("add_patches", &ptyle::autograd::add_patches);
}
