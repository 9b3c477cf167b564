"""Shared by the Python tests: where measured data lies, small random problems, a random order."""

import os
import random
import signal
from pathlib import Path

import numpy as np
import ptyle  # noqa: F401  loads torch.ops.ptyle
import pytest
import torch

ROOT = Path(__file__).parents[2]
# A shell's background job ignores Ctrl-C, and so would the programs that tests send it to.
signal.signal(signal.SIGINT, signal.default_int_handler)
DATA = Path(os.environ.get("PTYLE_DATA") or ROOT.parent / "shared" / "data")


def pytest_addoption(parser):
    parser.addoption(
        "--shuffle",
        type=int,
        metavar="SEED",
        help="run files, and the tests in each, in a random order: none may need another",
    )


def pytest_collection_modifyitems(config, items):
    seed = config.getoption("--shuffle")
    if seed is None:
        return
    order = random.Random(seed)
    files = sorted({item.path for item in items})
    order.shuffle(files)
    order.shuffle(items)
    items.sort(key=lambda item: files.index(item.path))


def measured(name: str) -> Path:
    """A file of measured or reference data; the test is skipped where it is absent."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not in {DATA} (set PTYLE_DATA)")
    return path


def make_problem(
    *,
    slices=3,
    modes=2,
    h=8,
    w=6,
    rows=15,
    columns=13,
    n=5,
    real_object=False,
    dtype=torch.complex128,
    whole_pixels=False,
    seed=0,
):
    """object, probe, positions (some windows hang over the edge), propagator, patterns."""
    generator = torch.Generator().manual_seed(seed)
    real = torch.zeros(0, dtype=dtype).real.dtype

    def randn(*shape, kind):
        return torch.randn(*shape, dtype=kind, generator=generator)

    if real_object:
        obj = 0.3 * randn(slices, rows, columns, kind=real)
    else:
        obj = 1 + 0.3 * randn(slices, rows, columns, kind=dtype)
    probe = randn(modes, h, w, kind=dtype)
    span = torch.tensor([rows - h + 6.0, columns - w + 6.0])
    positions = torch.rand(n, 2, dtype=torch.double, generator=generator) * span - 3
    if whole_pixels:
        positions = positions.floor()
    phase = randn(h, w, kind=real)
    propagator = torch.polar(torch.ones_like(phase), phase) if slices > 1 else None
    patterns = torch.randint(0, 9, (n, h, w), generator=generator).to(torch.uint16)
    return obj, probe, positions, propagator, patterns


def leaves(*tensors):
    return [None if t is None else t.clone().requires_grad_() for t in tensors]


def vacuum(count, size=16, seed=5):
    """A narrow probe [size, size], and `count` patterns of it through nothing, with the noise of
    counts: what a start fits already."""
    line = np.arange(size) - size // 2
    probe = np.exp(-(line[:, None] ** 2 + line**2) / 8.0)
    probe *= np.sqrt(40.0 * size**2 / (probe**2).sum())
    pattern = np.abs(np.fft.fftshift(np.fft.fft2(probe, norm="ortho"))) ** 2
    counts = np.random.default_rng(seed).poisson(pattern, (count, size, size))
    return probe.astype(np.complex64), counts
