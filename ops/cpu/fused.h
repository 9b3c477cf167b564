// The fused kernels of csrc/cpu, as the operators call them.
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>

#include "csrc/cpu/model.h"
#include "csrc/wave.h"
#include "ops/cpu/windows.h"
#include "ops/gradients.h"

namespace ptyle::cpu {

// The instruction set of a call; warns, once a process, where the window's size makes it slow.
// Throws a ValueError where PTYLE_ISA names what is not there.
const InstructionSet& fused_kernels(const char* name, int64_t height, int64_t width);

// What waves are multiplied by; for no slices that of one slice of vacuum. Real objects:
// exp(i phase). complex_options: the probe's.
template <typename T>
at::Tensor transmission_of(const at::Tensor& object, const at::TensorOptions& complex_options) {
  if (object.size(0) == 0) return at::ones({1, 1, 1}, complex_options);
  if (object.is_complex()) return plain(object);
  const at::Tensor phase = plain(object);
  at::Tensor transmission = at::empty(phase.sizes(), complex_options);
  const T* from = phase.const_data_ptr<T>();
  Complex<T>* to = mutable_complex_data<T>(transmission);
  at::parallel_for(0, phase.numel(), 4096, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) to[i] = unit_phasor(from[i]);
  });
  return transmission;
}

template <typename T>
class Fused {
 public:
  // All as the operators take them, checked; out: where gradients are added.
  Fused(const char* name, const at::Tensor& object, const at::Tensor& probe,
        const at::Tensor& positions, const std::optional<at::Tensor>& propagator,
        at::IntArrayRef origin, const std::optional<at::Tensor>& detector, const Gradients& out)
      : transmission_(transmission_of<T>(object, probe.options())),
        probe_(plain(probe)),
        propagator_(object.size(0) > 1 ? plain(propagator) : at::Tensor()),
        detector_(plain(detector)) {
    const at::Tensor corners = plain(positions);
    const double* p = corners.const_data_ptr<double>();
    bool moves = out.positions.defined();
    for (int64_t n = 0; n < positions.size(0); ++n) {
      const auto [row, column] = window_corner(name, p + 2 * n, n);
      windows_.push_back({row - origin[0], column - origin[1], p[2 * n] - static_cast<double>(row),
                          p[2 * n + 1] - static_cast<double>(column)});
      moves = moves || windows_.back().shifted();
    }
    Inputs<T> in{};
    in.slices = transmission_.size(0);
    in.rows = transmission_.size(1);
    in.columns = transmission_.size(2);
    in.modes = probe.size(0);
    in.height = probe.size(1);
    in.width = probe.size(2);
    in.transmission = numbers(transmission_);
    in.probe = numbers(probe_);
    in.propagator = propagator_.defined() ? numbers(propagator_) : nullptr;
    in.propagator_per_slice = propagator_.defined() && propagator_.dim() == 3;
    in.detector = detector_.defined() ? numbers(detector_) : nullptr;
    in.real_object = !object.is_complex();
    in.moves = moves;
    const InstructionSet& set = fused_kernels(name, in.height, in.width);
    model_.emplace(set, in, kKeepBytes);
    lanes_ = kernels<T>(set).lanes;
    slices_ = in.slices;
    height_ = in.height;
    width_ = in.width;
    const bool vacuum = object.size(0) == 0;
    if (out.object.defined() && !vacuum) sums_.object = mutable_numbers(out.object);
    if (out.illumination.defined() && !vacuum) {
      sums_.illumination = out.illumination.data_ptr<T>();
    }
    if (out.probe.defined()) sums_.probe = mutable_numbers(out.probe);
    if (out.propagator.defined() && propagator_.defined()) {
      sums_.propagator = mutable_numbers(out.propagator);
    }
    if (out.positions.defined()) sums_.positions = out.positions.data_ptr<double>();
    model_->begin(sums_);
  }

  int64_t positions() const { return static_cast<int64_t>(windows_.size()); }
  const Sums<T>& sums() const { return sums_; }
  const Window& window(int64_t n) const { return windows_[static_cast<size_t>(n)]; }

  // work(model, worker, n) for every position: forward only.
  template <typename Work>
  void run(const Work& work) const {
    at::parallel_for(0, positions(), 1, [&](int64_t begin, int64_t end) {
      Worker<T> worker(*model_, false);
      for (int64_t n = begin; n < end; ++n) work(*model_, worker, n);
    });
  }

  // work(model, worker, n, turns) for every position, then the sums are complete. One position a
  // thread; each takes the next one, and adds to the sums when it is its turn.
  template <typename Work>
  void run_ordered(const Work& work) {
    const int64_t tasks =
        at::in_parallel_region() ? 1 : std::min<int64_t>(at::get_num_threads(), positions());
    if (tasks > 1) {
      Turns turns(windows_, width_, height_, lanes_, slices_);
      at::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
        if (begin >= end) return;
        try {
          Worker<T> worker(*model_, true);
          for (int64_t n = turns.next(); n >= 0; n = turns.next()) {
            work(*model_, worker, n, &turns);
          }
        } catch (...) {  // others may be waiting for this one's turn
          turns.fail();
          throw;
        }
      });
    }
    if (tasks <= 1) {
      Worker<T> worker(*model_, true);
      for (int64_t n = 0; n < positions(); ++n) {
        work(*model_, worker, n, static_cast<Turns*>(nullptr));
      }
    }
    model_->finish(sums_);
  }

 private:
  static const T* numbers(const at::Tensor& tensor) {
    return static_cast<const T*>(tensor.const_data_ptr());
  }
  static T* mutable_numbers(const at::Tensor& tensor) { return static_cast<T*>(tensor.data_ptr()); }

  at::Tensor transmission_, probe_, propagator_, detector_;
  std::vector<Window> windows_;
  std::optional<Model<T>> model_;
  Sums<T> sums_;
  int64_t lanes_ = 1, slices_ = 1, height_ = 1, width_ = 1;
};

}  // namespace ptyle::cpu
