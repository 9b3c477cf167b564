"""What operators are fed with: propagators, probes, modes and positions, in plain torch.

Lengths carry their unit in the name; everything is computed in double precision and returned in
`dtype`, by default the complex type of ``torch.get_default_dtype()``. Where a function says that
it is differentiable in a value, that value may be a tensor of one element, which keeps its graph;
other numbers that require a gradient are an error. Conventions: plane waves are
``exp(+2j pi k.r)`` with k in 1/angstrom, a lens multiplies by ``exp(-1j chi)``, ``C10 = -defocus``
and underfocus is positive.
"""

import math
from collections.abc import Mapping, Sequence
from operator import index

import torch
from torch import Tensor

# CODATA 2018 (Tiesinga et al. 2021, Rev. Mod. Phys. 93, 025010)
PLANCK_JS = 6.62607015e-34
ELEMENTARY_CHARGE_C = 1.602176634e-19
SPEED_OF_LIGHT_M_PER_S = 299792458.0
ELECTRON_MASS_KG = 9.1093837015e-31

POWER_OF_EXTRA_MODE = 0.02
MOST_MODES = 50  # of more, the extra ones would leave the guess nothing
ANGSTROM_PER_NM = 10.0

# (order n, fold m) of the coefficients C_nm up to fifth order, without C10, which is the defocus
ABERRATIONS = (
    *((1, 2), (2, 1), (2, 3), (3, 0), (3, 2), (3, 4), (4, 1), (4, 3), (4, 5)),
    *((5, 0), (5, 2), (5, 4), (5, 6)),
)


def electron_wavelength(energy_keV: float) -> float:
    """Relativistic wavelength of an electron, in angstrom.

    ``h c / sqrt(E (2 m c^2 + E))`` with the constants of CODATA 2018 (Kirkland 2010, Advanced
    Computing in Electron Microscopy, chapter 2).

    Args:
        energy_keV: kinetic energy, positive.

    Returns:
        The wavelength in angstrom.

    Raises:
        ValueError: the energy is not a positive number.

    Example:
        >>> import ptyle
        >>> round(ptyle.electron_wavelength(200.0), 8)
        0.02507934
    """
    energy_keV = _positive("electron_wavelength", "energy_keV", energy_keV)
    energy_J = 1e3 * energy_keV * ELEMENTARY_CHARGE_C
    rest_J = ELECTRON_MASS_KG * SPEED_OF_LIGHT_M_PER_S * SPEED_OF_LIGHT_M_PER_S
    return (
        1e10 * PLANCK_JS * SPEED_OF_LIGHT_M_PER_S / math.sqrt(energy_J * (2.0 * rest_J + energy_J))
    )


def fresnel_propagator(
    shape: Sequence[int],
    pixel_size_A: float | Sequence[float],
    wavelength_A: float,
    distance_A: float | Tensor,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Free space in the paraxial approximation: ``exp(-1j pi wavelength distance k^2)``.

    Kirkland 2010, Advanced Computing in Electron Microscopy, chapter 6. Differentiable in
    `distance_A`.

    Args:
        shape: ``(h, w)`` of the window.
        pixel_size_A: of the window, in angstrom; one number or (row, column).
        wavelength_A: in angstrom.
        distance_A: downstream, in angstrom; a number, or a tensor: ``[]``, or ``[slices - 1]``,
            which gives a propagator for each.
        dtype: complex64 or complex128.
        device: where to make it.

    Returns:
        ``[h, w]``, or ``[slices - 1, h, w]`` for a row of distances; zero frequency at ``[0, 0]``.

    Raises:
        ValueError: the shape, the pixel size or the wavelength is not positive; a distance that is
            not finite; distances of more than one dimension.
        TypeError: a value that is no real number; a dtype that is not complex.
        NotImplementedError: a gradient is asked for the pixel size or the wavelength.

    Example:
        >>> import torch, ptyle
        >>> propagator = ptyle.fresnel_propagator((64, 48), 0.2, 0.0251, 20.0)
        >>> propagator.shape, propagator.dtype, propagator[0, 0].item() == 1
        (torch.Size([64, 48]), torch.complex64, True)
        >>> ptyle.fresnel_propagator((64, 48), 0.2, 0.0251, torch.tensor([20.0, 30.0])).shape
        torch.Size([2, 64, 48])
    """
    name = "fresnel_propagator"
    pixels = _pair(name, "pixel_size_A", pixel_size_A)
    k_row, k_column = _frequencies(_integers(name, "shape", shape), pixels, device)
    wavelength_A = _positive(name, "wavelength_A", wavelength_A)
    distance = _real(name, "distance_A", distance_A, 1, k_row.device)[..., None, None]
    phase = -math.pi * wavelength_A * distance * (k_row.square() + k_column.square())
    return torch.polar(torch.ones_like(phase), phase).to(_complex(name, dtype))


def angular_spectrum_propagator(
    shape: Sequence[int],
    pixel_size_A: float | Sequence[float],
    wavelength_A: float,
    distance_A: float | Tensor,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Free space without approximation, evanescent waves 0, the carrier left out.

    ``exp(1j distance (sqrt(k0^2 - kperp^2) - k0))`` with ``k0 = 2 pi / wavelength`` and ``kperp =
    2 pi k`` (Goodman 2005, Introduction to Fourier Optics, section 3.10). Differentiable in
    `distance_A`.

    Args:
        shape: ``(h, w)`` of the window.
        pixel_size_A: of the window, in angstrom; one number or (row, column).
        wavelength_A: in angstrom.
        distance_A: downstream, in angstrom; a number, or a tensor: ``[]``, or ``[slices - 1]``,
            which gives a propagator for each.
        dtype: complex64 or complex128.
        device: where to make it.

    Returns:
        ``[h, w]``, or ``[slices - 1, h, w]`` for a row of distances; zero frequency at ``[0, 0]``.

    Raises:
        ValueError: the shape, the pixel size or the wavelength is not positive; a distance that is
            not finite; distances of more than one dimension.
        TypeError: a value that is no real number; a dtype that is not complex.
        NotImplementedError: a gradient is asked for the pixel size or the wavelength.

    Example:
        >>> import ptyle
        >>> propagator = ptyle.angular_spectrum_propagator((16, 16), 1.0, 3.0, 50.0)
        >>> propagator[0, [0, 5, 8]].abs().tolist()  # wavelength times k: 0, 0.94, 1.5
        [1.0, 1.0, 0.0]
    """
    name = "angular_spectrum_propagator"
    pixels = _pair(name, "pixel_size_A", pixel_size_A)
    k_row, k_column = _frequencies(_integers(name, "shape", shape), pixels, device)
    wavelength_A = _positive(name, "wavelength_A", wavelength_A)
    distance = _real(name, "distance_A", distance_A, 1, k_row.device)[..., None, None]
    k_squared = k_row.square() + k_column.square()
    sine_squared = wavelength_A * wavelength_A * k_squared
    travels = sine_squared < 1
    cosine = torch.where(travels, 1 - sine_squared, 0).sqrt()
    # the difference of roots as -kperp^2 / (root + k0), which loses no digits
    phase = -2 * math.pi * distance * wavelength_A * k_squared / (cosine + 1)
    amplitude = travels.to(phase.dtype).expand_as(phase)
    result = torch.polar(amplitude, torch.where(travels, phase, 0))
    return result.to(_complex(name, dtype))


def aberrated_probe(
    shape: Sequence[int],
    pixel_size_A: float | Sequence[float],
    wavelength_A: float,
    semiangle_mrad: float,
    defocus_nm: float | Tensor = 0.0,
    aberrations: Mapping[str, float | Tensor] | None = None,
    edge_mrad: float | None = None,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """The probe that an aperture and an aberrated lens form.

    ``F^-1[A exp(-1j chi)]``, ``chi = (2 pi / wavelength) sum alpha^(n + 1) / (n + 1) C_nm cos(m
    (phi - phi_nm))`` in the notation of Krivanek, Dellby & Lupini (1999, Ultramicroscopy 78, 1);
    ``C10 = -defocus``: +20 nm of underfocus is in focus 20 nm downstream. Azimuths are measured
    from +column towards +row (`raster_positions` turns the other way). Differentiable in
    `defocus_nm` and in the values of `aberrations`.

    Args:
        shape: ``(h, w)`` of the window.
        pixel_size_A: of the window, in angstrom; one number or (row, column).
        wavelength_A: in angstrom.
        semiangle_mrad: radius of the aperture, at most the window's largest angle.
        defocus_nm: underfocus is positive; a number, or a tensor of one element.
        aberrations: numbers, or tensors of one element, by name: "C12_nm", "phi12_deg", "C21_nm",
            "phi21_deg", "C23_nm", "phi23_deg", "C30_nm", "C32_nm", "phi32_deg", "C34_nm",
            "phi34_deg" and so on up to "C56_nm", "phi56_deg".
        edge_mrad: width over which the aperture falls linearly from 1 to 0; None: one sample of
            the window's reciprocal grid, which anti-aliases the disc; 0: sharp.
        dtype: complex64 or complex128.
        device: where to make it.

    Returns:
        ``[h, w]`` complex, centred at ``[h // 2, w // 2]``, sum of ``|probe|^2`` 1. The operators
        take ``[modes, h, w]``: ``probe[None]``, or `hermite_modes`.

    Raises:
        ValueError: a size is not positive, a value is not finite, the aperture does not fit, an
            aberration is unknown.
        TypeError: a value that is no real number; a dtype that is not complex.
        NotImplementedError: a gradient is asked for another value.

    Example:
        >>> import torch, ptyle
        >>> wavelength_A = ptyle.electron_wavelength(200.0)
        >>> defocus_nm = torch.tensor(10.0, requires_grad=True)
        >>> probe = ptyle.aberrated_probe(
        ...     (64, 64), 0.25, wavelength_A, 21.0, defocus_nm, {"C30_nm": 1000.0, "C12_nm": 2.0}
        ... )
        >>> probe.shape, round(probe.abs().square().sum().item(), 4)
        (torch.Size([64, 64]), 1.0)
        >>> probe[32, 32].abs().backward()
        >>> bool(defocus_nm.grad < 0)  # further out of focus, darker in the middle
        True
        >>> positions = ptyle.raster_positions((2, 3), 4.0)
        >>> phase = torch.zeros(1, *ptyle.object_shape(positions, (64, 64)))
        >>> ptyle.diffraction(phase, probe.detach()[None], positions).shape
        torch.Size([6, 64, 64])
    """
    name = "aberrated_probe"
    shape, pixels = _integers(name, "shape", shape), _pair(name, "pixel_size_A", pixel_size_A)
    k_row, k_column = _frequencies(shape, pixels, device)
    wavelength_A = _positive(name, "wavelength_A", wavelength_A)
    semiangle_mrad = _positive(name, "semiangle_mrad", semiangle_mrad)
    largest_mrad = 1e3 * 0.5 * wavelength_A / max(pixels)
    if semiangle_mrad > largest_mrad:
        raise ValueError(
            f"ptyle.{name}: semiangle_mrad must fit the window's largest angle, "
            f"{largest_mrad:g} mrad, got {semiangle_mrad}"
        )
    if edge_mrad is None:
        edge_mrad = 1e3 * wavelength_A / min(n * d for n, d in zip(shape, pixels, strict=True))
    else:
        edge_mrad = _not_negative(name, "edge_mrad", edge_mrad)

    x, y = wavelength_A * k_column, wavelength_A * k_row
    r_squared = x.square() + y.square()
    angle_mrad = 1e3 * r_squared.sqrt()
    if edge_mrad > 0:
        amplitude = ((semiangle_mrad - angle_mrad) / edge_mrad + 0.5).clamp(0, 1)
    else:
        amplitude = (angle_mrad <= semiangle_mrad).to(angle_mrad.dtype)

    def value(argument: str, number: float | Tensor) -> Tensor:
        return _real(name, argument, number, 0, k_row.device)

    if not isinstance(aberrations, Mapping | None):
        raise TypeError(f"ptyle.{name}: aberrations must be a dict, got {aberrations!r}")
    given = dict(aberrations or {})
    # chi without 2 pi / wavelength
    length = -0.5 * ANGSTROM_PER_NM * value("defocus_nm", defocus_nm) * r_squared
    z = torch.complex(*torch.broadcast_tensors(x, y))
    for n, m in ABERRATIONS:
        magnitude, azimuth = f"C{n}{m}_nm", f"phi{n}{m}_deg"
        phi_deg = given.pop(azimuth, 0.0) if m > 0 else 0.0
        turned = math.pi / 180 * value(azimuth, phi_deg)
        if magnitude not in given:
            continue
        fold = z**m  # alpha^m cos(m (phi - phi_nm)) needs no arc tangent
        wave = fold.real * torch.cos(m * turned) + fold.imag * torch.sin(m * turned)
        factor = ANGSTROM_PER_NM * value(magnitude, given.pop(magnitude)) / (n + 1)
        length = length + factor * r_squared ** ((n + 1 - m) // 2) * wave
    if given:
        known = [
            t for n, m in ABERRATIONS for t in (f"C{n}{m}_nm", *([f"phi{n}{m}_deg"] * (m > 0)))
        ]
        raise ValueError(
            f"ptyle.{name}: aberrations must be among {', '.join(known)} (C10 = -defocus_nm), "
            f"got {', '.join(map(str, given))}"
        )
    chi = 2 * math.pi / wavelength_A * length
    spectrum = torch.polar(amplitude / torch.linalg.vector_norm(amplitude), -chi)
    probe = torch.fft.fftshift(torch.fft.ifft2(spectrum, norm="ortho"))
    return probe.to(_complex(name, dtype))


def hermite_modes(probe: Tensor, modes: int) -> Tensor:
    """Incoherent modes to start from: a guess, and the guess times Hermite polynomials.

    The polynomials, about the guess's centre of intensity and in units of its rms radius, come in
    ascending order, each made orthogonal to all before it. Each extra mode carries 2 % of the
    guess's power, which the guess gives up, so that the sum stays. What modes are: Thibault &
    Menzel 2013, Nature 494, 68. Differentiable in `probe`.

    Args:
        probe: ``[h, w]`` or ``[1, h, w]`` complex guess.
        modes: how many in all, from 1 to 50.

    Returns:
        ``[modes, h, w]`` in the type of `probe`.

    Raises:
        TypeError: the probe is not complex.
        ValueError: the probe has another shape, is not finite or is zero everywhere; more modes
            than fit.

    Example:
        >>> import ptyle
        >>> probe = ptyle.aberrated_probe((64, 64), 0.25, 0.0251, 21.0, 10.0)
        >>> modes = ptyle.hermite_modes(probe, 3)
        >>> [round(mode.abs().square().sum().item(), 4) for mode in modes]
        [0.96, 0.02, 0.02]
    """
    name = "ptyle.hermite_modes"
    if probe.dtype not in (torch.complex64, torch.complex128):
        raise TypeError(f"{name}: probe must be complex64 or complex128, got {probe.dtype}")
    if not (probe.dim() == 2 or (probe.dim() == 3 and probe.shape[0] == 1)):
        raise ValueError(
            f"{name}: probe must have shape [h, w] or [1, h, w], got {list(probe.shape)}"
        )
    if not isinstance(modes, int) or not 1 <= modes <= MOST_MODES:
        raise ValueError(f"{name}: modes must be an integer from 1 to {MOST_MODES}, got {modes}")
    guess = probe.reshape(probe.shape[-2:]).to(torch.complex128)
    if modes == 1:
        return guess[None].to(probe.dtype)
    intensity = (guess * guess.conj()).real
    power = intensity.sum()
    if not 0 < power < math.inf:
        raise ValueError(
            f"{name}: probe must be finite and not zero everywhere, got a power of {power.item():g}"
        )

    def coordinates(length: int, other: int) -> Tensor:
        weight = intensity.sum(other) / power
        place = torch.arange(length, dtype=torch.double, device=guess.device)
        centred = place - (weight * place).sum()
        return centred / (weight * centred.square()).sum().sqrt().clamp(min=0.5)

    def hermite(t: Tensor, order: int) -> Tensor:
        before, value = torch.zeros_like(t), torch.ones_like(t)
        for n in range(order):  # He_{n+1} = t He_n - n He_{n-1}
            before, value = value, t * value - n * before
        return value

    rows, columns = guess.shape
    y, x = coordinates(rows, 1), coordinates(columns, 0)
    basis = [guess / power.sqrt()]
    order = 1
    while len(basis) < modes:
        if order > rows + columns + 1:
            raise ValueError(
                f"{name}: a window of {rows} x {columns} pixels has no {modes} independent modes"
            )
        for j in range(order + 1):
            mode = guess * (hermite(y, j)[:, None] * hermite(x, order - j)[None, :])
            start = torch.linalg.vector_norm(mode)
            for _ in range(2):  # one pass leaves a remainder where modes are nearly parallel
                for before in basis:
                    mode = mode - before * (before.conj() * mode).sum()
            norm = torch.linalg.vector_norm(mode)
            if len(basis) < modes and norm > 1e-6 * start:
                basis.append(mode / norm)
        order += 1
    shares = [1 - POWER_OF_EXTRA_MODE * (modes - 1)] + [POWER_OF_EXTRA_MODE] * (modes - 1)
    scaled = [m * (share * power).sqrt() for m, share in zip(basis, shares, strict=True)]
    return torch.stack(scaled).to(probe.dtype)


def raster_positions(
    shape: Sequence[int],
    step: float | Sequence[float],
    rotation_deg: float = 0.0,
    jitter: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Window corners of a raster scan, line by line.

    Args:
        shape: scan rows and columns.
        step: in object pixels; one number or (row, column).
        rotation_deg: of the raster; positive turns +row towards +column, the opposite of the
            azimuths of `aberrated_probe`.
        jitter: every coordinate is off by up to this, uniformly, in object pixels.
        generator: of the jitter; None: torch's own.

    Returns:
        ``[rows * columns, 2]`` float64, (row, column), the smallest row and column 0.

    Raises:
        ValueError: a shape that is not positive, a value that is not finite, a negative jitter.
        TypeError: a value that is no real number.

    Example:
        >>> import ptyle
        >>> ptyle.raster_positions((2, 2), (3.0, 4.5)).tolist()
        [[0.0, 0.0], [0.0, 4.5], [3.0, 0.0], [3.0, 4.5]]
    """
    name = "raster_positions"
    steps = _pair(name, "step", step, _number)
    jitter = _not_negative(name, "jitter", jitter)
    turned = math.radians(_number(name, "rotation_deg", rotation_deg))
    numbers = _integers(name, "shape", shape)
    lines = [s * torch.arange(n).double() for n, s in zip(numbers, steps, strict=True)]
    raster = torch.cartesian_prod(*lines)
    if jitter > 0:
        noise = torch.rand(raster.shape, dtype=torch.double, generator=generator)
        raster = raster + jitter * (2 * noise - 1)
    cosine, sine = math.cos(turned), math.sin(turned)
    row, column = raster.unbind(1)
    positions = torch.stack([cosine * row - sine * column, sine * row + cosine * column], 1)
    return positions - positions.amin(0, keepdim=True)


def object_shape(positions: Tensor, window: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of the smallest object that every window lies in, shifted ones too.

    ``floor(max) - floor(min) + window + 1``. The object begins at the floor of the smallest row and
    column. That is ``(0, 0)`` for `raster_positions`; for others, give it to the operators as
    `origin`, see the example.

    Args:
        positions: ``[n, 2]`` real, n at least 1.
        window: ``(h, w)``.

    Returns:
        (rows, columns).

    Raises:
        ValueError: positions of another shape, none of them, or not numbers; a window that is not
            positive.
        TypeError: positions that are no tensor.

    Example:
        >>> import torch, ptyle
        >>> ptyle.object_shape(ptyle.raster_positions((3, 5), 2.5), (16, 16))
        (22, 27)
        >>> positions = ptyle.raster_positions((3, 5), 2.5) - 100.25  # about another zero
        >>> shape = ptyle.object_shape(positions, (16, 16))
        >>> origin = positions.amin(0).floor().long().tolist()
        >>> probe = torch.ones(1, 16, 16, dtype=torch.complex64)
        >>> lit = ptyle.illumination(probe, positions, shape, origin=origin)
        >>> shape, origin, lit.sum().item() == 15 * 256  # nothing hangs over the edge
        ((22, 27), [-101, -101], True)
    """
    name = "ptyle.object_shape"
    if not isinstance(positions, Tensor):
        raise TypeError(f"{name}: positions must be a tensor, got {type(positions).__name__}")
    if positions.dim() != 2 or positions.shape[1] != 2 or len(positions) == 0:
        raise ValueError(
            f"{name}: positions must have shape [n, 2], n at least 1, got {list(positions.shape)}"
        )
    window = _integers("object_shape", "window", window)
    if positions.is_complex() or not (positions.detach().abs() < 2**52).all():
        raise ValueError(
            f"{name}: positions must be real, finite and below 2^52, got another value"
        )
    first = positions.detach().amin(0).floor().long().tolist()
    last = positions.detach().amax(0).floor().long().tolist()
    return last[0] - first[0] + window[0] + 1, last[1] - first[1] + window[1] + 1


def _integers(name: str, argument: str, value: Sequence[int]) -> tuple[int, int]:
    """Two whole numbers, for shapes."""
    try:
        first, second = (index(number) for number in value)
    except (TypeError, ValueError):
        raise ValueError(
            f"ptyle.{name}: {argument} must be two positive integers, got {value!r}"
        ) from None
    if min(first, second) < 1:
        raise ValueError(
            f"ptyle.{name}: {argument} must be two positive integers, got {[first, second]}"
        )
    return first, second


def _real(
    name: str, argument: str, value, dimensions: int, device: torch.device | str | None = None
) -> Tensor:
    """`value` in float64: a number (0 dimensions), or also a row of them (1).

    Numbers must be finite. A tensor keeps its graph, and its values are not looked at: that would
    wait for its device and break a compiled graph.
    """
    rule = "a real number" + (" or a row [slices - 1] of them" if dimensions else "")
    if isinstance(value, Tensor):
        tensor = value.reshape(()) if value.numel() == 1 and dimensions == 0 else value
        if tensor.is_complex() or tensor.dtype == torch.bool or tensor.dim() > dimensions:
            raise (ValueError if tensor.dim() > dimensions else TypeError)(
                f"ptyle.{name}: {argument} must be {rule}, got a tensor of shape "
                f"{list(value.shape)} and type {value.dtype}"
            )
        return tensor.to(device=device, dtype=torch.double)
    try:
        tensor = torch.tensor(value, dtype=torch.double)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"ptyle.{name}: {argument} must be {rule}, got {value!r}") from None
    if tensor.dim() > dimensions or not tensor.isfinite().all():
        raise ValueError(f"ptyle.{name}: {argument} must be {rule}, finite, got {value}")
    return tensor.to(device)


def _number(name: str, argument: str, value, rule="a finite number", holds=math.isfinite) -> float:
    """A number that nothing is differentiated in."""
    if isinstance(value, Tensor) and value.requires_grad:
        raise NotImplementedError(
            f"ptyle.{name}: {argument} must not require a gradient: none is implemented for it, "
            "got requires_grad=True"
        )
    try:
        number = math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"ptyle.{name}: {argument} must be {rule}, got {value!r}") from None
    if not holds(number):
        raise ValueError(f"ptyle.{name}: {argument} must be {rule}, got {value!r}")
    return number


def _positive(name: str, argument: str, value) -> float:
    return _number(name, argument, value, "a positive number", lambda x: 0 < x < math.inf)


def _not_negative(name: str, argument: str, value) -> float:
    return _number(name, argument, value, "0 or more", lambda x: 0 <= x < math.inf)


def _pair(name: str, argument: str, value, number=_positive) -> tuple[float, float]:
    """(row, column) from one number or two."""
    if isinstance(value, Tensor):
        several = value.dim() > 0
    else:
        several = hasattr(value, "__len__") and not isinstance(value, str)
    if not several:
        return (number(name, argument, value),) * 2
    if len(value) != 2:
        raise ValueError(
            f"ptyle.{name}: {argument} must be one number or two (row, column), got {len(value)}"
        )
    return number(name, argument, value[0]), number(name, argument, value[1])


def _complex(name: str, dtype: torch.dtype | None) -> torch.dtype:
    if dtype is None:
        return torch.complex128 if torch.get_default_dtype() == torch.double else torch.complex64
    if dtype not in (torch.complex64, torch.complex128):
        raise TypeError(f"ptyle.{name}: dtype must be complex64 or complex128, got {dtype}")
    return dtype


def _frequencies(
    shape: tuple[int, int], pixels: tuple[float, float], device: torch.device | str | None
) -> tuple[Tensor, Tensor]:
    """k of the rows ``[h, 1]`` and of the columns ``[1, w]`` in 1/angstrom, fftfreq order."""
    rows, columns = (
        torch.fft.fftfreq(n, d, dtype=torch.double, device=device)
        for n, d in zip(shape, pixels, strict=True)
    )
    return rows[:, None], columns[None, :]
