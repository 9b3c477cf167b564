"""What the package needs: the minor version of torch that it is compiled with, which is that of the
environment it is built in. Asked by scikit-build-core (pyproject.toml)."""

import importlib.metadata

OTHERS = ["numpy", "h5py"]


def requirements(torch: str) -> list[str]:
    """torch: a version, as installed."""
    minor = ".".join(torch.split("+")[0].split(".")[:2])
    return [f"torch=={minor}.*", *OTHERS]


class Provider:
    state = "metadata_wheel"

    def build_state(self, build_state: str) -> None:
        self.state = build_state

    def dynamic_metadata(self, settings, project) -> dict[str, list[str]]:
        if self.state == "sdist":  # of sources, which are not compiled
            return {"dependencies": ["torch", *OTHERS]}
        try:
            torch = importlib.metadata.version("torch")
        except importlib.metadata.PackageNotFoundError:
            raise SystemExit(
                "ptyle is compiled for the torch of the environment that it is built in, and there "
                "is none: pip install torch, or leave --no-build-isolation out"
            ) from None
        return {"dependencies": requirements(torch)}

    def dynamic_wheel(self, settings) -> dict[str, bool]:
        return {"dependencies": True}
