"""Commands as ranks: each with what a launcher would tell it, all waited for, none left behind."""

import os
import socket
import subprocess

LAUNCHERS = ("RANK", "WORLD", "LOCAL_RANK", "OMPI_", "PMI", "SLURM_", "MASTER_", "TORCHELASTIC")
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHERS)}
CLEAN["OMP_NUM_THREADS"] = "1"


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def told(rank, world, port, address="127.0.0.1"):
    """The environment of one rank; of the only one, that of no launcher."""
    if world == 1:
        return CLEAN
    there = dict(RANK=rank, WORLD_SIZE=world, MASTER_ADDR=address, MASTER_PORT=port)
    return CLEAN | {k: str(v) for k, v in there.items()}


def start(command, ranks=1, *, world=None, port=None, first=0, more=None, env=None, **options):
    """Ranks from `first` on of a `world`, by default all `ranks`. more, env: of a rank, what its
    command and its environment have besides. options: of subprocess.Popen."""
    port = port or free_port()
    processes = []
    for rank in range(first, ranks):
        here = told(rank, world or ranks, port) | (env(rank) if env else {})
        arguments = [*command, *(more(rank) if more else [])]
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) | options
        processes.append(subprocess.Popen(arguments, env=here, **pipes))
    return processes


def finish(processes, timeout=100):
    """(exit code, standard output, standard error) of each."""
    try:
        ends = [process.communicate(timeout=timeout) for process in processes]
        return [(process.returncode, *said) for process, said in zip(processes, ends, strict=True)]
    finally:
        for process in processes:
            process.kill()
            process.wait()
