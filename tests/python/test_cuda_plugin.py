"""The CUDA library loads without a GPU, registers its kernel and says clearly what is missing."""

import ptyle
import pytest
import torch
from conftest import make_problem
from ptyle import _library

LIBRARY = _library.FOLDER / "libptyle_ops_cuda.so"


def has_cuda_kernel(name: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"ptyle::{name}", "CUDA")


@pytest.mark.skipif(not LIBRARY.exists(), reason="built without CUDA")
def test_the_library_loads_without_a_gpu_and_registers_its_kernel():
    ptyle.load_cuda()
    for name in (
        "illumination",
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
