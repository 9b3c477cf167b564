"""tests/gpu/run.py without a GPU: its checks on the CPU, and what it says where it cannot run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "gpu" / "run.py"
CHECKS = 17


def run(*arguments):
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_WAIT_POLICY": "passive"},
    )


def test_every_check_passes_on_the_cpu(tmp_path):
    done = run("--device", "cpu", "--quick", "--json", tmp_path / "table.json")
    rows = json.loads((tmp_path / "table.json").read_text())
    assert done.returncode == 0, done.stdout + done.stderr
    assert [row for row in rows if row["result"] == "FAILED"] == []
    names = {row["name"].split(": ")[0] for row in rows}
    assert len(names) == CHECKS == len(run("--list").stdout.splitlines())
    for row in rows:
        if row["result"] == "skipped":
            assert any(word in row["figure"] for word in ("GPU", "streams", "not built")), row


def test_a_failing_check_is_in_the_table_and_stops_no_other(tmp_path):
    """A tolerance that nothing keeps."""
    code = (
        f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import run\n"
        "run.TOLERANCES['complex128'] = 0.0\n"
        "sys.argv = ['run.py', '--device', 'cpu', '--quick', '--only', 'float64,same bits']\n"
        "sys.exit(run.main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stdout.split("check ")[-1].splitlines()
    assert any(line.startswith("operators in float64") and "FAILED" in line for line in lines)
    assert any(line.startswith("deterministic") and "passed" in line for line in lines)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_it_says_so():
    done = run()
    assert done.returncode == 77
    assert done.stdout.startswith("no GPU is here: ")


def test_without_the_package_it_says_so():
    done = subprocess.run(
        ["/usr/bin/env", "-i", sys.executable, "-S", SCRIPT], capture_output=True, text=True
    )
    assert done.returncode == 77, done.stderr
    assert "./dev build installs it" in done.stdout
