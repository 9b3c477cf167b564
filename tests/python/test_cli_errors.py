"""Wrong command lines, configs and data: one sentence that says what, and the exit code."""

import pathlib
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

PROGRAM = pathlib.Path(sys.executable).parent / "ptyle"
pytestmark = pytest.mark.skipif(
    not PROGRAM.exists(), reason=f"{PROGRAM} is not built: ./dev build makes it"
)

CONFIG = """
[data]
file = "star.h5"
[probe]
file = "star.h5"
[reconstruct]
iterations = 1
batches = 1
[output]
folder = "out"
"""


def ptyle(*arguments, cwd=None):
    return subprocess.run(
        [str(PROGRAM), *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def star(tmp_path):
    """A folder with star.toml and the star.h5 it names."""
    random = np.random.default_rng(1)
    with h5py.File(tmp_path / "star.h5", "w") as file:
        file["data"] = random.poisson(5.0, (9, 8, 10)).astype(np.uint16)
        file["positions"] = random.uniform(0.0, 6.0, (9, 2))
        file["probe"] = np.ones((8, 10), np.complex64)
        file["floats"] = random.uniform(0.0, 5.0, (9, 8, 10))
        file["mask"] = np.zeros((8, 10), bool)
    (tmp_path / "star.toml").write_text(CONFIG)
    return tmp_path


def expect(result, code, *words):
    assert result.returncode == code, result.stderr
    lines = [line for line in result.stderr.splitlines() if "error" in line]
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0], f"{word!r} is missing in: {lines[0]}"


def test_a_good_config_passes_check_which_writes_nothing(star):
    before = {path: path.stat().st_mtime_ns for path in star.iterdir()}
    result = ptyle("check", star / "star.toml")
    assert result.returncode == 0, result.stderr
    for word in ("window", "8 x 10", "overlap", "orientation", "tile grid", "memory"):
        assert word in result.stdout
    assert before == {path: path.stat().st_mtime_ns for path in star.iterdir()}


def test_masks_of_bool_and_half_precision_patterns_are_read(star):
    with h5py.File(star / "star.h5", "a") as file:
        file["half"] = file["data"][...].astype(np.float16)
        file["mask"][2, 3] = True
        file["big_endian"] = file["data"][...].astype(">u4")
    for name in ("half", "big_endian"):
        result = ptyle(
            "check", star / "star.toml", "--set", f"data.patterns={name}", "--set", "data.mask=mask"
        )
        assert result.returncode == 0, result.stderr
        assert "1.25 % of the pixels" in result.stdout


@pytest.mark.parametrize("verb", ["check", "run"])
@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "reconstruct.iteratons=5",
            ["unknown key reconstruct.iteratons", "reconstruct.iterations"],
        ),
        ("data.zero_frequenzy=corner", ["unknown key", "data.zero_frequency"]),
        ("reconstruct.step=-1", ["reconstruct.step", "greater than 0", "-1"]),
        ("reconstruct.step=nan", ["reconstruct.step", "finite", "nan"]),
        ("reconstruct.iterations=many", ["reconstruct.iterations", "an integer", "many"]),
        ("reconstruct.refine=[]", ["reconstruct.refine", "object"]),
        ("data.position_unit=inch", ["data.position_unit", '"pixel"', "inch"]),
        ("data.position_unit=nm", ["detector.pixel_mrad", "must be given", "data.position_unit"]),
        ("data.file=none.h5", ["data.file", "existing file", "none.h5"]),
        ("data.patterns=counts", ["data.patterns", "dataset", "counts"]),
        ("data.positions=where", ["data.positions", "dataset", "where"]),
        ("tiles.exchange=hypercube", ["tiles.exchange", '"passes"', "hypercube"]),
        ("object.slices=3", ["object.thickness_nm", "greater than 0"]),
        ("reconstruct.seed", ["--set", "key=value"]),
        ("data.rotation_deg=1e308", ["data.rotation_deg", "from -360 to 360", "1e+308"]),
        ("data.affine=[[1e300,0],[0,1e300]]", ["data.affine", "a million pixels", "1e+300"]),
        ("object.padding=1000000", ["object.padding", "a million pixels", "1000000"]),
        ("detector.pad=100000", ["detector.pad", "from 0 to 16384", "100000"]),
        ("quite.unlike=1", ["unknown key quite.unlike", "--help-config"]),
    ],
)
def test_a_wrong_config_exits_2(star, verb, override, words):
    expect(ptyle(verb, star / "star.toml", "--set", override), 2, "star.toml", *words)
    assert not (star / "out").exists()


def test_a_wrong_key_in_the_file_is_named_with_its_line(star):
    (star / "star.toml").write_text(CONFIG.replace("batches", "batchs"))
    expect(
        ptyle("check", star / "star.toml"),
        2,
        "star.toml:8",
        "reconstruct.batchs",
        "reconstruct.batches",
    )


def test_a_wrong_command_line_exits_2(star):
    for arguments in (
        (),
        ("reconstruct",),
        ("check",),
        ("check", star / "none.toml"),
        ("check", star),
        ("run", star / "star.toml", "--no-such-option"),
    ):
        result = ptyle(*arguments)
        assert result.returncode == 2, (arguments, result.stderr)
        assert len(result.stderr.splitlines()) == 1, result.stderr
        assert result.stderr.startswith("[") and " s] error: " in result.stderr
    expect(ptyle(), 2, "command line: must name a verb: simulate, check or run (`ptyle --help`")
    expect(ptyle("check"), 2, "command line: config is required (`ptyle check --help` shows how)")


def replace(star, name, value):
    with h5py.File(star / "star.h5", "a") as file:
        del file[name]
        if value is not None:
            file[name] = value


@pytest.mark.parametrize("verb", ["check", "run"])
@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("positions", np.zeros((8, 2)), ["data.positions", "9 patterns", "got 8"]),
        ("positions", np.zeros((9, 3)), ["data.positions", "[positions, 2]", "[9, 3]"]),
        ("positions", np.full((9, 2), np.nan), ["data.positions", "finite", "[0, 0]"]),
        (
            "data",
            np.zeros((9, 8), np.uint8),
            ["data.patterns", "[positions, rows, columns]", "[9, 8]"],
        ),
        ("data", np.full((9, 8, 10), 2**40), ["data.patterns", "32-bit", str(2**40), "[0, 0, 0]"]),
        ("data", np.zeros((9, 8, 10), np.complex64), ["data.patterns", "complex64"]),
        ("data", np.array([b"a", b"b"]), ["data", "numbers", "string"]),
        ("probe", np.ones((9, 10), np.complex64), ["probe.dataset", "[8, 10]", "[9, 10]"]),
        ("probe", np.full((8, 10), np.nan, np.complex64), ["probe.dataset", "finite"]),
    ],
)
def test_wrong_data_exits_3(star, verb, name, value, words):
    replace(star, name, value)
    expect(ptyle(verb, star / "star.toml"), 3, "star.h5", *words)


def test_the_first_nan_of_the_patterns_is_named(star):
    with h5py.File(star / "star.h5", "a") as file:
        file["floats"][4, 1, 7] = np.nan
        file["floats"][6, 0, 0] = np.inf
    expect(
        ptyle("check", star / "star.toml", "--set", "data.patterns=floats"),
        3, "star.h5", 'data.patterns "floats"', "finite", "nan", "[4, 1, 7]",
    )  # fmt: skip


def test_what_decides_the_counts_is_named(star):
    refused = ptyle("check", star / "star.toml", "--set", "detector.dark=1e9")
    expect(refused, 3, "must hold counts", "detector.dark", "detector.saturation")
    refused = ptyle("check", star / "star.toml", "--set", "detector.gain=1e-300")
    expect(refused, 3, "data.patterns", "after detector.dark and detector.gain")
    refused = ptyle("run", star / "star.toml", "--set", "probe.power=1e300")
    expect(refused, 2, "probe.power", "single precision")


def test_a_real_probe_is_asked_about(star):
    passed = ptyle("check", star / "star.toml", "--set", "probe.dataset=data")
    assert passed.returncode == 0 and "is it the right dataset?" in passed.stderr


@pytest.mark.parametrize("verb", ["check", "run"])
@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["detector.pad=16384"], ["windows of 32776 x 32778", "detector.pad = [16384, 16384]"]),
        (["detector.pad=7000", "probe.modes=50"], ["windows of 14008 x 14010", "probe.modes = 50"]),
    ],
)  # fmt: skip
def test_windows_beyond_the_memory_are_refused_before_any_is_made(star, verb, sets, words):
    begin = time.monotonic()
    refused = ptyle(verb, star / "star.toml", *(word for s in sets for word in ("--set", s)))
    expect(refused, 1, "must fit into the memory that is free", "got a need of about", *words)
    assert time.monotonic() - begin < 5.0
    assert not (star / "out").exists()


def test_a_run_beyond_the_memory_is_refused_before_its_waves_are_made(star):
    """The windows would fit."""
    sets = ["detector.pad=1000", "probe.modes=6", "object.slices=10000", "object.thickness_nm=1"]
    sets += ["beam.energy_keV=100", "detector.object_pixel_nm=0.1"]
    begin = time.monotonic()
    refused = ptyle("run", star / "star.toml", *(word for s in sets for word in ("--set", s)))
    expect(refused, 1, "the run must fit into the memory that is free")
    assert time.monotonic() - begin < 3.0


def test_a_file_without_a_suffix_is_not_simulated(star):
    expect(ptyle("simulate", "star", "-o", star / "film"), 2, "-o", "suffix", "film")


def test_a_file_that_is_not_hdf5_exits_3(star):
    (star / "star.h5").write_bytes(b"not HDF5")
    expect(ptyle("check", star / "star.toml"), 3, "star.h5", "HDF5")


def test_help_has_an_example_for_every_verb():
    for verb in ("check", "run", "simulate"):
        result = ptyle(verb, "--help")
        assert result.returncode == 0
        assert f"ptyle {verb}" in result.stdout


def test_slow_sizes_are_doubted_with_what_to_do(tmp_path):
    random = np.random.default_rng(1)
    with h5py.File(tmp_path / "star.h5", "w") as file:
        file["data"] = random.poisson(5.0, (4, 63, 62)).astype(np.uint16)
        file["positions"] = random.uniform(0.0, 6.0, (4, 2))
        file["probe"] = np.ones((63, 62), np.complex64)
        file["cropped"] = np.ones((63, 60), np.complex64)
        file["padded"] = np.ones((63, 64), np.complex64)
    config = tmp_path / "star.toml"
    config.write_text(CONFIG)
    told = ptyle("check", config)
    assert told.returncode == 0, told.stderr
    assert "windows of 63 x 62 pixels take 1.5 to 4 times as long" in told.stdout
    assert "slow: see the doubts" in told.stdout
    assert "detector.crop = [63, 60] makes 63 x 60 of them" in told.stdout
    assert "detector.pad = [0, 1] makes 63 x 64" in told.stdout
    run = ptyle("run", config)
    assert run.returncode == 0, run.stderr
    lines = [line for line in run.stderr.splitlines() if "1.5 to 4 times as long" in line]
    assert len(lines) == 1, run.stderr
    for settings in (
        ["detector.crop=[63, 60]", "probe.dataset=cropped"],
        ["detector.pad=[0, 1]", "probe.dataset=padded"],
    ):
        quick = ptyle("check", config, *(word for s in settings for word in ("--set", s)))
        assert quick.returncode == 0, quick.stderr
        assert "1.5 to 4 times as long" not in quick.stdout
        assert "slow: see the doubts" not in quick.stdout


def test_kernels_that_are_none_are_the_callers_fault(star, monkeypatch):
    monkeypatch.setenv("PTYLE_ISA", "avx")
    expect(ptyle("check", star / "star.toml"), 2, "PTYLE_ISA must name", 'got "avx"')
