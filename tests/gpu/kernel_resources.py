"""Registers, shared memory and spills of every CUDA kernel, as nvcc's assembler says; without GPU.

    python tests/gpu/kernel_resources.py [--all-architectures]

Compiles csrc/cuda/*.cu for sm_80, or for all architectures of the preset `release`, and prints a
table.
"""

import argparse
import concurrent.futures
import dataclasses
import importlib.util
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "csrc/cuda").glob("*.cu"))
ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
# those of cmake/PtyleTargets.cmake and of a Release build
FLAGS = ["-O3", "-DNDEBUG", "-std=c++20", "-Werror=all-warnings"]


@dataclasses.dataclass(frozen=True)
class Kernel:
    name: str
    source: str
    architecture: str
    registers: int
    shared: int  # bytes of a block
    stack: int  # bytes of a thread
    spill_stores: int
    spill_loads: int


def wheel(name: str) -> Path | None:
    """The folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(name)
    return Path(spec.submodule_search_locations[0]) if spec else None


def nvcc() -> Path | None:
    """The nvcc of the environment's wheels: CMake takes the same one."""
    folder = wheel("nvidia")
    path = folder / "cu13/bin/nvcc" if folder else None
    return path if path and path.exists() else None


def command(source: Path) -> list[str]:
    include = f"-I{ROOT}"
    return [
        str(nvcc()),
        *FLAGS,
        include,
        f"-isystem={wheel('nvidia') / 'cu13/include'}",
        str(source),
    ]


def run(arguments: list[str]) -> subprocess.CompletedProcess:
    done = subprocess.run(arguments, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments)}\n{done.stdout}{done.stderr}")
    return done


def included(source: Path) -> list[str]:
    """All files that a source includes, however far away. torch's headers can be found."""
    torch = wheel("torch")
    more = [f"-isystem={torch / 'include'}"] if torch else []
    rule = run([*command(source), "-M", *more]).stdout
    return rule.split(":", 1)[1].replace("\\\n", " ").split()


def demangled(names: list[str]) -> list[str]:
    if not names or shutil.which("c++filt") is None:
        return names
    text = subprocess.run(
        ["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True
    ).stdout
    short = []
    for name in text.splitlines():
        name = name.replace("(anonymous namespace)::", "").replace("ptyle::cuda::", "")
        name = name.replace("ptyle::", "").replace("void ", "", 1)
        depth, end = 0, len(name)  # up to the arguments: the first "(" outside of <>
        for at, letter in enumerate(name):
            depth += (letter == "<") - (letter == ">")
            if letter == "(" and depth == 0:
                end = at
                break
        short.append(name[:end])
    return short


PROPERTIES = re.compile(
    r"Compiling entry function '(?P<name>\w+)' for '(?P<architecture>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


def parse(text: str, source: str) -> list[Kernel]:
    """What `-Xptxas -v` prints."""
    found = list(PROPERTIES.finditer(text))
    kernels = []
    for match, name in zip(found, demangled([m["name"] for m in found]), strict=True):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        kernels.append(
            Kernel(
                name=name,
                source=source,
                architecture=match["architecture"],
                registers=int(match["registers"]),
                shared=int(shared[1]) if shared else 0,
                stack=int(match["stack"]),
                spill_stores=int(match["stores"]),
                spill_loads=int(match["loads"]),
            )
        )
    if len(kernels) != text.count("Compiling entry function"):
        raise RuntimeError(f"ptxas says something else than it did:\n{text}")
    return kernels


def resources(source: Path, architecture: str) -> list[Kernel]:
    with tempfile.TemporaryDirectory() as folder:
        done = run(
            [
                *command(source),
                "-cubin",
                f"-arch={architecture}",
                "-Xptxas=-v",
                "-o",
                f"{folder}/kernels.cubin",
            ]
        )
    return parse(done.stderr, source.name)


def all_resources(architectures=ARCHITECTURES[:1]) -> list[Kernel]:
    """Of all kernels, two compilations at a time."""
    jobs = [(source, architecture) for architecture in architectures for source in SOURCES]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return [k for kernels in pool.map(lambda job: resources(*job), jobs) for k in kernels]


def table(kernels: list[Kernel]) -> str:
    lines = ["registers  shared  stack  spills  architecture  kernel"]
    for k in sorted(kernels, key=lambda k: (k.architecture, -k.registers, k.name)):
        lines.append(
            f"{k.registers:9}  {k.shared:6}  {k.stack:5}  {k.spill_stores + k.spill_loads:6}  "
            f"{k.architecture:12}  {k.name}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--all-architectures", action="store_true", help=", ".join(ARCHITECTURES))
    arguments = parser.parse_args()
    if nvcc() is None:
        raise SystemExit("there is no nvcc: install cuda-toolkit[nvcc] (./dev setup does)")
    kernels = all_resources(ARCHITECTURES if arguments.all_architectures else ARCHITECTURES[:1])
    print(table(kernels))
    spilled = [k.name for k in kernels if k.spill_stores + k.spill_loads > 0]
    if spilled:
        raise SystemExit(f"registers are spilled by {', '.join(spilled)}")


if __name__ == "__main__":
    main()
