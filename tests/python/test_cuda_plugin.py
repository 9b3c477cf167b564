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
    assert has_cuda_kernel("illumination")


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
