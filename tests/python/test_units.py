"""Slips of units and factors, the kind of beam: doubted, with what was probably meant."""

import json
import subprocess

import h5py
import pytest
from test_doubts import PIXEL_A, PROGRAM, WAVELENGTH_A, Sample, attributes, doubts, program, write

pytestmark = pytest.mark.skipif(
    not PROGRAM.exists(), reason=f"{PROGRAM} is not built: ./dev build makes it"
)


def electrons(**changed):
    """The sample's geometry in physical units: its lens has 0.2 cycles a pixel."""
    values = {
        "beam.energy_keV": 200,
        "detector.object_pixel_nm": 0.1 * PIXEL_A,
        "probe.semiangle_mrad": 1e3 * 0.2 * WAVELENGTH_A / PIXEL_A,
        "probe.defocus_nm": 0.1 * 30.0 * PIXEL_A**2 / WAVELENGTH_A,
    } | changed
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())


@pytest.mark.parametrize(
    ("unit", "wrong", "proposed"),
    [
        ("angstrom", "nm", "angstrom"),
        ("angstrom", "um", "angstrom"),
        ("nm", "angstrom", "nm"),
        ("angstrom", "m", "angstrom"),  # an object that is refused
        ("um", "nm", "um"),
        ("nm", "pixel", "nm"),
        ("m", "nm", "m"),
    ],
)
def test_a_wrong_position_unit_is_named_with_the_one_that_would_do(tmp_path, unit, wrong, proposed):
    sample = Sample(size=64)
    counts = sample.counts()
    sample.positions = (
        sample.positions * PIXEL_A / {"angstrom": 1, "nm": 10, "um": 1e4, "m": 1e10}[unit]
    )
    config = write(tmp_path, counts, sample, electrons() + f'data.position_unit = "{unit}"\n')
    assert doubts(config) == []
    sets = f"data.position_unit={wrong}"
    done = subprocess.run([PROGRAM, "check", config, "--set", sets], capture_output=True, text=True)
    lines = (done.stdout + done.stderr).splitlines()
    said = [text for text in lines if "data.position_unit" in text]
    assert len(said) == 1, done.stdout + done.stderr
    assert f'"{wrong}"' in said[0]
    assert f'"{proposed}" would make neighbouring probes overlap by ' in said[0]
    overlap = float(said[0].split("overlap by ")[1].split(" %")[0])
    assert 60 <= overlap <= 97
    if wrong == "um":  # an object of 250000 pixels a side
        refused = program("run", config, "--set", sets, code=1).stderr
        assert "must fit into the memory" in refused
        assert 'is data.position_unit = "um" right ("angstrom" would make' in refused


@pytest.mark.parametrize(
    ("key", "factor", "word"),
    [
        ("object_pixel_nm", 10, "10 times too large"),
        ("object_pixel_nm", 0.1, "10 times too small"),
        ("object_pixel_nm", 2, "2 times too large"),
        ("object_pixel_nm", 0.5, "2 times too small"),
        ("object_pixel_nm", 1000, "1000 times too large"),
        ("pixel_mrad", 0.1, "10 times too small"),
        ("pixel_mrad", 10, "10 times too large"),
        ("pixel_per_nm", 2, "2 times too large"),
    ],
)
def test_a_slip_of_the_sampling_is_told_with_its_key_and_factor(tmp_path, key, factor, word):
    size = 64
    sample = Sample(size=size)
    right = {
        "object_pixel_nm": 0.1 * PIXEL_A,
        "pixel_mrad": 1e3 * WAVELENGTH_A / (size * PIXEL_A),
        "pixel_per_nm": 10 / (size * PIXEL_A),
    }[key]
    geometry = electrons().replace("detector.object_pixel_nm", "#")
    config = write(tmp_path, sample.counts(), sample, geometry + f"detector.{key} = {right}\n")
    assert doubts(config) == []
    wrong = float(f"{right * factor:.6g}")
    done = subprocess.run(
        [PROGRAM, "check", config, "--set", f"detector.{key}={wrong}"],
        capture_output=True, text=True,
    )  # fmt: skip
    said = [text for text in (done.stdout + done.stderr).splitlines() if "times too" in text]
    assert len(said) == 1, done.stdout + done.stderr
    assert f"is detector.{key} = {wrong:.6g} {word} (" in said[0]
    fit = float(said[0].split(word + " (")[1].split(" would fit")[0])
    assert abs(fit / right - 1) < 0.2


def test_a_slip_of_the_sampling_is_seen_in_the_pixels_that_the_probes_file_tells(tmp_path):
    sample = Sample(size=32)
    config = write(tmp_path, sample.counts(), sample, "detector.object_pixel_nm = 0.03\n")
    with h5py.File(tmp_path / "d.h5", "a") as file:
        file["probe"].attrs["pixel_size_nm"] = 0.03
    assert doubts(config) == []
    for wrong, word in (("0.3", "10 times too large"), ("0.003", "10 times too small")):
        done = subprocess.run(
            [PROGRAM, "check", config, "--set", f"detector.object_pixel_nm={wrong}"],
            capture_output=True, text=True,
        )  # fmt: skip
        words = f"is detector.object_pixel_nm = {wrong} {word} (0.03 would fit)?"
        assert words in done.stdout + done.stderr, done.stdout + done.stderr


def test_the_other_kind_of_beam_is_proposed_where_all_is_usual_for_that(tmp_path):
    sample = Sample(size=64)
    config = write(tmp_path, sample.counts(), sample, electrons())
    said = doubts(config, "beam.kind=xray")
    assert any('beam.kind = "xray" with beam.energy_keV = 200' in t for t in said), said
    assert any('is it "electron"?' in t for t in said)
    xray = (
        'beam.kind = "xray"\nbeam.energy_keV = 8.8\ndetector.pixel_size_um = 75\n'
        "detector.distance_m = 2\n"
    )
    config = write(tmp_path, sample.counts(), sample, xray, name="xray")
    assert doubts(config) == []
    said = doubts(config, "beam.kind=electron")
    assert any('beam.kind = "electron" with beam.energy_keV = 8.8' in t for t in said), said
    assert any('is it "xray"?' in t for t in said)


def test_batches_of_single_positions_are_doubtful(tmp_path):
    config = write(tmp_path, Sample().counts(), Sample())
    for batches, each in ((1000, "1 position"), (81, "1 position"), (41, "1 position")):
        said = [t for t in doubts(config, f"reconstruct.batches={batches}") if "batches" in t]
        assert len(said) == 1
        assert f"reconstruct.batches = {batches} makes batches of {each} of the 81" in said[0]
        assert "reconstruct.batches = 5 makes 16 of each" in said[0]
    assert doubts(config, "reconstruct.batches=8") == []


def test_run_tells_what_is_masked(tmp_path):
    sample = Sample()
    data = sample.counts()
    data[:, 4] = 65535
    config = write(tmp_path, data, sample, "reconstruct.iterations = 0\n")
    words = "3.12 % of the pixels (2592 marked by the largest value of their type, 0 saturated)"
    assert f"mask              {words}" in program("check", config).stdout
    assert f"masked: {words}" in program("run", config).stderr


def test_the_dose_that_was_asked_for_is_told_beside_what_the_window_catches(tmp_path):
    options = ("--scan", "4", "4", "--window", "32", "--max-angle-mrad", "25", "--dose", "2e4")
    done = program("simulate", "SrTiO3", *options, "-o", tmp_path / "s.h5")
    told = done.stdout.split(" counts each (")
    within = float(told[1].split(" within the window)")[0])
    assert told[0].endswith(" 2e+04") and within < 1.9e4  # steps of an angstrom
    with h5py.File(tmp_path / "s.h5") as file:
        mean = file["data"][()].sum((1, 2)).mean()
    assert abs(mean / within - 1) < 0.01
    dose = program("check", tmp_path / "s.toml").stdout.split("\ndose ")[1].split("\n")[0]
    assert dose.endswith(" e/A^2 within the window")
    assert abs(float(dose.split()[0]) / within - 1) < 0.01


def test_a_moved_project_runs_from_the_config_that_was_written(tmp_path):
    (tmp_path / "here").mkdir()
    once = "reconstruct.iterations = 1\nreconstruct.batches = 1\n"
    config = write(tmp_path / "here", Sample().counts(), Sample(), once)
    said = program("run", config).stderr
    assert " after 1 iteration; result in " in said
    (tmp_path / "here").rename(tmp_path / "there")
    again = tmp_path / "there/d/config.toml"
    assert str(tmp_path) not in again.read_text()
    program("run", again, "--set", "output.folder=again")
    one, two = (attributes(tmp_path / "there/d" / part) for part in ("", "again"))
    assert one["amplitude_error"] == two["amplitude_error"]
    program("run", again, "--resume", "--set", "reconstruct.iterations=2")
