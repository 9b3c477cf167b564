"""`torch.ops.ptyle` with types, so that editors complete operators and arguments.

Made by ops/docs/make.py from the schemas: change those, not this file.
"""

from collections.abc import Sequence
from typing import Protocol, Self, cast

import torch
from torch import Tensor


class _AddPatches(Protocol):
    @property
    def default(self) -> Self: ...

    def __call__(
        self,
        patches: Tensor,
        positions: Tensor,
        shape: Sequence[int],
        *,
        origin: Sequence[int] = (0, 0),
        derivative: Sequence[int] = (0, 0),
    ) -> Tensor:
        """See `ptyle.add_patches`."""
        ...


class _CpuKernels(Protocol):
    @property
    def default(self) -> Self: ...

    def __call__(self, height: int, width: int) -> str:
        """See `ptyle.cpu_kernels`."""
        ...


class _Diffraction(Protocol):
    @property
    def default(self) -> Self: ...

    def __call__(
        self,
        object: Tensor,
        probe: Tensor,
        positions: Tensor,
        propagator: Tensor | None = None,
        *,
        origin: Sequence[int] = (0, 0),
        detector: Tensor | None = None,
    ) -> Tensor:
        """See `ptyle.diffraction`."""
        ...


class _DiffractionBackward(Protocol):
    @property
    def default(self) -> Self: ...

    def __call__(
        self,
        gradient: Tensor,
        object: Tensor,
        probe: Tensor,
        positions: Tensor,
        propagator: Tensor | None,
        *,
        origin: Sequence[int],
        detector: Tensor | None,
        needs: Sequence[bool],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A derivative of an operator."""
        ...


class _DiffractionLoss(Protocol):
    @property
    def default(self) -> Self: ...

    def __call__(
        self,
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
        """See `ptyle.diffraction_loss`."""
        ...


class _DiffractionLossAccumulate(Protocol):
    @property
    def default(self) -> Self: ...

    def __call__(
        self,
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
        grad_object: Tensor | None,
        grad_probe: Tensor | None,
        grad_positions: Tensor | None,
        grad_propagator: Tensor | None,
        losses: Tensor,
        illumination: Tensor | None = None,
        amplitude_errors: Tensor | None = None,
    ) -> None:
        """See `ptyle.diffraction_loss_accumulate_`."""
        ...


class _DiffractionLossGradients(Protocol):
    @property
    def default(self) -> Self: ...

    def __call__(
        self,
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
        needs: Sequence[bool],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """A derivative of an operator."""
        ...


class _ExitWaves(Protocol):
    @property
    def default(self) -> Self: ...

    def __call__(
        self,
        object: Tensor,
        probe: Tensor,
        positions: Tensor,
        propagator: Tensor | None = None,
        *,
        origin: Sequence[int] = (0, 0),
    ) -> Tensor:
        """See `ptyle.exit_waves`."""
        ...


class _ExitWavesBackward(Protocol):
    @property
    def default(self) -> Self: ...

    def __call__(
        self,
        gradient: Tensor,
        object: Tensor,
        probe: Tensor,
        positions: Tensor,
        propagator: Tensor | None,
        *,
        origin: Sequence[int],
        needs: Sequence[bool],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A derivative of an operator."""
        ...


class _ExtractPatches(Protocol):
    @property
    def default(self) -> Self: ...

    def __call__(
        self,
        object: Tensor,
        positions: Tensor,
        window: Sequence[int],
        *,
        origin: Sequence[int] = (0, 0),
        outside: float = 0.0,
        derivative: Sequence[int] = (0, 0),
    ) -> Tensor:
        """See `ptyle.extract_patches`."""
        ...


class _GoodSize(Protocol):
    @property
    def default(self) -> Self: ...

    def __call__(self, size: int, *, down: bool = False) -> int:
        """See `ptyle.good_size`."""
        ...


class _HaloAdd(Protocol):
    @property
    def default(self) -> Self: ...

    def __call__(
        self,
        extended: Sequence[Tensor],
        row_cuts: Sequence[int],
        column_cuts: Sequence[int],
        halo: Sequence[int],
        owners: Sequence[int],
        *,
        group: str = "",
    ) -> list[Tensor]:
        """See `ptyle.halo_add`."""
        ...


class _HaloInsert(Protocol):
    @property
    def default(self) -> Self: ...

    def __call__(
        self,
        owned: Sequence[Tensor],
        row_cuts: Sequence[int],
        column_cuts: Sequence[int],
        halo: Sequence[int],
        owners: Sequence[int],
        *,
        group: str = "",
    ) -> list[Tensor]:
        """See `ptyle.halo_insert`."""
        ...


class _Illumination(Protocol):
    @property
    def default(self) -> Self: ...

    def __call__(
        self,
        probe: Tensor,
        positions: Tensor,
        shape: Sequence[int],
        *,
        origin: Sequence[int] = (0, 0),
    ) -> Tensor:
        """See `ptyle.illumination`."""
        ...


class TorchOps(Protocol):
    """The operators of the namespace."""

    add_patches: _AddPatches
    cpu_kernels: _CpuKernels
    diffraction: _Diffraction
    diffraction_backward: _DiffractionBackward
    diffraction_loss: _DiffractionLoss
    diffraction_loss_accumulate_: _DiffractionLossAccumulate
    diffraction_loss_gradients: _DiffractionLossGradients
    exit_waves: _ExitWaves
    exit_waves_backward: _ExitWavesBackward
    extract_patches: _ExtractPatches
    good_size: _GoodSize
    halo_add: _HaloAdd
    halo_insert: _HaloInsert
    illumination: _Illumination


ops: TorchOps = cast(TorchOps, torch.ops.ptyle)
