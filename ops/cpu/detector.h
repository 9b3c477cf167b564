// From exit waves to detected waves and back: a Fourier transform for the far field, a convolution
// with the detector's transfer function D for the near field, F^-1[D F psi].
#pragma once

#include "ops/cpu/multislice.h"

namespace ptyle::cpu {

template <typename T>
class Detector {
 public:
  using C = Complex<T>;

  explicit Detector(const std::optional<at::Tensor>& transfer) : transfer_(plain(transfer)) {}

  // waves [b, modes, h, w]
  at::Tensor forward(const at::Tensor& waves) const {
    at::Tensor detected = fourier(waves, Transform::kForward);
    if (!transfer_.defined()) return detected;
    multiply(detected, [](C factor, C wave) { return factor * wave; });
    return fourier(detected, Transform::kInverse);
  }

  at::Tensor adjoint(const at::Tensor& gradient) const {
    if (!transfer_.defined()) return fourier(gradient, Transform::kInverse);
    at::Tensor spectrum = fourier(gradient, Transform::kForward);
    multiply(spectrum, [](C factor, C wave) { return conj_times(factor, wave); });
    return fourier(spectrum, Transform::kInverse);
  }

 private:
  template <typename Product>
  void multiply(at::Tensor& waves, const Product& product) const {
    const C* factor = complex_data<T>(transfer_);
    const int64_t pixels = transfer_.numel();
    C* wave = mutable_complex_data<T>(waves);
    for (int64_t k = 0; k < waves.size(0) * waves.size(1); ++k, wave += pixels) {
      for (int64_t i = 0; i < pixels; ++i) wave[i] = product(factor[i], wave[i]);
    }
  }

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
