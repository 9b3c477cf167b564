"""Commands that checks start, alone or as ranks. What they say goes to the check's log at once."""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

LAUNCHERS = ("RANK", "WORLD", "LOCAL_RANK", "OMPI_", "PMI", "SLURM_", "MASTER_", "TORCHELASTIC")
# no launcher's environment, so that one rank is one
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHERS)}

SET_PDEATHSIG, SET_CHILD_SUBREAPER = 1, 36  # <sys/prctl.h>
LIBC = ctypes.CDLL(None)


def prctl(option: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        LIBC.prctl(option, value, 0, 0, 0)


def end_with_parent() -> None:
    """However that ends: nobody else would end this process after a SIGKILL."""
    prctl(SET_PDEATHSIG, signal.SIGKILL)


class Started:
    def __init__(self, command, name: str, folder=None, environment=None):
        self.name, self.lines = name, []
        self.process = subprocess.Popen(
            [str(part) for part in command],
            cwd=folder,
            env=CLEAN | {k: str(v) for k, v in (environment or {}).items()},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            preexec_fn=end_with_parent,
        )
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            print(f"[{self.name}] {self.lines[-1]}", flush=True)

    def end(self) -> int:
        """Exit code, after all that it has said."""
        code = self.process.wait()
        self.reader.join(timeout=5)
        return code


class CommandFailed(AssertionError):
    """A command that ended with something else than 0: .code, and .said by all, in lines."""

    def __init__(self, text: str, code: int, said: list[str]):
        super().__init__(text)
        self.code, self.said = code, said


def finish(started: list[Started]) -> list[list[str]]:
    """Waits for all; gives their lines. Where one fails the others have some seconds to end."""
    patience = None
    try:
        while any(one.process.poll() is None for one in started):
            if patience is None and any(one.process.poll() for one in started):
                patience = time.monotonic() + 10
            if patience is not None and time.monotonic() > patience:
                break
            time.sleep(0.02)
    finally:
        for one in started:
            one.process.kill()
    codes = [one.end() for one in started]
    failed = [
        f"{one.name} ended with {code}: {' | '.join(one.lines[-2:])}"
        for one, code in zip(started, codes, strict=True)
        if code != 0
    ]
    if failed:
        said = [line for one in started for line in one.lines]
        raise CommandFailed("; ".join(failed), next(code for code in codes if code), said)
    return [one.lines for one in started]


def run(command, folder=None, environment=None) -> list[str]:
    command = [str(part) for part in command]
    name = " ".join([Path(command[0]).name, *command[1:2]])
    return finish([Started(command, name, folder, environment)])[0]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def as_ranks(command, count: int, folder=None, environment=None) -> list[list[str]]:
    """Runs a command as `count` ranks of this machine, told so as launchers do."""
    port = free_port()
    started = []
    for rank in range(count):
        told = dict(RANK=rank, WORLD_SIZE=count, LOCAL_RANK=rank, LOCAL_WORLD_SIZE=count)
        told |= dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, OMP_NUM_THREADS=1)
        started.append(Started(command, f"rank {rank}", folder, told | (environment or {})))
    return finish(started)


def first_gpu() -> dict:
    """The environment in which there is one GPU."""
    return dict(CUDA_VISIBLE_DEVICES=os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0])


def lets_no_ranks_share(failure: CommandFailed) -> bool:
    """NCCL before 2.30 refuses two ranks on one GPU, whatever it is told."""
    said = " ".join(failure.said)
    return "Duplicate GPU" in said or "using the same GPU" in said
