"""The CUDA kernels through nvcc, without a GPU: no spills, no torch headers."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "gpu"))
import kernel_resources  # noqa: E402

needs_nvcc = pytest.mark.skipif(
    kernel_resources.nvcc() is None, reason="nvcc is not in the environment: cuda-toolkit[nvcc]"
)

PTXAS = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN5ptyle4cuda5firstIfEEvPT_' for 'sm_80'
ptxas info    : Function properties for _ZN5ptyle4cuda5firstIfEEvPT_
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 2048 bytes smem, 400 bytes cmem[0]
ptxas info    : Compiling entry function '_ZN5ptyle4cuda6secondEv' for 'sm_80'
ptxas info    : Function properties for _ZN5ptyle4cuda6secondEv
    16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 255 registers, 352 bytes cmem[0]
"""


def test_what_the_assembler_says_is_understood():
    first, second = kernel_resources.parse(PTXAS, "x.cu")
    assert (first.registers, first.shared, first.spill_stores, first.spill_loads) == (
        40,
        2048,
        0,
        0,
    )
    assert (second.registers, second.shared, second.stack) == (255, 0, 16)
    assert (second.spill_stores, second.spill_loads) == (12, 8)
    with pytest.raises(RuntimeError, match="ptxas says something else"):
        kernel_resources.parse(PTXAS.replace("registers", "something"), "x.cu")


@needs_nvcc
@pytest.mark.timeout(600)
def test_no_kernel_spills_registers():
    kernels = kernel_resources.all_resources()
    print(kernel_resources.table(kernels))
    assert {k.source for k in kernels} == {source.name for source in kernel_resources.SOURCES}
    assert [k for k in kernels if k.spill_stores or k.spill_loads] == []
    assert max(k.shared for k in kernels) <= 48 << 10


@needs_nvcc
@pytest.mark.parametrize("source", kernel_resources.SOURCES, ids=lambda source: source.name)
def test_cuda_sources_include_no_torch(source):
    files = kernel_resources.included(source)
    assert any(file.endswith("csrc/scalar.h") for file in files)
    foreign = [f for f in files if "/torch/" in f or "/ATen/" in f or "/c10/" in f]
    assert foreign == []
