"""Tables and pictures of what the networks do on specimens that they were not trained on."""

from collections.abc import Callable
from pathlib import Path

import torch

from . import specimens


def print_specimens(rows: list[dict]) -> None:
    """A line a specimen and level of noise: root mean squared errors and their ratio."""
    width = max(len(row["specimen"]) for row in rows)
    print(f"{'specimen':{width}}   noise   error  denoised  ratio")
    for row in rows:
        print(
            f"{row['specimen']:{width}}  {row['noise']:6.4f}  {row['before']:6.4f}  "
            f"{row['after']:8.4f}  {row['after'] / row['before']:5.3f}"
        )


def print_levels(rows: list[dict]) -> None:
    """The same over all specimens."""
    for row in rows:
        print(
            f"noise {row['noise']:g}: error {row['before']:.4f}, denoised {row['after']:.4f}, "
            f"ratio {row['ratio']:.3f}"
        )


def print_iterations(rows: list[dict]) -> None:
    """A line an experiment: errors from vacuum and from the network's object."""
    print("           vacuum's error          the network's      iterations to vacuum's 20th")
    print("at start   after 10   after 20   at start   after 10")
    for row in rows:
        flat, warm, reached = row["flat"], row["warm"], row["reached"]
        print(
            f"{flat[0]:8.4f}   {flat[10]:8.4f}   {flat[20]:8.4f}   {warm[0]:8.4f}   "
            f"{warm[10]:8.4f}   {'more than 20' if reached is None else reached}"
        )


@torch.no_grad()
def draw(
    model: Callable, channels: int, levels, seed: int, folder, contrast: float, file: Path
) -> None:
    """Truth, noisy and denoised phase of every held-out specimen, its noise the middle level."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("--png: must have matplotlib, which is not installed") from None
    if file.suffix != ".png":
        raise ValueError(f"--png: must end in .png, got {str(file)!r}")
    held_out = specimens.images(specimens.HELD_OUT, folder, 1000 + seed)
    level = float(sorted(levels)[(len(levels) - 1) // 2])
    figure = Figure(figsize=(9, 3 * len(held_out)), layout="constrained")
    axes = figure.subplots(len(held_out), 3)
    generator = torch.Generator().manual_seed(seed)
    for line, (name, image) in zip(axes, held_out.items(), strict=True):
        limit = torch.full((1, 1, 1, 1), 0.5)
        truth = specimens.pieces([image], 1, 96, generator, largest=1.0, limit=limit) * contrast
        if channels == 2:
            truth = torch.cat([truth, 1 - 0.2 * truth.clamp(0, contrast) / contrast], 1)
        noisy = truth + level * specimens.noise_like(1, channels, 96, generator, limit)
        denoised = model(noisy, torch.tensor([level]))
        low, high = float(truth[0, 0].min()), float(truth[0, 0].max())
        titles = (f"{name}: truth", f"noise of {level:g} rad", "denoised")
        for axis, picture, title in zip(line, (truth, noisy, denoised), titles, strict=True):
            axis.imshow(picture[0, 0].numpy(), cmap="gray", vmin=low, vmax=high)
            axis.set_title(title, fontsize=8)
            axis.set_axis_off()
    figure.savefig(file, dpi=100)
