// Trains on with a TorchScript module that Python trained and saved (scripted.py): its code is in
// the file, and the operators are in the library that this program links. Once through the loaded
// module and once with <ptyle/ops.h> in place of the module's own call; every loss must be the one
// that Python had.
//
//   scripted FILE.pt
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>

#include <torch/script.h>
#include <torch/torch.h>

#include <ptyle/ops.h>

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: scripted FILE.pt\n");
    return 2;
  }
  using torch::Tensor;
  torch::jit::Module module;
  try {
    module = torch::jit::load(argv[1]);
  } catch (const c10::Error&) {
    std::fprintf(stderr, "%s must be a module that scripted.py saved\n", argv[1]);
    return 2;
  }
  const Tensor expected = module.attr("losses").toTensor();
  const Tensor positions = module.attr("positions").toTensor();
  const Tensor patterns = module.attr("patterns").toTensor();
  torch::jit::Module mix = module.attr("mix").toModule();

  using LossFunction = std::function<Tensor(const Tensor& latent, const Tensor& probe)>;
  const LossFunction scripted = [&](const Tensor& latent, const Tensor& probe) {
    return module.forward({latent, probe}).toTensor();
  };
  const LossFunction direct = [&](const Tensor& latent, const Tensor& probe) {
    const Tensor phase = mix.forward({latent.unsqueeze(0)}).toTensor().squeeze(0);
    return ptyle::diffraction_loss(phase, probe, positions, {}, patterns).loss;
  };

  double worst = 0.0;
  for (const LossFunction& loss_of : {scripted, direct}) {
    Tensor latent = module.attr("latent").toTensor().detach().clone().requires_grad_();
    Tensor probe = module.attr("probe").toTensor().detach().clone().requires_grad_();
    torch::optim::Adam optimizer({latent, probe}, torch::optim::AdamOptions(0.01));
    for (int64_t step = 0; step < expected.numel(); ++step) {
      optimizer.zero_grad();
      const Tensor loss = loss_of(latent, torch::view_as_complex(probe));
      loss.backward();
      optimizer.step();
      const double python = expected[step].item<double>();
      const double apart = std::abs(loss.item<double>() - python) / python;
      if (!(apart <= worst)) worst = apart;  // also where it is not a number
    }
  }
  std::printf("loss %.6g, after %d steps %.6g; from Python's at most %.2g of it\n",
              expected[0].item<double>(), static_cast<int>(expected.numel()),
              expected[-1].item<double>(), worst);
  return worst <= 1e-6 ? 0 : 1;
}
