"""Untrained networks as a prior: object and probe as outputs of small decoders (deep image prior).

A reconstruction over their weights instead of pixels: convolutions make regular structures sooner
than noise. Both work for any size, odd and prime ones too, start near vacuum and near a given
probe, and give complex tensors that ptyle's operators take:

    make = Generator((1, 97, 131), guess)
    object, probe = make()
    loss, _ = ptyle.diffraction_loss(object, probe, positions, None, patterns)
    loss.backward()  # reaches make.parameters()
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class Decoder(nn.Module):
    """Images ``[channels, rows, columns]`` from fixed random codes, one of half the size a level.

    levels: how often sizes are halved, no further than to 2 pixels
    """

    def __init__(self, channels: int, shape: Sequence[int], width: int, levels: int, seed: int):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.sizes = [(int(shape[0]), int(shape[1]))]
        while len(self.sizes) <= levels and max(self.sizes[-1]) > 2:
            self.sizes.append(tuple((size + 1) // 2 for size in self.sizes[-1]))
        self.sizes.reverse()
        for level, size in enumerate(self.sizes):
            code = 0.5 * torch.randn(1, width, *size, generator=generator)
            self.register_buffer(f"code{level}", code)
        self.layers = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in self.sizes)
        self.last = nn.Conv2d(width, channels, 1)
        with torch.no_grad():
            for weight in [layer.weight for layer in self.layers]:
                size = (2 / weight[0].numel()) ** 0.5
                weight.copy_(size * torch.randn(weight.shape, generator=generator))
            size = 1e-3 / self.last.weight.shape[1] ** 0.5
            weight = self.last.weight
            weight.copy_(size * torch.randn(weight.shape, generator=generator))
            for layer in [*self.layers, self.last]:
                layer.bias.zero_()

    def forward(self) -> Tensor:
        h = self.code0
        for level, layer in enumerate(self.layers):
            if level:
                h = functional.interpolate(h, self.sizes[level], mode="bilinear")
                h = h + self.get_buffer(f"code{level}")
            h = functional.leaky_relu(layer(h), 0.1)
        return self.last(h)[0]


class ObjectGenerator(nn.Module):
    """An object ``[slices, rows, columns]`` complex64: transmission, within 1e-2 of 1 at first."""

    def __init__(self, shape: Sequence[int], width: int = 32, levels: int = 4, seed: int = 0):
        super().__init__()
        self.slices = int(shape[0])
        self.decoder = Decoder(2 * self.slices, shape[1:], width, levels, seed)

    def forward(self) -> Tensor:
        phase, absorption = self.decoder().split(self.slices)
        return torch.polar(torch.exp(-absorption), phase)


class ProbeGenerator(nn.Module):
    """A probe ``[modes, h, w]`` complex64: the guess plus what a decoder makes.

    guess: ``[modes, h, w]`` complex; a decoder's 1 is the guess's largest amplitude
    """

    def __init__(self, guess: Tensor, width: int = 16, levels: int = 3, seed: int = 1):
        super().__init__()
        self.register_buffer("guess", guess.detach().to(torch.complex64))
        self.decoder = Decoder(2 * guess.shape[0], guess.shape[1:], width, levels, seed)

    def forward(self) -> Tensor:
        real, imaginary = self.decoder().split(self.guess.shape[0])
        return self.guess + self.guess.abs().max() * torch.complex(real, imaginary)


class Generator(nn.Module):
    """Object and probe together: ``make()`` gives both.

    shape: (slices, rows, columns) of the object
    guess: ``[modes, h, w]`` complex, of the probe
    """

    def __init__(self, shape: Sequence[int], guess: Tensor, seed: int = 0):
        super().__init__()
        self.object = ObjectGenerator(shape, seed=seed)
        self.probe = ProbeGenerator(guess, seed=seed + 1)

    def forward(self) -> tuple[Tensor, Tensor]:
        return self.object(), self.probe()
