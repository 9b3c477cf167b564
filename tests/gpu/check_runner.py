"""Runs checks in order of their worth, each in a process of its own, within a time that is never
exceeded.

A check is a function of a `Session`. Its process writes what it finds to a file, line by line, so
that nothing is lost where it crashes, hangs or is cut off; the JSON table is brought up to date
with every line. Nothing here imports torch: what breaks with it is a check's failure.
"""

import argparse
import contextlib
import dataclasses
import faulthandler
import fcntl
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from processes import CLEAN, SET_CHILD_SUBREAPER, end_with_parent, prctl

SKIPPED = 77
SHORTEST = 60.0  # seconds that every check may take, however little time there is for all
# threads that wait leave the processor to others: a container may have fewer than it sees
PATIENT = {"OMP_WAIT_POLICY": "passive"}
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
RESULTS = ("FAILED", "out of time", "not reached", "passed", "skipped")  # worst first
FOLDERS = "ptyle-gpu-"  # of runs, in the folder for temporary files


class Skip(Exception):
    """A check that cannot run here, and why."""


class Interrupted(Exception):
    """A signal to end."""


@dataclasses.dataclass(frozen=True)
class Check:
    name: str
    does: str  # MODULE.FUNCTION, imported in the check's own process
    share: float = 0.15  # of all time, at most; see SHORTEST
    gpu: str = ""  # why it needs one
    gpus: int = 0  # so many, where it runs on GPUs
    endless: bool = False  # what it has when its share is used up counts: that is no failure


@dataclasses.dataclass
class Session:
    """What a check is given, and where it says what it finds."""

    name: str
    into: str
    device: str
    quick: bool
    program: str
    facts: dict

    @property
    def cuda(self) -> bool:
        return self.device == "cuda"

    def say(self, **what) -> None:
        with open(self.into, "a") as file:
            file.write(json.dumps(what) + "\n")

    def at(self, place: str) -> None:
        """What is worked on: named where the process crashes or hangs."""
        self.say(at=place)

    def plan(self, rows: list[str]) -> None:
        """Names of the rows to come: those that do not are in the table too."""
        self.say(plan=rows)

    def row(self, name: str, figure: str, result: str = "passed", **numbers) -> None:
        self.say(row=name, figure=figure, result=result, numbers=numbers)


def one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if text and isinstance(error, AssertionError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def function_of(path: str):
    module, name = path.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


def work(check: Check, session: Session) -> None:
    """A check, in its own process."""
    end_with_parent()
    faulthandler.enable()
    try:
        figure = function_of(check.does)(session)
        session.say(end="passed", figure=figure)
    except Skip as reason:
        session.say(end="skipped", figure=str(reason))
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        session.say(end="FAILED", figure=one_line(error))


def descendants() -> dict[int, bool]:
    """All processes that came of this one, and whether each has ended."""
    children: dict[int, list[tuple[int, bool]]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            children.setdefault(int(parent), []).append((int(folder.name), state in "ZX"))
    found, unseen = {}, [os.getpid()]
    while unseen:
        for pid, ended in children.get(unseen.pop(), []):
            found[pid] = ended
            unseen.append(pid)
    return found


def end_all() -> None:
    """Kills what came of this process, also in sessions of its own: orphans become our children."""
    patience = time.monotonic() + 2  # a process inside a driver may not end at all
    while (alive := descendants()) and time.monotonic() < patience:
        for pid, ended in alive.items():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
            if ended:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
        time.sleep(0.01)


class Lines:
    """A file that another process writes, line by line."""

    def __init__(self, path: Path):
        self.path, self.read = path, 0

    def new(self) -> list[bytes]:
        if not self.path.exists():
            return []
        with open(self.path, "rb") as file:
            file.seek(self.read)
            text = file.read()
        text = text[: text.rfind(b"\n") + 1]
        self.read += len(text)
        return text.splitlines()


class Outcome:
    """What is known of a check, as rows of the table."""

    def __init__(self, check: Check):
        self.check = check
        self.rows: list[dict] = []
        self.planned: list[str] = []
        self.place = ""
        self.end: dict | None = None
        self.facts: dict = {}

    def take(self, text: bytes) -> None:
        """A line of the check's file, which may have spoiled it."""
        try:
            self.understand(json.loads(text))
        except (ValueError, TypeError, KeyError):
            self.add("FAILED", f"wrote what is no message: {text[:80]!r}")

    def understand(self, line: dict) -> None:
        if "at" in line:
            self.place = line["at"]
        elif "plan" in line:
            self.planned += line["plan"]
        elif "facts" in line:
            self.facts = line["facts"]
        elif "row" in line:
            self.add(line["result"], line["figure"], line["row"], line["numbers"])
        elif line["end"] in RESULTS:
            self.end = line
        else:
            raise ValueError(line["end"])

    def add(self, result: str, figure: str | None, row: str = "", numbers=None) -> None:
        if result not in RESULTS:
            raise ValueError(result)
        name = f"{self.check.name}: {row}" if row else self.check.name
        self.rows.append(
            dict(
                check=self.check.name,
                name=name,
                result=result,
                figure=str(figure or ""),
                numbers=numbers or {},
            )
        )
        if row in self.planned:
            self.planned.remove(row)

    def close(self, result: str, figure: str | None) -> None:
        """The check's own row, where it has one, and those that it did not come to."""
        if figure or not self.rows or result != "passed":
            self.add(result, figure)
        for row in [*self.planned]:
            self.add("not reached", "", row)


def words_for(code: int) -> str:
    if code >= 0:
        return f"ended with {code}"
    with contextlib.suppress(ValueError):
        return f"ended by {signal.Signals(-code).name}"
    return f"ended by signal {-code}"


class Runner:
    def __init__(self, arguments, machine: Check | None, temporary: Path):
        self.arguments, self.machine, self.temporary = arguments, machine, temporary
        self.begin = time.monotonic()
        self.seconds = 60 * arguments.minutes
        # ending what runs, and the table, take a moment
        self.deadline = self.begin + self.seconds - min(4.0, 0.1 * self.seconds)
        self.facts: dict = {}
        self.rows: list[dict] = []
        self.current: Outcome | None = None

    def save(self, state: str = "running") -> None:
        """The table so far, whole at any moment."""
        path = self.arguments.json
        if path is None:
            return
        table = dict(
            state=state,
            device=self.arguments.device,
            quick=self.arguments.quick,
            minutes=self.arguments.minutes,
            seconds=round(time.monotonic() - self.begin, 1),
            facts=self.facts,
            rows=self.rows + (self.current.rows if self.current else []),
        )
        new = path.with_name(path.name + f".tmp.{os.getpid()}")
        try:
            with open(new, "w") as file:
                file.write(json.dumps(table, indent=1) + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                new.unlink()
            raise OSError(f"{path} cannot be written: {error.strerror}") from error

    def start(self, check: Check, folder: Path) -> subprocess.Popen:
        a = self.arguments
        session = Session(
            check.name, str(folder / "lines"), a.device, a.quick, str(a.program), self.facts
        )
        flags = sys.orig_argv[1 : -len(sys.argv)]  # of the interpreter
        command = [sys.executable, *flags, Path(sys.modules["__main__"].__file__).resolve()]
        with open(folder / "log", "w") as log:
            return subprocess.Popen(
                [*command, "--as-child", json.dumps(dataclasses.asdict(session))],
                env=PATIENT | CLEAN | {"TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def perform(self, check: Check) -> Outcome:
        """Runs a check; its rows are in the table before it ends, too."""
        self.current = outcome = Outcome(check)
        begin = time.monotonic()
        own_limit = begin + max(SHORTEST, check.share * self.seconds)
        limit = min(own_limit, self.deadline)
        log = ""
        if reason := self.why_not(check, begin):
            outcome.close(*reason)
        else:
            with tempfile.TemporaryDirectory(
                dir=self.temporary, ignore_cleanup_errors=True
            ) as name:
                folder = Path(name)
                lines = Lines(folder / "lines")
                process = self.start(check, folder)
                try:
                    while process.poll() is None and time.monotonic() < limit:
                        time.sleep(0.05)
                        self.take(outcome, lines)
                    code = process.poll()
                finally:
                    end_all()
                    self.take(outcome, lines)
                log = (folder / "log").read_text(errors="replace").strip()
            self.judge(outcome, code, time.monotonic() - begin, limit < own_limit, log)
        outcome.rows[0]["seconds"] = round(time.monotonic() - begin, 1)
        self.rows += outcome.rows
        self.current = None
        self.keep()
        if check is not self.machine:
            self.announce(outcome, time.monotonic() - begin, log)
        return outcome

    def keep(self, state: str = "running") -> None:
        """Saves where it can: a disk that is full ends nothing."""
        try:
            self.save(state)
        except OSError as error:
            print(f"--json: {error}", file=sys.stderr, flush=True)

    def take(self, outcome: Outcome, lines: Lines) -> None:
        before = len(outcome.rows)
        for line in lines.new():
            outcome.take(line)
        if len(outcome.rows) > before:
            self.keep()

    def why_not(self, check: Check, now: float) -> tuple[str, str] | None:
        if now >= self.deadline:
            return "not reached", ""
        if self.arguments.device == "cpu" and check.gpu:
            return "skipped", f"needs a GPU: {check.gpu}"
        if self.arguments.device == "cuda" and check.gpus > self.facts.get("gpus", check.gpus):
            return "skipped", f"needs {check.gpus} GPUs, {self.facts['gpus']} here"
        return None

    def judge(self, outcome, code, seconds: float, all_time_is_over: bool, log: str) -> None:
        place = f", at {outcome.place}" if outcome.place else ""
        if code is None:  # it was killed
            text = f"cut off after {seconds:.0f} s{place}"
            fails = not (outcome.check.endless or all_time_is_over)
            outcome.close("FAILED" if fails else "out of time", f"out of time: {text}")
        elif code != 0 or outcome.end is None:
            last = f" | {log.splitlines()[-1]}" if log and code > 0 else ""
            outcome.close("FAILED", words_for(code) + place + last)
        else:
            outcome.close(outcome.end["end"], outcome.end.get("figure"))
        if log and any(row["result"] == "FAILED" for row in outcome.rows):
            outcome.rows[0]["log"] = log[-4000:]

    @staticmethod
    def announce(outcome: Outcome, seconds: float, log: str) -> None:
        results = [row["result"] for row in outcome.rows]
        worst = min(results, key=RESULTS.index, default="passed")
        print(f"[{seconds:6.1f} s] {worst}: {outcome.check.name}", flush=True)
        if worst == "FAILED" and log:
            print("\n".join(log.splitlines()[-30:]), file=sys.stderr, flush=True)


def print_table(rows: list[dict]) -> None:
    width = max((len(row["name"]) for row in rows), default=0)
    print(f"\n{'check':{width}}  result       figure")
    for row in rows:
        figure = row["figure"] if len(row["figure"]) <= 400 else row["figure"][:397] + "..."
        print(f"{row['name']:{width}}  {row['result']:11}  {figure}".rstrip())
    counts = {result: 0 for result in ("passed", "FAILED", "skipped", "out of time", "not reached")}
    for row in rows:
        counts[row["result"]] += 1
    print(", ".join(f"{count} {result}" for result, count in counts.items() if count), flush=True)


def file_name(text: str) -> Path:
    path = Path(text)
    if not text or not path.name or path.is_dir():
        raise argparse.ArgumentTypeError(f'must name a file, got "{text}"')
    return path


def parsed(description: str):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="few cases, small ones")
    parser.add_argument("--minutes", type=float, default=8, help="of all checks together [8]")
    parser.add_argument(
        "--only", metavar="WORDS", help="checks with one of WORD,WORD in their name"
    )
    parser.add_argument(
        "--json", metavar="FILE", type=file_name, help="also write the table as JSON, row by row"
    )
    parser.add_argument(
        "--program",
        metavar="PATH",
        type=Path,
        default=Path(sys.executable).parent / "ptyle",
        help="the program `ptyle` [beside Python]",
    )
    parser.add_argument("--list", action="store_true", help="print the names of the checks")
    parser.add_argument("--as-child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.minutes > 0:
        parser.error(f"--minutes must be greater than 0, got {arguments.minutes:g}")
    arguments.program = arguments.program.absolute()
    return parser, arguments


@contextlib.contextmanager
def own_folder():
    """A new folder, locked as long as this process lives; those of killed runs are removed."""
    for left in Path(tempfile.gettempdir()).glob(FOLDERS + "*"):
        with contextlib.suppress(OSError):
            lock = os.open(left, os.O_RDONLY)
            try:
                # one that another run has just made may not be locked yet
                if time.time() - left.stat().st_mtime > 60:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(lock)
    with tempfile.TemporaryDirectory(prefix=FOLDERS, ignore_cleanup_errors=True) as name:
        lock = os.open(name, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield Path(name)
        finally:
            os.close(lock)


def interrupt(number, _) -> None:
    for each in ENDINGS:
        signal.signal(each, signal.SIG_IGN)
    raise Interrupted(number)


def listen() -> None:
    for each in ENDINGS:
        if signal.getsignal(each) is not signal.SIG_IGN:  # by nohup
            signal.signal(each, interrupt)


def main(checks: list[Check], machine: Check | None = None) -> int:
    """Runs `checks` as the command line says. `machine`: comes first; its end is the reason why
    nothing can run, if there is one, and it may give facts."""
    parser, arguments = parsed((sys.modules["__main__"].__doc__ or "").split("\n\n")[0])
    if arguments.as_child:
        session = Session(**json.loads(arguments.as_child))
        everyone = [*checks, *([machine] if machine else [])]
        work(next(c for c in everyone if c.name == session.name), session)
        return 0
    words = arguments.only.split(",") if arguments.only else [""]
    chosen = [c for c in checks if any(word in c.name for word in words)]
    if arguments.list:
        print("\n".join(c.name for c in chosen))
        return 0
    if not chosen:
        parser.error(f"no check has {arguments.only!r} in its name")
    prctl(SET_CHILD_SUBREAPER, 1)
    listen()
    state, code = "done", 0
    with own_folder() as folder:
        runner = Runner(arguments, machine, folder)
        try:
            runner.save()
        except OSError as error:
            parser.error(f"--json: {error}")
        try:
            if machine:
                outcome = runner.perform(machine)
                runner.facts = outcome.facts
                print(outcome.rows[0]["figure"], flush=True)
                if outcome.rows[0]["result"] == "skipped":
                    code = SKIPPED
            for check in chosen if code == 0 else []:
                runner.perform(check)
        except Interrupted as end:
            end_all()
            state, code = "interrupted", 128 + end.args[0]
            if runner.current:
                runner.current.close("out of time", "interrupted")
                runner.rows += runner.current.rows
                runner.current = None
        seen = {row["check"] for row in runner.rows}
        for check in chosen:
            if check.name not in seen:
                outcome = Outcome(check)
                outcome.close("not reached", "")
                runner.rows += outcome.rows
        runner.keep(state)
        print_table(runner.rows)
    results = {row["result"] for row in runner.rows}
    return code or int("FAILED" in results or not results & {"passed", "skipped"})
