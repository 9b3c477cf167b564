"""The CUDA library loads without a GPU, registers its kernel and says clearly what is missing."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import ptyle
import pytest
import torch
from conftest import make_problem
from ptyle import _library

LIBRARY = _library.FOLDER / "libptyle_ops_cuda.so"


PTYLE = str(Path(sys.executable).parent / "ptyle")


def simulate_and_run(folder):
    """A small data set; returns a function that reconstructs it with settings."""
    subprocess.run(
        [PTYLE, "simulate", "star", "-o", "star.h5", "--scan", "6", "6", "--window", "32"],
        cwd=folder,
        check=True,
        capture_output=True,
    )

    def run(*settings):
        command = [PTYLE, "run", "star.toml", "--overwrite"]
        for setting in (*settings, "reconstruct.iterations=3"):
            command += ["--set", setting]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True)

    return run


def has_cuda_kernel(name: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"ptyle::{name}", "CUDA")


@pytest.mark.skipif(not LIBRARY.exists(), reason="built without CUDA")
def test_the_library_loads_without_a_gpu_and_registers_its_kernel():
    ptyle.load_cuda()
    for name in (
        "illumination",
        "extract_patches",
        "add_patches",
        "halo_insert",
        "halo_add",
        "exit_waves",
        "exit_waves_backward",
        "diffraction",
        "diffraction_backward",
        "diffraction_loss",
        "diffraction_loss_gradients",
        "diffraction_loss_accumulate_",
    ):
        assert has_cuda_kernel(name), name


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_use_without_a_gpu_is_a_clear_error():
    _, probe, positions, _, _ = make_problem()
    with pytest.raises(RuntimeError, match="NVIDIA driver|CUDA"):
        ptyle.illumination(probe.cuda(), positions.cuda(), (15, 13))


def test_a_build_without_cuda_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(_library, "FOLDER", tmp_path)
    with pytest.raises(RuntimeError, match="libptyle_ops_cuda.so is missing: ptyle was built with"):
        ptyle.load_cuda()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
@pytest.mark.skipif(not LIBRARY.exists(), reason="built without CUDA")
def test_the_program_without_a_gpu_takes_the_cpu_and_says_what_is_missing(tmp_path):
    run = simulate_and_run(tmp_path)
    done = run("device=auto")
    assert done.returncode == 0 and "on the CPU (" in done.stderr, done.stderr
    refused = run("device=cuda")
    assert refused.returncode == 2, refused.stderr
    assert 'device: must be "cpu" or "auto" here, got "cuda": ' in refused.stderr
    assert "install NVIDIA's driver" in refused.stderr
    checked = subprocess.run(
        [PTYLE, "check", "star.toml", "--set", "device=cuda"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0 and "a GPU, but not here" in checked.stdout, checked.stdout


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_program_on_the_gpu_agrees_with_the_cpu(tmp_path):
    run = simulate_and_run(tmp_path)
    for device in ("cpu", "cuda"):
        done = run(f"device={device}", f"output.folder={device}")
        assert done.returncode == 0, done.stderr
    with (
        h5py.File(tmp_path / "cpu/result.h5") as cpu,
        h5py.File(tmp_path / "cuda/result.h5") as gpu,
    ):
        difference = np.linalg.norm(cpu["object"][:] - gpu["object"][:])
        assert difference < 1e-4 * np.linalg.norm(cpu["object"][:])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_illumination_on_the_gpu_is_the_cpus():
    _, probe, positions, _, _ = make_problem(n=40)
    expected = ptyle.illumination(probe, positions, (15, 13))
    lit = ptyle.illumination(probe.cuda(), positions.cuda(), (15, 13))
    torch.testing.assert_close(lit.cpu(), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("real_object", [False, True])
def test_the_multislice_model_on_the_gpu_is_the_cpus(real_object):
    *model, patterns = make_problem(n=40, real_object=real_object)

    def everything(device):
        inputs = [t.to(device).requires_grad_() for t in model]
        waves = ptyle.exit_waves(*inputs)
        intensity = ptyle.diffraction(*inputs)
        loss, losses = ptyle.diffraction_loss(*inputs, patterns.to(device))
        results = [waves, intensity, loss, losses]
        for value in (waves.abs().pow(4).sum(), (intensity + 1).log().sum(), loss):
            results += torch.autograd.grad(value, inputs)
        return [r.detach().cpu() for r in results]

    for ours, theirs in zip(everything("cuda"), everything("cpu"), strict=True):
        scale = theirs.abs().max().item()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11 * scale)
