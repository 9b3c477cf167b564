"""What repeats is averaged first: a crystal's cells are measured many times over in one image.

``forward(x, noise)`` is that of a denoiser (denoiser.py), and commutes with units and offsets as it
does. A few cells away the image looks as it does here; a convolution cannot look there, because
where that is differs from crystal to crystal. `Repeats` finds out: for every offset d within
`REACH` pixels it compares the image's surroundings with those at d, and takes a weighted mean of
x and all x(. + d). With s the image without its noisiest and its slowest frequencies, E a mean over
33 x 33 pixels, F one over 7 x 7, and v the noise's variance in s,

    rho_d = E(s s_d) / sqrt(E(s^2) E(s_d^2)),        how alike they are
    e_d = max(0, E((s - s_d)^2) - 2 v) / 2 v,        how much they differ beyond noise
    f_d = max(0, F((s - s_d)^2) - 2 v) / 2 v,        and just here: an atom that is missing
    weight_d = (rho_d / largest rho)^4 gate / (1 + (e_d / 0.6)^2 + (f_d / 4)^2)

and gate rises from 0 to 1 while the largest rho goes from 0.2 to 0.4, times a second one, while
that goes from 0.35 to 0.55 of what a perfect crystal has, 1 - v / E(s^2). (Noise alone has 0.3:
where there is nothing else, it is averaged too.) Where there is a specimen and nothing repeats, x
stays; where much does, x's noise falls to `left` of what it was. Two passes of a network follow,
told of all the noise and of a third of it, and `left` says how much of each is taken.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from .denoiser import Denoiser

REACH = 20  # pixels: the largest offset
NEAREST = 5  # pixels: nearer ones are neighbours, not repetitions
HALF = 16  # pixels: half of the surroundings that are compared
EDGE = 9  # pixels: what the filter of s needs
LEFT = 0.3  # of the noise, that the second pass is told of
SMOOTH = (0.05, 0.25, 0.4, 0.25, 0.05)


def _mean_of_33(x: Tensor) -> Tensor:
    """Over 33 x 33 pixels: smaller by 32. Sums by doubling have the same bits anywhere."""
    for axis in (2, 3):
        total = x
        for step in (1, 2, 4, 8, 16):
            size = total.size(axis) - step
            total = total.narrow(axis, 0, size) + total.narrow(axis, step, size)
        size = x.size(axis) - 32
        x = total.narrow(axis, 0, size) + x.narrow(axis, 32, size)
    return x / (33 * 33)


def _mean_of_7(x: Tensor) -> Tensor:
    """Over 7 x 7 pixels: smaller by 6."""
    for axis in (2, 3):
        size = x.size(axis) - 6
        two = x.narrow(axis, 0, size + 5) + x.narrow(axis, 1, size + 5)
        four = two.narrow(axis, 0, size) + two.narrow(axis, 2, size)
        x = four + two.narrow(axis, 4, size) + x.narrow(axis, 6, size)
    return x / 49


class Repeats(nn.Module):
    """A mean over what repeats, then a network; see the module's docstring.

    network: what takes off the rest of the noise
    """

    radius: int

    def __init__(self, network: Denoiser):
        super().__init__()
        self.network = network
        # a scripted module knows its own numbers, and not those of its file
        self.reach, self.nearest, self.half, self.edge = REACH, NEAREST, HALF, EDGE
        self.part = LEFT
        self.around = REACH + HALF + EDGE
        self.radius = self.around + network.radius
        line = torch.tensor(SMOOTH, dtype=torch.float32)
        kernel = line[:, None] * line
        self.register_buffer("kernel", kernel[None, None], persistent=False)
        self.gain = float(kernel.square().sum())

    def filtered(self, x: Tensor) -> Tensor:
        """s: smoothed over 5 x 5 pixels, without the mean of 15 x 15; smaller by EDGE each side."""
        n, channels, rows, columns = x.size()
        flat = x.reshape(n * channels, 1, rows, columns)
        s = functional.conv2d(flat, self.kernel)
        mean = functional.avg_pool2d(functional.avg_pool2d(s, [15, 1], 1), [1, 15], 1)
        s = s[:, :, 7:-7, 7:-7] - mean
        return s.reshape(n, channels, s.size(2), s.size(3))

    def averaged(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and `left`: ``[n, channels or 1, rows - 2 around, columns - 2 around]``."""
        reach, border, around = self.reach, self.half + self.edge, self.around
        s = self.filtered(x)
        variance = noise.square().reshape(-1, 1, 1, 1) * (self.gain * x.size(1)) + 1e-30
        square = s.square().sum(1, keepdim=True)
        power = _mean_of_33(square)  # E(s^2), with offsets around
        length = torch.rsqrt(power + 1e-30)
        rows, columns = x.size(2) - 2 * around, x.size(3) - 2 * around
        here = s[:, :, reach:-reach, reach:-reach]
        own = power[:, :, reach:-reach, reach:-reach]
        own_length = length[:, :, reach:-reach, reach:-reach]
        inner = self.half - 3
        close = here[:, :, inner:-inner, inner:-inner]
        near = x[:, :, border:-border, border:-border]
        x = x[:, :, around:-around, around:-around]
        most = torch.zeros_like(own)
        weights = torch.zeros_like(own)
        squares = torch.zeros_like(own)
        others = torch.zeros_like(x)
        for i in range(2 * reach + 1):
            for j in range(2 * reach + 1):
                far = (i - reach) * (i - reach) + (j - reach) * (j - reach)
                if far < self.nearest * self.nearest or far > reach * reach:
                    continue
                there = s[:, :, i : i + here.size(2), j : j + here.size(3)]
                both = (here * there).sum(1, keepdim=True)
                both = _mean_of_33(both)
                its = power[:, :, i : i + rows, j : j + columns]
                alike = (both * own_length * length[:, :, i : i + rows, j : j + columns]).clamp_min(
                    0
                )
                most = torch.maximum(most, alike)
                differ = (own + its - 2 * both - 2 * variance).clamp_min(0) / (1.2 * variance)
                apart = close - there[:, :, inner:-inner, inner:-inner]
                apart = _mean_of_7(apart.square().sum(1, keepdim=True))
                flaw = (apart - 2 * variance).clamp_min(0) / (8 * variance)
                weight = alike.square().square() / (1 + differ.square() + flaw.square())
                weights += weight
                squares += weight.square()
                others += weight * near[:, :, i : i + rows, j : j + columns]
        specimen = (1 - variance / (own + 1e-30)).clamp_min(0.05)
        gate = ((most - 0.2) / 0.2).clamp(0, 1) * ((most / specimen - 0.35) / 0.2).clamp(0, 1)
        scale = gate / most.clamp_min(0.2).square().square()
        total = 1 + scale * weights
        left = torch.sqrt(1 + scale.square() * squares) / total
        return (x + scale * others) / total, left

    def inside(self, x: Tensor, noise: Tensor) -> Tensor:
        """The same without padding: ``[n, channels, rows - 2 radius, columns - 2 radius]``."""
        mean, left = self.averaged(x, noise)
        r = self.network.radius
        left = left[:, :, r:-r, r:-r]
        share = ((1 - left) / (1 - self.part)).clamp(0, 1)
        little = self.network.inside(mean, self.part * noise)
        return share * little + (1 - share) * self.network.inside(mean, noise)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        r = self.radius
        return self.inside(functional.pad(x, [r, r, r, r], mode="replicate"), noise)
