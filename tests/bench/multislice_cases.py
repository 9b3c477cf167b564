"""Multislice problems with a known truth, and a forward model of its own, in numpy alone.

Electrons of 300 keV, a raster scan in whole pixels over a stack of slices of random atoms, a probe
in focus 100 A behind the first slice that is guessed to be in focus at 80 A. CASES are those that
`convergence.py` has other packages' figures for. Nothing here calls the program that is measured.

Lengths are in angstrom unless a name says pixels. Waves are [..., n, n] with the window's middle at
[n / 2, n / 2]; intensities [positions, n, n] have the zero frequency at [0, 0] (far field) or lie
as the window does (near field), and transforms are unitary.
"""

from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

ENERGY_KEV = 300.0
WAVELENGTH = 0.01968749
PIXEL = 0.2
SPACING = 20.0  # from slice to slice
APERTURE = 0.020  # rad
DEFOCUS, GUESSED_DEFOCUS = 100.0, 80.0  # underfocus
ATOM = 0.35  # standard deviation
ATOMS_PER_PIXEL = 1 / 60
ABSORPTION = 0.1  # of the amplitude, per radian of phase
COUNTS = 1e6  # a pattern


@dataclass(frozen=True)
class Case:
    """What makes a problem. Numbers of pixels: window, step."""

    window: int
    slices: int
    grid: int  # the scan has grid x grid positions
    step: int
    modes: int = 1
    peak: float = 1.0  # largest phase of a slice, rad
    guess: float = GUESSED_DEFOCUS
    counts: float = COUNTS  # a pattern's mean
    noise: bool = False  # counts are drawn (Poisson), else they are what is expected
    near: bool = False  # the detector lies half as far away as the window can hold
    seed: int = 0

    def detector_distance(self) -> float:
        return 0.5 * self.window * PIXEL**2 / WAVELENGTH


# Seeds are those whose error at the start is closest to the one recorded with the figures.
CASES = {
    "A": Case(window=64, slices=1, grid=20, step=4, seed=7),
    "B": Case(window=64, slices=4, grid=20, step=4, seed=15),
    "C": Case(window=128, slices=6, grid=14, step=6, seed=5),
    "D": Case(window=64, slices=4, grid=20, step=4, modes=4, seed=0),
    "E": Case(window=256, slices=2, grid=8, step=8, seed=4),
}


def counts_per_pattern(dose: float, step: int) -> float:
    """Of a dose in electrons per square angstrom."""
    return dose * (step * PIXEL) ** 2


def square_frequency(n: int, pixel: float = PIXEL) -> np.ndarray:
    """[n, n], 1/A^2, zero frequency at [0, 0]."""
    k = np.fft.fftfreq(n, pixel)
    return k[:, None] ** 2 + k**2


def fresnel(
    n: int, distance: float, wavelength: float = WAVELENGTH, pixel: float = PIXEL
) -> np.ndarray:
    """Propagator [n, n], zero frequency at [0, 0]."""
    return np.exp(-1j * np.pi * wavelength * distance * square_frequency(n, pixel))


def make_probe(n: int, defocus: float, modes: int) -> np.ndarray:
    """[modes, n, n]: a soft-edged aperture's image times 1, x, y and xy, orthogonal; powers fall as
    1, 1/4, 1/9, 1/16."""
    k2 = square_frequency(n)
    aperture = np.clip((APERTURE / WAVELENGTH - np.sqrt(k2)) * n * PIXEL + 0.5, 0, 1)
    wave = aperture * np.exp(1j * np.pi * WAVELENGTH * defocus * k2)
    wave = np.fft.fftshift(np.fft.ifft2(wave))
    y, x = np.mgrid[:n, :n] - n // 2
    probe: list[np.ndarray] = []
    for factor in (np.ones((n, n)), y / 8, x / 8, x * y / 64)[:modes]:
        mode = wave * factor
        for other in probe:
            mode = mode - other * np.vdot(other, mode)
        probe.append(mode / np.linalg.norm(mode))
    return np.stack([mode / (k + 1) for k, mode in enumerate(probe)])


def make_phases(slices: int, side: int, peak: float, generator: np.random.Generator) -> np.ndarray:
    """[slices, side, side], rad: Gaussian atoms of random height, the tallest place of each slice
    `peak`."""
    blur = np.exp(-2 * (np.pi * ATOM) ** 2 * square_frequency(side))
    phases = np.empty((slices, side, side))
    for phase in phases:
        atoms = generator.random((side, side)) < ATOMS_PER_PIXEL
        heights = np.zeros((side, side))
        heights[atoms] = generator.uniform(0.5, 1, atoms.sum())
        phase[...] = np.fft.ifft2(np.fft.fft2(heights) * blur).real
        phase *= peak / phase.max()
    return phases


def moved(probe: np.ndarray, by: np.ndarray) -> np.ndarray:
    """The probe [modes, n, n] moved by (rows, columns), periodically."""
    if not np.any(by):
        return probe
    n = probe.shape[-1]
    k = np.fft.fftfreq(n)
    ramp = np.exp(-2j * np.pi * (k[:, None] * by[0] + k * by[1]))
    return np.fft.ifft2(np.fft.fft2(probe) * ramp)


@dataclass
class Model:
    """From an object [slices, H, W], a probe [modes, n, n] and a window's corner to intensities."""

    propagator: np.ndarray | None  # [n, n] between slices
    detector: np.ndarray | None = None  # [n, n] to a near-field detector; None: far field

    def intensity(self, obj: np.ndarray, probe: np.ndarray, corner: np.ndarray) -> np.ndarray:
        """[n, n] behind the object's window at `corner`, whose fraction moves the probe."""
        n = probe.shape[-1]
        row, column = np.floor(corner).astype(int)
        wave = moved(probe, corner - np.floor(corner))
        for number, one in enumerate(obj):
            wave = wave * one[row : row + n, column : column + n]
            if number + 1 < len(obj):
                wave = np.fft.ifft2(np.fft.fft2(wave) * self.propagator)
        wave = np.fft.fft2(wave, norm="ortho")
        if self.detector is not None:
            wave = np.fft.ifft2(wave * self.detector, norm="ortho")
        return (np.abs(wave) ** 2).sum(0)

    def data_error(self, obj, probe, corners, intensities) -> float:
        """sqrt(sum (a |psi| - sqrt I)^2 / sum I) with the best a; intensities [positions, n, n]."""
        both = model = data = 0.0
        obj, probe = np.asarray(obj, complex), np.asarray(probe, complex)  # sums cancel below
        for corner, measured in zip(corners, intensities, strict=True):
            expected = self.intensity(obj, probe, corner)
            both += np.sqrt(expected * measured).sum()
            model += expected.sum()
            data += measured.sum(dtype=np.float64)
        if not (np.isfinite(model) and model > 0):
            return float("inf")
        return float(np.sqrt(max(0.0, 1 - both**2 / (model * data))))


@dataclass
class Problem:
    """A case worked out: truth, start, data."""

    case: Case
    model: Model
    corners: np.ndarray  # [positions, 2], windows' first pixels
    truth: np.ndarray  # [slices, H, W], complex
    probe: np.ndarray  # [modes, n, n], the true one, in counts
    start: np.ndarray  # the guess, with the data's power
    expected: np.ndarray  # [positions, n, n] without noise
    patterns: np.ndarray = field(repr=False)  # what is measured: expected, or counts


def make(case: Case) -> Problem:
    generator = np.random.default_rng(case.seed)
    n = case.window
    steps = np.arange(case.grid) * case.step
    corners = np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2)
    phases = make_phases(case.slices, steps[-1] + n, case.peak, generator)
    truth = (1 - ABSORPTION * phases) * np.exp(1j * phases)
    probe = make_probe(n, DEFOCUS, case.modes)
    model = Model(fresnel(n, SPACING), fresnel(n, case.detector_distance()) if case.near else None)
    expected = np.stack([model.intensity(truth, probe, corner) for corner in corners])
    scale = case.counts / expected.sum((1, 2)).mean()
    expected *= scale
    start = make_probe(n, case.guess, case.modes)
    start *= np.sqrt(case.counts / (np.abs(start) ** 2).sum())
    patterns = generator.poisson(expected) if case.noise else expected
    return Problem(case, model, corners, truth, probe * np.sqrt(scale), start, expected, patterns)


def write(problem: Problem, folder: Path, name: str, power: str = "data") -> Path:
    """NAME.h5 and NAME.toml in `folder`, the probe's power as it is ("keep") or from the data; ->
    the config."""
    case = problem.case
    patterns = problem.patterns
    if not case.near:
        patterns = np.fft.fftshift(patterns, axes=(1, 2))
    with h5py.File(folder / f"{name}.h5", "w") as file:
        file["data"] = patterns.astype(np.uint32 if case.noise else np.float32)
        file["positions"] = problem.corners.astype(float)
        file["probe"] = problem.start.astype(np.complex64)
    near = (
        f'geometry = "near"\npixel_size_um = {PIXEL * 1e-4!r}\n'
        f"distance_m = {case.detector_distance() * 1e-10!r}"
    )
    lines = [
        "[data]",
        f'file = "{name}.h5"',
        "[detector]",
        near if case.near else f"object_pixel_nm = {PIXEL / 10}",
        "[beam]",
        f"energy_keV = {ENERGY_KEV}",
        "[probe]",
        f'file = "{name}.h5"',
        f"modes = {case.modes}",
        f'power = "{power}"',
        "[object]",
        f"slices = {case.slices}",
        f"thickness_nm = {SPACING / 10 * case.slices if case.slices > 1 else 0}",
        "[reconstruct]",
        "[output]",
        f'folder = "{name}"',
        "png = false",
        "checkpoint_every = 0",
    ]
    path = folder / f"{name}.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def fourier_moved(planes: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Real planes [slices, H, W], each moved by its own (rows, columns) of by [slices, 2]."""
    rows, columns = planes.shape[-2:]
    ky, kx = np.fft.fftfreq(rows)[:, None], np.fft.fftfreq(columns)
    ramps = np.exp(-2j * np.pi * (ky * by[:, 0, None, None] + kx * by[:, 1, None, None]))
    return np.fft.ifft2(np.fft.fft2(planes) * ramps).real


def without_ramp(found: np.ndarray, truth: np.ndarray, inside: tuple) -> np.ndarray:
    """Phase [H, W] of one slice, without the constant and the ramp by which it lies off the truth.

    The ramp is looked for where the two waves interfere, so that a steep one does not wrap.
    """
    cross = (found * truth.conj())[inside]
    cross = cross / np.maximum(np.abs(cross), 1e-12)
    padded = [4 * size for size in cross.shape]
    peak = np.unravel_index(np.argmax(np.abs(np.fft.fft2(cross, padded))), padded)
    slope = [np.fft.fftfreq(size)[k] for size, k in zip(padded, peak, strict=True)]
    y, x = np.indices(found.shape)
    flat = found * np.exp(-2j * np.pi * (slope[0] * y + slope[1] * x))
    turn = (flat * truth.conj())[inside].sum()
    return np.angle(flat * np.exp(-1j * np.angle(turn)))


@dataclass
class ObjectError:
    """rms error of the phase over its rms contrast: of the slices' sum, and the slices' mean."""

    projection: float
    slices: float


def free_columns(shape: tuple[int, int], period: int) -> np.ndarray:
    """What the data do not tell of a phase: constant, ramps, and what repeats with the raster.
    [pixels, unknowns]"""
    y, x = np.indices(shape)
    columns = [np.ones(shape), y - y.mean(), x - x.mean()]
    cell = (y % period) * period + x % period
    columns += [cell == number for number in range(period**2 - 1)]  # the last one: the constant
    return np.stack([np.ravel(column).astype(float) for column in columns], 1)


def object_error(found: np.ndarray, truth: np.ndarray, case: Case) -> ObjectError:
    """Of an object [slices, >= H, >= W] whose first pixel is the truth's, within the scanned area.

    Free: a constant, a ramp and what repeats with the raster's step in every slice, one shift, and
    one shear along the beam.
    """
    half, extent = case.window // 2, (case.grid - 1) * case.step + 1
    inside = (slice(half, half + extent),) * 2
    if not np.isfinite(found).all():
        return ObjectError(float("inf"), float("inf"))
    found = found[:, : truth.shape[1], : truth.shape[2]]
    true = np.angle(truth)
    phases = np.stack([without_ramp(a, b, inside) for a, b in zip(found, truth, strict=True)])
    free = free_columns((extent, extent), case.step)
    basis = np.linalg.qr(free)[0]

    def unexplained(planes: np.ndarray) -> np.ndarray:
        """[..., pixels] of planes [..., H, W] inside, without what is free"""
        flat = planes[(..., *inside)].reshape(*planes.shape[:-2], -1)
        return flat - (flat @ basis) @ basis.T

    # The shift of slice s is a + s b: least squares in what the shift's gradient explains.
    gradient = [unexplained(part) for part in np.gradient(true, axis=(1, 2))]
    depth = np.arange(len(true)) - (len(true) - 1) / 2
    columns = [g * weight[:, None] for weight in (np.ones_like(depth), depth) for g in gradient]
    columns = np.stack([column.ravel() for column in columns[: 2 if len(true) == 1 else 4]], 1)
    shift = np.zeros((len(true), 2))
    best, wanted = phases, unexplained(phases - true)
    for _ in range(8):
        solved = np.zeros(4)
        solved[: columns.shape[1]] = np.linalg.lstsq(columns, wanted.ravel(), rcond=None)[0]
        # true(r - s), moved by -s, is the truth; it lies off it by about -s . gradient
        trial = shift + solved[:2] + depth[:, None] * solved[2:]
        planes = fourier_moved(phases, trial)
        rest = unexplained(planes - true)
        if not np.linalg.norm(rest) < np.linalg.norm(wanted):
            break
        shift, best, wanted = trial, planes, rest
    error = unexplained(best - true)
    contrast = unexplained(true)

    def rms(values: np.ndarray) -> np.ndarray:
        return np.sqrt((values**2).mean(-1))

    return ObjectError(
        float(rms(error.sum(0)) / rms(contrast.sum(0))),
        float((rms(error) / rms(contrast)).mean()),
    )
