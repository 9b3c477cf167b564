"""The program: on the device against the CPU, twice, on two ranks; and seconds an iteration."""

import json
import statistics
import tempfile
from pathlib import Path

from check_runner import Session, Skip
from processes import CommandFailed, as_ranks, first_gpu, lets_no_ranks_share, run

try:
    import h5py
    import numpy as np
except ImportError:  # then the errors of every iteration are all that is compared
    h5py = None


def simulate(session: Session, folder: Path, scan, window: int, slices: int) -> None:
    if not Path(session.program).exists():
        raise Skip(
            f"{session.program} is not there: --program PATH says where (./dev build makes it)"
        )
    size = ["--scan", *scan, "--window", window, "--slices", slices, "--precision", "single"]
    command = [session.program, "simulate", "PbTiO3", "-o", "film.h5", "--thickness-nm", "4"]
    run([*command, *size], folder)


def small_film(session: Session, folder: Path) -> int:
    """Simulates; gives iterations for it."""
    if session.quick:
        simulate(session, folder, (6, 7), 32, 2)
        return 4
    simulate(session, folder, (12, 12), 64, 2)
    return 20


def command_for(session: Session, result: str, iterations: int, device: str, *more) -> list:
    settings = [f"reconstruct.iterations={iterations}", "output.png=false", f"device={device}"]
    command = [session.program, "run", "film.toml"]
    for setting in (*settings, f"output.folder={result}", *more):
        command += ["--set", setting]
    return command


def metrics_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def result_of(folder: Path) -> dict:
    """What a run ends with, as lists or arrays by name."""
    rows = metrics_of(folder)
    result = {name: [row[name] for row in rows] for name in ("loss", "amplitude_error")}
    if h5py is not None:
        with h5py.File(folder / "result.h5") as file:
            result |= {name: file[name][()] for name in ("object", "probe")}
    return result


def what_is_left_out() -> str:
    return "" if h5py else "; no h5py, or no numpy: only the errors of iterations are compared"


def compared(found: dict, expected: dict) -> str:
    worst = 0.0
    for name, theirs in expected.items():
        ours = found[name]
        if h5py is not None:
            ours, theirs = np.asarray(ours), np.asarray(theirs)
            if ours.shape != theirs.shape:
                raise AssertionError(f"{name}: shape {ours.shape}, not {theirs.shape}")
            error = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
        else:
            pairs = zip(ours, theirs, strict=True)
            error = max(abs(a - b) for a, b in pairs) / max(map(abs, theirs))
        if not error <= 1e-3:
            raise AssertionError(f"{name}: differs by {error:.1e} of its largest number")
        worst = max(worst, error)
    final = found["amplitude_error"][-1]
    return f"amplitude error {final:.3f}, differences up to {worst:.0e}{what_is_left_out()}"


def same_as_the_cpu(session):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        iterations = small_film(session, folder)
        # on one thread: on a CPU the other has as many as there are
        run(command_for(session, "cpu", iterations, "cpu"), folder, {"OMP_NUM_THREADS": "1"})
        run(command_for(session, "found", iterations, session.device), folder)
        return compared(result_of(folder / "found"), result_of(folder / "cpu"))


def same_bits(session):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        iterations = small_film(session, folder)
        results = []
        for result in ("first", "again"):
            run(command_for(session, result, iterations, session.device), folder)
            results.append(result_of(folder / result))
        for key, first in results[0].items():
            again = results[1][key]
            same = first == again if isinstance(first, list) else first.tobytes() == again.tobytes()
            if not same:
                raise AssertionError(f"{key}: other bits the second time")
        return f"{', '.join(results[0])} after {iterations} iterations{what_is_left_out()}"


def two_ranks(session):
    return on_ranks(session, {})


def two_ranks_one_gpu(session):
    try:
        return on_ranks(session, {"NCCL_MULTI_RANK_GPU_ENABLE": "1"} | first_gpu())
    except CommandFailed as failure:
        if lets_no_ranks_share(failure):
            raise Skip("this NCCL lets no two ranks share a GPU") from None
        raise


def on_ranks(session, environment) -> str:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        iterations = small_film(session, folder)
        grid = "tiles.grid=[2,2]"
        run(command_for(session, "cpu", iterations, "cpu", grid), folder, {"OMP_NUM_THREADS": "1"})
        command = command_for(session, "found", iterations, session.device, grid)
        as_ranks(command, 2, folder, environment)
        return compared(result_of(folder / "found"), result_of(folder / "cpu"))


# scan, window, slices, iterations
FILMS = {"small": ((16, 16), 64, 4, 30), "larger": ((64, 64), 128, 4, 12)}
FILMS_ON_A_CPU = {"small": ((6, 7), 32, 2, 6), "larger": ((12, 12), 64, 2, 6)}


def iterations(session):
    """Seconds of an iteration, from the program's own metrics; the first ones warm up."""
    films = FILMS if session.cuda else FILMS_ON_A_CPU
    names = {
        size: f"{scan[0]} x {scan[1]} positions, window {window}, {slices} slices"
        for size, (scan, window, slices, _) in films.items()
    }
    session.plan(list(names.values()))
    for size, (scan, window, slices, count) in films.items():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            session.at(f"simulating {names[size]}")
            simulate(session, folder, scan, window, slices)
            session.at(names[size])
            run(command_for(session, "found", count, session.device), folder)
            seconds = [row["seconds"] for row in metrics_of(folder / "found")][2:]
            middle = statistics.median(seconds)
            spread = (max(seconds) - min(seconds)) / 2 / middle
            positions = scan[0] * scan[1]
            session.row(
                names[size],
                f"{middle:.4f} s an iteration, +-{100 * spread:.0f} %; "
                f"{positions / middle:.0f} positions/s",
                seconds=middle,
                spread=spread,
                positions_per_second=positions / middle,
            )
