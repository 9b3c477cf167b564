// From exit waves to detected waves and back: a Fourier transform for the far field, a convolution
// with the detector's transfer function D for the near field, F^-1[D conj(ramp) F psi]: the
// detector stands still relative to the beam, so that the exit wave is moved back by what the probe
// was moved.
#pragma once

#include "ops/cpu/multislice.h"

namespace ptyle::cpu {

template <typename T>
class Detector {
 public:
  using Chunk = typename Multislice<T>::Chunk;

  Detector(const Multislice<T>& model, const std::optional<at::Tensor>& transfer)
      : model_(model), transfer_(plain(transfer)) {}

  // waves [b, modes, h, w] of a chunk
  at::Tensor forward(Chunk& chunk, const at::Tensor& waves) const {
    at::Tensor detected = fourier(waves, Transform::kForward);
    if (!transfer_.defined()) return detected;
    if (model_.needs_positions()) chunk.exit_spectrum = detected.clone();
    model_.propagate_back(chunk, complex_data<T>(transfer_), /*conjugate=*/false, detected);
    return fourier(detected, Transform::kInverse);
  }

  at::Tensor adjoint(Chunk& chunk, const at::Tensor& gradient, const Gradients& out) const {
    if (!transfer_.defined()) return fourier(gradient, Transform::kInverse);
    at::Tensor spectrum = fourier(gradient, Transform::kForward);
    const Complex<T>* factor = complex_data<T>(transfer_);
    if (out.positions.defined()) {
      model_.add_detected_positions(chunk, factor, spectrum, out.positions);
      chunk.exit_spectrum.reset();
    }
    model_.propagate_back(chunk, factor, /*conjugate=*/true, spectrum);
    return fourier(spectrum, Transform::kInverse);
  }

 private:
  const Multislice<T>& model_;
  at::Tensor transfer_;
};

// intensity[i] = sum over modes of |wave|^2; waves: one position's [modes, h, w].
template <typename T>
void sum_intensity(const Complex<T>* waves, int64_t modes, int64_t pixels, T* intensity) {
  std::fill(intensity, intensity + pixels, T(0));
  for (int64_t m = 0; m < modes; ++m, waves += pixels) {
    for (int64_t i = 0; i < pixels; ++i) intensity[i] += abs_squared(waves[i]);
  }
}

// waves *= factor, mode by mode: the gradient of the detected waves.
template <typename T>
void scale_modes(Complex<T>* waves, int64_t modes, int64_t pixels, const T* factor) {
  for (int64_t m = 0; m < modes; ++m, waves += pixels) {
    for (int64_t i = 0; i < pixels; ++i) waves[i] = factor[i] * waves[i];
  }
}

}  // namespace ptyle::cpu
