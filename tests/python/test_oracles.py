"""Intensities computed by other packages, read from the shared reference data."""

import h5py
import numpy as np
import ptyle
import pytest
import torch
from conftest import measured


def test_two_incoherent_modes():
    with h5py.File(measured("two-mode-oracle/ptycho_setup.h5")) as file:
        tensors = {name: torch.from_numpy(file[name][:]) for name in file}
    data = tensors["data"].double()
    probe = tensors["probe"].to(torch.complex128)
    obj = tensors["object"].to(torch.complex128)[None]
    # The patterns are 32 wide, the probe 16: zeros around it, wherever they are, add nothing.
    padded = torch.zeros(2, 32, 32, dtype=torch.complex128)
    padded[:, :16, :16] = probe
    intensity = ptyle.diffraction(obj, padded, tensors["positions"].double())
    assert (intensity.sqrt() - data.sqrt()).abs().max() < 1e-6


@pytest.fixture(scope="module")
def multislice():
    with h5py.File(measured("multislice-oracle/multislice_oracle.h5")) as file:
        data = {name: torch.from_numpy(np.asarray(file[name])) for name in file}
        data.update(file.attrs)
    return data


def propagator(data, kind):
    k = torch.fft.fftfreq(64, d=data["pixel_size_A"], dtype=torch.double)
    k2 = k[:, None] ** 2 + k[None, :] ** 2
    wavelength, dz = data["wavelength_A"], data["slice_spacing_A"]
    if kind == "fresnel":
        phase = -np.pi * wavelength * dz * k2
    else:
        phase = 2 * np.pi * dz * (1 / wavelength**2 - k2).sqrt()
    return torch.polar(torch.ones_like(phase), phase)


def error(data, kind, dtype, change=None):
    obj, factor = data["object"], propagator(data, kind)
    if change == "reversed slices":
        obj = obj.flip(0)
    if change == "conjugated propagator":
        factor = factor.conj()
    reference = data[f"intensity_{kind}"]
    intensity = ptyle.diffraction(
        obj.to(dtype), data["probe"].to(dtype)[None], data["positions"].double(), factor.to(dtype)
    )
    return ((intensity - reference).abs().max() / reference.max()).item()


@pytest.mark.parametrize("kind", ["fresnel", "angular_spectrum"])
@pytest.mark.parametrize("dtype,limit", [(torch.complex128, 1e-10), (torch.complex64, 5e-6)])
def test_four_slices(multislice, kind, dtype, limit):
    assert error(multislice, kind, dtype) < limit


@pytest.mark.parametrize("change", ["reversed slices", "conjugated propagator"])
def test_four_slices_the_wrong_way_fail_by_far(multislice, change):
    assert error(multislice, "fresnel", torch.complex128, change) > 0.1
