#include "ops/composite.h"

#include <numbers>
#include <vector>

#include <ATen/ATen.h>

#include "ops/checks.h"

namespace ptyle::composite {
namespace {

using at::Tensor;

int64_t known(const c10::SymInt& size) { return size.guard_int(__FILE__, __LINE__); }

Tensor fourier(const Tensor& waves, bool forward) {
  const int64_t rank = waves.dim();
  return at::_fft_c2c(waves, {rank - 2, rank - 1}, /*unitary*/ 1, forward);
}

// Indices of every window's pixels in an object padded by one pixel of vacuum on each side, onto
// which everything outside the object is clamped.
struct Windows {
  Windows(const Tensor& positions, c10::SymIntArrayRef origin, const Tensor& probe, int64_t rows,
          int64_t columns)
      : rows_(rows), columns_(columns) {
    const Tensor corners = positions.detach().floor().to(at::kLong);
    const auto axis = [&](int64_t k, int64_t window, int64_t size) {
      const Tensor start = corners.select(1, k).sub(known(origin[static_cast<size_t>(k)]));
      return start.unsqueeze(1).add(at::arange(window, start.options())).clamp(-1, size).add(1);
    };
    const Tensor row = axis(0, known(probe.sym_size(1)), rows);
    const Tensor column = axis(1, known(probe.sym_size(2)), columns);
    index_ = row.unsqueeze(2).mul(columns + 2).add(column.unsqueeze(1));  // [n, h, w]
  }

  // image [rows, columns] -> [n, 1, h, w]
  Tensor extract(const Tensor& image, double outside) const {
    return at::constant_pad_nd(image, {1, 1, 1, 1}, outside)
        .flatten()
        .index_select(0, index_.flatten())
        .reshape_symint(index_.sym_sizes())
        .unsqueeze(1);
  }

  // patches [n, h, w] -> [rows, columns]
  Tensor add(const Tensor& patches) const {
    return at::zeros({(rows_ + 2) * (columns_ + 2)}, patches.options())
        .index_add(0, index_.flatten(), patches.flatten())
        .reshape({rows_ + 2, columns_ + 2})
        .slice(0, 1, rows_ + 1)
        .slice(1, 1, columns_ + 1);
  }

 private:
  int64_t rows_, columns_;
  Tensor index_;
};

// One axis of the Fourier ramp (csrc/wave.h) and its slope, [n, size] complex128.
struct Ramp {
  Ramp(const Tensor& positions, int64_t axis, int64_t size) {
    const Tensor corner = positions.detach().floor();
    const Tensor fraction = positions.sub(corner).select(1, axis).unsqueeze(1);
    const Tensor index = at::arange(size, positions.options());
    const Tensor k = at::where(index.mul(2).lt(size), index, index.sub(size));
    const Tensor real_only = index.mul(2).ne(size).to(at::kDouble);
    const Tensor rate = k.mul(-2 * std::numbers::pi / static_cast<double>(size));
    const Tensor phase = fraction.mul(rate);
    value = at::complex(phase.cos(), phase.sin().mul(real_only));
    slope = at::complex(phase.sin().mul(rate).neg(), phase.cos().mul(rate).mul(real_only));
  }
  Tensor value, slope;
};

Tensor transmission(const Tensor& slice) {
  return slice.is_complex() ? slice : at::complex(slice.cos(), slice.sin());
}

Tensor propagator_after(const Tensor& propagator, int64_t s) {
  return propagator.dim() == 3 ? propagator.select(0, s) : propagator;
}

// [n, h], [n, w] -> [n, 1, h, w] of the probe's type
Tensor outer(const Tensor& row, const Tensor& column, const Tensor& probe) {
  return row.unsqueeze(2).mul(column.unsqueeze(1)).unsqueeze(1).to(probe.scalar_type());
}

// Both axes' ramps of all positions.
struct Ramps {
  Ramps(const Tensor& positions, const Tensor& probe)
      : row(positions, 0, known(probe.sym_size(1))),
        column(positions, 1, known(probe.sym_size(2))),
        value(outer(row.value, column.value, probe)) {}

  // [n, 2] float64: Re sum of weight [n, modes, h, w] x the slopes, or their conjugates.
  Tensor along_slopes(const Tensor& weight, bool conjugate) const {
    const auto along = [&](const Tensor& r, const Tensor& c) {
      const Tensor slope = outer(r, c, weight);
      return at::real(weight.mul(conjugate ? slope.conj() : slope))
          .to(at::kDouble)
          .sum(at::IntArrayRef{1, 2, 3});
    };
    return at::stack({along(row.slope, column.value), along(row.value, column.slope)}, 1);
  }

  Ramp row, column;
  Tensor value;  // [n, 1, h, w]
};

// From exit waves to detected waves and back. In the near field the exit waves are moved back by
// what the probe was moved: the detector stands still relative to the beam.
class Detection {
 public:
  Detection(const Tensor& waves, const Tensor& probe, const Tensor& positions,
            const OptionalTensor& detector)
      : detector_(detector), spectrum_(fourier(waves, true)) {
    if (!detector) return;
    ramps_.emplace(positions, probe);
    back_ = ramps_->value.conj().mul(*detector);
  }

  Tensor waves() const { return detector_ ? fourier(spectrum_.mul(back_), false) : spectrum_; }

  // The exit waves' gradient; what the detection itself gives to that of positions is kept.
  Tensor adjoint(const Tensor& gradient, bool needs_positions) {
    if (!detector_) return fourier(gradient, false);
    const Tensor transformed = fourier(gradient, true);
    if (needs_positions) {
      positions_gradient_ = ramps_->along_slopes(transformed.conj().mul(spectrum_).mul(*detector_),
                                                 /*conjugate=*/true);
    }
    return fourier(transformed.mul(back_.conj()), false);
  }

  // `gradients`, of the exit waves, with that part.
  FourTensors with_positions(FourTensors gradients) const {
    if (positions_gradient_.defined()) {
      std::get<2>(gradients) = std::get<2>(gradients).add(positions_gradient_);
    }
    return gradients;
  }

 private:
  OptionalTensor detector_;
  Tensor spectrum_, back_, positions_gradient_;
  std::optional<Ramps> ramps_;
};

// A tensor as a number for the likelihoods' formulae (csrc/likelihood.h).
struct Number {
  explicit Number(Tensor tensor) : value(std::move(tensor)) {}
  explicit Number(double number) : value(at::scalar_tensor(number, at::kDouble)) {}
  friend Number operator+(const Number& a, const Number& b) { return Number(a.value.add(b.value)); }
  friend Number operator-(const Number& a, const Number& b) { return Number(a.value.sub(b.value)); }
  friend Number operator*(const Number& a, const Number& b) { return Number(a.value.mul(b.value)); }
  friend Number operator/(const Number& a, const Number& b) { return Number(a.value.div(b.value)); }
  friend Number operator<=(const Number& a, const Number& b) { return Number(a.value.le(b.value)); }
  friend Number sqrt(const Number& a) { return Number(a.value.sqrt()); }
  friend Number log(const Number& a) { return Number(a.value.log()); }
  friend Number select(const Number& condition, const Number& a, const Number& b) {
    return Number(at::where(condition.value, a.value, b.value));
  }
  Tensor value;
};

}  // namespace

FourTensors exit_waves_gradients(const Tensor& gradient, const Tensor& object, const Tensor& probe,
                                 const Tensor& positions, const OptionalTensor& propagator,
                                 c10::SymIntArrayRef origin, Needs needs) {
  const int64_t slices = known(object.sym_size(0));
  const Windows windows(positions, origin, probe, known(object.sym_size(1)),
                        known(object.sym_size(2)));

  // Forward: psi_0 is the shifted probe, psi_s the wave before slice s.
  const Ramps ramps(positions, probe);
  const Tensor& ramp = ramps.value;
  const Tensor spectrum = fourier(probe, true).unsqueeze(0);
  Tensor wave = fourier(ramp.mul(spectrum), false);
  std::vector<Tensor> psi, transmitted, patches;
  for (int64_t s = 0; s < slices; ++s) {
    const Tensor slice = object.select(0, s);
    patches.push_back(transmission(windows.extract(slice, slice.is_complex() ? 1.0 : 0.0)));
    psi.push_back(wave);
    if (s + 1 == slices) break;
    transmitted.push_back(fourier(wave.mul(patches.back()), true));
    wave = fourier(transmitted.back().mul(propagator_after(*propagator, s)), false);
  }

  // Adjoint, slice by slice backwards.
  Tensor g = gradient;
  std::vector<Tensor> object_gradients(static_cast<size_t>(slices));
  std::vector<Tensor> propagator_gradients(static_cast<size_t>(std::max<int64_t>(0, slices - 1)));
  for (int64_t s = slices - 1; s >= 0; --s) {
    const auto at_s = static_cast<size_t>(s);
    if (needs[0]) {
      Tensor sum = psi[at_s].conj().mul(g).sum(1);  // [n, h, w]
      if (!object.is_complex()) sum = at::imag(patches[at_s].squeeze(1).conj().mul(sum));
      object_gradients[at_s] = windows.add(sum);
    }
    g = patches[at_s].conj().mul(g);
    if (s > 0) {
      const Tensor transformed = fourier(g, true);
      if (needs[3]) {
        propagator_gradients[at_s - 1] =
            transmitted[at_s - 1].conj().mul(transformed).sum(at::IntArrayRef{0, 1});
      }
      g = fourier(propagator_after(*propagator, s - 1).conj().mul(transformed), false);
    }
  }

  const auto nothing = [&] { return at::empty({0}, probe.options()); };
  Tensor g_object = nothing(), g_probe = nothing(), g_positions = nothing(),
         g_propagator = nothing();
  if (needs[0]) {
    g_object = slices > 0 ? at::stack(object_gradients) : at::zeros_like(object);
  }
  if (needs[1] || needs[2]) {
    const Tensor transformed = fourier(g, true);
    if (needs[1]) g_probe = fourier(ramp.conj().mul(transformed).sum(0), false);
    if (needs[2]) {
      g_positions = ramps.along_slopes(transformed.conj().mul(spectrum), /*conjugate=*/false);
    }
  }
  if (needs[3] && propagator) {
    if (slices < 2) {
      g_propagator = at::zeros_like(*propagator);
    } else {
      const Tensor all = at::stack(propagator_gradients);
      g_propagator = propagator->dim() == 3 ? all : all.sum(0);
    }
  }
  return {g_object, g_probe, g_positions, g_propagator};
}

FourTensors diffraction_gradients(const Tensor& gradient, const Tensor& object, const Tensor& probe,
                                  const Tensor& positions, const OptionalTensor& propagator,
                                  c10::SymIntArrayRef origin, const OptionalTensor& detector,
                                  Needs needs) {
  const Tensor waves = dispatch::exit_waves(object, probe, positions, propagator, origin);
  Detection detection(waves, probe, positions, detector);
  const Tensor detected = detection.waves().mul(gradient.mul(2).unsqueeze(1));
  return detection.with_positions(dispatch::exit_waves_backward(
      detection.adjoint(detected, needs[2]), object, probe, positions, propagator, origin, needs));
}

FourTensors diffraction_loss_gradients(const Tensor& gradient, const LossArguments& a,
                                       Needs needs) {
  const Tensor waves = dispatch::exit_waves(a.object, a.probe, a.positions, a.propagator, a.origin);
  Detection detection(waves, a.probe, a.positions, a.detector);
  const Tensor detected = detection.waves();
  const Tensor intensity = at::real(detected.mul(detected.conj())).sum(1);
  const Tensor expected = a.background ? intensity.add(*a.background) : intensity;
  Tensor counts = a.patterns.to(intensity.scalar_type());
  // What lies under the mask may be anything, also not a number: 0 times that would not be 0.
  if (a.mask) counts = counts.masked_fill(a.mask->to(at::kBool), 0);
  Tensor slope = with_likelihood(
      likelihood_from("diffraction_loss", a.likelihood),
      [&](auto likelihood) { return likelihood(Number(expected), Number(counts)).slope.value; });
  if (a.mask) slope = slope.masked_fill(a.mask->to(at::kBool), 0);
  if (a.weights) slope = slope.mul(a.weights->unsqueeze(1).unsqueeze(2));
  const Tensor scaled = detected.mul(slope.mul(gradient).mul(2).unsqueeze(1));
  return detection.with_positions(dispatch::exit_waves_backward(detection.adjoint(scaled, needs[2]),
                                                                a.object, a.probe, a.positions,
                                                                a.propagator, a.origin, needs));
}

Tensor illumination(const Tensor& probe, const Tensor& positions, c10::SymIntArrayRef shape,
                    c10::SymIntArrayRef origin) {
  const Windows windows(positions, origin, probe, known(shape[0]), known(shape[1]));
  const Tensor intensity =
      at::view_as_real(probe.resolve_conj()).square().sum(at::IntArrayRef{0, 3}).unsqueeze(0);
  // 0 x positions gives every window its copy without naming their number.
  const Tensor copies = positions.detach().select(1, 0).mul(0).to(intensity.scalar_type());
  return windows.add(intensity.add(copies.unsqueeze(1).unsqueeze(2)));
}

}  // namespace ptyle::composite
