"""Operators against plain torch (ptyle.reference), derivatives against differences."""

import ptyle
import pytest
import torch
from conftest import leaves, make_problem
from ptyle import reference
from torch.utils._python_dispatch import TorchDispatchMode

LIKELIHOODS = ("amplitude", "poisson", "gaussian")
SHAPES = [
    dict(),
    dict(slices=1),
    dict(real_object=True),
    dict(h=5, w=5, n=1),
    dict(h=7, w=11, modes=1),
    dict(h=1, w=6),
    dict(rows=3, columns=4),
    dict(whole_pixels=True),
]
# primes, their multiples and lines
AWKWARD = [
    dict(h=h, w=w, rows=h + 7, columns=w + 4, n=3, slices=slices)
    for h, w in [(7, 6), (11, 13), (17, 1), (1, 31), (127, 64), (97, 101), (74, 62), (1, 1)]
    for slices in (1, 3)
]


def close(a, b, tolerance):
    scale = b.abs().max().item() if b.numel() else 0.0
    assert a.shape == b.shape and a.dtype == b.dtype
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance * (scale or 1))


@pytest.mark.parametrize("dtype,tolerance", [(torch.complex128, 1e-13), (torch.complex64, 2e-5)])
@pytest.mark.parametrize("shape", SHAPES + AWKWARD)
def test_forward_is_the_reference(shape, dtype, tolerance):
    obj, probe, positions, propagator, _ = make_problem(dtype=dtype, **shape)
    args = (obj, probe, positions, propagator)
    close(ptyle.exit_waves(*args), reference.exit_waves(*args), tolerance)
    close(ptyle.diffraction(*args), reference.diffraction(*args), tolerance)
    size = obj.shape[1:]
    close(
        ptyle.illumination(probe, positions, size),
        reference.illumination(probe, positions, size),
        tolerance,
    )


def on(kernels, monkeypatch):
    """Runs what follows on the named kernels; skips where the processor does not have them."""
    monkeypatch.setenv("PTYLE_ISA", kernels)
    try:
        return ptyle.cpu_kernels(8, 6)
    except ValueError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("kernels", ["v4", "v3", "base"])
@pytest.mark.parametrize("near_field", [False, True])
@pytest.mark.parametrize("shape", SHAPES + AWKWARD)
def test_every_instruction_set_gives_the_reference(shape, near_field, kernels, monkeypatch):
    assert on(kernels, monkeypatch) == f"fused {kernels}"
    *model, patterns = make_problem(**shape)
    phase = torch.randn(model[1].shape[1:], dtype=torch.double)
    options = dict(detector=torch.polar(torch.ones_like(phase), phase)) if near_field else {}

    def everything(module):
        inputs = leaves(*model)
        wanted = [t for t in inputs if t is not None]
        waves = module.exit_waves(*inputs)
        intensity = module.diffraction(*inputs, **options)
        loss, losses = module.diffraction_loss(*inputs, patterns, **options)
        added = [torch.zeros_like(model[0]), torch.zeros(model[0].shape, dtype=torch.double)]
        added += [torch.zeros(len(patterns), dtype=torch.double) for _ in range(2)]
        names = ("grad_object", "illumination", "losses", "amplitude_errors")
        module.diffraction_loss_accumulate_(
            *model,
            patterns,
            likelihood="poisson",
            **options,
            **dict(zip(names, added, strict=True)),
        )
        results = [waves, intensity, loss, losses, *added]
        for value in (waves.abs().pow(4).sum(), (intensity + 1).log().sum(), loss):
            results += torch.autograd.grad(value, wanted)
        return results

    for result, wanted in zip(everything(ptyle), everything(reference), strict=True):
        close(result, wanted, 1e-11)


def test_kernels_are_told(monkeypatch):
    monkeypatch.delenv("PTYLE_ISA", raising=False)
    assert ptyle.cpu_kernels(64, 96).startswith("fused ")
    assert ptyle.cpu_kernels(64, 97) == ptyle.cpu_kernels(64, 96)
    with pytest.raises(ValueError, match="at least 1, got 0 and 5"):
        ptyle.cpu_kernels(0, 5)
    monkeypatch.setenv("PTYLE_ISA", "mmx")
    *model, _ = make_problem()
    with pytest.raises(ValueError, match='PTYLE_ISA must name .* got "mmx"'):
        ptyle.diffraction(*model)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("shape", SHAPES)
def test_loss_and_gradients_are_the_reference(shape, likelihood):
    *model, patterns = make_problem(**shape)
    options = dict(
        likelihood=likelihood,
        mask=torch.rand(patterns.shape[1:]) < 0.2,
        weights=torch.rand(len(patterns), dtype=torch.double),
        background=torch.rand(patterns.shape, dtype=torch.double),
        origin=(1, -2),
    )
    ours, theirs = leaves(*model), leaves(*model)
    loss, losses = ptyle.diffraction_loss(*ours, patterns, **options)
    expected, expected_losses = reference.diffraction_loss(*theirs, patterns, **options)
    close(loss, expected, 1e-13)
    close(losses, expected_losses, 1e-13)
    unknowns = [t for t in ours if t is not None]
    gradients = torch.autograd.grad(loss, unknowns)
    references = torch.autograd.grad(expected, [t for t in theirs if t is not None])
    for gradient, wanted in zip(gradients, references, strict=True):
        close(gradient, wanted, 1e-11)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.int32])
def test_patterns_of_any_type_give_the_same_loss(dtype):
    *model, patterns = make_problem()
    expected = ptyle.diffraction_loss(*model, patterns.to(torch.float64))
    loss = ptyle.diffraction_loss(*model, patterns.to(dtype))
    assert torch.equal(loss[0], expected[0]) and torch.equal(loss[1], expected[1])


@pytest.mark.parametrize("dtype,tolerance", [(torch.complex128, 1e-11), (torch.complex64, 3e-5)])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("near_field", [False, True])
@pytest.mark.parametrize("shape", [*SHAPES, dict(n=0), *AWKWARD])
def test_what_is_accumulated_is_the_reference(shape, near_field, likelihood, dtype, tolerance):
    *model, patterns = make_problem(dtype=dtype, **shape)
    real = model[1].real.dtype
    phase = torch.randn(model[1].shape[1:], dtype=real)
    options = dict(
        likelihood=likelihood,
        mask=torch.rand(patterns.shape[1:]) < 0.2,
        weights=torch.rand(len(patterns), dtype=real),
        background=torch.rand(patterns.shape, dtype=real),
        origin=(1, -2),
        detector=torch.polar(torch.ones_like(phase), phase) if near_field else None,
    )
    names = ("object", "probe", "positions", "propagator")
    like = {f"grad_{n}": t for n, t in zip(names, model, strict=True) if t is not None}
    results = []
    for module in (ptyle, reference):
        buffers = {name: torch.ones_like(t) for name, t in like.items()}
        buffers["illumination"] = torch.ones(model[0].shape, dtype=real)
        for name in ("losses", "amplitude_errors"):
            buffers[name] = torch.ones(len(patterns), dtype=torch.double)
        module.diffraction_loss_accumulate_(*model, patterns, **options, **buffers)
        results.append(buffers)
    ours, theirs = results
    for name, buffer in ours.items():
        exact = dtype == torch.complex128 and not name.startswith("grad_")
        close(buffer, theirs[name], 1e-12 if exact else tolerance)
    if likelihood == "amplitude":
        assert torch.equal(ours["amplitude_errors"], ours["losses"])


def test_buffers_may_lie_beside_strided_inputs():
    obj, probe, positions, propagator, patterns = make_problem(n=6)
    losses = torch.zeros(3, dtype=torch.double)
    ptyle.diffraction_loss_accumulate_(
        obj, probe, positions[::2], propagator, patterns[::2], losses=losses
    )
    expected = ptyle.diffraction_loss(obj, probe, positions[::2], propagator, patterns[::2])[1]
    close(losses, expected, 1e-15)


def test_near_field_is_the_reference():
    obj, probe, positions, propagator, patterns = make_problem()
    phase = torch.randn(probe.shape[1:], dtype=torch.double)
    detector = torch.polar(torch.ones_like(phase), phase)
    args = (obj, probe, positions, propagator)
    close(
        ptyle.diffraction(*args, detector=detector),
        reference.diffraction(*args, detector=detector),
        1e-13,
    )
    ours, theirs = leaves(*args), leaves(*args)
    loss = ptyle.diffraction_loss(*ours, patterns, detector=detector)[0]
    expected = reference.diffraction_loss(*theirs, patterns, detector=detector)[0]
    for a, b in zip(
        torch.autograd.grad(loss, ours), torch.autograd.grad(expected, theirs), strict=True
    ):
        close(a, b, 1e-11)


def near_field_problem(fractions):
    """A smooth object, an odd-shaped probe in the middle of its window, positions, a detector."""
    generator = torch.Generator().manual_seed(8)

    def smooth(*shape, width):
        k2 = sum(
            torch.fft.fftfreq(n, dtype=torch.double).square().reshape(-1, *[1] * (1 - axis))
            for axis, n in enumerate(shape)
        )
        field = torch.randn(*shape, dtype=torch.complex128, generator=generator)
        field = torch.fft.ifft2(
            torch.fft.fft2(field) * torch.exp(-2 * (torch.pi * width) ** 2 * k2)
        )
        return field / field.abs().max()

    obj = torch.exp(0.7j * smooth(96, 90, width=3.5).real - 0.3)
    y, x = torch.arange(64.0).double()[:, None] - 30, torch.arange(60.0).double() - 31
    inside = torch.exp(-(y.square() + x.square()) / 50)
    probe = inside * torch.exp(0.5j * smooth(64, 60, width=3.5).real)
    positions = torch.tensor([[3.0, 4.0], [17.0, 9.0], [20.0, 21.0]], dtype=torch.double)
    k2 = (
        torch.fft.fftfreq(64, dtype=torch.double).square()[:, None]
        + torch.fft.fftfreq(60, dtype=torch.double).square()
    )
    detector = torch.exp(-1j * torch.pi * 12 * k2)
    return obj, probe, positions + torch.tensor(fractions, dtype=torch.double), detector


def beam_at_rest(obj, probe, positions, detector):
    """The same written down once more: the whole object is moved, probe and detector are not."""
    h, w = probe.shape
    k = [torch.fft.fftfreq(n, dtype=torch.double) for n in obj.shape]
    spectrum, patterns = torch.fft.fft2(obj), []
    for row, column in positions:
        ramp = torch.exp(2j * torch.pi * (k[0][:, None] * row + k[1] * column))
        patch = torch.fft.ifft2(spectrum * ramp)[:h, :w]
        patterns.append(torch.fft.ifft2(torch.fft.fft2(probe * patch) * detector).abs().square())
    return torch.stack(patterns)


@pytest.mark.parametrize("fractions", [(0.0, 0.0), (0.5, 0.25), (0.9, 0.5)])
def test_near_field_detector_stands_still_relative_to_the_beam(fractions):
    """Moving the probe and its exit wave back is moving the object, with the same gradients."""
    obj, probe, positions, detector = near_field_problem(fractions)
    theirs = leaves(obj, probe, positions)
    expected = beam_at_rest(*theirs, detector)
    ours = leaves(obj[None], probe[None], positions)
    intensity = ptyle.diffraction(*ours, detector=detector)
    peak = expected.max()
    assert (intensity - expected).abs().max() < 1e-7 * peak
    target = torch.roll(expected.detach(), 1, 0)
    for a, b in zip(
        torch.autograd.grad((intensity - target).square().sum(), ours),
        torch.autograd.grad((expected - target).square().sum(), theirs),
        strict=True,
    ):
        close(a.reshape(b.shape), b, 1e-4)
    moved = ptyle.extract_patches(obj[None], positions, probe.shape, outside=1.0)
    stack, corners = ptyle.window_stack(moved)
    at_rest = ptyle.diffraction(stack, probe[None], corners, detector=detector)
    assert (at_rest - expected).abs().max() < 2e-4 * peak  # the interpolation's error


@pytest.mark.parametrize("near_field", [False, True])
@pytest.mark.parametrize("real_object", [False, True])
@pytest.mark.parametrize("name", ["exit_waves", "diffraction", *LIKELIHOODS])
def test_first_and_second_derivatives(name, real_object, near_field):
    if near_field and name == "exit_waves":
        pytest.skip("there is no detector in it")
    *model, patterns = make_problem(h=4, w=5, rows=9, columns=8, n=3, real_object=real_object)
    inputs = leaves(*model)
    phase = torch.randn(4, 5, dtype=torch.double, generator=torch.Generator().manual_seed(2))
    options = dict(detector=torch.polar(torch.ones_like(phase), phase)) if near_field else {}
    if name in LIKELIHOODS:

        def function(*args):
            return ptyle.diffraction_loss(*args, patterns, likelihood=name, **options)[0]

    else:

        def function(*args):
            return getattr(ptyle, name)(*args, **options)

    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


def test_illumination_derivative():
    _, probe, positions, _, _ = make_problem(h=4, w=5)
    probe.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: ptyle.illumination(p, positions, (9, 8)), probe)
    assert torch.autograd.gradgradcheck(lambda p: ptyle.illumination(p, positions, (9, 8)), probe)


@pytest.mark.parametrize("real_object", [False, True])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_hessian_vector_product_of_the_squared_loss_is_plain_torchs(likelihood, real_object):
    """With every option, a propagator for each slice, and not a number under the mask."""
    *model, patterns = make_problem(real_object=real_object)
    phase = torch.randn(2, *model[1].shape[1:], dtype=torch.double)
    model[3] = torch.polar(torch.ones_like(phase), phase)
    phase = torch.randn(model[1].shape[1:], dtype=torch.double)
    mask = torch.rand(patterns.shape) < 0.2
    patterns = patterns.double().masked_fill(mask, torch.nan)
    options = dict(
        likelihood=likelihood,
        mask=mask,
        weights=torch.rand(len(patterns), dtype=torch.double),
        background=torch.rand(patterns.shape[1:], dtype=torch.double),
        detector=torch.polar(torch.ones_like(phase), phase),
        origin=(1, -2),
    )
    directions = [torch.randn_like(t) for t in model]
    products = []
    for module in (ptyle, reference):
        inputs = leaves(*model)
        loss = module.diffraction_loss(*inputs, patterns, **options)[0] ** 2
        gradients = torch.autograd.grad(loss, inputs, create_graph=True)
        along = sum((g.conj() * d).real.sum() for g, d in zip(gradients, directions, strict=True))
        products.append(torch.autograd.grad(along, inputs))
    for a, b in zip(*products, strict=True):
        assert a.isfinite().all()
        close(a, b, 1e-10)


def hessian_vector_product(module, model, patterns, directions, **options):
    inputs = leaves(*model)
    loss = module.diffraction_loss(*inputs, patterns)[0]
    gradients = torch.autograd.grad(loss, inputs, create_graph=True)
    along = sum((g.conj() * d).real.sum() for g, d in zip(gradients, directions, strict=True))
    return inputs, torch.autograd.grad(along, inputs, **options)


@pytest.mark.parametrize("name", ["exit_waves", "diffraction", "diffraction_loss"])
def test_batched_second_derivatives_are_those_of_a_loop(name):
    obj, probe, positions, propagator, patterns = make_problem(n=2, h=4, w=5, rows=6, columns=6)

    def scalar(x):
        more = (patterns,) if name == "diffraction_loss" else ()
        result = getattr(ptyle, name)(x, probe, positions, propagator, *more)
        return result[0] if more else result.abs().square().square().sum()

    x = torch.rand(2, 6, 6, dtype=torch.double)
    batched = torch.autograd.functional.hessian(scalar, x, vectorize=True)
    close(batched, torch.autograd.functional.hessian(scalar, x), 1e-12)


def test_second_derivatives_of_several_blocks_of_positions():
    *model, patterns = make_problem(slices=4, h=64, w=64, rows=100, columns=90, n=70)
    directions = [torch.randn_like(t) for t in model]
    _, ours = hessian_vector_product(ptyle, model, patterns, directions)
    _, theirs = hessian_vector_product(reference, model, patterns, directions)
    for a, b in zip(ours, theirs, strict=True):
        close(a, b, 1e-10)


def test_third_derivatives_are_plain_torchs():
    *model, patterns = make_problem(h=4, w=5, rows=9, columns=8, n=3)
    directions = [torch.randn_like(t) for t in model]
    thirds = []
    for module in (ptyle, reference):
        inputs, product = hessian_vector_product(
            module, model, patterns, directions, create_graph=True
        )
        along = sum((p.conj() * d).real.sum() for p, d in zip(product, directions, strict=True))
        thirds.append(torch.autograd.grad(along, inputs))
    for a, b in zip(*thirds, strict=True):
        close(a, b, 1e-9)


def test_the_gradient_scales_with_what_follows_the_loss():
    *model, patterns = make_problem()
    a, b = leaves(*model), leaves(*model)
    one = torch.autograd.grad(ptyle.diffraction_loss(*a, patterns)[0], a)
    three = torch.autograd.grad(3 * ptyle.diffraction_loss(*b, patterns)[0], b)
    for x, y in zip(one, three, strict=True):
        close(3 * x, y, 1e-15)


@pytest.mark.parametrize("hidden", [False, True])
def test_views_are_read_as_what_they_show(hidden):
    obj, probe, positions, propagator, patterns = make_problem()
    weights = torch.rand(len(patterns), dtype=torch.double)
    args = (obj, probe, positions, propagator, patterns)
    expected = ptyle.diffraction_loss(*args, weights=weights)[0]
    strange = (
        obj.transpose(1, 2).contiguous().transpose(1, 2),
        probe.conj().resolve_conj().conj(),
        positions.repeat_interleave(2, 0)[::2],
        propagator.t().contiguous().t(),
        patterns.transpose(0, 2).contiguous().transpose(0, 2),
    )
    negated = torch._neg_view(-weights)
    assert strange[1].is_conj() and negated.is_neg()
    if hidden:  # as under torch.compile: torch does not resolve views on the way to the kernel
        keys = torch._C.DispatchKeySet(torch._C.DispatchKey.Conjugate)
        keys = keys | torch._C.DispatchKeySet(torch._C.DispatchKey.Negative)
        with torch._C._ExcludeDispatchKeyGuard(keys):
            loss = ptyle.diffraction_loss(*strange, weights=negated)[0]
    else:
        loss = ptyle.diffraction_loss(*strange, weights=negated)[0]
    assert torch.equal(loss, expected)


def test_copy_on_write_inputs_are_not_copied():
    *model, patterns = make_problem()
    clones = [torch._lazy_clone(t) for t in (*model, patterns)]
    expected = ptyle.diffraction_loss(*model, patterns)[0]
    assert torch.equal(ptyle.diffraction_loss(*clones)[0], expected)
    assert torch.equal(ptyle.exit_waves(*clones[:4]), ptyle.exit_waves(*model))
    assert all(torch._C._is_cow_tensor(t) for t in clones)


def test_autocast_takes_half_precision_in_single():
    obj, probe, positions, propagator, patterns = make_problem(
        real_object=True, dtype=torch.complex64
    )
    for low in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            leaf = obj.to(low).requires_grad_()
            loss, _ = ptyle.diffraction_loss(leaf, probe, positions, propagator, patterns)
            waves = ptyle.exit_waves(leaf, probe, positions, propagator)
            intensity = ptyle.diffraction(leaf, probe, positions, propagator)
        assert loss.dtype == intensity.dtype == torch.float32 and waves.dtype == torch.complex64
        same = obj.to(low).float()
        assert torch.equal(
            loss, ptyle.diffraction_loss(same, probe, positions, propagator, patterns)[0]
        )
        (gradient,) = torch.autograd.grad(loss, leaf)
        assert gradient.dtype == low and gradient.abs().sum() > 0


def test_real_leaves_view_as_complex():
    obj, probe, positions, propagator, patterns = make_problem()
    leaf = torch.view_as_real(probe).clone().requires_grad_()
    loss = ptyle.diffraction_loss(
        obj, torch.view_as_complex(leaf), positions, propagator, patterns
    )[0]
    loss.backward()
    direct = probe.clone().requires_grad_()
    ptyle.diffraction_loss(obj, direct, positions, propagator, patterns)[0].backward()
    close(torch.view_as_complex(leaf.grad), direct.grad, 1e-15)


class Recorder(TorchDispatchMode):
    """The ptyle operators that reach a kernel."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "ptyle":
            self.names.append(func.__name__.split(".")[0])
        return func(*args, **(kwargs or {}))


def test_no_gradient_work_without_a_graph():
    obj, probe, positions, propagator, patterns = make_problem()
    leaf = obj.clone().requires_grad_()
    with Recorder() as plain:
        ptyle.diffraction_loss(obj, probe, positions, propagator, patterns)
    with torch.no_grad(), Recorder() as no_grad:
        ptyle.diffraction_loss(leaf, probe, positions, propagator, patterns)
    with torch.inference_mode(), Recorder() as inference:
        ptyle.diffraction_loss(leaf, probe, positions, propagator, patterns)
    with Recorder() as graph:
        loss, losses = ptyle.diffraction_loss(leaf, probe, positions, propagator, patterns)
    assert plain.names == no_grad.names == inference.names == ["diffraction_loss"]
    assert graph.names == ["diffraction_loss_gradients"]
    assert loss.requires_grad and not losses.requires_grad


@pytest.mark.parametrize("argument", ["weights", "background", "detector", "patterns"])
def test_what_has_no_gradient_says_so(argument):
    obj, probe, positions, propagator, patterns = make_problem()
    options = {}
    if argument == "patterns":
        patterns = patterns.double().requires_grad_()
    elif argument == "weights":
        options[argument] = torch.ones(len(patterns), dtype=torch.double, requires_grad=True)
    elif argument == "background":
        options[argument] = torch.ones(8, 6, dtype=torch.double, requires_grad=True)
    else:
        options[argument] = torch.ones(8, 6, dtype=torch.complex128, requires_grad=True)
    with pytest.raises(NotImplementedError, match=f"{argument} must not require a gradient"):
        ptyle.diffraction_loss(obj, probe, positions, propagator, patterns, **options)


def test_forward_mode_says_so():
    obj, probe, positions, propagator, _ = make_problem()
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(probe, torch.ones_like(probe))
        with pytest.raises(NotImplementedError, match="probe must not carry a forward"):
            ptyle.exit_waves(obj, dual, positions, propagator)


def test_forward_over_reverse_says_so():
    obj, probe, positions, propagator, _ = make_problem()
    obj.requires_grad_()
    intensity = ptyle.diffraction(obj, probe, positions, propagator)
    with torch.autograd.forward_ad.dual_level():
        slope = torch.autograd.forward_ad.make_dual(
            torch.ones_like(intensity), torch.ones_like(intensity)
        )
        with pytest.raises(NotImplementedError, match="gradient must not carry a forward-mode"):
            torch.autograd.grad(intensity, obj, slope)


def accumulate(model, patterns, **buffers):
    names = ("grad_object", "grad_probe", "grad_positions", "grad_propagator")
    arguments = {name: None for name in names} | buffers
    arguments.setdefault("losses", torch.zeros(len(patterns), dtype=torch.double))
    torch.ops.ptyle.diffraction_loss_accumulate_(*model, patterns, **arguments)


def test_buffers_that_share_memory_are_refused():
    *model, patterns = make_problem()
    with pytest.raises(ValueError, match="must not share memory"):
        accumulate(model, patterns, grad_object=model[0])
    both = torch.zeros_like(model[1])
    with pytest.raises(ValueError, match="must not share memory"):
        accumulate(model, patterns, grad_probe=both, grad_propagator=both[0])


def test_buffers_that_require_a_gradient_are_refused():
    *model, patterns = make_problem()
    with pytest.raises(NotImplementedError, match="grad_object must not require a gradient"):
        accumulate(model, patterns, grad_object=torch.zeros_like(model[0]).requires_grad_())


@pytest.mark.parametrize("gradient", [False, True])
def test_illumination_refuses_positions_that_are_not_numbers(gradient):
    _, probe, positions, _, _ = make_problem()
    positions[2, 1] = torch.nan
    probe.requires_grad_(gradient)
    with pytest.raises(ValueError, match="ptyle::illumination: positions must be finite"):
        ptyle.illumination(probe, positions, (9, 8))


def test_vmap_runs_by_fallback():
    obj, probe, positions, propagator, _ = make_problem()
    probes = torch.stack([probe, 2 * probe])
    batched = torch.func.vmap(lambda p: ptyle.diffraction(obj, p, positions, propagator))(probes)
    close(batched[1], ptyle.diffraction(obj, 2 * probe, positions, propagator), 1e-15)


@pytest.mark.parametrize("likelihood", ["amplitude", "poisson", "gaussian"])
def test_counts_that_are_not_numbers_are_noticed(likelihood):
    obj, probe, positions, propagator, patterns = make_problem(n=3)
    patterns = patterns.double()
    patterns[1, 2, 3] = torch.nan
    loss, losses = ptyle.diffraction_loss(
        obj, probe, positions, propagator, patterns, likelihood=likelihood
    )
    assert loss.isnan() and losses.isnan().tolist() == [False, True, False]


def test_functorch_gradient_has_torchs_clear_error():
    obj, probe, positions, propagator, patterns = make_problem()

    def loss(p):
        return ptyle.diffraction_loss(obj, p, positions, propagator, patterns)[0]

    with pytest.raises(RuntimeError, match="functorch transforms"):
        torch.func.grad(loss)(probe)


def test_errors_are_pythons_kinds():
    obj, probe, positions, propagator, patterns = make_problem()
    with pytest.raises(ValueError, match=r"ptyle::exit_waves: positions must have shape \[n, 2\]"):
        ptyle.exit_waves(obj, probe, positions[0], propagator)
    with pytest.raises(
        TypeError, match=r"positions must be Double, got Float \(positions.double\(\)"
    ):
        ptyle.exit_waves(obj, probe, positions.float(), propagator)
    with pytest.raises(ValueError, match="likelihood must be amplitude, poisson or gaussian"):
        ptyle.diffraction_loss(obj, probe, positions, propagator, patterns, likelihood="x")


def test_no_slices_leave_the_probe_and_huge_waves_stay_finite():
    _, probe, positions, _, patterns = make_problem(whole_pixels=True)
    nothing = torch.zeros(0, 15, 13, dtype=torch.complex128)
    waves = ptyle.exit_waves(nothing, probe, positions)
    assert torch.equal(waves, probe.expand_as(waves))
    buffers = dict(
        grad_object=nothing.clone(),
        grad_probe=torch.zeros_like(probe),
        illumination=nothing.real.clone(),
        losses=torch.zeros(len(patterns), dtype=torch.double),
    )
    ptyle.diffraction_loss_accumulate_(nothing, probe, positions, None, patterns, **buffers)
    leaf = probe.clone().requires_grad_()
    loss = reference.diffraction_loss(nothing, leaf, positions, None, patterns)[0]
    close(buffers["grad_probe"], torch.autograd.grad(loss, leaf)[0], 1e-12)
    probe = torch.full((1, 16, 16), 3e17, dtype=torch.complex64)
    obj = torch.ones(1, 16, 16, dtype=torch.complex64)
    intensity = ptyle.diffraction(obj, probe, torch.zeros(1, 2, dtype=torch.double))
    assert intensity.max().item() == pytest.approx(9e34 * 256, rel=1e-5)
