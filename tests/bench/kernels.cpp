// The fused kernels by themselves, without torch: what `./dev bench kernels` and the stored
// instruction counts are made from.
//
//   kernels_bench transforms              JSON: microseconds of one 2-D transform by size
//   kernels_bench gradient N S MODES COUNT   COUNT positions' loss and gradients, and nothing else
//   kernels_bench gradients               JSON: microseconds of a position by case
//   kernels_bench keep N S                microseconds with all waves kept, and with some made
//   again
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "csrc/cpu/model.h"

namespace {

using namespace ptyle::cpu;
using Float = float;

double microseconds(int repeats, int calls, const auto& work) {
  work();
  double best = 1e300;
  for (int k = 0; k < repeats; ++k) {
    const auto begin = std::chrono::steady_clock::now();
    for (int call = 0; call < calls; ++call) work();
    const std::chrono::duration<double, std::micro> taken =
        std::chrono::steady_clock::now() - begin;
    best = std::min(best, taken.count() / calls);
  }
  return best;
}

// Numbers that are neither equal nor random: the same in every run.
void fill(Numbers<Float>& numbers, Float mean, Float scale) {
  for (int64_t i = 0; i < numbers.size(); ++i) {
    numbers.data()[i] = mean + scale * (static_cast<Float>(i * 37 % 101) / 50.0F - 1.0F);
  }
}

struct Case {
  int64_t n, slices, modes;
};

class Gradient {
 public:
  Gradient(const Case& c, bool moved, int64_t keep_bytes)
      : size_(c.n + 32),
        object_(2 * c.slices * size_ * size_),
        probe_(2 * c.modes * c.n * c.n),
        propagator_(2 * c.n * c.n),
        object_gradient_(object_.size()),
        probe_gradient_(probe_.size()),
        counts_(static_cast<size_t>(c.n * c.n)),
        model_(instruction_set(), inputs(c, moved), keep_bytes),
        worker_((begin(), model_), true),
        fraction_(moved ? 0.3 : 0.0) {}

  // Positions walk over the object.
  double operator()(int64_t position) {
    const Window window{position * 7 % 29, position * 3 % 31, fraction_, fraction_};
    const Measured<Float> measured{Count::kUInt16, counts_.data(), nullptr,
                                   nullptr,        1.0F,           ptyle::Likelihood::kAmplitude};
    return model_.loss(worker_, window, measured, sums_, 0, nullptr).loss;
  }
  int64_t worker_bytes() const { return model_.worker_bytes(true); }

 private:
  Inputs<Float> inputs(const Case& c, bool moved) {
    fill(object_, 0.7F, 0.2F);
    fill(probe_, 0.1F, 1.0F);
    fill(propagator_, 0.1F, 0.9F);
    for (size_t i = 0; i < counts_.size(); ++i) counts_[i] = static_cast<uint16_t>(i % 23);
    Inputs<Float> in{};
    in.slices = c.slices;
    in.rows = in.columns = size_;
    in.modes = c.modes;
    in.height = in.width = c.n;
    in.transmission = object_.data();
    in.probe = probe_.data();
    in.propagator = c.slices > 1 ? propagator_.data() : nullptr;
    in.moves = moved;
    return in;
  }
  void begin() {
    sums_.object = object_gradient_.data();
    sums_.probe = probe_gradient_.data();
    model_.begin(sums_);
  }

  int64_t size_;
  Numbers<Float> object_, probe_, propagator_, object_gradient_, probe_gradient_;
  std::vector<uint16_t> counts_;
  Sums<Float> sums_;
  Model<Float> model_;
  Worker<Float> worker_;
  double fraction_;
};

constexpr int64_t kKeepAll = int64_t{1} << 40;
constexpr Case kCases[] = {{64, 4, 1},   {128, 6, 1}, {256, 2, 1},
                           {512, 10, 1}, {64, 4, 4},  {64, 1, 1}};

void print_transforms() {
  const Kernels<Float>& kernels = ptyle::cpu::kernels<Float>(instruction_set());
  std::printf("[");
  const char* comma = "";
  for (const int64_t n : {64, 96, 128, 192, 256, 320, 384, 512, 1024}) {
    const auto plan = plan_for<Float>(n, n, kernels.lanes);
    const Shape<Float>& shape = plan->shape();
    Numbers<Float> panels(shape.panel_wave()), line(shape.line()), from(2 * n * n), to(2 * n * n);
    Numbers<Float> spectrum(shape.spectrum_wave()), image(shape.spectrum_image());
    Numbers<Float> panel_image(shape.panel_image());
    fill(from, 0.0F, 1.0F);
    const int calls = static_cast<int>(std::max<int64_t>(1, (int64_t{1} << 19) / (n * n)));
    const double ordered = microseconds(9, calls, [&] {
      kernels.transform(shape, false, from.data(), to.data(), panels.data(), line.data());
    });
    // In a chain: there and back along each axis, with one factor each; half of that is one.
    const double chained = microseconds(9, calls, [&] {
      kernels.from_panels(shape, 1, panels.data(), panel_image.data(), line.data());
      kernels.to_spectrum(shape, 1, panels.data(), 1.0F, spectrum.data(), nullptr, line.data());
      kernels.from_spectrum(shape, 1, spectrum.data(), image.data(), panels.data(), line.data());
      kernels.to_panels(shape, 1, panels.data(), panel_image.data(), line.data());
    });
    std::printf("%s{\"window\": %d, \"ordered_us\": %.3f, \"chained_us\": %.3f}", comma,
                static_cast<int>(n), ordered, chained / 2);
    comma = ", ";
  }
  std::printf("]\n");
}

void print_gradients() {
  std::printf("[");
  const char* comma = "";
  for (const Case& c : kCases) {
    double us[2];
    for (const bool moved : {false, true}) {
      Gradient gradient(c, moved, kKeepAll);
      const auto calls = static_cast<int>(
          std::max<int64_t>(1, 20'000'000 / (c.n * c.n * c.slices * c.modes * 100)));
      int64_t position = 0;
      us[moved] = microseconds(9, calls, [&] { gradient(position++); });
    }
    std::printf(
        "%s{\"window\": %d, \"slices\": %d, \"modes\": %d, \"whole_us\": %.3f, \"moved_us\": %.3f}",
        comma, static_cast<int>(c.n), static_cast<int>(c.slices), static_cast<int>(c.modes), us[0],
        us[1]);
    comma = ", ";
  }
  std::printf("]\n");
}

void print_keep(const Case& c) {
  std::printf("[");
  const char* comma = "";
  for (const int64_t keep : {kKeepAll, int64_t{0}}) {
    Gradient gradient(c, false, keep);
    int64_t position = 0;
    const double us = microseconds(3, 2, [&] { gradient(position++); });
    std::printf("%s{\"kept\": \"%s\", \"us\": %.0f, \"worker_MB\": %.1f}", comma,
                keep == 0 ? "some" : "all", us, static_cast<double>(gradient.worker_bytes()) / 1e6);
    comma = ", ";
  }
  std::printf("]\n");
}

}  // namespace

int main(int count, char** arguments) {
  const std::string what = count > 1 ? arguments[1] : "";
  const auto number = [&](int k) { return static_cast<int64_t>(std::atoll(arguments[k])); };
  if (what == "transforms" && count == 2) {
    print_transforms();
  } else if (what == "gradients" && count == 2) {
    print_gradients();
  } else if (what == "gradient" && count == 6) {
    Gradient gradient({number(2), number(3), number(4)}, false, kKeepAll);
    double loss = 0;
    for (int64_t n = 0; n < number(5); ++n) loss += gradient(n);
    std::printf("%g\n", loss);
  } else if (what == "keep" && count == 4) {
    print_keep({number(2), number(3), 1});
  } else {
    std::fprintf(stderr,
                 "usage: kernels_bench transforms | gradients | gradient N SLICES MODES COUNT | "
                 "keep N SLICES\n");
    return 2;
  }
  return 0;
}
