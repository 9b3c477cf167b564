"""Every check that needs a GPU, in one run, and a benchmark: for the day one is at hand.

    .venv/bin/python tests/gpu/run.py [--quick] [--only WORDS] [--json FILE]

Operators on CUDA are compared with the CPU's, with derivatives by differences and with themselves;
then come two ranks on one GPU, the program, compute-sanitizer, and times. A check that fails stops
no other one. Prints one table; the exit code is 0 where nothing failed, 1 where something did, and
77 where there is no GPU or no package. With --device cpu the checks run without a GPU: operators
against plain torch (`ptyle.reference`), gloo instead of NCCL.
"""

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

SKIPPED = 77
HERE = Path(__file__).resolve()
PROGRAM = Path(sys.executable).parent / "ptyle"
LAUNCHERS = ("RANK", "WORLD", "LOCAL_RANK", "OMPI_", "PMI", "SLURM_", "MASTER_", "TORCHELASTIC")
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHERS)}
# of the largest number of a result
TOLERANCES = {"complex128": 1e-12, "complex64": 1e-4}


class Skip(Exception):
    """A check that cannot run here, and why."""


@dataclasses.dataclass
class Session:
    device: str
    quick: bool

    @property
    def cuda(self) -> bool:
        return self.device == "cuda"


CHECKS = []


def check(name):
    """Registers a function of the session that gives a figure, or several by name."""

    def register(function):
        CHECKS.append((name, function))
        return function

    return register


def missing(device: str) -> str | None:
    """What keeps everything from running."""
    for package in ("torch", "ptyle"):
        if importlib.util.find_spec(package) is None:
            return f"{package} is not in {sys.executable}: ./dev build installs it"
    if device == "cpu":
        return None
    import torch

    if not torch.cuda.is_available():
        return "no GPU is here: torch.cuda.is_available() is false (is there a driver?)"
    import ptyle

    try:
        ptyle.load_cuda()
    except RuntimeError as error:
        return str(error)
    return None


# ---- problems ----


@dataclasses.dataclass(frozen=True)
class Case:
    slices: int = 3
    modes: int = 2
    h: int = 8
    w: int = 6
    rows: int = 15
    columns: int = 13
    n: int = 9
    real_object: bool = False
    per_slice: bool = False
    near_field: bool = False
    whole_pixels: bool = False
    mask: str = ""  # "one": for all positions, "each"
    background: str = ""
    weights: bool = False
    counts: str = "uint16"
    likelihood: str = "amplitude"
    origin: tuple = (0, 0)
    strided: bool = False  # columns are far apart in memory
    plain: bool = True  # plain torch can do it too


CASES = {
    "complex object": Case(),
    "real object": Case(real_object=True),
    "one slice": Case(slices=1, likelihood="poisson"),
    "many slices": Case(slices=9, real_object=True, likelihood="gaussian"),
    "propagators per slice": Case(per_slice=True),
    "near field": Case(near_field=True),
    "near field, one slice": Case(slices=1, near_field=True, real_object=True),
    "whole pixels": Case(whole_pixels=True),
    "origin": Case(origin=(2, -1)),
    "mask": Case(mask="one", likelihood="poisson"),
    "mask per position": Case(mask="each"),
    "background": Case(background="one"),
    "background per position": Case(background="each", likelihood="gaussian"),
    "weights": Case(weights=True),
    "strided, complex object": Case(strided=True, mask="each", background="one"),
    "strided, real object": Case(strided=True, real_object=True, per_slice=True),
    "everything": Case(
        slices=4,
        per_slice=True,
        near_field=True,
        mask="each",
        background="each",
        weights=True,
        counts="float32",
        likelihood="poisson",
        origin=(-1, 3),
    ),
    "poisson": Case(likelihood="poisson"),
    "gaussian": Case(likelihood="gaussian"),
    "uint8": Case(counts="uint8"),
    "int16": Case(counts="int16"),
    "int32": Case(counts="int32"),
    "float32": Case(counts="float32"),
    "float64": Case(counts="float64"),
    "odd window": Case(h=9, w=15, rows=21, columns=24),
    "prime window": Case(h=13, w=11, rows=21, columns=17),
    "large prime window": Case(h=67, w=131, rows=80, columns=140, n=3, slices=2),
    "window of one pixel": Case(h=1, w=1),
    "window of one row": Case(h=1, w=7),
    "window larger than the object": Case(rows=3, columns=4),
    "several blocks": Case(h=64, w=64, rows=90, columns=100, n=20),
    "one position": Case(n=1),
    "no positions": Case(n=0, plain=False),
    "no modes": Case(modes=0, plain=False),
    "no slices": Case(slices=0, plain=False),
    "no object": Case(rows=0, columns=5, plain=False),
}
QUICK = (
    "complex object",
    "strided, real object",
    "near field",
    "everything",
    "prime window",
    "no modes",
)


@dataclasses.dataclass
class Problem:
    model: tuple  # object, probe, positions, propagator
    patterns: object
    options: dict

    def to(self, device):
        def move(value):
            return value.to(device) if hasattr(value, "to") else value

        return Problem(
            tuple(move(t) for t in self.model),
            move(self.patterns),
            {name: move(value) for name, value in self.options.items()},
        )


def make(case: Case, dtype: str) -> Problem:
    import torch

    generator = torch.Generator().manual_seed(3)
    complex_type = getattr(torch, dtype)
    real_type = torch.zeros(0, dtype=complex_type).real.dtype

    def randn(*shape, kind=torch.double):
        return torch.randn(*shape, dtype=kind, generator=generator)

    def rand(*shape):
        return torch.rand(*shape, dtype=torch.double, generator=generator)

    def phases(*shape):
        return torch.polar(torch.ones(*shape, dtype=torch.double), randn(*shape)).to(complex_type)

    c = case
    if c.real_object:
        obj = (0.3 * randn(c.slices, c.rows, c.columns)).to(real_type)
    else:
        obj = 1 + 0.3 * randn(c.slices, c.rows, c.columns, kind=torch.complex128)
        obj = obj.to(complex_type)
    probe = randn(c.modes, c.h, c.w, kind=torch.complex128).to(complex_type)
    span = torch.tensor([max(c.rows - c.h, 0) + 6.0, max(c.columns - c.w, 0) + 6.0])
    positions = rand(c.n, 2) * span - 3
    if c.whole_pixels:
        positions = positions.floor()
    elif c.n > 1:
        positions[0] = positions[0].floor()  # a position without a fraction among others
    propagator = None
    if c.slices > 1:
        propagator = phases(c.slices - 1, c.h, c.w) if c.per_slice else phases(c.h, c.w)
    patterns = torch.poisson(torch.full((c.n, c.h, c.w), 4.0), generator=generator)
    extent = {"one": (c.h, c.w), "each": (c.n, c.h, c.w)}
    options = dict(likelihood=c.likelihood, origin=c.origin)
    if c.mask:
        options["mask"] = rand(*extent[c.mask]) < 0.2
    if c.background:
        options["background"] = (0.1 + rand(*extent[c.background])).to(real_type)
    if c.weights:
        options["weights"] = rand(c.n).to(real_type)
    if c.near_field:
        options["detector"] = phases(c.h, c.w)
    problem = Problem(
        (obj, probe, positions, propagator), patterns.to(getattr(torch, c.counts)), options
    )
    if not c.strided:
        return problem

    def strided(value):
        if not isinstance(value, torch.Tensor) or value.dim() < 2:
            return value
        return value.transpose(-1, -2).contiguous().transpose(-1, -2)

    return Problem(
        tuple(strided(t) for t in problem.model),
        strided(problem.patterns),
        {name: strided(value) for name, value in options.items()},
    )


def everything(problem: Problem, functions, shape, accumulate=True) -> dict:
    """All outputs and first derivatives of the model's operators, by name."""
    import torch

    inputs = [None if t is None else t.clone().requires_grad_() for t in problem.model]
    leaves = [t for t in inputs if t is not None]
    everyone = zip(("object", "probe", "positions", "propagator"), inputs, strict=True)
    names = [name for name, tensor in everyone if tensor is not None]
    origin = {"origin": problem.options["origin"]}
    detector = {k: v for k, v in problem.options.items() if k == "detector"}
    waves = functions.exit_waves(*inputs, **origin)
    intensity = functions.diffraction(*inputs, **origin, **detector)
    loss, losses = functions.diffraction_loss(*inputs, problem.patterns, **problem.options)
    results = {"waves": waves, "intensity": intensity, "loss": loss, "losses": losses}
    scalars = {
        "waves": waves.real.square().square().sum(),  # of the phase too
        "intensity": (intensity + 1).log().sum(),
        "loss": loss,
    }
    for of, value in scalars.items():
        gradients = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
        results.update({f"d {of} / d {n}": g for n, g in zip(names, gradients, strict=True)})
    lit = inputs[1].detach().clone().requires_grad_()
    light = functions.illumination(lit, inputs[2].detach(), shape, **origin)
    results["illumination"] = light
    if light.requires_grad:
        (results["d illumination / d probe"],) = torch.autograd.grad(light.square().sum(), lit)
    if accumulate:
        buffers = [torch.ones_like(t, memory_format=torch.contiguous_format) for t in leaves]
        each = torch.ones_like(losses, dtype=torch.double)
        with torch.no_grad():
            functions.diffraction_loss_accumulate_(
                *(None if t is None else t.detach() for t in inputs),
                problem.patterns,
                **problem.options,
                **{f"grad_{n}": b for n, b in zip(names, buffers, strict=True)},
                losses=each,
            )
        results.update({f"accumulated {n}": b - 1 for n, b in zip(names, buffers, strict=True)})
        results["accumulated losses"] = each - 1
    return {name: value.detach().cpu() for name, value in results.items()}


def add_accumulated(expected: dict) -> dict:
    """What the accumulating operator gives, from the others' results."""
    for name in ("object", "probe", "positions", "propagator"):
        if f"d loss / d {name}" in expected:
            expected[f"accumulated {name}"] = expected[f"d loss / d {name}"]
    expected["accumulated losses"] = expected["losses"].double()
    return expected


def largest_error(found: dict, expected: dict, dtype: str) -> float:
    """The largest difference, in units of the result's largest number; too large is an error."""
    worst = 0.0
    if found.keys() != expected.keys():
        raise AssertionError(
            f"results {sorted(found.keys() ^ expected.keys())} are on one side only"
        )
    for name, theirs in expected.items():
        ours = found[name]
        if ours.shape != theirs.shape:
            raise AssertionError(f"{name}: shape {list(ours.shape)}, not {list(theirs.shape)}")
        if ours.numel() == 0:
            continue
        scale = max(theirs.abs().max().item(), 1e-3)
        error = (ours - theirs).abs().max().item() / scale
        # not a number compares as false
        if not error <= TOLERANCES[dtype]:
            raise AssertionError(f"{name}: differs by {error:.1e} of its largest number")
        worst = max(worst, error)
    return worst


@contextlib.contextmanager
def deterministic(wanted: bool):
    import torch

    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(wanted)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@contextlib.contextmanager
def one_thread():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def expected_of(session: Session, case: Case, problem: Problem) -> dict:
    """The CPU operators' results; on the CPU itself plain torch's, else one thread's."""
    import ptyle
    from ptyle import reference

    shape = (case.rows, case.columns)
    if session.cuda:
        return everything(problem, ptyle, shape)
    if not case.plain:
        with one_thread():
            return everything(problem, ptyle, shape)
    functions = argparse.Namespace(
        exit_waves=reference.exit_waves,
        diffraction=reference.diffraction,
        diffraction_loss=reference.diffraction_loss,
        illumination=reference.illumination,
    )
    return add_accumulated(everything(problem, functions, shape, accumulate=False))


def operators(session: Session, dtype: str) -> str:
    import ptyle

    worst, count, failures = 0.0, 0, []
    for name, case in CASES.items():
        if session.quick and name not in QUICK:
            continue
        problem = make(case, dtype)
        try:
            expected = expected_of(session, case, problem)
        except Exception as error:  # noqa: BLE001
            failures.append(f"{name}: nothing to compare with: {error}")
            continue
        there = problem.to(session.device)
        for ordered in (True, False):
            count += 1
            try:
                with deterministic(ordered):
                    found = everything(there, ptyle, (case.rows, case.columns))
                worst = max(worst, largest_error(found, expected, dtype))
            except Exception as error:  # noqa: BLE001
                how = "in order" if ordered else "in no order"
                failures.append(f"{name}, sums {how}: {str(error).splitlines()[0]}")
    if failures:
        raise AssertionError(f"{len(failures)} of {count}: " + "; ".join(failures))
    return f"{count} calls, differences up to {worst:.0e}"


@check("operators in float32")
def operators_single(session):
    return operators(session, "complex64")


@check("operators in float64")
def operators_double(session):
    return operators(session, "complex128")


@check("extract_patches and add_patches")
def patches(session):
    import ptyle
    import torch
    from ptyle import reference

    torch.manual_seed(4)
    worst = 0.0
    for kind in ("float32", "float64", "complex64", "complex128"):
        for slices, rows, columns, h, w, n in (
            (2, 15, 13, 8, 6, 9),
            (1, 3, 4, 7, 9, 5),
            (3, 9, 9, 1, 1, 4),
        ):
            obj = torch.randn(slices, rows, columns, dtype=getattr(torch, kind))
            positions = torch.rand(n, 2, dtype=torch.double) * 14 - 5
            positions[::2].floor_()  # whole pixels, and between them
            given = torch.randn(n, slices, h, w, dtype=obj.dtype)
            results = []
            for functions, device in ((ptyle, session.device), (reference, "cpu")):
                a, p, b = (t.to(device) for t in (obj, positions, given))
                for leaf in (a, b, p):
                    leaf.requires_grad_()
                taken = functions.extract_patches(a, p, (h, w), origin=(1, -2))
                added = functions.add_patches(b, p, (rows, columns), origin=(1, -2))
                g_a, g_p = torch.autograd.grad(taken.abs().square().sum(), (a, p))
                g_b = torch.zeros_like(b)
                if added.requires_grad:  # not where plain torch has added nothing
                    (g_b,) = torch.autograd.grad(added.abs().square().sum(), b)
                names = ("patches", "sums", "d patches", "d sums", "d positions")
                results.append(
                    {
                        k: t.detach().cpu()
                        for k, t in zip(names, (taken, added, g_a, g_b, g_p), strict=True)
                    }
                )
            precision = "complex64" if kind in ("float32", "complex64") else "complex128"
            worst = max(worst, largest_error(*results, precision))
    return f"differences up to {worst:.0e}"


GRIDS = [
    ([0, 9], [0, 8], (3, 3)),
    ([0, 4, 9], [0, 5, 8], (2, 1)),
    ([0, 1, 2, 9], [0, 8], (4, 0)),
    ([0, 3, 3, 9], [0, 0, 2, 8], (5, 6)),
]


def frames_of(rows, columns, halo):
    """Owned and extended slices of every tile."""
    owned, extended = [], []
    for top, bottom in zip(rows[:-1], rows[1:], strict=True):
        for left, right in zip(columns[:-1], columns[1:], strict=True):
            owned.append((slice(top, bottom), slice(left, right)))
            empty = top == bottom or left == right
            margin = (0, 0) if empty else halo
            extended.append(
                (
                    slice(max(top - margin[0], 0), min(bottom + margin[0], rows[-1])),
                    slice(max(left - margin[1], 0), min(right + margin[1], columns[-1])),
                )
            )
    return owned, extended


def exchange_error(grid, owners, rank, group, kind, device) -> float:
    """halo_insert, halo_add and their derivatives against slices of the whole object."""
    import ptyle
    import torch

    rows, columns, halo = grid
    owned, extended = frames_of(*grid)
    mine = [tile for tile, owner in enumerate(owners) if owner == rank]
    generator = torch.Generator().manual_seed(1)
    dtype = getattr(torch, kind)
    obj = torch.randn(2, rows[-1], columns[-1], dtype=dtype, generator=generator)
    margins = [
        torch.randn(2, r.stop - r.start, c.stop - c.start, dtype=dtype, generator=generator)
        for r, c in extended
    ]
    sums = torch.zeros_like(obj)
    for tile, (r, c) in zip(margins, extended, strict=True):
        sums[:, r, c] += tile
    arguments = (rows, columns, halo, owners)
    parts = [obj[:, owned[t][0], owned[t][1]].to(device).requires_grad_() for t in mine]
    wide = ptyle.halo_insert(parts, *arguments, group=group)
    found = [*wide]
    expected = [obj[:, extended[t][0], extended[t][1]] for t in mine]
    found += ptyle.halo_add([margins[t].to(device) for t in mine], *arguments, group=group)
    expected += [sums[:, owned[t][0], owned[t][1]] for t in mine]
    if parts:  # the gradient of sum Re conj(margin) wide is halo_add of the margins
        pairs = zip((margins[t].to(device) for t in mine), wide, strict=True)
        value = sum((margin.conj() * tile).real.sum() for margin, tile in pairs)
        found += torch.autograd.grad(value, parts)
        expected += [sums[:, owned[t][0], owned[t][1]] for t in mine]
    worst = 0.0
    for ours, theirs in zip(found, expected, strict=True):
        if theirs.numel() > 0:
            worst = max(worst, (ours.detach().cpu() - theirs).abs().max().item())
    return worst


@check("halo_insert and halo_add, one rank")
def halo(session):
    worst = 0.0
    for grid in GRIDS:
        tiles = (len(grid[0]) - 1) * (len(grid[1]) - 1)
        for kind in ("float32", "float64", "complex64", "complex128"):
            error = exchange_error(grid, [0] * tiles, 0, "", kind, session.device)
            if not error <= (1e-5 if kind in ("float32", "complex64") else 1e-13):
                raise AssertionError(f"grid {grid}, {kind}: differs by {error:.1e}")
            worst = max(worst, error)
    return f"differences up to {worst:.0e}"


# ---- derivatives, torch's own checks ----


@check("first and second derivatives by differences")
def derivatives(session):
    import ptyle
    import torch

    count = 0
    cases = [
        Case(n=2, h=4, w=3, rows=7, columns=6, slices=2),
        Case(n=2, h=4, w=3, rows=7, columns=6, real_object=True, near_field=True),
        Case(n=2, h=3, w=4, rows=7, columns=6, per_slice=True, likelihood="poisson"),
    ]
    for case in cases[: 1 if session.quick else None]:
        problem = make(case, "complex128").to(session.device)
        positions = torch.tensor([[1.3, 0.4], [2.6, -1.7]], dtype=torch.double)
        model = list(problem.model)
        model[2] = positions.to(session.device)
        inputs = [t.clone().requires_grad_() for t in model]
        extra = {k: v for k, v in problem.options.items() if k in ("origin", "detector")}

        def waves(*tensors):
            return ptyle.exit_waves(*tensors)

        def intensity(*tensors, extra=extra):
            return ptyle.diffraction(*tensors, **extra)

        def loss(*tensors, problem=problem):
            return ptyle.diffraction_loss(*tensors, problem.patterns, **problem.options)[0]

        for function in (waves, intensity, loss):
            with deterministic(True):  # the same bits twice are part of these checks
                torch.autograd.gradcheck(function, inputs, fast_mode=True)
                torch.autograd.gradgradcheck(function, inputs, fast_mode=True)
            count += 2
    return f"{count} checks"


@check("torch.library.opcheck")
def opcheck(session):
    import torch

    problem = make(Case(n=3), "complex128").to(session.device)
    obj, probe, positions, propagator = model = problem.model
    real = make(Case(n=3, real_object=True), "complex64").to(session.device)
    waves = torch.randn(3, *probe.shape, dtype=probe.dtype, device=session.device)
    slopes = torch.randn(3, *probe.shape[1:], dtype=torch.double, device=session.device)
    needs, origin = [True] * 4, [0, 0]
    buffers = dict(
        grad_object=torch.zeros_like(obj),
        grad_probe=torch.zeros_like(probe),
        grad_positions=None,
        grad_propagator=None,
        losses=torch.zeros(3, dtype=torch.double, device=session.device),
    )
    whole = positions.floor()
    tiling = ([0, 15], [0, 13], [2, 2], [0])
    cases = [
        ("exit_waves", model, {}),
        ("exit_waves", real.model, dict(origin=[2, 1])),
        ("exit_waves_backward", (waves, *model), dict(origin=origin, needs=needs)),
        ("diffraction", model, dict(detector=propagator)),
        ("diffraction_backward", (slopes, *model), dict(origin=origin, detector=None, needs=needs)),
        ("diffraction_loss", (*model, problem.patterns), dict(likelihood="poisson")),
        ("diffraction_loss_gradients", (*model, problem.patterns), dict(needs=needs)),
        ("diffraction_loss_accumulate_", (*model, problem.patterns), buffers),
        ("illumination", (probe, positions, [15, 13]), {}),
        ("extract_patches", (obj, whole, [8, 6]), {}),
        ("add_patches", (waves, whole, [15, 13]), {}),
        ("halo_insert", ([obj], *tiling), {}),
        ("halo_add", ([obj], *tiling), {}),
    ]
    failures = []
    for name, arguments, options in cases:
        try:
            torch.library.opcheck(getattr(torch.ops.ptyle, name).default, arguments, options)
        except Exception as error:  # noqa: BLE001
            failures.append(f"{name}: {str(error).splitlines()[0]}")
    if failures:
        raise AssertionError("; ".join(failures))
    return f"{len(cases)} calls"


# ---- the same bits, streams, memory ----


@check("deterministic: the same bits twice")
def same_bits(session):
    import ptyle
    import torch

    count = 0
    names = ("complex object", "several blocks", "everything", "real object")
    for name in names[: 1 if session.quick else None]:
        for dtype in TOLERANCES:
            problem = make(CASES[name], dtype).to(session.device)
            with deterministic(True):
                first, again = (everything(problem, ptyle, (30, 30)) for _ in range(2))
            different = [key for key in first if not torch.equal(first[key], again[key])]
            if different:
                raise AssertionError(f"{name}, {dtype}: {', '.join(different)} differ")
            count += len(first)
    return f"{count} tensors"


@check("another stream, two threads of the caller")
def streams(session):
    """Work areas and plans are shared: calls on two streams at once must not meet."""
    import threading

    import ptyle
    import torch

    if not session.cuda:
        raise Skip("there are no streams on a CPU")
    case = Case(h=64, w=64, rows=90, columns=100, n=40, slices=4)
    problem = make(case, "complex64").to("cuda")
    torch.cuda.synchronize()
    with deterministic(True):
        expected = everything(problem, ptyle, (90, 100))
        failures = []

        def work():
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                for _ in range(5):
                    found = everything(problem, ptyle, (90, 100))
                    failures.extend(k for k in found if not torch.equal(found[k], expected[k]))

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failures:
        raise AssertionError(f"{sorted(set(failures))} differ")
    return "10 calls"


@check("several chunks of positions")
def chunks(session):
    """One call is the sum of two; on a GPU the first is worked on in several chunks."""
    import ptyle  # noqa: F401
    import torch

    big = session.cuda and not session.quick
    case = (
        Case(n=600, h=256, w=256, rows=300, columns=310, modes=2, slices=2) if big else Case(n=80)
    )
    problem = make(case, "complex64").to(session.device)
    obj, probe, positions, propagator = problem.model

    def gradients(part):
        return torch.ops.ptyle.diffraction_loss_gradients(
            obj, probe, positions[part], propagator, problem.patterns[part], needs=[True] * 4
        )

    whole = gradients(slice(None))
    halves = [gradients(slice(0, 37)), gradients(slice(37, None))]
    worst = 0.0
    for k, both in enumerate(whole):
        first, second = (half[k] for half in halves)
        parts = torch.cat([first, second]) if k in (1, 4) else first + second
        error = (both - parts).abs().max().item() / max(1e-6, both.abs().max().item())
        if not error <= 1e-4:
            raise AssertionError(f"output {k} differs by {error:.1e}")
        worst = max(worst, error)
    return f"{case.n} positions, differences up to {worst:.0e}"


@check("waves recomputed where memory is short")
def short_of_memory(session):
    import ptyle
    import torch

    if not session.cuda:
        raise Skip("memory of a GPU")
    case = Case(n=8, h=256, w=256, rows=300, columns=300, modes=4, slices=64)
    problem = make(case, "complex64").to("cuda")
    names = ("object", "probe", "positions", "propagator")

    def buffers():
        made = {f"grad_{n}": torch.zeros_like(t) for n, t in zip(names, problem.model, strict=True)}
        return made | {"losses": torch.zeros(case.n, dtype=torch.double, device="cuda")}

    expected, found = buffers(), buffers()
    ptyle.diffraction_loss_accumulate_(*problem.model, problem.patterns, **expected)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    # 70 waves of 2 MiB are more than half of what is left: see plan_memory in ops/cuda
    left = 220 << 20
    full = torch.empty(
        max(0, torch.cuda.mem_get_info()[0] - left), dtype=torch.uint8, device="cuda"
    )
    try:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        ptyle.diffraction_loss_accumulate_(*problem.model, problem.patterns, **found)
        peak = torch.cuda.max_memory_allocated() - before
    finally:
        del full
    for name, theirs in expected.items():
        error = (found[name] - theirs).abs().max().item() / max(1e-6, theirs.abs().max().item())
        if not error <= 1e-4:
            raise AssertionError(f"{name} differs by {error:.1e}")
    return f"{peak / 2**20:.0f} MiB with {left >> 20} MiB left"


# ---- ranks ----


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def run(arguments, folder=None, environment=None, timeout=600) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [str(a) for a in arguments],
        cwd=folder,
        env=CLEAN | (environment or {}),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if done.returncode != 0:
        lines = (done.stderr + done.stdout).strip().splitlines()
        raise AssertionError(
            f"{Path(arguments[0]).name} ended with {done.returncode}: " + " | ".join(lines[-6:])
        )
    return done


def as_rank(device: str) -> None:
    """One of two ranks: halos between tiles of both. Prints the largest difference."""
    import ptyle  # noqa: F401
    import torch
    import torch.distributed as dist

    options = {}
    if device == "cuda":
        torch.cuda.set_device(0)  # both
        options["device_id"] = torch.device("cuda", 0)
    dist.init_process_group("nccl" if device == "cuda" else "gloo", **options)
    group, rank = dist.group.WORLD.group_name, dist.get_rank()
    worst = 0.0
    for grid in GRIDS[1:]:
        tiles = (len(grid[0]) - 1) * (len(grid[1]) - 1)
        for owners in ([t % 2 for t in range(tiles)], [2 * t // tiles for t in range(tiles)]):
            for kind in ("float32", "complex128"):
                error = exchange_error(grid, owners, rank, group, kind, device)
                if not error <= (1e-5 if kind == "float32" else 1e-13):
                    raise AssertionError(f"grid {grid}, {kind}: rank {rank} differs by {error:.1e}")
                worst = max(worst, error)
    print(f"error {worst}")
    dist.barrier()
    dist.destroy_process_group()


@check("halo_insert and halo_add, two ranks")
def ranks(session):
    port = free_port()
    processes = []
    for rank in range(2):
        environment = dict(
            RANK=str(rank),
            WORLD_SIZE="2",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
            NCCL_MULTI_RANK_GPU_ENABLE="1",
            OMP_NUM_THREADS="1",
        )
        processes.append(
            subprocess.Popen(
                [sys.executable, HERE, "--device", session.device, "--as-rank"],
                env=CLEAN | environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        ends = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for process, (_, errors) in zip(processes, ends, strict=True):
        if process.returncode != 0:
            raise AssertionError(" | ".join(errors.strip().splitlines()[-3:]))
    worst = max(float(output.split("error ")[1].split()[0]) for output, _ in ends)
    return f"{'NCCL' if session.cuda else 'gloo'}, differences up to {worst:.0e}"


# ---- the program ----


def result_of(folder: Path) -> dict:
    import h5py

    with h5py.File(folder / "result.h5") as file:
        names = ("object", "probe", "history/loss", "history/amplitude_error")
        return {name: file[name][()] for name in names}


def compare_results(found: dict, expected: dict) -> str:
    import numpy as np

    worst = 0.0
    for name, theirs in expected.items():
        ours = found[name]
        if ours.shape != theirs.shape:
            raise AssertionError(f"{name}: shape {ours.shape}, not {theirs.shape}")
        error = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
        if not error <= 1e-3:
            raise AssertionError(f"{name}: differs by {error:.1e} of its largest number")
        worst = max(worst, error)
    final = float(found["history/amplitude_error"][-1])
    return f"amplitude error {final:.3f}, differences up to {worst:.0e}"


def film(folder: Path, quick: bool) -> list:
    """Simulates a data set in a folder; gives settings of a short run."""
    if not PROGRAM.exists():
        raise Skip(f"{PROGRAM} is not built: ./dev build makes it")
    size = (
        ["--scan", "6", "7", "--window", "32"]
        if quick
        else ["--scan", "12", "12", "--window", "64"]
    )
    run(
        [PROGRAM, "simulate", "PbTiO3", "-o", "film.h5", *size]
        + ["--slices", "2", "--thickness-nm", "4"],
        folder,
    )
    settings = [f"reconstruct.iterations={4 if quick else 20}", "output.png=false"]
    return [text for setting in settings for text in ("--set", setting)]


def on_device(session: Session) -> list:
    return ["--set", "device=cuda" if session.cuda else "device=cpu"]


@check("the program")
def program(session):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = film(folder, session.quick)
        command = [PROGRAM, "run", "film.toml", *settings, "--set"]
        on_the_cpu = ["output.folder=expected", "--set", "device=cpu"]
        run([*command, *on_the_cpu], folder, {"OMP_NUM_THREADS": "1"})
        begin = time.monotonic()
        run([*command, "output.folder=found", *on_device(session)], folder)
        seconds = time.monotonic() - begin
        same = compare_results(result_of(folder / "found"), result_of(folder / "expected"))
        return f"{seconds:.1f} s, {same}"


@check("the program, two ranks under torchrun")
def program_on_ranks(session):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = [*film(folder, session.quick), "--set", "tiles.grid=[2,2]"]
        command = [PROGRAM, "run", "film.toml", *settings, "--set"]
        run([*command, "output.folder=expected", "--set", "device=cpu"], folder)
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--no-python"]
        torchrun += ["--nproc-per-node=2", f"--master-port={free_port()}"]
        run(
            [*torchrun, *command, "output.folder=found", *on_device(session)],
            folder,
            {"NCCL_MULTI_RANK_GPU_ENABLE": "1", "OMP_NUM_THREADS": "1"},
        )
        return compare_results(result_of(folder / "found"), result_of(folder / "expected"))


# ---- compute-sanitizer ----


def compute_sanitizer() -> Path | None:
    found = shutil.which("compute-sanitizer")
    if found:
        return Path(found)
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations if spec else []:
        for path in sorted(Path(folder).glob("**/compute-sanitizer")):
            if path.is_file() and os.access(path, os.X_OK):
                return path
    return None


def sanitized(session: Session, tool: str) -> str:
    if not session.cuda:
        raise Skip("it looks at GPUs")
    path = compute_sanitizer()
    if path is None:
        raise Skip("there is no compute-sanitizer: pip install nvidia-cuda-sanitizer-api")
    arguments = [path, "--tool", tool, "--error-exitcode", "9", "--print-limit", "5"]
    begin = time.monotonic()
    run(
        [*arguments, sys.executable, HERE, "--quick", "--only", "float32,extract,one rank,bits"],
        # memory from the driver itself, so that its end is known
        environment={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        timeout=1800,
    )
    return f"nothing found, {time.monotonic() - begin:.0f} s"


@check("compute-sanitizer memcheck")
def memcheck(session):
    return sanitized(session, "memcheck")


@check("compute-sanitizer racecheck")
def racecheck(session):
    return sanitized(session, "racecheck")


@check("compute-sanitizer synccheck")
def synccheck(session):
    return sanitized(session, "synccheck")


# ---- times ----


def seconds_of(function, session: Session, repeats: int) -> float:
    """Median time of a call, after two that are not counted."""
    import torch

    times = []
    for k in range(repeats + 2):
        if session.cuda:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            function()
            end.record()
            end.synchronize()
            seconds = begin.elapsed_time(end) / 1e3
        else:
            start = time.perf_counter()
            function()
            seconds = time.perf_counter() - start
        if k >= 2:
            times.append(seconds)
    return statistics.median(times)


def counted_bytes(slices: int) -> float:
    """Per slice, mode and pixel, with moved probes; counted by the emulator: csrc/README.md."""
    return 74 + 176 * (slices - 1) / slices + 219 / slices


def copy_rate(session: Session) -> float:
    """Bytes read and written a second by a large copy."""
    import torch

    size = (1 << 30) if session.cuda else (1 << 26)
    source = torch.ones(size // 4, device=session.device)
    target = torch.empty_like(source)
    return 2 * size / seconds_of(lambda: target.copy_(source), session, 5)


@check("times")
def times(session):
    import torch
    from ptyle import reference

    rate = copy_rate(session)
    figures = {"copy of device memory": f"{rate / 1e9:.0f} GB/s"}
    # window, slices, modes, positions
    sizes = [
        (64, 4, 1, 1024),
        (128, 10, 1, 256),
        (256, 20, 1, 64),
        (256, 4, 4, 64),
        (120, 6, 2, 256),
    ]
    if session.quick or not session.cuda:
        sizes = [(32, 2, 1, 8), (64, 2, 2, 4)]
    for window, slices, modes, n in sizes:
        case = Case(
            slices=slices,
            modes=modes,
            h=window,
            w=window,
            rows=window + 100,
            columns=window + 100,
            n=n,
            whole_pixels=True,
            counts="float32",
        )
        problem = make(case, "complex64").to(session.device)
        arguments = (*problem.model, problem.patterns)
        unknowns = [t.clone().requires_grad_() for t in problem.model[:2]]

        def ours(arguments=arguments):
            torch.ops.ptyle.diffraction_loss_gradients(*arguments, needs=[True, True, False, False])

        def plain(unknowns=unknowns, arguments=arguments):
            with torch.device(session.device):  # it makes tensors of its own
                loss, _ = reference.diffraction_loss(*unknowns, *arguments[2:])
            torch.autograd.grad(loss, unknowns)

        repeats = 3 if session.quick else 10
        unit = n * slices * modes * window * window
        mine = seconds_of(ours, session, repeats)
        name = f"{window} x {window}, {slices} slices, {modes} modes, {n} positions"
        figure = f"{1e9 * mine / unit:.3f} ns per slice, mode, pixel"
        if session.cuda:
            counted = counted_bytes(slices)
            figure += f"; {counted:.0f} B, {100 * counted * unit / mine / rate:.0f} % of the copy"
        try:
            figure += f"; plain torch {seconds_of(plain, session, 3) / mine:.1f} times"
        except torch.OutOfMemoryError:
            figure += "; plain torch runs out of memory"
        figures[name] = figure
    return figures


# ---- the table ----


def perform(name, function, session) -> list[dict]:
    begin = time.monotonic()
    try:
        figure = function(session)
        result = "passed"
    except Skip as reason:
        figure, result = str(reason), "skipped"
    except Exception as error:  # noqa: BLE001
        text = " ".join(str(error).split()) or type(error).__name__
        figure, result = f"{type(error).__name__}: {text}", "FAILED"
        traceback.print_exc()
    seconds = time.monotonic() - begin
    print(f"[{seconds:6.1f} s] {result}: {name}", flush=True)
    figures = figure if isinstance(figure, dict) else {"": figure}
    return [
        dict(name=f"{name}: {row}" if row else name, result=result, figure=text)
        for row, text in figures.items()
    ]


def print_table(rows: list[dict]) -> None:
    width = max((len(row["name"]) for row in rows), default=0)
    print(f"\n{'check':{width}}  result   figure")
    for row in rows:
        print(f"{row['name']:{width}}  {row['result']:7}  {row['figure']}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="few cases, small ones")
    parser.add_argument(
        "--only", metavar="WORDS", help="checks with one of WORD,WORD in their name"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the table as JSON")
    parser.add_argument("--list", action="store_true", help="print the names of the checks")
    parser.add_argument("--as-rank", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    words = arguments.only.split(",") if arguments.only else [""]
    chosen = [c for c in CHECKS if any(word in c[0] for word in words)]
    if arguments.list:
        print("\n".join(name for name, _ in chosen))
        return 0
    if not chosen:
        parser.error(f"no check has {arguments.only!r} in its name")
    reason = missing(arguments.device)
    if reason is not None:
        print(reason)
        return SKIPPED
    if arguments.as_rank:
        as_rank(arguments.device)
        return 0

    import torch

    session = Session(arguments.device, arguments.quick)
    what = (
        torch.cuda.get_device_name() if session.cuda else f"{torch.get_num_threads()} CPU threads"
    )
    print(f"torch {torch.__version__}, {what}", flush=True)
    rows = [row for name, function in chosen for row in perform(name, function, session)]
    print_table(rows)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1) + "\n")
    return 1 if any(row["result"] == "FAILED" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
