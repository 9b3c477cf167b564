// Trains with a TorchScript file that Python saved (script.py), once through the loaded module and
// once through <ptyle/ops.h>: every loss must be the one that Python saw.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <vector>

#include <torch/script.h>
#include <torch/torch.h>

#include <ptyle/ops.h>

namespace {

using LossFunction = std::function<torch::Tensor(const torch::Tensor&, const torch::Tensor&)>;

std::vector<double> train(const torch::jit::Module& module, const LossFunction& loss_of,
                          int64_t iterations) {
  torch::Tensor object = module.attr("object").toTensor().clone().requires_grad_();
  torch::Tensor probe = module.attr("probe").toTensor().clone().requires_grad_();  // [..., 2] real
  torch::optim::Adam optimizer({object, probe}, torch::optim::AdamOptions(0.02));
  std::vector<double> losses;
  for (int64_t iteration = 0; iteration < iterations; ++iteration) {
    optimizer.zero_grad();
    const torch::Tensor loss = loss_of(object, torch::view_as_complex(probe));
    loss.backward();
    optimizer.step();
    losses.push_back(loss.item<double>());
  }
  return losses;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: replay MODULE.pt\n");
    return 2;
  }
  torch::jit::Module module = torch::jit::load(argv[1]);
  const torch::Tensor expected = module.attr("losses").toTensor();
  const torch::Tensor positions = module.attr("positions").toTensor();
  const torch::Tensor propagator = module.attr("propagator").toTensor();
  const torch::Tensor patterns = module.attr("patterns").toTensor();

  const LossFunction scripted = [&](const torch::Tensor& object, const torch::Tensor& probe) {
    return module.forward({object, probe}).toTensor();
  };
  const LossFunction direct = [&](const torch::Tensor& object, const torch::Tensor& probe) {
    return ptyle::diffraction_loss(object, probe, positions, propagator, patterns).loss;
  };
  double worst = 0.0;
  double last = 0.0;
  for (const LossFunction& loss_of : {scripted, direct}) {
    const std::vector<double> losses = train(module, loss_of, expected.numel());
    for (size_t i = 0; i < losses.size(); ++i) {
      const double python = expected[static_cast<int64_t>(i)].item<double>();
      const double difference = std::abs(losses[i] - python) / python;
      if (!(difference <= worst)) worst = difference;  // also where it is not a number
    }
    last = losses.back();
  }
  std::printf("loss %.6g, after %d steps %.6g; from Python's at most %.2g of it\n",
              expected[0].item<double>(), static_cast<int>(expected.numel()), last, worst);
  return worst <= 1e-6 ? 0 : 1;
}
