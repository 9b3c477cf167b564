"""Saves what loader.cpp loads: `loader.py MODULE.pt`.

Patterns travel as a module's attribute: it keeps uint16, which ``torch::pickle_load`` in C++
refuses.
"""

import sys

import ptyle  # noqa: F401  loads torch.ops.ptyle
import torch
from torch import Tensor


class Loss(torch.nn.Module):
    patterns: Tensor
    expected: Tensor

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.object = 0.3 * torch.rand(1, 24, 24, generator=generator)
        self.probe = torch.randn(1, 8, 8, dtype=torch.complex64, generator=generator)
        self.positions = torch.randint(0, 17, (12, 2), generator=generator).double()
        counts = torch.randint(0, 65536, (12, 8, 8), generator=generator)
        self.patterns = counts.to(torch.uint16)
        self.expected = self.forward(self.patterns)

    def forward(self, patterns: Tensor) -> Tensor:
        return torch.ops.ptyle.diffraction_loss(
            self.object, self.probe, self.positions, None, patterns, likelihood="poisson"
        )[0]


if __name__ == "__main__":
    torch.jit.script(Loss()).save(sys.argv[1])
