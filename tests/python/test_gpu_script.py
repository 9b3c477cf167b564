"""tests/gpu without a GPU: its checks on the CPU, and its runner with checks that go wrong."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "gpu"
SCRIPT = FOLDER / "run.py"
PROGRAM = Path(sys.executable).parent / "ptyle"

# What checks may do to their runner. Hung ones leave a process in a session of its own.
OWN_CHECKS = """
import json, os, signal, subprocess, sys, time
from pathlib import Path

HERE = Path(__file__).parent
TABLE = HERE / "table.json"

def passes(session):
    return "fine"

def differs(session):
    raise AssertionError("differs by 1")

def crashes(session):
    session.row("before", "1", number=1)
    session.at("the third case")
    os.kill(os.getpid(), signal.SIGSEGV)

def aborts_at_exit(session):
    import atexit
    atexit.register(os.abort)
    return "fine"

def exits(session):
    os._exit(7)

def hangs(session):
    session.plan(["first", "second"])
    session.row("first", "done")
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                             start_new_session=True)
    (HERE / "left.pid").write_text(str(child.pid))
    session.at("the second case")
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
    time.sleep(600)

def garbles(session):
    session.row("whole", "fine")
    with open(session.into, "a") as file:
        file.write('{"row": "torn", "fig\\n3\\n{"row": "x", "figure": "", "result": "?"}\\n')
    return "fine"

def has_nothing_to_do(session):
    from check_runner import Skip
    raise Skip("there is nothing here")

def sleeps(session):
    time.sleep(600)

def starts_a_rank(session):
    import processes
    (HERE / "folder").write_text(os.environ["TMPDIR"])
    processes.run(["/bin/sh", "-c", f"printf $$ > '{HERE}/left.pid'; exec sleep 600"])

def reads_the_table(session):
    names = [row["name"] for row in json.loads(TABLE.read_text())["rows"]]
    session.row("mine", "")
    patience = time.monotonic() + 10
    while "reads_the_table: mine" not in TABLE.read_text() and time.monotonic() < patience:
        time.sleep(0.02)
    names += [row["name"] for row in json.loads(TABLE.read_text())["rows"]]
    return json.dumps(names)
"""


def own_script(folder, checks, before="", machine=None):
    """A script like run.py with checks of (function, options) of OWN_CHECKS."""
    (folder / "own_checks.py").write_text(OWN_CHECKS)
    listed = ", ".join(f"Check({f!r}, 'own_checks.{f}', **{o!r})" for f, o in checks)
    (folder / "own.py").write_text(
        f"import sys; sys.path.insert(1, {str(FOLDER)!r})\n"
        f"import check_runner; from check_runner import Check\n{before}\n"
        f"machine = {machine!r} and Check('machine', f'own_checks.{machine}')\n"
        f"if __name__ == '__main__': sys.exit(check_runner.main([{listed}], machine))\n"
    )
    return [sys.executable, folder / "own.py", "--device", "cpu", "--json", folder / "table.json"]


def run(*arguments, script=SCRIPT, **options):
    command = [sys.executable, script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, **options)


def results_of(folder):
    rows = json.loads((folder / "table.json").read_text())["rows"]
    return [(row["name"], row["result"], row["figure"]) for row in rows]


def is_running(folder):
    try:
        state = Path(f"/proc/{(folder / 'left.pid').read_text()}/stat").read_text()
    except FileNotFoundError:
        return False
    return state.rpartition(")")[2].split()[0] not in "ZX"


# ---- the runner ----


def test_what_crashes_hangs_or_fails_is_one_row_and_stops_no_other(tmp_path):
    names = ("passes", "differs", "crashes", "aborts_at_exit", "exits", "hangs", "reads_the_table")
    command = own_script(
        tmp_path,
        [(name, dict(share=0.02) if name == "hangs" else {}) for name in names],
        "check_runner.SHORTEST = 0",
    )
    done = subprocess.run([*command, "--minutes", "2"], capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    expected = [
        ("passes", "passed", "fine"),
        ("differs", "FAILED", "differs by 1"),
        ("crashes: before", "passed", "1"),
        ("crashes", "FAILED", "ended by SIGSEGV, at the third case"),
        ("aborts_at_exit", "FAILED", "ended by SIGABRT"),
        ("exits", "FAILED", "ended with 7"),
        ("hangs: first", "passed", "done"),
        ("hangs", "FAILED", "out of time: cut off after 2 s, at the second case"),
        ("hangs: second", "not reached", ""),
        ("reads_the_table: mine", "passed", ""),
    ]
    found = results_of(tmp_path)
    assert found[:-1] == expected
    assert not is_running(tmp_path)
    # the table in the file: what was known before the last check, and its row while it ran
    names = [name for name, _, _ in expected]
    assert json.loads(found[-1][2]) == names[:-1] + names
    table = json.loads((tmp_path / "table.json").read_text())
    assert table["state"] == "done"
    assert table["rows"][2]["numbers"] == {"number": 1}
    assert "Segmentation fault" in table["rows"][2]["log"]
    lines = done.stdout.split("\ncheck ")[1].splitlines()[1:]
    assert [line.split("  ")[0] for line in lines[:-1]] == [name for name, _, _ in found]
    assert lines[-1] == "5 passed, 5 FAILED, 1 not reached"


def test_all_checks_together_end_with_the_time(tmp_path):
    command = own_script(tmp_path, [("passes", {}), ("hangs", {}), ("differs", {})])
    begin = time.monotonic()
    done = subprocess.run([*command, "--minutes", "0.1"], capture_output=True, text=True)
    seconds = time.monotonic() - begin
    assert done.returncode == 0, done.stdout + done.stderr  # nothing is known to be wrong
    assert [row[:2] for row in results_of(tmp_path)] == [
        ("passes", "passed"),
        ("hangs: first", "passed"),
        ("hangs", "out of time"),
        ("hangs: second", "not reached"),
        ("differs", "not reached"),
    ]
    assert json.loads((tmp_path / "table.json").read_text())["seconds"] <= 6
    assert 5 < seconds < 9  # with two starts of Python
    assert not is_running(tmp_path)


def test_what_is_open_ended_may_use_up_its_share(tmp_path):
    checks = [("hangs", dict(share=0.01, endless=True)), ("passes", {})]
    command = own_script(tmp_path, checks, "check_runner.SHORTEST = 0")
    done = subprocess.run([*command, "--minutes", "2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    results = {name: result for name, result, _ in results_of(tmp_path)}
    assert results["hangs"] == "out of time"
    assert results["passes"] == "passed"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_shows_what_it_has(tmp_path, number):
    command = own_script(tmp_path, [("passes", {}), ("hangs", {}), ("differs", {})])
    # under nohup this would be ignored, and stay so
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    patience = time.monotonic() + 60
    while not (tmp_path / "left.pid").exists():
        assert time.monotonic() < patience
        time.sleep(0.05)
    process.send_signal(number)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    expected = [
        ("passes", "passed", "fine"),
        ("hangs: first", "passed", "done"),
        ("hangs", "out of time", "interrupted"),
        ("hangs: second", "not reached", ""),
        ("differs", "not reached", ""),
    ]
    assert results_of(tmp_path) == expected
    assert json.loads((tmp_path / "table.json").read_text())["state"] == "interrupted"
    for name, result, _ in expected:
        assert re.search(rf"^{name} +{result}", output, re.MULTILINE), output
    assert not is_running(tmp_path)


def test_a_check_dies_with_a_runner_that_is_killed(tmp_path):
    command = own_script(tmp_path, [("hangs", {})])
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        patience = time.monotonic() + 60
        while not (tmp_path / "left.pid").exists() or not results_of(tmp_path):
            assert time.monotonic() < patience
            time.sleep(0.05)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == 1
        process.kill()
        process.wait()
        while Path(f"/proc/{children[0]}/exe").exists() and time.monotonic() < patience:
            time.sleep(0.05)
        assert not Path(f"/proc/{children[0]}/exe").exists()
        assert results_of(tmp_path) == [("hangs: first", "passed", "done")]
    finally:
        process.stdout.close()
        os.kill(int((tmp_path / "left.pid").read_text()), signal.SIGKILL)


def test_a_line_that_is_no_message_is_one_row(tmp_path):
    command = own_script(tmp_path, [("garbles", {}), ("passes", {})])
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    found = results_of(tmp_path)
    assert [row[:2] for row in found] == [
        ("garbles: whole", "passed"),
        *[("garbles", "FAILED")] * 3,
        ("garbles", "passed"),
        ("passes", "passed"),
    ]
    assert found[1][2] == 'wrote what is no message: b\'{"row": "torn", "fig\''


@pytest.mark.parametrize(
    ("machine", "minutes", "code", "result"),
    [("has_nothing_to_do", 1, 77, "skipped"), ("sleeps", 0.01, 1, "out of time")],
)
def test_where_nothing_can_run_the_table_says_so(tmp_path, machine, minutes, code, result):
    command = own_script(tmp_path, [("passes", {}), ("hangs", {})], machine=machine)
    done = subprocess.run([*command, "--minutes", str(minutes)], capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    assert [row[:2] for row in results_of(tmp_path)] == [
        ("machine", result),
        ("passes", "not reached"),
        ("hangs", "not reached"),
    ]
    assert json.loads((tmp_path / "table.json").read_text())["state"] == "done"
    assert done.stdout.endswith(f"1 {result}, 2 not reached\n")


def test_ranks_die_with_a_runner_that_is_killed_and_the_next_one_removes_its_folder(tmp_path):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    environment = os.environ | {"TMPDIR": str(temporary)}
    command = own_script(tmp_path, [("starts_a_rank", {})])
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    patience = time.monotonic() + 60
    while not (tmp_path / "left.pid").exists() or not (tmp_path / "left.pid").read_text():
        assert time.monotonic() < patience
        time.sleep(0.05)
    folder = Path((tmp_path / "folder").read_text()).parent
    assert folder.parent == temporary and is_running(tmp_path)

    def next_run():
        os.utime(folder, (0, 0))
        own_script(tmp_path, [("passes", {})])
        assert subprocess.run(command, stdout=subprocess.DEVNULL, env=environment).returncode == 0

    try:
        next_run()
        assert folder.exists()  # of a run that goes on
        process.kill()
        process.wait()
        while is_running(tmp_path):
            assert time.monotonic() < patience
            time.sleep(0.05)
        next_run()
        assert [*temporary.iterdir()] == []
    finally:
        process.kill()
        if is_running(tmp_path):
            os.kill(int((tmp_path / "left.pid").read_text()), signal.SIGKILL)


def test_wrong_arguments_are_refused(tmp_path):
    for arguments, words in (
        (["--json", ""], '--json: must name a file, got ""'),
        (["--json", "/"], '--json: must name a file, got "/"'),
        (["--json", tmp_path], f'--json: must name a file, got "{tmp_path}"'),
        (["--minutes", "0"], "--minutes must be greater than 0, got 0"),
        (["--only", "nonsense"], "no check has 'nonsense' in its name"),
        (
            ["--device", "cpu", "--json", "/nowhere/table.json"],
            "--json: /nowhere/table.json cannot be ",
        ),
    ):
        done = run(*arguments)
        assert done.returncode == 2
        assert words in done.stderr
    assert not [*tmp_path.iterdir()]


# ---- its checks ----


def test_checks_come_in_order_of_their_worth():
    names = run("--list").stdout.splitlines()
    assert len(names) == len(set(names)) == 25
    order = ["operators in", "the program", "Gloo", "NCCL", "memcheck", "racecheck", "loss and"]
    first = [next(k for k, name in enumerate(names) if word in name) for word in order]
    assert first == sorted(first)
    assert names[-5:] == [
        "loss and gradients",
        "iterations of the program",
        "plain torch",
        "shares of kernels",
        "small windows",
    ]


@pytest.mark.timeout(1800)  # it compiles plain torch; a busy machine is no failure
def test_every_check_passes_on_the_cpu(tmp_path):
    table = tmp_path / "table.json"
    done = run("--device", "cpu", "--quick", "--minutes", "100", "--json", table)
    rows = json.loads(table.read_text())["rows"]
    assert done.returncode == 0, done.stdout + done.stderr
    assert {row["result"] for row in rows} == {"passed", "skipped"}
    assert {row["check"] for row in rows} == {"machine", *run("--list").stdout.splitlines()}
    for row in rows:
        if row["result"] == "skipped":
            assert row["figure"].startswith("needs a GPU: "), row
    times = [row for row in rows if row["name"].startswith("loss and gradients: 64")]
    assert len(times) == 3
    for row in times:
        assert row["name"].endswith(" on a CPU")
        assert 0 < row["numbers"]["ns"] < 1e5
        assert 0 < row["numbers"]["transforms_ns"] < 1e5
    plain = [row for row in rows if row["name"].startswith("plain torch: ")]
    assert [row["name"].split(",")[0].split()[-1] for row in plain] == ["eager"] * 4 + ["compiled"]
    for row in plain:  # the same physics
        assert 0 < row["numbers"]["difference"] < 1e-4
    iterations = [row for row in rows if row["name"].startswith("iterations")]
    assert len(iterations) == 2
    assert all(row["numbers"]["seconds"] > 0 for row in iterations)


def test_results_that_differ_fail(tmp_path):
    """A tolerance that nothing keeps."""
    (tmp_path / "strict.py").write_text(
        "import random_problems\n"
        "random_problems.TOLERANCES['complex128'] = 0.0\n"
        "from operator_checks import operators_double\n"
    )
    (tmp_path / "own.py").write_text(
        f"import sys; sys.path.insert(1, {str(FOLDER)!r})\n"
        "from check_runner import Check, main\n"
        "sys.exit(main([Check('operators', 'strict.operators_double')]))\n"
    )
    done = run("--device", "cpu", "--quick", script=tmp_path / "own.py")
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"^operators +FAILED +\d+ of 12: .* of its largest number", done.stdout, re.M)


@pytest.mark.parametrize("h5py", [True, False])
def test_it_works_outside_the_repository(tmp_path, h5py):
    shutil.copytree(FOLDER, tmp_path / "checks")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "reconstruct").symlink_to(PROGRAM)
    script = tmp_path / "checks" / "run.py"
    if not h5py:
        text = script.read_text()
        assert "import sys\n" in text
        script.write_text(text.replace("import sys\n", "import sys\nsys.modules['h5py'] = None\n"))
    program = tmp_path / "bin" / "reconstruct"
    arguments = ["--device", "cpu", "--quick", "--only", "the program", "--program"]
    done = run(*arguments, program, script=script, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = done.stdout.split("\ncheck ")[1]
    assert rows.endswith("\n6 passed, 1 skipped\n"), rows
    assert rows.count("only the errors of iterations are compared") == (0 if h5py else 3)
    if h5py:
        done = run(*arguments, tmp_path / "nothing", script=script, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("--program PATH says where") >= 4


def test_the_scripts_of_a_bundle(tmp_path):
    """In a folder with a space in its name; checks and program are ones that say what they get."""
    bundle = tmp_path / "a bundle"
    for source, place in ("run.sh", "."), ("ptyle", "bin"):
        (bundle / place).mkdir(parents=True, exist_ok=True)
        shutil.copy(FOLDER / "bundle" / source, bundle / place)
    (bundle / "gpu").mkdir()
    (bundle / "gpu" / "run.py").write_text(
        "import os, sys\n"
        "print(os.environ['PYTHON'], os.environ['PYTHONPATH'], *sys.argv[1:], sep='|')\n"
    )
    (bundle / "libexec").mkdir()
    (bundle / "libexec" / "ptyle").write_text('#!/bin/sh\necho "$LD_LIBRARY_PATH|$1"\n')
    (bundle / "libexec" / "ptyle").chmod(0o755)
    (tmp_path / "python").symlink_to(sys.executable)

    def said(command, code=0, **environment):
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"]} | environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr
        return (done.stdout + done.stderr).strip()

    python, path, *words = said(
        ["a bundle/run.sh", "--quick"], PYTHON="./python", PYTHONPATH="mine"
    ).split("|")
    assert Path(python).is_absolute() and Path(python).samefile(sys.executable)
    assert path == f"{bundle}/python:mine"
    assert words == ["--program", f"{bundle}/bin/ptyle", "--quick"]
    assert said([bundle / "run.sh"], PYTHON=sys.executable).split("|")[1] == f"{bundle}/python"

    libraries, word = said(["a bundle/bin/ptyle", "x"], PYTHON=sys.executable).split("|")
    assert f"{Path(torch.__file__).parent}/lib" in libraries.split(":") and word == "x"
    refused = said(["a bundle/bin/ptyle"], 2, PYTHON="/bin/false")
    assert refused == "ptyle: /bin/false must be a Python that has torch (PYTHON=... says which)"
    (tmp_path / "bare").write_text(f'#!/bin/sh\nexec {sys.executable} -S -I "$@"\n')
    (tmp_path / "bare").chmod(0o755)
    assert "./bare must be a Python that has torch" in said(
        ["a bundle/bin/ptyle"], 2, PYTHON="./bare"
    )


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
