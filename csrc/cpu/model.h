// The multislice model of a position and its adjoint, on the fused kernels: no wave leaves the
// cache between two sweeps. Serial and reentrant: a worker is one thread's scratch, `Model` is
// shared and, but for the sums that `Turns` orders, not changed.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "csrc/cpu/plan.h"
#include "csrc/likelihood.h"

namespace ptyle::cpu {

// What all positions share, row-major, zero frequencies at [0, 0]; read until the model is gone.
template <typename T>
struct Inputs {
  int64_t slices, rows, columns;  // of the object
  int64_t modes, height, width;   // of the probe
  const T* transmission;          // [slices, rows, columns] complex
  const T* probe;                 // [modes, h, w] complex
  const T* propagator;            // [h, w] or [slices - 1, h, w] complex; null for one slice
  bool propagator_per_slice;
  const T* detector;  // [h, w] complex, or null for the far field
  bool real_object;   // the object's gradient is that of its phase
  bool moves;         // a position has a fraction, or positions need a gradient
};

// Where gradients are added; null where not needed.
template <typename T>
struct Sums {
  T* object = nullptr;          // [slices, rows, columns], complex, or real for a real object
  T* illumination = nullptr;    // [slices, rows, columns], beside `object`: |psi_s|^2
  T* probe = nullptr;           // [modes, h, w] complex
  T* propagator = nullptr;      // as the propagator
  double* positions = nullptr;  // [n, 2]
  bool any() const { return object || probe || propagator || positions; }
};

// A position's window: corner in the object's array, and fractions in [0, 1).
struct Window {
  int64_t row, column;
  double row_fraction, column_fraction;
  bool shifted() const { return row_fraction != 0 || column_fraction != 0; }
};

// One pattern, row-major [h, w].
template <typename T>
struct Measured {
  Count type;
  const void* counts;
  const uint8_t* mask;  // nonzero = bad pixel, or null
  const T* background;  // or null
  T weight;
  Likelihood likelihood;
  bool amplitude_error = false;  // beside another likelihood's loss
};

template <typename T>
class Model;

// One thread's scratch.
template <typename T>
class Worker {
 public:
  Worker(const Model<T>& model, bool gradients);

 private:
  friend class Model<T>;
  Numbers<T> waves_, again_, detected_, transmitted_, line_, edge_;
  Numbers<T> exit_;  // F phi of the last slice: near field, with a gradient of positions
  Numbers<T> intensity_, counts_, bad_, background_;
  Numbers<T> kept_, run_;  // psi at every so many slices; psi of a run of slices
  Numbers<T> row_ramp_, column_ramp_, row_slope_, column_slope_;
  std::vector<T*> psi_;  // by slice, where it goes
  int64_t run_at_ = -1;  // the first slice of the run that is in run_
  std::array<double, 2> ramp_of_{-1.0, -1.0};
  const void* mask_at_ = nullptr;
  const void* background_at_ = nullptr;
};

// Positions add to what they share in ascending order, whatever thread works on them, so that the
// sums have the same bits for any number of threads. A position's additions are units: the panels
// of a slice, then what is added in Fourier space; slices from the last to the first.
class Turns {
 public:
  Turns(const std::vector<Window>& windows, int64_t width, int64_t height, int64_t lanes,
        int64_t slices);
  // The next position that nobody works on, or -1.
  int64_t next();
  int64_t panels() const { return panels_; }
  int64_t first_unit(int64_t slice) const { return (slices_ - 1 - slice) * (panels_ + 1); }

  // Waits until all earlier positions have added what this unit must follow. everywhere: also where
  // windows do not overlap.
  void wait(int64_t position, int64_t unit, bool everywhere);
  void done(int64_t position, int64_t unit);
  void finished(int64_t position);
  // A position will not be finished: nobody waits any more, and no position is given out.
  void fail() { failed_.store(true); }

 private:
  const std::vector<Window>& windows_;
  int64_t width_, height_, lanes_, slices_, panels_;
  std::vector<std::atomic<int64_t>> units_;  // done, by position
  std::atomic<int64_t> next_{0}, low_{0};
  std::atomic<bool> failed_{false};
};

template <typename T>
class Model {
 public:
  // keep_bytes: of waves that a worker may keep for the adjoint before it makes some again.
  Model(const InstructionSet& set, const Inputs<T>& inputs, int64_t keep_bytes);

  // Of one worker's scratch.
  int64_t worker_bytes(bool gradients) const;

  // phi of the last slice to `exit` [modes, h, w].
  void exit_waves(Worker<T>& worker, const Window& window, T* exit) const;
  // The model intensity [h, w].
  void diffraction(Worker<T>& worker, const Window& window, T* intensity) const;
  // The pattern's loss, without its weight.
  Misfit loss(Worker<T>& worker, const Window& window, const Measured<T>& measured) const;

  // The same with gradients. turns: null on one thread.
  Misfit loss(Worker<T>& worker, const Window& window, const Measured<T>& measured,
              const Sums<T>& sums, int64_t position, Turns* turns);
  // slope: dL/dI [h, w].
  void diffraction_adjoint(Worker<T>& worker, const Window& window, const T* slope,
                           const Sums<T>& sums, int64_t position, Turns* turns);
  // gradient: of the exit waves [modes, h, w].
  void exit_waves_adjoint(Worker<T>& worker, const Window& window, const T* gradient,
                          const Sums<T>& sums, int64_t position, Turns* turns);

  // Adds what was summed in the kernels' own layout to `sums`; after the last position.
  void finish(const Sums<T>& sums) const;

  // Makes room for sums in the kernels' own layout.
  void begin(const Sums<T>& sums);

 private:
  friend class Worker<T>;
  const Shape<T>& shape() const { return plan_->shape(); }
  int64_t pixels() const { return inputs_.height * inputs_.width; }
  Place place(const Window& window) const {
    return {window.row, window.column, inputs_.rows, inputs_.columns};
  }
  const T* slice(int64_t s) const {
    return inputs_.transmission + 2 * s * inputs_.rows * inputs_.columns;
  }
  const T* propagator(int64_t s) const {
    return propagators_.data() + (inputs_.propagator_per_slice ? s * shape().spectrum_wave() : 0);
  }
  Ramp<T> ramp(Worker<T>& worker, const Window& window) const;
  // Slices [first, last) into `waves`, from the probe where `psi` is null, else from psi_first. The
  // last goes to `exit` with To::kMemory. `keep`: where psi_s goes, by slice, or null.
  void forward(Worker<T>& worker, const Window& window, const T* psi, int64_t first, int64_t last,
               T* waves, To to, T* exit, const std::vector<T*>& keep) const;
  // The forward model of an adjoint that follows.
  void forward_kept(Worker<T>& worker, const Window& window, To to) const;
  // psi of all slices of the run that slice s lies in, recomputed where they are not kept.
  void have_run(Worker<T>& worker, const Window& window, int64_t s) const;
  // The near field's wave is moved back by the fractions. keep: for a gradient of positions.
  void detect(Worker<T>& worker, const Window& window, bool keep) const;
  // positions: [2] to which the near field's part of their gradient is added, or null.
  void undetect(Worker<T>& worker, const Window& window, double* positions) const;
  Misfit compare(Worker<T>& worker, const Measured<T>& measured) const;
  // exit_gradient: [modes, h, w], or null where the waves hold it.
  void adjoint(Worker<T>& worker, const Window& window, const T* exit_gradient, const Sums<T>& sums,
               int64_t position, Turns* turns);
  int64_t run_begin(int64_t s) const { return s / keep_every_ * keep_every_; }

  const Kernels<T>& kernels_;
  std::shared_ptr<const Plan<T>> plan_;
  Inputs<T> inputs_;
  T unitary_, root_;    // 1 / (h w) and its square root
  int64_t keep_every_;  // 1: all
  Numbers<T> propagators_, detector_, probe_, spectrum_;
  Numbers<T> probe_sum_, spectrum_sum_, propagator_sum_;
};

}  // namespace ptyle::cpu
