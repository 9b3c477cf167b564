"""A regulariser: an energy a pixel, which a reconstruction adds to its loss.

``forward(x)``
    x      ``[n, channels, rows, columns]`` float32, as a denoiser's (denoiser.py)
    gives  ``[n, rows, columns]`` float32, at least 0: the energy of every pixel, without unit

A pixel's energy depends on the pixels within `radius` rows and columns of it. The program sums the
energy over the pixels that a tile owns and differentiates that sum, so the module must work in
TorchScript; a compiled .pt2 has no gradient.

To write your own: a module with an attribute `radius`, which pads its input once by copies of the
outermost pixels and nowhere else.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class HuberVariation(nn.Module):
    """Total variation, quadratic where neighbours differ by less than `delta`.

    ``weight / 8 * delta * (sqrt(down^2 + right^2 + delta^2) - delta)``, summed over channels: for
    small differences the energy is ``weight / 16 * difference^2``. Its curvature is at most
    `weight`, and with weight 1 a reconstruction converges up to strength 1.

    delta: in the units of x, positive
    weight: positive, of the energy
    """

    radius: int
    delta: float
    weight: float

    def __init__(self, delta: float = 0.05, weight: float = 1.0):
        super().__init__()
        self.radius = 1
        self.delta = delta
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        padded = functional.pad(x, [0, 1, 0, 1], mode="replicate")
        down = padded[:, :, 1:, :-1] - x
        right = padded[:, :, :-1, 1:] - x
        steep = torch.sqrt(down * down + right * right + self.delta * self.delta)
        return (steep - self.delta).sum(1) * (self.weight * self.delta / 8)
