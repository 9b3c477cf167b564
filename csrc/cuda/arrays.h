// Work on images beside the multislice model, for who calls it: plain functions, no torch. All
// memory is the device's; everything is queued on `stream` (a cudaStream_t), nothing waits for it.
// All throw CudaError.
#pragma once

#include <cstdint>

#include "csrc/cuda/error.h"
#include "csrc/pieces.h"
#include "csrc/updates.h"

namespace ptyle::cuda {

void update(const ImageSize& size, const Update<float>& formula, void* stream);
void update(const ImageSize& size, const Update<double>& formula, void* stream);
// sums [planes x rows]
void sum_rows(const ImageSize& size, const SumOf<float>& term, double* sums, void* stream);
void sum_rows(const ImageSize& size, const SumOf<double>& term, double* sums, void* stream);

// `moves` [count] in the device's memory, `elements` of them in a slice. V: float, double or
// Complex of them.
template <typename V>
void move_pieces(const Move* moves, int64_t count, int64_t elements, int64_t slices, bool add,
                 void* stream);

// Windows [height, width] at corners [count, 2] and fractions [count, 2] of planes [planes, rows,
// columns]: how often each axis' weights are differentiated, and room for them.
template <typename T>
struct Patches {
  const int64_t* corners;
  const double* fractions;
  int64_t count, planes, height, width, rows, columns;
  int64_t row_derivative, column_derivative;
  T* weights;  // [count, 2, kInterpolationTaps]
};

// sums [planes, rows, columns] += patches [count, planes, h, w], in order. first_corners: corners
// of all that their weights reach. V: T or Complex<T>.
template <typename V, typename T>
void add_patches(const Patches<T>& windows, const V* patches, const int64_t* first_corners, V* sums,
                 void* stream);
// The adjoint: patches = planes there, `outside` beyond them.
template <typename V, typename T>
void extract_patches(const Patches<T>& windows, const V* image, V outside, V* patches,
                     void* stream);

// sums [rows, columns] += sum over windows, in order, and modes of |probe|^2; probe [modes, h, w];
// intensity [h, w]: room to work in.
template <typename T>
void illumination(const Complex<T>* probe, int64_t modes, int64_t height, int64_t width,
                  const int64_t* corners, int64_t count, T* intensity, T* sums, int64_t rows,
                  int64_t columns, void* stream);

}  // namespace ptyle::cuda
