"""Problems at random for the operators, all that the operators make of one, and comparisons."""

import contextlib
import dataclasses

import torch

# of the largest number of a result
TOLERANCES = {"complex128": 1e-12, "complex64": 1e-4}


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


def everything(problem: Problem, functions, shape) -> dict:
    """All outputs and first derivatives of the model's operators, by name."""
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
    buffers = [torch.ones_like(t, memory_format=torch.contiguous_format) for t in leaves]
    each = torch.ones_like(losses, dtype=torch.double)
    errors, fallen = torch.ones_like(each), torch.ones_like(buffers[0].real)
    fallen = fallen.contiguous()
    with torch.no_grad():
        functions.diffraction_loss_accumulate_(
            *(None if t is None else t.detach() for t in inputs),
            problem.patterns,
            **problem.options,
            **{f"grad_{n}": b for n, b in zip(names, buffers, strict=True)},
            losses=each,
            illumination=fallen,
            amplitude_errors=errors,
        )
    results.update({f"accumulated {n}": b - 1 for n, b in zip(names, buffers, strict=True)})
    results["accumulated losses"] = each - 1
    results["accumulated amplitude errors"] = errors - 1
    results["accumulated illumination"] = fallen - 1
    return {name: value.detach().cpu() for name, value in results.items()}


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
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(wanted)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@contextlib.contextmanager
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
