"""Operators on the device against the CPU's, on the CPU against plain torch; with themselves."""

import threading

import ptyle
import torch
from check_runner import Session
from ptyle import reference
from random_problems import (
    CASES,
    QUICK,
    TOLERANCES,
    Case,
    Problem,
    deterministic,
    everything,
    largest_error,
    make,
    one_thread,
)


def expected_of(session: Session, case: Case, problem: Problem) -> dict:
    """The CPU operators' results; on the CPU itself plain torch's, else one thread's."""
    shape = (case.rows, case.columns)
    if session.cuda:
        return everything(problem, ptyle, shape)
    if not case.plain:
        with one_thread():
            return everything(problem, ptyle, shape)
    return everything(problem, reference, shape)


def operators(session: Session, dtype: str) -> str:
    worst, count, failures = 0.0, 0, []
    for name, case in CASES.items():
        if session.quick and name not in QUICK:
            continue
        session.at(name)
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


def operators_single(session):
    return operators(session, "complex64")


def operators_double(session):
    return operators(session, "complex128")


def patches(session):
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


def derivatives(session):
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


def opcheck(session):
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
        illumination=torch.zeros_like(obj, dtype=torch.double),
        amplitude_errors=torch.zeros(3, dtype=torch.double, device=session.device),
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
        session.at(name)
        try:
            torch.library.opcheck(getattr(torch.ops.ptyle, name).default, arguments, options)
        except Exception as error:  # noqa: BLE001
            failures.append(f"{name}: {str(error).splitlines()[0]}")
    if failures:
        raise AssertionError("; ".join(failures))
    return f"{len(cases)} calls"


def same_bits(session):
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


def streams(session):
    """Work areas and plans are shared: calls on two streams at once must not meet."""

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


def chunks(session):
    """One call is the sum of two; on a GPU the first is worked on in several chunks."""

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


def short_of_memory(session):
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
