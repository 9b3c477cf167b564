// Trains an object with LibTorch's own optimiser through ptyle's operators.
#include <cstdio>

#include <torch/torch.h>

#include <ptyle/ops.h>

int main() {
  torch::manual_seed(0);
  const torch::Tensor probe = torch::randn({1, 16, 16}, torch::kComplexFloat);
  const torch::Tensor positions = torch::randint(0, 17, {40, 2}).to(torch::kDouble);
  const torch::Tensor truth = 0.5 * torch::rand({1, 32, 32});
  const torch::Tensor patterns = ptyle::diffraction(truth, probe, positions);

  torch::Tensor object = torch::zeros({1, 32, 32}, torch::requires_grad());
  torch::optim::Adam optimizer({object}, torch::optim::AdamOptions(0.02));
  double first = 0.0;
  double last = 0.0;
  for (int iteration = 0; iteration < 50; ++iteration) {
    optimizer.zero_grad();
    const ptyle::Loss result = ptyle::diffraction_loss(object, probe, positions, {}, patterns);
    result.loss.backward();
    optimizer.step();
    last = result.loss.item<double>();
    if (iteration == 0) first = last;
  }
  std::printf("ptyle %s: loss %.3g, after 50 steps %.3g\n", ptyle::version(), first, last);
  return last < 0.1 * first ? 0 : 1;
}
