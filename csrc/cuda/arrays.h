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

// sums [planes, rows, columns] += patches [count, planes, h, w] at corners [count, 2], in order
template <typename V>
void add_patches(const V* patches, const int64_t* corners, int64_t count, int64_t planes,
                 int64_t height, int64_t width, V* sums, int64_t rows, int64_t columns,
                 void* stream);
// The adjoint: patches = planes there, 0 outside
template <typename V>
void extract_patches(const V* image, const int64_t* corners, int64_t count, int64_t planes,
                     int64_t height, int64_t width, V* patches, int64_t rows, int64_t columns,
                     void* stream);

// sums [rows, columns] += sum over windows, in order, and modes of |probe|^2; probe [modes, h, w];
// intensity [h, w]: room to work in.
template <typename T>
void illumination(const Complex<T>* probe, int64_t modes, int64_t height, int64_t width,
                  const int64_t* corners, int64_t count, T* intensity, T* sums, int64_t rows,
                  int64_t columns, void* stream);

}  // namespace ptyle::cuda
