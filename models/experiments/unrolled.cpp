// A training loop of LibTorch's own around ptyle's physics: an unrolled reconstruction.
//
// A few steps of descent, each with a length of its own that is learned, and a small convolution
// between them that is learned too, make a phase from noisy patterns. What they make is compared
// with the truth, and that error is differentiated through all steps, and so through the gradient
// of `diffraction_loss`: its second derivatives train the lengths and the convolution.
//
//   unrolled [ROUNDS]
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <utility>
#include <vector>

#include <torch/torch.h>

#include <ptyle/ops.h>

namespace {

using torch::Tensor;

constexpr int64_t kSize = 26, kWindow = 10, kSteps = 4;

struct Scene {
  Tensor truth, patterns;  // [1, rows, columns] rad; [n, h, w]
};

struct Microscope {
  Tensor probe, positions;
  Tensor light;  // sum of |probe|^2 over the positions, at least 5 % of its most
};

Microscope make_microscope() {
  const Tensor axis = torch::arange(kWindow, torch::kDouble) - (kWindow - 1) / 2.0;
  const Tensor r2 = axis.unsqueeze(1).square() + axis.square();
  Microscope m;
  m.probe = 4 * torch::polar(torch::exp(-r2 / 14), 0.09 * r2).unsqueeze(0);
  const Tensor steps = torch::arange(0, kSize - kWindow + 1, 4, torch::kDouble);
  m.positions = torch::cartesian_prod({steps, steps});
  const Tensor lit = ptyle::illumination(m.probe, m.positions, {kSize, kSize});
  m.light = lit + 0.05 * lit.max();
  return m;
}

// Blobs at random places, few counts.
Scene make_scene(const Microscope& m) {
  const Tensor axis = torch::arange(kSize, torch::kDouble);
  Tensor truth = torch::zeros({kSize, kSize}, torch::kDouble);
  for (int blob = 0; blob < 12; ++blob) {
    const Tensor place = kSize * torch::rand({2}, torch::kDouble);
    const Tensor r2 = (axis - place[0]).square().unsqueeze(1) + (axis - place[1]).square();
    truth += 0.6 * torch::exp(-r2 / 6);
  }
  truth = truth.unsqueeze(0);
  return {truth, torch::poisson(ptyle::diffraction(truth, m.probe, m.positions))};
}

struct Unrolled : torch::nn::Module {
  Unrolled() {
    lengths = register_parameter("lengths", torch::full({kSteps}, -0.7, torch::kDouble));
    first =
        register_module("first", torch::nn::Conv2d(torch::nn::Conv2dOptions(1, 12, 5).padding(2)));
    last =
        register_module("last", torch::nn::Conv2d(torch::nn::Conv2dOptions(12, 1, 5).padding(2)));
    torch::nn::init::zeros_(last->weight);  // starts as plain descent
    torch::nn::init::zeros_(last->bias);
    to(torch::kDouble);
  }

  Tensor forward(const Microscope& m, const Tensor& patterns) {
    Tensor phase = torch::zeros({1, kSize, kSize}, torch::kDouble).requires_grad_();
    for (int64_t step = 0; step < kSteps; ++step) {
      const Tensor loss = ptyle::diffraction_loss(phase, m.probe, m.positions, {}, patterns).loss;
      const Tensor slope = torch::autograd::grad({loss}, {phase}, {}, true, true).front();
      phase = phase - torch::softplus(lengths[step]) * slope / (2 * m.light);
      phase = phase + last->forward(torch::tanh(first->forward(phase.unsqueeze(0)))).squeeze(0);
    }
    return phase;
  }

  Tensor lengths;
  torch::nn::Conv2d first{nullptr}, last{nullptr};
};

// Mean square of what is wrong, without the constant that no pattern sees.
Tensor error_of(const Tensor& phase, const Tensor& truth) {
  const Tensor wrong = phase - truth;
  return (wrong - wrong.mean()).square().mean();
}

double mean_error(Unrolled& model, const Microscope& m, const std::vector<Scene>& scenes) {
  double sum = 0;
  for (const Scene& scene : scenes) {
    sum += error_of(model.forward(m, scene.patterns).detach(), scene.truth).item<double>();
  }
  return std::sqrt(sum / static_cast<double>(scenes.size()));
}

// The training's slope with respect to a step's length, against a difference.
double slope_error(Unrolled& model, const Microscope& m, const Scene& scene) {
  const auto value = [&] { return error_of(model.forward(m, scene.patterns), scene.truth); };
  const Tensor slope = torch::autograd::grad({value()}, {model.lengths}).front();
  double worst = 0;
  for (int64_t step = 0; step < kSteps; ++step) {
    constexpr double kMove = 1e-4;
    const auto moved = [&](double by) {
      const torch::NoGradGuard no_grad;
      model.lengths[step] += by;
    };
    moved(kMove);
    const double above = value().item<double>();
    moved(-2 * kMove);
    const double below = value().item<double>();
    moved(kMove);
    const double difference = (above - below) / (2 * kMove);
    worst = std::max(worst, std::abs(slope[step].item<double>() - difference) /
                                slope.abs().max().item<double>());
  }
  return worst;
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 300;
  if (rounds < 1) {
    std::fprintf(stderr, "ROUNDS must be a number from 1, got %s\n", argv[1]);
    return 2;
  }
  torch::manual_seed(4);
  const Microscope microscope = make_microscope();
  std::vector<Scene> training, held_out;
  for (int k = 0; k < 8; ++k) training.push_back(make_scene(microscope));
  for (int k = 0; k < 4; ++k) held_out.push_back(make_scene(microscope));

  Unrolled model;
  const double slope = slope_error(model, microscope, training.front());
  const double before = mean_error(model, microscope, held_out);
  torch::optim::Adam optimizer(model.parameters(), torch::optim::AdamOptions(0.01));
  for (int round = 0; round < rounds; ++round) {
    optimizer.zero_grad();
    const Scene& scene = training[static_cast<size_t>(round) % training.size()];
    error_of(model.forward(microscope, scene.patterns), scene.truth).backward();
    optimizer.step();
  }
  const double after = mean_error(model, microscope, held_out);
  std::printf("slope of the training from its second derivatives: off by %.1e\n", slope);
  std::printf("error of %d steps on held-out objects: %.4f rad, after training %.4f (%.2f of it)\n",
              static_cast<int>(kSteps), before, after, after / before);
  return slope < 1e-5 && after < 0.8 * before ? 0 : 1;
}
