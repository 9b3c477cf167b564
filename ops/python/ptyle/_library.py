"""Finds and loads the operator libraries, after a check that they fit the installed torch."""

import importlib.metadata
import sys
import warnings

from ptyle._versions import folder_for_torch

FOLDER = folder_for_torch(sys.modules["ptyle"].__path__)

import torch  # noqa: E402

torch.ops.load_library(FOLDER / "libptyle_ops.so")


def version() -> str:
    """ptyle's version, for example "0.1.0"."""
    return importlib.metadata.version("ptyle")


def load_cuda() -> None:
    """Load the CUDA kernels. `import ptyle` does so where torch sees a GPU, and warns where it
    cannot: the operators work on the CPU then.

    Raises:
        RuntimeError: ptyle was built without CUDA, or a library that CUDA needs is missing.
    """
    path = FOLDER / "libptyle_ops_cuda.so"
    if not path.exists():
        raise RuntimeError(
            f"ptyle.load_cuda: {path.name} is missing: ptyle was built without CUDA "
            "(PTYLE_CUDA=off)"
        )
    try:
        torch.ops.load_library(path)
    except OSError as error:  # torch says which library, its cause says why
        reason = error.__cause__ or error
        raise RuntimeError(f"ptyle.load_cuda: {path.name} cannot be loaded: {reason}") from error


if torch.cuda.is_available():
    try:
        load_cuda()
    except RuntimeError as error:
        warnings.warn(
            f"ptyle: torch sees a GPU, but ptyle's operators work on the CPU alone: {error}",
            RuntimeWarning,
            stacklevel=1,
        )
