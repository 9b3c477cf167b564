"""Simulate a lead titanate film, reconstruct it, and draw it beside the truth.

    python -m ptyle.demo [FOLDER] [--prior]

is what `./dev demo` runs. It uses nothing that a user could not: the program's `simulate` and `run`
and `ptyle.compare`. The film is simulated finer than it is reconstructed: in a window with half as
many pixels again, in four times as many slices, with atoms that move, at a stated dose, and the
reconstruction starts from a probe whose defocus is 10 % wrong. The picture shows lead (bright),
titanium moved off the middle of its cell along the polar axis, to the right, and oxygen.

With --prior it trains a denoiser first (two minutes, once in a folder), and reconstructs a thinner
film from very few electrons without it and with it.
"""

import argparse
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from ptyle import compare

CELLS = 4  # along the beam
CELL_NM = 0.39039  # a of lead titanate: the polar axis lies in the picture, along its rows
SIMULATED_SLICES = 2 * CELLS
SLICES = 2
DOSE = 1e5  # electrons per square angstrom
SEMIANGLE_MRAD = 21.0
DEFOCUS_NM = 20.0
GUESSED_DEFOCUS_NM = 22.0
ITERATIONS = 40
RANKS = 2
LEAST_CORRELATION = 0.9

CONFIG = f"""\
# The film of `ptyle.demo`: a probe guessed with 10 % too much defocus, {SLICES} slices.
[data]
file = "film.h5"
patterns = "data"
positions = "positions"
position_unit = "pixel"
zero_frequency = "center"

[detector]
object_pixel_nm = {{object_pixel_nm!r}}

[beam]
kind = "electron"
energy_keV = 200.0

[probe]
semiangle_mrad = {SEMIANGLE_MRAD}
defocus_nm = {GUESSED_DEFOCUS_NM}
modes = 1
power = "data"

[object]
slices = {SLICES}
thickness_nm = {CELLS * CELL_NM:.5f}

[reconstruct]
iterations = {ITERATIONS}
batches = 8
refine = ["object", "probe"]

[tiles]
grid = [2, 2]

[output]
folder = "result"
"""


def simulate_arguments(output: Path) -> list[str]:
    """The command line of `ptyle simulate` that makes the film."""
    return [
        *("simulate", "PbTiO3", "-o", str(output), "--force"),
        *("--thickness-nm", f"{CELLS * CELL_NM:.5f}", "--slices", str(SIMULATED_SLICES)),
        *("--phonons", "8", "--dose", f"{DOSE:g}", "--seed", "1"),
        *("--semiangle-mrad", str(SEMIANGLE_MRAD), "--defocus-nm", str(DEFOCUS_NM)),
        *("--scan", "28", "28", "--step-nm", "0.1", "--jitter-nm", "0.01"),
        *("--rotation-deg", "5", "--orientation", "100"),
        *("--window", "64", "--max-angle-mrad", "42", "--oversampling", "1.5"),
    ]


# The film of --prior: thin, and so few electrons that plain descent drowns in noise.
FAINT_DOSE = 200  # electrons per square angstrom
FAINT_ITERATIONS = 50
PRIOR = """
[[prior]]
file = "phase.pt2"
kind = "plug-and-play"
on = "phase"
noise = 0.2
every = 2
"""


def faint_arguments(output: Path) -> list[str]:
    """The command line of `ptyle simulate` that makes the film of --prior."""
    return [
        *("simulate", "PbTiO3", "-o", str(output), "--force", "--orientation", "100"),
        *("--thickness-nm", f"{2 * CELL_NM:.5f}", "--slices", "1", "--phonons", "8"),
        *("--dose", str(FAINT_DOSE), "--seed", "1", "--scan", "28", "28", "--step-nm", "0.1"),
        *("--window", "64"),
    ]


def with_and_without_prior(folder: Path, say) -> int:
    """Trains and exports a prior, and reconstructs a faint film without it and with it."""
    data, prior, picture = folder / "faint.h5", folder / "phase.pt2", folder / "prior.png"
    models = [sys.executable, "-m", "ptyle.models"]
    if not prior.exists():
        say("a denoiser is trained on simulated specimens and exported")
        checkpoint = folder / "phase.ckpt"
        train = [*models, "train", "denoiser", "-o", str(checkpoint)]
        train += ["--specimens", str(folder / "specimens")]
        subprocess.run([*train, "--resume"] if checkpoint.exists() else train, check=True)
        subprocess.run([*models, "export", str(checkpoint), "-o", str(prior)], check=True)
    run_program(faint_arguments(data), say)
    plain = data.with_suffix(".toml").read_text()
    found = {}
    for name, more in (("without", ""), ("with", PRIOR)):
        config = folder / f"{name}.toml"
        config.write_text(plain + more)
        settings = [f"reconstruct.iterations={FAINT_ITERATIONS}", 'reconstruct.refine=["object"]']
        settings += ["tiles.grid=[2,2]", f"output.folder={name}"]
        command = ["run", str(config), "--overwrite"]
        for setting in settings:
            command += ["--set", setting]
        run_on_ranks(command, RANKS, say)
        found[name] = compare.compare(folder / name / "result.h5", data)
    errors = {name: one.error for name, one in found.items()}
    fits = {name: float(one.history["amplitude_error"][-1]) for name, one in found.items()}
    title = f"PbTiO3 along [100], {2 * CELL_NM:.2f} nm, {FAINT_DOSE} e/Å²"
    named = {f"{name} the prior, error {errors[name]:.2f}": one for name, one in found.items()}
    compare.draw_beside(named, picture, title)
    ratio = errors["with"] / errors["without"]
    say(f"error against the truth: {errors['without']:.3f} without, {errors['with']:.3f} with")
    say(f"with / without: {ratio:.2f}; of the data error: {fits['with'] / fits['without']:.3f}")
    say(f"picture: {picture}; prior: {prior}; config: {folder / 'with.toml'}")
    if ratio > 0.8:
        say("this should be below 0.8: something is wrong")
        return 1
    return 0


def program() -> str:
    """The `ptyle` program that was installed with this Python."""
    beside = Path(sys.executable).parent / "ptyle"
    found = str(beside) if beside.exists() else shutil.which("ptyle")
    if found is None:
        raise FileNotFoundError(f"the program ptyle is missing beside {sys.executable}")
    return found


def run_program(arguments: list[str], say) -> None:
    """Run `ptyle` and wait; a failure ends the demo with the program's exit code."""
    say("ptyle " + " ".join(arguments))
    sys.stdout.flush()
    subprocess.run([program(), *arguments], check=True)


def run_on_ranks(arguments: list[str], ranks: int, say) -> None:
    """Run `ptyle` on several ranks, as torchrun does it, and wait for all of them."""
    say(f"ptyle {' '.join(arguments)}  # on {ranks} ranks")
    sys.stdout.flush()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    threads = max(1, (os.cpu_count() or 1) // ranks)
    processes = []
    for rank in range(ranks):
        there = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": rank, "MASTER_PORT": port}
        there |= {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": threads}
        there = {name: str(value) for name, value in there.items()}
        processes.append(subprocess.Popen([program(), *arguments], env=os.environ | there))
    codes = [process.wait() for process in processes]
    # what a rank says of itself counts more than that another one failed
    failed = sorted((code for code in codes if code != 0), key=lambda code: code == 75)
    if failed:
        raise subprocess.CalledProcessError(failed[0], arguments)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m ptyle.demo", description=__doc__)
    parser.add_argument("folder", nargs="?", default="demo", help="where to write [demo]")
    parser.add_argument(
        "--prior", action="store_true", help="train a learned prior, and show what it gains"
    )
    options = parser.parse_args(arguments)
    folder = Path(options.folder)
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[demo {time.monotonic() - started:5.1f} s] {text}")

    folder.mkdir(parents=True, exist_ok=True)
    data, config, result = folder / "film.h5", folder / "film.toml", folder / "result"
    picture = folder / "film.png"
    if options.prior:
        try:
            return with_and_without_prior(folder, say)
        except subprocess.CalledProcessError as error:
            say(f"stopped: {error.cmd[0]} ended with exit code {error.returncode}")
            return error.returncode
    if result.exists():
        shutil.rmtree(result)  # of an earlier demo; `run` never overwrites
    try:
        run_program(simulate_arguments(data), say)
        config.write_text(CONFIG.format(object_pixel_nm=pixel_nm(data)))
        run_on_ranks(["run", str(config)], RANKS, say)
    except subprocess.CalledProcessError as error:
        say(f"stopped: ptyle ended with exit code {error.returncode}")
        return error.returncode
    comparison = compare.compare(result / "result.h5", data)
    compare.draw(
        comparison, picture, f"PbTiO3 along [100], {CELLS * CELL_NM:.2f} nm, {DOSE:.0e} e/Å²"
    )
    say(f"correlation of the summed phase with the truth: {comparison.correlation:.3f}")
    say(f"data with truth: {data}; config: {config}; reconstruction: {result}/result.h5")
    say(f"picture: {picture}")
    if comparison.correlation < LEAST_CORRELATION:
        say(f"this should be at least {LEAST_CORRELATION}: something is wrong")
        return 1
    return 0


def pixel_nm(path: Path) -> float:
    """The object's pixel in a simulated file."""
    import h5py

    with h5py.File(path, "r") as file:
        return float(file.attrs["object_pixel_nm"])


if __name__ == "__main__":
    sys.exit(main())
