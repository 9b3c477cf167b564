#!/usr/bin/env python3
"""Ends runs at random moments, and looks whether what goes on from there has the same bits.

./dev torture [--moments N]: N times SIGKILL on one rank's run and on that of two, some of them
aimed at the writing of a file; a tenth as many SIGTERM, SIGSTOP with SIGCONT, and full disks (a
small tmpfs: only as root). After each the run is restarted and must end with the bits of one that
nothing happened to. Exit code 1 where one does not.
"""

import argparse
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py

LAUNCHERS = ("RANK", "WORLD", "LOCAL_RANK", "OMPI_", "PMI", "SLURM_", "MASTER_", "TORCHELASTIC")
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHERS)}
ITERATIONS = 40
TIMEOUT = 20  # tiles.timeout_s
LIMIT = 300  # seconds after which a run hangs
PEER_FAILED, INTERRUPTED = 75, 130


class Fault(Exception):
    pass


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Torture:
    def __init__(self, program, folder):
        self.program, self.folder = program, Path(folder)
        self.bits, self.seconds, self.running = {}, {}, []

    def begin(self):
        """The film, and the bits of its reconstruction."""
        film = "simulate PbTiO3 -o film.h5 --scan 7 8 --window 32 --slices 2 --thickness-nm 4"
        made = subprocess.run(
            [self.program, *film.split()], cwd=self.folder, capture_output=True, text=True
        )
        if made.returncode != 0:
            raise SystemExit(made.stderr)
        for ranks in (1, 2):
            begin = time.monotonic()
            out = self.folder / f"whole{ranks}"
            self.finish(self.start(out, ranks), [0])
            self.seconds[ranks] = time.monotonic() - begin
            self.bits[ranks] = bits_of(out)
        if self.bits[1] != self.bits[2]:
            raise SystemExit("one rank and two have other bits before anything happened to them")

    def start(self, out, ranks, how=()):
        settings = {
            "output.folder": out,
            "output.checkpoint_every": 1,
            "reconstruct.iterations": ITERATIONS,
            "reconstruct.batches": 3,
            "reconstruct.momentum": 0.3,
            "tiles.grid": "[2,2]",
            "tiles.timeout_s": TIMEOUT,
        }
        command = [self.program, "run", "film.toml", *how]
        for key, value in settings.items():
            command += ["--set", f"{key}={value}"]
        port = str(free_port())
        processes = []
        for rank in range(ranks):
            there = {"OMP_NUM_THREADS": "1"}
            if ranks > 1:
                there |= {"RANK": str(rank), "WORLD_SIZE": str(ranks)}
                there |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            # into a file: a pipe that nobody reads would stop them
            with open(self.folder / f"said{rank}.txt", "w") as said:
                processes.append(
                    subprocess.Popen(
                        command, cwd=self.folder, env=CLEAN | there, stdout=said, stderr=said
                    )
                )
        self.running = processes
        return processes

    def end_all(self):
        for process in self.running:
            process.kill()
            process.wait()

    def said(self, ranks):
        lines = [
            f"rank {rank}: " + (self.folder / f"said{rank}.txt").read_text().strip()[-400:]
            for rank in range(ranks)
        ]
        return "\n    ".join(lines)

    def finish(self, processes, allowed):
        """Exit codes; a Fault where one is not allowed, or where one does not end."""
        try:
            codes = [process.wait(timeout=LIMIT) for process in processes]
        except subprocess.TimeoutExpired:
            raise Fault(f"no end within {LIMIT} s\n    {self.said(len(processes))}") from None
        finally:
            for process in processes:
                process.kill()
                process.wait()
        if not set(codes) <= set(allowed):
            said = self.said(len(processes))
            raise Fault(f"exit codes {codes}, allowed {sorted(allowed)}\n    {said}")
        return codes

    def goes_on(self, out, ranks):
        """Restarted on any number of ranks; whether there was a checkpoint to go on from."""
        # A full disk may have had room for the result and not for a checkpoint: that is kept until
        # one says otherwise.
        only_result = (out / "result.h5").exists() and not (out / "checkpoint.h5").exists()
        how = "--overwrite" if only_result else "--resume"
        self.finish(self.start(out, ranks, [how]), [0])
        if bits_of(out) != self.bits[1]:
            raise Fault("other bits than the run that nothing happened to")
        left = [p.name for p in out.iterdir() if ".tmp." in p.name or p.name.endswith(".old")]
        if left:
            raise Fault(f"left in the folder: {left}")
        return "resuming" in (self.folder / "said0.txt").read_text()

    # --- what happens to them ---

    def kill(self, r, out, ranks):
        """All ranks, or one: the others then say so. Sometimes the restart too."""
        for attempt in range(10):
            processes = self.start(out, ranks, ["--resume"] if attempt > 0 else [])
            aimed = r.random() < 0.4
            if aimed:
                await_writing(out, processes, r.randint(1, 25))
            else:
                await_moment(processes, r.uniform(0.0, 1.05 * self.seconds[ranks]))
            victims = processes if r.random() < 0.5 else [r.choice(processes)]
            for victim in victims:
                victim.send_signal(signal.SIGKILL)
            self.finish(processes, [0, -signal.SIGKILL, PEER_FAILED])
            if r.random() < 0.7:
                break
        return self.goes_on(out, r.choice([1, 2]))

    def terminate(self, r, out, ranks):
        processes = self.start(out, ranks)
        await_moment(processes, r.uniform(0.0, self.seconds[ranks]))
        r.choice(processes).send_signal(r.choice([signal.SIGTERM, signal.SIGINT]))
        # before the program has taken the signals, they end it as they end any other
        early = [-signal.SIGTERM, -signal.SIGINT, PEER_FAILED]
        codes = self.finish(processes, [0, INTERRUPTED, *early])
        if INTERRUPTED in codes and not (out / "result.h5").exists():
            raise Fault("interrupted, and no result is saved")
        return self.goes_on(out, ranks)

    def stop(self, r, out, ranks):
        """Stopped for a time that is shorter than tiles.timeout_s: nothing else happens."""
        processes = self.start(out, ranks)
        for _ in range(r.randint(1, 3)):
            await_moment(processes, r.uniform(0.0, 0.5 * self.seconds[ranks]))
            some = [process for process in processes if r.random() < 0.7]
            for process in some:
                process.send_signal(signal.SIGSTOP)
            time.sleep(r.uniform(0.01, 2.0))
            for process in some:
                process.send_signal(signal.SIGCONT)
        self.finish(processes, [0])
        return self.goes_on(out, ranks)

    def fill_disk(self, r, out, ranks):
        """A file takes the disk's space at some moment, and is gone when the run is restarted."""
        disk = out.parent
        ballast = disk / "ballast"
        room = shutil.disk_usage(disk).free
        share = r.uniform(0.0, 1.0)
        if r.random() < 0.5:
            fill(ballast, int(share * share * room))
            processes = self.start(out, ranks)
        else:
            processes = self.start(out, ranks)
            await_moment(processes, r.uniform(0.0, self.seconds[ranks]))
            fill(ballast, room)
        codes = self.finish(processes, [0, 1, PEER_FAILED])
        if 1 in codes:
            lines = self.said(ranks).splitlines()
            if not any("error: " in line and "No space left" in line for line in lines):
                raise Fault(f"a full disk, and its reason is not said\n    {self.said(ranks)}")
            if out.exists() and (left := [p.name for p in out.iterdir() if ".tmp." in p.name]):
                raise Fault(f"left on the full disk: {left}")
        ballast.unlink()
        return self.goes_on(out, ranks)


def bits_of(out):
    with h5py.File(out / "result.h5") as file:
        names = ("object", "probe", "positions", "history/loss", "history/amplitude_error")
        return {name: file[name][()].tobytes() for name in names}


def await_moment(processes, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end and all(process.poll() is None for process in processes):
        time.sleep(min(0.002, max(0.0, end - time.monotonic())))


def await_writing(out, processes, number):
    """Until the number-th file of those that are renamed when they are whole is being written."""
    seen = set()
    while processes[0].poll() is None and len(seen) < number:
        try:
            seen |= {
                (entry.name, entry.inode()) for entry in os.scandir(out) if ".tmp." in entry.name
            }
        except OSError:
            pass


def fill(path, size):
    block = b"x" * 65536
    try:
        with open(path, "wb", buffering=0) as out:
            while size > 0:
                size -= out.write(block[: min(size, len(block))])
    except OSError:
        pass  # full


class SmallDisk:
    """A tmpfs of some megabytes; `folder` is None where none can be mounted."""

    def __init__(self, folder, megabytes):
        self.folder, self.reason = Path(folder), ""
        self.folder.mkdir()
        size = f"size={megabytes}m"
        mount = ["mount", "-t", "tmpfs", "-o", size, "ptyle-torture", str(folder)]
        if os.geteuid() != 0:
            self.reason = "a small disk needs root"
        else:
            done = subprocess.run(mount, capture_output=True, text=True)
            self.reason = done.stderr.strip() if done.returncode != 0 else ""
        if self.reason:
            self.folder = None

    def close(self):
        if self.folder is not None:
            subprocess.run(["umount", "-l", str(self.folder)], capture_output=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moments", type=int, default=200, help="of SIGKILL on each run")
    parser.add_argument("--others", type=int, default=None, help="of each other kind [a tenth]")
    parser.add_argument("--seed", type=int, default=None, help="of the moments [the clock]")
    parser.add_argument("--program", default=str(Path(sys.executable).with_name("ptyle")))
    options = parser.parse_args()
    others = options.others if options.others is not None else max(1, options.moments // 10)
    seed = options.seed if options.seed is not None else int(time.time())
    folder = Path(tempfile.mkdtemp(prefix="ptyle-torture-"))
    disk = SmallDisk(folder / "disk", 2)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    torture = Torture(str(Path(options.program).resolve()), folder)
    try:
        torture.begin()
        return campaign(torture, options.moments, others, seed, disk)
    except Fault as fault:
        print(f"FAULT in a run that nothing happened to: {fault}")
        return 1
    finally:
        torture.end_all()
        disk.close()
        shutil.rmtree(folder, ignore_errors=True)


def campaign(torture, moments, others, seed, disk):
    print(f"seed {seed}; a run takes {torture.seconds[1]:.1f} s, on two ranks "
          f"{torture.seconds[2]:.1f} s", flush=True)  # fmt: skip
    if disk.reason:
        print(f"full disks are left out: {disk.reason}")
    folder = torture.folder
    plan = [(torture.kill, moments, folder)]
    plan += [(torture.terminate, others, folder), (torture.stop, others, folder)]
    plan += [(torture.fill_disk, others, disk.folder)] if disk.folder else []
    faults, rows, begin = [], [], time.monotonic()
    for what, times, place in plan:
        for ranks in (1, 2):
            went_on = 0
            for number in range(times):
                r = random.Random(f"{seed}/{what.__name__}/{ranks}/{number}")
                out = place / "out"
                try:
                    went_on += what(r, out, ranks)
                except Fault as fault:
                    faults.append(f"{what.__name__} {number} on {ranks} ranks: {fault}")
                    print("FAULT", faults[-1], flush=True)
                shutil.rmtree(out, ignore_errors=True)
                (place / "ballast").unlink(missing_ok=True)
            rows.append((what.__name__, ranks, times, went_on))
            print(f"{what.__name__:10} {ranks} rank(s): {times} moments, {went_on} restarts from a "
                  f"checkpoint, {times - went_on} from the beginning", flush=True)  # fmt: skip
    minutes = (time.monotonic() - begin) / 60.0
    moments = sum(times for _, _, times, _ in rows)
    print(f"{moments} moments in {minutes:.1f} minutes; faults: {len(faults)}")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
