"""Simulate a lead titanate film, reconstruct it, and draw it beside the truth.

    python -m ptyle.demo [FOLDER] [--prior]

is what `./dev demo` runs. It uses nothing that a user could not: the program's `simulate` and `run`
and `ptyle.compare`. The film is simulated finer than it is reconstructed: in a window with half as
many pixels again, in four times as many slices, with atoms that move, at a stated dose, and the
reconstruction starts from a probe whose defocus is 10 % wrong. The picture shows lead (bright),
titanium moved off the middle of its cell along the polar axis, to the right, and oxygen.

With --prior it trains a denoiser first (four minutes on one core, once in a folder), reconstructs a
thinner film from very few electrons with it and by plain methods, and prints how far each is from
the truth.
"""

import argparse
import dataclasses
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
PRIOR_ITERATIONS = 3
STOPS = (1, 2, 3, 5, 8)  # iterations
BLURS = (0.6, 0.8, 1.0, 1.3)  # pixels
VARIATIONS = (0.05, 0.1, 0.2, 0.3, 0.5)  # weights of total variation, radians
PRIOR = """
[[prior]]
file = "phase.pt"             # noise: of the counts, 1 / sqrt(counts per pixel of the object)
kind = "plug-and-play"
on = "phase"
every = 0                     # once an iteration
"""


def faint_arguments(output: Path) -> list[str]:
    """The command line of `ptyle simulate` that makes the film of --prior."""
    return [
        *("simulate", "PbTiO3", "-o", str(output), "--force", "--orientation", "100"),
        *("--thickness-nm", f"{2 * CELL_NM:.5f}", "--slices", "1", "--phonons", "8"),
        *("--dose", str(FAINT_DOSE), "--seed", "1", "--scan", "28", "28", "--step-nm", "0.1"),
        *("--window", "64"),
    ]


def make_prior(folder: Path, say) -> None:
    """phase.pt, a trained denoiser that averages first what repeats."""
    models = [sys.executable, "-m", "ptyle.models"]
    if not (folder / "phase.pt").exists():
        say("a denoiser is trained on simulated specimens and exported")
        checkpoint = folder / "phase.ckpt"
        train = [*models, "train", "denoiser", "-o", str(checkpoint)]
        train += ["--specimens", str(folder / "specimens")]
        subprocess.run([*train, "--resume"] if checkpoint.exists() else train, check=True)
        export = [*models, "export", str(checkpoint), "-o", str(folder / "phase.pt"), "--repeats"]
        subprocess.run(export, check=True)


class Measured:
    """Reconstructions of a simulated film, each with two measures against its truth.

    The error is the norm of the phases' difference relative to that of the truth: an empty object
    has 1. The correlation does not know by how much a phase is too weak, and an empty object has 0.
    """

    def __init__(self, folder: Path, name: str, arguments: list[str], say):
        self.folder, self.name, self.say = folder, name, say
        self.data = folder / f"{name}.h5"
        run_program(arguments, say)
        self.plain = self.data.with_suffix(".toml").read_text()

    def run(self, label: str, iterations: int, likelihood: str, *settings: str, prior: str = ""):
        """Reconstruct, and compare with the truth."""
        config = self.folder / f"{self.name}_{label}.toml"
        config.write_text(self.plain + prior)
        command = ["run", str(config), "--overwrite"]
        for setting in (
            f"reconstruct.iterations={iterations}",
            f'reconstruct.likelihood="{likelihood}"',
            'reconstruct.refine=["object"]',
            "tiles.grid=[2,2]",
            f"output.folder={config.stem}",
            "output.png=false",
            *settings,
        ):
            command += ["--set", setting]
        run_on_ranks(command, RANKS, quiet)
        return compare.compare(self.folder / config.stem / "result.h5", self.data)

    def with_prior(self):
        """What the prior makes of it, with the settings of `PRIOR` and no look at the truth."""
        return self.run("prior", PRIOR_ITERATIONS, "poisson", prior=PRIOR)

    def baselines(self) -> dict[str, list]:
        """By name, what plain methods make of it: all settings that the truth may choose from."""
        found = {}
        for likelihood in ("amplitude", "poisson"):
            found[f"{likelihood} likelihood"] = [self.run("plain", FAINT_ITERATIONS, likelihood)]
        stopped = [self.run("plain", n, one) for one in ("amplitude", "poisson") for n in STOPS]
        found["stopped early"] = stopped
        found["blurred"] = [blurred(one, width) for one in stopped for width in BLURS]
        found["total variation"] = [
            less_variation(one, weight) for one in stopped for weight in VARIATIONS
        ]
        return found

    def table(self, found: dict[str, list], prior) -> list[dict]:
        """A row a method, baselines with what suits them best in each measure, the prior last."""
        rows = [{"method": "an empty object", "error": 1.0, "correlation": 0.0}]
        for method, ones in {**found, "the prior": [prior]}.items():
            error = min(one.error for one in ones)
            best = max(one.correlation for one in ones)
            rows.append({"method": method, "error": error, "correlation": best})
        return rows


def quiet(text: str) -> None:
    """For programs whose command lines would drown the rest."""


def blurred(one: compare.Comparison, width: float) -> compare.Comparison:
    """The same with a phase that a Gaussian of a standard deviation in pixels has blurred."""
    import numpy as np

    margin = min(32, *(size - 1 for size in one.phase.shape))
    wide = np.pad(one.phase, margin, mode="reflect")
    squares = [np.square(np.fft.fftfreq(size)) for size in wide.shape]
    passed = np.exp(-2 * (np.pi * width) ** 2 * (squares[0][:, None] + squares[1]))
    phase = np.fft.ifft2(np.fft.fft2(wide) * passed).real
    return with_phase(one, phase[margin:-margin, margin:-margin])


def less_variation(one: compare.Comparison, weight: float) -> compare.Comparison:
    """The same with the phase u of least |u - phase|^2 / 2 + weight * total variation of u.

    By 100 steps of Chambolle's projection (2004).
    """
    import numpy as np

    dual = np.zeros((2, *one.phase.shape))

    def divergence() -> np.ndarray:
        rows = np.diff(dual[0], axis=0, prepend=0)
        columns = np.diff(dual[1], axis=1, prepend=0)
        return rows + columns

    for _ in range(100):
        rest = divergence() - one.phase / weight
        slope = np.stack(
            [np.diff(rest, axis=axis, append=np.take(rest, [-1], axis)) for axis in (0, 1)]
        )
        dual = (dual + 0.248 * slope) / (1 + 0.248 * np.hypot(*slope))
    return with_phase(one, one.phase - weight * divergence())


def with_phase(one: compare.Comparison, phase) -> compare.Comparison:
    """The same with another phase, without constant and ramp."""
    phase = compare.without_ramp(phase)
    return dataclasses.replace(one, phase=phase, correlation=compare.correlation(phase, one.truth))


def print_table(rows: list[dict], say) -> bool:
    """The rows; whether the last is better than all others in both measures."""
    say(f"{'':22} error against the truth   correlation with it")
    for row in rows:
        say(f"{row['method']:22} {row['error']:23.3f} {row['correlation']:21.3f}")
    say("(of plain methods the settings that the truth likes best, in each measure)")
    *others, last = rows
    return all(
        last["error"] < other["error"] and last["correlation"] > other["correlation"]
        for other in others
    )


def with_and_without_prior(folder: Path, say) -> int:
    """Trains and exports a prior, and reconstructs a faint film with it and by plain methods."""
    make_prior(folder, say)
    film = Measured(folder, "faint", faint_arguments(folder / "faint.h5"), say)
    say(f"reconstruct with the prior, {PRIOR_ITERATIONS} iterations, and by plain methods")
    prior, found = film.with_prior(), film.baselines()
    picture = folder / "prior.png"
    plain = max((one for ones in found.values() for one in ones), key=lambda one: one.correlation)
    named = {
        f"{name}, error {one.error:.2f}, correlation {one.correlation:.2f}": one
        for name, one in (
            ("50 iterations", found["poisson likelihood"][0]),
            ("best plain one", plain),
            ("prior", prior),
        )
    }
    title = f"PbTiO3 along [100], {2 * CELL_NM:.2f} nm, {FAINT_DOSE} e/Å²"
    compare.draw_beside(named, picture, title)
    better = print_table(film.table(found, prior), say)
    say(f"picture: {picture}; prior: {folder / 'phase.pt'}; config: {folder / 'faint_prior.toml'}")
    if not better:
        say("the prior should be better than all of them in both measures: something is wrong")
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
