"""Images to train on: true phases of simulated specimens, and noise like a reconstruction's.

An image is ``[rows, columns]`` float32 whose 0.5th and 99.5th percentiles are 0 and 1. They come
from `ptyle simulate` (crystals under electrons, a star of gold under X-rays) and from
generators of crystals that do not exist and of blobs, plates and smooth fields, so that a network
does not learn a lattice by heart. Strontium titanate is not trained on: it is what `evaluate` and
tests/bench/priors.py judge by.

What `batch` makes of them: pieces turned by any angle, mirrored, magnified 0.7 to 1.4 times,
blurred by 0 to 1 pixels (reconstructions are less sharp than potentials) and cut off at 0.35 to 0.8
cycles a pixel. Noise has a standard deviation of 0.005 to 0.5 rad, 0.03 to 1.5 of the piece's
contrast, both uniform in the logarithm, and the same band limit as its piece: a detector's edge
limits both. Its power falls with frequency (`noise_like`), as it does in reconstructions.
"""

import math
import os
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from shutil import which

import h5py
import torch
from torch import Tensor
from torch.nn import functional

NOISE = (0.005, 0.5)  # rad
NOISE_OF_CONTRAST = (0.03, 1.5)  # of what lies between the percentiles
# Options of `ptyle simulate`; the patterns are not used, hence as few as possible.
TRAINING = {
    "lead titanate, 4 nm": "PbTiO3 --thickness-nm 4 --phonons 1 --step-nm 4 --max-angle-mrad 36",
    "lead titanate along 100, 8 nm": "PbTiO3 --orientation 100 --step-nm 4 --max-angle-mrad 50",
    "star, 500 nm": "star --step-nm 1000",
}
HELD_OUT = {
    "strontium titanate, 6 nm": "SrTiO3 --thickness-nm 6 --phonons 1 --step-nm 3 --seed 7 "
    "--max-angle-mrad 54",
    "lead titanate along 100, 3 nm": "PbTiO3 --orientation 100 --thickness-nm 3 --phonons 1 "
    "--step-nm 3 --seed 8 --max-angle-mrad 32",
    "star, 250 nm": "star --thickness-nm 250 --step-nm 800 --max-angle-mrad 6",
}


def program() -> str:
    """The path of `ptyle`: beside this Python, or in the environment's PATH."""
    beside = Path(sysconfig.get_path("scripts")) / "ptyle"
    found = str(beside) if beside.exists() else which("ptyle")
    if found is None:
        raise ValueError("ptyle: the program must be beside this Python or in PATH, found nowhere")
    return found


def stretch(image: Tensor) -> Tensor:
    """`image` with its 0.5th percentile at 0 and its 99.5th at 1; a flat one is all 0."""
    ordered = image.flatten().sort().values
    margin = int(0.005 * (len(ordered) - 1))
    low, high = float(ordered[margin]), float(ordered[-1 - margin])
    return (image - low) / (high - low) if high > low else torch.zeros_like(image)


def simulated(options: str, file: Path) -> Tensor:
    """The stretched true phase of `ptyle simulate` with these options, written once to `file`."""
    if not file.exists():
        part = file.with_name(f"{file.stem}.{os.getpid()}.h5")
        dim = [] if options.startswith("star") else ["--dose", "100"]
        command = [program(), "simulate", *options.split(), "--scan", "2", "2", *dim]
        done = subprocess.run([*command, "-o", part, "--force"], capture_output=True, text=True)
        if done.returncode:
            raise ValueError(
                f"{' '.join(command)} must succeed, failed with: {done.stderr.strip()}"
            )
        part.with_suffix(".toml").unlink(missing_ok=True)
        part.replace(file)
    with h5py.File(file, "r") as opened:
        phase = torch.from_numpy(opened["truth/phase"][()]).float()
    rows, columns = (size // 8 for size in phase.shape)  # the specimen fades into vacuum there
    return stretch(phase[rows : phase.shape[0] - rows, columns : phase.shape[1] - columns])


def drawn(size: int, generator: torch.Generator) -> Tensor:
    """A stretched image ``[size, size]`` of atoms, plates and a smooth field at random places."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    rows = torch.arange(size, dtype=torch.float32)[:, None]
    columns = rows.T
    noise = torch.randn(1, 1, size // 32 + 3, size // 32 + 3, generator=generator)
    image = 0.3 * functional.interpolate(noise, (size, size), mode="bicubic")[0, 0]
    for _ in range(size // 8):  # plates, half of them discs, half of them rectangles
        row, column = uniform(0, size), uniform(0, size)
        height, width = uniform(3, size / 8), uniform(3, size / 8)
        y, x = (rows - row) / height, (columns - column) / width
        inside = torch.hypot(y, x) < 1 if uniform(0, 1) < 0.5 else (y.abs() < 1) & (x.abs() < 1)
        image += uniform(-0.5, 0.5) * inside
    for _ in range(size * size // 300):
        row, column, radius = uniform(0, size), uniform(0, size), uniform(0.8, 2.5)
        top, left = max(0, int(row) - 8), max(0, int(column) - 8)
        part = image[top : top + 17, left : left + 17]
        y = rows[top : top + 17] - row
        x = columns[:, left : left + 17] - column
        part += uniform(0.2, 1.5) * torch.exp(-(y * y + x * x) / (2 * radius * radius))
    return stretch(image)


def lattice(size: int, generator: torch.Generator) -> Tensor:
    """A stretched image ``[size, size]`` of a crystal that does not exist, seen along its columns.

    Cells of 7 to 22 pixels, square, rectangular, hexagonal or oblique, with one to five columns of
    atoms, up to ten times weaker than the strongest, often at half the cell's edges; columns of
    0.5 to 1.3 pixels with wider tails. A little disorder and thickness that varies; in some a
    tenth of the columns is missing, some end in vacuum along a line, or in another grain.
    """

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    def grain() -> Tensor:
        a = math.exp(uniform(math.log(7), math.log(22)))
        kind = uniform(0, 1)
        b = a if kind < 0.5 else a * uniform(0.7, 1.4)
        angle = 90.0 if kind < 0.7 else (120.0 if kind < 0.8 else uniform(75, 105))
        turn, angle = uniform(0, 2 * math.pi), math.radians(angle)
        ways = torch.tensor([[a * math.cos(turn), a * math.sin(turn)],
                             [b * math.cos(turn + angle), b * math.sin(turn + angle)]])  # fmt: skip
        count = int(uniform(1, 6))
        places = 0.5 * torch.randint(0, 2, (count, 2), generator=generator)
        free = torch.rand(count, 1, generator=generator) < 0.4
        places = torch.where(free, torch.rand(count, 2, generator=generator), places)
        places = places + 0.08 * (torch.rand(count, 2, generator=generator) - 0.5)
        heights = torch.exp(-math.log(10) * torch.rand(count, generator=generator))
        heights[0] = 1
        widths = uniform(0.5, 1.3) * (0.85 + 0.3 * torch.rand(count, generator=generator))
        reach = int(0.75 * size / min(a, b) / math.sin(angle)) + 2
        steps = torch.arange(-reach, reach + 1, dtype=torch.float32)
        cells = torch.cartesian_prod(steps, steps)[:, None] + places  # [cells, atoms, 2]
        atoms = (cells @ ways).flatten(0, 1) + size / 2
        heights, widths = heights.repeat(len(cells)), widths.repeat(len(cells))
        atoms = atoms + uniform(0, 0.2) * torch.randn(atoms.shape, generator=generator)
        heights = heights * (1 + uniform(0, 0.15) * torch.randn(heights.shape, generator=generator))
        if uniform(0, 1) < 0.2:
            heights = heights * (torch.rand(heights.shape, generator=generator) > 0.1)
        inside = ((atoms > -8) & (atoms < size + 7)).all(1)
        return stamped(size, atoms[inside], heights[inside], widths[inside])

    rows = torch.arange(size, dtype=torch.float32)[:, None] / size - 0.5
    image = grain()
    if (kind := uniform(0, 1)) < 0.4:
        turn, offset = uniform(0, 2 * math.pi), uniform(-0.3, 0.3)
        side = torch.sigmoid(size * (math.cos(turn) * rows + math.sin(turn) * rows.T - offset))
        image = image * side + (grain() * (1 - side) if kind < 0.2 else 0)
    coarse = torch.randn(1, 1, 5, 5, generator=generator)
    thickness = functional.interpolate(coarse, (size, size), mode="bicubic")[0, 0]
    image = image * (1 + uniform(0, 0.2) * thickness) + uniform(0, 0.1) * thickness
    return stretch(image)


def stamped(size: int, atoms: Tensor, heights: Tensor, widths: Tensor) -> Tensor:
    """``[size, size]``: the sum of peaks, three quarters of each narrow, the rest twice as wide.

    atoms: ``[n, 2]`` (row, column); heights, widths (standard deviations in pixels): ``[n]``
    """
    half = 8
    corners = atoms.round()
    offsets = torch.arange(-half, half + 1, dtype=torch.float32)
    squares = (offsets + (corners - atoms)[..., None]).square()  # [n, 2, 17]
    image = torch.zeros(size + 4 * half, size + 4 * half)
    wide = torch.zeros_like(image)
    first = corners.long() + half
    index = (first[:, :1, None] + torch.arange(2 * half + 1)[:, None]) * image.shape[1]
    index = index + first[:, 1:, None] + torch.arange(2 * half + 1)
    for into, factor, share in ((image, 1.0, 0.75), (wide, 2.0, 0.25)):
        peak = torch.exp(-squares / (2 * (factor * widths)[:, None, None].square()))
        peaks = (share * heights)[:, None, None] * peak[:, 0, :, None] * peak[:, 1, None, :]
        into.view(-1).index_add_(0, index.flatten(), peaks.flatten())
    return (image + wide)[2 * half : 2 * half + size, 2 * half : 2 * half + size]


def images(which_ones: dict[str, str], folder: str | Path | None, seed: int) -> dict[str, Tensor]:
    """The specimens of TRAINING or HELD_OUT and drawn ones.

    folder: where simulated files are kept and found again; None: nowhere
    seed: of the drawn images
    """
    generator = torch.Generator().manual_seed(seed)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(folder or scratch)
        place.mkdir(parents=True, exist_ok=True)
        found = {}
        for name, options in which_ones.items():
            stem = "".join(c if c.isalnum() else "_" for c in options)
            found[name] = simulated(options, place / f"{stem}.h5")
    for number in range(2 if which_ones is HELD_OUT else 6):
        found[f"drawn {number + 1}"] = drawn(256, generator)
    for number in range(2 if which_ones is HELD_OUT else 24):
        found[f"lattice {number + 1}"] = lattice(256, generator)
    return found


def filtered(pictures: Tensor, transfer: Tensor) -> Tensor:
    """Each picture times its transfer function in Fourier space.

    pictures: ``[n, channels, rows, columns]``; transfer: ``[n, 1, rows, columns // 2 + 1]``
    """
    return torch.fft.irfft2(torch.fft.rfft2(pictures) * transfer, s=pictures.shape[2:])


def frequencies(size: int) -> Tensor:
    """``[1, 1, size, size // 2 + 1]``, cycles a pixel."""
    return torch.hypot(torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size))[None, None]


def edge(f: Tensor, limit: Tensor) -> Tensor:
    """1 below the band limit ``[n, 1, 1, 1]``, 0 above it, soft over 0.03 cycles a pixel."""
    return torch.sigmoid((limit - f) / 0.03)


def noise_like(
    n: int, channels: int, size: int, generator: torch.Generator, limit: Tensor | None = None
) -> Tensor:
    """Noise ``[n, channels, size, size]`` of variance 1: coloured, and partly white.

    Its power falls with frequency, as (1 + a 0.1 / f) exp(-(b f)^2) up to the band limit, a from 0
    to 4, b from 0 to 4 pixels; a tenth of the pictures, and up to a tenth of the others, is white.

    limit: ``[n, 1, 1, 1]`` cycles a pixel; None: 0.35 to 0.8
    """

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, 1, 1, 1, generator=generator)

    limit = uniform(0.35, 0.8) if limit is None else limit
    f = frequencies(size)
    power = 1 + uniform(0, 4) * 0.1 / f.clamp_min(0.5 / size)
    power = power * torch.exp(-(uniform(0, 4) * f).square()) * edge(f, limit)
    white = uniform(0, 1)
    white = torch.where(white > 0.9, torch.ones_like(white), 0.1 * white)
    gain = filtered_power(power, size)
    drawn_ones = torch.randn(n, channels, size, size, generator=generator)
    return filtered(drawn_ones, ((1 - white) * power / gain + white).sqrt())


def filtered_power(power: Tensor, size: int) -> Tensor:
    """The mean ``[n, 1, 1, 1]`` of a power spectrum of real pictures over all frequencies."""
    twice = torch.full((power.shape[-1],), 2.0)
    twice[0] = 1
    if size % 2 == 0:
        twice[-1] = 1
    return (power * twice).sum((2, 3), keepdim=True) / (size * size)


def pieces(
    sources: Sequence[Tensor],
    n: int,
    size: int,
    generator: torch.Generator,
    largest: float = 1.4,
    limit: Tensor | None = None,
) -> Tensor:
    """Turned, mirrored, magnified, blurred pieces ``[n, 1, size, size]`` of stretched images.

    largest: magnifications are from 1 / largest to largest
    limit: ``[n, 1, 1, 1]`` cycles a pixel beyond which they hold nothing; None: none
    """
    side = size + 16
    offsets = torch.arange(side, dtype=torch.float32) - (side - 1) / 2
    y, x = torch.meshgrid(offsets, offsets, indexing="ij")
    found = []
    for _ in range(n):
        choice, angle, zoom, row, column, flip = torch.rand(6, generator=generator).tolist()
        image = sources[min(int(choice * len(sources)), len(sources) - 1)]
        zoom = largest ** (2 * zoom - 1)
        c, s = math.cos(2 * math.pi * angle) / zoom, math.sin(2 * math.pi * angle) / zoom
        mirror = 1 if flip < 0.5 else -1
        rows, columns = image.shape
        v = (c * y - s * x * mirror) * 2 / rows + (2 * row - 1) * max(0.0, 1 - side / rows)
        u = (s * y + c * x * mirror) * 2 / columns + (2 * column - 1) * max(0.0, 1 - side / columns)
        found.append(
            functional.grid_sample(
                image[None, None],
                torch.stack([u, v], -1)[None],
                mode="bicubic",
                padding_mode="reflection",
                align_corners=False,
            )
        )
    f = frequencies(side)
    width = torch.rand(n, 1, 1, 1, generator=generator)
    transfer = torch.exp(-2 * (math.pi * width * f).square())
    if limit is not None:
        transfer = transfer * edge(f, limit)
    return filtered(torch.cat(found), transfer)[:, :, 8:-8, 8:-8]  # without what wraps around


def logarithmic(n: int, limits: tuple[float, float], generator: torch.Generator) -> Tensor:
    """n numbers ``[n, 1, 1, 1]`` uniform in the logarithm between two limits."""
    low, high = math.log(limits[0]), math.log(limits[1])
    return torch.exp(low + (high - low) * torch.rand(n, 1, 1, 1, generator=generator))


def batch(
    sources: Sequence[Tensor], n: int, size: int, channels: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """truth and noisy ``[n, channels, size, size]``, standard deviation of the noise ``[n]``.

    The first channel is phase in rad. The second is amplitude: 1, less up to 0.3 where matter is
    (the same piece to a random power), with noise of the same standard deviation.
    """
    limit = 0.35 + 0.45 * torch.rand(n, 1, 1, 1, generator=generator)
    piece = pieces(sources, n, size, generator, limit=limit)
    noise = logarithmic(n, NOISE, generator)
    contrast = noise / logarithmic(n, NOISE_OF_CONTRAST, generator)
    truth = piece * contrast
    if channels == 2:
        power = 0.5 + torch.rand(n, 1, 1, 1, generator=generator)
        depth = (contrast * logarithmic(n, (0.05, 0.5), generator)).clamp_max(0.3)
        truth = torch.cat([truth, 1 - depth * piece.clamp(0, 1).pow(power)], 1)
    noisy = truth + noise * noise_like(n, channels, size, generator, limit)
    return truth, noisy, noise.flatten()
