"""What the package needs: the minor version of torch that it is compiled with, which is that of the
environment it is built in, or of another that PTYLE_TORCH_ROOT or Torch_DIR there name. Asked by
scikit-build-core (pyproject.toml), and by CMake, which may have been told of still another. A wheel
for several (./dev wheel) needs one of these:

    requirements_of_package.py [MINOR...]
"""

import importlib.metadata
import os
import re
import sys
from pathlib import Path

OTHERS = ["numpy", "h5py"]


def torch_of(minors: list[str]) -> str:
    """What a package for these minor versions of torch needs, for example ["2.11", "2.13"]: the
    range without what lies between them."""
    for minor in minors:
        if not re.fullmatch(r"[0-9]+\.[0-9]+", minor):
            raise SystemExit(f'a minor version of torch must be like 2.11, got "{minor}"')
    pairs = sorted(tuple(map(int, minor.split("."))) for minor in set(minors))
    (major, oldest), (other, newest) = pairs[0], pairs[-1]
    if major != other:
        raise SystemExit(f"the versions of torch must have one major version, got {minors}")
    if oldest == newest:
        return f"torch=={major}.{oldest}.*"
    between = (n for n in range(oldest, newest) if (major, n) not in pairs)
    without = "".join(f",!={major}.{n}.*" for n in between)
    return f"torch>={major}.{oldest},<{major}.{newest + 1}{without}"


def torch_to_build_with() -> str:
    """The version of the torch that cmake/TorchWheel.cmake finds."""
    root, folder = (os.environ.get(name, "") for name in ("PTYLE_TORCH_ROOT", "Torch_DIR"))
    if root or folder:
        file = (Path(root) if root else Path(folder).parents[2]) / "version.py"
        found = (
            re.search(r"__version__\s*=\s*'([^']+)'", file.read_text()) if file.exists() else None
        )
        if not found:
            raise SystemExit(
                f"PTYLE_TORCH_ROOT or Torch_DIR must be of a PyTorch wheel: there is no {file}"
            )
        return found[1]
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        raise SystemExit(
            "ptyle is compiled for the torch of the environment that it is built in, and there "
            "is none: pip install torch, or leave --no-build-isolation out"
        ) from None


def requirements(torch: str) -> list[str]:
    """torch: a version, as installed."""
    return [torch_of([".".join(torch.split("+")[0].split(".")[:2])]), *OTHERS]


class Provider:
    state = "metadata_wheel"

    def build_state(self, build_state: str) -> None:
        self.state = build_state

    def dynamic_metadata(self, settings, project) -> dict[str, list[str]]:
        if self.state == "sdist":  # of sources, which are not compiled
            return {"dependencies": ["torch", *OTHERS]}
        return {"dependencies": requirements(torch_to_build_with())}

    def dynamic_wheel(self, settings) -> dict[str, bool]:
        return {"dependencies": True}


if __name__ == "__main__":
    print(torch_of(sys.argv[1:]) if sys.argv[1:] else requirements(torch_to_build_with())[0])
