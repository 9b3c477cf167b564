"""The operators as plain functions. Formulae: csrc/README.md in the source tree."""

from collections.abc import Sequence

import torch
from torch import Tensor


def exit_waves(
    object: Tensor,
    probe: Tensor,
    positions: Tensor,
    propagator: Tensor | None = None,
    *,
    origin: Sequence[int] = (0, 0),
) -> Tensor:
    """Waves behind the last slice, by the multislice method.

    Differentiable, to any order, in object, probe, positions and propagator.

    Args:
        object: ``[slices, rows, columns]`` complex transmission or real phase shift in radians.
        probe: ``[modes, h, w]`` complex.
        positions: ``[n, 2]`` float64, (row, column) of the window's corner in object pixels.
        propagator: ``[h, w]`` or ``[slices - 1, h, w]`` complex, zero frequency at ``[0, 0]``.
        origin: corner of `object` in the frame of `positions`.

    Returns:
        ``[n, modes, h, w]`` complex.

    Raises:
        ValueError, TypeError: naming the argument, the rule and the value received.
    """
    return torch.ops.ptyle.exit_waves(object, probe, positions, propagator, origin=list(origin))


def diffraction(
    object: Tensor,
    probe: Tensor,
    positions: Tensor,
    propagator: Tensor | None = None,
    *,
    origin: Sequence[int] = (0, 0),
    detector: Tensor | None = None,
) -> Tensor:
    """Diffracted intensity, modes summed.

    ``|F psi|^2`` with the unitary Fourier transform in the far field; with `detector`, a transfer
    function ``[h, w]``, ``|F^-1[detector F psi]|^2`` in the near field. Differentiable as
    `exit_waves`, whose arguments it shares.

    Returns:
        ``[n, h, w]`` real, zero frequency at ``[0, 0]`` in the far field.

    Raises:
        ValueError, TypeError: naming the argument, the rule and the value received.
    """
    return torch.ops.ptyle.diffraction(
        object, probe, positions, propagator, origin=list(origin), detector=detector
    )


def diffraction_loss(
    object: Tensor,
    probe: Tensor,
    positions: Tensor,
    propagator: Tensor | None,
    patterns: Tensor,
    *,
    weights: Tensor | None = None,
    mask: Tensor | None = None,
    background: Tensor | None = None,
    likelihood: str = "amplitude",
    origin: Sequence[int] = (0, 0),
    detector: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """How badly the model explains measured patterns: loss and gradients in one sweep.

    With intensity I, background b and counts n, summed over unmasked pixels:
    ``amplitude`` (sqrt(I + b) - sqrt(n))^2; ``poisson`` I + b - n ln(I + b) minus its value at
    I + b = n; ``gaussian`` (I + b - n)^2 (Thibault & Guizar-Sicairos 2012, New J. Phys. 14,
    063004).

    Args:
        patterns: ``[n, h, w]`` counts as stored.
        weights: ``[n]`` real factors of the patterns' losses in the sum.
        mask: ``[h, w]`` or ``[n, h, w]`` bool or uint8, nonzero = bad pixel.
        background: ``[h, w]`` or ``[n, h, w]`` real.
        likelihood: "amplitude", "poisson" or "gaussian".

    Returns:
        loss ``[]``, the weighted sum, differentiable in object, probe, positions and propagator;
        losses ``[n]``, per pattern, unweighted, not differentiable.

    Raises:
        ValueError, TypeError: naming the argument, the rule and the value received.
        NotImplementedError: a gradient is asked for patterns, weights, mask, background, detector.
    """
    return torch.ops.ptyle.diffraction_loss(
        object,
        probe,
        positions,
        propagator,
        patterns,
        weights=weights,
        mask=mask,
        background=background,
        likelihood=likelihood,
        origin=list(origin),
        detector=detector,
    )


def illumination(
    probe: Tensor, positions: Tensor, shape: Sequence[int], *, origin: Sequence[int] = (0, 0)
) -> Tensor:
    """Sum of ``|probe|^2`` over modes and positions, ``[rows, columns]`` real.

    The whole-pixel part of the positions is used. Differentiable in the probe.
    """
    return torch.ops.ptyle.illumination(probe, positions, list(shape), origin=list(origin))
