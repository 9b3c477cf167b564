"""Whole runs in the near field and of streamed patterns, on one rank and two, and what `check`
says of memory and truncated halos, against models of their own."""

import json
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from rank_processes import CLEAN, finish, start

PROGRAM = Path(sys.executable).parent / "ptyle"
pytestmark = pytest.mark.skipif(not PROGRAM.exists(), reason=f"{PROGRAM} is not built")


def settings(values):
    return [text for key, value in values.items() for text in ("--set", f"{key}={value}")]


def run(folder, config, ranks=1, **values):
    """`ptyle run` on so many ranks; the folder of its result."""
    ends = finish(start([PROGRAM, "run", config, *settings(values)], ranks, cwd=folder))
    assert [code for code, *_ in ends] == [0] * ranks, ends
    return folder / values["output.folder"]


def check(folder, config, *options, **values):
    done = subprocess.run(
        [PROGRAM, "check", config, *options, *settings(values)],
        cwd=folder,
        env=CLEAN,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def result(folder):
    with h5py.File(folder / "result.h5") as file:
        names = ("object", "probe", "history/loss", "history/amplitude_error")
        return {name: file[name][()] for name in names}


def same_bits(a, b):
    return all(a[name].tobytes() == b[name].tobytes() for name in a)


# --- the near field ---

WAVELENGTH = 12.398419843e-10 / 10.0  # of X-rays of 10 keV, m
PIXEL, DISTANCE, SIZE, STEP, SIDE = 0.1e-6, 4e-3, 48, 6, 7


@pytest.fixture(scope="module")
def near(tmp_path_factory):
    """Patterns of a phase object some millimetres behind it, by numpy; corners on whole pixels."""
    folder = tmp_path_factory.mktemp("near")
    extent = (SIDE - 1) * STEP + SIZE
    i, j = np.mgrid[:extent, :extent]
    truth = np.exp(0.5j * np.sin(i / 4.0) * np.cos(j / 5.0 + i / 17.0))
    y, x = np.mgrid[:SIZE, :SIZE] - 0.5 * (SIZE - 1)
    # lit well inside the window, unevenly, so that shifts of the object are seen
    probe = np.exp(-(((x**2 + y**2) / 220.0) ** 2)) * (1 + 0.4 * np.cos(x / 3.0) * np.sin(y / 4.0))
    probe = 40.0 * probe * np.exp(0.004j * (x**2 + y**2))
    corners = np.array([[STEP * a, STEP * b] for a in range(SIDE) for b in range(SIDE)])
    k = np.fft.fftfreq(SIZE, PIXEL)
    k2 = k[:, None] ** 2 + k[None, :] ** 2
    fresnel = np.exp(-1j * np.pi * WAVELENGTH * DISTANCE * k2)
    waves = np.array([probe * truth[a : a + SIZE, b : b + SIZE] for a, b in corners])
    patterns = np.abs(np.fft.ifft2(np.fft.fft2(waves) * fresnel)) ** 2
    with h5py.File(folder / "near.h5", "w") as file:
        file["data"] = patterns.astype(np.float32)
        file["positions"] = corners.astype(float)
        file["probe"] = probe.astype(np.complex64)
    (folder / "near.toml").write_text(f"""
[data]
file = "near.h5"
[detector]
geometry = "near"
pixel_size_um = {PIXEL * 1e6}
distance_m = {DISTANCE}
[beam]
kind = "xray"
energy_keV = 10.0
[probe]
file = "near.h5"
power = "keep"
[reconstruct]
iterations = 60
refine = ["object"]
[tiles]
grid = [2, 2]
[output]
png = false
""")
    return folder, truth, probe


def test_a_near_field_run_finds_the_object_and_its_bits_do_not_depend_on_ranks(near):
    folder, truth, probe = near
    one = run(folder, "near.toml", **{"output.folder": "one"})
    found = result(one)
    assert found["history/amplitude_error"][-1] < 0.01
    # where at least half of the brightest place's light falls
    lit = np.zeros(truth.shape)
    for a in range(0, SIDE * STEP, STEP):
        for b in range(0, SIDE * STEP, STEP):
            lit[a : a + SIZE, b : b + SIZE] += np.abs(probe) ** 2
    where = lit > 0.5 * lit.max()
    with h5py.File(one / "result.h5") as file:
        row, column = (int(x) for x in file["positions"][0])  # of a window that begins at (0, 0)
    got = found["object"][0, row : row + truth.shape[0], column : column + truth.shape[1]]
    phase = np.vdot(got[where], truth[where])
    error = np.abs(got * phase / abs(phase) - truth)[where]
    assert error.max() < 0.05 and np.sqrt((error**2).mean()) < 0.01
    two = run(folder, "near.toml", ranks=2, **{"output.folder": "two"})
    assert same_bits(found, result(two))
    streamed = run(
        folder, "near.toml", ranks=2, **{"output.folder": "streamed", "data.stream": "true"}
    )
    assert same_bits(found, result(streamed))


def test_a_wrong_distance_does_not_fit_near_field_patterns(near):
    folder, _, _ = near
    wrong = {"output.folder": "wrong", "detector.distance_m": 2 * DISTANCE}
    found = result(run(folder, "near.toml", **wrong))
    assert found["history/amplitude_error"][-1] > 0.05


# --- streamed patterns, memory ---


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    folder = tmp_path_factory.mktemp("film")
    options = "--scan 14 15 --window 48 --slices 3 --thickness-nm 6".split()
    subprocess.run(
        [PROGRAM, "simulate", "PbTiO3", "-o", "film.h5", *options],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return folder


def test_streamed_patterns_have_the_same_bits_on_one_rank_and_two(film):
    with h5py.File(film / "film.h5") as file, h5py.File(film / "packed.h5", "w") as out:
        for name in ("positions", "probe"):
            out[name] = file[name][()]
        out.create_dataset("data", data=file["data"][()], chunks=(4, 48, 48), compression="gzip")
    values = {"reconstruct.iterations": 3, "tiles.grid": "[2,3]", "output.png": "false"}
    held = run(film, "film.toml", **values, **{"output.folder": "held"})
    for name in ("film.h5", "packed.h5"):
        for ranks in (1, 2):
            streamed = values | {"data.file": name, "data.stream": "true"}
            out = f"{name}{ranks}"
            folder = run(film, "film.toml", ranks, **streamed, **{"output.folder": out})
            assert same_bits(result(held), result(folder)), out


@pytest.mark.parametrize(
    ("ranks", "more"),
    [
        (1, {}),
        (1, {"reconstruct.momentum": 0.3, "reconstruct.precision": "double"}),
        (1, {"reconstruct.optimizer": "adam", "probe.modes": 3, "object.slices": 1}),
        # its memory is full after as many iterations as it keeps pairs
        (
            1,
            {
                "reconstruct.optimizer": "lbfgs",
                "reconstruct.batches": 1,
                "reconstruct.history": 4,
                "reconstruct.iterations": 7,
            },
        ),
        (1, {"data.stream": "true", "tiles.grid": "[3,3]"}),
        (2, {"tiles.grid": "[2,2]"}),
        (2, {"tiles.grid": "[4,4]", "tiles.exchange": "passes"}),
    ],
)
def test_the_predicted_memory_is_what_a_run_takes(film, ranks, more):
    """Tensors are counted by their allocator: the most that lived at once is no chance."""
    values = {"reconstruct.iterations": 2, "reconstruct.batches": 4, "output.png": "false"}
    values |= {"output.folder": "memory"} | more
    text = check(film, "film.toml", "--ranks", str(ranks), **values)
    predicted = 1e6 * float(re.search(r"tensors (\S+) MB", text)[1])
    folder = run(film, "film.toml", ranks, **values)
    line = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    for path in folder.iterdir():
        path.unlink()
    assert 0.75 < predicted / line["tensor_bytes"] < 1.35, (predicted, line["tensor_bytes"])
    # all of the process, the system's view: what the program itself takes is known roughly
    whole = float(re.search(r"memory +(\S+) MB", text)[1]) * 1e6
    assert 0.5 * whole < line["peak_bytes"] < 1.6 * whole, (whole, line["peak_bytes"])


# --- truncated halos ---

WINDOW = 16


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """Twelve positions in a row of two tiles; a vacuum's start is a gradient that numpy can do."""
    folder = tmp_path_factory.mktemp("halves")
    random = np.random.default_rng(2)
    y, x = np.mgrid[:WINDOW, :WINDOW] - np.array([7.0, 6.0]).reshape(2, 1, 1)
    probe = np.exp(-(y**2 / 9.0 + x**2 / 16.0) + 0.05j * x * y) * 30.0
    corners = np.array([[3 * a, 4 * b] for a in range(2) for b in range(12)])
    patterns = random.poisson(
        np.abs(np.fft.fft2(probe, norm="ortho")) ** 2 * 1.2 + 1.0, (24, 16, 16)
    )
    with h5py.File(folder / "halves.h5", "w") as file:
        file["data"] = patterns.astype(np.uint16)
        file["positions"] = corners.astype(float)
        file["probe"] = probe.astype(np.complex128)
    (folder / "halves.toml").write_text("""
[data]
file = "halves.h5"
zero_frequency = "corner"
[probe]
file = "halves.h5"
power = "keep"
[reconstruct]
precision = "double"
[tiles]
grid = [1, 2]
""")
    return folder, probe, corners, patterns.astype(float)


def frames_of(columns, cut, halo):
    """Columns of the two extended tiles, first and behind the last."""
    return (0, min(columns, cut + halo)), (max(0, cut - halo), columns)


def tile_of(column, cut):
    return 0 if column + WINDOW // 2 < cut else 1


@pytest.mark.parametrize("halo", [1, 2, 3, 5])
def test_what_a_truncated_halo_cuts_off_is_as_computed_by_hand(halves, halo):
    folder, probe, corners, patterns = halves
    text = check(folder, "halves.toml", "--halo-error", **{"tiles.halo": halo})
    rows, columns = 4 + WINDOW, 45 + WINDOW  # a pixel more, for fractions
    assert f"1 slice of {rows} x {columns}" in text
    cut = columns // 2
    assert f"from {rows} x {cut} to {rows} x {cut + 1} pixels, with 12 to 12 positions" in text
    frames = frames_of(columns, cut, halo)
    light = (np.abs(probe) ** 2).sum(axis=0)
    outside, all_light = np.zeros(2), np.zeros(2)
    exact = np.zeros((rows, columns), complex)
    truncated = np.zeros((rows, columns), complex)
    for (row, column), pattern in zip(corners, patterns, strict=True):
        tile = tile_of(column, cut)
        first, last = frames[tile]
        inside = (np.arange(WINDOW) + column >= first) & (np.arange(WINDOW) + column < last)
        all_light[tile] += light.sum()
        outside[tile] += light[~inside].sum()
        wave = np.fft.fft2(probe, norm="ortho")  # the object is 1
        residual = wave * (1.0 - np.sqrt(pattern) / np.abs(wave))
        gradient = np.conj(probe) * np.fft.ifft2(residual, norm="ortho")
        here = (slice(row, row + WINDOW), slice(column, column + WINDOW))
        exact[here] += gradient
        truncated[here] += gradient * inside
    energy = 100.0 * (outside / all_light).max()
    error = np.linalg.norm(exact - truncated) / np.linalg.norm(exact)
    assert energy > 0 and error > 0
    told = float(re.search(r"energy cut +(\S+) %", text)[1])
    assert told == pytest.approx(energy, rel=2e-3)
    told = float(re.search(r"halo error +(\S+) of", text)[1])
    assert told == pytest.approx(error, rel=6e-3)  # three digits are told
