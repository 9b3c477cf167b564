"""What `check` and `run` doubt, how `run` judges its fit, and a zero frequency between pixels.

Data come from a model in numpy: the Fourier transform as a sum, at whatever frequencies.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

PROGRAM = Path(sys.executable).parent / "ptyle"
pytestmark = pytest.mark.skipif(
    not PROGRAM.exists(), reason=f"{PROGRAM} is not built: ./dev build makes it"
)

WAVELENGTH_A = 0.0250793  # electrons of 200 keV
PIXEL_A = 0.3


def smooth(shape, seed, width=1.5):
    k = np.hypot(*np.meshgrid(*map(np.fft.fftfreq, shape), indexing="ij"))
    noise = np.random.default_rng(seed).standard_normal(shape)
    field = np.fft.ifft2(np.fft.fft2(noise) * np.exp(-2 * (np.pi * width * k) ** 2)).real
    return field / field.std()


def lens(size, semiangle=0.2, defocus=30.0):
    """A defocused aperture; semiangle in cycles a pixel, phase pi * defocus * k^2."""
    k = np.hypot(*np.meshgrid(*[np.fft.fftfreq(size)] * 2, indexing="ij"))
    wave = np.exp(1j * np.pi * defocus * k**2) / (1 + np.exp((k - semiangle) / 0.01))
    return np.fft.fftshift(np.fft.ifft2(wave))


def moved(wave, by):
    ky, kx = np.meshgrid(*map(np.fft.fftfreq, wave.shape), indexing="ij")
    return np.fft.ifft2(np.fft.fft2(wave) * np.exp(-2j * np.pi * (ky * by[0] + kx * by[1])))


def patterns(slices, modes, positions, distance_A=0.0, centre=None):
    """Intensities with the zero frequency at `centre` of the stored pattern, in fractions too."""
    size = modes.shape[-1]
    centre = (size // 2, size // 2) if centre is None else centre
    index = np.arange(size)
    sums = [np.exp(-2j * np.pi * np.outer(index - c, index) / size) / np.sqrt(size) for c in centre]
    ky, kx = np.meshgrid(*[np.fft.fftfreq(size, PIXEL_A)] * 2, indexing="ij")
    step = np.exp(-1j * np.pi * WAVELENGTH_A * distance_A * (ky**2 + kx**2))
    out = np.zeros((len(positions), size, size))
    for k, position in enumerate(positions):
        row, column = np.floor(position).astype(int)
        for mode in modes:
            wave = moved(mode, position - np.floor(position))
            for number, one in enumerate(slices):
                wave = wave * one[row : row + size, column : column + size]
                if number + 1 < len(slices):
                    wave = np.fft.ifft2(np.fft.fft2(wave) * step)
            out[k] += abs(sums[0] @ wave @ sums[1].T) ** 2
    return out


def scan(rows, columns, step, seed=2):
    grid = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1)
    grid = grid.reshape(-1, 2) * float(step)
    grid += np.random.default_rng(seed).uniform(-0.3, 0.3, grid.shape) * step
    return grid - np.floor(grid.min(0))


class Sample:
    """A phase object under a defocused probe of `counts` a pattern."""

    def __init__(self, size=32, slices=1, modes=1, counts=1e5, side=9, step=3.0, depth=0.5):
        self.positions = scan(side, side, step)
        shape = tuple(np.floor(self.positions.max(0)).astype(int) + size + 1)
        self.object = np.stack(
            [np.exp(1j * depth / slices * smooth(shape, 3 + s)) for s in range(slices)]
        )
        probe = lens(size)
        x = np.arange(size) - size // 2
        waves = [probe, 0.5 * probe * x / 6, 0.5 * probe * x[:, None] / 6][:modes]
        self.modes = np.stack(waves)
        self.modes *= np.sqrt(counts / (abs(self.modes) ** 2).sum())
        self.distance_A = 20.0 if slices > 1 else 0.0

    def patterns(self, centre=None):
        return patterns(self.object, self.modes, self.positions, self.distance_A, centre)

    def counts(self, seed=1, centre=None):
        return np.random.default_rng(seed).poisson(self.patterns(centre)).astype(np.uint16)


def write(folder, data, sample, config="", probe=None, name="d"):
    with h5py.File(folder / f"{name}.h5", "w") as file:
        file["data"], file["positions"] = data, sample.positions
        file["probe"] = (sample.modes if probe is None else probe).astype(np.complex64)
    path = folder / f"{name}.toml"
    text = f'data.file = "{name}.h5"\noutput.png = false\n' + config
    if "probe.semiangle_mrad" not in config:
        text += f'probe.file = "{name}.h5"\n'
    path.write_text(text)
    return path


def program(*arguments, code=0):
    done = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def doubts(config, *sets):
    sets = [word for one in sets for word in ("--set", one)]
    out = program("check", config, *sets).stdout.splitlines()
    return [line.removeprefix("doubtful: ") for line in out if line.startswith("doubtful")]


def attributes(folder):
    with h5py.File(folder / "result.h5") as file:
        return dict(file.attrs)


# ---- where the zero frequency is ----


def displacement(found, truth):
    """(rows, columns) by which `found` is moved against `truth`, after a constant and a ramp."""
    ratio = found * truth.conj()
    ratio /= abs(ratio).mean()
    y, x = np.meshgrid(*map(np.arange, truth.shape), indexing="ij")
    slope = [
        np.angle((ratio[1:] * ratio[:-1].conj()).sum()),
        np.angle((ratio[:, 1:] * ratio[:, :-1].conj()).sum()),
    ]
    found = found * np.exp(-1j * (slope[0] * y + slope[1] * x))
    found = found * np.exp(-1j * np.angle((found * truth.conj()).sum()))
    found = found * (abs(truth).mean() / abs(found).mean())
    columns = [-np.gradient(truth, axis=0), -np.gradient(truth, axis=1)]
    columns += [truth, 1j * truth, 1j * y * truth, 1j * x * truth]
    matrix = np.stack([c.ravel() for c in columns], 1)
    real = np.concatenate([matrix.real, matrix.imag])
    rest = (found - truth).ravel()
    return np.linalg.lstsq(real, np.concatenate([rest.real, rest.imag]), rcond=None)[0][:2]


def test_probe_and_object_stay_where_they_are_with_the_centre_at_63_6_of_128(tmp_path):
    """Beside the same run on patterns whose zero frequency is on a pixel; without noise."""
    sample = Sample(size=128, side=7, step=4.0, counts=1e6)
    probe = lens(128, defocus=24.0)  # too little defocus as a start: the probe is refined
    probe *= np.sqrt(1e6 / (abs(probe) ** 2).sum())
    found = {}
    for name, centre, key in (
        ("on", None, ""),
        ("between", (63.6, 63.6), "detector.center = [63.6, 63.6]\n"),
        ("untold", (63.6, 63.6), ""),
    ):
        config = write(
            tmp_path, sample.patterns(centre).astype(np.float32), sample,
            key + "reconstruct.iterations = 60\nreconstruct.batches = 7\n",
            probe=probe[None], name=name,
        )  # fmt: skip
        program("run", config)
        with h5py.File(tmp_path / name / "result.h5") as file:
            found[name] = file["object"][0][52:-52, 52:-52], file["probe"][0]
    for here, there in zip(found["between"], found["on"], strict=True):
        assert abs(displacement(here, there)).max() < 0.02
        # No ramp is left in /probe: its mean direction is that of the other.
        overlap = abs((here.conj() * there).sum())
        assert overlap / np.sqrt((abs(here) ** 2).sum() * (abs(there) ** 2).sum()) > 0.9995
    for here, there in zip(found["untold"], found["on"], strict=True):
        assert abs(displacement(here, there)).max() > 0.03


def test_check_proposes_the_centre(tmp_path):
    sample = Sample(size=64)
    config = write(tmp_path, sample.counts(centre=(31.6, 33.2)), sample)
    said = [text for text in doubts(config) if "detector.center" in text]
    assert len(said) == 1
    proposed = json.loads(said[0][said[0].index("= [") + 2 : said[0].index("]?") + 1])
    assert abs(np.array(proposed) - (31.6, 33.2)).max() < 0.1
    assert not any(
        "detector.center" in text for text in doubts(config, f"detector.center={proposed}")
    )
    # A gap through the pattern does not move it.
    data = sample.counts(centre=(31.6, 33.2)).astype(np.float32)
    mask = np.zeros((64, 64), np.uint8)
    mask[33:37] = 1
    data[:, 33:37] = 0
    config = write(tmp_path, data, sample, 'data.mask = "mask"\n', name="gap")
    with h5py.File(tmp_path / "gap.h5", "a") as file:
        file["mask"] = mask
    said = [text for text in doubts(config) if "detector.center" in text]
    proposed = json.loads(said[0][said[0].index("= [") + 2 : said[0].index("]?") + 1])
    assert abs(np.array(proposed) - (31.6, 33.2)).max() < 0.15
    # In its place nothing is said, though the object bends the mean pattern a little.
    config = write(tmp_path, sample.counts(), sample, name="right")
    assert doubts(config) == []


def test_a_wrong_order_of_the_patterns_is_seen_for_narrow_and_for_wide_discs(tmp_path):
    for semiangle in (0.1, 0.42):
        sample = Sample(size=32)
        sample.modes = lens(32, semiangle, defocus=5.0)[None] * 300
        right = sample.counts()
        config = write(tmp_path, right, sample)
        assert not any("zero_frequency" in text for text in doubts(config))
        assert any(
            'data.zero_frequency "center"' in text
            for text in doubts(config, "data.zero_frequency=corner")
        )
        config = write(tmp_path, np.fft.ifftshift(right, axes=(1, 2)), sample, name="corner")
        assert any('data.zero_frequency "corner"' in text for text in doubts(config))
        assert not any(
            "zero_frequency" in text for text in doubts(config, "data.zero_frequency=corner")
        )


def test_the_whole_part_of_the_centre_moves_the_window_and_what_it_misses_is_masked(tmp_path):
    sample = Sample(size=32)
    data = sample.counts()
    config = write(tmp_path, np.roll(data, (3, -2), (1, 2)), sample)
    said = program("check", config, "--set", "detector.center=[19, 14]").stdout
    assert "zero frequency at [19, 14]" in said
    assert "15 % of the pixels" in said  # (3 + 2) / 32 of them lie outside
    small = sample.modes[:, 3:-3, 3:-3]
    config = write(tmp_path, np.roll(data, (3, -2), (1, 2)), sample, probe=small, name="cropped")
    said = program("check", config, "--set", "detector.center=[19, 14]",
                   "--set", "detector.crop=[26, 26]").stdout  # fmt: skip
    assert "26 x 26 pixels" in said and "\nmask              0 % of the pixels" in said
    for wrong in ("[40, 14]", "[-1, 14]"):
        refused = program("check", config, "--set", f"detector.center={wrong}", code=2).stderr
        assert "detector.center must lie inside the pattern of [32, 32], got" in refused


@pytest.mark.parametrize(
    ("slices", "offset", "tolerance"),
    # Between slices a wave that reaches the window's edge comes in on the other side, moved or not.
    [(1, (-0.4, 1.25), 1e-5), (2, (1, -2), 1e-5), (2, (-0.4, 1.25), 0.01)],
)
def test_simulated_patterns_with_an_offset_are_the_model_at_these_frequencies(
    tmp_path, slices, offset, tolerance
):
    program(
        "simulate", "SrTiO3", "--scan", "1", "1", "--window", "96", "--oversampling", "1",
        "--band-limit", "0", "--slices", slices, "--thickness-nm", "2", "--dose", "0",
        "--defocus-nm", "3", "--center-offset", *offset, "-o", tmp_path / "s.h5",
    )  # fmt: skip
    with h5py.File(tmp_path / "s.h5") as file:
        data, positions = file["data"][()], file["positions"][()]
        probe, truth = file["probe"][()].astype(complex), file["truth/object"][()].astype(complex)
        pixel_A = 10 * file.attrs["object_pixel_nm"]
        slice_A = 10 * file["truth/object"].attrs["slice_thickness_nm"]
    # `patterns` takes the distance in units of its own pixel and wavelength.
    distance = slice_A * (PIXEL_A / pixel_A) ** 2 * (0.02507934 / WAVELENGTH_A)
    expected = patterns(truth, probe, positions, distance, (48 + offset[0], 48 + offset[1]))
    np.testing.assert_allclose(data, expected, rtol=0, atol=tolerance * expected.max())
    text = (tmp_path / "s.toml").read_text()
    assert f"center = [{48 + offset[0]}, {48 + offset[1]}]" in text


# ---- units and sampling ----

UNITS = [
    (["beam.energy_keV=0.2"], "beam.energy_keV = 0.2 is unusual", "is it in MeV (200 keV)?"),
    (["detector.object_pixel_nm=3e-11"], "detector.object_pixel_nm", "is it in m (0.03 nm)?"),
    (["probe.defocus_nm=107"], "does not fit its window", "probe.defocus_nm = 107 in angstrom?"),
    (["probe.semiangle_mrad=0.015"], "radius of 0.0", "is it in rad?"),
    (["probe.semiangle_mrad=8"], "bright disc has a radius of", "would fit"),
]


@pytest.mark.parametrize(("sets", "first", "guess"), UNITS)
def test_a_slip_of_units_is_doubtful_with_the_likely_unit(tmp_path, sets, first, guess):
    sample = Sample(size=64)
    # The lens of the sample in physical units: 0.2 cycles a pixel.
    semiangle = 1e3 * 0.2 * WAVELENGTH_A / PIXEL_A
    defocus_nm = 0.1 * 30.0 * PIXEL_A**2 / WAVELENGTH_A
    config = write(
        tmp_path, sample.counts(), sample,
        f"beam.energy_keV = 200\ndetector.object_pixel_nm = {0.1 * PIXEL_A}\n"
        f"probe.semiangle_mrad = {semiangle}\nprobe.defocus_nm = {defocus_nm}\n",
    )  # fmt: skip
    assert doubts(config) == []
    said = doubts(config, *sets)
    assert any(first in text and guess in text for text in said), said


def test_an_aperture_beyond_the_detector_is_refused_with_what_it_comes_from(tmp_path):
    config = write(
        tmp_path, Sample().counts(), Sample(),
        "beam.energy_keV = 200000\ndetector.object_pixel_nm = 0.03\nprobe.semiangle_mrad = 17\n",
    )  # fmt: skip
    said = program("check", config, code=2).stderr
    assert "got 17: is beam.energy_keV = 200000 in eV (200 keV)?" in said
    wide = ("--set", "beam.energy_keV=200", "--set", "probe.semiangle_mrad=17000")
    assert "is it in urad (17 mrad)?" in program("check", config, *wide, code=2).stderr
    assert any(
        "is it in eV (200 keV)?" in text for text in doubts(config, "probe.semiangle_mrad=0.05")
    )


def test_x_rays_have_ranges_of_their_own(tmp_path):
    sample = Sample(size=32)
    base = (
        'beam.kind = "xray"\nbeam.energy_keV = 8.8\ndetector.pixel_size_um = 75\n'
        "detector.distance_m = 2\n"
    )
    config = write(tmp_path, sample.counts(), sample, base)
    assert doubts(config) == []
    for sets, guess in (
        ("beam.energy_keV=8800", "is it in eV (8.8 keV)?"),
        ("detector.distance_m=2000", "is it in mm (2 m)?"),
        ("detector.pixel_size_um=75e-6", "is it in m (75 um)?"),
        ("detector.pixel_size_um=0.075", "is it in mm (75 um)?"),
    ):
        (said,) = doubts(config, sets)
        assert guess in said


def test_values_that_are_no_counts_are_doubtful(tmp_path):
    sample = Sample()
    config = write(tmp_path, sample.counts().astype(np.int32) * 25, sample)
    (said,) = doubts(config)
    assert "multiples of 25: detector.gain = 25" in said
    assert doubts(config, "detector.gain=25") == []
    config = write(tmp_path, sample.counts().astype(np.float32) * 1e-6, sample)
    (said,) = doubts(config)
    assert "less than one count" in said
    assert doubts(config, "detector.gain=1e-6") == []


def test_modes_that_would_never_move_are_replaced(tmp_path):
    sample = Sample(modes=2)
    data = sample.counts()
    first = sample.modes[0]
    for probe in ([first, first], [first, 0 * first], [first, (0.3 + 1j) * first]):
        config = write(tmp_path, data, sample, "probe.modes = 2\n", probe=np.stack(probe))
        assert any("probe mode 2 of the file" in text for text in doubts(config))
        # Fixed, they do no harm.
        assert not any("probe mode" in t for t in doubts(config, 'reconstruct.refine=["object"]'))
    program("run", config, "--set", "reconstruct.iterations=80")
    with h5py.File(tmp_path / "d/result.h5") as file:
        power = (abs(file["probe"][()]) ** 2).sum((1, 2))
    truth = (abs(sample.modes) ** 2).sum((1, 2))
    assert power[1] / power.sum() > 0.3 * truth.min() / truth.sum()
    # The true ones stay as they are.
    config = write(tmp_path, data, sample, "probe.modes = 2\n", name="right")
    assert doubts(config) == []


# ---- pixels and frames that spoil the mean pattern ----


def test_dead_rows_and_pixels_are_named_as_they_are_stored(tmp_path):
    sample = Sample(size=64)
    data = sample.counts()
    data[:, 30] = 0
    data[:, :, 35] = 0
    data[:, 25, 29] = 0
    config = write(tmp_path, data, sample, "reconstruct.iterations = 3\n")
    (said,) = doubts(config)
    assert said.startswith("128 pixels hold 0 in all frames between pixels with counts"), said
    assert "(row 30, column 35, [25, 29] of the stored pattern)" in said and "data.mask" in said
    ended = program("run", config).stderr
    assert "dead pixels (data.mask; row 30" in ended or "doubtful at the start" in ended, ended
    for sets in (["detector.orientation.transpose=true"], ["detector.bin=1", "detector.pad=4"]):
        assert any("row 30, column 35, [25, 29]" in text or "column 35, row 30, [25, 29]" in text
                   for text in doubts(config, *sets))  # fmt: skip
    # Few counts, and the dark around the disc, are none.
    assert not any(
        "hold 0" in t for t in doubts(write(tmp_path, Sample(counts=100).counts(), Sample()))
    )


def test_one_hot_pixel_in_one_frame_says_nothing_about_the_detector(tmp_path):
    sample = Sample(size=32, side=12, counts=1e4)
    data = sample.counts().astype(np.int32)
    data[9, 3, 4] = 60000
    config = write(tmp_path, data, sample)
    (said,) = doubts(config)
    assert "1 frame (9) with far more counts" in said
    data[17], data[30] = 0, data[30] * 50
    data[40, :, :16] = 0
    said = doubts(write(tmp_path, data, sample))
    assert len(said) == 3 and all("fitted as they are" in text for text in said), said


def test_a_single_frame_is_named_as_what_it_is(tmp_path):
    program("simulate", "PbTiO3", "--scan", "8", "8", "--window", "32", "-o", tmp_path / "s.h5")
    one = ["data.select=[1]", "reconstruct.batches=1"]
    (said,) = doubts(tmp_path / "s.toml", *one)
    assert said.startswith("one frame takes part")
    assert doubts(tmp_path / "s.toml", "data.select=[1, 2]", "reconstruct.batches=1") == []


@pytest.mark.parametrize("size", [48, 45])
def test_reversed_patterns_keep_their_zero_frequency(tmp_path, size):
    sample = Sample(size=size)
    data = sample.counts()
    for order, middle in (("center", size // 2), ("corner", 0)):
        k = (2 * middle - np.arange(size)) % size
        stored = data if order == "center" else np.fft.ifftshift(data, axes=(1, 2))
        config = write(tmp_path, stored[:, k][:, :, k], sample)
        assert doubts(
            config, f"data.zero_frequency={order}",
            "detector.orientation.flip_rows=true", "detector.orientation.flip_columns=true",
        ) == []  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        ["PbTiO3", "--scan", "8", "8", "--window", "32"],
        ["SrTiO3", "--scan", "6", "7", "--window", "48"],
        ["star", "--scan", "8", "8", "--window", "32"],
    ],
)
def test_small_simulations_are_not_doubtful(tmp_path, options):
    program("simulate", *options, "-o", tmp_path / "s.h5")
    assert doubts(tmp_path / "s.toml") == []


@pytest.mark.parametrize(
    "options",
    [
        ["PbTiO3", "--slices", "10", "--thickness-nm", "20"],
        ["SrTiO3", "--dose", "5000"],
        ["star", "--scan", "12", "12"],
    ],
)
def test_every_orientation_of_a_simulation_is_told_from_its_shadows(tmp_path, options):
    program("simulate", *options, "-o", tmp_path / "s.h5")
    config = tmp_path / "s.toml"
    assert not any("against the scan" in text for text in doubts(config))
    ways = [(t, r, c) for t in (0, 1) for r in (0, 1) for c in (0, 1)]
    keys = ("transpose", "flip_rows", "flip_columns")
    for way in ways[1:]:
        sets = [
            f"detector.orientation.{key}={'true' if on else 'false'}"
            for key, on in zip(keys, way, strict=True)
        ]
        said = [text for text in doubts(config, *sets) if "against the scan" in text]
        right = "{ transpose = false, flip_rows = false, flip_columns = false }"
        assert len(said) == 1 and right in said[0], (sets, said)
    # The file itself is turned: what undoes it is proposed.
    with h5py.File(tmp_path / "s.h5", "r+") as file:
        data = file["data"][()]
        file["data"][...] = np.rot90(data, axes=(-2, -1))
    (said,) = [text for text in doubts(config) if "against the scan" in text]
    words = said.split("detector.orientation = {")[1].split("}")[0].split(",")
    sets = ["detector.orientation." + word.strip().replace(" ", "") for word in words]
    assert not any("against the scan" in text for text in doubts(config, *sets)), (said, sets)


# ---- what run says ----


def test_run_tells_and_stores_the_doubts_of_check(tmp_path):
    sample = Sample(size=64)
    config = write(
        tmp_path, sample.counts(centre=(31.6, 33.2)), sample, "reconstruct.iterations = 2\n"
    )
    expected = doubts(config)
    assert expected
    said = program("run", config).stderr
    for text in expected:
        assert said.count(text) == 1
    assert attributes(tmp_path / "d")["doubts"].decode().splitlines() == expected


@pytest.mark.parametrize("likelihood", ["amplitude", "poisson"])
def test_a_good_fit_is_told_beside_what_noise_would_leave(tmp_path, likelihood):
    sample = Sample(counts=2e4)
    config = write(
        tmp_path, sample.counts(), sample,
        f'reconstruct.iterations = 25\nreconstruct.likelihood = "{likelihood}"\n',
    )  # fmt: skip
    said = program("run", config).stderr
    found = attributes(tmp_path / "d")
    assert "counting noise alone would leave" in said and "likely causes" not in said
    assert f"amplitude_error {found['amplitude_error']:.4g} " in said
    # By the formula, of the true intensities.
    true = sample.patterns()
    draws = np.random.default_rng(9).poisson(true, (20, *true.shape))
    noise = ((np.sqrt(draws) - np.sqrt(true)) ** 2).mean()
    if likelihood == "amplitude":
        assert abs(found["expected_amplitude_error"] / noise - 1) < 0.1
        assert 0.6 < found["amplitude_error"] / noise < 1.2
    # The result's own error: a pass over what is stored, not the mean of the last one.
    with h5py.File(tmp_path / "d/result.h5") as file:
        probe, found_object = file["probe"][()].astype(complex), file["object"][()].astype(complex)
        positions, history = file["positions"][()], file["history/amplitude_error"][()]
    sample.positions = positions
    own = patterns(found_object, probe, positions)
    with h5py.File(tmp_path / "d.h5") as file:
        error = ((np.sqrt(own) - np.sqrt(file["data"][()])) ** 2).mean()
    assert abs(found["amplitude_error"] / error - 1) < 5e-3
    assert history[-1] != found["amplitude_error"]
    if likelihood == "poisson":
        assert "of the poisson likelihood" in said
        assert 0.2 < found["expected_loss_per_pixel"] < 0.6  # less than 0.5 in dark pixels


def test_a_fit_far_above_noise_names_its_causes_likeliest_first(tmp_path):
    sample = Sample(counts=1e5)
    data = sample.counts().astype(np.int32)
    rng = np.random.default_rng(4)
    for k in (5, 40, 41):
        data[k] = rng.permuted(data[k].ravel()).reshape(data[k].shape)
    config = write(tmp_path, data, sample, "reconstruct.iterations = 25\n")
    said = program("run", config).stderr
    assert "3 of 81 patterns hold" in said and "(1) 3 of 81" in said and "5, 40, 41" in said
    hot = sample.counts().astype(np.int32)
    hot[:, 3, 9] += rng.integers(0, 60000, len(hot))  # flickers: no probe explains it
    config = write(tmp_path, hot, sample, "reconstruct.iterations = 25\n", name="hot")
    said = program("run", config).stderr
    first = said.split("(1) ")[1].split("(2) ")[0]
    assert "out of their neighbours" in first and "data.mask" in first, said
    assert "[3, 9]" in said
    # A flipped detector: no pattern or pixel stands out.
    config = write(
        tmp_path, sample.counts(), sample,
        "reconstruct.iterations = 25\ndetector.orientation.flip_rows = true\n", name="flipped",
    )  # fmt: skip
    said = program("run", config).stderr
    causes = said.split("likely causes:")[1].splitlines()[0]
    assert "detector.orientation" in causes, said
    # What it often is stays in the list where the error still falls.
    said = program("run", config, "--overwrite", "--set", "reconstruct.iterations=4").stderr
    causes = said.split("likely causes:")[1].splitlines()[0]
    assert "too few iterations" in causes and "what else it often is: " in causes, said
    assert "data.position_unit" in causes and "probe.modes" in causes, said


def test_the_last_good_checkpoint_becomes_the_result_of_a_diverged_run(tmp_path):
    """It learns for some iterations; then Adam with far too long steps blows it up."""
    sample = Sample(counts=1e5)
    config = write(tmp_path, sample.counts(), sample, "reconstruct.iterations = 5\n")
    program("run", config)
    sets = ["iterations=200", "optimizer=adam", "learning_rate=5", "probe_learning_rate=5"]
    options = [word for one in sets for word in ("--set", f"reconstruct.{one}")]
    done = program("run", config, "--resume", *options, code=1)
    assert "the run diverged" in done.stderr
    errors = [
        json.loads(line)["amplitude_error"]
        for line in (tmp_path / "d/metrics.jsonl").read_text().splitlines()
    ]
    with h5py.File(tmp_path / "d/result.h5") as file:
        kept = int(file.attrs["iterations"])
        history = file["history/amplitude_error"][()]
        assert np.isfinite(file["object"][()]).all()
    assert f"keeps the result of iteration {kept}" in done.stderr
    assert len(history) == kept < len(errors)
    assert history.tolist() == errors[:kept]


def test_few_counts_ask_for_the_likelihood_that_suits_them(tmp_path):
    config = write(tmp_path, Sample(counts=60).counts(), Sample())
    assert any('reconstruct.likelihood = "poisson"' in text for text in doubts(config))
    told = doubts(config, "reconstruct.likelihood=poisson")
    assert not any("likelihood" in text for text in told)
    config = write(tmp_path, Sample(counts=3000).counts(), Sample(), name="more")
    assert not any("likelihood" in text for text in doubts(config))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (
            ["detector.orientation.transpose=true"],
            "transposed against the scan: from position to position the specimen's shadow",
        ),
        (["detector.orientation.flip_rows=true"], "mirrored (rows reversed) against the scan"),
        (
            [
                "detector.orientation.flip_rows=true",
                "detector.orientation.flip_columns=true",
            ],
            "or has the probe's defocus the other sign?",
        ),
        (["data.rotation_deg=30"], "data.rotation_deg = "),
        (
            ["detector.orientation.transpose=true", "detector.orientation.flip_rows=true"],
            "turned by 90 degrees against the scan",
        ),
    ],
)
def test_patterns_turned_or_mirrored_against_the_scan_are_seen_in_their_curl(
    tmp_path, change, word
):
    sample = Sample(size=45, side=12)  # odd: mirrored patterns keep their middle
    config = write(tmp_path, sample.counts(), sample)
    assert doubts(config) == []
    said = [text for text in doubts(config, *change) if "against the scan" in text]
    assert len(said) == 1 and word in said[0], said
    if "orientation" in change[0]:
        right = "{ transpose = false, flip_rows = false, flip_columns = false }"
        assert f"detector.orientation = {right}" in said[0], said
    if word == "data.rotation_deg = ":
        angle = float(said[0].split("data.rotation_deg = ")[1].split(",")[0])
        assert abs(angle) < 8


def test_what_was_not_measured_or_written_repeats_itself(tmp_path):
    sample = Sample()
    data = sample.counts()
    again = data.copy()
    again[5:9] = again[4]
    (said,) = doubts(write(tmp_path, again, sample))
    assert "4 frames (5, 6, 7, 8) hold the very values of a frame before" in said
    again[9:] = 0
    positions = sample.positions.copy()
    sample.positions[3:7] = positions[3]
    said = doubts(write(tmp_path, data, sample))
    assert any("4 frames (3, 4, 5, 6) have one and the same position" in text for text in said)
    sample.positions[:] = positions[3]
    said = doubts(write(tmp_path, data, sample))
    assert any("all positions are equal" in text for text in said)
    # Each place visited twice.
    sample.positions[:] = positions
    sample.positions[1::2] = sample.positions[0 : len(positions) - 1 : 2]
    assert not any("position" in text for text in doubts(write(tmp_path, data, sample)))


def test_a_probe_around_the_corners_is_doubted(tmp_path):
    sample = Sample()
    corners = np.fft.ifftshift(np.asarray(sample.modes), axes=(-2, -1))
    said = doubts(write(tmp_path, sample.counts(), sample, probe=corners))
    assert any("lies around the corners of its window" in text for text in said)


def test_marks_in_some_frames_are_masked_and_doubted(tmp_path):
    sample = Sample()
    data = sample.counts()
    data[:, 3:5, 7] = 65535  # a gap
    assert doubts(write(tmp_path, data, sample)) == []
    data[np.random.default_rng(1).random(data.shape) < 1e-3] = 65535
    (said,) = doubts(write(tmp_path, data, sample))
    assert "hold the largest value of their type, but not in all frames" in said


def test_a_pedestal_in_every_pixel_is_told(tmp_path):
    sample = Sample(size=32, counts=3e4)
    counts = sample.counts().astype(np.int32)
    assert doubts(write(tmp_path, counts, sample)) == []
    noise = np.random.default_rng(5).normal(0.0, 2.0, counts.shape)
    raised = write(tmp_path, np.round(counts + 100 + noise).astype(np.int32), sample, name="r")
    told = [text for text in doubts(raised) if "pedestal" in text]
    assert len(told) == 1 and "(detector.dark = 99.6 takes it off)" in told[0], told
    assert not any("pedestal" in text for text in doubts(raised, "detector.dark=100"))
    # As much scattered light, which is counted, is none.
    light = np.random.default_rng(6).poisson(100.0, counts.shape)
    lit = write(tmp_path, (counts + light).astype(np.int32), sample, name="l")
    assert not any("pedestal" in text for text in doubts(lit))


@pytest.mark.parametrize("limit", [9, 63, 1000])
def test_values_that_stop_at_a_limit_are_told(tmp_path, limit):
    sample = Sample(size=32, counts=100.0 * limit)
    counts = sample.counts().astype(np.int32)
    assert counts.max() > 1.5 * limit
    assert doubts(write(tmp_path, counts, sample)) == []
    clipped = doubts(write(tmp_path, np.minimum(counts, limit), sample, name="c"))
    assert any(f"the largest value, {limit}, occurs" in text for text in clipped), clipped


def test_the_largest_of_few_counts_is_no_limit(tmp_path):
    # it occurs often, and one less more often; in units of 4 there is none between them
    for counts in (50.0, 300.0, 1000.0):
        sample = Sample(size=32, counts=counts)
        few = sample.counts().astype(np.int32)
        for k, data in enumerate((few, 4 * few)):
            found = doubts(write(tmp_path, data, sample, name=f"f{k}"))
            assert not any("occurs" in text for text in found), found


@pytest.mark.parametrize(
    "sets, reached",
    [
        (["reconstruct.optimizer=adam", "reconstruct.learning_rate=5",
          "reconstruct.probe_learning_rate=5"], "after the last"),
        (["reconstruct.optimizer=adam", "reconstruct.learning_rate=1000"], "after the last"),
    ],
)  # fmt: skip
def test_a_last_iteration_that_diverges_is_no_success(tmp_path, sets, reached):
    """Its errors are those on the way, before its updates."""
    sample = Sample(counts=1e5)
    config = write(tmp_path, sample.counts(), sample)
    sets = [word for one in [*sets, "reconstruct.batches=1"] for word in ("--set", one)]
    done = program("run", config, *sets, "--set", "reconstruct.iterations=1", code=1)
    assert "the run diverged" in done.stderr and reached in done.stderr, done.stderr
    assert not (tmp_path / "d/result.h5").exists()


@pytest.mark.parametrize("step", [50, 1000])
def test_last_updates_that_overshoot_are_taken_back(tmp_path, step):
    sample = Sample(counts=1e5)
    config = write(tmp_path, sample.counts(), sample)
    sets = ["iterations=1", "batches=1", f"step={step}", "momentum=0"]
    options = [word for one in sets for word in ("--set", f"reconstruct.{one}")]
    program("run", config, *options)
    found = attributes(tmp_path / "d")
    with h5py.File(tmp_path / "d/result.h5") as file:
        before = file["history/amplitude_error"][-1]
    assert found["amplitude_error"] < 1.5 * before


def test_hot_pixels_side_by_side_and_hot_rows_are_named_and_nothing_else(tmp_path):
    sample = Sample(counts=3e4)
    counts = sample.counts().astype(np.int32)
    assert doubts(write(tmp_path, counts, sample)) == []
    generator = np.random.default_rng(8)
    for name, pixels, words in [
        ("pair", [(3, 5), (3, 7)], "2 pixels are 30 times brighter"),
        ("next", [(3, 5), (3, 6)], "2 pixels are 30 times brighter"),
        ("four", [(3, 5), (3, 6), (4, 5), (4, 6)], "4 pixels are 30 times brighter"),
        ("bright", [(3, 5)], "1 pixel is 30 times brighter"),
    ]:
        hot = counts.copy()
        for k, (row, column) in enumerate(pixels):
            level = 250000 if name == "bright" else 3000 - 250 * k
            hot[:, row, column] = generator.poisson(level, len(hot))
        (said,) = doubts(write(tmp_path, hot, sample, name=name))
        assert words in said and all(f"[{r}, {c}]" in said for r, c in pixels), (name, said)
    for axis, words in ((1, "row 5 of the stored pattern"), (2, "column 5 of the stored")):
        hot = counts.copy()
        line = (slice(None), 5) if axis == 1 else (slice(None), slice(None), 5)
        hot[line] += generator.poisson(400, hot[line].shape).astype(np.int32)
        (said,) = doubts(write(tmp_path, hot, sample, name=f"line{axis}"))
        assert words in said and "half as bright again" in said, said


def test_what_the_datas_file_says_of_beam_and_pixels_is_compared(tmp_path):
    simulate = ("simulate", "PbTiO3", "--scan", "6", "6", "--window", "32")
    program(*simulate, "-o", tmp_path / "film.h5")
    config = tmp_path / "film.toml"
    assert doubts(config) == []
    with h5py.File(tmp_path / "film.h5") as file:
        computed = ["probe.file=", f"probe.semiangle_mrad={file.attrs['semiangle_mrad']}"]
        per_nm = f"pixel_per_nm = {1 / (32 * file.attrs['object_pixel_nm'])}"
    # Of fewer pixels the object's is larger, unless it is said what a detector pixel samples.
    fewer = ["detector.crop=[24, 24]", *computed]
    assert any("says object_pixel_nm" in text for text in doubts(config, *fewer))
    config.write_text(re.sub("object_pixel_nm = .*", per_nm, config.read_text()))
    for same in ("detector.crop=[24, 24]", "detector.pad=4", "detector.bin=2"):
        assert not any("says object_pixel" in text for text in doubts(config, same, *computed))
    with h5py.File(tmp_path / "film.h5", "r+") as file:
        pixel = float(file.attrs["object_pixel_nm"])
        file.attrs["object_pixel_nm"] = 1.2 * pixel
    assert any(f"says object_pixel_nm = {1.2 * pixel:.4g}" in text for text in doubts(config))
    with h5py.File(tmp_path / "film.h5", "r+") as file:
        file.attrs["object_pixel_nm"], file.attrs["energy_keV"] = pixel, 80.0
    assert any("says energy_keV = 80" in text for text in doubts(config))


def test_positions_that_are_no_steps_and_a_defocus_too_small_are_told(tmp_path):
    sample = Sample(counts=1e4)
    counts = sample.counts()
    for factor in (1e-8, 0.01):
        sample.positions = scan(9, 9, 3.0) * factor
        found = doubts(write(tmp_path, counts, sample, name="small"))
        assert any("teaches nothing" in text and "data.position_unit" in text for text in found)
    optics = (
        "beam.energy_keV = 200\ndetector.object_pixel_nm = 0.03\nprobe.semiangle_mrad = 16.7\n"
        "probe.defocus_nm = 2\n"
    )
    sample = Sample(counts=1e4, step=6.0)
    config = write(tmp_path, sample.counts(), sample, optics, name="computed")
    assert any("probe.defocus_nm = 2 too small (20 would" in text for text in doubts(config))


def test_rare_doubts_are_told(tmp_path):
    sample = Sample(counts=1e4)
    counts = sample.counts()
    optics = "beam.energy_keV = 200\ndetector.object_pixel_nm = 0.03\n"
    computed = optics + "probe.semiangle_mrad = 40\nprobe.defocus_nm = 3\n"
    # an aperture that reaches the detector's edge
    found = doubts(write(tmp_path, counts, sample, computed, name="edge"))
    assert any("% of the detector's edge" in text for text in found), found
    # slices too far apart for the window
    thick = optics + "object.slices = 2\nobject.thickness_nm = 1000\n"
    found = doubts(write(tmp_path, counts, sample, thick, name="thick"))
    assert any("the window samples the distance between slices only up to" in t for t in found)
    # a mask over much of the detector
    mask = np.zeros((32, 32), np.uint8)
    mask[:8] = 1
    with h5py.File(tmp_path / "mask.h5", "w") as file:
        file["mask"] = mask
    config = write(tmp_path, counts, sample, 'data.mask = "mask.h5:mask"\n', name="masked")
    assert any("25 % of the pixels are masked" in text for text in doubts(config))
    # a file with more modes than are taken
    modes = np.concatenate([sample.modes, 0.3 * moved(sample.modes[0], (2, 1))[None]])
    config = write(tmp_path, counts, sample, "probe.modes = 1\n", probe=modes, name="modes")
    assert any("the file holds 2 probe modes" in text for text in doubts(config))
    # a halo that is too narrow
    config = write(tmp_path, counts, sample, "tiles.grid = [2, 2]\ntiles.halo = 1\n", name="halo")
    assert any("the halo cuts off" in text for text in doubts(config))


def test_a_fit_closer_than_noise_is_told(tmp_path):
    sample = Sample(counts=1e6)
    config = write(tmp_path, np.round(sample.patterns()).astype(np.int32), sample,
                   "reconstruct.iterations = 80\n")  # fmt: skip
    assert "closer to the data than counting noise" in program("run", config).stderr
