"""Frames that should take no part: found, named, left out, with the same bits on any ranks."""

import pathlib
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest
from rank_processes import finish, start

PROGRAM = pathlib.Path(sys.executable).parent / "ptyle"
pytestmark = [
    pytest.mark.skipif(not PROGRAM.exists(), reason=f"{PROGRAM} is not built"),
    pytest.mark.timeout(120),
]
EMPTY, BRIGHT, HALF, PIXEL = [11, 40], 52, 57, 61
BAD = [*EMPTY, BRIGHT, HALF, PIXEL]


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """9 x 10 frames of which five are bad, at places away from the scan's edge."""
    folder = tmp_path_factory.mktemp("film")
    options = ["--scan", "9", "10", "--window", "32", "--dose", "2e5"]
    subprocess.run(
        [PROGRAM, "simulate", "PbTiO3", "-o", "film.h5", *options],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    shutil.copy(folder / "film.h5", folder / "good.h5")
    with h5py.File(folder / "film.h5", "r+") as file:
        data = file["data"][()].reshape(90, 32, 32)
        attributes = dict(file["data"].attrs)
        del file["data"]
        data = data.astype("uint32")
        brightest = data.max()
        data[EMPTY] = 0
        data[BRIGHT] *= 50
        data[HALF, :16] = 0
        data[PIXEL, 3, 4] = 60 * brightest
        file["data"] = data
        file["data"].attrs.update(attributes)
    return folder


def settings(**values):
    return [text for key, value in values.items() for text in ("--set", f"{key}={value}")]


def launch(folder, *arguments, ranks=1):
    ends = finish(start([PROGRAM, *arguments], ranks, cwd=folder))
    return [code for code, *_ in ends], "".join(out + err for _, out, err in ends)


def reconstruct(folder, out, ranks=1, **values):
    values = {
        "output.folder": out,
        "output.png": "false",
        "reconstruct.iterations": 4,
        "tiles.grid": "[2,2]",
    } | values
    codes, said = launch(
        folder, "run", "film.toml", "--overwrite", *settings(**values), ranks=ranks
    )
    assert codes == [0] * ranks, said
    with h5py.File(folder / out / "result.h5") as file:
        names = ("object", "probe", "positions", "used", "history/amplitude_error")
        return {name: file[name][()] for name in names}, said


def test_bad_frames_are_named_by_check_and_run(film):
    (code,), said = launch(film, "check", "film.toml")
    assert code == 0
    for words in (
        "2 frames (11, 40) without counts",
        "1 frame (52) with far more counts",
        "1 frame (57) empty in a part",
        "1 frame (61) whose brightest pixel",
    ):
        assert words in said
    assert "90 of 90 take part" in said
    _, told = reconstruct(film, "all")
    assert told.count("2 frames (11, 40) without counts") == 1
    codes, said = launch(film, "check", "film.toml", "--set", "data.file=good.h5")
    assert codes == [0] and "frames (" not in said and "1 frame (" not in said


@pytest.mark.parametrize("stream", ["false", "true"])
@pytest.mark.parametrize("exchange", ["direct", "voxels"])
def test_auto_is_the_same_as_a_list_on_any_number_of_ranks(film, stream, exchange):
    options = {"data.stream": stream, "tiles.exchange": exchange}
    one, said = reconstruct(film, "auto1", **{"data.skip": "auto"}, **options)
    assert "left out: 2 frames (11, 40) without counts" in said
    assert "doubtful" not in said
    two, told = reconstruct(film, "auto2", ranks=2, **{"data.skip": "auto"}, **options)
    assert told.count("left out: 2 frames (11, 40) without counts") == 1
    for name in one:
        assert np.array_equal(one[name], two[name], equal_nan=True), name
    assert one["used"].tolist() == [0 if k in BAD else 1 for k in range(90)]
    assert one["positions"].shape == (90, 2)


def test_frames_left_out_are_as_if_they_were_not_in_the_file(film):
    with h5py.File(film / "film.h5") as file, h5py.File(film / "fewer.h5", "w") as fewer:
        good = np.setdiff1d(np.arange(90), BAD)
        for name in ("data", "positions"):
            fewer[name] = file[name][()][good]
        fewer["probe"] = file["probe"][()]
    fewer, _ = reconstruct(film, "fewer", **{"data.file": "fewer.h5"})
    listed, _ = reconstruct(film, "listed", **{"data.skip": str(BAD)})
    ruled, _ = reconstruct(film, "ruled", **{"data.skip": "auto", "tiles.grid": "[1,1]"})
    whole, _ = reconstruct(film, "whole", **{"data.file": "fewer.h5", "tiles.grid": "[1,1]"})
    for name in ("object", "probe", "history/amplitude_error"):
        assert np.array_equal(fewer[name], listed[name]), name
        assert np.array_equal(whole[name], ruled[name]), name
    good_error = reconstruct(film, "good", **{"data.file": "good.h5"})[0]["history/amplitude_error"]
    error = listed["history/amplitude_error"][-1]
    assert abs(error / good_error[-1] - 1) < 0.2
    everything, _ = reconstruct(film, "everything")
    assert everything["history/amplitude_error"][-1] > 3 * error


def test_resuming_holds_the_same_frames(film):
    whole, _ = reconstruct(film, "whole4", **{"data.skip": "auto"})
    reconstruct(film, "parts", **{"data.skip": "auto", "reconstruct.iterations": 2})
    arguments = settings(
        **{
            "output.folder": "parts",
            "output.png": "false",
            "reconstruct.iterations": 4,
            "tiles.grid": "[2,2]",
        }
    )
    (code,), said = launch(film, "run", "film.toml", "--resume", *arguments)
    assert code == 2 and "data.skip" in said
    (code,), said = launch(
        film, "run", "film.toml", "--resume", *arguments, "--set", "data.skip=auto"
    )
    assert code == 0, said
    with h5py.File(film / "parts" / "result.h5") as file:
        assert np.array_equal(file["object"][()], whole["object"])


def test_select_by_slice_list_and_dataset(film):
    with h5py.File(film / "choice.h5", "w") as file:
        file["flags"] = np.arange(90) % 3 == 0
        file["indices"] = np.arange(0, 90, 3)
    for select in (
        "0:90:3",
        "::3",
        "choice.h5:flags",
        "choice.h5:indices",
        str([*range(0, 90, 3)]),
    ):
        result, _ = reconstruct(
            film, "chosen", **{"data.select": select, "reconstruct.iterations": 0}
        )
        assert result["used"].tolist() == [1 if k % 3 == 0 else 0 for k in range(90)], select
    for key, value, words in (
        ("data.select", "[90]", "must name frames of the file, from 0 to 89, got 90"),
        ("data.skip", "0:90", "must leave a frame"),
        ("data.select", "90:", "must select a frame"),
        ("data.select", "auto", 'not be "auto"'),
        ("data.skip", "[-1]", "at least 0"),
        ("data.select", "0:10:0", "a step of at least 1"),
    ):
        (code,), said = launch(film, "check", "film.toml", "--set", f"{key}={value}")
        assert code == 2 and key in said and words in said, said


def test_positions_that_are_lost(film):
    shutil.copy(film / "film.h5", film / "lost.h5")
    with h5py.File(film / "lost.h5", "r+") as file:
        file["positions"][3] = [4e3, 7.0]
        file["positions"][8] = np.nan
    option = ["--set", "data.file=lost.h5"]
    (code,), said = launch(film, "check", "film.toml", *option)
    assert code == 3 and "must be finite" in said and "1 frame (8) has no position" in said
    (code,), said = launch(film, "check", "film.toml", *option, "--set", "data.skip=[8]")
    assert code == 0 and "number 3 is (4000, 7)" in said and "far from all others" in said
    left, said = reconstruct(film, "lost", **{"data.file": "lost.h5", "data.skip": "auto"})
    assert "left out: 1 frame (3) far from all other positions" in said
    assert "left out: 1 frame (8) without a finite position" in said
    assert not left["used"][[3, 8]].any() and left["object"].shape[1] < 200
    assert np.isnan(left["positions"][8]).all() and np.isfinite(left["positions"][3]).all()
    # Not only by orders of magnitude, and not alone.
    with h5py.File(film / "lost.h5", "r+") as file:
        good = np.delete(file["positions"][()], [3, 8], 0)
        wide = np.ptp(good, axis=0).max()
        file["positions"][3] = good.max(0) + [5 * wide, 0]
        file["positions"][8] = good.max(0) + [0, 2 * wide]
    (code,), said = launch(film, "check", "film.toml", *option)
    assert code == 0 and "2 positions far from all others: number 3 is" in said, said
    _, said = reconstruct(film, "lost", **{"data.file": "lost.h5", "data.skip": "auto"})
    assert "left out: 2 frames (3, 8) far from all other positions" in said
    with h5py.File(film / "lost.h5", "r+") as file:
        file["positions"][8] = 1e7
    (code,), said = launch(film, "check", "film.toml", *option, "--set", "data.skip=[3]")
    assert code == 3 and "number 8 is (10000000, 10000000)" in said, said
