"""How fast reconstructions converge, and whether any diverges: `./dev bench convergence`.

    python tests/bench/convergence.py [--cases A B star] [--json FILE] [--picture FILE.png]
    python tests/bench/convergence.py --divergence [--minutes M] [--seed S] [--json FILE]

Without --divergence: data error, object error and seconds on one core after 10, 20, 50 and 100
iterations, of multislice cases with a known truth (multislice_cases.py), the measured Siemens star
($PTYLE_DATA or ../shared/data), a thick film with the focus inside, few positions, and few
electrons, beside what was recorded of other packages. Their seconds are the recorded multiple of
torch's bare transforms, which are timed here.

With it: many small problems, drawn at random so that every pair of factors comes together early,
mixed with the cases; a row for every run that diverges, and a table by factor. All other keys of
the config have their defaults.

Timings are ratios of what ran beside one another on this machine.
"""

import argparse
import dataclasses
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import multislice_cases as multislice  # noqa: E402

PROGRAM = Path(sys.executable).parent / "ptyle"
ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("PTYLE_DATA") or ROOT.parent / "shared" / "data")
SWEEPS = (10, 20, 50, 100)

# Recorded on 28 November with pty-chi 2.2, PtyRAD 1.0, quantem 0.1.10 and py4DSTEM 0.14.18 on the
# same kind of case (one or two step sizes each, batches of 32 positions, E: 8): the data error
# after so many sweeps. "unnamed" is the best of what else was run, somewhere in 11 to 19 sweeps.
RECORDED = {
    "A": {
        "quantem Adam": {10: 0.0069, 20: 0.0006, 50: 0.0004, 100: 0.0042},
        "pty-chi autodiff": {10: 0.0116, 20: 0.0017, 50: 0.0031, 100: 0.0064},
        "pty-chi LSQML": {10: 0.0197, 20: 0.0115, 50: 0.0023, 100: 0.0007},
    },
    "B": {
        "quantem Adam": {10: 0.0247, 20: 0.0257, 50: 0.0233, 100: 0.0244},
        "quantem Adam 3e-3": {10: 0.0595, 20: 0.0309, 50: 0.0129},
        "pty-chi autodiff": {10: 0.0341, 20: 0.0343, 50: 0.0377, 100: 0.0389},
        "pty-chi LSQML": {10: 0.0586, 20: 0.0386, 50: 0.0225, 100: 0.0144},
        "pty-chi rPIE": {10: 0.0462, 20: 0.0332, 50: 0.0226, 100: 0.0164},
        "PtyRAD Adam": {10: 0.0633, 20: 0.0573, 50: 0.0544, 100: 0.0506},
        "py4DSTEM": {10: 0.0525, 20: 0.0372, 50: 0.0239, 100: 0.0170},
        "quantem analytic": {10: 0.0502, 20: 0.0367, 50: 0.0248, 100: 0.0180},
    },
    "C": {
        "quantem Adam": {10: 0.0527, 20: 0.0487, 50: 0.0344},
        "pty-chi autodiff": {10: 0.0562, 20: 0.0665, 50: 0.0406},
        "pty-chi LSQML": {10: 0.0850, 20: 0.0678, 50: 0.0517},
        "pty-chi rPIE": {10: 0.0743, 20: 0.0625, 50: 0.0430},
        "PtyRAD Adam": {10: 0.0621, 20: 0.0568, 50: 0.0536},
        "py4DSTEM": {10: 0.0706, 20: 0.0609, 50: 0.0508},
        "quantem analytic": {10: 0.0753, 20: 0.0634, 50: 0.0487},
    },
    "D": {
        "quantem Adam": {10: 0.0225, 20: 0.0226},
        "pty-chi autodiff": {10: 0.0253, 20: 0.0255},
        "unnamed": {11: 0.017},
    },
    "E": {
        "quantem Adam": {10: 0.0356, 20: 0.0247, 50: 0.0179},
        "pty-chi rPIE": {10: 0.0503, 20: 0.0423},
        "PtyRAD Adam": {10: 0.0303, 20: 0.0287},
        "pty-chi autodiff": {10: 0.0512, 20: 0.0389},
        "unnamed": {11: 0.0345},
    },
}
# Recorded with them, one thread: microseconds per position and sweep, and those of torch's bare
# transforms of complex numbers in single precision, 4 slices - 2 for each mode, in the same runs.
MICROSECONDS = {
    "PtyRAD Adam": dict(A=311, B=855, C=4755, D=2034, E=8566),
    "quantem Adam": dict(A=301, B=1052, C=5687, D=2103, E=8884),
    "quantem Adam 3e-3": dict(A=301, B=1052, C=5687, D=2103, E=8884),
    "quantem analytic": dict(A=333, B=934, C=4681, D=2300, E=8019),
    "pty-chi autodiff": dict(A=636, B=1168, C=5898, D=2513, E=12435),
    "pty-chi LSQML": dict(A=704, B=1700, C=8841, D=2990, E=16039),
    "pty-chi rPIE": dict(A=697, B=1291, C=5621, D=3077, E=12306),
    "py4DSTEM": dict(A=371, B=1235, C=8846, D=3980, E=15470),
}
BARE_MICROSECONDS = dict(A=24, B=160, C=971, D=637, E=1284)
# Whose they are is not recorded: they take as long as those of the fastest.
MICROSECONDS["unnamed"] = {
    case: min(times[case] for times in MICROSECONDS.values()) for case in BARE_MICROSECONDS
}

# ---- one run of the program ----------------------------------------------------------------------


@dataclass
class Outcome:
    """Of a run that is over, however it ended."""

    code: int
    said: str
    folder: Path

    def metrics(self) -> list[dict]:
        path = self.folder / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def read(self, name: str) -> np.ndarray | None:
        path = self.folder / "result.h5"
        if not path.exists():
            return None
        with h5py.File(path) as file:
            return file[name][()]


def run(program: Path, config: Path, settings: dict, *options: str) -> Outcome:
    """`ptyle run CONFIG` on one core; settings as {"reconstruct.iterations": 20}."""
    sets = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    done = subprocess.run(
        [program, "run", config, *(text for one in sets for text in ("--set", one)), *options],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    folder = config.with_suffix("")
    return Outcome(done.returncode, done.stderr, folder)


# ---- convergence ---------------------------------------------------------------------------------


@dataclass
class Task:
    """A config and what its result is measured by."""

    name: str
    config: Path
    model: multislice.Model
    intensities: np.ndarray  # [positions, n, n] as measured, zero frequency at [0, 0]
    case: multislice.Case | None = None
    truth: np.ndarray | None = None  # [slices, H, W]
    expected: np.ndarray | None = None  # the intensities without noise, where they have any
    settings: dict = dataclasses.field(default_factory=dict)

    def scale(self) -> float:
        """The data error is about the root of this times the error that the program tells."""
        return self.intensities.size / self.intensities.sum(dtype=np.float64)

    def errors(self, outcome: Outcome) -> dict:
        obj, probe = outcome.read("object"), outcome.read("probe")
        corners = outcome.read("positions")
        row = dict(data_error=self.model.data_error(obj, probe, corners, self.intensities))
        if self.expected is not None:
            row["expected_error"] = self.model.data_error(obj, probe, corners, self.expected)
        if self.truth is not None:
            error = multislice.object_error(obj, self.truth, self.case)
            row |= dict(projection_error=error.projection, slices_error=error.slices)
        return row


def simulated_task(folder: Path, name: str, case: multislice.Case) -> Task:
    problem = multislice.make(case)
    config = multislice.write(problem, folder, name, power="keep")
    expected = problem.expected if case.noise else None
    return Task(name, config, problem.model, problem.patterns, case, problem.truth, expected)


def film_task(folder: Path, program: Path) -> Task:
    """A film of lead titanate of 40 nm, in focus in its middle; its phases wrap, so that there is
    no object error."""
    command = [program, "simulate", "PbTiO3", "-o", folder / "film.h5", "--thickness-nm", "40"]
    subprocess.run(
        [*command, "--slices", "20", "--defocus-nm", "20"], check=True, capture_output=True
    )
    with h5py.File(folder / "film.h5") as file:
        patterns = np.fft.ifftshift(file["data"][()], axes=(1, 2))
        wavelength, pixel = file.attrs["wavelength_A"], 10 * file.attrs["object_pixel_nm"]
    propagator = multislice.fresnel(patterns.shape[-1], 20.0, wavelength, pixel)
    settings = {"reconstruct.batches": "auto", "output.png": False}
    model = multislice.Model(propagator)
    return Task("film", folder / "film.toml", model, patterns, settings=settings)


def star_task(folder: Path, modes: int) -> Task | None:
    path = DATA / "siemens-star" / "siemens-star-small.h5"
    if not path.exists():
        return None
    name = "star" if modes == 1 else f"star{modes}"
    with h5py.File(path) as file:
        patterns = np.fft.ifftshift(file["data"][()], axes=(1, 2))
    config = folder / f"{name}.toml"
    config.write_text(
        f'[data]\nfile = "{path}"\n[probe]\nfile = "{path}"\nmodes = {modes}\n'
        "[output]\npng = false\ncheckpoint_every = 0\n"
    )
    return Task(name, config, multislice.Model(None), patterns)


FEW_POSITIONS = multislice.Case(window=64, slices=2, grid=5, step=6, seed=1)
FEW_ELECTRONS = dataclasses.replace(
    multislice.CASES["B"], counts=multislice.counts_per_pattern(1e3, step=4), noise=True
)
TASKS: dict[str, Callable[[Path, Path], Task | None]] = {
    **{
        name: lambda folder, _, name=name, case=case: simulated_task(folder, name, case)
        for name, case in multislice.CASES.items()
    },
    "star": lambda folder, _: star_task(folder, 1),
    "star3": lambda folder, _: star_task(folder, 3),
    "film": film_task,
    "few": lambda folder, _: simulated_task(folder, "few", FEW_POSITIONS),
    "dose": lambda folder, _: simulated_task(folder, "dose", FEW_ELECTRONS),
}
WORDS = {
    "star": "Siemens star, measured, 1 mode",
    "star3": "Siemens star, measured, 3 modes",
    "film": "PbTiO3, 40 nm in 20 slices, focus in the middle, 1e5 electrons per square angstrom",
    "few": "25 positions, 2 slices",
    "dose": "B at 1e3 electrons per square angstrom",
}


def bare_microseconds(case: multislice.Case, seconds: float = 1.0) -> float:
    """torch's transforms alone on one thread: 4 slices - 2 for each mode, per position.

    Into memory that is there already: with tensors of their own they take up to four times as long.
    """
    import torch

    torch.set_num_threads(1)
    positions = 8 if case.window >= 256 else 32
    size = (positions * case.modes, case.window, case.window)
    waves, to = torch.randn(size, dtype=torch.complex64), torch.empty(size, dtype=torch.complex64)
    torch.fft.fft2(waves, out=to)
    turns, begin = 0, time.perf_counter()
    while (passed := time.perf_counter() - begin) < seconds:
        torch.fft.fft2(waves, out=to)
        torch.fft.ifft2(to, out=waves)
        turns += 1
    return passed / (2 * turns) * (4 * case.slices - 2) / positions * 1e6


def best_recorded(name: str, sweeps: int) -> tuple[str, int, float] | None:
    """Package, sweeps, data error: the least recorded within so many sweeps."""
    found = [
        (error, at, package)
        for package, errors in RECORDED.get(name, {}).items()
        for at, error in errors.items()
        if at <= sweeps
    ]
    return (min(found)[2], min(found)[1], min(found)[0]) if found else None


def iterations_to(task: Task, program: Path, settings: dict, curve: list[float], target: float):
    """The first iteration whose result has at most the target's data error, None where none has.

    `curve` is the data error as it was during each iteration: the result's is less.
    """
    below = [k for k, error in enumerate(curve) if error <= target]
    last = below[0] + 1 if below else len(curve)
    for iterations in range(max(1, last - 1), last + 1):
        outcome = run(
            program, task.config, settings | {"reconstruct.iterations": iterations}, "--overwrite"
        )
        if outcome.code == 0 and task.errors(outcome)["data_error"] <= target:
            return iterations
    return None


def converge(task: Task, program: Path, settings: dict, sweeps: list[int]) -> dict:
    """Runs that go on from one another, and what their results are like."""
    settings = task.settings | settings
    best = best_recorded(task.name, 100)
    case = multislice.CASES[task.name] if best else None
    bare = bare_microseconds(case) if best else 0.0  # before and behind: other work comes and goes
    rows = []
    for count, number in enumerate(sweeps):
        outcome = run(
            program,
            task.config,
            settings | {"reconstruct.iterations": number},
            "--overwrite" if count == 0 else "--resume",
        )
        metrics = outcome.metrics()
        if outcome.code != 0:
            rows.append(dict(sweeps=number, failed=(outcome.said.splitlines() or ["?"])[-1]))
            break
        row = dict(sweeps=number, seconds=sum(line["seconds"] for line in metrics))
        rows.append(
            row | dict(amplitude_error=metrics[-1]["amplitude_error"]) | task.errors(outcome)
        )
    if not metrics:
        return dict(rows=rows, positions=len(task.intensities))
    errors = [line["amplitude_error"] for line in metrics]
    curve = [float(np.sqrt(task.scale() * error)) for error in errors]
    seconds = [line["seconds"] for line in metrics]
    report = dict(rows=rows, amplitude_error=errors, error_during=curve, seconds=seconds)
    report["positions"] = len(task.intensities)

    if best is None:
        return report
    package, at, target = best
    bare = 0.5 * (bare + bare_microseconds(case))
    factor = MICROSECONDS[package][task.name] / BARE_MICROSECONDS[task.name]
    theirs = factor * bare * 1e-6 * report["positions"] * at
    iterations = iterations_to(task, program, settings, curve, target)
    ours = sum(seconds[:iterations]) if iterations else None
    report["others"] = dict(
        package=package,
        sweeps=at,
        data_error=target,
        bare_microseconds=bare,
        seconds=theirs,
        our_iterations=iterations,
        our_seconds=ours,
        ratio=ours / theirs if ours else None,
    )
    return report


def print_convergence(name: str, task: Task, report: dict) -> None:
    case = task.case
    about = f"window {case.window}, {case.slices} slices, {case.modes} modes" if case else ""
    print(f"{name}: {WORDS.get(name, about)}, {report['positions']} positions")
    print("  sweeps   data error   object: sum, slices   amplitude error   seconds")
    for row in report["rows"]:
        if "failed" in row:
            print(f"  {row['sweeps']:6}   FAILED: {row['failed']}")
            continue
        obj = "            -       "
        if "projection_error" in row:
            obj = f"    {row['projection_error']:8.4f} {row['slices_error']:7.4f}"
        text = f"  {row['sweeps']:6}   {row['data_error']:10.5f}   {obj}   "
        text += f"{row['amplitude_error']:15.5g}   {row['seconds']:7.2f}"
        if "expected_error" in row:
            text += f"   ({row['expected_error']:.5f} off what is expected without noise)"
        print(text)
    if "others" not in report:
        return
    for sweeps in (20, 100):
        package, at, error = best_recorded(name, sweeps)
        print(f"  best recorded of others within {sweeps:3}: {error:.4f} ({package}, {at} sweeps)")
    others = report["others"]
    reached = "not reached"
    if others["our_iterations"]:
        reached = f"after {others['our_iterations']} iterations, {others['our_seconds']:.3f} s"
    print(
        f"  {others['data_error']:.4f} {reached}; theirs {others['seconds']:.2f} s "
        f"(bare transforms {others['bare_microseconds']:.0f} us)"
        + (f"; ratio {others['ratio']:.4f}" if others["ratio"] else "")
    )


def draw(reports: dict, path: Path) -> None:
    """The data error over iterations, beside what is recorded of others."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(4, len(reports))
    rows = -(-len(reports) // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(4.2 * columns, 3.4 * rows), squeeze=False, layout="constrained"
    )
    packages = sorted({package for errors in RECORDED.values() for package in errors})
    colours = {package: f"C{1 + k}" for k, package in enumerate(packages)}
    named = {}
    for axis, (name, report) in itertools.zip_longest(
        axes.flat, reports.items(), fillvalue=(None, None)
    ):
        if name is None:
            axis.axis("off")
            continue
        curve = report["error_during"]
        (named["ptyle, during an iteration"],) = axis.plot(
            range(1, len(curve) + 1), curve, color="black", linewidth=1
        )
        done = [row for row in report["rows"] if "failed" not in row]
        named["ptyle, the result"] = axis.scatter(
            [row["sweeps"] for row in done], [row["data_error"] for row in done], 22, "black"
        )
        for package, errors in RECORDED.get(name, {}).items():
            named[package] = axis.scatter(
                list(errors), list(errors.values()), 26, colours[package], marker="x"
            )
        axis.set(
            xscale="log", yscale="log", title=textwrap.fill(WORDS.get(name, f"case {name}"), 45)
        )
        axis.set(xlabel="sweeps", ylabel="data error")
        axis.title.set_fontsize("small")
        axis.grid(alpha=0.3, which="both")
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=6, fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def convergence(options: argparse.Namespace, settings: dict) -> dict:
    reports = {}
    for name in options.cases or TASKS:
        with tempfile.TemporaryDirectory() as folder:
            task = TASKS[name](Path(folder), options.program)
            if task is None:
                print(f"{name}: skipped, {DATA} does not have it (set PTYLE_DATA)")
                continue
            reports[name] = converge(task, options.program, settings, options.sweeps)
            print_convergence(name, task, reports[name])
            sys.stdout.flush()
    if options.picture and reports:
        draw(reports, options.picture)
    return dict(settings=settings, cases=reports)


# ---- divergence ----------------------------------------------------------------------------------

ITERATIONS = 20
RISE = 1.1  # of the last iteration's error above the first's
LARGEST = 10.0  # of |object|

FACTORS = {
    "problem": ["small", *multislice.CASES],
    "slices": [1, 2, 4, 8, 20],
    "modes": [1, 2, 3, 4],
    "peak": [0.3, 1.0, 2.0],
    "guess": [80.0, 120.0],
    "noise": ["none", "1e3 e/A^2", "10 e/pattern"],
    "geometry": ["far", "near"],
    "batches": ["auto", "8 positions", "32 positions", "one batch"],
    "likelihood": ["amplitude", "poisson", "gaussian"],
    "refine": ["both", "object", "probe"],
}
# What is fixed where the problem is one of the cases.
OF_THE_CASE = ("slices", "modes", "peak", "guess")
SMALL = dict(window=32, grid=10, step=4)


@dataclass
class Trial:
    """One run: a level of each factor, and the seed of the problem's atoms and noise."""

    factors: dict
    seed: int

    def case(self) -> multislice.Case:
        factors = self.factors
        if factors["problem"] == "small":
            chosen = {key: factors[key] for key in OF_THE_CASE}
            case = multislice.Case(**SMALL, **chosen, seed=self.seed)
        else:
            case = multislice.CASES[factors["problem"]]
        counts = {
            "none": case.counts,
            "1e3 e/A^2": multislice.counts_per_pattern(1e3, case.step),
            "10 e/pattern": 10.0,
        }[factors["noise"]]
        return dataclasses.replace(
            case,
            counts=counts,
            noise=factors["noise"] != "none",
            near=factors["geometry"] == "near",
        )

    def settings(self) -> dict:
        positions = self.case().grid ** 2
        batches = {
            "auto": "auto",
            "8 positions": -(-positions // 8),
            "32 positions": -(-positions // 32),
            "one batch": 1,
        }[self.factors["batches"]]
        refine = self.factors["refine"]
        return {
            "reconstruct.iterations": ITERATIONS,
            "reconstruct.batches": batches,
            "reconstruct.likelihood": self.factors["likelihood"],
            "reconstruct.refine": ["object", "probe"] if refine == "both" else [refine],
        }


def draw_factors(generator: random.Random, problem: str) -> dict:
    factors = {name: generator.choice(levels) for name, levels in FACTORS.items()}
    factors["problem"] = problem
    if problem != "small":
        case = multislice.CASES[problem]
        factors |= {key: getattr(case, key) for key in OF_THE_CASE}
    return factors


def pairs_of(factors: dict) -> set:
    return set(itertools.combinations(factors.items(), 2))


def trials(seed: int) -> Iterator[Trial]:
    """Without end. Small problems: each is the best of 40 at random by how many pairs of levels it
    has that none had before, so that about the first 35 have them all. Every sixth is a case."""
    generator = random.Random(seed)
    seen: set = set()
    for number in itertools.count():
        if number % 6 == 5:
            problems = list(multislice.CASES)
            candidates = [draw_factors(generator, generator.choice(problems)) for _ in range(40)]
        else:
            candidates = [draw_factors(generator, "small") for _ in range(40)]
        chosen = max(candidates, key=lambda factors: len(pairs_of(factors) - seen))
        seen |= pairs_of(chosen)
        yield Trial(chosen, generator.randrange(2**31))


def judge(trial: Trial, outcome: Outcome) -> dict:
    """A row: the trial's factors, how the run went, and why it counts as diverged.

    A likelihood other than amplitude may fit noise, or what it weighs more, at the cost of the
    amplitude error: that one may rise while the loss, which is what is minimised, falls. Such a run
    is told apart (traded).
    """
    lines = outcome.metrics()
    errors = np.array([line["amplitude_error"] for line in lines], dtype=float)
    losses = np.array([line["loss"] for line in lines], dtype=float)
    obj = outcome.read("object")
    largest = float(np.abs(obj).max()) if obj is not None else float("nan")
    first, last = (errors[0], errors[-1]) if len(errors) else (np.nan, np.nan)
    loss = losses[-1] / losses[0] if len(losses) else np.nan
    taken_back = lines[-1].get("taken_back") if lines else None
    if taken_back is None:  # the log tells the first time alone
        taken_back = outcome.said.count("taken back")
    reasons, traded = [], []
    if outcome.code != 0:
        reasons.append(f"exit code {outcome.code}")
    if not np.isfinite(errors).all() or len(errors) == 0:
        reasons.append("error not finite")
    elif last > RISE * first:
        rise = f"error {last / first:.3g} times the first, loss {loss:.3g} times"
        (traded if loss < 1 else reasons).append(rise)
    if loss > RISE and last <= RISE * first:
        reasons.append(f"loss {loss:.3g} times the first")
    if not largest <= LARGEST and obj is not None:
        reasons.append(f"largest |object| {largest:.3g}")
    return dict(
        trial.factors,
        seed=trial.seed,
        code=outcome.code,
        iterations=len(errors),
        first=float(first),
        last=float(last),
        last_over_first=float(last / first),
        worst_over_first=float(np.max(errors) / first) if len(errors) else float("nan"),
        loss_last_over_first=float(loss),
        largest=largest,
        taken_back=taken_back,
        reasons=reasons,
        traded=traded,
        said=outcome.said.splitlines()[-1:] if outcome.code else [],
    )


def why(row: dict) -> str:
    kind = "diverged" if row["reasons"] else "loss fell"
    return f"{kind}, {'; '.join(row['reasons'] + row['traded'] + row['said'])}"


def words(row: dict) -> str:
    return ", ".join(f"{name} {row[name]}" for name in FACTORS)


def keep(folder: Path, config: Path, settings: dict, row: dict, number: int) -> None:
    """The config as it was run, its data, and one line of what happened, for whoever mends it."""
    target = folder / f"{number:04}"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for path in (config, config.with_suffix(".h5")):
        shutil.copy(path, target)
    text = config.read_text()
    lines = "".join(
        f"{key.removeprefix('reconstruct.')} = {json.dumps(value)}\n"
        for key, value in settings.items()
    )
    (target / config.name).write_text(text.replace("[reconstruct]\n", f"[reconstruct]\n{lines}"))
    (target / "README").write_text(f"{why(row)}: {words(row)}\n")


def attempt(program: Path, trial: Trial, extra: dict, kept: Path | None, number: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        config = multislice.write(multislice.make(trial.case()), Path(folder), "trial")
        settings = trial.settings() | extra
        row = judge(trial, run(program, config, settings))
        if kept and (row["reasons"] or row["traded"]):
            keep(kept, config, settings, row, number)
    return row


def summary(rows: list[dict]) -> dict:
    """{factor: {level: numbers}}"""
    table = {}
    for name in FACTORS:
        table[name] = {}
        for level in FACTORS[name]:
            here = [row for row in rows if row[name] == level]
            if not here:
                continue
            rises = [r for row in here if np.isfinite(r := row["worst_over_first"])]
            table[name][str(level)] = dict(
                runs=len(here),
                diverged=sum(bool(row["reasons"]) for row in here),
                traded=sum(bool(row["traded"]) for row in here),
                worst_over_first=max(rises, default=float("nan")),
                taken_back=sum(row["taken_back"] > 0 for row in here),
            )
    return table


def print_summary(rows: list[dict]) -> None:
    print("factor       level          runs  diverged  loss fell  worst / first  taken back (runs)")
    for name, levels in summary(rows).items():
        for level, numbers in levels.items():
            print(
                f"{name:12} {level:14} {numbers['runs']:4} {numbers['diverged']:9} "
                f"{numbers['traded']:11} {numbers['worst_over_first']:14.3f} "
                f"{numbers['taken_back']:11}"
            )
    failed = sum(bool(row["reasons"]) for row in rows)
    print(f"{len(rows)} runs, {failed} diverged")


def divergence(options: argparse.Namespace, settings: dict) -> dict:
    end = time.monotonic() + 60 * options.minutes
    rows: list[dict] = []
    print("a row for every run that diverges, or ends with more error and less loss: its factors")
    for number, trial in enumerate(trials(options.seed)):
        if time.monotonic() > end or number == options.runs:
            break
        row = attempt(options.program, trial, settings, options.keep, number)
        rows.append(row)
        if row["reasons"] or row["traded"]:
            print(f"{number:4}  {why(row)}: {words(row)}", flush=True)
    print_summary(rows)
    return dict(seed=options.seed, settings=settings, summary=summary(rows), rows=rows)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--program", type=Path, default=PROGRAM)
    parser.add_argument("--cases", nargs="+", choices=TASKS)
    parser.add_argument("--sweeps", nargs="+", type=int, default=list(SWEEPS))
    parser.add_argument("--optimizer")
    parser.add_argument("--batches", help="a number, or auto")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path, metavar="FILE.png")
    parser.add_argument("--divergence", action="store_true")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--runs", type=int, help="at most so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="of what diverges")
    options = parser.parse_args()
    if not options.program.exists():
        parser.error(
            f"{options.program} is not built: ./dev build makes it (--program names another)"
        )
    settings: dict = {}
    if options.optimizer:
        settings["reconstruct.optimizer"] = options.optimizer
    if options.batches:
        number = options.batches.isdigit()
        settings["reconstruct.batches"] = int(options.batches) if number else options.batches
    for text in options.set:
        key, _, value = text.partition("=")
        try:
            settings[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            settings[key] = value
    measure = divergence if options.divergence else convergence
    report = measure(options, settings)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
