"""What a stranger passes to the operators: other Python types, wide counts, slow sizes.

Each is taken where it can be, else refused in one sentence that names operator, argument, rule and
value.
"""

import subprocess
import sys
import warnings

import numpy as np
import ptyle
import pytest
import torch
from conftest import make_problem

OBJECT, PROBE, POSITIONS, PROPAGATOR, PATTERNS = make_problem()
MODEL = dict(object=OBJECT, probe=PROBE, positions=POSITIONS, propagator=PROPAGATOR)
LOSS = dict(MODEL, patterns=PATTERNS)
TILES = dict(row_cuts=[0, 4, 9], column_cuts=[0, 8], halo=(1, 1), owners=[0, 0])
OWNED = [torch.zeros(1, 4, 8), torch.zeros(1, 5, 8)]
CALLS = {
    "exit_waves": MODEL,
    "diffraction": dict(MODEL, detector=torch.ones_like(PROBE[0])),
    "diffraction_loss": dict(
        LOSS,
        weights=torch.ones(len(PATTERNS), dtype=torch.double),
        mask=torch.zeros(8, 6, dtype=torch.bool),
        background=torch.zeros(8, 6, dtype=torch.double),
        detector=torch.ones_like(PROBE[0]),
    ),
    "diffraction_loss_accumulate_": dict(
        LOSS,
        losses=torch.zeros(len(PATTERNS), dtype=torch.double),
        grad_object=torch.zeros_like(OBJECT),
        grad_probe=torch.zeros_like(PROBE),
        grad_positions=torch.zeros_like(POSITIONS),
        grad_propagator=torch.zeros_like(PROPAGATOR),
        illumination=torch.zeros_like(OBJECT.real, memory_format=torch.contiguous_format),
        amplitude_errors=torch.zeros(len(PATTERNS), dtype=torch.double),
    ),
    "extract_patches": dict(object=OBJECT, positions=POSITIONS.floor(), window=(8, 6)),
    "add_patches": dict(
        patches=torch.zeros(5, 1, 8, 6), positions=POSITIONS.floor(), shape=(15, 13)
    ),
    "window_stack": dict(patches=torch.zeros(5, 1, 8, 6)),
    "illumination": dict(probe=PROBE, positions=POSITIONS, shape=(15, 13)),
    "halo_insert": dict(owned=OWNED, **TILES),
    "halo_add": dict(
        extended=[torch.zeros(1, 5, 8), torch.zeros(1, 6, 8)],
        **TILES,
    ),
    "cpu_kernels": dict(height=8, width=6),
    "good_size": dict(size=63),
}
TENSORS = [(f, a) for f, call in CALLS.items() for a, v in call.items() if torch.is_tensor(v)]
INTEGERS = [
    *((f, "origin") for f, call in CALLS.items() if "positions" in call),
    *((f, a) for f, call in CALLS.items() for a in ("window", "shape") if a in call),
    *((f, "derivative") for f in ("extract_patches", "add_patches")),
    *((f, a) for f in ("halo_insert", "halo_add") for a in TILES),
    *(("cpu_kernels", "height"), ("cpu_kernels", "width"), ("good_size", "size")),
]


def test_all_calls_are_right_as_they_are_and_none_is_missing():
    builders = {
        n for n in ptyle.__all__ if getattr(getattr(ptyle, n), "__module__", "") == "ptyle.builders"
    }
    others = {"ops", "TorchOps", "reference", "version", "load_cuda"}
    assert set(CALLS) == set(ptyle.__all__) - builders - others
    for function, call in CALLS.items():
        getattr(ptyle, function)(**call)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda t: t.numpy(), "numpy.ndarray: torch.from_numpy makes one of it"),
        (lambda t: t.tolist(), "list: torch.tensor makes one of it"),
        (lambda t: 3, "int"),
        (lambda t: "no", "str"),
    ],
    ids=["array", "list", "int", "str"],
)
@pytest.mark.parametrize(("function", "argument"), TENSORS)
def test_what_is_no_tensor_is_named(function, argument, wrong, words):
    call = dict(CALLS[function])
    call[argument] = wrong(call[argument])
    with pytest.raises(TypeError) as raised:
        getattr(ptyle, function)(**call)
    text = str(raised.value)
    assert text.startswith(f"ptyle::{function}: {argument} must be a torch.Tensor")
    assert text.endswith(f", got {words}")


@pytest.mark.parametrize("wrong", [0.5, "ab", (0.5, 0), [None, 1], 1.0, np.float32(1)])
@pytest.mark.parametrize(("function", "argument"), INTEGERS)
def test_what_are_no_integers_is_named(function, argument, wrong):
    with pytest.raises(TypeError) as raised:
        getattr(ptyle, function)(**dict(CALLS[function], **{argument: wrong}))
    text = str(raised.value)
    assert text.startswith(f"ptyle::{function}: {argument} must be ")
    assert "integer" in text
    assert text.endswith(f", got {wrong!r}")


@pytest.mark.parametrize("function", ["halo_insert", "halo_add"])
def test_tiles_are_a_list_of_tensors(function):
    argument = "owned" if function == "halo_insert" else "extended"
    call = CALLS[function]
    for wrong in (torch.zeros(2, 4, 8), np.zeros((2, 4, 8)), 3):
        with pytest.raises(TypeError, match=f"{argument} must be a list of tensors, one for each"):
            getattr(ptyle, function)(**dict(call, **{argument: wrong}))
    arrays = [t.numpy() for t in call[argument]]
    with pytest.raises(TypeError, match=rf"{argument}\[0\] must be a torch.Tensor, got numpy"):
        getattr(ptyle, function)(**dict(call, **{argument: arrays}))
    with pytest.raises(TypeError, match="group must be the name of a process group .* got int"):
        getattr(ptyle, function)(**call, group=3)


def test_a_value_outside_is_a_number():
    for wrong in ("ab", None, [1.0], 1j):
        with pytest.raises(TypeError, match="ptyle::extract_patches: outside must be a number"):
            ptyle.extract_patches(**CALLS["extract_patches"], outside=wrong)
    with pytest.raises(ValueError, match=r"patches must have shape .* got \[5, 8, 6\]"):
        ptyle.window_stack(torch.zeros(5, 8, 6))


def test_a_likelihood_is_a_name():
    with pytest.raises(TypeError, match="likelihood must be the name of a likelihood, got int"):
        ptyle.diffraction_loss(**LOSS, likelihood=1)


def test_integers_of_other_kinds_are_taken():
    plain = ptyle.exit_waves(**MODEL, origin=(1, -2))
    for origin in (np.array([1, -2]), torch.tensor([1, -2]), [np.int32(1), np.int64(-2)]):
        assert torch.equal(ptyle.exit_waves(**MODEL, origin=origin), plain)


# --- counts ---

OTHER_TYPES = [torch.bool, torch.int8, torch.uint32, torch.int64, torch.uint64]
OTHER_TYPES += [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", OTHER_TYPES)
@pytest.mark.parametrize("h", [8, 7])  # both CPU paths
def test_counts_of_other_types_are_counts(dtype, h):
    *model, patterns = make_problem(h=h)
    if dtype == torch.bool:
        patterns = (patterns.int() > 3).to(torch.uint8)
    model = [t.clone().requires_grad_() for t in model]
    expected = ptyle.diffraction_loss(*model, patterns, likelihood="poisson")
    loss = ptyle.diffraction_loss(*model, patterns.to(dtype), likelihood="poisson")
    assert torch.equal(loss[0], expected[0]) and torch.equal(loss[1], expected[1])
    gradients = torch.autograd.grad(loss[0], model, create_graph=True)
    for a, b in zip(gradients, torch.autograd.grad(expected[0], model), strict=True):
        assert torch.equal(a, b)
    assert torch.autograd.grad(gradients[1].abs().sum(), model)[0].isfinite().all()  # and twice


@pytest.mark.parametrize("dtype", [torch.uint32, torch.int64, torch.uint64])
def test_counts_that_fit_no_kernel_are_refused_or_masked(dtype, monkeypatch):
    *model, patterns = make_problem(n=5)
    good = ptyle.diffraction_loss(*model, patterns.to(torch.int32))[0]
    values = patterns.to(torch.int64)
    values[3, 2, 4] = 4294967295  # what detectors write where they have no pixel
    wide = values.to(dtype)
    with pytest.raises(
        ValueError,
        match=r"ptyle::diffraction_loss: patterns of type \w+ must hold numbers that int32 holds, "
        r"got 4294967295 in pattern 3 \(the mask may hide it; torch.float64 holds it\)",
    ):
        ptyle.diffraction_loss(*model, wide)
    here = torch.zeros(8, 6, dtype=torch.bool)
    here[2, 4] = True
    hidden = ptyle.diffraction_loss(*model, wide, mask=here)[0]
    assert torch.equal(hidden, ptyle.diffraction_loss(*model, patterns, mask=here)[0])
    only = torch.zeros(5, 8, 6, dtype=torch.uint8)
    only[3, 2, 4] = 1
    assert ptyle.diffraction_loss(*model, wide, mask=only)[0] < good
    only = only.roll(1, 0)
    with pytest.raises(ValueError, match="in pattern 3"):
        ptyle.diffraction_loss(*model, wide, mask=only)


def test_the_range_is_that_of_the_type():
    *model, patterns = make_problem(n=2)
    largest = patterns.to(torch.int64)
    largest[0, 0, 0] = 2**31 - 1
    as_double = ptyle.diffraction_loss(*model, largest.double())[0]
    torch.testing.assert_close(ptyle.diffraction_loss(*model, largest)[0], as_double)
    largest[0, 0, 0] = -5  # of gaussian counts, and 0 for the others
    gaussian = ptyle.diffraction_loss(*model, largest, likelihood="gaussian")[0]
    assert torch.equal(
        gaussian, ptyle.diffraction_loss(*model, largest.int(), likelihood="gaussian")[0]
    )
    for value in (2**31, -(2**31) - 1, 2**63 - 1):
        largest[1, 1, 1] = value
        with pytest.raises(ValueError, match=f"got {value} in pattern 1"):
            ptyle.diffraction_loss(*model, largest)
    as_numpy = patterns.to(torch.int64).numpy().astype(np.uint64)
    as_numpy[1, 1, 1] = 2**64 - 1
    huge = torch.from_numpy(as_numpy)  # older versions of torch cannot set such a value
    with pytest.raises(ValueError, match=f"got {2**64 - 1} in pattern 1"):
        ptyle.diffraction_loss(*model, huge)


def test_complex_counts_are_none():
    *model, patterns = make_problem()
    with pytest.raises(TypeError, match="patterns must be counts, .* got ComplexFloat"):
        ptyle.diffraction_loss(*model, patterns.to(torch.complex64))


# --- sizes ---


def is_good(n):
    for factor in (2, 3, 5):
        while n % factor == 0:
            n //= factor
    return n == 1


def test_good_sizes_are_the_nearest():
    good = [n for n in range(1, 3000) if is_good(n)]
    for n in range(1, 2500):
        assert ptyle.good_size(n) == min(g for g in good if g >= n)
        assert ptyle.good_size(n, down=True) == max(g for g in good if g <= n)
    for wrong in (0, -3, 2**24 + 1):
        with pytest.raises(ValueError, match=f"size must be from 1 to 16777216, got {wrong}"):
            ptyle.good_size(wrong)


SLOW = """
import warnings, torch, ptyle
probe = torch.ones(1, {h}, {w}, dtype=torch.complex64)
still = torch.zeros(1, 2, dtype=torch.double)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(3):
        ptyle.diffraction(torch.zeros(1, 70, 70), probe, still)
        ptyle.exit_waves(torch.zeros(1, 70, 70), probe[:, :62], still)
for warning in caught:
    print(warning.message)
"""


def slow(h, w):
    done = subprocess.run(
        [sys.executable, "-c", SLOW.format(h=h, w=w)],
        capture_output=True,
        text=True,
        check=True,
    )
    return warnings_in(done)


def warnings_in(done):
    """Of Python; older versions of torch write those of operators to stderr themselves."""
    told = [line for line in done.stderr.splitlines() if "Warning: ptyle: " in line]
    return done.stdout.splitlines() + told


def test_a_slow_size_is_told_once():
    (line,) = slow(63, 62)
    assert "windows of 63 x 62 take 1.5 to 4 times as long" in line
    assert "crop to 63 x 60 or pad to 63 x 64 (ptyle.good_size)" in line


@pytest.mark.parametrize("size", [(60, 64), (49, 58)])
def test_sizes_with_small_prime_factors_are_not_told(size):
    assert slow(*size) == []


NEGATIVE = """
import warnings, torch, ptyle
torch.manual_seed(1)
probe = torch.ones(1, 8, 6, dtype=torch.complex64)
still = torch.zeros(2, 2, dtype=torch.double)
patterns = torch.ones(2, 8, 6, dtype=torch.{type})
patterns[:, 3, 4] = {count}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(3):
        ptyle.diffraction_loss(torch.zeros(1, 9, 9), probe, still, None, patterns, {more})
for warning in caught:
    print(warning.message)
"""


@pytest.mark.parametrize("type", ["int16", "int32", "float32", "float64"])
def test_negative_counts_are_told_once(type):
    def told(count, more=""):
        code = NEGATIVE.format(type=type, count=count, more=more)
        return warnings_in(
            subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        )

    (line,) = told(-2)
    assert "negative counts, in the first -2 at [3, 4]" in line
    assert told(0) == told(-2, 'likelihood="gaussian"') == told(-2, "mask=patterns[0] < 0") == []


# --- where C++ does not reach ---


def test_the_reference_is_there_and_named():
    code = "import ptyle, sys; print(ptyle.reference.diffraction.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "diffraction\n", done.stderr

    calls = {
        "exit_waves": lambda p: ptyle.exit_waves(OBJECT, p, POSITIONS, PROPAGATOR).abs().sum(),
        "diffraction": lambda p: ptyle.diffraction(OBJECT, p, POSITIONS, PROPAGATOR).sum(),
        "diffraction_loss": lambda p: ptyle.diffraction_loss(
            OBJECT, p, POSITIONS, PROPAGATOR, PATTERNS
        )[0],
        "extract_patches": lambda p: (
            ptyle.extract_patches(p, POSITIONS.floor(), (4, 4)).abs().sum()
        ),
        "add_patches": lambda p: (
            ptyle.add_patches(p[None], POSITIONS[:1].floor(), (9, 9)).abs().sum()
        ),
        "halo_insert": lambda p: ptyle.halo_insert([p], [0, 8], [0, 6], (1, 1), [0])[0].abs().sum(),
    }
    for name, call in calls.items():
        with pytest.raises(NotImplementedError) as raised:
            torch.func.grad(call)(PROBE)
        text = str(raised.value)
        assert text.startswith(f"ptyle::{name}: functorch transforms (torch.func.grad")
        assert "ptyle.reference" in text
    gradient = torch.func.grad(
        lambda p: ptyle.reference.diffraction_loss(OBJECT, p, POSITIONS, PROPAGATOR, PATTERNS)[0]
    )(PROBE)
    probe = PROBE.clone().requires_grad_()
    calls["diffraction_loss"](probe).backward()
    torch.testing.assert_close(gradient, probe.grad)


def test_compiled_and_exported_with_the_checks():
    def loss(obj, probe, positions, propagator, patterns):
        return ptyle.diffraction_loss(
            obj, probe, positions, propagator, patterns, origin=(1, -2), likelihood="poisson"
        )[0]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(loss, backend="eager", fullgraph=True)
    for patterns in (PATTERNS, PATTERNS.to(torch.int64)):
        assert torch.equal(
            compiled(OBJECT, PROBE, POSITIONS, PROPAGATOR, patterns),
            loss(OBJECT, PROBE, POSITIONS, PROPAGATOR, patterns),
        )
    traced = torch.fx.symbolic_trace(
        lambda obj, probe, positions: ptyle.diffraction(obj, probe, positions)
    )
    assert torch.equal(
        traced(OBJECT[:1], PROBE, POSITIONS), ptyle.diffraction(OBJECT[:1], PROBE, POSITIONS)
    )
