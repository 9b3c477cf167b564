"""Runs a spoiled case and says what is wrong with how it ended; None where nothing is."""

import os
import re
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

# Under a limit, so that a nonsensical size is an error here and not the machine's.
MEMORY = 6 << 30
LARGEST_FILE = 1 << 28
# What no user should read: the words of a library or of the compiler, not of the program.
FOREIGN = re.compile(
    r"terminate called|what\(\):|std::|basic_string|vector::|_M_|map::at|bad_alloc|stoi|stod"
    r"|json\.exception|HDF5-DIAG|H5[A-Z][a-z_]+\(|c10::|INTERNAL ASSERT|Exception raised from"
    r"|bad optional|bad variant|bad_any|filesystem error|regex_error|C\+\+ exception"
    r"|clear .{0,20}flag"
)
SANITIZER = re.compile(r"ERROR: \w+Sanitizer|runtime error: ")
# Ends of a run that are nobody's mistake in the input.
WHILE_RUNNING = re.compile(
    r"memory|must stay finite|diverge|grew|free port|No space left|File too large|the prior "
    r"|amplitude.error"
)
CODES = {0, 1, 2, 3, 75, 130}


CONFIG_STEPS = set("key set drop line first_line flip_config cut_config replace".split())


@dataclass
class Fault:
    kind: str  # signal, hang, sanitizer, exception, exit code, message, result
    detail: str

    @property
    def signature(self):
        """The same for cases that are one fault."""
        detail = re.sub(
            r"/\S+|0x[0-9a-f]+|\d+(\.\d+)?(e[+-]?\d+)?|'[^']*'|\"[^\"]*\"", "*", self.detail
        )
        return f"{self.kind}: {detail}"[:160]


def limited(command, memory):
    """The command under the system's limits."""
    limits = ["--core=0", f"--fsize={LARGEST_FILE}"]
    if memory:
        limits.append(f"--data={memory}")
    return ["prlimit", *limits, "--", *command]


def execute(command, folder, environment, seconds, memory):
    """(exit code or None, stderr)."""
    process = subprocess.Popen(
        limited(command, memory),
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    moved, last, begin = time.monotonic(), -1.0, time.monotonic()
    while True:
        try:
            _, err = process.communicate(timeout=0.5)
            return process.returncode, err.decode("utf-8", "replace")
        except subprocess.TimeoutExpired:
            pass
        now = time.monotonic()
        cpu, waits_for_cpu = work_of(process.pid)
        if cpu != last or waits_for_cpu:
            moved, last = now, cpu
        # of its own time, or asleep: on a busy machine others' time says nothing
        if cpu > seconds or now - moved > seconds or now - begin > 30 * seconds:
            os.killpg(process.pid, signal.SIGKILL)
            _, err = process.communicate()
            return None, err.decode("utf-8", "replace")


def work_of(pid):
    """(seconds of CPU, whether a thread waits for more) of a process."""
    total, waits = 0.0, False
    for path in Path(f"/proc/{pid}/task").glob("*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:  # has just ended
            continue
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        waits |= fields[0] == "R"
    return total, waits


def command_of(program, recipe, kitchen):
    if kitchen.arguments is not None:
        return [program, *kitchen.arguments]
    verb = recipe["verb"]
    words = ["run", "case.toml", "--resume"] if verb == "resume" else [verb, "case.toml"]
    return [program, *words, *kitchen.options]


def error_lines(err):
    return [
        line for line in err.splitlines() if re.match(r"(\r\x1b\[K)?\[ *[\d.]+ s.*\] error: ", line)
    ]


def allowed(recipe):
    """Exit codes that can be right for what was spoiled."""
    if "expect" in recipe:
        return set(recipe["expect"])
    operations = {step[0] for step in recipe["steps"]}
    return {0, 1, 2, 75} if "variable" in operations else {0, 1, 2, 3}


def judge_message(code, err):
    lines = error_lines(err)
    if not lines:
        # CLI11 speaks of the command line in its own form
        if code == 2 and len(err.split()) >= 3:
            return None
        return Fault("message", f"exit {code} without an error line: {err[-200:]}")
    if len(lines) > 1:
        return Fault("message", f"exit {code} with {len(lines)} error lines: {lines[-1]}")
    text = lines[0].split("error: ", 1)[1]
    if found := FOREIGN.search(err):
        return Fault("message", f"exit {code}, a library speaks ({found[0]}): {text}")
    if len(text.split()) < 5:
        return Fault("message", f"exit {code}, no sentence: {text}")
    if code == 1 and not WHILE_RUNNING.search(text):
        return Fault("exit code", f"1 for what is no failure while running: {text}")
    return None


def judge_result(folder, recipe, err):
    """A run that ended well has a finite result; a resumed one has the bits of the whole run."""
    path = folder / "out" / "result.h5"
    touched = {step[0] for step in recipe["steps"]}
    if touched & CONFIG_STEPS:
        return None  # it may lie elsewhere, or mean something else
    if recipe["verb"] not in ("run", "resume"):
        return None
    try:
        with h5py.File(path) as file:
            arrays = [file[name][()] for name in ("object", "probe", "positions")]
            error = file["history/amplitude_error"][()]
    except (OSError, KeyError) as reason:
        return Fault("result", f"exit 0 and no result that can be read: {reason}")
    if not all(np.isfinite(values).all() for values in arrays) or not np.isfinite(error).all():
        return Fault("result", "exit 0 and a result that is not finite")
    # what was changed together with its checksum is another state, as good as any
    changed = touched & {"array", "cast", "poke"}
    if recipe["verb"] == "resume" and "resuming" in err and not changed:
        with h5py.File(folder / "done2" / "result.h5") as file:
            for k, name in enumerate(("object", "probe", "positions")):
                if file[name][()].tobytes() != arrays[k].tobytes():
                    return Fault("result", f"a damaged checkpoint was taken: other bits of {name}")
    return None


def judge(program, folder, recipe, kitchen, seconds, memory=MEMORY):
    """(Fault or None, exit code, stderr)."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RANK", "WORLD_SIZE"))}
    environment |= {"OMP_NUM_THREADS": "1"} | kitchen.environment
    command = command_of(program, recipe, kitchen)
    try:
        code, err = execute(command, folder, environment, seconds, memory)
    except (ValueError, OSError):  # the system takes no such argument
        return None, 0, ""
    if SANITIZER.search(err):
        line = next(line for line in err.splitlines() if SANITIZER.search(line))
        frames = re.findall(r"#\d+ 0x\w+ in ([\w:~<>]+)[^\n]*?/(?:driver|ops|csrc)/(\S+)", err)
        where = " in " + ", ".join(f"{a} {b}" for a, b in frames[:2]) if frames else ""
        return Fault("sanitizer", line.split("ERROR: ")[-1][:120] + where), code, err
    if code is None:
        return (
            Fault("hang", f"{seconds:g} s without an end: {(err.splitlines() or [''])[-1]}"),
            code,
            err,
        )
    if code < 0 or code > 130:
        name = signal.Signals(-code).name if code < 0 else str(code)
        return Fault("signal", f"{name}: {(err.splitlines() or [''])[-1]}"), code, err
    if "terminate called" in err:
        return Fault("exception", err[-200:]), code, err
    if code not in CODES or code not in allowed(recipe):
        last = (error_lines(err) or [err[-200:]])[-1]
        return Fault("exit code", f"{code}, allowed {sorted(allowed(recipe))}: {last}"), code, err
    if code != 0:
        return judge_message(code, err), code, err
    return judge_result(folder, recipe, err), code, err
