#include "ops/checks.h"

#include <ATen/MemoryOverlap.h>
#include <c10/core/ScalarType.h>

namespace ptyle {
namespace {

void check_rank(const char* name, const char* argument, const at::Tensor& tensor, int64_t rank,
                const char* shape) {
  TORCH_CHECK_VALUE(tensor.dim() == rank, "ptyle::", name, ": ", argument, " must have shape ",
                    shape, ", got ", tensor.sym_sizes());
}

void check_device(const char* name, const char* argument, const at::Tensor& tensor,
                  const at::Tensor& reference) {
  TORCH_CHECK_VALUE(tensor.device() == reference.device(), "ptyle::", name, ": ", argument,
                    " must be on the device of the other tensors, ", reference.device(), ", got ",
                    tensor.device());
}

void check_type(const char* name, const char* argument, const at::Tensor& tensor,
                at::ScalarType type) {
  TORCH_CHECK_TYPE(tensor.scalar_type() == type, "ptyle::", name, ": ", argument, " must be ", type,
                   ", got ", tensor.scalar_type());
}

void check_probe(const char* name, const at::Tensor& probe) {
  check_rank(name, "probe", probe, 3, "[modes, h, w]");
  TORCH_CHECK_TYPE(
      probe.scalar_type() == at::kComplexFloat || probe.scalar_type() == at::kComplexDouble,
      "ptyle::", name, ": probe must be complex64 or complex128, got ", probe.scalar_type());
  TORCH_CHECK_VALUE(probe.sym_size(1) > 0 && probe.sym_size(2) > 0, "ptyle::", name,
                    ": probe must have a window of at least one pixel, got shape ",
                    probe.sym_sizes());
}

void check_positions(const char* name, const at::Tensor& positions, const at::Tensor& reference) {
  check_rank(name, "positions", positions, 2, "[n, 2]");
  TORCH_CHECK_VALUE(positions.sym_size(1) == 2, "ptyle::", name,
                    ": positions must have shape [n, 2] (row, column), got ",
                    positions.sym_sizes());
  TORCH_CHECK_TYPE(positions.scalar_type() == at::kDouble, "ptyle::", name,
                   ": positions must be Double, got ", positions.scalar_type(),
                   " (positions.double() is what is wanted)");
  check_device(name, "positions", positions, reference);
}

void check_pair(const char* name, const char* argument, c10::SymIntArrayRef pair) {
  TORCH_CHECK_VALUE(pair.size() == 2, "ptyle::", name, ": ", argument,
                    " must be two integers (row, column), got ", pair.size(), " of them");
}

void check_window(const char* name, const char* argument, const at::Tensor& tensor,
                  const at::Tensor& probe, int64_t axis, const char* shape) {
  TORCH_CHECK_VALUE(
      tensor.sym_size(axis) == probe.sym_size(1) && tensor.sym_size(axis + 1) == probe.sym_size(2),
      "ptyle::", name, ": ", argument, " must have shape ", shape, " with the probe's window [",
      probe.sym_size(1), ", ", probe.sym_size(2), "], got ", tensor.sym_sizes());
}

void check_count(const char* name, const char* argument, const at::Tensor& tensor,
                 const at::Tensor& positions) {
  TORCH_CHECK_VALUE(
      tensor.sym_size(0).sym_eq(positions.sym_size(0)).expect_true(__FILE__, __LINE__),
      "ptyle::", name, ": ", argument, " must have as many entries as there are positions, ",
      positions.sym_size(0), ", got shape ", tensor.sym_sizes());
}

// [h, w] or [n, h, w]
void check_image_or_images(const char* name, const char* argument, const at::Tensor& tensor,
                           const at::Tensor& probe, const at::Tensor& positions) {
  TORCH_CHECK_VALUE(tensor.dim() == 2 || tensor.dim() == 3, "ptyle::", name, ": ", argument,
                    " must have shape [h, w] or [n, h, w], got ", tensor.sym_sizes());
  check_window(name, argument, tensor, probe, tensor.dim() - 2, "[h, w] or [n, h, w]");
  if (tensor.dim() == 3) check_count(name, argument, tensor, positions);
  check_device(name, argument, tensor, probe);
}

}  // namespace

void check_model(const char* name, const at::Tensor& object, const at::Tensor& probe,
                 const at::Tensor& positions, const std::optional<at::Tensor>& propagator,
                 c10::SymIntArrayRef origin) {
  check_probe(name, probe);
  const at::ScalarType real = at::toRealValueType(probe.scalar_type());
  check_rank(name, "object", object, 3, "[slices, rows, columns]");
  TORCH_CHECK_TYPE(object.scalar_type() == probe.scalar_type() || object.scalar_type() == real,
                   "ptyle::", name, ": object must be ", probe.scalar_type(), " or ", real,
                   " beside a ", probe.scalar_type(), " probe, got ", object.scalar_type());
  check_device(name, "object", object, probe);
  check_positions(name, positions, probe);
  check_pair(name, "origin", origin);
  TORCH_CHECK_VALUE(propagator || object.sym_size(0) <= 1, "ptyle::", name,
                    ": propagator must be given for more than one slice, got None with ",
                    object.sym_size(0), " slices");
  if (propagator) {
    TORCH_CHECK_VALUE(propagator->dim() == 2 || propagator->dim() == 3, "ptyle::", name,
                      ": propagator must have shape [h, w] or [slices - 1, h, w], got ",
                      propagator->sym_sizes());
    check_window(name, "propagator", *propagator, probe, propagator->dim() - 2,
                 "[h, w] or [slices - 1, h, w]");
    check_type(name, "propagator", *propagator, probe.scalar_type());
    check_device(name, "propagator", *propagator, probe);
    if (propagator->dim() == 3) {
      TORCH_CHECK_VALUE(
          object.sym_size(0) <= 1 || propagator->sym_size(0) == object.sym_size(0) - 1,
          "ptyle::", name, ": propagator must have one entry fewer than the ", object.sym_size(0),
          " slices, got shape ", propagator->sym_sizes());
    }
  }
}

void check_detector(const char* name, const at::Tensor& probe,
                    const std::optional<at::Tensor>& detector) {
  if (!detector) return;
  check_rank(name, "detector", *detector, 2, "[h, w]");
  check_window(name, "detector", *detector, probe, 0, "[h, w]");
  check_type(name, "detector", *detector, probe.scalar_type());
  check_device(name, "detector", *detector, probe);
}

void check_loss(const char* name, const LossArguments& a) {
  check_model(name, a.object, a.probe, a.positions, a.propagator, a.origin);
  check_detector(name, a.probe, a.detector);
  const auto& [patterns, weights, mask, background] =
      std::tie(a.patterns, a.weights, a.mask, a.background);
  const at::Tensor &probe = a.probe, &positions = a.positions;
  check_rank(name, "patterns", patterns, 3, "[n, h, w]");
  check_window(name, "patterns", patterns, probe, 1, "[n, h, w]");
  check_count(name, "patterns", patterns, positions);
  check_device(name, "patterns", patterns, probe);
  switch (patterns.scalar_type()) {
    case at::kByte:
    case at::kShort:
    case at::kUInt16:
    case at::kInt:
    case at::kFloat:
    case at::kDouble:
    case at::kBool:  // these are brought into one of those above, in every call
    case at::kChar:
    case at::kUInt32:
    case at::kLong:
    case at::kUInt64:
    case at::kHalf:
    case at::kBFloat16:
      break;
    default:
      TORCH_CHECK_TYPE(false, "ptyle::", name,
                       ": patterns must be counts, integers or real numbers of a type such as "
                       "uint16 or float32, got ",
                       patterns.scalar_type());
  }
  const at::ScalarType real = at::toRealValueType(probe.scalar_type());
  if (weights) {
    check_rank(name, "weights", *weights, 1, "[n]");
    check_count(name, "weights", *weights, positions);
    check_type(name, "weights", *weights, real);
    check_device(name, "weights", *weights, probe);
  }
  if (mask) {
    TORCH_CHECK_TYPE(mask->scalar_type() == at::kBool || mask->scalar_type() == at::kByte,
                     "ptyle::", name, ": mask must be bool or uint8 (nonzero = bad pixel), got ",
                     mask->scalar_type());
    check_image_or_images(name, "mask", *mask, probe, positions);
  }
  if (background) {
    check_image_or_images(name, "background", *background, probe, positions);
    check_type(name, "background", *background, real);
  }
  likelihood_from(name, a.likelihood);
}

void check_gradient(const char* name, const char* argument, const at::Tensor& gradient,
                    c10::SymIntArrayRef sizes, const at::TensorOptions& like) {
  TORCH_CHECK_VALUE(gradient.dim() == static_cast<int64_t>(sizes.size()), "ptyle::", name, ": ",
                    argument, " must have shape ", sizes, ", got ", gradient.sym_sizes());
  for (size_t axis = 0; axis < sizes.size(); ++axis) {
    TORCH_CHECK_VALUE(gradient.sym_size(static_cast<int64_t>(axis))
                          .sym_eq(sizes[axis])
                          .expect_true(__FILE__, __LINE__),
                      "ptyle::", name, ": ", argument, " must have shape ", sizes, ", got ",
                      gradient.sym_sizes());
  }
  check_type(name, argument, gradient, c10::typeMetaToScalarType(like.dtype()));
  TORCH_CHECK_VALUE(gradient.device() == like.device(), "ptyle::", name, ": ", argument,
                    " must be on ", like.device(), ", got ", gradient.device());
}

void check_accumulators(const char* name, const LossArguments& a, const GradientBuffers& out,
                        const at::Tensor& losses) {
  const auto check = [&](const char* argument, const OptionalTensor& buffer,
                         c10::SymIntArrayRef sizes, const at::TensorOptions& like) {
    if (!buffer) return;
    check_gradient(name, argument, *buffer, sizes, like);
    TORCH_CHECK_VALUE(
        buffer->is_contiguous() && !buffer->is_conj() && !buffer->is_neg(), "ptyle::", name, ": ",
        argument, " must be contiguous memory to add into, got strides ", buffer->sym_strides());
  };
  check("grad_object", out.object, a.object.sym_sizes(), a.object.options());
  check("grad_probe", out.probe, a.probe.sym_sizes(), a.probe.options());
  check("grad_positions", out.positions, a.positions.sym_sizes(), a.positions.options());
  if (out.propagator) {
    TORCH_CHECK_VALUE(a.propagator, "ptyle::", name,
                      ": grad_propagator must be None where the propagator is None");
    check("grad_propagator", out.propagator, a.propagator->sym_sizes(), a.propagator->options());
  }
  check("losses", losses, {a.positions.sym_size(0)}, a.positions.options());
  TORCH_CHECK_VALUE(!out.illumination || out.object, "ptyle::", name,
                    ": illumination must be None where grad_object is None: it is added up beside "
                    "it");
  check("illumination", out.illumination, a.object.sym_sizes(),
        a.probe.options().dtype(at::toRealValueType(a.probe.scalar_type())));
  check("amplitude_errors", out.amplitude_errors, {a.positions.sym_size(0)}, a.positions.options());
}

void check_no_overlap(const char* name, const LossArguments& arguments, const GradientBuffers& out,
                      const at::Tensor& losses) {
  const auto apart = [&](const OptionalTensor& a, const OptionalTensor& b) {
    TORCH_CHECK_VALUE(!a || !b || !a->is_alias_of(*b) ||
                          at::get_overlap_status(*a, *b) == at::MemOverlapStatus::No ||
                          a->numel() == 0,
                      "ptyle::", name,
                      ": the buffers that are added into must not share memory with the inputs or "
                      "with one another, got two tensors that overlap");
  };
  const NamedTensors inputs = arguments.tensors(), buffers = buffers_of(out, losses);
  for (size_t i = 0; i < buffers.size(); ++i) {
    for (const auto& [argument, input] : inputs) apart(buffers[i].second, input);
    for (size_t k = 0; k < i; ++k) apart(buffers[i].second, buffers[k].second);
  }
}

void check_illumination(const at::Tensor& probe, const at::Tensor& positions,
                        c10::SymIntArrayRef shape, c10::SymIntArrayRef origin) {
  const char* name = "illumination";
  check_probe(name, probe);
  check_positions(name, positions, probe);
  check_pair(name, "shape", shape);
  check_pair(name, "origin", origin);
  TORCH_CHECK_VALUE(shape[0] >= 0 && shape[1] >= 0, "ptyle::", name,
                    ": shape must not be negative, got ", shape);
}

void check_patches(const char* name, const char* argument, const at::Tensor& image, int64_t rank,
                   const at::Tensor& positions, const char* size_argument, c10::SymIntArrayRef size,
                   c10::SymIntArrayRef origin, at::IntArrayRef derivative) {
  check_rank(name, argument, image, rank,
             rank == 3 ? "[slices, rows, columns]" : "[n, slices, h, w]");
  const at::ScalarType real = at::toRealValueType(image.scalar_type());
  TORCH_CHECK_TYPE(real == at::kFloat || real == at::kDouble, "ptyle::", name, ": ", argument,
                   " must be float32, float64, complex64 or complex128, got ", image.scalar_type());
  check_positions(name, positions, image);
  if (rank == 4) check_count(name, argument, image, positions);
  check_pair(name, size_argument, size);
  check_pair(name, "origin", origin);
  TORCH_CHECK_VALUE(size[0] >= 0 && size[1] >= 0, "ptyle::", name, ": ", size_argument,
                    " must not be negative, got ", size);
  TORCH_CHECK_VALUE(derivative.size() == 2 && derivative[0] >= 0 && derivative[1] >= 0,
                    "ptyle::", name, ": derivative must be two numbers of at least 0, got ",
                    derivative);
}

Likelihood likelihood_from(const char* name, std::string_view likelihood) {
  if (const std::optional<Likelihood> known = likelihood_named(likelihood)) return *known;
  std::string choices;
  const std::vector<std::string> names = likelihood_names();
  for (size_t k = 0; k < names.size(); ++k) {
    choices += (k == 0 ? "" : k + 1 == names.size() ? " or " : ", ") + names[k];
  }
  TORCH_CHECK_VALUE(false, "ptyle::", name, ": likelihood must be ", choices, ", got \"",
                    likelihood, "\"");
}

}  // namespace ptyle
