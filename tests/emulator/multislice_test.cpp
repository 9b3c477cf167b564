// The CUDA kernels' bodies and their whole sequence, run by the emulator, against the CPU
// operators.
#include <cstdio>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

#include <torch/torch.h>

#include <ptyle/ops.h>

#include "tests/emulator/emulated_device.h"

namespace ptyle {
namespace {

using emulator::EmulatedDevice;
using emulator::Machine;
using emulator::Order;
using torch::Tensor;

struct Case {
  int64_t slices = 3, rows = 13, columns = 11, modes = 2, h = 6, w = 5, n = 5;
  std::string likelihood = "amplitude";
  bool real_object = false, per_slice = false, near_field = false, whole_pixels = false;
  bool with_mask = true, with_background = true, with_weights = true;
  bool deterministic = true;
  int64_t chunk = 2, keep_every = 1;
  Order order = Order::kAscending;
};

struct Inputs {
  Tensor object, probe, positions, propagator, patterns, detector, mask, background, weights;
};

template <typename T>
constexpr at::ScalarType kReal = sizeof(T) == 4 ? at::kFloat : at::kDouble;
template <typename T>
constexpr at::ScalarType kComplex = sizeof(T) == 4 ? at::kComplexFloat : at::kComplexDouble;

template <typename T>
Inputs make(const Case& c) {
  torch::manual_seed(5);
  const auto real = at::TensorOptions().dtype(at::kDouble);
  const auto complex = at::TensorOptions().dtype(at::kComplexDouble);
  Inputs in;
  in.object = c.real_object ? torch::randn({c.slices, c.rows, c.columns}, real).to(kReal<T>)
                            : torch::randn({c.slices, c.rows, c.columns}, complex).to(kComplex<T>);
  in.probe = torch::randn({c.modes, c.h, c.w}, complex).to(kComplex<T>);
  in.positions = torch::rand({c.n, 2}, real) * 12 - 3;
  if (c.whole_pixels) {
    in.positions = in.positions.floor();
  } else if (c.n > 0) {
    in.positions[0] = in.positions[0].floor();
  }
  const auto phases = [&](at::IntArrayRef shape) {
    return torch::polar(torch::ones(shape, real), 3 * torch::randn(shape, real)).to(kComplex<T>);
  };
  if (c.slices > 1) {
    in.propagator = c.per_slice ? phases({c.slices - 1, c.h, c.w}) : phases({c.h, c.w});
  }
  if (c.near_field) in.detector = phases({c.h, c.w});
  in.patterns = torch::poisson(torch::full({c.n, c.h, c.w}, 4.0)).to(at::kInt);
  if (c.with_mask) in.mask = torch::rand({c.n, c.h, c.w}).lt(0.2);
  if (c.with_background) in.background = torch::rand({c.h, c.w}, real).to(kReal<T>);
  if (c.with_weights) in.weights = torch::rand({c.n}, real).to(kReal<T>);
  return in;
}

std::optional<Tensor> maybe(const Tensor& tensor) {
  return tensor.defined() ? std::optional<Tensor>(tensor) : std::nullopt;
}

// exit waves, intensity, losses, amplitude errors, illumination, gradients of object, probe,
// positions, propagator (where it is)
template <typename T>
std::vector<Tensor> on_the_cpu(const Inputs& in, const Case& c) {
  std::vector<Tensor> wanted{in.object.clone().requires_grad_(), in.probe.clone().requires_grad_(),
                             in.positions.clone().requires_grad_()};
  if (in.propagator.defined()) wanted.push_back(in.propagator.clone().requires_grad_());
  const auto propagator = wanted.size() > 3 ? maybe(wanted[3]) : std::nullopt;
  LossOptions options;
  options.likelihood = c.likelihood;
  options.detector = maybe(in.detector);
  options.mask = maybe(in.mask);
  options.background = maybe(in.background);
  options.weights = maybe(in.weights);
  options.origin = {1, -1};
  const Loss loss =
      diffraction_loss(wanted[0], wanted[1], wanted[2], propagator, in.patterns, options);
  std::vector<Tensor> result{
      exit_waves(in.object, in.probe, in.positions, maybe(in.propagator), {1, -1}),
      diffraction(in.object, in.probe, in.positions, maybe(in.propagator),
                  {.origin = {1, -1}, .detector = maybe(in.detector)}),
      loss.losses};
  GradientBuffers buffers;
  buffers.object = torch::zeros_like(in.object);
  buffers.illumination = torch::zeros_like(in.object, kReal<T>);
  buffers.amplitude_errors = torch::zeros({c.n}, at::kDouble);
  diffraction_loss_accumulate_(in.object, in.probe, in.positions, maybe(in.propagator), in.patterns,
                               buffers, torch::zeros({c.n}, at::kDouble), options);
  result.push_back(buffers.amplitude_errors->to(kReal<T>));
  result.push_back(*buffers.illumination);
  for (const Tensor& gradient : torch::autograd::grad({loss.loss}, wanted)) {
    result.push_back(gradient);
  }
  return result;
}

template <typename T>
const Complex<T>* complex_of(const Tensor& tensor) {
  return tensor.defined() ? static_cast<const Complex<T>*>(tensor.const_data_ptr()) : nullptr;
}

template <typename T, typename Functor>
std::vector<Tensor> emulated_with(const Inputs& in, const Case& c, Functor likelihood) {
  Machine::get().order = c.order;
  EmulatedDevice<T> device(c.h, c.w);
  const Tensor transmission =
      c.real_object ? torch::polar(torch::ones_like(in.object), in.object) : in.object;
  const Tensor spectrum =
      at::_fft_c2c(in.probe, {1, 2}, 0, true).div(static_cast<double>(c.h * c.w)).contiguous();
  cuda::Model<T> model{c.slices,
                       c.rows,
                       c.columns,
                       c.modes,
                       c.h,
                       c.w,
                       complex_of<T>(transmission),
                       complex_of<T>(in.probe),
                       complex_of<T>(spectrum),
                       complex_of<T>(in.propagator),
                       c.per_slice,
                       complex_of<T>(in.detector),
                       c.real_object,
                       c.deterministic};
  const Tensor whole = in.positions.floor();
  const Tensor corners =
      (whole - torch::tensor({1.0, -1.0}, at::kDouble)).to(at::kLong).contiguous();
  const Tensor fractions = (in.positions - whole).contiguous();

  const auto real = at::TensorOptions().dtype(kReal<T>);
  const auto complex = at::TensorOptions().dtype(kComplex<T>);
  Tensor exit = torch::zeros({c.n, c.modes, c.h, c.w}, complex);
  Tensor intensity = torch::zeros({c.n, c.h, c.w}, real);
  Tensor losses = torch::zeros({c.n}, at::kDouble), errors = torch::zeros_like(losses);
  Tensor illumination = torch::zeros({c.slices, c.rows, c.columns}, real);
  Tensor g_object = torch::zeros_like(in.object), g_probe = torch::zeros_like(in.probe);
  Tensor g_spectrum = torch::zeros_like(in.probe);
  Tensor g_positions = torch::zeros_like(in.positions);
  Tensor g_propagator = torch::zeros({std::max<int64_t>(0, c.slices - 1), c.h, c.w}, complex);
  for (int64_t begin = 0; begin < c.n; begin += c.chunk) {
    const int64_t b = std::min(c.chunk, c.n - begin);
    const cuda::Chunk chunk{b,
                            c.modes,
                            c.h,
                            c.w,
                            c.rows,
                            c.columns,
                            corners.const_data_ptr<int64_t>() + 2 * begin,
                            fractions.const_data_ptr<double>() + 2 * begin};
    const bool any_shift = fractions.narrow(0, begin, b).ne(0).any().item<bool>();
    cuda::Sequence<T, EmulatedDevice<T>> sequence(device, model, chunk, any_shift, true,
                                                  c.keep_every);
    sequence.forward(false);
    const int64_t wave = c.modes * c.h * c.w, pixels = c.h * c.w;
    std::copy_n(sequence.waves(), b * wave,
                static_cast<Complex<T>*>(exit.data_ptr()) + begin * wave);
    sequence.detect(false);
    sequence.intensity(intensity.data_ptr<T>() + begin * pixels);

    sequence.forward(true);
    sequence.detect(true);
    cuda::Patterns<T, int32_t> patterns{};
    patterns.counts = in.patterns.const_data_ptr<int32_t>() + begin * pixels;
    if (in.mask.defined()) {
      patterns.mask = static_cast<const unsigned char*>(in.mask.const_data_ptr()) + begin * pixels;
      patterns.mask_each = true;
    }
    if (in.background.defined()) patterns.background = in.background.const_data_ptr<T>();
    if (in.weights.defined()) patterns.weights = in.weights.const_data_ptr<T>() + begin;
    sequence.compare(patterns, likelihood, true,
                     {losses.data_ptr<double>() + begin, errors.data_ptr<double>() + begin});
    sequence.undetect(g_positions.data_ptr<double>() + 2 * begin);
    cuda::Gradients<T> out;
    out.object = g_object.data_ptr();
    out.illumination = illumination.data_ptr<T>();
    out.probe = static_cast<Complex<T>*>(g_probe.data_ptr());
    out.spectrum = static_cast<Complex<T>*>(g_spectrum.data_ptr());
    if (in.propagator.defined()) {
      out.propagator = static_cast<Complex<T>*>(g_propagator.data_ptr());
    }
    out.positions = g_positions.data_ptr<double>() + 2 * begin;
    sequence.adjoint(out);
  }
  g_probe += at::_fft_c2c(g_spectrum, {1, 2}, 2, false);  // the inverse, scaled by 1 / (h w)
  std::vector<Tensor> result{
      exit,     intensity, losses.to(kReal<T>), errors.to(kReal<T>), illumination,
      g_object, g_probe,   g_positions};
  if (in.propagator.defined()) {
    result.push_back(c.per_slice ? g_propagator : g_propagator.sum(0));
  }
  return result;
}

template <typename T>
std::vector<Tensor> emulated(const Inputs& in, const Case& c) {
  return with_likelihood(likelihood_named(c.likelihood).value(),
                         [&](auto functor) { return emulated_with<T>(in, c, functor); });
}

const char* const kNames[] = {"exit waves",   "intensity", "losses", "amplitude errors",
                              "illumination", "object",    "probe",  "positions",
                              "propagator"};

template <typename T>
void expect_the_same(const Case& c) {
  const Inputs in = make<T>(c);
  const std::vector<Tensor> found = emulated<T>(in, c), expected = on_the_cpu<T>(in, c);
  ASSERT_EQ(found.size(), expected.size());
  const double tolerance = sizeof(T) == 4 ? 2e-5 : 1e-12;
  for (size_t k = 0; k < found.size(); ++k) {
    const double scale =
        expected[k].numel() > 0 ? expected[k].abs().max().template item<double>() : 0.0;
    const double error =
        found[k].numel() > 0 ? (found[k] - expected[k]).abs().max().template item<double>() : 0.0;
    EXPECT_LE(error, tolerance * std::max(scale, 1e-3)) << kNames[k];
  }
}

std::vector<Case> cases() {
  return {
      {},
      {.slices = 1},
      {.modes = 1, .h = 1, .w = 9},
      {.rows = 3, .columns = 4, .likelihood = "poisson"},
      {.likelihood = "gaussian", .real_object = true},
      {.per_slice = true, .near_field = true},
      {.slices = 1, .likelihood = "poisson", .near_field = true},
      {.whole_pixels = true, .with_mask = false, .with_background = false, .with_weights = false},
      {.n = 1, .chunk = 4},
      {.n = 0},
      {.slices = 2, .rows = 40, .columns = 43, .modes = 1, .h = 36, .w = 32, .n = 3},  // segments
      {.slices = 7, .keep_every = 3},
      {.slices = 6, .per_slice = true, .keep_every = 2},
      {.real_object = true, .deterministic = false},
      {.deterministic = false}};
}

TEST(EmulatedMultislice, IsTheCpuOperatorInDouble) {
  for (Case c : cases()) {
    for (const Order order : {Order::kAscending, Order::kDescending, Order::kShuffled}) {
      SCOPED_TRACE(&c - &c);
      c.order = order;
      expect_the_same<double>(c);
    }
  }
}

TEST(EmulatedMultislice, IsTheCpuOperatorInSingle) {
  for (const Case& c : cases()) expect_the_same<float>(c);
}

TEST(EmulatedMultislice, OrderedSumsHaveTheSameBitsInAnyOrderOfThreadsAndChunks) {
  Case c;
  c.n = 7;
  c.chunk = 7;
  const Inputs in = make<float>(c);
  const std::vector<Tensor> first = emulated<float>(in, c);
  for (const Order order : {Order::kDescending, Order::kShuffled}) {
    c.order = order;
    c.chunk = order == Order::kDescending ? 7 : 3;
    const std::vector<Tensor> again = emulated<float>(in, c);
    for (size_t k = 0; k < first.size(); ++k) EXPECT_TRUE(first[k].equal(again[k])) << kNames[k];
  }
}

// ---- what the emulator finds ----

__global__ void sum_without_a_barrier(const int* numbers, int* sum) {
  __shared__ int shared[64];
  shared[threadIdx.x] = numbers[threadIdx.x];  // and nobody waits
  if (threadIdx.x == 0) {
    *sum = 0;
    for (int k = 0; k < 64; ++k) *sum += shared[k];
  }
  __syncthreads();
  shared[threadIdx.x] = 0;
}

__global__ void barrier_for_some() {
  if (threadIdx.x < 3) __syncthreads();
}

__global__ void warp_sum(const int* numbers, int* sums) {
  int value = numbers[threadIdx.x];
  for (unsigned step = 16; step > 0; step /= 2) value += __shfl_down_sync(~0u, value, step);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
}

TEST(Emulator, SeesAMissingBarrier) {
  std::vector<int> numbers(64, 1);
  std::vector<int> sums;
  for (const Order order : {Order::kAscending, Order::kDescending}) {
    Machine::get().order = order;
    int sum = -1;
    Machine::get().launch(1, 64, [&] { sum_without_a_barrier(numbers.data(), &sum); });
    sums.push_back(sum);
  }
  EXPECT_NE(sums[0], sums[1]);
}

TEST(Emulator, SeesABarrierThatNotAllReach) {
  EXPECT_THROW(Machine::get().launch(1, 32, barrier_for_some), std::runtime_error);
}

TEST(Emulator, ShufflesWithinWarps) {
  std::vector<int> numbers(96), sums(3);
  for (int k = 0; k < 96; ++k) numbers[static_cast<size_t>(k)] = k;
  for (const Order order : {Order::kAscending, Order::kDescending, Order::kShuffled}) {
    Machine::get().order = order;
    Machine::get().launch(1, 96, [&] { warp_sum(numbers.data(), sums.data()); });
    EXPECT_EQ(sums, (std::vector<int>{496, 1520, 2544}));
  }
}

// ---- what kernels read and write ----

Case traffic_case(bool whole_pixels) {
  Case c;
  c.slices = 8;
  c.modes = 1;
  c.h = c.w = 16;
  c.rows = c.columns = 24;
  c.n = c.chunk = 6;
  c.whole_pixels = whole_pixels;
  c.with_mask = c.with_background = c.with_weights = false;
  return c;
}

// Counts loss and gradients of object and probe, of positions and the propagator where `all`, the
// illumination where `illuminated`, and prints every kernel's bytes of global memory per slice,
// mode and pixel; gives their sum, two passes a transform.
double count_traffic(const Case& c, bool all, bool illuminated = false) {
  const Inputs in = make<float>(c);
  Machine::get().count_anew();
  Machine::get().order = Order::kAscending;
  EmulatedDevice<float> device(c.h, c.w);
  const Tensor whole = in.positions.floor();
  const Tensor corners = whole.to(at::kLong).contiguous();
  const Tensor fractions = (in.positions - whole).contiguous();
  const Tensor spectrum = at::_fft_c2c(in.probe, {1, 2}, 0, true).contiguous();
  const cuda::Model<float> model{c.slices,
                                 c.rows,
                                 c.columns,
                                 c.modes,
                                 c.h,
                                 c.w,
                                 complex_of<float>(in.object),
                                 complex_of<float>(in.probe),
                                 complex_of<float>(spectrum),
                                 complex_of<float>(in.propagator),
                                 c.per_slice,
                                 complex_of<float>(in.detector),
                                 false,
                                 c.deterministic};
  const cuda::Chunk chunk{c.n,
                          c.modes,
                          c.h,
                          c.w,
                          c.rows,
                          c.columns,
                          corners.const_data_ptr<int64_t>(),
                          fractions.const_data_ptr<double>()};
  Tensor g_object = torch::zeros_like(in.object), g_probe = torch::zeros_like(in.probe);
  Tensor g_spectrum = torch::zeros_like(in.probe),
         g_propagator = torch::zeros({c.slices - 1, c.h, c.w}, in.probe.options());
  Tensor g_positions = torch::zeros_like(in.positions), losses = torch::zeros({c.n}, at::kDouble);
  Tensor illumination = torch::zeros({c.slices, c.rows, c.columns});
  cuda::Sequence<float, EmulatedDevice<float>> sequence(device, model, chunk, !c.whole_pixels, all,
                                                        c.keep_every);
  sequence.forward(true);
  sequence.detect(true);
  cuda::Patterns<float, int32_t> patterns{};
  patterns.counts = in.patterns.const_data_ptr<int32_t>();
  sequence.compare(patterns, AmplitudeLikelihood{}, true, {losses.data_ptr<double>(), nullptr});
  sequence.undetect(all ? g_positions.data_ptr<double>() : nullptr);
  cuda::Gradients<float> out;
  out.object = g_object.data_ptr();
  if (illuminated) out.illumination = illumination.data_ptr<float>();
  out.probe = static_cast<Complex<float>*>(g_probe.data_ptr());
  out.spectrum = static_cast<Complex<float>*>(g_spectrum.data_ptr());
  if (all) {
    out.propagator = static_cast<Complex<float>*>(g_propagator.data_ptr());
    out.positions = g_positions.data_ptr<double>();
  }
  sequence.adjoint(out);

  const auto unit = static_cast<double>(c.n * c.slices * c.modes * c.h * c.w);
  const emulator::Counters& counted = Machine::get().counters;
  std::printf("%-20s %8s %9s %9s %9s  bytes per slice, mode and pixel\n", "kernel", "launches",
              "read", "written", "both");
  const auto line = [&](const std::string& name, int64_t launches, int64_t read, int64_t written) {
    std::printf("%-20s %8lld %9.2f %9.2f %9.2f\n", name.c_str(), static_cast<long long>(launches),
                static_cast<double>(read) / unit, static_cast<double>(written) / unit,
                static_cast<double>(read + written) / unit);
  };
  std::map<std::string, emulator::Counters> named;
  for (const auto& [function, of_kernel] : Machine::get().by_kernel) {
    emulator::Counters& sum = named[emulator::kernel_name(function)];
    sum.launches += of_kernel.launches;
    sum.bytes_read += of_kernel.bytes_read;
    sum.bytes_written += of_kernel.bytes_written;
  }
  for (const auto& [name, k] : named) line(name, k.launches, k.bytes_read, k.bytes_written);
  const int64_t half = device.transformed_bytes() / 2;
  line("transforms", device.transforms(), half, half);
  line("sum", counted.launches, counted.bytes_read + half, counted.bytes_written + half);
#if !defined(__SANITIZE_ADDRESS__)  // there kernels have no names
  EXPECT_EQ(named.count("?"), 0u);
  EXPECT_EQ(named.count("transmit"), 1u);
#endif
  return static_cast<double>(counted.bytes_read + counted.bytes_written + 2 * half) / unit;
}

TEST(EmulatedMultislice, TrafficIsBelow280BytesPerSliceModeAndPixel) {
  const double each = count_traffic(traffic_case(true), false);
  RecordProperty("bytes_per_slice_mode_pixel", std::to_string(each));
  EXPECT_LT(each, 280.0);
}

// A position costs two transforms more where the probe is moved, as on CUDA always.
TEST(EmulatedMultislice, TrafficOfMovedProbesIsBelow280Bytes) {
  EXPECT_LT(count_traffic(traffic_case(false), false), 280.0);
}

TEST(EmulatedMultislice, TrafficOfAllGradientsIsBelow340Bytes) {
  EXPECT_LT(count_traffic(traffic_case(false), true), 340.0);
}

TEST(EmulatedMultislice, TrafficOfTheIlluminationIsBelow15Bytes) {
  const double without = count_traffic(traffic_case(false), false);
  EXPECT_LT(count_traffic(traffic_case(false), false, /*illuminated=*/true), without + 15.0);
}

#if defined(__SANITIZE_ADDRESS__)
TEST(Emulator, SeesWhatLiesBeyondATensor) {
  const Tensor numbers = torch::zeros({3}, at::kDouble);
  const double* beyond = numbers.const_data_ptr<double>() + 3;
  volatile double seen = 0;
  EXPECT_DEATH(Machine::get().launch(1, 1, [&] { seen = cuda::read(beyond); }),
               "heap-buffer-overflow");
}
#endif

}  // namespace
}  // namespace ptyle
