"""Near-field data whose positions lie between pixels, from a model that moves the whole object."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

PTYLE = Path(sys.prefix) / "bin" / "ptyle"
WAVELENGTH_M, PIXEL_M, DISTANCE_M, N = 12.398419843320026e-10 / 12.0, 100e-9, 4e-3, 64


def smooth(generator, shape, width):
    k2 = np.fft.fftfreq(shape[0])[:, None] ** 2 + np.fft.fftfreq(shape[1]) ** 2
    noise = np.fft.fft2(generator.standard_normal(shape)) * np.exp(-2 * (np.pi * width) ** 2 * k2)
    field = np.fft.ifft2(noise).real
    return field / field.std()


@pytest.fixture(scope="module", params=["inside", "filling"])
def data(request, tmp_path_factory):
    """A probe well inside the window, or one that fills it; the object moves, the beam is at rest.

    The object is larger than what is seen of it, and moves periodically.
    """
    generator = np.random.default_rng(5)
    y, x = np.mgrid[:N, :N] - N // 2
    envelope = 1 / (1 + np.exp((np.hypot(y, x) - 18) / 1.2)) if request.param == "inside" else 1.0
    probe = envelope * np.exp(1.2j * smooth(generator, (N, N), 2.5))
    probe *= np.sqrt(2e6 / (abs(probe) ** 2).sum())
    rows, columns = np.mgrid[:7, :7]
    positions = np.stack([rows.ravel(), columns.ravel()], 1) * 8.0
    positions += generator.uniform(0, 3, positions.shape)
    obj = np.exp(0.3j * smooth(generator, (128, 128), 3.0)) * (
        1 - 0.05 * abs(smooth(generator, (128, 128), 3.0))
    )
    k = np.fft.fftfreq(128)
    distances = np.fft.fftfreq(N, PIXEL_M)
    k2 = distances[:, None] ** 2 + distances**2
    propagator = np.exp(-1j * np.pi * WAVELENGTH_M * DISTANCE_M * k2)
    intensity = []
    for row, column in positions:
        ramp = np.exp(2j * np.pi * (k[:, None] * (row + 20) + k * (column + 20)))
        patch = np.fft.ifft2(np.fft.fft2(obj) * ramp)[:N, :N]
        intensity.append(abs(np.fft.ifft2(np.fft.fft2(probe * patch) * propagator)) ** 2)
    folder = tmp_path_factory.mktemp(request.param)
    with h5py.File(folder / "near.h5", "w") as file:
        file["data"] = generator.poisson(intensity).astype(np.uint32)
        file["positions"] = positions
        file["probe"] = probe.astype(np.complex64)
    (folder / "near.toml").write_text(f"""
[data]
file = "near.h5"
[detector]
geometry = "near"
pixel_size_um = {PIXEL_M * 1e6}
distance_m = {DISTANCE_M}
[beam]
kind = "xray"
energy_keV = 12.0
[probe]
file = "near.h5"
power = "keep"
[reconstruct]
iterations = 60
refine = ["object"]
[output]
png = false
""")
    return request.param, folder, obj


def run(folder, *options):
    done = subprocess.run(
        [PTYLE, *options], cwd=folder, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def error_and_correlation(folder, obj):
    with h5py.File(folder / "result.h5") as file:
        error = file["history/amplitude_error"][-1]
        found = file["object"][0]
        offset = np.asarray(file["positions"].attrs["offset"])
    begin = (np.round(offset) + 20).astype(int)
    truth = np.roll(obj, -begin, (0, 1))[: found.shape[0], : found.shape[1]]
    inside = (slice(30, -30),) * 2
    a, b = found[inside], truth[inside]
    return error, abs((a * b.conj()).sum()) / np.linalg.norm(a) / np.linalg.norm(b)


def test_the_detector_stands_still_relative_to_the_beam(data):
    kind, folder, obj = data
    said = run(folder, "check", "near.toml")
    assert ("patches of the object are moved" in said) == (kind == "filling"), said
    run(folder, "run", "near.toml", "--set", "output.folder=auto")
    error, correlation = error_and_correlation(folder / "auto", obj)
    assert error < 0.3  # the counts' own noise leaves about 0.25
    assert correlation > 0.999


def test_either_may_be_moved_and_a_probe_that_fills_the_window_must_not_be(data):
    kind, folder, obj = data
    errors = {}
    for moved in ("probe", "object"):
        options = ("--set", f"detector.subpixel={moved}", "--set", f"output.folder={moved}")
        words = {"probe": "the probe is moved, and its exit wave back", "object": "patches of the"}
        assert words[moved] in run(folder, "check", "near.toml", *options)
        run(folder, "run", "near.toml", *options)
        errors[moved], correlation = error_and_correlation(folder / moved, obj)
        if kind == "inside":
            assert correlation > 0.999
    assert errors["object"] < 0.3
    assert (errors["probe"] > 1.5 * errors["object"]) == (kind == "filling"), errors


@pytest.mark.parametrize("share, moved", [(0.7e-4, "the probe is moved"), (1.4e-4, "patches of")])
def test_more_than_1e_4_of_the_probes_energy_in_the_outer_eighth_moves_the_object(
    data, tmp_path, share, moved
):
    _, folder, _ = data
    y, x = np.mgrid[:N, :N] - N // 2
    inside = (slice(N // 8, -(N // 8)),) * 2

    def at_edge(width):
        intensity = np.exp(-(y**2 + x**2) / width**2)
        return 1 - intensity[inside].sum() / intensity.sum()

    narrow, wide = 2.0, 40.0
    for _ in range(60):
        middle = 0.5 * (narrow + wide)
        narrow, wide = (middle, wide) if at_edge(middle) < share else (narrow, middle)
    with h5py.File(tmp_path / "probe.h5", "w") as file:
        file["probe"] = np.exp(-(y**2 + x**2) / (2 * wide**2)).astype(np.complex64)
    probe = ("--set", f"probe.file={tmp_path / 'probe.h5'}", "--set", "probe.power=data")
    assert moved in run(folder, "check", "near.toml", *probe)
