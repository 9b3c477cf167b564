"""Small cases under compute-sanitizer, which looks at every access of every kernel.

As a program, the cases themselves: what `compute-sanitizer python sanitizer_checks.py` runs.
"""

import importlib.util
import os
import shutil
import sys
import time
from pathlib import Path

from check_runner import Skip
from processes import CommandFailed, run


def compute_sanitizer() -> Path | None:
    toolkit = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
    for name in ("compute-sanitizer", *(toolkit / p / "compute-sanitizer" for p in ("bin", "."))):
        if found := shutil.which(name):
            return Path(found)
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations if spec else []:
        for path in sorted(Path(folder).glob("**/compute-sanitizer")):
            if path.is_file() and os.access(path, os.X_OK):
                return path
    return None


def sanitized(tool: str) -> str:
    path = compute_sanitizer()
    if path is None:
        raise Skip("there is no compute-sanitizer: it comes with the CUDA toolkit")
    options = ["--tool", tool, "--error-exitcode", "9", "--print-limit", "5"]
    begin = time.monotonic()
    try:
        said = run(
            [path, *options, sys.executable, Path(__file__).resolve()],
            # memory from the driver itself, so that its end is known
            environment={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        )
    except CommandFailed as failure:
        found = [line for line in failure.said if line.startswith("=========")] or failure.said
        raise AssertionError(f"ended with {failure.code}: " + " | ".join(found[:6])) from None
    summary = [line for line in said if "SUMMARY" in line]
    if not summary:
        raise AssertionError("it says nothing: " + " | ".join(said[-3:]))
    return f"{summary[-1].strip('= ')}; {time.monotonic() - begin:.0f} s"


def memcheck(session):
    return sanitized("memcheck")


def racecheck(session):
    return sanitized("racecheck")


def small_cases() -> None:
    import ptyle
    from random_problems import CASES, deterministic, everything, make
    from rank_checks import GRIDS, exchange_error

    for name in ("everything", "strided, real object", "one slice"):
        problem = make(CASES[name], "complex64").to("cuda")
        for ordered in (True, False):
            with deterministic(ordered):
                everything(problem, ptyle, (15, 13))
    grid = GRIDS[1]
    exchange_error(grid, [0] * 4, 0, "", "complex64", "cuda")


if __name__ == "__main__":
    small_cases()
