"""Builders: against numbers from elsewhere, the program's formulae, and their own derivatives."""

import functools
import math
import subprocess
import sys
import tomllib
from pathlib import Path

import h5py
import numpy as np
import ptyle
import pytest
import torch
from conftest import measured

WAVELENGTH_A = 0.02507934045
FULL = dict(dtype=torch.complex128)


def test_electron_wavelengths_are_those_of_codata_and_of_kirklands_table():
    assert ptyle.electron_wavelength(200.0) == pytest.approx(WAVELENGTH_A, rel=1e-9)
    for energy_keV, wavelength_A in ((100, 0.0370), (300, 0.0197), (1000, 0.0087)):
        assert ptyle.electron_wavelength(energy_keV) == pytest.approx(wavelength_A, abs=5e-5)
    for wrong in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="electron_wavelength: energy_keV must be a positive"):
            ptyle.electron_wavelength(wrong)


@pytest.fixture(scope="module")
def multislice():
    with h5py.File(measured("multislice-oracle/multislice_oracle.h5")) as file:
        data = {name: torch.from_numpy(np.asarray(file[name])) for name in file}
        data.update({name: file.attrs[name] for name in file.attrs})
    return data


@pytest.mark.parametrize("kind,limit", [("fresnel", 1e-12), ("angular_spectrum", 1e-10)])
def test_propagators_give_the_intensities_of_other_packages(multislice, kind, limit):
    build = getattr(ptyle, f"{kind}_propagator")
    pixel, wavelength, spacing = (
        float(multislice[name]) for name in ("pixel_size_A", "wavelength_A", "slice_spacing_A")
    )
    propagator = build((64, 64), pixel, wavelength, spacing, **FULL)
    intensity = ptyle.diffraction(
        multislice["object"],
        multislice["probe"][None],
        multislice["positions"].double(),
        propagator,
    )
    reference = multislice[f"intensity_{kind}"]
    assert (intensity - reference).abs().max() < limit * reference.max()


def test_the_probe_is_that_of_another_author(multislice):
    """Defocus, astigmatism and coma, inside its aperture; its azimuths start at +row."""
    aberrations = {
        "C12_nm": 0.1 * multislice["C12_A"],
        "phi12_deg": 90 - math.degrees(multislice["phi12_rad"]),
        "C21_nm": 0.1 * multislice["C21_A"],
        "phi21_deg": 90 - math.degrees(multislice["phi21_rad"]),
    }
    pixel, wavelength = float(multislice["pixel_size_A"]), float(multislice["wavelength_A"])
    probe = ptyle.aberrated_probe(
        (64, 64),
        pixel,
        wavelength,
        multislice["semi_angle_mrad"],
        0.1 * multislice["defocus_A"],
        aberrations,
        **FULL,
    )
    ours, theirs = (torch.fft.fft2(torch.fft.ifftshift(p)) for p in (probe, multislice["probe"]))
    k = torch.fft.fftfreq(64, pixel, dtype=torch.double)
    angle_mrad = 1e3 * wavelength * (k[:, None].square() + k[None, :].square()).sqrt()
    inside = angle_mrad < multislice["semi_angle_mrad"] - 1.5
    ratio = ours[inside] / theirs[inside]
    assert inside.sum() > 100
    assert (ratio / ratio[0] - 1).abs().max() < 1e-6


def test_propagators_agree_near_the_axis_and_evanescent_waves_stop():
    shape, pixel = (32, 24), (2.0, 3.0)
    fresnel = ptyle.fresnel_propagator(shape, pixel, WAVELENGTH_A, 50.0, **FULL)
    exact = ptyle.angular_spectrum_propagator(shape, pixel, WAVELENGTH_A, 50.0, **FULL)
    assert fresnel.shape == exact.shape == shape
    assert (fresnel - exact).abs().max() < 1e-5
    assert fresnel[1, 0].imag < 0  # a tilted wave lags behind downstream
    k_row = 1 / (32 * 2.0)
    assert fresnel[1, 0].angle() == pytest.approx(-math.pi * WAVELENGTH_A * 50 * k_row**2)
    wide = ptyle.angular_spectrum_propagator((8, 8), 1.0, 1.0, 10.0, **FULL)
    sine = 0.25
    phase = 10 * 2 * math.pi * (math.sqrt(1 - sine**2) - 1)
    assert wide[2, 0].item() == pytest.approx(complex(math.cos(phase), math.sin(phase)))
    short = ptyle.angular_spectrum_propagator((8, 8), 1.0, 2.5, 10.0, **FULL)
    assert short[4, 0] == 0 and short[3, 0].abs() == pytest.approx(1)


def test_several_distances_give_several_propagators():
    distances = torch.tensor([3.0, 5.0])
    for build in (ptyle.fresnel_propagator, ptyle.angular_spectrum_propagator):
        both = build((6, 5), 0.3, WAVELENGTH_A, distances)
        assert both.shape == (2, 6, 5) and both.dtype == torch.complex64
        assert torch.equal(both[1], build((6, 5), 0.3, WAVELENGTH_A, 5.0))


def test_20_nm_of_underfocus_are_in_focus_20_nm_downstream():
    shape, pixel = (96, 96), 0.3
    probe = ptyle.aberrated_probe(shape, pixel, WAVELENGTH_A, 15.0, 20.0, **FULL)

    def radius(distance_nm):
        factor = ptyle.fresnel_propagator(shape, pixel, WAVELENGTH_A, 10 * distance_nm, **FULL)
        intensity = torch.fft.ifft2(factor * torch.fft.fft2(probe)).abs().square()
        offset = torch.arange(96) - 48.0
        return (intensity * (offset[:, None] ** 2 + offset[None, :] ** 2)).sum().sqrt().item()

    distances = [-20.0, -10.0, 0.0, 10.0, 15.0, 19.0, 20.0, 21.0, 25.0, 30.0, 40.0]
    assert min(distances, key=radius) == 20.0


def test_the_probe_is_centred_has_unit_power_and_the_textbooks_phase():
    shape, pixel, wavelength = (33, 40), (0.3, 0.25), 0.025
    probe = ptyle.aberrated_probe(shape, pixel, wavelength, 20.0, **FULL)
    assert probe.abs().square().sum() == pytest.approx(1)
    assert divmod(probe.abs().argmax().item(), 40) == (16, 20)
    other = ptyle.aberrated_probe(
        shape, pixel, wavelength, 20.0, 70.0, {"C30_nm": 1.3e6}, edge_mrad=0.0, **FULL
    )
    spectrum = torch.fft.fft2(torch.fft.ifftshift(other))
    k2 = (2 / (33 * 0.3)) ** 2 + (3 / (40 * 0.25)) ** 2
    chi = -math.pi * wavelength * 700 * k2 + math.pi / 2 * 1.3e7 * wavelength**3 * k2**2
    assert spectrum[2, 3].item() / spectrum[0, 0].item() == pytest.approx(
        complex(math.cos(chi), -math.sin(chi))
    )


@pytest.mark.parametrize("n,m", ptyle.builders.ABERRATIONS)
def test_every_aberration_has_its_order_its_fold_and_its_azimuth(n, m):
    wavelength, pixel, azimuth = 0.02, 0.25, 0.4 if m else 0.0
    aberrations = {f"C{n}{m}_nm": 123.45 * 20 ** (n - 1)}
    if m:
        aberrations[f"phi{n}{m}_deg"] = math.degrees(azimuth)
    probe = ptyle.aberrated_probe(
        (32, 32), pixel, wavelength, 30.0, aberrations=aberrations, edge_mrad=0.0, **FULL
    )
    spectrum = torch.fft.fft2(torch.fft.ifftshift(probe))
    y, x = (wavelength * i / (32 * pixel) for i in (-3, 5))
    alpha, angle = math.hypot(x, y), math.atan2(y, x)
    chi = alpha ** (n + 1) / (n + 1) * math.cos(m * (angle - azimuth))
    chi *= 2 * math.pi / wavelength * 1234.5 * 20 ** (n - 1)
    expected = complex(math.cos(chi), -math.sin(chi))
    assert spectrum[-3, 5].item() / spectrum[0, 0].item() == pytest.approx(expected, abs=1e-9)


def test_the_apertures_edge_is_half_open():
    wavelength, pixel, n = 0.025, 0.5, 50  # one sample is 1 mrad
    amplitude = {}
    for edge in (None, 0.0, 4.0):
        probe = ptyle.aberrated_probe((n, n), pixel, wavelength, 10.0, edge_mrad=edge, **FULL)
        spectrum = torch.fft.fft2(torch.fft.ifftshift(probe)).abs()[:, 0]
        amplitude[edge] = spectrum / spectrum[0]
    assert amplitude[None][9:12].tolist() == pytest.approx([1, 0.5, 0], abs=1e-9)
    assert amplitude[0.0][9].item() == pytest.approx(1) and amplitude[0.0][11] < 1e-9
    assert amplitude[4.0][8:13].tolist() == pytest.approx([1, 0.75, 0.5, 0.25, 0], abs=1e-9)


def test_probes_propagators_and_modes_can_be_differentiated():
    defocus = torch.tensor(5.0, dtype=torch.double, requires_grad=True)
    names = ("C12_nm", "phi12_deg", "C30_nm")
    values = [torch.tensor(v, dtype=torch.double, requires_grad=True) for v in (2.0, 20.0, 900.0)]

    def probe(defocus, *values):
        aberrations = dict(zip(names, values, strict=True))
        return ptyle.aberrated_probe((12, 11), 0.5, 0.025, 20.0, defocus, aberrations, **FULL)

    assert torch.autograd.gradcheck(probe, (defocus, *values))
    assert torch.autograd.gradgradcheck(probe, (defocus, *values), fast_mode=True)
    distance = torch.tensor([30.0, 40.0], dtype=torch.double, requires_grad=True)
    for build in (ptyle.fresnel_propagator, ptyle.angular_spectrum_propagator):
        propagators = functools.partial(build, (5, 6), 0.2, 0.025, **FULL)
        assert torch.autograd.gradcheck(propagators, distance)
    guess = probe(5.0, 2.0, 20.0, 900.0).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: ptyle.hermite_modes(p, 4), guess, fast_mode=True)


def test_an_aberration_is_found_through_the_operators():
    """From a wrong defocus, by its gradient through probe and loss."""
    positions = ptyle.raster_positions((4, 4), 3.0)
    generator = torch.Generator().manual_seed(0)
    shape = ptyle.object_shape(positions, (32, 32))
    obj = 0.5 * torch.rand(1, *shape, generator=generator)

    def probe(defocus_nm):
        return ptyle.aberrated_probe((32, 32), 0.4, WAVELENGTH_A, 20.0, defocus_nm)[None]

    patterns = ptyle.diffraction(obj, probe(8.0), positions)
    defocus = torch.tensor(7.0, requires_grad=True)
    optimizer = torch.optim.Adam([defocus], lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        ptyle.diffraction_loss(obj, probe(defocus), positions, None, patterns)[0].backward()
        optimizer.step()
    assert defocus.item() == pytest.approx(8.0, abs=0.1)


@pytest.mark.parametrize("dtype,tolerance", [(torch.complex128, 1e-12), (torch.complex64, 1e-5)])
def test_hermite_modes_are_orthogonal_and_keep_the_power(dtype, tolerance):
    guess = 3 * ptyle.aberrated_probe((24, 20), 0.4, WAVELENGTH_A, 20.0, 5.0, dtype=dtype)
    modes = ptyle.hermite_modes(guess[None], 6)
    assert modes.shape == (6, 24, 20) and modes.dtype == dtype
    flat = modes.flatten(1)
    products = flat.conj() @ flat.T
    powers = torch.tensor([0.9, 0.02, 0.02, 0.02, 0.02, 0.02], dtype=torch.double)
    wanted = 9 * torch.diag(powers).to(dtype)
    assert (products - wanted).abs().max() < 9 * tolerance
    assert torch.allclose(modes[0], math.sqrt(0.9) * guess)
    # the first two are the guess times the coordinates, columns first, freed from the guess
    column = torch.arange(20, dtype=torch.double) - 10
    product = guess.to(torch.complex128) * column
    unit = guess.to(torch.complex128) / 3
    product = product - unit * (unit.conj() * product).sum()
    overlap = (product.conj() * modes[1]).sum().abs() / product.norm() / modes[1].norm()
    assert overlap == pytest.approx(1, abs=tolerance)


def test_raster_positions_turn_row_towards_column_and_start_at_zero():
    straight = ptyle.raster_positions((3, 2), (2.0, 1.5))
    assert straight.dtype == torch.double
    assert straight.tolist() == [[r, c] for r in (0.0, 2.0, 4.0) for c in (0.0, 1.5)]
    turned = ptyle.raster_positions((2, 1), 2.0, rotation_deg=30.0)
    step = (turned[1] - turned[0]).tolist()
    assert step == pytest.approx([2 * math.cos(math.pi / 6), 1.0])
    one, same = (
        ptyle.raster_positions((9, 9), 4.0, 5.0, 0.5, torch.Generator().manual_seed(3))
        for _ in range(2)
    )
    assert torch.equal(one, same) and one.amin(0).tolist() == [0, 0]
    offset = one - ptyle.raster_positions((9, 9), 4.0, 5.0)
    assert (offset - offset.mean(0)).abs().max() < 1.1 and offset.std() > 0.2


def test_every_window_lies_in_the_objects_shape():
    positions = ptyle.raster_positions((5, 6), 2.3, 7.0) + torch.tensor([-4.3, 10.9])
    rows, columns = ptyle.object_shape(positions, (9, 12))
    corner = positions.amin(0).floor()
    ends = (positions - corner).amax(0) + torch.tensor([9, 12])
    assert rows >= ends[0] > rows - 2 and columns >= ends[1] > columns - 2


def test_numbers_may_come_from_numpy_or_from_tensors():
    plain = ptyle.fresnel_propagator((4, 6), 0.5, 0.25, [20.0, 30.0])
    for number in (np.float64, torch.tensor):
        again = ptyle.fresnel_propagator(
            torch.zeros(4, 6).shape, number(0.5), number(0.25), np.array([20.0, 30.0])
        )
        assert torch.equal(again, plain)
    for pair in (np.array([0.5, 0.5]), torch.tensor([0.5, 0.5]), [0.5, 0.5]):
        assert torch.equal(ptyle.fresnel_propagator((4, 6), pair, 0.25, [20.0, 30.0]), plain)
    one = torch.tensor([10.0], requires_grad=True)
    assert ptyle.aberrated_probe((16, 16), 0.2, 0.025, 21.0, one).requires_grad


@pytest.mark.parametrize(
    "error,message,call",
    [
        (ValueError, "shape must", lambda: ptyle.fresnel_propagator((0, 4), 1.0, 1.0, 1.0)),
        (ValueError, "pixel_size_A must", lambda: ptyle.fresnel_propagator((4, 4), 0.0, 1.0, 1.0)),
        (
            ValueError,
            "wavelength_A must",
            lambda: ptyle.angular_spectrum_propagator((4, 4), 1.0, -1.0, 1.0),
        ),
        (
            ValueError,
            "distance_A must",
            lambda: ptyle.fresnel_propagator((4, 4), 1.0, 1.0, torch.ones(2, 2)),
        ),
        (
            TypeError,
            "dtype must",
            lambda: ptyle.fresnel_propagator((4, 4), 1.0, 1.0, 1.0, dtype=torch.float32),
        ),
        (
            ValueError,
            "must fit the window's largest angle",
            lambda: ptyle.aberrated_probe((8, 8), 1.0, 0.025, 21.0),
        ),
        (
            ValueError,
            r"aberrations must be among C12_nm, phi12_deg.* got C10_nm",
            lambda: ptyle.aberrated_probe((8, 8), 0.2, 0.025, 21.0, 0.0, {"C10_nm": 1.0}),
        ),
        (
            ValueError,
            "edge_mrad must",
            lambda: ptyle.aberrated_probe((8, 8), 0.2, 0.025, 21.0, edge_mrad=-1.0),
        ),
        (TypeError, "probe must", lambda: ptyle.hermite_modes(torch.ones(4, 4), 2)),
        (
            ValueError,
            "probe must have shape",
            lambda: ptyle.hermite_modes(torch.ones(2, 4, 4, dtype=torch.complex64), 2),
        ),
        (
            ValueError,
            "modes must be an integer from 1 to 50",
            lambda: ptyle.hermite_modes(torch.ones(4, 4, dtype=torch.complex64), 51),
        ),
        (
            ValueError,
            "zero everywhere",
            lambda: ptyle.hermite_modes(torch.zeros(4, 4, dtype=torch.complex64), 2),
        ),
        (
            ValueError,
            "no 5 independent modes",
            lambda: ptyle.hermite_modes(torch.ones(2, 2, dtype=torch.complex64), 5),
        ),
        (ValueError, "shape must", lambda: ptyle.raster_positions((0, 4), 1.0)),
        (ValueError, "jitter must", lambda: ptyle.raster_positions((4, 4), 1.0, 0.0, -1.0)),
        (ValueError, "positions must", lambda: ptyle.object_shape(torch.zeros(0, 2), (4, 4))),
        (ValueError, "window must", lambda: ptyle.object_shape(torch.zeros(1, 2), (4,))),
        (
            ValueError,
            "must be real, finite",
            lambda: ptyle.object_shape(torch.full((1, 2), math.nan), (4, 4)),
        ),
        (TypeError, "positions must be a tensor", lambda: ptyle.object_shape([[0, 0]], (4, 4))),
        (ValueError, "shape must", lambda: ptyle.fresnel_propagator(8, 1.0, 1.0, 1.0)),
        (ValueError, "shape must", lambda: ptyle.fresnel_propagator((8.5, 8), 1.0, 1.0, 1.0)),
        (
            ValueError,
            r"pixel_size_A must be one number or two \(row, column\), got 3",
            lambda: ptyle.fresnel_propagator((4, 4), (1.0, 1.0, 1.0), 1.0, 1.0),
        ),
        (
            ValueError,
            "distance_A must .* finite, got nan",
            lambda: ptyle.fresnel_propagator((4, 4), 1.0, 1.0, math.nan),
        ),
        (
            TypeError,
            "distance_A must be a real number",
            lambda: ptyle.fresnel_propagator((4, 4), 1.0, 1.0, torch.ones(2) * 1j),
        ),
        (
            TypeError,
            "distance_A must be a real number .* got 'far'",
            lambda: ptyle.fresnel_propagator((4, 4), 1.0, 1.0, "far"),
        ),
        (
            NotImplementedError,
            "wavelength_A must not require a gradient",
            lambda: ptyle.fresnel_propagator(
                (4, 4), 1.0, torch.tensor(1.0, requires_grad=True), 1.0
            ),
        ),
        (
            ValueError,
            "defocus_nm must be a real number, got a tensor of shape",
            lambda: ptyle.aberrated_probe((8, 8), 0.2, 0.025, 21.0, torch.ones(2)),
        ),
        (
            ValueError,
            "C30_nm must .* finite, got inf",
            lambda: ptyle.aberrated_probe((8, 8), 0.2, 0.025, 21.0, 0.0, {"C30_nm": math.inf}),
        ),
        (
            TypeError,
            "aberrations must be a dict",
            lambda: ptyle.aberrated_probe((8, 8), 0.2, 0.025, 21.0, 0.0, ["C30_nm"]),
        ),
        (
            ValueError,
            "probe must be finite and not zero everywhere, got a power of nan",
            lambda: ptyle.hermite_modes(torch.full((4, 4), math.nan) * (1 + 0j), 2),
        ),
        (
            ValueError,
            "modes must be an integer",
            lambda: ptyle.hermite_modes(torch.ones(4, 4, dtype=torch.complex64), 2.5),
        ),
        (ValueError, "step must", lambda: ptyle.raster_positions((4, 4), (1.0, math.nan))),
        (ValueError, "rotation_deg must", lambda: ptyle.raster_positions((4, 4), 1.0, math.inf)),
    ],
)
def test_builders_say_what_is_wrong(error, message, call):
    with pytest.raises(error, match=message):
        call()


PROGRAM = Path(sys.executable).parent / "ptyle"
CONFIG = """
[data]
file = "flat.h5"
patterns = "data"
positions = "positions"
[detector]
object_pixel_nm = 0.02
[beam]
energy_keV = 200.0
[probe]
semiangle_mrad = 25.0
defocus_nm = 12.5
modes = 5
power = "keep"
aberrations = { C12_nm = 3.0, phi12_deg = 25.0, C23_nm = 50.0, C30_nm = 1300.0, C45_nm = 9e4 }
[reconstruct]
iterations = 0
precision = "double"
[output]
folder = "result"
"""


@pytest.mark.skipif(not PROGRAM.exists(), reason=f"{PROGRAM} is not built: ./dev build makes it")
def test_probe_and_modes_are_those_of_the_program(tmp_path):
    with h5py.File(tmp_path / "flat.h5", "w") as file:
        file["data"] = np.ones((4, 40, 36), np.uint16)
        file["positions"] = ptyle.raster_positions((2, 2), 4.0).numpy()
    (tmp_path / "flat.toml").write_text(CONFIG)
    done = subprocess.run([PROGRAM, "run", tmp_path / "flat.toml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with h5py.File(tmp_path / "result" / "result.h5") as file:
        theirs = torch.from_numpy(file["probe"][()]).to(torch.complex128)
    optics = tomllib.loads(CONFIG)["probe"]
    guess = ptyle.aberrated_probe(
        (40, 36),
        0.2,
        ptyle.electron_wavelength(200.0),
        optics["semiangle_mrad"],
        optics["defocus_nm"],
        optics["aberrations"],
        **FULL,
    )
    ours = ptyle.hermite_modes(guess, 5)
    # stored in single precision, orthogonalised: the same mixture, so the same density matrix
    ours, theirs = ours.flatten(1), theirs.flatten(1)
    ours, theirs = ours.T @ ours.conj(), theirs.T @ theirs.conj()
    assert (ours - theirs).norm() < 1e-6 * ours.norm()
