"""An amortised network: from patterns to an object to start a reconstruction from, in five passes.

``forward(patterns, positions, probe, shape, origin=(0, 0))``
    patterns   ``[n, h, w]`` counts, any real type, zero frequency at ``[0, 0]``
    positions  ``[n, 2]`` float64, (row, column) of the window's corner, object pixels
    probe      ``[modes, h, w]`` complex64; its power is set to that of the counts
    shape      (rows, columns) of the object, which begins at `origin`
    gives      ``[1, rows, columns]`` complex64 transmission, 1 where no probe has been

A pass compares every pattern with what the object so far, at first vacuum, would give. The
difference, carried back to the specimen, and the wave's intensity are what an encoder-decoder sees,
of any window. Its features are placed with `ptyle.add_patches`, weighted by the intensity,
normalised, and a few convolutions on the object's grid make changes of phase and amplitude of them.
"""

from collections.abc import Callable, Sequence

import ptyle
import torch
from torch import Tensor, nn
from torch.nn import functional

from . import specimens

FEATURES = 8  # a pattern's, placed on the object's grid
PASSES = 5
DESCENT = 8  # iterations after the last pass, in training


def _of_counted_power(patterns: Tensor, probe: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """counts in the probe's precision, their mean a pattern, and the probe with that power."""
    counts = patterns.to(probe.real.dtype)
    counted = counts.sum((1, 2)).mean()
    return counts, counted, probe * (counted / probe.abs().square().sum()).sqrt()


class InitialObject(nn.Module):
    """See the module's docstring. width: features of the hidden layers."""

    def __init__(self, width: int = 16):
        super().__init__()

        def layer(before: int, after: int, stride: int = 1) -> nn.Conv2d:
            return nn.Conv2d(before, after, 3, stride, 1)

        self.enter = layer(4, width)
        self.down = layer(width, 2 * width, 2)
        self.middle = layer(2 * width, 2 * width)
        self.up = layer(3 * width, FEATURES)
        self.join = layer(FEATURES + 5, width)
        self.deep = layer(width, width)
        self.leave = layer(width, 4)
        with torch.no_grad():  # begins near the linear estimate
            self.leave.weight.mul_(0.1)
            self.leave.bias.zero_()

    def patches(self, waves: Tensor, counts: Tensor, dose: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``[n, FEATURES + 2, h, w]`` and weights ``[n, 1, h, w]``, at most 1.

        The last two features are the linear estimate: changes of log amplitude and phase.

        waves: ``[n, modes, h, w]`` complex exit waves; counts: ``[n, h, w]``; dose: ``[]``, a
        measure of the counts a pattern
        """
        far = torch.fft.fft2(waves, norm="ortho")
        model = far.abs().square().sum(1, keepdim=True)
        # a twentieth of a count: dark pixels hold nothing about the specimen's first order
        ratio = ((counts[:, None] + 0.05) / (model + 0.05)).sqrt() - 1
        light = waves.abs().square().sum(1, keepdim=True)
        back = (waves.conj() * torch.fft.ifft2(ratio * far, norm="ortho")).sum(1, keepdim=True)
        peak = light.amax((2, 3), keepdim=True).clamp_min(1e-12)
        light = light / peak
        linear = torch.view_as_real(back / peak / (light + 0.01)).movedim(-1, 1).squeeze(2)
        bright = dose.expand(light.shape)
        seen = torch.relu(
            self.enter(torch.cat([linear, 1 + 0.2 * torch.log(light + 1e-4), bright], 1))
        )
        low = torch.relu(self.middle(torch.relu(self.down(seen))))
        low = functional.interpolate(low, seen.shape[2:], mode="nearest")
        return torch.cat([self.up(torch.cat([seen, low], 1)), linear], 1), light

    def passes(
        self,
        patterns: Tensor,
        positions: Tensor,
        probe: Tensor,
        shape: Sequence[int],
        origin: Sequence[int] = (0, 0),
    ) -> list[Tensor]:
        """The object after every pass, each ``[1, rows, columns]`` complex64."""
        counts, counted, probe = _of_counted_power(patterns, probe)
        dose = torch.log10(counted.clamp_min(1)) - 6
        corners = positions.floor()
        now = torch.zeros(2, *shape, dtype=counts.dtype)  # log amplitude and phase
        found = [torch.polar(torch.exp(now[:1]), now[1:])]
        for _ in range(PASSES):
            waves = ptyle.exit_waves(found[-1], probe, positions, origin=origin)
            features, light = self.patches(waves, counts, dose)
            weight = ptyle.add_patches(light, corners, shape, origin=origin)
            total = ptyle.add_patches(light * features, corners, shape, origin=origin)
            mean = total / (weight + 5e-4)
            seen = torch.cat([mean, now, dose.expand(1, *shape)])[None]
            made = self.leave(torch.relu(self.deep(torch.relu(self.join(seen)))))[0]
            # how much of the linear estimate to believe, and what to add
            made = 2 * torch.sigmoid(made[:2]) * mean[-2:] + made[2:]
            # where no probe has been nothing is known
            now = now + made * (weight / (weight + 5e-4))
            now = torch.cat([now[:1].clamp(-2, 0.5), now[1:]])
            found.append(torch.polar(torch.exp(now[:1]), now[1:]))
        return found[1:]

    def forward(
        self,
        patterns: Tensor,
        positions: Tensor,
        probe: Tensor,
        shape: Sequence[int],
        origin: Sequence[int] = (0, 0),
    ) -> Tensor:
        found = self.passes(patterns, positions, probe, shape, origin)
        probe = _of_counted_power(patterns, probe)[2].detach()
        last = torch.log(found[-1])
        # an unfamiliar experiment: less of it, or vacuum, where that explains the patterns better
        damped = [torch.exp(part * last) for part in (1.0, 0.5, 0.25, 0.0)]
        with torch.no_grad():
            losses = [
                ptyle.diffraction_loss(
                    made.detach(), probe, positions, None, patterns, origin=origin
                )[0]
                for made in damped
            ]
        return damped[int(torch.stack(losses).argmin())]


def random_problem(
    sources: Sequence[Tensor], generator: torch.Generator, window: int = 32, scan: int = 7
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """patterns, positions, probe and true transmission of a random experiment with electrons.

    A probe of 200 keV, 15 to 21 mrad, 6 to 12 nm underfocus, pixels of 0.4 angstrom; a raster of
    scan x scan positions, 3 to 4 pixels apart with jitter; a specimen of 0.2 to 2.5 rad that
    absorbs up to 10 %; 1e5 to 1e8 counts a pattern, Poisson's noise.
    """

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    wavelength = ptyle.electron_wavelength(200)
    probe = ptyle.aberrated_probe(
        (window, window),
        0.4,
        wavelength,
        uniform(15, 21),
        uniform(6, 12),
        edge_mrad=1.0,
        dtype=torch.complex64,
    ).reshape(1, window, window)
    step = uniform(3, 4)
    positions = ptyle.raster_positions((scan, scan), step, uniform(0, 360), 0.5, generator)
    positions = positions - positions.amin(0).floor()
    shape = ptyle.object_shape(positions, (window, window))
    piece = specimens.pieces(sources, 1, max(shape), generator)[0, :, : shape[0], : shape[1]]
    phase = piece * specimens.logarithmic(1, (0.2, 2.5), generator)[0]
    truth = torch.polar(1 - uniform(0, 0.1) * piece.clamp(0, 1), phase)
    counts = float(specimens.logarithmic(1, (1e5, 1e8), generator))
    probe = probe * (counts / probe.abs().square().sum()).sqrt()
    patterns = torch.poisson(ptyle.diffraction(truth, probe, positions), generator=generator)
    # the probe's power as the program finds it, from the counts; the truth takes what it absorbed
    change = (patterns.sum((1, 2)).mean() / probe.abs().square().sum()).sqrt()
    return patterns, positions, probe * change, truth / change


def training_loss(model: nn.Module, sources: list[Tensor], settings: dict, step: int) -> Tensor:
    """How far the made objects are from explaining the patterns: 0 where they do as the truth does.

    The logarithm of `ptyle.diffraction_loss` over that of the truth (its noise), so that easy and
    hard experiments count the same: after `DESCENT` iterations of gradient descent from the last
    pass, and a third of it after every pass. What descent finds at once need not be learned; what
    it is slow to find is.
    """
    generator = torch.Generator().manual_seed(settings["seed"] * 1_000_003 + step)
    total = torch.zeros(())
    for _ in range(settings["batch"]):
        patterns, positions, probe, truth = random_problem(sources, generator, settings["size"])

        def misfit(object: Tensor, probe=probe, positions=positions, patterns=patterns) -> Tensor:
            return ptyle.diffraction_loss(object, probe, positions, None, patterns)[0]

        least = misfit(truth)
        made = model.passes(patterns, positions, probe, truth.shape[1:])
        length = step_lengths(probe, positions, truth.shape[1:])
        refined = made[-1]
        for _ in range(DESCENT):
            (slope,) = torch.autograd.grad(misfit(refined), refined, create_graph=True)
            refined = refined - length * slope
        total = total + torch.log(misfit(refined) / least)
        total = total + 0.3 * sum(torch.log(misfit(one) / least) for one in made)
    return total / settings["batch"]


def step_lengths(probe: Tensor, positions: Tensor, shape: Sequence[int]) -> Tensor:
    """``[rows, columns]``: of gradient descent, as the program's."""
    light = ptyle.illumination(probe, positions, shape)
    return 0.5 / (light + 0.05 * light.max())


@torch.no_grad()
def descent(
    start: Tensor, patterns: Tensor, positions: Tensor, probe: Tensor, iterations: int, batches=8
) -> list[float]:
    """Errors before every iteration, and after the last, of the program's own gradient descent.

    The error is the mean over pixels of (sqrt(I) - sqrt(n))^2 of one object; a batch's gradient is
    divided by twice what illuminates a pixel in the whole scan, plus a twentieth of the largest.
    """
    made = start.clone()
    parts = [torch.arange(number, len(positions), batches) for number in range(batches)]
    step = step_lengths(probe, positions, made.shape[1:])
    errors = []
    for iteration in range(iterations + 1):
        losses = torch.zeros(len(positions), dtype=torch.double)
        gradient = torch.zeros_like(made)

        def visit(part: slice | Tensor, made=made, gradient=gradient, losses=losses) -> None:
            some = torch.zeros_like(losses[part])
            ptyle.diffraction_loss_accumulate_(
                made,
                probe,
                positions[part],
                None,
                patterns[part],
                grad_object=gradient,
                losses=some,
            )
            losses[part] = some

        visit(slice(None))
        errors.append(float(losses.sum() / patterns.numel()))
        if iteration < iterations:
            for part in parts:
                gradient.zero_()
                visit(part)
                made -= step * gradient
    return errors


@torch.no_grad()
def iterations_saved(
    model: Callable, seed: int, folder, experiments: int = 6, window: int = 32, scan: int = 9
) -> list[dict]:
    """On held-out specimens: errors after 20 iterations from vacuum, and how many from `model`'s
    object reach that error."""
    sources = list(specimens.images(specimens.HELD_OUT, folder, 1000 + seed).values())
    rows = []
    for number in range(experiments):
        generator = torch.Generator().manual_seed(2_000_000 * (seed + 1) + number)
        one = [sources[number % len(sources)]]
        patterns, positions, probe, truth = random_problem(one, generator, window, scan)
        made = model(patterns, positions, probe, truth.shape[1:])
        flat = descent(torch.ones_like(made), patterns, positions, probe, 20)
        warm = descent(made, patterns, positions, probe, 20)
        reached = next((i for i, error in enumerate(warm) if error <= flat[-1]), None)
        rows.append({"flat": flat, "warm": warm, "reached": reached})
    return rows
