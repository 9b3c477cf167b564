#include "csrc/cpu/model.h"

#include <algorithm>
#include <cmath>
#include <thread>

#include "csrc/wave.h"

namespace ptyle::cpu {

// ---- turns ----

Turns::Turns(const std::vector<Window>& windows, int64_t width, int64_t height, int64_t lanes,
             int64_t slices)
    : windows_(windows),
      width_(width),
      height_(height),
      lanes_(lanes),
      slices_(slices),
      panels_((width + lanes - 1) / lanes),
      units_(windows.size()) {}

int64_t Turns::next() {
  if (failed_.load()) return -1;
  const int64_t position = next_.fetch_add(1);
  return position < static_cast<int64_t>(windows_.size()) ? position : -1;
}

void Turns::wait(int64_t position, int64_t unit, bool everywhere) {
  const Window& here = windows_[static_cast<size_t>(position)];
  const int64_t first = unit / (panels_ + 1) * (panels_ + 1), panel = unit - first;
  for (int64_t n = low_.load(std::memory_order_acquire); n < position; ++n) {
    int64_t needed = everywhere ? unit + 1 : 0;
    if (panel < panels_) {
      const Window& there = windows_[static_cast<size_t>(n)];
      // columns of this panel, in that window
      const int64_t begin = here.column + panel * lanes_ - there.column;
      const int64_t last = begin + lanes_ - 1;
      if (std::abs(here.row - there.row) < height_ && begin < width_ && last >= 0) {
        needed = std::max(needed, first + std::min(last / lanes_, panels_ - 1) + 1);
      }
    }
    const std::atomic<int64_t>& reached = units_[static_cast<size_t>(n)];
    for (int tries = 0; reached.load(std::memory_order_acquire) < needed; ++tries) {
      if (tries <= 1000) continue;
      if (failed_.load()) return;
      std::this_thread::yield();
    }
  }
}

void Turns::done(int64_t position, int64_t unit) {
  units_[static_cast<size_t>(position)].store(unit + 1, std::memory_order_release);
}

void Turns::finished(int64_t position) {
  const int64_t all = slices_ * (panels_ + 1);
  units_[static_cast<size_t>(position)].store(all, std::memory_order_release);
  // Whoever finishes moves the mark over all that is finished.
  int64_t low = low_.load(std::memory_order_acquire);
  while (low < static_cast<int64_t>(windows_.size()) &&
         units_[static_cast<size_t>(low)].load(std::memory_order_acquire) >= all) {
    low_.compare_exchange_weak(low, low + 1);
    low = low_.load(std::memory_order_acquire);
  }
}

namespace {

// One position's view of the turns, as the kernels call it.
struct Mine {
  Turns* turns;
  int64_t position;
  bool everywhere;

  Turn turn(bool at_all) {
    if (turns == nullptr || !at_all) return {};
    return {this,
            [](void* owner, int64_t unit) {
              const auto* mine = static_cast<const Mine*>(owner);
              mine->turns->wait(mine->position, unit, mine->everywhere);
            },
            [](void* owner, int64_t unit) {
              const auto* mine = static_cast<const Mine*>(owner);
              mine->turns->done(mine->position, unit);
            }};
  }
};

}  // namespace

// ---- worker ----

template <typename T>
Worker<T>::Worker(const Model<T>& model, bool gradients)
    : psi_(static_cast<size_t>(model.inputs_.slices), nullptr) {
  const Shape<T>& shape = model.shape();
  const Inputs<T>& in = model.inputs_;
  const bool far = in.detector == nullptr;
  const int64_t image = far ? shape.spectrum_image() : shape.panel_image();
  const int64_t waves = in.modes * shape.panel_wave();
  waves_ = Numbers<T>(waves);
  line_ = Numbers<T>(shape.line());
  edge_ = Numbers<T>(shape.edge(), Fill::kNothing);
  intensity_ = Numbers<T>(image);
  counts_ = Numbers<T>(image);
  if (far) detected_ = Numbers<T>(in.modes * shape.spectrum_wave(), Fill::kNothing);
  if (gradients) {
    const int64_t every = model.keep_every_;
    kept_ = Numbers<T>((in.slices + every - 1) / every * waves, Fill::kNothing);
    if (every > 1) {
      run_ = Numbers<T>((every - 1) * waves, Fill::kNothing);
      again_ = Numbers<T>(waves);
    }
  }
  if (in.moves) {
    row_ramp_ = Numbers<T>(shape.groups() * 2 * shape.lanes);
    row_slope_ = Numbers<T>(shape.groups() * 2 * shape.lanes);
    column_ramp_ = Numbers<T>(2 * in.width);
    column_slope_ = Numbers<T>(2 * in.width);
  }
}

template <typename T>
int64_t Model<T>::worker_bytes(bool gradients) const {
  const Inputs<T>& in = inputs_;
  const Extent extent{
      in.slices, in.modes, in.propagator_per_slice, in.detector != nullptr, in.moves,
      gradients, false};
  return worker_numbers(shape(), extent, keep_every_) * static_cast<int64_t>(sizeof(T));
}

// ---- model ----

template <typename T>
Model<T>::Model(const InstructionSet& set, const Inputs<T>& inputs, int64_t keep_bytes)
    : kernels_(kernels<T>(set)),
      plan_(plan_for<T>(inputs.height, inputs.width, kernels_.lanes)),
      inputs_(inputs),
      unitary_(static_cast<T>(
          1.0 / (static_cast<double>(inputs.height) * static_cast<double>(inputs.width)))),
      root_(std::sqrt(unitary_)),
      keep_every_(kept_every(inputs.slices,
                             inputs.modes * shape().panel_wave() * static_cast<int64_t>(sizeof(T)),
                             keep_bytes)) {
  const int64_t spectrum = shape().spectrum_wave();
  if (inputs.slices > 1) {
    const int64_t count = inputs.propagator_per_slice ? inputs.slices - 1 : 1;
    propagators_ = Numbers<T>(count * spectrum);
    for (int64_t s = 0; s < count; ++s) {
      plan_->to_spectrum(inputs.propagator + 2 * s * pixels(), unitary_,
                         propagators_.data() + s * spectrum);
    }
  }
  if (inputs.detector != nullptr) {
    detector_ = Numbers<T>(spectrum);
    plan_->to_spectrum(inputs.detector, unitary_, detector_.data());
  }
  probe_ = Numbers<T>(inputs.modes * shape().panel_wave());
  for (int64_t m = 0; m < inputs.modes; ++m) {
    plan_->to_panels(inputs.probe + 2 * m * pixels(), probe_.data() + m * shape().panel_wave());
  }
  if (!inputs.moves) return;
  spectrum_ = Numbers<T>(inputs.modes * spectrum);
  Numbers<T> scratch(shape().panel_wave()), line(shape().line()), transformed(2 * pixels());
  for (int64_t m = 0; m < inputs.modes; ++m) {
    kernels_.transform(shape(), false, inputs.probe + 2 * m * pixels(), transformed.data(),
                       scratch.data(), line.data());
    plan_->to_spectrum(transformed.data(), unitary_, spectrum_.data() + m * spectrum);
  }
}

template <typename T>
void Model<T>::begin(const Sums<T>& sums) {
  const int64_t spectrum = shape().spectrum_wave();
  if (sums.probe != nullptr) {
    probe_sum_ = Numbers<T>(probe_.size());
    if (inputs_.moves) spectrum_sum_ = Numbers<T>(inputs_.modes * spectrum);
  }
  // One sum a slice, also where slices share a propagator: a slice's turn says nothing of
  // another's.
  if (sums.propagator != nullptr) propagator_sum_ = Numbers<T>((inputs_.slices - 1) * spectrum);
}

template <typename T>
void Model<T>::finish(const Sums<T>& sums) const {
  const int64_t spectrum = shape().spectrum_wave();
  if (sums.probe != nullptr) {
    Numbers<T> transformed(inputs_.moves ? 2 * pixels() : 0), moved(transformed.size());
    Numbers<T> panels(inputs_.moves ? shape().panel_wave() : 0), line(shape().line());
    for (int64_t m = 0; m < inputs_.modes; ++m) {
      T* to = sums.probe + 2 * m * pixels();
      plan_->add_panels(probe_sum_.data() + m * shape().panel_wave(), to);
      if (!inputs_.moves) continue;
      std::fill_n(transformed.data(), transformed.size(), T(0));
      plan_->add_spectrum(spectrum_sum_.data() + m * spectrum, unitary_, transformed.data());
      kernels_.transform(shape(), true, transformed.data(), moved.data(), panels.data(),
                         line.data());
      for (int64_t i = 0; i < moved.size(); ++i) to[i] += moved.data()[i];
    }
  }
  for (int64_t s = 0; s < propagator_sum_.size() / spectrum; ++s) {
    plan_->add_spectrum(propagator_sum_.data() + s * spectrum, unitary_,
                        sums.propagator + (inputs_.propagator_per_slice ? 2 * s * pixels() : 0));
  }
}

template <typename T>
Ramp<T> Model<T>::ramp(Worker<T>& worker, const Window& window) const {
  const Ramp<T> result{worker.row_ramp_.data(), worker.column_ramp_.data(),
                       worker.row_slope_.data(), worker.column_slope_.data()};
  const std::array<double, 2> fractions{window.row_fraction, window.column_fraction};
  if (worker.ramp_of_ == fractions) return result;  // the adjoint's is the forward model's
  worker.ramp_of_ = fractions;
  const int64_t W = shape().lanes;
  for (int64_t r = 0; r < inputs_.height; ++r) {
    const ShiftRamp<double> z =  // in double: frequency times a fraction
        shift_ramp<double>(shape().rows.frequency[r], inputs_.height, window.row_fraction);
    const int64_t at = r / W * 2 * W + r % W;
    worker.row_ramp_.data()[at] = static_cast<T>(z.value.re);
    worker.row_ramp_.data()[at + W] = static_cast<T>(z.value.im);
    worker.row_slope_.data()[at] = static_cast<T>(z.slope.re);
    worker.row_slope_.data()[at + W] = static_cast<T>(z.slope.im);
  }
  for (int64_t slot = 0; slot < inputs_.width; ++slot) {
    const ShiftRamp<double> z =
        shift_ramp<double>(shape().columns.frequency[slot], inputs_.width, window.column_fraction);
    worker.column_ramp_.data()[2 * slot] = static_cast<T>(z.value.re);
    worker.column_ramp_.data()[2 * slot + 1] = static_cast<T>(z.value.im);
    worker.column_slope_.data()[2 * slot] = static_cast<T>(z.slope.re);
    worker.column_slope_.data()[2 * slot + 1] = static_cast<T>(z.slope.im);
  }
  return result;
}

template <typename T>
void Model<T>::forward(Worker<T>& worker, const Window& window, const T* psi, int64_t first,
                       int64_t last, T* waves, To to, T* exit, const std::vector<T*>& keep) const {
  From from = From::kProbe;
  if (psi == nullptr) {
    psi = probe_.data();
    if (window.shifted()) {
      kernels_.illuminate(shape(), inputs_.modes, spectrum_.data(), ramp(worker, window), waves,
                          worker.line_.data());
      from = From::kSpectrum;
    }
  }
  for (int64_t s = first; s < last; ++s) {
    const bool end = s + 1 == last;
    Transmit<T> a{};
    a.from = from;
    a.to = end ? to : To::kSpectrum;
    a.probe = psi;
    a.waves = waves;
    a.keep = keep[static_cast<size_t>(s)];
    a.memory = end && to == To::kMemory ? exit : nullptr;
    a.object = slice(s);
    a.place = place(window);
    a.edge = worker.edge_.data();
    kernels_.transmit(shape(), inputs_.modes, a);
    from = From::kSpectrum;
    if (end) break;
    Propagate<T> p{};
    p.waves = waves;
    p.factor = propagator(s);
    kernels_.propagate(shape(), inputs_.modes, p, worker.line_.data());
  }
}

template <typename T>
void Model<T>::forward_kept(Worker<T>& worker, const Window& window, To to) const {
  const int64_t size = inputs_.modes * shape().panel_wave();
  const int64_t last_run = run_begin(inputs_.slices - 1);
  for (int64_t s = 0; s < inputs_.slices; ++s) {
    const int64_t run = run_begin(s);
    T* at = nullptr;
    if (s == run) {
      at = worker.kept_.data() + s / keep_every_ * size;
    } else if (run == last_run) {
      at = worker.run_.data() + (s - run - 1) * size;
    }
    worker.psi_[static_cast<size_t>(s)] = at;
  }
  if (!window.shifted()) worker.psi_[0] = nullptr;  // the probe itself
  worker.run_at_ = last_run;
  forward(worker, window, nullptr, 0, inputs_.slices, worker.waves_.data(), to, nullptr,
          worker.psi_);
  if (!window.shifted()) worker.psi_[0] = const_cast<T*>(probe_.data());
}

template <typename T>
void Model<T>::have_run(Worker<T>& worker, const Window& window, int64_t s) const {
  const int64_t begin = run_begin(s);
  if (begin == worker.run_at_ || keep_every_ == 1) return;
  const int64_t size = inputs_.modes * shape().panel_wave();
  std::vector<T*> keep(worker.psi_.size(), nullptr);
  const int64_t end = std::min(begin + keep_every_, inputs_.slices);
  for (int64_t k = begin + 1; k < end; ++k) {
    T* at = worker.run_.data() + (k - begin - 1) * size;
    keep[static_cast<size_t>(k)] = worker.psi_[static_cast<size_t>(k)] = at;
  }
  // The last slice's own transmission is not needed, only psi before it.
  forward(worker, window, worker.psi_[static_cast<size_t>(begin)], begin, end, worker.again_.data(),
          To::kMemory, nullptr, keep);
  worker.run_at_ = begin;
}

template <typename T>
void Model<T>::detect(Worker<T>& worker, const Window& window, bool keep) const {
  if (inputs_.modes == 0) std::fill_n(worker.intensity_.data(), worker.intensity_.size(), T(0));
  if (inputs_.detector == nullptr) {
    kernels_.to_spectrum(shape(), inputs_.modes, worker.waves_.data(), root_,
                         worker.detected_.data(), worker.intensity_.data(), worker.line_.data());
    return;
  }
  if (window.shifted() || keep) {
    PropagateBack<T> p{};
    p.waves = worker.waves_.data();
    p.factor = detector_.data();
    p.ramp = ramp(worker, window);
    if (keep) {
      if (worker.exit_.size() == 0) {
        worker.exit_ = Numbers<T>(inputs_.modes * shape().spectrum_wave(), Fill::kNothing);
      }
      p.spectra = worker.exit_.data();
    }
    kernels_.propagate_back(shape(), inputs_.modes, p, worker.line_.data());
  } else {
    Propagate<T> p{};
    p.waves = worker.waves_.data();
    p.factor = detector_.data();
    kernels_.propagate(shape(), inputs_.modes, p, worker.line_.data());
  }
  std::fill_n(worker.intensity_.data(), worker.intensity_.size(), T(0));
  kernels_.to_panels(shape(), inputs_.modes, worker.waves_.data(), worker.intensity_.data(),
                     worker.line_.data());
}

template <typename T>
void Model<T>::undetect(Worker<T>& worker, const Window& window, double* positions) const {
  if (inputs_.detector == nullptr) {
    kernels_.from_spectrum(shape(), inputs_.modes, worker.detected_.data(),
                           worker.intensity_.data(), worker.waves_.data(), worker.line_.data());
    return;
  }
  kernels_.from_panels(shape(), inputs_.modes, worker.waves_.data(), worker.intensity_.data(),
                       worker.line_.data());
  if (window.shifted() || positions != nullptr) {
    PropagateBack<T> p{};
    p.waves = worker.waves_.data();
    p.factor = detector_.data();
    p.ramp = ramp(worker, window);
    p.conjugate = true;
    p.spectra = positions != nullptr ? worker.exit_.data() : nullptr;
    p.positions = positions;
    kernels_.propagate_back(shape(), inputs_.modes, p, worker.line_.data());
    return;
  }
  Propagate<T> p{};
  p.waves = worker.waves_.data();
  p.factor = detector_.data();
  p.conjugate = true;
  kernels_.propagate(shape(), inputs_.modes, p, worker.line_.data());
}

template <typename T>
Misfit Model<T>::compare(Worker<T>& worker, const Measured<T>& measured) const {
  const bool far = inputs_.detector == nullptr;
  const auto load = [&](Count type, const void* from, Numbers<T>& to, const void** at) {
    if (from == nullptr || (at != nullptr && *at == from)) return;
    if (to.size() == 0) to = Numbers<T>(worker.counts_.size());
    kernels_.load_image(shape(), far, type, from, to.data());
    if (at != nullptr) *at = from;
  };
  load(measured.type, measured.counts, worker.counts_, nullptr);
  load(Count::kUInt8, measured.mask, worker.bad_, &worker.mask_at_);
  constexpr Count kReal = sizeof(T) == 4 ? Count::kFloat : Count::kDouble;
  load(kReal, measured.background, worker.background_, &worker.background_at_);
  Compare<T> a{};
  a.likelihood = static_cast<int>(measured.likelihood);
  a.counts = worker.counts_.data();
  a.bad = measured.mask != nullptr ? worker.bad_.data() : nullptr;
  a.background = measured.background != nullptr ? worker.background_.data() : nullptr;
  a.scale = far ? root_ : T(1);
  a.weight = measured.weight;
  a.intensity = worker.intensity_.data();
  a.numbers = worker.intensity_.size();
  a.amplitude_error = measured.amplitude_error;
  const Misfit misfit = kernels_.compare(a);
  // A weight that is not finite makes 0 something else in rows that do not exist.
  const int64_t lanes = inputs_.height % shape().lanes;
  if (far && lanes != 0) {
    T* last = worker.intensity_.data() + (shape().groups() - 1) * inputs_.width * shape().lanes;
    for (int64_t slot = 0; slot < inputs_.width; ++slot, last += shape().lanes) {
      std::fill(last + lanes, last + shape().lanes, T(0));
    }
  }
  return misfit;
}

template <typename T>
void Model<T>::adjoint(Worker<T>& worker, const Window& window, const T* exit_gradient,
                       const Sums<T>& sums, int64_t position, Turns* turns) {
  const bool spectral = sums.positions != nullptr || (sums.probe != nullptr && window.shifted());
  const auto first_unit = [&](int64_t s) { return turns != nullptr ? turns->first_unit(s) : 0; };
  const auto row_unit = [&](int64_t s) {
    return turns != nullptr ? turns->first_unit(s) + turns->panels() : 0;
  };
  T* waves = worker.waves_.data();
  for (int64_t s = inputs_.slices - 1; s >= 0; --s) {
    have_run(worker, window, s);
    if (s + 1 < inputs_.slices) {
      Propagate<T> p{};
      p.waves = waves;
      p.factor = propagator(s);
      p.conjugate = true;
      Mine mine{turns, position, true};
      if (sums.propagator != nullptr) {
        if (worker.transmitted_.size() == 0) {
          worker.transmitted_ = Numbers<T>(inputs_.modes * shape().spectrum_wave(), Fill::kNothing);
        }
        if (worker.again_.size() == 0) worker.again_ = Numbers<T>(worker.waves_.size());
        const std::vector<T*> nothing(worker.psi_.size(), nullptr);
        forward(worker, window, worker.psi_[static_cast<size_t>(s)], s, s + 1, worker.again_.data(),
                To::kSpectrum, nullptr, nothing);
        kernels_.to_spectrum(shape(), inputs_.modes, worker.again_.data(), T(1),
                             worker.transmitted_.data(), nullptr, worker.line_.data());
        p.transmitted = worker.transmitted_.data();
        p.gradient = propagator_sum_.data() + s * shape().spectrum_wave();
        p.turn = mine.turn(true);
        p.unit = row_unit(s + 1);
      }
      kernels_.propagate(shape(), inputs_.modes, p, worker.line_.data());
    }
    TransmitAdjoint<T> a{};
    a.from = s + 1 == inputs_.slices && exit_gradient != nullptr ? From::kMemory : From::kSpectrum;
    a.to = s > 0 || spectral ? To::kSpectrum : To::kMemory;
    a.waves = waves;
    a.psi = worker.psi_[static_cast<size_t>(s)];
    a.memory = a.from == From::kMemory ? exit_gradient : nullptr;
    a.object = slice(s);
    if (sums.object != nullptr) {
      a.object_gradient =
          sums.object + (inputs_.real_object ? 1 : 2) * s * inputs_.rows * inputs_.columns;
    }
    if (sums.illumination != nullptr) {
      a.illumination = sums.illumination + s * inputs_.rows * inputs_.columns;
    }
    a.real_object = inputs_.real_object;
    const bool to_probe = s == 0 && sums.probe != nullptr && !window.shifted();
    if (to_probe) a.probe_gradient = probe_sum_.data();
    a.place = place(window);
    a.edge = worker.edge_.data();
    Mine mine{turns, position, to_probe};
    a.turn = mine.turn(sums.object != nullptr || to_probe);
    a.first_unit = first_unit(s);
    kernels_.transmit_adjoint(shape(), inputs_.modes, a);
  }
  if (spectral) {
    IlluminateAdjoint<T> a{};
    a.waves = waves;
    a.spectrum = spectrum_.data();
    a.ramp = ramp(worker, window);
    const bool to_probe = sums.probe != nullptr && window.shifted();
    if (to_probe) a.sum = spectrum_sum_.data();
    if (sums.positions != nullptr) a.positions = sums.positions + 2 * position;
    Mine mine{turns, position, true};
    a.turn = mine.turn(to_probe);
    a.unit = row_unit(0);
    kernels_.illuminate_adjoint(shape(), inputs_.modes, a, worker.line_.data());
  }
  if (turns != nullptr) turns->finished(position);
}

template <typename T>
void Model<T>::exit_waves(Worker<T>& worker, const Window& window, T* exit) const {
  const std::vector<T*> nothing(worker.psi_.size(), nullptr);
  forward(worker, window, nullptr, 0, inputs_.slices, worker.waves_.data(), To::kMemory, exit,
          nothing);
}

template <typename T>
void Model<T>::diffraction(Worker<T>& worker, const Window& window, T* intensity) const {
  const std::vector<T*> nothing(worker.psi_.size(), nullptr);
  forward(worker, window, nullptr, 0, inputs_.slices, worker.waves_.data(), To::kSpectrum, nullptr,
          nothing);
  detect(worker, window, /*keep=*/false);
  const bool far = inputs_.detector == nullptr;
  kernels_.store_image(shape(), far, worker.intensity_.data(), T(1), intensity);
}

template <typename T>
Misfit Model<T>::loss(Worker<T>& worker, const Window& window, const Measured<T>& measured) const {
  const std::vector<T*> nothing(worker.psi_.size(), nullptr);
  forward(worker, window, nullptr, 0, inputs_.slices, worker.waves_.data(), To::kSpectrum, nullptr,
          nothing);
  detect(worker, window, /*keep=*/false);
  return compare(worker, measured);
}

template <typename T>
Misfit Model<T>::loss(Worker<T>& worker, const Window& window, const Measured<T>& measured,
                      const Sums<T>& sums, int64_t position, Turns* turns) {
  forward_kept(worker, window, To::kSpectrum);
  double* const of_position = sums.positions != nullptr ? sums.positions + 2 * position : nullptr;
  detect(worker, window, /*keep=*/of_position != nullptr);
  const Misfit misfit = compare(worker, measured);
  undetect(worker, window, of_position);
  adjoint(worker, window, nullptr, sums, position, turns);
  return misfit;
}

template <typename T>
void Model<T>::diffraction_adjoint(Worker<T>& worker, const Window& window, const T* slope,
                                   const Sums<T>& sums, int64_t position, Turns* turns) {
  forward_kept(worker, window, To::kSpectrum);
  double* const of_position = sums.positions != nullptr ? sums.positions + 2 * position : nullptr;
  detect(worker, window, /*keep=*/of_position != nullptr);
  const bool far = inputs_.detector == nullptr;
  constexpr Count kReal = sizeof(T) == 4 ? Count::kFloat : Count::kDouble;
  kernels_.load_image(shape(), far, kReal, slope, worker.intensity_.data());
  const T factor = far ? T(2) * root_ : T(2);
  for (int64_t i = 0; i < worker.intensity_.size(); ++i) worker.intensity_.data()[i] *= factor;
  undetect(worker, window, of_position);
  adjoint(worker, window, nullptr, sums, position, turns);
}

template <typename T>
void Model<T>::exit_waves_adjoint(Worker<T>& worker, const Window& window, const T* gradient,
                                  const Sums<T>& sums, int64_t position, Turns* turns) {
  forward_kept(worker, window, To::kMemory);
  adjoint(worker, window, gradient, sums, position, turns);
}

template class Worker<float>;
template class Worker<double>;
template class Model<float>;
template class Model<double>;

}  // namespace ptyle::cpu
