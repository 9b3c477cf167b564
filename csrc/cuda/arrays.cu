#include <variant>

#include "csrc/cuda/arrays.h"
#include "csrc/cuda/launch.cuh"
#include "csrc/cuda/multislice.cuh"
#include "csrc/cuda/updates.cuh"
#include "csrc/cuda/windows.cuh"

namespace ptyle::cuda {
namespace {

template <typename Formulae>
void update_with(const ImageSize& size, const Formulae& formulae, void* stream) {
  std::visit(
      [&](const auto& formula) {
        launch_items(stream, update<std::decay_t<decltype(formula)>>,
                     size.planes * size.rows * size.columns, size, formula);
      },
      formulae);
}

template <typename Terms>
void sum_with(const ImageSize& size, const Terms& terms, double* sums, void* stream) {
  std::visit(
      [&](const auto& term) {
        launch_blocks(stream, sum_rows<std::decay_t<decltype(term)>>, size.planes * size.rows, size,
                      term, sums);
      },
      terms);
}

int64_t areas(const Windows& w) {
  return (w.rows + kAreaRows - 1) / kAreaRows * ((w.columns + kAreaColumns - 1) / kAreaColumns);
}

// With the weights filled.
template <typename T>
Windows windows_of(const Patches<T>& p, void* stream) {
  launch_items(stream, fill_weights<T>, p.count * 2 * kInterpolationTaps, p.count, p.fractions,
               p.row_derivative, p.column_derivative, p.weights);
  return {p.corners, p.count, p.height, p.width, p.rows, p.columns};
}

}  // namespace

void update(const ImageSize& size, const Update<float>& formula, void* stream) {
  update_with(size, formula, stream);
}
void update(const ImageSize& size, const Update<double>& formula, void* stream) {
  update_with(size, formula, stream);
}
void sum_rows(const ImageSize& size, const SumOf<float>& term, double* sums, void* stream) {
  sum_with(size, term, sums, stream);
}
void sum_rows(const ImageSize& size, const SumOf<double>& term, double* sums, void* stream) {
  sum_with(size, term, sums, stream);
}

template <typename V>
void move_pieces(const Move* moves, int64_t count, int64_t elements, int64_t slices, bool add,
                 void* stream) {
  void (*const kernel)(const Move*, int64_t, int64_t, int64_t, bool) = move_pieces<V>;
  launch_items(stream, kernel, slices * elements, moves, count, elements, slices, add);
}

template <typename V, typename T>
void add_patches(const Patches<T>& p, const V* patches, const int64_t* first_corners, V* sums,
                 void* stream) {
  const Windows w = windows_of(p, stream);
  void (*const kernel)(Windows, const V*, int64_t, const T*, const int64_t*, V*) =
      spread_windows<V, T>;
  launch_blocks(stream, kernel, p.planes * areas(w), w, patches, p.planes,
                static_cast<const T*>(p.weights), first_corners, sums);
}

template <typename V, typename T>
void extract_patches(const Patches<T>& p, const V* image, V outside, V* patches, void* stream) {
  const Windows w = windows_of(p, stream);
  void (*const kernel)(Windows, const V*, int64_t, const T*, V, V*) = take_windows<V, T>;
  launch_items(stream, kernel, p.count * p.planes * p.height * p.width, w, image, p.planes,
               static_cast<const T*>(p.weights), outside, patches);
}

template <typename T>
void illumination(const Complex<T>* probe, int64_t modes, int64_t height, int64_t width,
                  const int64_t* corners, int64_t count, T* intensity, T* sums, int64_t rows,
                  int64_t columns, void* stream) {
  Chunk one{};
  one.positions = 1;
  one.modes = modes;
  one.height = height;
  one.width = width;
  launch_blocks(stream, sum_intensity<T>, segments_of(height * width), one, probe, T(1), intensity);
  const Windows w{corners, count, height, width, rows, columns};
  launch_blocks(stream, add_windows<T>, areas(w), w, static_cast<const T*>(intensity), int64_t{0},
                int64_t{1}, sums);
}

#define PTYLE_INSTANTIATE(V, T)                                                            \
  template void move_pieces<V>(const Move*, int64_t, int64_t, int64_t, bool, void*);       \
  template void add_patches<V, T>(const Patches<T>&, const V*, const int64_t*, V*, void*); \
  template void extract_patches<V, T>(const Patches<T>&, const V*, V, V*, void*);

PTYLE_INSTANTIATE(float, float)
PTYLE_INSTANTIATE(double, double)
PTYLE_INSTANTIATE(Complex<float>, float)
PTYLE_INSTANTIATE(Complex<double>, double)

#define PTYLE_INSTANTIATE_REAL(T)                                                             \
  template void illumination<T>(const Complex<T>*, int64_t, int64_t, int64_t, const int64_t*, \
                                int64_t, T*, T*, int64_t, int64_t, void*);

PTYLE_INSTANTIATE_REAL(float)
PTYLE_INSTANTIATE_REAL(double)

}  // namespace ptyle::cuda
