// ptyle's operators for C++: differentiable forward models of ptychography on LibTorch.
//
// clang-format off
//   object      [slices, rows, columns]  complex = transmission; real = phase shift in radians,
//                                        transmission exp(i object); vacuum outside
//   probe       [modes, h, w]            complex, incoherent modes; h x w is the window
//   positions   [n, 2]                   float64, (row, column) of the window's top-left corner in
//                                        object pixels; the fraction moves the probe
//   propagator  [h, w] or [slices-1, h, w]  complex transfer function between slices, zero
//                                        frequency at [0, 0]; none for one slice
//   detector    [h, w]                   complex transfer function from the exit plane to a
//                                        near-field detector that stands still relative to the
//                                        beam, zero frequency at [0, 0]; none for the far field
//   patterns    [n, h, w]                counts, zero frequency at [0, 0] in the far field: uint8,
//                                        int16, uint16, int32, float32 or float64 as they are;
//                                        other integers and floats are copied into one of these in
//                                        every call, where they fit
// clang-format on
//
// All tensors on one device, in one precision (complex64 with float32, complex128 with float64).
// `origin` is the corner of the given object in the frame of the positions. Gradients follow torch:
// dL/dRe + i dL/dIm. Wrong arguments throw c10::Error with the operator, the argument, the rule and
// the value. Formulae: ops/docs/formulae.md, in the package ptyle/docs.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#if defined(__GNUC__)
#define PTYLE_API __attribute__((visibility("default")))
#else
#define PTYLE_API
#endif

namespace ptyle {

using OptionalTensor = std::optional<at::Tensor>;

struct ModelOptions {
  std::array<int64_t, 2> origin{0, 0};
  OptionalTensor detector;
};

struct LossOptions {
  OptionalTensor weights;                // [n] real, factor of every pattern's loss in the sum
  OptionalTensor mask;                   // [h, w] or [n, h, w] bool or uint8, nonzero = bad pixel
  OptionalTensor background;             // [h, w] or [n, h, w] real, counts added to the intensity
  std::string likelihood = "amplitude";  // amplitude | poisson | gaussian
  std::array<int64_t, 2> origin{0, 0};
  OptionalTensor detector;
};

// Where to add gradients, and what the same sweep knows; none: not computed. Shapes and types of
// what they belong to, contiguous.
struct GradientBuffers {
  OptionalTensor object;
  OptionalTensor probe;
  OptionalTensor positions;
  OptionalTensor propagator;
  // Beside `object`, [slices, rows, columns] real: the sum over positions and modes of the
  // intensity that falls on each slice, at the positions' whole pixels, without weights. What a
  // step along the object's gradient is divided by.
  OptionalTensor illumination;
  // [n] float64 as `losses`: sum of (sqrt(I + b) - sqrt(n))^2, whatever the likelihood.
  OptionalTensor amplitude_errors;
};

struct Loss {
  at::Tensor loss;    // [] sum of weights x losses
  at::Tensor losses;  // [n] per pattern, unweighted, not differentiable
};

// Exit waves [n, modes, h, w]: the multislice model up to the last slice. Differentiable (any
// order) in object, probe, positions and propagator.
PTYLE_API at::Tensor exit_waves(const at::Tensor& object, const at::Tensor& probe,
                                const at::Tensor& positions, const OptionalTensor& propagator = {},
                                std::array<int64_t, 2> origin = {0, 0});

// Diffracted intensity [n, h, w], modes summed: |F psi|^2 with the unitary transform F in the far
// field, |F^-1[detector exp(+2 pi i k.f) F psi]|^2 in the near field: the exit wave is moved back
// by the fraction f by which the probe was moved. Differentiable as exit_waves is.
PTYLE_API at::Tensor diffraction(const at::Tensor& object, const at::Tensor& probe,
                                 const at::Tensor& positions, const OptionalTensor& propagator = {},
                                 const ModelOptions& options = {});

// How badly the model explains the patterns, and with it all gradients in one sweep.
PTYLE_API Loss diffraction_loss(const at::Tensor& object, const at::Tensor& probe,
                                const at::Tensor& positions, const OptionalTensor& propagator,
                                const at::Tensor& patterns, const LossOptions& options = {});

// The same without autograd: adds gradients of the weighted sum into `gradients` and every
// pattern's loss into `losses` [n] float64.
PTYLE_API void diffraction_loss_accumulate_(const at::Tensor& object, const at::Tensor& probe,
                                            const at::Tensor& positions,
                                            const OptionalTensor& propagator,
                                            const at::Tensor& patterns,
                                            const GradientBuffers& gradients, at::Tensor losses,
                                            const LossOptions& options = {});

// Sum over positions and modes of |probe|^2, [rows, columns] real; whole-pixel part of the
// positions.
PTYLE_API at::Tensor illumination(const at::Tensor& probe, const at::Tensor& positions,
                                  std::array<int64_t, 2> shape,
                                  std::array<int64_t, 2> origin = {0, 0});

// Windows of an object: [slices, rows, columns] (real or complex) -> [n, slices, h, w], `outside`
// beyond the object (1: the vacuum of a transmission). Between whole pixels the object is
// interpolated through twelve neighbours along each axis (csrc/interpolation.h). Differentiable in
// object and positions, to any order; its adjoint in the object is add_patches.
PTYLE_API at::Tensor extract_patches(const at::Tensor& object, const at::Tensor& positions,
                                     std::array<int64_t, 2> window,
                                     std::array<int64_t, 2> origin = {0, 0}, double outside = 0);

// Patches [n, slices, h, w] added up in an object [slices, rows, columns] of the given shape (rows,
// columns), in ascending order of positions; what hangs over the edge is dropped.
PTYLE_API at::Tensor add_patches(const at::Tensor& patches, const at::Tensor& positions,
                                 std::array<int64_t, 2> shape,
                                 std::array<int64_t, 2> origin = {0, 0});

// Which CPU kernels work on windows [height, width]: "fused v4", "fused v3" or "fused base", by
// instruction set, the same for every size. The environment's PTYLE_ISA = v4, v3 or base overrides
// what the processor would choose; it must name what the processor runs.
PTYLE_API std::string cpu_kernels(int64_t height, int64_t width);

// The nearest size of a window whose only prime factors are 2, 3 and 5, the fast ones on the CPU:
// the smallest not below `size`, to pad to, or the largest not above it, to crop to.
PTYLE_API int64_t good_size(int64_t size, bool down = false);

// A grid of tiles over an object, and which rank holds which tile.
struct Tiling {
  // Ascending from 0 to the object's rows and columns; tiles are numbered line by line.
  std::vector<int64_t> row_cuts, column_cuts;
  std::array<int64_t, 2> halo{0, 0};  // pixels on each side, clipped to the object
  std::vector<int64_t> owners;        // the rank of every tile
  // Of the process group, as c10d's registry knows it; empty: one rank, no group.
  std::string group;
};

// Extended tiles from owned ones: owned [slices, rows, columns], one for each of this rank's tiles,
// ascending -> the same with halos, filled from their owners, on whatever rank. Every rank of the
// group makes the call; differentiable, and then so does backward: tensors require a gradient on
// all ranks or on none. Where the ranks' calls differ all of them throw, naming two ranks and what
// they have (in groups with a backend for the CPU).
PTYLE_API std::vector<at::Tensor> halo_insert(const std::vector<at::Tensor>& owned,
                                              const Tiling& tiling);

// The adjoint: halos of extended tiles are added to their owners' pixels, by ascending tile.
PTYLE_API std::vector<at::Tensor> halo_add(const std::vector<at::Tensor>& extended,
                                           const Tiling& tiling);

// ptyle's version, for example "0.1.0".
PTYLE_API const char* version();

// Loads the CUDA kernels (libptyle_ops_cuda.so, beside this library). Call it before anything asks
// torch about CUDA. Throws c10::Error that says what is missing where the library or CUDA's are.
PTYLE_API void load_cuda();

}  // namespace ptyle
