// LibTorch's optimisers on ptyle's physics, as `optimisers.py` does it in Python: object, probe and
// positions are real leaves, complex ones as [..., 2], because torch::optim is wrong for complex
// leaves; a regulariser, a function or a TorchScript file, joins the loss.
//
//   optimisers [HUBER.pt]       # python -m ptyle.models export huber -o HUBER.pt
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include <torch/script.h>
#include <torch/torch.h>

#include <ptyle/ops.h>

namespace {

using torch::Tensor;
using Loss = std::function<Tensor(const Tensor& object)>;  // of a complex object

constexpr int64_t kSize = 40, kWindow = 16;
constexpr double kDose = 0.003;  // of the noise-free patterns, in the part with noise

Tensor vacuum() {
  Tensor leaf = torch::zeros({1, kSize, kSize, 2}, torch::kDouble);
  leaf.select(3, 0).fill_(1.0);
  return leaf.requires_grad_();
}

Tensor by_adam(const Loss& loss_of) {
  Tensor leaf = vacuum();
  torch::optim::Adam optimizer({leaf}, torch::optim::AdamOptions(0.05));
  for (int step = 0; step < 400; ++step) {
    optimizer.zero_grad();
    loss_of(torch::view_as_complex(leaf)).backward();
    optimizer.step();
    auto& options = static_cast<torch::optim::AdamOptions&>(optimizer.param_groups()[0].options());
    options.lr(options.lr() * 0.99);
  }
  return torch::view_as_complex(leaf.detach());
}

// more: other leaves that loss_of uses.
Tensor by_lbfgs(const Loss& loss_of, int64_t steps, std::vector<Tensor> more = {}) {
  Tensor leaf = vacuum();
  more.push_back(leaf);
  torch::optim::LBFGS optimizer(more, torch::optim::LBFGSOptions(1.0)
                                          .max_iter(steps)
                                          .history_size(20)
                                          .tolerance_grad(1e-12)
                                          .tolerance_change(1e-14)
                                          .line_search_fn("strong_wolfe"));
  optimizer.step([&] {
    optimizer.zero_grad();
    const Tensor loss = loss_of(torch::view_as_complex(leaf));
    loss.backward();
    return loss;
  });
  return torch::view_as_complex(leaf.detach());
}

// Relative, where the probe shines, up to a global phase.
double difference(const Tensor& a, const Tensor& b) {
  const auto inside = [](const Tensor& all) {
    return all.narrow(1, 8, kSize - 16).narrow(2, 8, kSize - 16);
  };
  const Tensor x = inside(a), y = inside(b);
  const Tensor turn = (x.conj() * y).sum();
  return ((x * turn / turn.abs() - y).norm() / y.norm()).item<double>();
}

}  // namespace

int main(int argc, char** argv) {
  torch::manual_seed(2);
  const Tensor axis = torch::arange(kSize, torch::kDouble);
  Tensor phase = torch::zeros({kSize, kSize}, torch::kDouble);
  for (int blob = 0; blob < 30; ++blob) {
    const Tensor place = kSize * torch::rand({2}, torch::kDouble);
    const Tensor r2 = (axis - place[0]).square().unsqueeze(1) + (axis - place[1]).square();
    phase += 0.5 * torch::exp(-r2 / 5);
  }
  const Tensor truth = torch::polar(torch::ones_like(phase), phase).unsqueeze(0);
  const Tensor near = torch::arange(kWindow, torch::kDouble) - (kWindow - 1) / 2.0;
  const Tensor r2 = near.unsqueeze(1).square() + near.square();
  const Tensor probe = 10 * torch::polar(torch::exp(-r2 / 30), 0.06 * r2).unsqueeze(0);
  const Tensor steps = torch::arange(0, kSize - kWindow + 1, 3, torch::kDouble);
  const Tensor positions = torch::cartesian_prod({steps, steps});
  const Tensor clean = ptyle::diffraction(truth, probe, positions);
  const auto loss_from = [&](const Tensor& patterns) -> Loss {
    return [&probe, &positions, patterns](const Tensor& object) {
      return ptyle::diffraction_loss(object, probe, positions, {}, patterns).loss;
    };
  };

  const double lbfgs = difference(by_lbfgs(loss_from(clean), 150), truth);
  const double adam = difference(by_adam(loss_from(clean)), truth);
  std::printf("from the truth: torch::optim::LBFGS %.1e, Adam %.1e\n", lbfgs, adam);

  // Positions off by up to half a pixel, and a probe off by a little: leaves too.
  Tensor off = (positions + 0.5 * (torch::rand_like(positions) - 0.5)).requires_grad_();
  Tensor guess = torch::view_as_real(0.97 * probe).clone().requires_grad_();
  const auto position_error = [&] {
    const Tensor wrong = off.detach() - positions;
    return (wrong - wrong.mean(0)).square().mean().sqrt().item<double>();
  };
  const double before = position_error();
  by_lbfgs(
      [&](const Tensor& object) {
        return ptyle::diffraction_loss(object, torch::view_as_complex(guess), off, {}, clean).loss;
      },
      250, {off, guess});
  const double after = position_error();
  std::printf("positions off by %.3f pixels, after L-BFGS on all three %.3f\n", before, after);

  const Loss noisy = loss_from(torch::poisson(clean * kDose) / kDose);
  const Loss variation = [](const Tensor& object) {
    const Tensor angle = object.angle();
    return angle.diff(1, 1).square().sum() + angle.diff(1, 2).square().sum();
  };
  const auto with = [&noisy](double weight, const Loss& regulariser) -> Loss {
    return [=](const Tensor& object) { return noisy(object) + weight * regulariser(object); };
  };
  const double plain = difference(by_lbfgs(noisy, 60), truth);
  const double own = difference(by_lbfgs(with(1000, variation), 60), truth);
  std::printf("noisy patterns: %.3f, with a variation of one's own %.3f\n", plain, own);
  bool gained = own < plain && after < 0.7 * before;
  if (argc > 1) {
    torch::jit::Module huber;
    try {
      huber = torch::jit::load(argv[1]);
    } catch (const c10::Error&) {
      std::fprintf(stderr, "%s must be a regulariser as TorchScript\n", argv[1]);
      return 2;
    }
    const Loss from_file = [&huber](const Tensor& object) {
      return huber.forward({object.angle().unsqueeze(1).to(torch::kFloat)})
          .toTensor()
          .sum()
          .to(torch::kDouble);
    };
    const double file = difference(by_lbfgs(with(20000, from_file), 60), truth);
    std::printf("with the energy of %s: %.3f\n", argv[1], file);
    gained = gained && file < plain;
  }
  return lbfgs < 1e-3 && adam < 1e-3 && gained ? 0 : 1;
}
