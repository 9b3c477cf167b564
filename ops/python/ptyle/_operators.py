"""The operators as plain functions. Formulae: ``ptyle.reference`` has them in plain torch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ptyle._arguments import (
    check_optional_tensors,
    check_tensors,
    check_text,
    integer,
    integers,
    list_of_tensors,
    number,
    pair,
)

LIKELIHOOD = "the name of a likelihood"
GROUP = "the name of a process group (its group_name)"


def exit_waves(
    object: Tensor,
    probe: Tensor,
    positions: Tensor,
    propagator: Tensor | None = None,
    *,
    origin: Sequence[int] = (0, 0),
) -> Tensor:
    """Waves behind the last slice, by the multislice method.

    ``psi_{s+1} = F^-1[H_s F(psi_s O_s)]`` (Cowley & Moodie 1957, Acta Cryst. 10, 609); one slice
    is the product of probe and object. psi_0 is the probe, moved by the position's fraction f:
    ``F^-1[exp(-2 pi i k.f) F P]``, where h or w is even with ``cos(pi f)`` in the row or column of
    the Nyquist frequency. Differentiable, to any order, in object, probe, positions and propagator.

    Args:
        object: ``[slices, rows, columns]`` complex transmission or real phase shift in radians;
            vacuum where a window hangs over its edge.
        probe: ``[modes, h, w]`` complex.
        positions: ``[n, 2]`` float64, (row, column) of the window's corner in object pixels.
        propagator: ``[h, w]`` or ``[slices - 1, h, w]`` complex, zero frequency at ``[0, 0]``; None
            for one slice.
        origin: corner of `object` in the frame of `positions`.

    Returns:
        ``[n, modes, h, w]`` in the probe's type.

    Raises:
        ValueError, TypeError: naming the argument, the rule and the value received.

    Example:
        >>> import torch, ptyle
        >>> probe = torch.randn(2, 16, 16, dtype=torch.complex64)
        >>> positions = ptyle.raster_positions((3, 4), 2.5)
        >>> phase = torch.rand(4, *ptyle.object_shape(positions, (16, 16)))
        >>> propagator = ptyle.fresnel_propagator((16, 16), 0.2, 0.0251, 20.0)
        >>> ptyle.exit_waves(phase, probe, positions, propagator).shape
        torch.Size([12, 2, 16, 16])
        >>> # complex unknowns as real leaves: several optimisers are wrong for complex ones
        >>> leaf = torch.view_as_real(probe).clone().requires_grad_()  # [modes, h, w, 2]
        >>> optimizer = torch.optim.Adam([leaf], lr=0.01)
        >>> waves = ptyle.exit_waves(phase, torch.view_as_complex(leaf), positions, propagator)
        >>> waves.abs().square().sum().backward()
        >>> optimizer.step()
    """
    check_tensors("exit_waves", object=object, probe=probe, positions=positions)
    check_optional_tensors("exit_waves", propagator=propagator)
    origin = pair("exit_waves", "origin", origin)
    return torch.ops.ptyle.exit_waves(object, probe, positions, propagator, origin=origin)


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

    With the exit waves psi, ``|F psi|^2`` with the unitary Fourier transform in the far field,
    ``|F^-1[detector exp(+2 pi i k.f) F psi]|^2`` in the near field (Goodman 2005, Introduction to
    Fourier Optics, chapter 4; modes: Thibault & Menzel 2013, Nature 494, 68). There the detector
    stands still relative to the beam: the exit wave is moved back by the fraction f of the position
    by which the probe was moved. A probe that fills the window would wrap around it: then move the
    object's patches, see `extract_patches`. Differentiable, to any order, in object, probe,
    positions and propagator.

    Args:
        object: ``[slices, rows, columns]`` complex transmission or real phase shift in radians;
            vacuum where a window hangs over its edge.
        probe: ``[modes, h, w]`` complex.
        positions: ``[n, 2]`` float64, (row, column) of the window's corner in object pixels.
        propagator: ``[h, w]`` or ``[slices - 1, h, w]`` complex, zero frequency at ``[0, 0]``; None
            for one slice.
        origin: corner of `object` in the frame of `positions`.
        detector: ``[h, w]`` complex transfer function from the exit plane to a near-field detector
            that stands still relative to the beam, zero frequency at ``[0, 0]``; None for the far
            field.

    Returns:
        ``[n, h, w]`` real, in the probe's precision; zero frequency at ``[0, 0]`` in the far field.

    Raises:
        ValueError, TypeError: naming the argument, the rule and the value received.

    Example:
        >>> import torch, ptyle
        >>> probe = torch.randn(2, 16, 16, dtype=torch.complex64)
        >>> positions = ptyle.raster_positions((3, 4), 2.5)
        >>> phase = torch.rand(1, *ptyle.object_shape(positions, (16, 16)))
        >>> intensity = ptyle.diffraction(phase, probe, positions)
        >>> intensity.shape, intensity.dtype
        (torch.Size([12, 16, 16]), torch.float32)
        >>> torch.allclose(intensity[0].sum(), probe.abs().square().sum())  # a phase absorbs none
        True
    """
    check_tensors("diffraction", object=object, probe=probe, positions=positions)
    check_optional_tensors("diffraction", propagator=propagator, detector=detector)
    origin = pair("diffraction", "origin", origin)
    return torch.ops.ptyle.diffraction(
        object, probe, positions, propagator, origin=origin, detector=detector
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

    Every gradient is finite, also without counts and without intensity: where I + b is 0 or less,
    the slope of ``amplitude`` is 0 and its model 0; the logarithm's argument is held above 1e-6.
    Negative counts are 0 for these two and as they are for ``gaussian``. Counts that are not
    numbers give a loss that is none; under the mask may be anything. No tensor of all waves is ever
    made: memory does not grow with n beyond `patterns` and `losses`, also in the backward pass.

    Args:
        object: ``[slices, rows, columns]`` complex transmission or real phase shift in radians;
            vacuum where a window hangs over its edge.
        probe: ``[modes, h, w]`` complex.
        positions: ``[n, 2]`` float64, (row, column) of the window's corner in object pixels.
        propagator: ``[h, w]`` or ``[slices - 1, h, w]`` complex, zero frequency at ``[0, 0]``; None
            for one slice.
        patterns: ``[n, h, w]`` counts: uint8, int16, uint16, int32, float32 or float64 as they are;
            other integers and floats are copied into one of these in every call, where they fit.
        weights: ``[n]`` real factors of the patterns' losses in the sum.
        mask: ``[h, w]`` or ``[n, h, w]`` bool or uint8, nonzero = bad pixel.
        background: ``[h, w]`` or ``[n, h, w]`` real.
        likelihood: the name of one of those above.
        origin: corner of `object` in the frame of `positions`.
        detector: ``[h, w]`` complex transfer function from the exit plane to a near-field detector
            that stands still relative to the beam, zero frequency at ``[0, 0]``; None for the far
            field.

    Returns:
        loss ``[]``, the weighted sum, differentiable, to any order, in object, probe, positions and
        propagator; losses ``[n]``, per pattern, unweighted, not differentiable. Both in the probe's
        precision, summed in double.

    Raises:
        ValueError, TypeError: naming the argument, the rule and the value received.
        NotImplementedError: a gradient is asked for patterns, weights, mask, background, detector.

    Example:
        >>> import torch, ptyle
        >>> probe = torch.randn(2, 16, 16, dtype=torch.complex64)
        >>> positions = ptyle.raster_positions((3, 4), 2.5)
        >>> phase = torch.rand(1, *ptyle.object_shape(positions, (16, 16)))
        >>> patterns = ptyle.diffraction(phase, probe, positions)
        >>> guess = torch.zeros_like(phase, requires_grad=True)
        >>> loss, losses = ptyle.diffraction_loss(guess, probe, positions, None, patterns)
        >>> loss.backward()
        >>> losses.shape, guess.grad.shape == phase.shape
        (torch.Size([12]), True)
        >>> ptyle.diffraction_loss(phase, probe, positions, None, patterns)[0] < 1e-6 * loss
        tensor(True)
    """
    name = "diffraction_loss"
    check_tensors(name, object=object, probe=probe, positions=positions, patterns=patterns)
    check_optional_tensors(
        name,
        propagator=propagator,
        weights=weights,
        mask=mask,
        background=background,
        detector=detector,
    )
    check_text(name, "likelihood", likelihood, LIKELIHOOD)
    origin = pair(name, "origin", origin)
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
        origin=origin,
        detector=detector,
    )


def diffraction_loss_accumulate_(
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
    grad_object: Tensor | None = None,
    grad_probe: Tensor | None = None,
    grad_positions: Tensor | None = None,
    grad_propagator: Tensor | None = None,
    losses: Tensor,
    illumination: Tensor | None = None,
    amplitude_errors: Tensor | None = None,
) -> None:
    """`diffraction_loss` without autograd, adding into the caller's buffers.

    For optimisers of one's own: one buffer a run instead of a gradient a call. The other arguments
    are those of `diffraction_loss`.

    Args:
        grad_object: contiguous, shape and type of `object`; the gradient of the weighted sum is
            added. None: not computed.
        grad_probe: the same for `probe`.
        grad_positions: the same for `positions`.
        grad_propagator: the same for `propagator`.
        losses: ``[n]`` float64, contiguous; every pattern's unweighted loss is added.
        illumination: ``[slices, rows, columns]`` real, contiguous, beside `grad_object`; the sum
            over positions and modes of the intensity that falls on each slice is added at the
            positions' whole pixels: what a step along `grad_object` is divided by. Not weighted.
        amplitude_errors: as `losses`; the sum of (sqrt(I + b) - sqrt(n))^2 is added, whatever the
            likelihood.

    Raises:
        ValueError, TypeError: naming the argument, the rule and the value received; buffers that
            share memory with each other or with an input.
        NotImplementedError: a tensor requires a gradient.

    Example:
        >>> import torch, ptyle
        >>> probe = torch.randn(2, 16, 16, dtype=torch.complex64)
        >>> positions = ptyle.raster_positions((3, 4), 2.5)
        >>> phase = torch.rand(1, *ptyle.object_shape(positions, (16, 16)))
        >>> patterns = ptyle.diffraction(phase, probe, positions)
        >>> guess = torch.zeros_like(phase)
        >>> gradient = torch.zeros_like(guess)
        >>> losses = torch.zeros(len(positions), dtype=torch.double)
        >>> for batch in (slice(0, 6), slice(6, 12)):
        ...     ptyle.diffraction_loss_accumulate_(
        ...         guess,
        ...         probe,
        ...         positions[batch],
        ...         None,
        ...         patterns[batch],
        ...         grad_object=gradient,
        ...         losses=losses[batch],
        ...     )
        >>> bool((losses > 0).all()), gradient.abs().sum().item() > 0
        (True, True)
    """
    name = "diffraction_loss_accumulate_"
    check_tensors(
        name, object=object, probe=probe, positions=positions, patterns=patterns, losses=losses
    )
    check_optional_tensors(
        name,
        propagator=propagator,
        weights=weights,
        mask=mask,
        background=background,
        detector=detector,
        grad_object=grad_object,
        grad_probe=grad_probe,
        grad_positions=grad_positions,
        grad_propagator=grad_propagator,
        illumination=illumination,
        amplitude_errors=amplitude_errors,
    )
    check_text(name, "likelihood", likelihood, LIKELIHOOD)
    origin = pair(name, "origin", origin)
    torch.ops.ptyle.diffraction_loss_accumulate_(
        object,
        probe,
        positions,
        propagator,
        patterns,
        weights=weights,
        mask=mask,
        background=background,
        likelihood=likelihood,
        origin=origin,
        detector=detector,
        grad_object=grad_object,
        grad_probe=grad_probe,
        grad_positions=grad_positions,
        grad_propagator=grad_propagator,
        losses=losses,
        illumination=illumination,
        amplitude_errors=amplitude_errors,
    )


def extract_patches(
    object: Tensor,
    positions: Tensor,
    window: Sequence[int],
    *,
    origin: Sequence[int] = (0, 0),
    outside: float = 0.0,
    derivative: Sequence[int] = (0, 0),
) -> Tensor:
    """Windows of an object.

    Between whole pixels the object is interpolated: along each axis by the polynomial of degree 11
    through twelve neighbours (Lagrange), which comes out too small by at most 2e-6 at a quarter of
    the Nyquist frequency and 0.5 % at half of it. Nothing wraps around. Linear in the object, whose
    adjoint is `add_patches`; differentiable in object and positions, to any order.

    Where a probe fills the window, as it often does in the near field, moving the probe by a
    fraction of a pixel would wrap it around the window: move the object instead. `window_stack`
    hands the patches to the other operators.

    Args:
        object: ``[slices, rows, columns]`` real or complex.
        positions: ``[n, 2]`` float64, (row, column) of the window's corner.
        window: (h, w).
        origin: corner of `object` in the frame of `positions`.
        outside: what lies around the object: 0, or 1 for the vacuum around a transmission.
        derivative: how often the patches are differentiated with respect to their positions' row
            and column.

    Returns:
        ``[n, slices, h, w]`` in the object's type.

    Raises:
        ValueError, TypeError: naming the argument, the rule and the value received.

    Example:
        >>> import torch, ptyle
        >>> object = torch.arange(12.0).reshape(1, 3, 4)
        >>> positions = torch.tensor([[0.0, 1.0], [2.0, 3.0]], dtype=torch.double)
        >>> ptyle.extract_patches(object, positions, (2, 2))[:, 0].tolist()
        [[[1.0, 2.0], [5.0, 6.0]], [[11.0, 0.0], [0.0, 0.0]]]
    """
    name = "extract_patches"
    check_tensors(name, object=object, positions=positions)
    return torch.ops.ptyle.extract_patches(
        object,
        positions,
        integers(name, "window", window, "two integers (h, w)"),
        origin=pair(name, "origin", origin),
        outside=number(name, "outside", outside),
        derivative=integers(name, "derivative", derivative, "two integers (rows, columns)"),
    )


def window_stack(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Patches as an object of windows one below another, and the positions of these windows.

    So the operators of the model take an object's patches that `extract_patches` has moved: the
    patch of position n is their window n. Differentiable, as patches are only put elsewhere.

    Args:
        patches: ``[n, slices, h, w]`` real (phases) or complex (transmissions).

    Returns:
        ``[slices, n h, w]`` and ``[n, 2]`` float64.

    Example:
        >>> import torch, ptyle
        >>> object = torch.full((1, 6, 6), 0.3)  # a phase; its vacuum is 0
        >>> positions = torch.tensor([[0.0, 0.0], [1.25, 1.5]], dtype=torch.double)
        >>> probe = torch.ones(1, 4, 4, dtype=torch.complex64)  # fills the window
        >>> patches = ptyle.extract_patches(object, positions, (4, 4))
        >>> windows, corners = ptyle.window_stack(patches)
        >>> detector = torch.ones(4, 4, dtype=torch.complex64)
        >>> ptyle.diffraction(windows, probe, corners, detector=detector).shape
        torch.Size([2, 4, 4])
    """
    check_tensors("window_stack", patches=patches)
    if patches.dim() != 4:
        raise ValueError(
            "ptyle::window_stack: patches must have shape [n, slices, h, w], got "
            f"{list(patches.shape)}"
        )
    n, slices, h, w = patches.shape
    positions = torch.zeros(n, 2, dtype=torch.double, device=patches.device)
    positions[:, 0] = h * torch.arange(n, device=patches.device)
    return patches.transpose(0, 1).reshape(slices, n * h, w), positions


def add_patches(
    patches: Tensor,
    positions: Tensor,
    shape: Sequence[int],
    *,
    origin: Sequence[int] = (0, 0),
    derivative: Sequence[int] = (0, 0),
) -> Tensor:
    """Patches added up in an object, in ascending order of positions.

    Linear in the patches and the adjoint of `extract_patches`, also between whole pixels;
    differentiable in patches and positions, to any order. What hangs over the edge is dropped.

    Args:
        patches: ``[n, slices, h, w]`` real or complex.
        positions: ``[n, 2]`` float64, (row, column) of the patches' corners.
        shape: (rows, columns) of the object.
        origin: corner of the object in the frame of `positions`.
        derivative: how often what is added is differentiated with respect to the positions' row
            and column.

    Returns:
        ``[slices, rows, columns]`` in the patches' type.

    Raises:
        ValueError, TypeError: naming the argument, the rule and the value received.

    Example:
        >>> import torch, ptyle
        >>> positions = torch.tensor([[0.0, 0.0], [0.0, 1.0]], dtype=torch.double)
        >>> ptyle.add_patches(torch.ones(2, 1, 2, 2), positions, (2, 4)).tolist()
        [[[1.0, 2.0, 1.0, 0.0], [1.0, 2.0, 1.0, 0.0]]]
    """
    name = "add_patches"
    check_tensors(name, patches=patches, positions=positions)
    return torch.ops.ptyle.add_patches(
        patches,
        positions,
        integers(name, "shape", shape, "two integers (rows, columns)"),
        origin=pair(name, "origin", origin),
        derivative=integers(name, "derivative", derivative, "two integers (rows, columns)"),
    )


def _communicates(function):
    """Keeps torch.compile out: two equal exchanges may be merged and an unused one removed by a
    compiler, which would leave other ranks waiting. What lies between exchanges is compiled.
    """
    function._torchdynamo_disable = True  # torch.compiler.disable, without importing the compiler
    return function


@_communicates
def halo_insert(
    owned: Sequence[Tensor],
    row_cuts: Sequence[int],
    column_cuts: Sequence[int],
    halo: Sequence[int],
    owners: Sequence[int],
    *,
    group: str = "",
) -> list[Tensor]:
    """Extended tiles from owned ones: halos are filled from their owners, on whatever rank.

    A grid cuts the object into tiles, numbered line by line; every pixel has one owner. Linear and
    differentiable, to any order; the derivative is `halo_add`, and so reverse-mode differentiation
    sums the gradients of all tiles onto the owners, once (image gradient decomposition: Wang et
    al. 2022, SC22). Every rank of the group makes the same calls in the same order, and backward
    communicates too: `owned` requires a gradient on all ranks or on none, and every rank's result
    takes part in what is differentiated (a tile without positions by a loss of 0).

    Args:
        owned: ``[slices, rows, columns]`` real or complex, one for each tile of this rank,
            ascending.
        row_cuts: where rows of tiles begin, from 0, and last the object's rows; they may not
            descend.
        column_cuts: the same for columns.
        halo: (rows, columns) of the margin on each side, clipped to the object. For nothing to be
            cut off a window, half of it, rounded up.
        owners: the rank of every tile.
        group: name of a process group (``torch.distributed.group.WORLD.group_name``); empty: one
            rank. On GPUs one with NCCL that is connected from the start
            (``init_process_group("cpu:gloo,cuda:nccl", device_id=device)``): a rank without
            neighbours sends nothing, and NCCL would wait for it.

    Returns:
        ``[slices, rows, columns]`` with halos, in the same order.

    Raises:
        ValueError, TypeError: naming the argument, the rule and the value received; on all ranks,
            naming two of them, where their calls differ (in groups with a backend for the CPU).
        RuntimeError: another rank does not answer; it is named.

    Example:
        >>> import torch, ptyle
        >>> object = torch.arange(20.0).reshape(1, 4, 5)
        >>> owned = [object[:, :, :2].clone(), object[:, :, 2:].clone()]  # two tiles, one rank
        >>> extended = ptyle.halo_insert(owned, [0, 4], [0, 2, 5], (1, 1), [0, 0])
        >>> extended[0][0, 0].tolist(), extended[1][0, 0].tolist()
        ([0.0, 1.0, 2.0], [1.0, 2.0, 3.0, 4.0])
    """
    check_text("halo_insert", "group", group, GROUP)
    return torch.ops.ptyle.halo_insert(
        list_of_tensors("halo_insert", "owned", owned),
        integers("halo_insert", "row_cuts", row_cuts),
        integers("halo_insert", "column_cuts", column_cuts),
        integers("halo_insert", "halo", halo, "two integers (rows, columns)"),
        integers("halo_insert", "owners", owners),
        group=group,
    )


@_communicates
def halo_add(
    extended: Sequence[Tensor],
    row_cuts: Sequence[int],
    column_cuts: Sequence[int],
    halo: Sequence[int],
    owners: Sequence[int],
    *,
    group: str = "",
) -> list[Tensor]:
    """The adjoint of `halo_insert`: what lies in halos is added to its owners' pixels.

    First the owner's own, then by ascending tile: the bits do not depend on which rank has which
    tile. Linear and differentiable, to any order; the derivative is `halo_insert`.

    Args:
        extended: ``[slices, rows, columns]`` with halos, real or complex, one for each tile of this
            rank, ascending.
        row_cuts: as for `halo_insert`.
        column_cuts: as for `halo_insert`.
        halo: as for `halo_insert`.
        owners: as for `halo_insert`.
        group: as for `halo_insert`.

    Returns:
        ``[slices, rows, columns]`` owned, in the same order.

    Raises:
        ValueError, TypeError: naming the argument, the rule and the value received; on all ranks,
            naming two of them, where their calls differ (in groups with a backend for the CPU).
        RuntimeError: another rank does not answer; it is named.

    Example:
        >>> import torch, ptyle
        >>> extended = [torch.ones(1, 2, 3), torch.ones(1, 2, 4)]
        >>> owned = ptyle.halo_add(extended, [0, 2], [0, 2, 5], (1, 1), [0, 0])
        >>> owned[0][0, 0].tolist(), owned[1][0, 0].tolist()
        ([1.0, 2.0], [2.0, 1.0, 1.0])
    """
    check_text("halo_add", "group", group, GROUP)
    return torch.ops.ptyle.halo_add(
        list_of_tensors("halo_add", "extended", extended),
        integers("halo_add", "row_cuts", row_cuts),
        integers("halo_add", "column_cuts", column_cuts),
        integers("halo_add", "halo", halo, "two integers (rows, columns)"),
        integers("halo_add", "owners", owners),
        group=group,
    )


def cpu_kernels(height: int, width: int) -> str:
    """Which CPU kernels work on windows of a size.

    ``"fused v4"``, ``"fused v3"`` or ``"fused base"``, our own transforms joined with the physics,
    by instruction set: the same for every size. The environment variable ``PTYLE_ISA`` (``v4``,
    ``v3`` or ``base``) overrides the processor's best.

    Args:
        height: rows of a window.
        width: columns of a window.

    Returns:
        The name of the kernels.

    Raises:
        ValueError: a number is below 1, or ``PTYLE_ISA`` names what this processor does not run.

    Example:
        >>> import ptyle
        >>> ptyle.cpu_kernels(64, 97).startswith("fused ")
        True
    """
    name = "cpu_kernels"
    return torch.ops.ptyle.cpu_kernels(
        integer(name, "height", height), integer(name, "width", width)
    )


def good_size(size: int, *, down: bool = False) -> int:
    """The nearest size of a window that is fast on the CPU.

    Those are the numbers without prime factors but 2, 3 and 5. Sizes with other factors take up to
    1.7 times as long, those with a prime factor above 30 up to 4 times; the first call with such a
    one warns.

    Args:
        size: rows or columns of a window, 1 to 16777216.
        down: the largest good size not above `size`, to crop patterns to, instead of the smallest
            not below it, to pad them to.

    Returns:
        The size; `size` itself where it is a good one.

    Raises:
        ValueError, TypeError: naming the argument, the rule and the value received.

    Example:
        >>> import ptyle
        >>> ptyle.good_size(63), ptyle.good_size(63, down=True), ptyle.good_size(64)
        (64, 60, 64)
    """
    return torch.ops.ptyle.good_size(integer("good_size", "size", size), down=bool(down))


def illumination(
    probe: Tensor, positions: Tensor, shape: Sequence[int], *, origin: Sequence[int] = (0, 0)
) -> Tensor:
    """Sum of ``|probe|^2`` over modes and positions.

    The whole-pixel part of the positions is used. Differentiable in the probe, to any order.

    Args:
        probe: ``[modes, h, w]`` complex.
        positions: ``[n, 2]`` float64, (row, column) of the window's corner in object pixels.
        shape: (rows, columns) of the object.
        origin: corner of the object in the frame of `positions`.

    Returns:
        ``[rows, columns]`` real.

    Raises:
        ValueError, TypeError: naming the argument, the rule and the value received.
        NotImplementedError: a gradient is asked for the positions.

    Example:
        >>> import torch, ptyle
        >>> probe = 2 * torch.ones(1, 2, 2, dtype=torch.complex64)
        >>> positions = torch.tensor([[0.0, 0.0], [0.0, 1.7]], dtype=torch.double)
        >>> ptyle.illumination(probe, positions, (2, 4)).tolist()
        [[4.0, 8.0, 4.0, 0.0], [4.0, 8.0, 4.0, 0.0]]
    """
    check_tensors("illumination", probe=probe, positions=positions)
    shape = integers("illumination", "shape", shape, "two integers (rows, columns)")
    origin = pair("illumination", "origin", origin)
    return torch.ops.ptyle.illumination(probe, positions, shape, origin=origin)
