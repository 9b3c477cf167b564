// The multislice model of a chunk of positions on a device: which kernel and which transform after
// which. `Device` launches, transforms and allocates: CUDA's on a device; the emulator's in the
// tests, so that the whole sequence runs there.
//
//   device.launch(kernel, items, arguments...)         a thread an item
//   device.launch_blocks(kernel, blocks, arguments...) kBlockThreads a block
//   device.template allocate<V>(count)                 memory that lives as long as what it returns
//   device.transform(waves, count, inverse)            `count` waves [h, w] in place, not scaled
//   device.copy(from, to, count)
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "csrc/cuda/multislice.cuh"
#include "csrc/cuda/windows.cuh"

namespace ptyle::cuda {

// Waves before every slice of a chunk, kept for the adjoint: all of them, or those of every so many
// slices, from which the others are recomputed.
template <typename T, typename Device>
class Sequence {
 public:
  using C = Complex<T>;

  Sequence(Device& device, const Model<T>& model, const Chunk& chunk, bool any_shift,
           bool needs_positions, int64_t keep_every)
      : device_(device),
        model_(model),
        chunk_(chunk),
        any_shift_(any_shift),
        ramps_needed_(any_shift || needs_positions),
        needs_positions_(needs_positions),
        keep_every_(keep_every),
        size_(chunk.positions * model.modes * model.height * model.width),
        unitary_(static_cast<T>(
            1.0 / (static_cast<double>(model.height) * static_cast<double>(model.width)))),
        waves_(device.template allocate<C>(size_)) {
    if (!ramps_needed_) return;
    const int64_t count = chunk.positions * (model.height + model.width);
    ramps_ = device.template allocate<C>(count);
    slopes_ = device.template allocate<C>(count);
    device_.launch(fill_ramps<T>, count, chunk_, data(ramps_), data(slopes_));
  }

  C* waves() { return data(waves_); }

  // The exit waves, into waves(). keep: for an adjoint.
  void forward(bool keep) {
    illuminate();
    psi_.clear();
    psi_.resize(static_cast<size_t>(model_.slices));
    run_slices(0, model_.slices, keep, /*again=*/false);
  }

  // waves() become the detected ones; intensity = intensity_scale() x |wave|^2. keep: for an
  // adjoint.
  void detect(bool keep) {
    transform(false);
    if (model_.detector == nullptr) return;
    if (keep && needs_positions_) {
      exit_ = device_.template allocate<C>(size_);
      device_.copy(static_cast<const C*>(waves()), data(exit_), size_);
    }
    apply_detector(/*conjugate=*/false);
    transform(true);
  }
  T intensity_scale() const { return model_.detector == nullptr ? unitary_ : T(1); }
  // intensity [b, h, w] of the detected waves in waves().
  void intensity(T* to) {
    device_.launch_blocks(sum_intensity<T>, window_blocks(), chunk_, static_cast<const C*>(waves()),
                          intensity_scale(), to);
  }
  // misfits += of the detected waves; gradient: waves() become their gradient.
  template <typename Count, typename Functor>
  void compare(const Patterns<T, Count>& patterns, Functor likelihood, bool gradient,
               const Misfits& misfits) {
    const bool errors = misfits.amplitude_errors != nullptr;
    auto parts = device_.template allocate<double>((errors ? 2 : 1) * window_blocks());
    double* const error_parts = errors ? parts.get() + window_blocks() : nullptr;
    device_.launch_blocks(cuda::compare<T, Count, Functor>, window_blocks(), chunk_, patterns,
                          likelihood, intensity_scale(), gradient, waves(), parts.get(),
                          error_parts);
    device_.launch(add_losses, chunk_.positions, chunk_, static_cast<const double*>(parts.get()),
                   misfits.losses);
    if (!errors) return;
    device_.launch(add_losses, chunk_.positions, chunk_, static_cast<const double*>(error_parts),
                   misfits.amplitude_errors);
  }
  // waves() *= 2 dL/dI: the gradient of the detected waves. slope [b, h, w]
  void scale_by(const T* slope) {
    device_.launch_blocks(scale_by_slope<T>, wave_blocks(), chunk_, slope, intensity_scale(),
                          waves());
  }
  // The gradient of the detected waves becomes that of the exit waves. positions: [b, 2] to which
  // the near field's part of their gradient is added, or null.
  void undetect(double* positions) {
    if (model_.detector != nullptr) {
      transform(false);
      if (positions != nullptr) {
        device_.launch_blocks(add_detected_positions<T>, chunk_.positions, chunk_,
                              static_cast<const C*>(waves()), static_cast<const C*>(data(exit_)),
                              model_.detector, unitary_, static_cast<const C*>(data(ramps_)),
                              static_cast<const C*>(data(slopes_)), positions);
        exit_ = {};
      }
      apply_detector(/*conjugate=*/true);
    }
    transform(true);
  }

  // waves() hold the gradient of the exit waves.
  void adjoint(const Gradients<T>& out) {
    const bool spectral = out.positions != nullptr || (out.probe != nullptr && any_shift_);
    for (int64_t s = model_.slices - 1; s >= 0; --s) {
      have_run(s);
      if (s + 1 < model_.slices) {
        transform(false);
        const int64_t which = model_.propagator_per_slice ? s * pixels() : 0;
        if (out.propagator != nullptr) {
          auto phi = device_.template allocate<C>(size_);
          device_.launch_blocks(transmit<T>, wave_blocks(), chunk_, slice(s), psi(s), data(phi));
          device_.transform(data(phi), chunk_.positions * model_.modes, false);
          device_.launch(add_propagator<T>, pixels(), chunk_, static_cast<const C*>(data(phi)),
                         static_cast<const C*>(waves()), unitary_, out.propagator + s * pixels());
        }
        device_.launch_blocks(propagate<T>, wave_blocks(), chunk_, model_.propagator + which,
                              unitary_, true, waves());
        transform(true);
      }
      if (model_.real_object) {
        transmit_back<T>(s, static_cast<T*>(out.object), out.illumination);
      } else {
        transmit_back<C>(s, static_cast<C*>(out.object), out.illumination);
      }
      psi_[static_cast<size_t>(s)] = {};
    }
    if (out.probe != nullptr) {
      device_.launch(add_probe<T>, model_.modes * pixels(), chunk_, static_cast<const C*>(waves()),
                     out.probe);
    }
    if (!spectral) return;
    transform(false);
    if (out.probe != nullptr && any_shift_) {
      device_.launch(add_spectrum<T>, model_.modes * pixels(), chunk_,
                     static_cast<const C*>(waves()), static_cast<const C*>(data(ramps_)),
                     out.spectrum);
    }
    if (out.positions != nullptr) {
      device_.launch_blocks(add_positions<T>, chunk_.positions, chunk_,
                            static_cast<const C*>(waves()), model_.spectrum,
                            static_cast<const C*>(data(ramps_)),
                            static_cast<const C*>(data(slopes_)), out.positions);
    }
  }

 private:
  using Memory = decltype(std::declval<Device&>().template allocate<C>(0));

  static C* data(Memory& memory) { return memory.get(); }
  int64_t pixels() const { return model_.height * model_.width; }
  int64_t window_blocks() const { return chunk_.positions * segments_of(pixels()); }
  int64_t wave_blocks() const { return window_blocks() * model_.modes; }
  const C* slice(int64_t s) const { return model_.transmission + s * model_.rows * model_.columns; }
  const C* psi(int64_t s) { return data(psi_[static_cast<size_t>(s)]); }
  void transform(bool inverse) {
    device_.transform(waves(), chunk_.positions * model_.modes, inverse);
  }

  // The detector stands still relative to the beam: what the probe was moved is taken back.
  void apply_detector(bool conjugate) {
    if (ramps_needed_) {
      device_.launch_blocks(propagate_back<T>, wave_blocks(), chunk_, model_.detector, unitary_,
                            static_cast<const C*>(data(ramps_)), conjugate, waves());
    } else {
      device_.launch_blocks(propagate<T>, wave_blocks(), chunk_, model_.detector, unitary_,
                            conjugate, waves());
    }
  }

  void illuminate() {
    if (any_shift_) {
      device_.launch_blocks(move_probe<T>, wave_blocks(), chunk_, model_.spectrum,
                            static_cast<const C*>(data(ramps_)), waves());
      transform(true);
    }
    device_.launch_blocks(copy_probe<T>, wave_blocks(), chunk_, model_.probe, waves());
  }

  // Slices [first, last) from psi_first in waves(). again: the last one's psi is all that is
  // needed.
  void run_slices(int64_t first, int64_t last, bool keep, bool again) {
    for (int64_t s = first; s < last; ++s) {
      if (again && s + 1 == last) {
        psi_[static_cast<size_t>(s)] = std::move(waves_);
        return;
      }
      const bool kept = keep && (again || s % keep_every_ == 0 || s / keep_every_ == last_run());
      if (kept && !psi_[static_cast<size_t>(s)]) {
        // psi stays where it is; the next wave goes to new memory.
        auto next = device_.template allocate<C>(size_);
        device_.launch_blocks(transmit<T>, wave_blocks(), chunk_, slice(s),
                              static_cast<const C*>(waves()), data(next));
        psi_[static_cast<size_t>(s)] = std::move(waves_);
        waves_ = std::move(next);
      } else {
        device_.launch_blocks(transmit<T>, wave_blocks(), chunk_, slice(s),
                              static_cast<const C*>(waves()), waves());
      }
      if (s + 1 == model_.slices) return;
      transform(false);
      const int64_t which = model_.propagator_per_slice ? s * pixels() : 0;
      device_.launch_blocks(propagate<T>, wave_blocks(), chunk_, model_.propagator + which,
                            unitary_, false, waves());
      transform(true);
    }
  }
  int64_t last_run() const { return (model_.slices - 1) / keep_every_; }

  // psi of slice s and of its run, recomputed from the run's first where they are not kept.
  void have_run(int64_t s) {
    if (psi_[static_cast<size_t>(s)]) return;
    const int64_t first = s / keep_every_ * keep_every_;
    auto gradient = std::move(waves_);
    waves_ = device_.template allocate<C>(size_);
    device_.copy(psi(first), waves(), size_);
    run_slices(first, s + 1, /*keep=*/true, /*again=*/true);
    waves_ = std::move(gradient);
  }

  template <typename Patch>
  void transmit_back(int64_t s, Patch* object, T* illumination) {
    const int64_t numbers = chunk_.positions * pixels();
    decltype(device_.template allocate<Patch>(0)) patches{};
    decltype(device_.template allocate<T>(0)) intensity{};
    if (object != nullptr) patches = device_.template allocate<Patch>(numbers);
    if (illumination != nullptr) intensity = device_.template allocate<T>(numbers);
    device_.launch_blocks(cuda::transmit_adjoint<T, Patch>, window_blocks(), chunk_, slice(s),
                          psi(s), waves(), patches.get(), intensity.get());
    if (object != nullptr) add_patches(s, patches.get(), object);
    if (illumination != nullptr) add_patches(s, intensity.get(), illumination);
  }

  // patches [b, h, w] to slice s of an image [slices, rows, columns]
  template <typename Patch>
  void add_patches(int64_t s, const Patch* patches, Patch* image) {
    Patch* to = image + s * model_.rows * model_.columns;
    if (model_.deterministic) {
      const Windows windows{chunk_.corners, chunk_.positions, model_.height,
                            model_.width,   model_.rows,      model_.columns};
      device_.launch_blocks(add_windows<Patch>,
                            (model_.rows + kAreaRows - 1) / kAreaRows *
                                ((model_.columns + kAreaColumns - 1) / kAreaColumns),
                            windows, patches, pixels(), int64_t{1}, to);
    } else {
      device_.launch_blocks(add_patches_atomic<T, Patch>, window_blocks(), chunk_, patches, to);
    }
  }

  Device& device_;
  Model<T> model_;
  Chunk chunk_;
  bool any_shift_, ramps_needed_, needs_positions_;
  int64_t keep_every_, size_;
  T unitary_;
  Memory waves_, ramps_, slopes_;
  Memory exit_;              // F of the exit waves: near field, with a gradient of positions
  std::vector<Memory> psi_;  // by slice
};

}  // namespace ptyle::cuda
