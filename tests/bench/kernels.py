"""What one core does: `./dev bench kernels`.

Prints our transforms beside torch's, then for each case (window, slices, modes) microseconds a
position of: loss and gradients of object and probe (`diffraction_loss_accumulate_`), the same with
fractions of pixels, torch's transforms alone ((4 slices - 2) x modes of them: the floor of any
program that calls them), the same physics in eager torch; and how much of our time bare transforms
take. Then whole iterations of `ptyle run` over loss and gradients alone, on the same data. Last,
what two threads do. --json FILE writes the numbers. Ratios of one run, pinned to one core.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import ptyle
import torch

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(sys.executable).parent / "ptyle"
BENCH = ROOT / "build" / "default" / "tests" / "cpp" / "kernels_bench"
# window, slices, modes, positions, at most of the floor
CASES = [
    (64, 4, 1, 128, 0.28),
    (128, 6, 1, 32, 0.34),
    (256, 2, 1, 16, 0.38),
    (512, 10, 1, 2, 0.5),
    (64, 4, 4, 64, 0.29),
    (64, 1, 1, 512, 0.5),
]
# window, slices, positions along a row of the scan
RUNS = [(64, 4, 20), (64, 4, 200), (128, 6, 16), (256, 2, 10)]


def microseconds(function, repeats=7):
    """Least time of a call, after one that is not counted."""
    function()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return 1e6 * min(times)


def problem(window, slices, modes, n):
    torch.manual_seed(0)
    size = window + 100
    phase = 0.1 * torch.randn(slices, size, size)
    return (
        torch.polar(torch.ones_like(phase), phase),
        torch.randn(modes, window, window, dtype=torch.complex64),
        torch.randint(0, 100, (n, 2)).double(),
        torch.polar(torch.ones(window, window), torch.randn(window, window)),
        torch.poisson(10 * torch.rand(n, window, window)).to(torch.uint16),
    )


def fused(obj, probe, positions, propagator, patterns):
    losses = torch.zeros(len(positions), dtype=torch.double)
    grad_object, grad_probe = torch.zeros_like(obj), torch.zeros_like(probe)

    def call():
        ptyle.diffraction_loss_accumulate_(
            obj,
            probe,
            positions,
            propagator,
            patterns,
            grad_object=grad_object,
            grad_probe=grad_probe,
            losses=losses,
        )

    return call


def eager(obj, probe, positions, propagator, patterns):
    unknowns = (obj.clone().requires_grad_(), probe.clone().requires_grad_())
    counts = patterns.to(torch.float32)
    steps = torch.arange(probe.shape[-1])
    rows = (positions[:, :1].long() + steps)[:, :, None]
    columns = (positions[:, 1:].long() + steps)[:, None, :]

    def call():
        wave = unknowns[1][None]
        for s in range(len(obj)):
            if s > 0:
                wave = torch.fft.ifft2(propagator * torch.fft.fft2(wave))
            wave = wave * unknowns[0][s][rows, columns][:, None]
        intensity = torch.fft.fft2(wave, norm="ortho").abs().square().sum(1)
        loss = (intensity.sqrt() - counts.sqrt()).square().sum()
        torch.autograd.grad(loss, unknowns)

    return call


def transforms():
    out = subprocess.run([BENCH, "transforms"], check=True, capture_output=True, text=True)
    rows = json.loads(out.stdout)
    print(f"transforms, complex64, GFLOP/s (5 n^2 log2 n^2 each), {ptyle.cpu_kernels(64, 64)}")
    print("window | torch, MKL | ours, natural order | ours, in a chain")
    for row in rows:
        n = row["window"]
        count = max(1, 2**19 // (n * n))
        waves = torch.randn(count, n, n, dtype=torch.complex64)
        row["torch_us"] = microseconds(lambda waves=waves: torch.fft.fft2(waves)) / count
        flops = 5e-3 * n * n * np.log2(n * n)
        print(
            f"{n:6} | {flops / row['torch_us']:10.0f} | {flops / row['ordered_us']:19.0f} | "
            f"{flops / row['chained_us']:16.0f}"
        )
    return rows


def cases(chained_us):
    print("loss and gradients of object and probe, microseconds a position")
    print(
        "window slices modes | fused | torch's transforms | ratio, at most | with fractions, in "
        "proportion | eager torch, times | transforms' share"
    )
    rows = []
    for window, slices, modes, n, most in CASES:
        data = problem(window, slices, modes, n)
        moved = (*data[:2], data[2] + 0.3, *data[3:])
        count = (4 * slices - 2) * modes
        waves = torch.randn(max(1, 2**18 // window**2), window, window, dtype=torch.complex64)
        row = dict(window=window, slices=slices, modes=modes)
        row["fused_us"] = microseconds(fused(*data)) / n
        row["moved_us"] = microseconds(fused(*moved)) / n
        row["floor_us"] = (
            count * microseconds(lambda waves=waves: torch.fft.fft2(waves)) / len(waves)
        )
        row["eager_us"] = microseconds(eager(*data), 3) / n
        row["share"] = count * chained_us[window] / row["fused_us"]
        rows.append(row)
        print(
            f"{window:6} {slices:6} {modes:5} | {row['fused_us']:5.0f} | {row['floor_us']:18.0f} |"
            f" {row['fused_us'] / row['floor_us']:5.3f} {most:8.2f} |"
            f" {row['moved_us'] / row['fused_us']:14.2f} {(count + 2 * modes) / count:13.2f} |"
            f" {row['eager_us']:6.0f} {row['eager_us'] / row['fused_us']:11.1f} |"
            f" {100 * row['share']:15.0f} %"
        )
    return rows


def iterations(folder):
    """`ptyle run` over loss and gradients alone, whole-pixel positions of a raster."""
    print("iterations of `ptyle run`, 8 batches, object and probe, over loss and gradients alone")
    print("window slices positions | microseconds a position | alone | ratio (at most 1.1)")
    rows = []
    for window, slices, side in RUNS:
        n, step = side * side, 3
        obj, probe, _, propagator, _ = problem(window, slices, 1, 1)
        grid = torch.arange(side).double() * step
        positions = torch.stack(torch.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)
        counts = np.random.default_rng(0).poisson(5, (n, window, window)).astype(np.uint16)
        with h5py.File(folder / "data.h5", "w") as file:
            file.create_dataset("data", data=counts, chunks=(1, window, window))
            file["positions"] = positions.numpy()
            file["probe"] = probe.numpy()
        (folder / "data.toml").write_text(
            f"""
            [data]
            file = "data.h5"
            [detector]
            object_pixel_nm = 0.03
            [beam]
            energy_keV = 200
            [probe]
            file = "data.h5"
            [object]
            slices = {slices}
            thickness_nm = 8
            [reconstruct]
            iterations = 4
            step = 1e-3
            batches = 8
            [output]
            folder = "out"
            checkpoint_every = 0
            png = false
            """
        )
        subprocess.run(
            [PROGRAM, "run", "data.toml", "--overwrite"],
            cwd=folder,
            check=True,
            capture_output=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        lines = (folder / "out" / "metrics.jsonl").read_text().splitlines()
        whole = 1e6 * min(json.loads(line)["seconds"] for line in lines[1:]) / n
        size = int(positions.max()) + window
        obj = torch.ones(slices, size, size, dtype=torch.complex64)
        # a batch is every eighth position
        patterns = [torch.from_numpy(counts[b::8].copy()) for b in range(8)]
        calls = [
            fused(obj, probe, positions[b::8].clone(), propagator, patterns[b]) for b in range(8)
        ]

        def alone(calls=calls):
            for call in calls:
                call()

        alone_us = microseconds(alone, 3) / n
        rows.append(
            dict(window=window, slices=slices, positions=n, run_us=whole, alone_us=alone_us)
        )
        print(
            f"{window:6} {slices:6} {n:9} | {whole:23.1f} | {alone_us:5.1f} |"
            f" {whole / alone_us:5.2f}"
        )
    return rows


def threads():
    print("two threads over one, positions of one tile (at least 1.85; two cores)")
    rows = []
    for window, slices, modes, n, _ in CASES:
        call = fused(*problem(window, slices, modes, 4 * n))
        one = microseconds(call)
        torch.set_num_threads(2)
        two = microseconds(call)
        torch.set_num_threads(1)
        rows.append(dict(window=window, slices=slices, modes=modes, speed=one / two))
        print(f"{window:6} {slices:6} {modes:5} | {one / two:.2f}")
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--json", help="also write the numbers as JSON")
    arguments = parser.parse_args()
    subprocess.run(
        ["cmake", "--build", ROOT / "build" / "default", "--target", "kernels_bench"],
        check=True,
        capture_output=True,
    )
    torch.set_num_threads(1)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    results = {"kernels": ptyle.cpu_kernels(64, 64), "transforms": transforms()}
    chained = {row["window"]: row["chained_us"] for row in results["transforms"]}
    results["cases"] = cases(chained)
    with tempfile.TemporaryDirectory() as folder:
        results["iterations"] = iterations(Path(folder))
    os.sched_setaffinity(0, cores)
    if len(cores) > 1:
        results["threads"] = threads()
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
