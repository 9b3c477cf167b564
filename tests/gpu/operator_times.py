"""Times of the operators: loss and gradients over a grid of sizes, beside what memory allows, bare
Fourier transforms and the same physics in plain torch; the share of every kernel; small windows.

Unit: ns per slice, mode and pixel of a window. Single precision, a raster with steps of an eighth
of a window, positions between pixels. Medians of calls after warm-up, with half the range of the
middle half of them.
"""

import contextlib
import dataclasses
import itertools
import math
import statistics
import time
import traceback

import ptyle  # noqa: F401
import torch
from check_runner import Session, Skip, one_line
from ptyle import reference
from random_problems import deterministic


@dataclasses.dataclass(frozen=True)
class Point:
    window: int
    modes: int
    slices: int

    def __str__(self) -> str:
        modes = f"{self.modes} mode{'s' if self.modes > 1 else ''}"
        slices = f"{self.slices} slice{'s' if self.slices > 1 else ''}"
        return f"{self.window} x {self.window}, {modes}, {slices}"


@dataclasses.dataclass(frozen=True)
class Grid:
    points: list[Point]  # the most telling ones first
    eager: list[Point]  # of plain torch
    compiled: list[Point]
    pixels: int  # of all windows and modes of a call
    small: list[tuple[Point, int]]  # with positions of a call


TELLING = [
    Point(256, 1, 4),
    Point(128, 1, 20),
    Point(512, 1, 4),
    Point(64, 1, 4),
    Point(1024, 1, 4),
    Point(256, 4, 4),
    Point(256, 1, 1),
    Point(256, 1, 100),
    Point(128, 1, 4),
]
ALL = [Point(*p) for p in itertools.product((64, 128, 256, 512, 1024), (1, 4), (1, 4, 20, 100))]
ON_A_GPU = Grid(
    points=TELLING + [point for point in ALL if point not in TELLING],
    eager=[Point(256, 1, 4), Point(64, 1, 4), Point(512, 1, 4), Point(256, 4, 4)],
    compiled=[Point(256, 1, 4), Point(64, 1, 4)],
    pixels=1 << 24,
    small=[
        (Point(64, 1, 1), 1),
        (Point(64, 1, 4), 1),
        (Point(64, 1, 4), 16),
        (Point(64, 4, 20), 4),
    ],
)
ON_A_CPU = Grid(
    points=[Point(*p) for p in itertools.product((64, 128), (1, 4), (1, 4))],
    eager=[Point(64, 1, 1), Point(64, 1, 4), Point(64, 4, 1), Point(128, 1, 4)],
    compiled=[Point(64, 1, 1), Point(64, 1, 4)],
    pixels=1 << 16,
    small=[(Point(32, 1, 1), 1), (Point(32, 1, 4), 4)],
)


def grid_of(session: Session) -> Grid:
    grid = ON_A_GPU if session.cuda else ON_A_CPU
    if not session.quick:
        return grid
    count = 9 if session.cuda else 3
    return dataclasses.replace(grid, points=grid.points[:count], compiled=grid.compiled[:1])


def where(session: Session) -> str:
    """What is said of a row; a CPU is measured on one thread, which others disturb least."""
    if session.cuda:
        return ""
    torch.set_num_threads(1)
    return " on a CPU"


# ---- measuring ----


@dataclasses.dataclass(frozen=True)
class Time:
    seconds: float
    spread: float  # half the range of the middle half, as a fraction

    def per(self, units: float) -> str:
        return f"{1e9 * self.seconds / units:.4g} ns +-{100 * self.spread:.0f} %"


def timed(function, session: Session, calls: int = 1) -> Time:
    """Median time of a call, of several runs of `calls` each; two runs before are not counted."""
    times = []
    warm = 2
    count = 11
    while len(times) < warm + count:
        if session.cuda:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(calls):
                function()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) / 1e3 / calls)
        else:
            start = time.perf_counter()
            for _ in range(calls):
                function()
            times.append((time.perf_counter() - start) / calls)
        if len(times) == warm:  # about a second
            count = max(3, min(11, int(1 / (times[-1] * calls + 1e-9))))
    low, middle, high = statistics.quantiles(times[warm:], n=4, method="inclusive")
    return Time(middle, (high - low) / 2 / middle)


def counted_bytes(slices: int) -> float:
    """Per slice, mode and pixel, as the emulator counts them: csrc/README.md."""
    return 74 + 176 * (slices - 1) / slices + 219 / slices


def copy_rate(session: Session) -> float:
    """Bytes read and written a second by a large copy."""
    size = (1 << 30) if session.cuda else (1 << 26)
    source = torch.ones(size // 4, device=session.device)
    target = torch.empty_like(source)
    return 2 * size / timed(lambda: target.copy_(source), session).seconds


@dataclasses.dataclass(frozen=True)
class Scan:
    """A problem on the device, made there."""

    model: tuple  # object, probe, positions, propagator
    patterns: torch.Tensor
    units: int  # slices x modes x pixels of all positions

    def gradients(self) -> tuple:
        """Loss, gradients of object and probe."""
        loss, _, of_object, of_probe, *_ = torch.ops.ptyle.diffraction_loss_gradients(
            *self.model, self.patterns, needs=[True, True, False, False]
        )
        return loss, of_object, of_probe


def scan_of(point: Point, session: Session, n: int) -> Scan:
    window, step = point.window, point.window / 8
    side = math.ceil(math.sqrt(n))
    size = window + math.ceil(step * side) + 1
    with torch.device(session.device):
        torch.manual_seed(5)
        index = torch.arange(n)
        raster = torch.stack([index // side, index % side], 1).double()
        positions = step * raster + 0.9 * torch.rand(n, 2, dtype=torch.double)
        phase = 0.1 * torch.randn(point.slices, size, size)
        obj = torch.polar(torch.ones_like(phase), phase)
        r = torch.arange(window) - window / 2
        beam = torch.exp(-(r[:, None] ** 2 + r**2) / (2 * (window / 6) ** 2))
        turns = torch.randn(point.modes, window, window)
        probe = torch.polar(beam.expand_as(turns).contiguous(), turns)
        k = torch.fft.fftfreq(window)
        fresnel = -(k[:, None] ** 2 + k**2) * 8.0
        propagator = torch.polar(torch.ones_like(fresnel), fresnel)
        patterns = torch.poisson(2 * torch.rand(n, window, window))
    model = (obj, probe, positions, propagator if point.slices > 1 else None)
    return Scan(model, patterns, n * point.slices * point.modes * window * window)


def positions_of(point: Point, pixels: int) -> int:
    return max(1, pixels // (point.modes * point.window**2))


def transforms(point: Point, n: int, session: Session):
    """As many Fourier transforms as the operator makes, alone and without scale factors."""
    shape = (n * point.modes, point.window, point.window)
    waves = torch.ones(shape, dtype=torch.complex64, device=session.device)
    result = torch.empty_like(waves)

    def all_of_them():
        for _ in range(2 * point.slices):
            torch.fft.fft2(waves, norm="backward", out=result)
            torch.fft.ifft2(waves, norm="forward", out=result)

    return all_of_them


# ---- loss and gradients ----


def loss_and_gradients(session):
    torch.utils.deterministic.fill_uninitialized_memory = False  # as the program does
    grid = grid_of(session)
    names = {point: f"{point}{where(session)}" for point in grid.points}
    session.plan(["copy of memory", *names.values()])
    rate = copy_rate(session)
    session.row("copy of memory", f"{rate / 1e9:.0f} GB/s", bytes_per_second=rate)
    for point, name in names.items():
        session.at(name)
        with row_of(session, name):
            n = positions_of(point, grid.pixels)
            scan = scan_of(point, session, n)
            ours = timed(scan.gradients, session)
            with deterministic(True):
                ordered = timed(scan.gradients, session)
            alone = timed(transforms(point, n, session), session)
            counted = counted_bytes(point.slices)
            part = counted * scan.units / ours.seconds / rate
            memory = f"{counted:.0f} B, {100 * part:.0f} % of the copy's rate; "
            session.row(
                name,
                f"{ours.per(scan.units)}; {memory if session.cuda else ''}"
                f"sums in order {ordered.seconds / ours.seconds:.2f} times; "
                f"transforms alone {alone.per(scan.units)}, "
                f"{100 * alone.seconds / ours.seconds:.0f} %; positions: {n}",
                ns=1e9 * ours.seconds / scan.units,
                spread=ours.spread,
                ordered_ns=1e9 * ordered.seconds / scan.units,
                positions=n,
                counted_bytes=counted,
                part_of_copy=part,
                transforms_ns=1e9 * alone.seconds / scan.units,
                transforms_spread=alone.spread,
            )


@contextlib.contextmanager
def row_of(session: Session, name: str):
    """What goes wrong with one row stops no other; memory that is too short is no failure."""
    try:
        yield
    except Exception as error:  # noqa: BLE001
        text = one_line(error)
        words = ("out of memory", "ALLOC_FAILED")
        if isinstance(error, torch.OutOfMemoryError) or any(word in text for word in words):
            session.row(name, "does not fit into memory", "skipped")
        else:
            traceback.print_exc()
            session.row(name, text, "FAILED")
    if session.cuda:
        torch.cuda.empty_cache()


# ---- plain torch ----


def plain(loss_of, scan: Scan, session: Session):
    obj, probe, *others = scan.model
    unknowns = [obj.clone().requires_grad_(), probe.clone().requires_grad_()]

    def gradients() -> tuple:
        with torch.device(session.device):  # the reference makes tensors of its own
            loss, _ = loss_of(*unknowns, *others, scan.patterns)
            return loss.detach(), *torch.autograd.grad(loss, unknowns)

    return gradients


def largest_difference(ours: tuple, theirs: tuple) -> float:
    pairs = zip(ours, theirs, strict=True)
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)


def plain_torch(session):
    """Eager, then compiled: its results are compared with ours, too."""
    grid = grid_of(session)
    kinds = [("eager", point) for point in grid.eager] + [
        ("compiled", point) for point in grid.compiled
    ]
    names = [f"{kind}, {point}{where(session)}" for kind, point in kinds]
    session.plan(names)
    for (kind, point), name in zip(kinds, names, strict=True):
        session.at(name)
        with row_of(session, name):
            scan = scan_of(point, session, positions_of(point, grid.pixels))
            ours = timed(scan.gradients, session)
            loss_of = reference.diffraction_loss
            if kind == "compiled":
                loss_of = torch.compile(loss_of, dynamic=False)
            theirs = plain(loss_of, scan, session)
            try:
                results = theirs()
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # noqa: BLE001
                if kind == "eager":
                    raise
                session.row(name, f"torch.compile: {one_line(error)[:300]}", "skipped")
                continue
            error = largest_difference(scan.gradients(), results)
            if not error <= 1e-3:  # not a number compares as false
                result = "FAILED" if kind == "eager" else "skipped"
                session.row(name, f"no comparison: results differ by {error:.0e}", result)
                continue
            taken = timed(theirs, session)
            times = taken.seconds / ours.seconds
            session.row(
                name,
                f"{taken.per(scan.units)}, {times:.1f} times ours; differs by {error:.0e}",
                ns=1e9 * taken.seconds / scan.units,
                spread=taken.spread,
                times_ours=times,
                difference=error,
            )


# ---- kernels ----


def short(name: str) -> str:
    """A kernel's name without types."""
    for word in ("void ", "(anonymous namespace)::", "ptyle::cuda::", "ptyle::", "at::native::"):
        name = name.replace(word, "")
    return name.split("<")[0].split("(")[0] or name


def shares_of_kernels(session):
    """By torch's profiler; on a CPU of torch's operators."""
    from torch.profiler import ProfilerActivity, profile

    grid = grid_of(session)
    points = [p for p in (Point(256, 1, 4), Point(64, 1, 20), Point(256, 1, 1)) if session.cuda]
    points = points or [Point(64, 1, 4)]
    names = [f"{point}{where(session)}" for point in points]
    session.plan(names)
    activity = ProfilerActivity.CUDA if session.cuda else ProfilerActivity.CPU
    for point, name in zip(points, names, strict=True):
        session.at(name)
        scan = scan_of(point, session, positions_of(point, grid.pixels))
        for _ in range(2):
            scan.gradients()
        if session.cuda:
            torch.cuda.synchronize()
        with profile(activities=[activity]) as profiler:
            for _ in range(5):
                scan.gradients()
            if session.cuda:
                torch.cuda.synchronize()
        taken, launches = {}, {}
        for event in profiler.key_averages():
            micros = event.self_device_time_total if session.cuda else event.self_cpu_time_total
            if micros > 0:
                key = short(event.key)
                taken[key] = taken.get(key, 0) + micros
                launches[key] = launches.get(key, 0) + event.count
        whole = sum(taken.values())
        if whole == 0:
            raise Skip("the profiler sees no kernels here (CUPTI)")
        shares = sorted(((v / whole, k) for k, v in taken.items()), reverse=True)
        session.row(
            name,
            ", ".join(
                f"{key} {100 * s:.1f} % ({launches[key] // 5})" for s, key in shares if s >= 5e-3
            )
            + f"; {whole / 5:.0f} us a call",
            shares={key: share for share, key in shares},
            launches={key: count / 5 for key, count in launches.items()},
        )


# ---- small windows ----


def small_windows(session):
    """Launches, not work: calls one by one, and as CUDA graphs."""
    names = [f"{point}, positions: {n}" for point, n in grid_of(session).small]
    kinds = ("called", "in a graph") if session.cuda else ("called",)
    session.plan([f"{name}, {kind}{where(session)}" for name in names for kind in kinds])
    for (point, n), name in zip(grid_of(session).small, names, strict=True):
        session.at(name)
        scan = scan_of(point, session, n)
        called = timed(scan.gradients, session, calls=20)
        session.row(
            f"{name}, called{where(session)}",
            f"{1e6 * called.seconds:.1f} us +-{100 * called.spread:.0f} %",
            microseconds=1e6 * called.seconds,
            spread=called.spread,
        )
        if not session.cuda:
            continue
        row = f"{name}, in a graph"
        session.at(row)
        try:
            graph, results = captured(scan)
        except RuntimeError as error:
            session.row(row, f"cannot be captured: {one_line(error)[:300]}", "skipped")
            return  # the stream may be left in capture: what follows would fail for that
        for result in results:
            result.zero_()
        graph.replay()
        torch.cuda.synchronize()
        error = largest_difference(results, scan.gradients())
        if not error <= 1e-5:
            session.row(row, f"a replay's results differ by {error:.0e}", "FAILED")
            continue
        replayed = timed(graph.replay, session, calls=20)
        session.row(
            row,
            f"{1e6 * replayed.seconds:.1f} us +-{100 * replayed.spread:.0f} %, "
            f"{called.seconds / replayed.seconds:.1f} times faster",
            microseconds=1e6 * replayed.seconds,
            spread=replayed.spread,
        )


def captured(scan: Scan):
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(3):
            scan.gradients()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = scan.gradients()
    return graph, results
