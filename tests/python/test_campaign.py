"""Short, seeded runs of the fuzzer and of the torture; and that both notice what they look for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PROGRAM = Path(sys.executable).parent / "ptyle"
FUZZ = ROOT / "tests" / "fuzz"
TORTURE = ROOT / "tests" / "torture" / "torture.py"
pytestmark = [
    pytest.mark.skipif(not PROGRAM.exists(), reason=f"{PROGRAM} is not built"),
    pytest.mark.timeout(600),
]
sys.path.insert(0, str(FUZZ))


def script(path, *arguments):
    return subprocess.run(
        [sys.executable, path, *map(str, arguments)], capture_output=True, text=True
    )


def stand_in(folder, text):
    """A program that does what a shell script says."""
    path = folder / "stand_in"
    path.write_text("#!/bin/bash\n" + text)
    path.chmod(0o755)
    return str(path)


def test_no_spoiled_input_ends_the_program_in_another_way_than_is_documented():
    done = script(FUZZ / "fuzz.py", 3, "--seed", 14, "--cases", 80)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "faults: 0" in done.stdout


def test_kept_recipes_are_sound():
    kept = [json.loads(line) for line in (FUZZ / "kept.jsonl").read_text().splitlines()]
    from small_inputs import KINDS
    from spoil import Kitchen

    for recipe in kept:
        assert recipe["kind"] in KINDS and recipe["steps"] and recipe["verb"]
        for name, *_ in recipe["steps"]:
            assert not name.startswith("_") and callable(getattr(Kitchen, name))


ERROR = 'echo "[   0.100 s] error: {}" >&2\n'


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("kill -SEGV $$", "signal"),
        ("kill -ABRT $$", "signal"),
        ("exit 139", "signal"),
        ("sleep 30", "hang"),
        ("exit 7", "exit code"),
        ("exit 2", "message"),
        (ERROR.format("std::bad_alloc") + "exit 3", "message"),
        (ERROR.format("wrong") + "exit 3", "message"),
        (ERROR.format("basic_string::erase: out of range at all") + "exit 2", "message"),
        (2 * ERROR.format("data.file: must be an existing file, got x") + "exit 2", "message"),
        (ERROR.format("x.h5: the file could not be read at all") + "exit 1", "exit code"),
        ("echo 'run.cpp:3:1: runtime error: division by zero' >&2; exit 1", "sanitizer"),
        ("echo '==1==ERROR: AddressSanitizer: heap-use-after-free' >&2; exit 1", "sanitizer"),
        ("exit 0", "result"),
        (ERROR.format("data.h5: positions must be finite, got nan at [0, 0]") + "exit 3", None),
        (ERROR.format("a run must fit into the memory that is free, got 3 TB") + "exit 1", None),
    ],
)
def test_the_judge_sees_wrong_ends(tmp_path, text, kind):
    from judge import judge
    from spoil import Kitchen

    recipe = {"kind": "plain", "verb": "run", "steps": [["variable", "NOTHING", "1"]]}
    recipe["expect"] = [0, 1, 2, 3]
    kitchen = Kitchen(tmp_path, recipe)
    fault, _, _ = judge(stand_in(tmp_path, text), tmp_path, recipe, kitchen, seconds=2)
    assert (fault.kind if fault else None) == kind, fault


def test_killed_and_stopped_runs_end_with_the_bits_of_a_whole_one():
    done = script(TORTURE, "--moments", 4, "--others", 1, "--seed", 3)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "faults: 0" in done.stdout and "kill       2 rank(s): 4 moments" in done.stdout


def test_the_torture_sees_a_restart_that_has_other_bits(tmp_path):
    program = stand_in(
        tmp_path,
        f"""
words=()
for word in "$@"; do
  [[ $word == --resume ]] && words+=(--overwrite --set reconstruct.seed=7) || words+=("$word")
done
exec {PROGRAM} "${{words[@]}}"
""",
    )
    done = script(TORTURE, "--moments", 1, "--others", 0, "--seed", 1, "--program", program)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "other bits than the run that nothing happened to" in done.stdout
