"""The physics of the operators once more, in plain torch, for reading and for comparison.

Every function takes the arguments of its namesake in `ptyle`, shapes and units as described there,
checks none of them, keeps every wave in memory and is differentiable by torch itself, so also in
forward mode and by ``torch.func``. Needs at least one slice. The formulae stand in
``docs/formulae.md`` in the package.
"""

import math

import torch
from torch import Tensor


def _patches(image: Tensor, positions: Tensor, window, origin, outside: float) -> Tensor:
    """``[rows, columns]`` -> ``[n, 1, h, w]``; `outside` beyond the image."""
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1), value=outside)
    index = []
    for axis in range(2):
        corner = positions.detach()[:, axis].floor().long() - origin[axis]
        steps = corner[:, None] + torch.arange(window[axis])
        index.append(steps.clamp(-1, image.shape[axis]) + 1)
    return padded[index[0][:, :, None], index[1][:, None, :]][:, None]


# torch 2.14 has no transform of an empty tensor
def _forward(waves: Tensor, norm: str = "backward") -> Tensor:
    return torch.fft.fft2(waves, norm=norm) if waves.numel() else waves


def _inverse(waves: Tensor) -> Tensor:
    return torch.fft.ifft2(waves) if waves.numel() else waves


def _ramp(probe: Tensor, positions: Tensor) -> Tensor:
    """The Fourier ramp that moves the probe by every position's fraction, ``[n, 1, h, w]``."""
    fraction = positions - positions.detach().floor()
    ramps = []
    for axis in range(2):
        size = probe.shape[axis + 1]
        phase = -2 * math.pi * fraction[:, axis, None] * torch.fft.fftfreq(size, dtype=torch.double)
        ramp = torch.polar(torch.ones_like(phase), phase)
        if size % 2 == 0:  # Nyquist: half of +size/2, half of -size/2
            nyquist = torch.arange(size) == size // 2
            ramp = torch.where(nyquist, torch.cos(phase).to(ramp.dtype), ramp)
        ramps.append(ramp)
    return (ramps[0][:, None, :, None] * ramps[1][:, None, None, :]).to(probe.dtype)


def _waves(object, probe, positions, propagator, origin):
    """The wave that falls on every slice, and last the one behind all, ``[n, modes, h, w]``."""
    wave = _inverse(_ramp(probe, positions) * _forward(probe))
    waves = [wave]
    for s, image in enumerate(object):
        if s > 0:
            factor = propagator[s - 1] if propagator.dim() == 3 else propagator
            waves[s] = wave = _inverse(factor * _forward(wave))
        outside = 1.0 if image.is_complex() else 0.0
        patch = _patches(image, positions, probe.shape[1:], origin, outside)
        if not patch.is_complex():
            patch = torch.polar(torch.ones_like(patch), patch)
        wave = wave * patch
        waves.append(wave)
    return waves


def exit_waves(object, probe, positions, propagator=None, *, origin=(0, 0)):
    """Waves behind the last slice, ``[n, modes, h, w]``; see `ptyle.exit_waves`."""
    return _waves(object, probe, positions, propagator, origin)[-1]


def diffraction(object, probe, positions, propagator=None, *, origin=(0, 0), detector=None):
    """Intensity, modes summed, ``[n, h, w]``; see `ptyle.diffraction`."""
    wave = exit_waves(object, probe, positions, propagator, origin=origin)
    if detector is None:
        wave = _forward(wave, norm="ortho")
    else:  # the detector stands still relative to the beam: the wave is moved back
        back = _ramp(probe, positions).conj()
        wave = _inverse(detector * back * _forward(wave))
    return wave.abs().square().sum(1)


def diffraction_loss(
    object,
    probe,
    positions,
    propagator,
    patterns,
    *,
    weights=None,
    mask=None,
    background=None,
    likelihood="amplitude",
    origin=(0, 0),
    detector=None,
):
    """Loss ``[]`` and losses ``[n]``; see `ptyle.diffraction_loss`."""
    expected = diffraction(object, probe, positions, propagator, origin=origin, detector=detector)
    if background is not None:
        expected = expected + background
    counts = patterns.to(expected.dtype)
    if mask is not None:  # under it may be anything, also not a number
        counts = torch.where(mask.bool(), 0, counts)
    if likelihood == "gaussian":
        pixel = (expected - counts).square()
    elif likelihood == "amplitude":
        lit = expected > 0  # the square root has no slope at 0: there the gradient is 0
        model = torch.where(lit, torch.where(lit, expected, 1).sqrt(), 0)
        pixel = (model - counts.clamp(min=0).sqrt()).square()
    else:
        counts = counts.clamp(min=0)
        at_fit = counts - torch.xlogy(counts, counts)
        pixel = expected - torch.xlogy(counts, expected.clamp(min=1e-6)) - at_fit
    if mask is not None:
        pixel = torch.where(mask.bool(), 0, pixel)
    losses = pixel.sum((1, 2))
    loss = losses.sum() if weights is None else (weights * losses).sum()
    return loss, losses.detach()


def diffraction_loss_accumulate_(
    object,
    probe,
    positions,
    propagator,
    patterns,
    *,
    grad_object=None,
    grad_probe=None,
    grad_positions=None,
    grad_propagator=None,
    losses,
    illumination=None,
    amplitude_errors=None,
    **options,
):
    """Adds into the buffers; see `ptyle.diffraction_loss_accumulate_`."""
    model = [t if t is None else t.detach() for t in (object, probe, positions, propagator)]
    buffers = (grad_object, grad_probe, grad_positions, grad_propagator)
    wanted = [k for k, buffer in enumerate(buffers) if buffer is not None]
    for k in wanted:
        model[k] = model[k].clone().requires_grad_()
    with torch.enable_grad():
        loss, each = diffraction_loss(*model, patterns, **options)
    losses += each
    if wanted:
        inputs = [model[k] for k in wanted]
        gradients = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
        for k, gradient in zip(wanted, gradients, strict=True):
            buffers[k].add_(gradient)
    model = [t if t is None else t.detach() for t in model]
    if amplitude_errors is not None:
        amplitude = options | {"likelihood": "amplitude"}
        amplitude_errors += diffraction_loss(*model, patterns, **amplitude)[1]
    if illumination is not None:
        origin = options.get("origin", (0, 0))
        for total, wave in zip(illumination, _waves(*model, origin), strict=False):
            _add_windows(total, wave.abs().square().sum(1), positions, origin)


def _add_windows(total: Tensor, patches, positions: Tensor, origin) -> None:
    """Adds ``[h, w]`` of every position to an image; what hangs over its edge is lost."""
    corners = positions.detach().floor().long().tolist()
    for patch, (row, column) in zip(patches, corners, strict=True):
        row, column = row - origin[0], column - origin[1]
        top, left = max(row, 0), max(column, 0)
        bottom = min(row + patch.shape[0], total.shape[0])
        right = min(column + patch.shape[1], total.shape[1])
        if top < bottom and left < right:
            total[top:bottom, left:right] += patch[
                top - row : bottom - row, left - column : right - column
            ]


def illumination(probe, positions, shape, *, origin=(0, 0)):
    """Sum of ``|probe|^2`` over modes and positions, see `ptyle.illumination`."""
    intensity = probe.abs().square().sum(0)
    total = torch.zeros(*shape, dtype=intensity.dtype)
    _add_windows(total, [intensity] * len(positions), positions, origin)
    return total


TAPS = range(-5, 7)  # the neighbours that a point between pixels is interpolated from


def _interpolation(positions: Tensor, axis: int, size: int) -> Tensor:
    """The polynomial through twelve neighbours (Lagrange) as matrices ``[n, size, size + 11]``."""
    fraction = (positions - positions.detach().floor())[:, axis]
    matrix = torch.zeros(len(positions), size, size + len(TAPS) - 1, dtype=torch.double)
    for k, tap in enumerate(TAPS):
        weight = torch.ones_like(fraction)
        for other in TAPS:
            if other != tap:
                weight = weight * (fraction - other) / (tap - other)
        matrix = matrix + weight[:, None, None] * torch.eye(size, matrix.shape[2]).roll(k, 1)
    return matrix


def _between(patches: Tensor, positions: Tensor, window, forward: bool) -> Tensor:
    """Patches ``[n, slices, h + 11, w + 11]`` -> ``[n, slices, h, w]``, or the adjoint of that."""
    down, along = (
        _interpolation(positions, axis, window[axis]).to(patches.dtype) for axis in range(2)
    )
    return torch.einsum(
        "nij,nsjk,nlk->nsil" if forward else "nij,nsil,nlk->nsjk", down, patches, along
    )


def extract_patches(object, positions, window, *, origin=(0, 0), outside=0.0):
    """Windows of an object, ``[n, slices, h, w]``; see `ptyle.extract_patches`."""
    around = [size + len(TAPS) - 1 for size in window]
    first = positions + TAPS[0]
    patches = [_patches(image, first, around, origin, outside)[:, 0] for image in object]
    return _between(torch.stack(patches, 1), positions, window, True)


def add_patches(patches, positions, shape, *, origin=(0, 0)):
    """Patches added up, ``[slices, rows, columns]``; see `ptyle.add_patches`."""
    patches = _between(patches, positions, patches.shape[2:], False)
    n, slices, h, w = patches.shape
    padded = torch.zeros(slices, shape[0] + 2 * h, shape[1] + 2 * w, dtype=patches.dtype)
    corners = (positions.detach().floor() + TAPS[0]).long().tolist()
    for patch, (row, column) in zip(patches, corners, strict=True):
        row, column = row - origin[0] + h, column - origin[1] + w
        if 0 <= row <= shape[0] + h and 0 <= column <= shape[1] + w:
            padded[:, row : row + h, column : column + w] += patch
    return padded[:, h : h + shape[0], w : w + shape[1]]
