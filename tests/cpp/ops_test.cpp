// The operators against a slow reference (direct sums, no fast transform), derivatives against
// differences, linear operators by their adjoints, bits against the number of threads, memory
// against the number of positions.
#include <atomic>
#include <cmath>
#include <complex>
#include <functional>
#include <numbers>
#include <vector>

#include <gtest/gtest.h>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>
#include <torch/csrc/autograd/autograd.h>

#include <ptyle/ops.h>

namespace {

using at::Tensor;
using Wave = std::vector<std::complex<double>>;  // [h, w]

constexpr double kPi = std::numbers::pi;

struct Case {
  int64_t slices = 2, rows = 12, columns = 11, modes = 2, h = 5, w = 7, n = 4;
  bool real_object = false, whole_pixels = false, detector = false, per_slice = false;
};

struct Inputs {
  Tensor object, probe, positions, patterns, mask, weights, background;
  std::optional<Tensor> propagator, detector;
};

Inputs make(const Case& c, at::ScalarType type = at::kComplexDouble) {
  at::manual_seed(7);
  const auto complex = at::TensorOptions().dtype(type);
  const auto real = at::TensorOptions().dtype(at::toRealValueType(type));
  const auto phase = [&](at::IntArrayRef shape) {
    return at::polar(at::ones(shape, real), at::randn(shape, real));
  };
  Inputs in;
  in.object = c.real_object ? at::randn({c.slices, c.rows, c.columns}, real)
                            : 1 + 0.3 * at::randn({c.slices, c.rows, c.columns}, complex);
  in.probe = at::randn({c.modes, c.h, c.w}, complex);
  // From three pixels outside the object on one side to three on the other.
  in.positions =
      at::rand({c.n, 2}, at::kDouble) *
          at::tensor({double(c.rows - c.h + 6), double(c.columns - c.w + 6)}, at::kDouble) -
      3;
  if (c.whole_pixels) in.positions = in.positions.floor();
  if (c.slices > 1) {
    in.propagator = c.per_slice ? phase({c.slices - 1, c.h, c.w}) : phase({c.h, c.w});
  }
  if (c.detector) in.detector = phase({c.h, c.w});
  in.patterns = at::randint(0, 9, {c.n, c.h, c.w}, at::kShort);
  in.mask = at::rand({c.n, c.h, c.w}) < 0.2;
  in.weights = at::rand({c.n}, real) + 0.5;
  in.background = at::rand({c.h, c.w}, real);
  return in;
}

// Unitary transform by its definition.
Wave transform(const Wave& in, int64_t h, int64_t w, int sign) {
  Wave out(in.size());
  for (int64_t u = 0; u < h; ++u) {
    for (int64_t v = 0; v < w; ++v) {
      std::complex<double> sum = 0;
      for (int64_t y = 0; y < h; ++y) {
        for (int64_t x = 0; x < w; ++x) {
          const double turn = double(u * y) / double(h) + double(v * x) / double(w);
          sum += in[size_t(y * w + x)] * std::polar(1.0, sign * 2 * kPi * turn);
        }
      }
      out[size_t(u * w + v)] = sum / std::sqrt(double(h * w));
    }
  }
  return out;
}

Wave as_wave(const Tensor& tensor) {
  const Tensor plain = tensor.to(at::kComplexDouble).contiguous();
  const auto* p = reinterpret_cast<const std::complex<double>*>(plain.const_data_ptr());
  return {p, p + plain.numel()};
}

std::complex<double> ramp(int64_t k, int64_t n, double fraction) {
  if (2 * k == n) return std::cos(kPi * fraction);
  const int64_t frequency = 2 * k < n ? k : k - n;
  return std::polar(1.0, -2 * kPi * double(frequency) * fraction / double(n));
}

void times(Wave& wave, const Wave& factor) {
  for (size_t i = 0; i < wave.size(); ++i) wave[i] *= factor[i];
}

// What moves the probe's spectrum by the fractions of position n.
Wave slow_ramp(const Inputs& in, const Case& c, int64_t n) {
  const double row = in.positions[n][0].item<double>(), column = in.positions[n][1].item<double>();
  Wave all;
  for (int64_t u = 0; u < c.h; ++u) {
    for (int64_t v = 0; v < c.w; ++v) {
      all.push_back(ramp(u, c.h, row - std::floor(row)) *
                    ramp(v, c.w, column - std::floor(column)));
    }
  }
  return all;
}

// Exit wave of one position and mode, straight from the formulae.
Wave slow_exit_wave(const Inputs& in, const Case& c, int64_t n, int64_t m) {
  const double row = in.positions[n][0].item<double>(), column = in.positions[n][1].item<double>();
  const double top = std::floor(row), left = std::floor(column);
  Wave wave = transform(as_wave(in.probe[m]), c.h, c.w, -1);
  times(wave, slow_ramp(in, c, n));
  wave = transform(wave, c.h, c.w, +1);
  for (int64_t s = 0; s < c.slices; ++s) {
    for (int64_t y = 0; y < c.h; ++y) {
      for (int64_t x = 0; x < c.w; ++x) {
        const auto r = int64_t(top) + y, q = int64_t(left) + x;
        if (r < 0 || r >= c.rows || q < 0 || q >= c.columns) continue;  // vacuum
        const Tensor voxel = in.object[s][r][q];
        wave[size_t(y * c.w + x)] *= c.real_object
                                         ? std::polar(1.0, voxel.item<double>())
                                         : std::complex<double>(voxel.item<c10::complex<double>>());
      }
    }
    if (s + 1 < c.slices) {
      wave = transform(wave, c.h, c.w, -1);
      times(wave, as_wave(c.per_slice ? (*in.propagator)[s] : *in.propagator));
      wave = transform(wave, c.h, c.w, +1);
    }
  }
  return wave;
}

double largest_difference(const Wave& a, const Wave& b) {
  double most = 0;
  for (size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(a[i] - b[i]));
  return most;
}

std::vector<Case> cases() {
  return {{},
          {.slices = 1},
          {.slices = 0},
          {.slices = 3, .per_slice = true},
          {.h = 4, .w = 6, .real_object = true},
          {.h = 7, .w = 1},
          {.rows = 3, .columns = 2},  // the window is larger than the object
          {.whole_pixels = true},
          {.modes = 1, .n = 1, .detector = true},
          {.slices = 1, .h = 4, .w = 6, .detector = true},
          {.rows = 0, .columns = 5}};
}

TEST(ExitWaves, AreTheDirectSums) {
  for (const Case& c : cases()) {
    const Inputs in = make(c);
    const Tensor waves = ptyle::exit_waves(in.object, in.probe, in.positions, in.propagator);
    for (int64_t n = 0; n < c.n; ++n) {
      for (int64_t m = 0; m < c.modes; ++m) {
        EXPECT_LT(largest_difference(as_wave(waves[n][m]), slow_exit_wave(in, c, n, m)), 1e-12)
            << "slices " << c.slices << ", window " << c.h << " x " << c.w;
      }
    }
  }
}

TEST(Diffraction, IsTheSumOverModesOfTheTransformedExitWaves) {
  for (const Case& c : cases()) {
    const Inputs in = make(c);
    ptyle::ModelOptions options;
    options.detector = in.detector;
    const Tensor intensity =
        ptyle::diffraction(in.object, in.probe, in.positions, in.propagator, options);
    for (int64_t n = 0; n < c.n; ++n) {
      std::vector<double> sum(size_t(c.h * c.w));
      for (int64_t m = 0; m < c.modes; ++m) {
        Wave wave = transform(slow_exit_wave(in, c, n, m), c.h, c.w, -1);
        if (in.detector) {
          times(wave, as_wave(*in.detector));
          Wave back = slow_ramp(in, c, n);  // the detector stands still relative to the beam
          for (std::complex<double>& z : back) z = std::conj(z);
          times(wave, back);
          wave = transform(wave, c.h, c.w, +1);
        }
        for (size_t i = 0; i < sum.size(); ++i) sum[i] += std::norm(wave[i]);
      }
      const Tensor got = intensity[n].contiguous();
      for (size_t i = 0; i < sum.size(); ++i) {
        EXPECT_NEAR(got.const_data_ptr<double>()[i], sum[i], 1e-11 * (1 + sum[i]));
      }
    }
  }
}

TEST(Diffraction, AShiftByAWholePixelIsTheObjectRolledBack) {
  const Case c{.slices = 2, .rows = 14, .columns = 13, .n = 3};
  Inputs in = make(c);
  in.positions = at::rand({3, 2}, at::kDouble) * 4 + 1;  // windows inside, sub-pixel
  const Tensor there = ptyle::diffraction(in.object, in.probe, in.positions, in.propagator);
  const Tensor moved =
      ptyle::diffraction(in.object.roll({1, -1}, {1, 2}), in.probe,
                         in.positions + at::tensor({1.0, -1.0}, at::kDouble), in.propagator);
  // The fraction of position + 1 may round differently.
  EXPECT_TRUE(at::allclose(there, moved, 1e-12, 1e-12));
}

TEST(Diffraction, AnOriginMovesTheFrameOfThePositions) {
  const Case c{.slices = 2, .n = 3, .whole_pixels = true};
  const Inputs in = make(c);
  const Tensor there = ptyle::diffraction(in.object, in.probe, in.positions, in.propagator);
  ptyle::ModelOptions origin;
  origin.origin = {1, -2};
  const Tensor moved =
      ptyle::diffraction(in.object, in.probe, in.positions + at::tensor({1.0, -2.0}, at::kDouble),
                         in.propagator, origin);
  EXPECT_TRUE(at::equal(there, moved));
}

TEST(Diffraction, NoFractionIsBitwiseNoShift) {
  const Case c{.n = 2, .whole_pixels = true};
  Inputs in = make(c);
  const Tensor alone = ptyle::diffraction(in.object, in.probe, in.positions, in.propagator);
  in.positions[1][0] += 0.5;  // its neighbour in the chunk is shifted
  const Tensor beside = ptyle::diffraction(in.object, in.probe, in.positions, in.propagator);
  EXPECT_TRUE(at::equal(alone[0], beside[0]));
  EXPECT_FALSE(at::equal(alone[1], beside[1]));
}

// ---- gradients ----

ptyle::LossOptions loss_options(const Inputs& in, const std::string& likelihood) {
  ptyle::LossOptions options;
  options.likelihood = likelihood;
  options.mask = in.mask;
  options.weights = in.weights;
  options.background = in.background;
  options.detector = in.detector;
  return options;
}

// Re <a, b>
double real_inner(const Tensor& a, const Tensor& b) {
  return at::real(a.is_complex() ? a.conj() * b : a * b).sum().item<double>();
}

Tensor direction_like(const Tensor& x) { return at::randn(x.sizes(), x.options()); }

TEST(DiffractionLoss, GradientsAreDirectionalDerivatives) {
  for (const std::string likelihood : {"amplitude", "poisson", "gaussian"}) {
    for (const Case& c : cases()) {
      if (c.whole_pixels) continue;  // a step across a whole pixel is not smooth
      Inputs in = make(c);
      std::vector<Tensor*> unknowns{&in.object, &in.probe, &in.positions};
      if (in.propagator) unknowns.push_back(&*in.propagator);
      for (Tensor* x : unknowns) x->requires_grad_(true);
      const ptyle::LossOptions options = loss_options(in, likelihood);
      const auto loss = [&] {
        return ptyle::diffraction_loss(in.object, in.probe, in.positions, in.propagator,
                                       in.patterns, options)
            .loss;
      };
      loss().backward();
      const at::NoGradGuard no_grad;
      for (Tensor* x : unknowns) {
        if (x->numel() == 0) continue;
        const Tensor direction = direction_like(*x);
        const Tensor start = x->detach().clone();
        const double step = 1e-6;
        const auto at_step = [&](double t) {
          x->copy_(start + t * direction);
          return loss().item<double>();
        };
        const double slope = (at_step(step) - at_step(-step)) / (2 * step);
        x->copy_(start);
        EXPECT_NEAR(real_inner(x->grad(), direction), slope, 2e-7 * (1 + std::abs(slope)))
            << likelihood << ", slices " << c.slices << ", unknown " << (x - &in.object);
      }
    }
  }
}

TEST(DiffractionLoss, AccumulatingAddsWhatBackwardGives) {
  const Case c{.slices = 3};
  Inputs in = make(c);
  const ptyle::LossOptions options = loss_options(in, "poisson");
  for (Tensor* x : {&in.object, &in.probe, &in.positions}) x->requires_grad_(true);
  const ptyle::Loss loss = ptyle::diffraction_loss(in.object, in.probe, in.positions, in.propagator,
                                                   in.patterns, options);
  loss.loss.backward();
  const at::NoGradGuard no_grad;
  ptyle::GradientBuffers buffers;
  buffers.object = at::ones_like(in.object);
  buffers.probe = at::ones_like(in.probe);
  buffers.positions = at::ones_like(in.positions);
  buffers.illumination = at::ones_like(in.object, at::kDouble);
  buffers.amplitude_errors = at::full({c.n}, 3.0, at::kDouble);
  Tensor losses = at::full({c.n}, 2.0, at::kDouble);
  ptyle::diffraction_loss_accumulate_(in.object, in.probe, in.positions, in.propagator, in.patterns,
                                      buffers, losses, options);
  EXPECT_TRUE(at::allclose(*buffers.object, in.object.grad() + 1, 1e-13, 1e-13));
  EXPECT_TRUE(at::allclose(*buffers.probe, in.probe.grad() + 1, 1e-13, 1e-13));
  EXPECT_TRUE(at::allclose(*buffers.positions, in.positions.grad() + 1, 1e-13, 1e-13));
  EXPECT_TRUE(at::allclose(losses, loss.losses + 2, 1e-13, 1e-13));
  const Tensor errors = ptyle::diffraction_loss(in.object, in.probe, in.positions, in.propagator,
                                                in.patterns, loss_options(in, "amplitude"))
                            .losses;
  EXPECT_TRUE(at::allclose(*buffers.amplitude_errors, errors + 3, 1e-13, 1e-13));
}

TEST(DiffractionLoss, TheIlluminationIsWhatFallsOnEverySlice) {
  for (const Case& c : cases()) {
    const Inputs in = make(c);
    ptyle::GradientBuffers buffers;
    buffers.object = at::zeros_like(in.object);
    buffers.illumination = at::zeros_like(in.object, at::kDouble);
    ptyle::diffraction_loss_accumulate_(in.object, in.probe, in.positions, in.propagator,
                                        in.patterns, buffers, at::zeros({c.n}, at::kDouble),
                                        loss_options(in, "gaussian"));
    // The exit wave of the slices before, propagated; its intensity added at whole pixels.
    const Tensor whole = in.positions.floor();
    for (int64_t s = 0; s < c.slices; ++s) {
      const auto before = [&](const Tensor& all, int64_t count) { return all.slice(0, 0, count); };
      std::optional<Tensor> between;
      if (s > 1) between = c.per_slice ? before(*in.propagator, s - 1) : *in.propagator;
      Tensor wave = ptyle::exit_waves(before(in.object, s), in.probe, in.positions, between);
      if (s > 0) {
        const Tensor factor = c.per_slice ? (*in.propagator)[s - 1] : *in.propagator;
        wave = at::fft_ifft2(factor * at::fft_fft2(wave));
      }
      const Tensor expected = ptyle::add_patches(wave.abs().square().sum(1).unsqueeze(1), whole,
                                                 {c.rows, c.columns})[0];
      EXPECT_TRUE(at::allclose((*buffers.illumination)[s], expected, 1e-12, 1e-12))
          << "slice " << s << " of " << c.slices << ", window " << c.h << " x " << c.w;
    }
  }
}

TEST(DiffractionLoss, IsFiniteWithoutLightAndWithoutCounts) {
  const Case c{.slices = 1};
  Inputs in = make(c);
  for (const std::string likelihood : {"amplitude", "poisson", "gaussian"}) {
    for (const bool light : {false, true}) {
      for (const bool counts : {false, true}) {
        const Tensor probe = (light ? in.probe : at::zeros_like(in.probe)).requires_grad_(true);
        const Tensor patterns = counts ? in.patterns : at::zeros_like(in.patterns);
        ptyle::LossOptions options;
        options.likelihood = likelihood;
        const Tensor loss =
            ptyle::diffraction_loss(in.object, probe, in.positions, {}, patterns, options).loss;
        const Tensor gradient = torch::autograd::grad({loss}, {probe})[0];
        EXPECT_TRUE(loss.isfinite().item<bool>());
        EXPECT_TRUE(at::view_as_real(gradient).isfinite().all().item<bool>());
        if (!light) {
          EXPECT_EQ(gradient.abs().max().item<double>(), 0.0);
        }
        if (!light && !counts) {
          EXPECT_EQ(loss.item<double>(), 0.0);
        }
      }
    }
  }
}

TEST(ExitWaves, AreLinearInProbeAndInOneSliceWithTheirAdjoints) {
  const Case c{.slices = 1, .modes = 3, .h = 5, .w = 8, .n = 6};
  Inputs in = make(c);
  // <A x, y> = <x, A* y>: the denominator is |A x| |y|, which rounding errors scale with.
  for (Tensor* x : {&in.probe, &in.object}) {
    x->requires_grad_(true);
    const Tensor image = ptyle::exit_waves(in.object, in.probe, in.positions);
    const Tensor y = direction_like(image);
    const Tensor adjoint = torch::autograd::grad({image}, {*x}, {y})[0];
    // Vacuum outside makes the map affine in the object: subtract the image of zero.
    const at::NoGradGuard no_grad;
    const Tensor object = x == &in.object ? at::zeros_like(in.object) : in.object;
    const Tensor probe = x == &in.probe ? at::zeros_like(in.probe) : in.probe;
    const Tensor linear = image - ptyle::exit_waves(object, probe, in.positions);
    const double scale = linear.norm().item<double>() * y.norm().item<double>();
    EXPECT_NEAR(real_inner(linear, y) / scale, real_inner(*x, adjoint) / scale, 1e-14);
    x->requires_grad_(false);
  }
}

// ---- bits, memory, edges ----

TEST(DiffractionLoss, HasTheSameBitsForAnyNumberOfThreads) {
  for (const at::ScalarType type : {at::kComplexFloat, at::kComplexDouble}) {
    for (const Case& c :
         {Case{.slices = 2, .rows = 90, .columns = 80, .modes = 2, .h = 32, .w = 27, .n = 101},
          Case{.slices = 2, .rows = 50, .columns = 40, .modes = 2, .h = 14, .w = 11, .n = 101},
          Case{.slices = 1, .rows = 3, .columns = 5000, .modes = 1, .h = 1, .w = 4096, .n = 3}}) {
      const Inputs in = make(c, type);
      std::vector<std::vector<Tensor>> results;
      const int threads = at::get_num_threads();
      for (const int count : {1, 2, 3, 7}) {
        at::set_num_threads(count);
        ptyle::GradientBuffers buffers;
        buffers.object = at::zeros_like(in.object);
        buffers.probe = at::zeros_like(in.probe);
        buffers.positions = at::zeros_like(in.positions);
        if (in.propagator) buffers.propagator = at::zeros_like(*in.propagator);
        buffers.illumination = at::zeros_like(in.object, at::toRealValueType(type));
        buffers.amplitude_errors = at::zeros({c.n}, at::kDouble);
        Tensor losses = at::zeros({c.n}, at::kDouble);
        ptyle::diffraction_loss_accumulate_(in.object, in.probe, in.positions, in.propagator,
                                            in.patterns, buffers, losses,
                                            loss_options(in, "poisson"));
        results.push_back({*buffers.object, *buffers.illumination, *buffers.amplitude_errors,
                           *buffers.probe, *buffers.positions, buffers.propagator.value_or(losses),
                           losses,
                           ptyle::diffraction(in.object, in.probe, in.positions, in.propagator),
                           ptyle::exit_waves(in.object, in.probe, in.positions, in.propagator),
                           ptyle::illumination(in.probe, in.positions, {c.rows, c.columns})});
      }
      at::set_num_threads(threads);
      for (size_t k = 1; k < results.size(); ++k) {
        for (size_t i = 0; i < results[k].size(); ++i) {
          EXPECT_TRUE(at::equal(results[0][i], results[k][i])) << "result " << i << ", run " << k;
        }
      }
    }
  }
}

// Counts what is allocated, to see the most that is alive at once.
class CountingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    alive_ += int64_t(bytes);
    most_ = std::max(most_.load(), alive_.load());
    void* memory = c10::alloc_cpu(bytes);
    auto* block = new Block{this, memory, bytes};
    return {memory, block, &release, at::kCPU};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
  void start() { most_ = alive_.load(); }
  int64_t most_since_start() const { return most_; }
  int64_t alive() const { return alive_; }

 private:
  struct Block {
    CountingAllocator* owner;
    void* memory;
    size_t bytes;
  };
  static void release(void* context) {
    auto* block = static_cast<Block*>(context);
    block->owner->alive_ -= int64_t(block->bytes);
    c10::free_cpu(block->memory);
    delete block;
  }
  std::atomic<int64_t> alive_{0}, most_{0};
};

TEST(DiffractionLoss, PeakMemoryDoesNotGrowWithThePositions) {
  static CountingAllocator allocator;  // outlives every tensor made with it
  c10::Allocator* before = c10::GetCPUAllocator();
  c10::SetCPUAllocator(&allocator, 100);
  const auto peak = [&](int64_t n) {
    const Case c{.slices = 3, .rows = 60, .columns = 60, .modes = 1, .h = 32, .w = 32, .n = n};
    const Inputs in = make(c, at::kComplexFloat);
    ptyle::GradientBuffers buffers;
    buffers.object = at::zeros_like(in.object);
    buffers.probe = at::zeros_like(in.probe);
    Tensor losses = at::zeros({n}, at::kDouble);
    const int64_t alive = allocator.alive();
    allocator.start();
    ptyle::diffraction_loss_accumulate_(in.object, in.probe, in.positions, in.propagator,
                                        in.patterns, buffers, losses);
    return allocator.most_since_start() - alive;
  };
  const int threads = at::get_num_threads();
  at::set_num_threads(1);  // with more, how their peaks coincide is a matter of timing
  const int64_t few = peak(500), many = peak(4000);
  at::set_num_threads(threads);
  c10::SetCPUAllocator(before, 100);
  EXPECT_GT(few, 0);
  EXPECT_LE(many, few);  // scratch is kept from call to call
}

TEST(Operators, TakeNothingAndGiveNothing) {
  for (const Case& c : {Case{.n = 0}, Case{.modes = 0}, Case{.slices = 0, .n = 0}}) {
    Inputs in = make(c);
    in.object.requires_grad_(true);
    in.probe.requires_grad_(true);
    EXPECT_EQ(ptyle::exit_waves(in.object, in.probe, in.positions, in.propagator).numel(), 0);
    EXPECT_EQ(
        ptyle::diffraction(in.object, in.probe, in.positions, in.propagator).sum().item<double>(),
        0.0);
    const ptyle::Loss loss =
        ptyle::diffraction_loss(in.object, in.probe, in.positions, in.propagator, in.patterns);
    loss.loss.backward();
    EXPECT_EQ(loss.losses.size(0), c.n);
    EXPECT_EQ(in.object.grad().abs().sum().item<double>(), 0.0);
    ptyle::GradientBuffers buffers;
    buffers.object = at::zeros_like(in.object);
    buffers.illumination = at::ones_like(in.object, at::kDouble);
    buffers.amplitude_errors = at::zeros({c.n}, at::kDouble);
    in.object.requires_grad_(false);
    in.probe.requires_grad_(false);
    Tensor losses = at::zeros({c.n}, at::kDouble);
    ptyle::diffraction_loss_accumulate_(in.object, in.probe, in.positions, in.propagator,
                                        in.patterns, buffers, losses);
    EXPECT_TRUE(at::equal(*buffers.illumination, at::ones_like(*buffers.illumination)));
    EXPECT_TRUE(at::equal(*buffers.amplitude_errors, losses));
  }
}

TEST(Illumination, IsTheAdjointOfReadingWindows) {
  const Case c{.rows = 17, .columns = 9, .modes = 3, .n = 8};
  const Inputs in = make(c);
  const Tensor image = at::randn({1, c.rows, c.columns}, at::kDouble);
  const Tensor lit = ptyle::illumination(in.probe, in.positions, {c.rows, c.columns});
  // <illumination, image> = sum over positions of <|probe|^2, image in the window>, 0 outside.
  double sum = 0;
  const Tensor intensity = in.probe.abs().square().sum(0);
  for (int64_t n = 0; n < c.n; ++n) {
    const auto row = int64_t(std::floor(in.positions[n][0].item<double>()));
    const auto column = int64_t(std::floor(in.positions[n][1].item<double>()));
    for (int64_t y = 0; y < c.h; ++y) {
      for (int64_t x = 0; x < c.w; ++x) {
        if (row + y < 0 || row + y >= c.rows || column + x < 0 || column + x >= c.columns) continue;
        sum += intensity[y][x].item<double>() * image[0][row + y][column + x].item<double>();
      }
    }
  }
  EXPECT_NEAR((lit * image[0]).sum().item<double>(), sum, 1e-11 * lit.norm().item<double>());
}

// ---- errors ----

void expect_error(const std::function<void()>& call, const std::string& words) {
  try {
    call();
    FAIL() << "no error; expected: " << words;
  } catch (const c10::Error& error) {
    EXPECT_NE(std::string(error.what_without_backtrace()).find(words), std::string::npos)
        << error.what_without_backtrace();
  }
}

TEST(Errors, NameTheOperatorTheArgumentTheRuleAndTheValue) {
  const Case c{};
  const Inputs in = make(c);
  const auto waves = [&](const Tensor& object, const Tensor& probe, const Tensor& positions,
                         const std::optional<Tensor>& propagator) {
    return [=] { ptyle::exit_waves(object, probe, positions, propagator); };
  };
  expect_error(waves(in.object[0], in.probe, in.positions, in.propagator),
               "ptyle::exit_waves: object must have shape [slices, rows, columns], got [12, 11]");
  expect_error(waves(in.object.to(at::kComplexFloat), in.probe, in.positions, in.propagator),
               "object must be ComplexDouble or Double");
  expect_error(waves(in.object, at::real(in.probe), in.positions, in.propagator),
               "probe must be complex64 or complex128, got Double");
  expect_error(waves(in.object, in.probe.slice(1, 0, 0), in.positions, in.propagator),
               "probe must have a window of at least one pixel");
  expect_error(waves(in.object, in.probe, in.positions.to(at::kFloat), in.propagator),
               "positions must be Double, got Float");
  expect_error(waves(in.object, in.probe, at::zeros({3, 3}, at::kDouble), in.propagator),
               "positions must have shape [n, 2] (row, column), got [3, 3]");
  expect_error(waves(in.object, in.probe, at::full({1, 2}, NAN, at::kDouble), in.propagator),
               "ptyle::exit_waves: positions must be finite");
  expect_error(waves(in.object, in.probe, in.positions, {}),
               "propagator must be given for more than one slice, got None with 2 slices");
  expect_error(waves(in.object, in.probe, in.positions, at::ones({3, 5, 7}, at::kComplexDouble)),
               "propagator must have one entry fewer than the 2 slices, got shape [3, 5, 7]");
  expect_error(waves(in.object, in.probe, in.positions, at::ones({4, 4}, at::kComplexDouble)),
               "propagator must have shape");
  const auto loss = [&](const Tensor& patterns, const ptyle::LossOptions& options) {
    return [=, &in] {
      ptyle::diffraction_loss(in.object, in.probe, in.positions, in.propagator, patterns, options);
    };
  };
  expect_error(loss(in.patterns.to(at::kComplexFloat), {}),
               "patterns must be counts, integers or real numbers of a type such as uint16 or "
               "float32, got ComplexFloat");
  expect_error(loss(in.patterns.slice(0, 0, 2), {}),
               "patterns must have as many entries as there are positions, 4, got shape [2, 5, 7]");
  ptyle::LossOptions options;
  options.likelihood = "ampltude";
  expect_error(loss(in.patterns, options),
               "likelihood must be amplitude, poisson or gaussian, got \"ampltude\"");
  options = {};
  options.mask = at::zeros({5, 7});
  expect_error(loss(in.patterns, options), "mask must be bool or uint8");
  options = {};
  options.weights = at::ones({4}, at::kDouble).requires_grad_(true);
  expect_error(loss(in.patterns, options), "weights must not require a gradient");
  expect_error(
      [&] {
        Tensor losses = at::zeros({4}, at::kFloat);
        ptyle::diffraction_loss_accumulate_(in.object, in.probe, in.positions, in.propagator,
                                            in.patterns, {}, losses);
      },
      "losses must be Double, got Float");
  const auto accumulate = [&](const ptyle::GradientBuffers& buffers) {
    return [=, &in] {
      ptyle::diffraction_loss_accumulate_(in.object, in.probe, in.positions, in.propagator,
                                          in.patterns, buffers, at::zeros({4}, at::kDouble));
    };
  };
  ptyle::GradientBuffers buffers;
  buffers.illumination = at::zeros({2, 12, 11}, at::kDouble);
  expect_error(accumulate(buffers), "illumination must be None where grad_object is None");
  buffers.object = at::zeros_like(in.object);
  buffers.illumination = at::zeros({2, 12, 11}, at::kFloat);
  expect_error(accumulate(buffers), "illumination must be Double, got Float");
  buffers.illumination = at::zeros({12, 11}, at::kDouble);
  expect_error(accumulate(buffers), "illumination must have shape [2, 12, 11], got [12, 11]");
  buffers.illumination = at::zeros({2, 11, 12}, at::kDouble).transpose(1, 2);
  expect_error(accumulate(buffers), "illumination must be contiguous memory to add into");
  buffers.illumination = at::view_as_real(*buffers.object).flatten().slice(0, 0, 264);
  buffers.illumination = buffers.illumination->view({2, 12, 11});
  expect_error(accumulate(buffers), "must not share memory");
  buffers.illumination = std::nullopt;
  buffers.amplitude_errors = at::zeros({3}, at::kDouble);
  expect_error(accumulate(buffers), "amplitude_errors must have shape [4], got [3]");
}

}  // namespace
