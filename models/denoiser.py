"""A residual convolutional denoiser for the object's phase, its phase and amplitude, or the probe.

``forward(x, noise)``
    x      ``[n, channels, rows, columns]`` float32: phase in radians; phase in radians and
           amplitude (vacuum 1); or real and imaginary part
    noise  ``[n]`` float32, at least 0: standard deviation of the noise in every channel, in the
           units of x
    gives  x minus the estimated noise, in the shape and units of x

It commutes with a change of units and of offset, D(a x + c, a noise) = a D(x, noise) + c for a > 0
and a constant c a channel: neither is to be guessed, a phase's arbitrary constant stays, and only
the ratio of contrast to noise has to be met in training. noise = 0 gives x itself.

An output pixel depends on the input pixels within `radius` rows and columns of it. The input is
padded once, by `radius` copies of its outermost pixels, and no layer pads again: a tile that
reaches `radius` pixels beyond what is kept of it, or to the object's edge, gives what the whole
object gives.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

# Dilation of every 3 x 3 layer. Their sum is the radius.
DILATIONS = (1, 2, 4, 8, 8, 4, 2, 1)


class Denoiser(nn.Module):
    """Estimates noise from its surroundings and takes it off; see the module's docstring.

    channels: 1 (phase) or 2 (phase and amplitude; real and imaginary)
    width: features of the hidden layers
    dilations: of the 3 x 3 convolutions, one a layer, at least two
    """

    radius: int

    def __init__(self, channels: int = 1, width: int = 24, dilations=DILATIONS):
        super().__init__()
        sizes = [channels] + [width] * (len(dilations) - 1) + [channels]
        self.radius = int(sum(dilations))
        self.first = nn.Parameter(torch.empty(width, channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(width))
        nn.init.kaiming_normal_(self.first, nonlinearity="relu")
        self.dilation = int(dilations[0])
        self.layers = nn.ModuleList(
            nn.Conv2d(sizes[i], sizes[i + 1], 3, dilation=dilations[i])
            for i in range(1, len(dilations))
        )
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        with torch.no_grad():  # an untrained denoiser changes little
            self.layers[-1].weight.mul_(0.1)
        self.to(memory_format=torch.channels_last)  # twice as fast on a CPU

    def inside(self, x: Tensor, noise: Tensor) -> Tensor:
        """The same without padding: ``[n, channels, rows - 2 radius, columns - 2 radius]``."""
        r = self.radius
        scale = noise.reshape(-1, 1, 1, 1)
        # kernels whose sum is 0 see no offset
        kernel = self.first - self.first.mean(dim=[2, 3], keepdim=True)
        h = functional.conv2d(x / scale.clamp_min(1e-6), kernel, self.bias, 1, 0, self.dilation)
        for layer in self.layers:
            h = layer(torch.relu(h))
        return x[:, :, r : x.size(2) - r, r : x.size(3) - r] - scale * h

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        r = self.radius
        return self.inside(functional.pad(x, [r, r, r, r], mode="replicate"), noise)
