"""Compare a reconstruction with the truth it was simulated from.

    python -m ptyle.compare RESULT.h5 TRUTH.h5 -o picture.png

prints the correlation of the summed phases and draws them side by side. Needs numpy, h5py and, for
the picture, matplotlib.
"""

import argparse
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

# Pixels that probe and object may have moved together. Less than half a unit cell: beyond that a
# crystal can be laid onto itself with its columns exchanged.
MAX_SHIFT = 4


@dataclass
class Comparison:
    """A reconstruction beside its truth, on the scanned area, constant and ramp removed."""

    correlation: float  # 1 where they are alike
    holds: bool  # whether the slices' phases, of 2 pi each, can hold the truth's
    shift: tuple[float, float]  # truth moved by (rows, columns) pixels onto the reconstruction
    phase: np.ndarray  # [rows, columns] rad, reconstructed, summed over slices
    truth: np.ndarray  # [rows, columns] rad, low-passed to the detector's edge
    pixel_nm: float
    probe: np.ndarray  # [modes, h, w] complex
    history: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def error(self) -> float:
        """Norm of the phases' difference relative to that of the truth."""
        return float(np.linalg.norm(self.phase - self.truth) / np.linalg.norm(self.truth))


def fourier_shift(image: np.ndarray, shift: tuple[float, float]) -> np.ndarray:
    """`image` moved by (rows, columns) pixels, periodic, real."""
    rows = np.fft.fftfreq(image.shape[0])[:, None]
    columns = np.fft.fftfreq(image.shape[1])[None, :]
    ramp = np.exp(-2j * np.pi * (rows * shift[0] + columns * shift[1]))
    return np.fft.ifft2(np.fft.fft2(image) * ramp).real


def low_pass(image: np.ndarray, edge: float = 0.5) -> np.ndarray:
    """`image` without spatial frequencies above `edge` cycles per pixel, along a circle.

    The image is mirrored at its borders first, so that what lies on opposite sides does not mix.
    """
    margin = min(32, image.shape[0] - 1, image.shape[1] - 1)
    padded = np.pad(image, margin, mode="reflect")
    rows = np.fft.fftfreq(padded.shape[0])[:, None]
    columns = np.fft.fftfreq(padded.shape[1])[None, :]
    passed = np.hypot(rows, columns) <= edge
    filtered = np.fft.ifft2(np.fft.fft2(padded) * passed).real
    return filtered[margin:-margin, margin:-margin] if margin else filtered


def without_ramp(image: np.ndarray) -> np.ndarray:
    """`image` minus the plane that fits it best."""
    rows, columns = np.indices(image.shape, dtype=float)
    basis = np.stack([np.ones(image.size), rows.ravel(), columns.ravel()], axis=1)
    plane, *_ = np.linalg.lstsq(basis, image.ravel(), rcond=None)
    return image - (basis @ plane).reshape(image.shape)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation of two images."""
    a = a - a.mean()
    b = b - b.mean()
    norm = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return float((a * b).sum()) / norm if norm > 0 else 0.0


def summed_phase(transmission: np.ndarray, area: tuple[slice, slice]) -> np.ndarray:
    """Sum over slices of the phase, each slice's about its own mean over `area`, in rad.

    transmission: [slices, rows, columns] complex
    """
    total = np.zeros(transmission.shape[1:])
    for one in transmission:
        mean = one[area].mean()
        total += np.angle(one * (np.conj(mean) / abs(mean) if abs(mean) > 0 else 1.0))
    return total


def register(phase: np.ndarray, truth: np.ndarray, corner: tuple[int, int]) -> tuple[float, float]:
    """The shift (rows, columns), within MAX_SHIFT, that moves `truth` onto `phase`.

    phase: the scanned area; truth: a larger image in which it begins at `corner`.
    """
    target = without_ramp(phase)

    def score(shift: tuple[float, float]) -> float:
        return correlation(target, without_ramp(cut(fourier_shift(truth, shift), phase, corner)))

    best = (0.0, 0.0)
    span, step = float(MAX_SHIFT), 1.0
    while step > 0.01:
        offsets = np.arange(-span, span + step / 2, step)
        candidates = [(best[0] + dy, best[1] + dx) for dy in offsets for dx in offsets]
        best = max(candidates, key=score)
        span, step = step, step / 4
    return best


def cut(image: np.ndarray, like: np.ndarray, corner: tuple[int, int]) -> np.ndarray:
    """The part of `image` that begins at `corner` and has the shape of `like`."""
    return image[corner[0] : corner[0] + like.shape[0], corner[1] : corner[1] + like.shape[1]]


def _open(path: str | Path) -> h5py.File:
    if not Path(path).is_file():
        raise ValueError(f"{path}: must be an existing file")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path}: must be a whole HDF5 file ({error})") from None


def _read(file: h5py.File, name: str, writer: str) -> np.ndarray:
    try:
        return file[name][()]
    except (KeyError, OSError):
        raise ValueError(
            f"{file.filename}: must hold /{name}, as {writer} writes it, got none that can be read"
        ) from None


def compare(result_path: str | Path, truth_path: str | Path) -> Comparison:
    """Register the summed phase of a result with the truth and measure how alike they are."""
    with _open(result_path) as result:
        transmission = _read(result, "object", "`ptyle run`")
        positions = _read(result, "positions", "`ptyle run`")
        probe = _read(result, "probe", "`ptyle run`")
        history = {name: data[()] for name, data in result.get("history", {}).items()}
    with _open(truth_path) as file:
        truth = _read(file, "truth/phase", "`ptyle simulate`").astype(float)
        truth_positions = _read(file, "positions", "`ptyle simulate`")
        pixel_nm = float(file.attrs.get("object_pixel_nm", math.nan))
    if positions.shape != truth_positions.shape:
        raise ValueError(
            f"{result_path}: /positions must be those of {truth_path}, {truth_positions.shape}, "
            f"got {positions.shape}"
        )

    # Both files have frames of their own; the positions, which they share, tie them together.
    offset = np.rint((positions - truth_positions).mean(axis=0)).astype(int)
    half = np.array(probe.shape[-2:]) // 2
    first = np.ceil(positions.min(axis=0)).astype(int) + half
    last = np.floor(positions.max(axis=0)).astype(int) + half + 1
    if (last - first).min() < 8:
        raise ValueError(f"{result_path}: the scanned area must be at least 8 x 8 pixels")
    area = (slice(first[0], last[0]), slice(first[1], last[1]))
    corner = (int(first[0] - offset[0]), int(first[1] - offset[1]))

    phase = summed_phase(transmission, area)[area]
    truth = low_pass(truth)
    here = cut(truth, phase, corner)
    if min(corner) < 0 or here.shape != phase.shape:
        raise ValueError(
            f"{result_path}: the scanned area, {phase.shape[0]} x {phase.shape[1]} pixels at "
            f"{corner}, must lie inside the truth of {truth_path}, {truth.shape[0]} x "
            f"{truth.shape[1]}: are they of the same pixels?"
        )
    holds = float(np.ptp(without_ramp(here))) <= 2 * math.pi * len(transmission)
    shift = register(phase, truth, corner)
    aligned = without_ramp(cut(fourier_shift(truth, shift), phase, corner))
    phase = without_ramp(phase)
    return Comparison(
        correlation(phase, aligned), holds, shift, phase, aligned, pixel_nm, probe, history
    )


def _nice_length(extent: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is at most a third of `extent`."""
    limit = extent / 3
    power = 10.0 ** math.floor(math.log10(limit))
    return max(step * power for step in (1, 2, 5) if step * power <= limit)


def _scale_bar(axes, extent_nm: float) -> None:
    length = _nice_length(extent_nm)
    height = 0.02
    x0, y0 = 0.05, 0.05
    axes.add_patch(
        _rectangle((x0 - 0.02, y0 - 0.02), length / extent_nm + 0.04, height + 0.11, axes, "black")
    )
    axes.add_patch(_rectangle((x0, y0), length / extent_nm, height, axes, "white"))
    unit, value = ("nm", length) if length < 1000 else ("µm", length / 1000)
    axes.text(
        x0 + length / extent_nm / 2,
        y0 + height + 0.015,
        f"{value:g} {unit}",
        color="white",
        ha="center",
        va="bottom",
        fontsize=9,
        transform=axes.transAxes,
    )


def _rectangle(corner, width, height, axes, colour):
    from matplotlib.patches import Rectangle

    alpha = 0.5 if colour == "black" else 1.0
    return Rectangle(
        corner, width, height, transform=axes.transAxes, color=colour, alpha=alpha, linewidth=0
    )


def _phase_panel(panel, image: np.ndarray, name: str, limits, extent_nm: float):
    low, high = limits
    shown = panel.imshow(image, cmap="inferno", vmin=low, vmax=high, interpolation="bicubic")
    panel.set_title(name)
    panel.set_xticks([])
    panel.set_yticks([])
    _scale_bar(panel, extent_nm)
    return shown


def draw_beside(comparisons: dict[str, Comparison], path: str | Path, title: str = "") -> None:
    """One picture: the truth, and beside it phases that were reconstructed, by name."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    first = next(iter(comparisons.values()))
    limits = np.percentile(first.truth, [0.5, 99.8])
    count = 1 + len(comparisons)
    figure, axes = plt.subplots(1, count, figsize=(4.4 * count + 0.8, 4.6), layout="constrained")
    images = {"truth": first.truth} | {name: one.phase for name, one in comparisons.items()}
    for panel, (name, image) in zip(axes, images.items(), strict=True):
        shown = _phase_panel(panel, image, name, limits, image.shape[1] * first.pixel_nm)
    figure.colorbar(shown, ax=axes, label="phase / rad", shrink=0.9)
    if title:
        figure.suptitle(title)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw(comparison: Comparison, path: str | Path, title: str = "") -> None:
    """One picture: phase beside truth, the probe, the error against the iteration."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(10.5, 9.5), layout="constrained")
    low, high = np.percentile(comparison.truth, [0.5, 99.8])
    extent_nm = comparison.phase.shape[1] * comparison.pixel_nm
    panels = [
        (axes[0, 0], comparison.phase, "reconstructed phase, summed over slices"),
        (axes[0, 1], comparison.truth, "truth, at the detector's resolution"),
    ]
    for panel, image, name in panels:
        shown = _phase_panel(panel, image, name, (low, high), extent_nm)
        figure.colorbar(shown, ax=panel, label="phase / rad", shrink=0.9)

    probe = np.sqrt((np.abs(comparison.probe) ** 2).sum(axis=0))
    shown = axes[1, 0].imshow(probe, cmap="viridis", interpolation="nearest")
    modes = comparison.probe.shape[0]
    axes[1, 0].set_title("probe" + (f", {modes} modes" if modes > 1 else ""))
    axes[1, 0].set_xticks([])
    axes[1, 0].set_yticks([])
    _scale_bar(axes[1, 0], probe.shape[1] * comparison.pixel_nm)
    figure.colorbar(shown, ax=axes[1, 0], label="amplitude / sqrt(counts per pixel)", shrink=0.9)

    errors = comparison.history.get("amplitude_error")
    curve = axes[1, 1]
    if errors is not None and len(errors):
        curve.semilogy(np.arange(1, len(errors) + 1), errors)
    curve.set_xlabel("iteration")
    curve.set_ylabel("amplitude error / counts per detector pixel")
    curve.set_title("mean of (sqrt(model) - sqrt(measured))²")
    curve.grid(True, which="both", alpha=0.3)
    if title:
        figure.suptitle(f"{title}; correlation of the phases {comparison.correlation:.3f}")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m ptyle.compare",
        description="Compare a reconstruction with the simulated truth.",
        epilog="Example: python -m ptyle.compare film/result.h5 film.h5 -o film.png",
    )
    parser.add_argument("result", help="result.h5 of `ptyle run`")
    parser.add_argument("truth", help="FILE.h5 of `ptyle simulate`")
    parser.add_argument("-o", "--output", help="PNG to draw")
    parser.add_argument("--title", default="")
    options = parser.parse_args(arguments)
    try:
        comparison = compare(options.result, options.truth)
    except (OSError, KeyError, ValueError) as error:
        print(f"ptyle.compare: {error}", file=sys.stderr)
        return 3
    rows, columns = comparison.shift
    print(
        f"correlation {comparison.correlation:.4f} over "
        f"{comparison.phase.shape[0]} x {comparison.phase.shape[1]} pixels, "
        f"truth moved by ({rows:+.2f}, {columns:+.2f}) pixels"
    )
    if not comparison.holds:
        print(
            "ptyle.compare: the truth's phase spans more than the 2 pi of each slice: it is "
            "wrapped in the result, and this correlation and shift say little (more "
            "object.slices hold it)",
            file=sys.stderr,
        )
    if options.output:
        try:
            draw(comparison, options.output, options.title)
        except (OSError, ValueError) as error:
            print(f"ptyle.compare: -o: {options.output} cannot be drawn: {error}", file=sys.stderr)
            return 1 if isinstance(error, OSError) else 2
        print(f"drawn: {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
