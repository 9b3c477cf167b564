// Bugs planted into the bodies of the CUDA kernels, to show that what the other tests look at sees
// them: a result that depends on the order of threads or is not the plain sum, and memory that is
// read beyond its end. The bodies are the real ones; barriers, thread numbers and reads go through
// switches here.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include "tests/emulator/cuda_emulator.h"

namespace planted {

bool no_barriers = false;
unsigned later_thread = 0;       // a thread takes itself for the next one
std::ptrdiff_t later_entry = 0;  // a read takes the next entry

inline void barrier() {
  if (!no_barriers) __syncthreads();
}
inline ptyle::emulator::Dim3 thread() {
  ptyle::emulator::Dim3 index = threadIdx;
  index.x += later_thread;
  return index;
}

}  // namespace planted

#undef threadIdx
#define threadIdx (::planted::thread())
#define __syncthreads() ::planted::barrier()
#include "csrc/cuda/memory.cuh"
#define read(from) read((from) + ::planted::later_entry)
#include "csrc/cuda/multislice.cuh"
#undef read

namespace ptyle {
namespace {

using emulator::Machine;
using emulator::Order;

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kSanitized = true;
constexpr int64_t kSpare = 0;
#else
constexpr bool kSanitized = false;
constexpr int64_t kSpare = 1;  // room for what the planted bug reads
#endif

// Every number differs, so that taking another one shows.
template <typename T>
T number(int64_t k) {
  return static_cast<T>(1 + k % 97) / T(64);
}

struct Problem {
  int64_t positions = 3, modes = 2, height = 19, width = 17;
  std::vector<int64_t> corners = std::vector<int64_t>(6, 0);
  std::vector<double> fractions = std::vector<double>(6, 0.25);
  cuda::Chunk chunk{positions, modes, height, width, 30, 30, corners.data(), fractions.data()};

  int64_t pixels() const { return height * width; }
  int64_t numbers() const { return positions * modes * pixels(); }
  // Exactly as long as needed where a sanitizer looks on.
  std::unique_ptr<Complex<double>[]> waves() const {
    std::unique_ptr<Complex<double>[]> made(
        new Complex<double>[static_cast<size_t>(numbers() + kSpare)]);
    for (int64_t i = 0; i < numbers(); ++i) made[i] = {number<double>(i), number<double>(3 * i)};
    return made;
  }
};

void sum_losses(Order order, double* losses) {
  const Problem problem;
  const auto waves = problem.waves();
  const std::vector<int32_t> counts(
      static_cast<size_t>(problem.positions * problem.pixels() + kSpare), 2);
  cuda::Patterns<double, int32_t> patterns{};
  patterns.counts = counts.data();
  Machine::get().order = order;
  Machine::get().launch(2, cuda::kBlockThreads, [&] {
    cuda::compare<double, int32_t, GaussianLikelihood>(
        problem.chunk, patterns, GaussianLikelihood{}, 0.5, false, waves.get(), losses, nullptr);
  });
}

std::vector<double> summed_losses(Order order) {
  std::vector<double> losses(3 + kSpare);
  sum_losses(order, losses.data());
  losses.resize(3);
  return losses;
}

std::vector<double> plain_losses() {
  const Problem problem;
  const auto waves = problem.waves();
  std::vector<double> losses(3);
  for (int64_t n = 0; n < problem.positions; ++n) {
    for (int64_t pixel = 0; pixel < problem.pixels(); ++pixel) {
      double intensity = 0;
      for (int64_t m = 0; m < problem.modes; ++m) {
        intensity += 0.5 * abs_squared(waves[(n * problem.modes + m) * problem.pixels() + pixel]);
      }
      losses[static_cast<size_t>(n)] += (intensity - 2) * (intensity - 2);
    }
  }
  return losses;
}

std::vector<double> summed_intensity() {
  const Problem problem;
  const auto waves = problem.waves();
  std::vector<double> intensity(static_cast<size_t>(problem.positions * problem.pixels()), -1.0);
  Machine::get().launch(3, 64, [&] {
    cuda::sum_intensity<double>(problem.chunk, waves.get(), 0.5, intensity.data());
  });
  return intensity;
}

std::vector<double> plain_intensity() {
  const Problem problem;
  const auto waves = problem.waves();
  std::vector<double> intensity(static_cast<size_t>(problem.positions * problem.pixels()));
  for (int64_t i = 0; i < problem.numbers(); ++i) {
    const int64_t n = i / (problem.modes * problem.pixels());
    intensity[static_cast<size_t>(n * problem.pixels() + i % problem.pixels())] +=
        0.5 * abs_squared(waves[i]);
  }
  return intensity;
}

double difference(const std::vector<double>& a, const std::vector<double>& b) {
  double most = 0;
  for (size_t k = 0; k < a.size(); ++k) {
    const double d = std::abs(a[k] - b[k]) / std::max(1.0, std::abs(b[k]));
    most = std::isfinite(d) ? std::max(most, d) : 1e300;
  }
  return most;
}

constexpr Order kOrders[] = {Order::kAscending, Order::kDescending, Order::kShuffled};

class Planted : public testing::Test {
 protected:
  ~Planted() override {
    planted::no_barriers = false;
    planted::later_thread = 0;
    planted::later_entry = 0;
  }
};

TEST_F(Planted, NothingIsThePlainSumInAnyOrder) {
  for (const Order order : kOrders) {
    EXPECT_LT(difference(summed_losses(order), plain_losses()), 1e-13);
    EXPECT_EQ(summed_losses(order), summed_losses(Order::kAscending));  // to the bit
  }
  EXPECT_LT(difference(summed_intensity(), plain_intensity()), 1e-13);
}

TEST_F(Planted, AMissingBarrierShowsInTheOrderOfThreads) {
  planted::no_barriers = true;
  EXPECT_NE(summed_losses(Order::kAscending), summed_losses(Order::kDescending));
  EXPECT_GT(difference(summed_losses(Order::kAscending), plain_losses()), 1e-3);
  EXPECT_GT(difference(summed_losses(Order::kShuffled), plain_losses()), 1e-3);
}

TEST_F(Planted, AnEntryTooFarIsAnotherResultOrTheEndUnderASanitizer) {
  planted::later_entry = 1;
  if (kSanitized) {
    EXPECT_DEATH(summed_intensity(), "heap-buffer-overflow");
    EXPECT_DEATH(summed_losses(Order::kAscending), "heap-buffer-overflow");
  } else {
    EXPECT_GT(difference(summed_intensity(), plain_intensity()), 1e-3);
    EXPECT_GT(difference(summed_losses(Order::kAscending), plain_losses()), 1e-3);
  }
}

TEST_F(Planted, AThreadTooFarIsAnotherResultOrTheEndUnderASanitizer) {
  planted::later_thread = 1;
  EXPECT_GT(difference(summed_intensity(), plain_intensity()), 1e-3);  // nobody did the first
  // Its last thread writes beyond the block's shared memory.
  if (kSanitized) {
    EXPECT_DEATH(summed_losses(Order::kAscending), "out of bounds|buffer-overflow");
  }
}

}  // namespace
}  // namespace ptyle
