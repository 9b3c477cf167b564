"""Finds and loads the operator libraries, after a check that they fit the installed torch."""

import importlib.metadata
from pathlib import Path

TORCH_VERSION = "2.15.0"  # C++ has no stable interface between torch's minor versions
FOLDER = Path(__file__).parent / "lib"


def _check_torch() -> None:
    installed = importlib.metadata.version("torch").split("+")[0]
    if installed != TORCH_VERSION:
        raise ImportError(
            f"ptyle needs torch {TORCH_VERSION}, which it was compiled for, got {installed}"
        )


_check_torch()  # before anything is loaded: a wrong torch crashes instead of failing

import torch  # noqa: E402

torch.ops.load_library(FOLDER / "libptyle_ops.so")


def version() -> str:
    """ptyle's version, for example "0.1.0"."""
    return importlib.metadata.version("ptyle")


def load_cuda() -> None:
    """Load the CUDA kernels. `import ptyle` does so where torch sees a GPU.

    Raises:
        RuntimeError: ptyle was built without CUDA, or a library that CUDA needs is missing.
    """
    path = FOLDER / "libptyle_ops_cuda.so"
    if not path.exists():
        raise RuntimeError(f"ptyle.load_cuda: {path.name} is missing: ptyle was built without CUDA")
    try:
        torch.ops.load_library(path)
    except OSError as error:
        raise RuntimeError(f"ptyle.load_cuda: {path.name} cannot be loaded: {error}") from error


if torch.cuda.is_available() and (FOLDER / "libptyle_ops_cuda.so").exists():
    load_cuda()
