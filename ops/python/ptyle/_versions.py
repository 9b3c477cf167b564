"""Which folder of the package fits the installed torch. The program's launcher reads this file too,
apart from the package: it imports neither torch nor ptyle."""

import importlib.metadata
import re
import sys
from collections.abc import Iterable
from pathlib import Path


def folder_for_torch(packages: Iterable[str]) -> Path:
    """The folder lib/2.15 with what was compiled for the installed torch's minor version, between
    which C++ has no stable interface.

    Without loading torch: one that does not fit crashes instead of failing.

    Args:
        packages: the folders of the package ptyle; of an editable installation the Python files lie
            in the source tree, the libraries where they were installed.

    Raises:
        ImportError: there is none, in one sentence with the command that compiles it.
    """
    packages = [Path(package) for package in packages]
    folders = {
        library.parent.name: library.parent
        for package in packages
        for library in package.glob("lib/*/libptyle_ops.so")
        if re.fullmatch(r"[0-9]+\.[0-9]+", library.parent.name)
    }
    if not folders:
        raise ImportError(f"ptyle has no libptyle_ops.so in {packages[0] / 'lib'}")
    versions = sorted(folders, key=lambda text: tuple(map(int, text.split("."))))
    try:
        installed = importlib.metadata.version("torch").split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        raise ImportError(
            f"ptyle was compiled for torch {', '.join(versions)}, but {sys.executable} has no "
            f'torch: pip install "torch=={versions[-1]}.*"'
        ) from None
    minor = ".".join(installed.split(".")[:2])
    if minor not in folders:
        raise ImportError(
            f"ptyle was compiled for torch {', '.join(versions)}, got torch {installed}; to "
            "compile it for that, run in ptyle's source folder: "
            "pip install --no-build-isolation --no-deps --force-reinstall ."
        )
    return folders[minor]
