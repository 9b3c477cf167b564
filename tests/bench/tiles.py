"""What tiles and ranks cost and give: `./dev bench tiles`.

Prints seams of each exchange, the share of time that two ranks wait for one another, their speed
over one rank, the paper's decomposition in 63 x 66 tiles beside 2 x 3, and the bytes that a rank
holds beside those that were predicted. --only NAME runs one of: seams, speed, paper, memory; --json
FILE also writes the numbers. Timings are ratios of runs beside one another on this machine.
"""

import argparse
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
from ptyle import compare

PROGRAM = Path(sys.executable).parent / "ptyle"
EDGE = 8  # pixels


def settings(options: dict) -> list[str]:
    return [text for key, value in options.items() for text in ("--set", f"{key}={value}")]


def simulate(folder: Path, name: str, *options: str) -> None:
    subprocess.run(
        [PROGRAM, "simulate", "PbTiO3", "-o", f"{name}.h5", *options],
        cwd=folder,
        check=True,
        capture_output=True,
    )


def run(folder: Path, name: str, out: str, ranks: int = 1, threads: int = 1, **options) -> Path:
    """`ptyle run NAME.toml` on some ranks, into FOLDER/OUT."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {"output.folder": out, "output.png": "false", "output.checkpoint_every": 0} | {
        key.replace("__", "."): value for key, value in options.items()
    }
    processes = []
    for rank in range(ranks):
        there = dict(RANK=rank, WORLD_SIZE=ranks, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        there = {k: str(v) for k, v in (there | dict(OMP_NUM_THREADS=threads)).items()}
        command = [PROGRAM, "run", f"{name}.toml", "--overwrite", *settings(options)]
        processes.append(
            subprocess.Popen(
                command, cwd=folder, env=os.environ | there, stderr=subprocess.PIPE, text=True
            )
        )
    for process in processes:
        _, stderr = process.communicate()
        if process.returncode != 0:
            raise RuntimeError(stderr)
    return folder / out


def metrics(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def check(folder: Path, name: str, ranks: int = 1, **options) -> str:
    options = {key.replace("__", "."): value for key, value in options.items()}
    command = [PROGRAM, "check", f"{name}.toml", "--ranks", str(ranks), *settings(options)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # as in `run`: a thread's waves count
    done = subprocess.run(
        command, cwd=folder, check=True, capture_output=True, text=True, env=environment
    )
    return done.stdout


def seam_index(result: Path, truth: Path, cuts: tuple[list[int], list[int]]) -> float:
    """Mean step of the phase's error across tile borders, over that across all other lines."""
    compared = compare.compare(result / "result.h5", truth)
    error = compared.phase - compared.truth
    with h5py.File(result / "result.h5") as file:
        half = np.array(file["probe"].shape[-2:]) // 2
        corner = np.ceil(file["positions"][()].min(axis=0)).astype(int) + half
    across, elsewhere = [], []
    for axis in range(2):
        steps = np.abs(np.diff(error, axis=axis)).mean(axis=1 - axis)
        borders = {cut - corner[axis] - 1 for cut in cuts[axis][1:-1]}
        for line, step in list(enumerate(steps))[EDGE:-EDGE]:  # the scan's edge errs by itself
            (across if line in borders else elsewhere).append(step)
    return float(np.mean(across) / np.mean(elsewhere))


def seams(folder: Path) -> dict:
    """3 x 3 tiles with a truncated halo that cuts at most 1 %, so few counts that noise rules."""
    grid, seeds = "[3,3]", (1, 2, 3)
    kinds = {
        "direct": dict(tiles__exchange="direct"),
        "passes": dict(tiles__exchange="passes"),
        "voxels, 2 rows": dict(tiles__exchange="voxels", tiles__extra_rows=2),
        "voxels, 1 row": dict(tiles__exchange="voxels", tiles__extra_rows=1),
        "voxels, 0 rows": dict(tiles__exchange="voxels", tiles__extra_rows=0),
        "voxels, rarely": dict(tiles__exchange="voxels", tiles__exchange_every=1000),
    }
    indices = {name: [] for name in ("one tile", *kinds)}
    common = dict(reconstruct__iterations=60, threads=2)
    for seed in seeds:
        name = f"seams{seed}"
        simulate(folder, name, "--scan", "30", "30", "--dose", "1e3", "--seed", str(seed))
        for halo in range(12, 33):
            text = check(folder, name, tiles__grid=grid, tiles__halo=halo)
            cut = float(re.search(r"energy cut +(\S+) %", text)[1])
            if cut <= 0.7:
                break
        one = run(folder, name, "one", **common)
        for kind, options in kinds.items():
            tiled = run(
                folder, name, "tiled", tiles__grid=grid, tiles__halo=halo, **common, **options
            )
            with h5py.File(tiled / "result.h5") as file:
                cuts = tuple(
                    [int(c) for c in file["object"].attrs[f"{axis}_cuts"]]
                    for axis in ("row", "column")
                )
            truth = folder / f"{name}.h5"
            indices[kind].append(seam_index(tiled, truth, cuts))
        indices["one tile"].append(seam_index(one, truth, cuts))
    mean = {kind: float(np.mean(values)) for kind, values in indices.items()}
    results = {kind: mean[kind] / mean["one tile"] for kind in kinds}
    results |= {"halo": halo, "energy_cut_percent": cut}
    print(f"seams: 3 x 3 tiles, halo {halo} pixels ({cut:.2g} % of the illumination cut off), 1e3")
    print("  electrons per square angstrom; index of the tiled run over that of one tile")
    for kind in kinds:
        limit = "above 1.05" if kind.startswith("voxels") else "0.98 to 1.02"
        print(f"  {kind:16} {results[kind]:.3f}   ({limit})")
    return results


def speed(folder: Path) -> dict:
    """128 x 128 windows: two ranks beside one, alternating."""
    options = ["--scan", "28", "28", "--window", "128", "--step-nm", "0.2", "--slices", "4"]
    simulate(folder, "speed", *options)
    common = dict(reconstruct__iterations=6, reconstruct__batches=2)

    def median(out: Path, value) -> float:
        return statistics.median(value(line) for line in metrics(out)[1:])

    ratios, shares, ceilings = [], [], []
    for turn in range(5):
        one = median(run(folder, "speed", f"one{turn}", **common), lambda line: line["seconds"])
        tiled = run(folder, "speed", f"two{turn}", ranks=2, tiles__grid="[1,2]", **common)
        ratios.append(one / median(tiled, lambda line: line["seconds"]))
        shares.append(median(tiled, lambda line: line["wait_seconds"] / line["seconds"]))
        with ThreadPoolExecutor() as both:  # two runs that know nothing of one another
            names = [f"pair{turn}{k}" for k in range(2)]
            pair = list(both.map(lambda name: run(folder, "speed", name, **common), names))
        ceilings.append(2 * one / max(median(out, lambda line: line["seconds"]) for out in pair))
    result = {
        "speed_of_two_ranks": statistics.median(ratios),
        "waiting_share": statistics.median(shares),
        "two_independent_runs": statistics.median(ceilings),
    }
    print("speed: 784 positions of 128 x 128, 4 slices, 2 batches, a thread a rank")
    print(f"  two ranks over one  {result['speed_of_two_ranks']:.2f}   (at least 1.85)")
    print(f"  two runs at once    {result['two_independent_runs']:.2f}   what this machine allows")
    print(f"  waiting share       {100 * result['waiting_share']:.1f} %   (at most 5 %)")
    return result


def paper(folder: Path) -> dict:
    """The paper's decomposition: 126 x 132 positions, 63 x 66 tiles in one process."""
    simulate(
        folder,
        "paper",
        *("--scan", "126", "132", "--window", "16", "--step-nm", "0.12"),
        *("--max-angle-mrad", "25", "--defocus-nm", "5"),
    )
    common = dict(reconstruct__iterations=2, reconstruct__precision="double", threads=2)
    many = run(folder, "paper", "many", tiles__grid="[63,66]", **common)
    few = run(folder, "paper", "few", tiles__grid="[2,3]", **common)
    with h5py.File(many / "result.h5") as a, h5py.File(few / "result.h5") as b:
        a, b = a["object"][()], b["object"][()]
    result = {
        "difference": float(np.linalg.norm(a - b) / np.linalg.norm(b)),
        "seconds": [metrics(out)[-1]["seconds"] for out in (many, few)],
    }
    print("paper: 16632 positions, windows of 16 x 16, 4158 tiles in one process")
    print(f"  relative difference from 2 x 3 tiles  {result['difference']:.1e}")
    seconds = result["seconds"]
    print(f"  seconds an iteration  {seconds[0]:.2f}, of 2 x 3 {seconds[1]:.2f}")
    return result


def memory(folder: Path) -> dict:
    """Bytes of tensors that the largest rank holds during iterations, beside the prediction."""
    simulate(folder, "memory", "--scan", "63", "66", "--window", "32", "--step-nm", "0.1")
    results = {}
    print("memory: 4158 positions of 32 x 32, 6 slices; tensors of the largest rank in MB")
    for grid, ranks, more in (
        ("[1,1]", 1, {}),
        ("[1,1]", 1, {"reconstruct__optimizer": "adam"}),
        ("[2,3]", 1, {}),
        ("[2,3]", 6, {}),
        ("[4,4]", 4, {"reconstruct__momentum": 0.5}),
        ("[4,4]", 2, {"tiles__exchange": "passes"}),
        ("[9,11]", 3, {}),
        ("[63,66]", 1, {}),
    ):
        options = dict(
            tiles__grid=grid,
            reconstruct__iterations=2,
            reconstruct__batches=4,
            object__slices=6,
            object__thickness_nm=8.0,
            **more,
        )
        text = check(folder, "memory", ranks, **options)
        predicted = float(re.search(r"tensors (\S+) MB", text)[1])
        out = run(folder, "memory", "memory", ranks=ranks, **options)
        held = metrics(out)[-1]["tensor_bytes"] / 1e6
        name = f"{grid} on {ranks}" + "".join(f", {value}" for value in more.values())
        results[name] = {"predicted_MB": predicted, "held_MB": held}
        print(f"  {name:24} predicted {predicted:8.2f}  held {held:8.2f}  {predicted / held:.3f}")
    return results


NAMES = {"seams": seams, "speed": speed, "paper": paper, "memory": memory}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=NAMES)
    parser.add_argument("--json")
    options = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, measure in NAMES.items():
            if options.only in (None, name):
                results[name] = measure(Path(folder))
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
