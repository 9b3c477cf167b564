"""Finds and loads the operator libraries, after a check that they fit the installed torch."""

import importlib.metadata
import sys
import warnings
from pathlib import Path

# of an editable installation the Python files lie in the source tree, the libraries where they were
# installed: both are folders of the package
PACKAGE = [Path(folder) for folder in sys.modules["ptyle"].__path__]
# Libraries by torch's minor version, between which C++ has no stable interface: lib/2.15.
FOLDERS = {
    folder.parent.name: folder.parent
    for package in PACKAGE
    for folder in sorted(package.glob("lib/[0-9]*/libptyle_ops.so"))
}


def _folder_for_torch() -> Path:
    """Without loading torch: one that does not fit crashes instead of failing."""
    installed = importlib.metadata.version("torch").split("+")[0]
    minor = ".".join(installed.split(".")[:2])
    if minor not in FOLDERS:
        if not FOLDERS:
            raise ImportError(f"ptyle has no libptyle_ops.so in {PACKAGE[0] / 'lib'}")
        versions = sorted(FOLDERS, key=lambda text: tuple(map(int, text.split("."))))
        raise ImportError(
            f"ptyle was compiled for torch {', '.join(versions)}, got torch {installed}; to "
            "compile it for that, run in ptyle's source folder: "
            "pip install --no-build-isolation --no-deps --force-reinstall ."
        )
    return FOLDERS[minor]


FOLDER = _folder_for_torch()

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


if torch.cuda.is_available():
    if (FOLDER / "libptyle_ops_cuda.so").exists():
        load_cuda()
    else:
        warnings.warn(
            "ptyle: torch sees a GPU, but this ptyle was built without CUDA (PTYLE_CUDA=off): its "
            "operators work on the CPU alone",
            RuntimeWarning,
            stacklevel=1,
        )
