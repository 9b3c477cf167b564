// How waves lie in memory between the fused kernels, and the plain structures that kernels are
// called with. No formula, no library: included by every instruction set's kernels and by callers.
//
// W is the number of lanes of an instruction set. A wave [h, w] exists in two layouts:
//
// - panels, in real space or with columns transformed: panel p holds columns p W ... p W + W - 1;
//   element (p, y) is W real and then W imaginary parts. Columns beyond w and rows beyond h are 0.
// - spectrum, after both transforms: group g holds rows g W ... g W + W - 1 of what the column
//   transform gave; element (g, slot) is W real and then W imaginary parts, a lane a row.
//
// Transforms leave their output in the order in which the butterflies make it: `frequency[slot]`.
// Numbers that go with a spectrum (propagators, counts, masks) are brought into that order once, so
// that nothing is reordered between transforms. An image is one real number where a wave has two.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ptyle::cpu {

template <typename T>
struct Prime;

// One axis' transform: radices from the outermost butterfly to the innermost. Primes above 5 are
// neither: where the size has no other factors, 1 stands there.
template <typename T>
struct Axis {
  int64_t size;
  int32_t levels;
  int32_t radix[48];
  const T* twiddles[48];      // of level k: [block / radix][radix - 1] complex
  const Prime<T>* prime[48];  // of a level whose radix is a prime above 5
  int64_t scratch;            // elements that primes need
  const int32_t* frequency;   // by slot
  const int32_t* slot;        // by frequency
};

// The transform of a prime length above 5: by the definition, or as a convolution.
template <typename T>
struct Prime {
  // [(p - 1) / 2][(p - 1) / 2] cos and sin of 2 pi j k / p, or the convolution's factors by slot
  const T* factors;
  const int32_t* powers;  // of a primitive root, [p - 1]; null for the definition
  Axis<T> convolution;
};

// Whether n >= 1 has no prime factor above `largest`.
inline bool is_smooth(int64_t n, int64_t largest) {
  for (int64_t factor = 2; factor <= largest; ++factor) {
    while (n % factor == 0) n /= factor;
  }
  return n == 1;
}
// Whether transforms take 1.5 to 4 times as long as those of the nearest sizes with no prime
// factors but 2, 3 and 5.
inline bool is_slow(int64_t n) { return !is_smooth(n, 30); }
// Axis::scratch of a size: no convolution is as long.
inline int64_t transform_scratch(int64_t n) { return is_smooth(n, 5) ? 0 : 4 * n; }

// A window's transforms and layouts.
template <typename T>
struct Shape {
  Axis<T> rows;     // transforms along columns, of length h
  Axis<T> columns;  // transforms along rows, of length w
  int64_t lanes;

  int64_t height() const { return rows.size; }
  int64_t width() const { return columns.size; }
  int64_t panels() const { return (width() + lanes - 1) / lanes; }
  int64_t groups() const { return (height() + lanes - 1) / lanes; }
  // One more group of rows than needed between panels: their rows share no cache set.
  int64_t panel_rows() const { return (groups() + 1) * lanes; }
  // In numbers T, of one wave or image.
  int64_t panel_wave() const { return panels() * panel_rows() * 2 * lanes; }
  int64_t panel_image() const { return panels() * panel_rows() * lanes; }
  int64_t spectrum_wave() const { return groups() * width() * 2 * lanes; }
  int64_t spectrum_image() const { return groups() * width() * lanes; }
  // Scratch of transforms, the last part of what follows.
  int64_t spare() const {
    return (rows.scratch < columns.scratch ? columns.scratch : rows.scratch) * 2 * lanes;
  }
  // Scratch of one row transform.
  int64_t line() const { return (panels() * lanes) * 2 * lanes + spare(); }
  // Scratch for a panel at the object's edge: its part of the object, gradient and illumination.
  int64_t edge() const { return height() * 5 * lanes + spare(); }
};

// What a model of some shape needs besides its inputs, for who predicts memory. Backgrounds and
// gradients of propagators, which the program does not ask for, take more.
struct Extent {
  int64_t slices, modes;
  bool per_slice_propagator, near_field;
  bool moves;      // a position has a fraction, or positions need a gradient
  bool gradients;  // of object and probe
  bool mask;
};

// psi of every slice is kept for the adjoint where a thread's waves fit into this.
inline constexpr int64_t kKeepBytes = int64_t{256} << 20;

// How many slices lie between waves that are kept: 1, all are kept; else about the square root of
// their number, and the others are recomputed, a run of slices at a time.
inline int64_t kept_every(int64_t slices, int64_t bytes_of_a_wave, int64_t budget_bytes) {
  if (slices * bytes_of_a_wave <= budget_bytes) return 1;
  int64_t root = 1;
  while (root * root < slices) ++root;
  return root;
}

// Numbers T of one thread's scratch.
template <typename T>
int64_t worker_numbers(const Shape<T>& shape, const Extent& extent, int64_t keep_every) {
  const int64_t waves = extent.modes * shape.panel_wave();
  const int64_t image = extent.near_field ? shape.panel_image() : shape.spectrum_image();
  int64_t numbers = waves + shape.line() + shape.edge() + (extent.mask ? 3 : 2) * image;
  if (!extent.near_field) numbers += extent.modes * shape.spectrum_wave();
  if (extent.moves) numbers += 4 * shape.groups() * shape.lanes + 4 * shape.width();
  if (!extent.gradients) return numbers;
  numbers += (extent.slices + keep_every - 1) / keep_every * waves;
  return keep_every > 1 ? numbers + keep_every * waves : numbers;
}

// Numbers T that all threads of a call share.
template <typename T>
int64_t model_numbers(const Shape<T>& shape, const Extent& extent) {
  const int64_t spectrum = shape.spectrum_wave(), probe = extent.modes * shape.panel_wave();
  int64_t numbers = probe;
  if (extent.slices > 1) {
    numbers += (extent.per_slice_propagator ? extent.slices - 1 : 1) * spectrum;
  }
  if (extent.near_field) numbers += spectrum;
  if (extent.moves) numbers += extent.modes * spectrum;
  if (!extent.gradients) return numbers;
  numbers += probe;
  // at the end: the sum in Fourier space, transformed back
  if (extent.moves) {
    numbers += extent.modes * spectrum + 4 * shape.height() * shape.width() + shape.panel_wave();
  }
  return numbers;
}

// Where a window lies on the object [slices, rows, columns]; outside there is vacuum.
struct Place {
  int64_t row, column;
  int64_t rows, columns;
};

enum class From {
  kProbe,     // real space: panels that are read, not changed
  kSpectrum,  // panels with columns transformed: inverse butterflies first
  kMemory,    // a row-major complex image [modes, h, w]
};
enum class To {
  kSpectrum,  // forward butterflies last
  kMemory,    // a row-major complex image [modes, h, w], or nowhere where that is null
};

// psi_s -> phi_s = psi_s O_s of all modes.
template <typename T>
struct Transmit {
  From from;
  To to;
  const T* probe;   // panels [modes], for kProbe
  T* waves;         // panels [modes]
  T* keep;          // panels [modes] that become psi_s, or null
  T* memory;        // [modes, h, w] complex, for To::kMemory
  const T* object;  // this slice's transmission [rows, columns], complex
  Place place;
  T* edge;  // scratch, Shape::edge() numbers
};

// Called before a panel is added to what positions share, and after it.
struct Turn {
  void* owner = nullptr;
  void (*wait)(void* owner, int64_t unit) = nullptr;
  void (*done)(void* owner, int64_t unit) = nullptr;
};

// Gradient of phi_s -> gradient of psi_s, and what the slice's object and the probe gain.
template <typename T>
struct TransmitAdjoint {
  From from;
  To to;
  T* waves;            // panels [modes]
  const T* psi;        // panels [modes], from the forward model
  const T* memory;     // [modes, h, w] complex, for From::kMemory
  const T* object;     // this slice's transmission [rows, columns], complex
  T* object_gradient;  // [rows, columns], complex or real, or null
  T* illumination;     // [rows, columns] to which |psi|^2 is added, beside object_gradient, or null
  bool real_object;
  T* probe_gradient;  // panels [modes] that the result is added to, or null
  Place place;
  T* edge;  // scratch, Shape::edge() numbers
  Turn turn;
  int64_t first_unit;  // of `turn`: panel p is first_unit + p
};

// F^-1[factor F wave] of all modes between panels whose columns are transformed.
template <typename T>
struct Propagate {
  T* waves;         // panels [modes]
  const T* factor;  // a spectrum
  bool conjugate;
  const T* transmitted;  // spectra [modes] F phi, with `gradient`
  T* gradient;           // a spectrum to which conj(F phi) F wave is added, or null
  Turn turn;
  int64_t unit;
};

// Probe moved by fractions: ramps along rows (a lane a row) and columns.
template <typename T>
struct Ramp {
  const T* row;           // [groups][2][lanes]
  const T* column;        // [w] complex, by slot
  const T* row_slope;     // d row / d fraction
  const T* column_slope;  // d column / d fraction
};

// The near field's detection of a moved probe, F^-1[factor conj(ramp) F wave] of all modes between
// panels whose columns are transformed: the wave is moved back, for the detector stands still
// relative to the beam.
template <typename T>
struct PropagateBack {
  T* waves;         // panels [modes]
  const T* factor;  // a spectrum
  Ramp<T> ramp;     // of the probe
  bool conjugate;
  T* spectra;         // spectra [modes]: forward, they become F wave, or null; conjugate, they were
  double* positions;  // [2] to which the gradient of fractions is added, conjugate only, or null
};

// Counts of one pattern and what goes with them, in the layout of the detected waves.
template <typename T>
struct Compare {
  int likelihood;       // ptyle::Likelihood
  const T* counts;      // an image
  const T* bad;         // an image, nonzero = bad pixel, or null
  const T* background;  // an image, or null
  T scale;              // of the waves that the adjoint transforms back
  T weight;             // of this pattern
  T* intensity;         // an image: sum over modes of |wave|^2 -> factor of the adjoint
  int64_t numbers;      // of an image
  bool amplitude_error;
};

// Of one pattern, unweighted.
struct Misfit {
  double loss;
  double amplitude_error;  // the amplitude likelihood's loss, where it is asked for
};

template <typename T>
struct IlluminateAdjoint {
  T* waves;           // panels [modes], columns transformed
  const T* spectrum;  // spectra [modes] of the probe
  Ramp<T> ramp;
  T* sum;             // spectra [modes] to which conj(ramp) F wave is added, or null
  double* positions;  // [2], added to, or null
  Turn turn;
  int64_t unit;
};

enum class Count { kUInt8, kInt16, kUInt16, kInt32, kFloat, kDouble };

// One precision's kernels of one instruction set. `line`: scratch of Shape::line() numbers.
template <typename T>
struct Kernels {
  int64_t lanes;
  // 2-D transform, row-major to row-major, natural order, not scaled; `panels` is scratch.
  void (*transform)(const Shape<T>&, bool inverse, const T* from, T* to, T* panels, T* line);
  // The same with `to` (forward) or `from` (inverse) in the order of slots.
  void (*transform_permuted)(const Shape<T>&, bool inverse, const T* from, T* to, T* panels,
                             T* line);
  void (*transmit)(const Shape<T>&, int64_t modes, const Transmit<T>&);
  void (*transmit_adjoint)(const Shape<T>&, int64_t modes, const TransmitAdjoint<T>&);
  void (*propagate)(const Shape<T>&, int64_t modes, const Propagate<T>&, T* line);
  void (*propagate_back)(const Shape<T>&, int64_t modes, const PropagateBack<T>&, T* line);
  // scale F wave, kept as spectra; with `intensity`, that image becomes the sum of their |.|^2.
  void (*to_spectrum)(const Shape<T>&, int64_t modes, const T* waves, T scale, T* spectra,
                      T* intensity, T* line);
  // F^-1[factor wave] of spectra, factor a real image.
  void (*from_spectrum)(const Shape<T>&, int64_t modes, const T* spectra, const T* factor, T* waves,
                        T* line);
  // The near field's detection: panels with columns transformed -> panels, |wave|^2 into the image.
  void (*to_panels)(const Shape<T>&, int64_t modes, T* waves, T* intensity, T* line);
  // waves = factor x waves, columns transformed.
  void (*from_panels)(const Shape<T>&, int64_t modes, T* waves, const T* factor, T* line);
  void (*illuminate)(const Shape<T>&, int64_t modes, const T* spectrum, const Ramp<T>&, T* waves,
                     T* line);
  void (*illuminate_adjoint)(const Shape<T>&, int64_t modes, const IlluminateAdjoint<T>&, T* line);
  Misfit (*compare)(const Compare<T>&);
  // A row-major image [h, w] of any type -> T, as a spectrum's or a panels' image; and back.
  void (*load_image)(const Shape<T>&, bool spectrum, Count type, const void* from, T* to);
  void (*store_image)(const Shape<T>&, bool spectrum, const T* from, T scale, T* to);
};

struct InstructionSet {
  const char* name;
  const Kernels<float>* single;
  const Kernels<double>* precise;
};

}  // namespace ptyle::cpu
