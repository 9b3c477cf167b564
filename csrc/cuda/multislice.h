// The multislice model on a device, for who calls it: plain structures and functions, no torch and
// nothing that only nvcc understands. All memory is the device's, row-major; zero frequencies lie
// at [0, 0]. Everything is queued on one stream; nothing waits for it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "csrc/cuda/error.h"
#include "csrc/likelihood.h"

namespace ptyle::cuda {

// Some positions that are worked on together.
struct Chunk {
  int64_t positions;  // b
  int64_t modes, height, width;
  int64_t rows, columns;    // of the object
  const int64_t* corners;   // [b, 2] in the object's array
  const double* fractions;  // [b, 2] in [0, 1)
};

// What all chunks share.
template <typename T>
struct Model {
  int64_t slices, rows, columns, modes, height, width;
  const Complex<T>* transmission;  // [slices, rows, columns]
  const Complex<T>* probe;         // [modes, h, w]
  const Complex<T>* spectrum;      // F probe / (h w), not unitary; null where nothing moves
  const Complex<T>* propagator;    // [h, w] or [slices - 1, h, w]; null for one slice
  bool propagator_per_slice;
  const Complex<T>* detector;  // [h, w], or null for the far field
  bool real_object;
  bool deterministic;  // sums over positions in ascending order, else by atomics
};

// Where gradients are added; null where not needed.
template <typename T>
struct Gradients {
  void* object = nullptr;            // [slices, rows, columns] complex, or real for a real object
  Complex<T>* probe = nullptr;       // [modes, h, w]: of positions without a fraction
  Complex<T>* spectrum = nullptr;    // [modes, h, w]: conj(ramp) F gradient of the others
  Complex<T>* propagator = nullptr;  // [slices - 1, h, w], also where all slices share one
  double* positions = nullptr;       // [b, 2], this chunk's
  T* illumination = nullptr;         // [slices, rows, columns], beside `object`: |psi_s|^2
};

// What goes with the patterns; those with an entry a position begin at the chunk's first one.
template <typename T, typename Count>
struct Patterns {
  const Count* counts;        // [b, h, w]
  const unsigned char* mask;  // [h, w] or [b, h, w], nonzero = bad, or null
  const T* background;        // [h, w] or [b, h, w], or null
  const T* weights;           // [b], or null
  bool mask_each, background_each;
};

// What the caller lends: memory and transforms, on `stream` (a cudaStream_t). All may throw.
struct Services {
  void* context;
  void* stream;
  void* (*allocate)(void* context, std::size_t bytes);
  void (*free)(void* context, void* memory);
  // `count` waves [h, w] in place, not scaled.
  void (*transform)(void* context, void* waves, int64_t count, bool inverse);
};

// A chunk's call: any_shift: a fraction may differ from 0. keep_every: waves are kept of every so
// many slices, 1 for all.
template <typename T>
struct Call {
  Services services;
  Model<T> model;
  Chunk chunk;
  bool any_shift, needs_positions;
  int64_t keep_every;
};

// Where misfits of patterns [b] are added; amplitude_errors, whatever the likelihood, or null.
struct Misfits {
  double* losses;
  double* amplitude_errors;
};

// Throw CudaError. exit [b, modes, h, w]; intensity, slope [b, h, w].
template <typename T>
void exit_waves(const Call<T>& call, Complex<T>* exit);
template <typename T>
void exit_waves_adjoint(const Call<T>& call, const Complex<T>* gradient,
                        const Gradients<T>& gradients);
template <typename T>
void diffraction(const Call<T>& call, T* intensity);
template <typename T>
void diffraction_adjoint(const Call<T>& call, const T* slope, const Gradients<T>& gradients);
// with_gradients: false for the losses alone.
template <typename T, typename Count>
void diffraction_loss(const Call<T>& call, const Patterns<T, Count>& patterns,
                      Likelihood likelihood, const Misfits& misfits, bool with_gradients,
                      const Gradients<T>& gradients);

}  // namespace ptyle::cuda
