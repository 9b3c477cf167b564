"""The physics inside a scripted module: trained here, used where this code is not.

    python models/experiments/scripted.py FILE.pt
    scripted FILE.pt                               # scripted.cpp, from the same folder

A TorchScript module holds the data, a small network and `torch.ops.ptyle.diffraction_loss`. It is
trained, saved, and trained on elsewhere: in a second Python process that knows torch and ptyle's
operators alone, and in C++ (`scripted.cpp`). Every loss is the one that this program had.
"""

import argparse
import subprocess
import sys
import warnings

import ptyle
import torch
from torch import Tensor, nn

warnings.filterwarnings("ignore", category=FutureWarning)  # torch.jit is deprecated, not gone

ELSEWHERE = """
import sys, torch
torch.ops.load_library(sys.argv[2])
module = torch.jit.load(sys.argv[1])
optimizer = torch.optim.Adam([module.latent, module.probe], lr=0.01)
worst = 0.0
for expected in module.losses.tolist():
    optimizer.zero_grad()
    loss = module(module.latent, torch.view_as_complex(module.probe))
    loss.backward()
    optimizer.step()
    worst = max(worst, abs(loss.item() - expected) / expected)
print(repr(worst))
"""


class Reconstruction(nn.Module):
    """latent [8, rows, columns], probe [modes, h, w] -> loss of the phase a network makes of it.

    In float64: optimisers of two languages round differently, and training amplifies that.
    """

    def __init__(self, probe: Tensor, positions: Tensor, patterns: Tensor, size: int, more: int):
        super().__init__()
        self.mix = nn.Conv2d(8, 1, 1).double()
        self.latent = nn.Parameter(0.1 * torch.randn(8, size, size, dtype=torch.double))
        self.probe = nn.Parameter(torch.view_as_real(probe).clone())  # real: Adam needs that
        self.register_buffer("positions", positions)
        self.register_buffer("patterns", patterns)
        self.register_buffer("losses", torch.zeros(more, dtype=torch.double))

    def forward(self, latent: Tensor, probe: Tensor) -> Tensor:
        phase = self.mix(latent.unsqueeze(0)).squeeze(0)  # [1, rows, columns]
        loss, losses = torch.ops.ptyle.diffraction_loss(
            phase, probe, self.positions, None, self.patterns
        )
        return loss


def train(module: Reconstruction, leaves: list[Tensor], steps: int) -> list[float]:
    optimizer = torch.optim.Adam(leaves, lr=0.01)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = module(module.latent, torch.view_as_complex(module.probe))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def main(path: str, steps: int = 40, more: int = 20) -> dict[str, float]:
    """Trains `steps`, saves, trains `more` in both processes: losses, and how far they differ."""
    torch.manual_seed(0)
    size, window = 24, 10
    truth = 0.5 * torch.rand(1, size, size, dtype=torch.double)
    probe = torch.randn(1, window, window, dtype=torch.complex128)
    positions = torch.rand(30, 2, dtype=torch.double) * (size - window)
    patterns = ptyle.diffraction(truth, probe, positions)
    module = Reconstruction(0.9 * probe, positions, patterns, size, more)
    scripted = torch.jit.script(module)
    losses = train(scripted, list(scripted.parameters()), steps)

    state = {name: value.clone() for name, value in scripted.state_dict().items()}
    goal = train(scripted, [scripted.latent, scripted.probe], more)
    scripted.load_state_dict(state)  # saved as it was before these
    scripted.losses.copy_(torch.tensor(goal))
    scripted.save(path)

    library = next(name for name in torch.ops.loaded_libraries if name.endswith("libptyle_ops.so"))
    command = [sys.executable, "-I", "-c", ELSEWHERE, path, library]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    report = {"first": losses[0], "trained": losses[-1], "goal": goal[-1], "apart": float(said)}
    print(
        f"loss {losses[0]:.4g}, after {steps} steps {losses[-1]:.4g}, after {more} more "
        f"{goal[-1]:.4g}; in another process off by at most {report['apart']:.2g} of it"
    )
    return report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", help="where the module is saved")
    found = main(parser.parse_args().file)
    sys.exit(0 if found["apart"] <= 1e-6 else 1)
