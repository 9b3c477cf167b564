"""The fused kernels where timing cannot tell: instructions counted, and older processors."""

import json
import pathlib
import platform
import re
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]
BUILD = ROOT / "build" / "default"
BENCH = BUILD / "tests" / "cpp" / "kernels_bench"
CORE_TESTS = BUILD / "tests" / "cpp" / "core_tests"
COUNTS = ROOT / "tests" / "bench" / "instructions.json"
STORED = json.loads(COUNTS.read_text())
pytestmark = [
    pytest.mark.skipif(not BENCH.exists(), reason=f"{BENCH} is not built"),
    pytest.mark.timeout(300),
]


def compiler():
    """As CMake's cache and the compiler itself name it."""
    cache = (BUILD / "CMakeCache.txt").read_text()
    path = re.search(r"^CMAKE_CXX_COMPILER:\w+=(.*)$", cache, re.MULTILINE)[1]
    words = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
    return "g++ " + words.stdout.splitlines()[0].split(maxsplit=1)[1]


def instructions(case):
    """Of one position's loss and gradients: three of them less one, halved."""
    counts = []
    for positions in (1, 3):
        result = subprocess.run(
            ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", BENCH, "gradient"]
            + [*case.split(), str(positions)],
            env={"PTYLE_ISA": "v3", "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
        )
        counts.append(int(re.search(r"Collected : (\d+)", result.stderr)[1]))
    return (counts[1] - counts[0]) // 2


# Debian's valgrind knows no AVX-512: the kernels of v3 are counted.
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="no valgrind is installed")
@pytest.mark.parametrize("case", STORED["instructions"])
def test_instructions_are_the_stored_ones(case):
    if compiler() != STORED["compiler"]:
        pytest.skip(f"counted with {STORED['compiler']}, this is {compiler()}")
    now, then = instructions(case), STORED["instructions"][case]
    assert abs(now / then - 1) <= 0.02, (
        f"window, slices, modes {case}: {now} instructions a position, {then} are stored; where "
        f"that is meant, {COUNTS.name} must hold the new number"
    )


@pytest.mark.skipif(
    shutil.which("qemu-x86_64") is None or platform.machine() != "x86_64",
    reason="needs qemu-x86_64 on an x86_64 machine",
)
@pytest.mark.parametrize("processor", ["Nehalem", "Haswell"])
def test_older_processors_run_their_kernels(processor):
    # emulated, these are hundreds of times slower: without those that take longest by far
    slowest = "Fft.L*:*SixDigits*:*DirectionalDerivatives*:*DoNotDependOnThreads*"
    result = subprocess.run(
        ["qemu-x86_64", "-cpu", processor, CORE_TESTS, f"--gtest_filter=-{slowest}"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-1000:]
    assert "[  PASSED  ]" in result.stdout


def test_kernels_share_no_code_with_other_files():
    """What a kernel's object file defines for others, old processors would run as well."""
    names = subprocess.run(
        [
            "nm",
            "--defined-only",
            "--extern-only",
            "--demangle",
            *(BUILD / "csrc").rglob("kernels.cpp.o"),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    symbols = [line.split(maxsplit=2)[2] for line in names.splitlines() if len(line.split()) >= 3]
    assert len(symbols) >= 1
    assert all(re.fullmatch(r"ptyle::cpu::\w+::kInstructionSet", s) for s in symbols), symbols
