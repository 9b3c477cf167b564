"""Simulated data with known truth, through the installed program: the figures it must reach."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from ptyle import compare, demo

PROGRAM = Path(sys.executable).parent / "ptyle"
needs_program = pytest.mark.skipif(
    not PROGRAM.exists(), reason=f"{PROGRAM} is not built: ./dev build makes it"
)


def ptyle(*arguments):
    """Run the program; the test fails with what it said if it does."""
    done = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_program
@pytest.mark.parametrize("slices", [1, 4])
def test_noise_free_loss_falls_by_ten_thousand(tmp_path, slices):
    # Half a cell a slice, at rest, one mode, the true probe. No band limit: `run` has none, so that
    # its model can explain the patterns to rounding.
    data = tmp_path / "film.h5"
    ptyle(
        *("simulate", "PbTiO3", "-o", data, "--dose", "0", "--band-limit", "0"),
        *("--oversampling", "1", "--slices", slices, "--thickness-nm", 0.20674 * slices),
        *("--scan", "12", "12", "--step-nm", "0.1", "--jitter-nm", "0.01"),
    )
    ptyle(
        *("run", tmp_path / "film.toml", "--set", "reconstruct.iterations=300"),
        *("--set", "output.png=false"),
    )
    with h5py.File(tmp_path / "film" / "result.h5", "r") as result:
        loss = result["history/loss"][()]
    assert len(loss) == 300
    assert loss[-1] <= 1e-4 * loss[0], f"loss fell from {loss[0]:.4g} to {loss[-1]:.4g}"


@needs_program
def test_the_demo_reaches_its_correlation_and_draws_it(tmp_path, capfd):
    # 1e5 electrons per square angstrom, defocus guessed 10 % off, 8 slices simulated, 2
    # reconstructed; the demo itself returns 1 where the correlation is below 0.9.
    assert demo.GUESSED_DEFOCUS_NM == pytest.approx(1.1 * demo.DEFOCUS_NM)
    assert demo.SIMULATED_SLICES > demo.SLICES
    assert demo.LEAST_CORRELATION >= 0.9
    folder = tmp_path / "demo"
    assert demo.main([str(folder)]) == 0, capfd.readouterr()
    comparison = compare.compare(folder / "result" / "result.h5", folder / "film.h5")
    assert comparison.correlation >= 0.9
    assert max(abs(shift) for shift in comparison.shift) < 1.0
    assert (folder / "film.png").stat().st_size > 20_000


@needs_program
def test_the_default_step_never_diverges_for_any_number_of_slices(tmp_path):
    data = tmp_path / "film.h5"
    ptyle(
        *("simulate", "PbTiO3", "-o", data, "--slices", "4", "--thickness-nm", "1.65392"),
        *("--scan", "10", "10", "--step-nm", "0.1", "--window", "32", "--defocus-nm", "8"),
    )
    for slices in (1, 2, 4, 8, 20):
        ptyle(
            *("run", tmp_path / "film.toml", "--set", f"object.slices={slices}"),
            *("--set", f'output.folder="{tmp_path / str(slices)}"'),
            *("--set", "reconstruct.iterations=30", "--set", "output.png=false"),
        )
        with h5py.File(tmp_path / str(slices) / "result.h5", "r") as result:
            error = result["history/amplitude_error"][()]
        assert np.isfinite(error).all(), slices
        assert error[-1] < error[0], slices
        assert error.max() <= error[0] * 1.05, slices


def write_pair(folder, moved, noise=0.0):
    """A truth of two kinds of atoms, and a result: it, moved, with a constant and a ramp."""
    rng = np.random.default_rng(0)
    rows, columns = np.indices((90, 96), dtype=float)
    truth = np.zeros(rows.shape)
    for row in np.arange(4, 90, 12.3):
        for column in np.arange(3, 96, 13.1):
            truth += np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 5.0)
            truth += 0.4 * np.exp(-((rows - row - 6) ** 2 + (columns - column - 5) ** 2) / 5.0)
    truth = compare.low_pass(truth)
    positions = np.stack(np.meshgrid(np.arange(0, 55, 5.0), np.arange(0, 61, 5.0)), -1)
    positions = positions.reshape(-1, 2)
    phase = compare.fourier_shift(truth, moved) + 0.3 + 0.002 * rows - 0.001 * columns
    phase += noise * rng.normal(size=phase.shape)
    padding = 3  # the result's frame begins three pixels earlier
    grown = np.pad(phase, padding, mode="edge")
    with h5py.File(folder / "truth.h5", "w") as file:
        file["truth/phase"] = truth
        file["positions"] = positions
        file.attrs["object_pixel_nm"] = 0.03
    with h5py.File(folder / "result.h5", "w") as file:
        file["object"] = np.exp(0.5j * np.stack([grown, grown]))
        file["positions"] = positions + padding
        file["probe"] = np.ones((1, 32, 32), dtype=complex)
    return folder / "result.h5", folder / "truth.h5"


@pytest.mark.parametrize("moved", [(0.0, 0.0), (1.3, -2.6), (-0.25, 0.4)])
def test_compare_finds_a_sub_pixel_shift_and_ignores_constant_and_ramp(tmp_path, moved):
    found = compare.compare(*write_pair(tmp_path, moved))
    assert found.shift == pytest.approx(moved, abs=0.05)
    assert found.correlation > 0.999
    assert found.phase.shape == (51, 61)


def test_compare_is_not_fooled_by_another_object(tmp_path):
    result, truth = write_pair(tmp_path, (0.0, 0.0))
    with h5py.File(result, "r+") as file:
        file["object"][...] = np.swapaxes(file["object"][:, :, :], 1, 2).reshape(
            file["object"].shape
        )
    assert compare.compare(result, truth).correlation < 0.5


def test_compare_draws_and_prints(tmp_path, capsys):
    result, truth = write_pair(tmp_path, (0.5, 0.0), noise=0.05)
    picture = tmp_path / "picture.png"
    assert compare.main([str(result), str(truth), "-o", str(picture)]) == 0
    assert "correlation 0.9" in capsys.readouterr().out
    assert picture.exists()
    assert compare.main([str(result), str(tmp_path / "missing.h5")]) == 3
