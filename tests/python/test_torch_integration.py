"""Every way in which torch calls an operator: opcheck, compile, export, TorchScript, Meta."""

import io

import ptyle
import pytest
import torch
import torch.utils.checkpoint
from conftest import leaves, make_problem


def cases():
    obj, probe, positions, propagator, patterns = make_problem(n=3)
    single = make_problem(n=3, slices=1, dtype=torch.complex64)
    waves = torch.randn(3, *probe.shape, dtype=probe.dtype)
    slopes = torch.randn(3, *probe.shape[1:], dtype=torch.double)
    needs = [True, True, True, True]
    origin = [0, 0]
    model = (obj, probe, positions, propagator)
    yield "exit_waves", model, {}
    yield "exit_waves", single[:4], dict(origin=[2, 1])
    yield "exit_waves", make_problem(n=3, real_object=True)[:4], {}
    yield "exit_waves_backward", (waves, *model), dict(origin=origin, needs=needs)
    yield "diffraction", model, {}
    yield "diffraction", single[:4], {}
    yield "diffraction_backward", (slopes, *model), dict(origin=origin, detector=None, needs=needs)
    yield "diffraction_loss", (*model, patterns), {}
    options = dict(
        likelihood="poisson",
        mask=torch.rand(8, 6) < 0.2,
        weights=torch.rand(3, dtype=torch.double),
        background=torch.rand(8, 6, dtype=torch.double),
        detector=propagator,
    )
    yield "diffraction_loss", (*model, patterns), options
    yield "diffraction_loss_gradients", (*model, patterns), dict(needs=[True, False, True, False])
    yield "illumination", (probe, positions, [15, 13]), {}


def with_gradients(name, args):
    def needs_gradient(t):
        if not isinstance(t, torch.Tensor):
            return False
        positions = t.shape[1:] == (2,) and name != "illumination"  # which has none for them
        return t.dtype.is_complex or positions

    return tuple(t.clone().requires_grad_() if needs_gradient(t) else t for t in args)


# Gradient operators are differentiated through plain torch, which opcheck is not about.
CHECKS = [
    (case, gradients)
    for case in cases()
    for gradients in (False, True)
    if not (gradients and case[0].endswith(("_backward", "_gradients")))
]


@pytest.mark.parametrize("case,gradients", CHECKS, ids=[f"{c[0]}-{g}" for c, g in CHECKS])
def test_opcheck(case, gradients):
    name, args, options = case
    if gradients:
        args = with_gradients(name, args)
    torch.library.opcheck(getattr(torch.ops.ptyle, name).default, args, options)


def test_opcheck_of_the_operator_that_adds_into_buffers():
    *model, patterns = make_problem(n=3)
    buffers = dict(
        grad_object=torch.zeros_like(model[0]),
        grad_probe=torch.zeros_like(model[1]),
        grad_positions=None,
        grad_propagator=None,
        losses=torch.zeros(3, dtype=torch.double),
        illumination=torch.zeros_like(model[0], dtype=torch.double),
        amplitude_errors=torch.zeros(3, dtype=torch.double),
    )
    torch.library.opcheck(
        torch.ops.ptyle.diffraction_loss_accumulate_.default, (*model, patterns), buffers
    )


@pytest.mark.parametrize("inference", [False, True])
def test_adding_into_a_buffer_is_seen_by_autograd(inference):
    *model, patterns = make_problem(n=3)
    losses = torch.zeros(3, dtype=torch.double)
    version = losses._version
    with torch.inference_mode(inference):
        torch.ops.ptyle.diffraction_loss_accumulate_(
            *model,
            patterns,
            grad_object=None,
            grad_probe=None,
            grad_positions=None,
            grad_propagator=None,
            losses=losses,
        )
    assert losses._version > version and losses.abs().sum() > 0


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpoint_gives_the_same_gradient(reentrant):
    obj, probe, positions, propagator, patterns = make_problem()

    def loss(probe):
        waves = ptyle.exit_waves(obj, probe, positions, propagator)
        return (torch.fft.fft2(waves, norm="ortho").abs() - patterns[:, None].sqrt()).square().sum()

    a, b = leaves(probe, probe)
    (expected,) = torch.autograd.grad(loss(a), a)
    checkpointed = torch.utils.checkpoint.checkpoint(loss, b, use_reentrant=reentrant)
    checkpointed.backward()
    assert torch.equal(b.grad, expected)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile_without_graph_breaks_and_with_any_number_of_positions(backend):
    obj, probe, positions, propagator, patterns = make_problem(n=6)

    def step(obj, probe, positions, patterns):
        loss, _ = ptyle.diffraction_loss(obj * 1.5, probe, positions, propagator, patterns)
        return loss.sqrt()

    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend=backend)
    for n in (6, 4, 3):
        ours, theirs = leaves(obj, probe), leaves(obj, probe)
        loss = compiled(*ours, positions[:n], patterns[:n])
        expected = step(*theirs, positions[:n], patterns[:n])
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(
            torch.autograd.grad(loss, ours), torch.autograd.grad(expected, theirs)
        )


def test_export_with_any_number_of_positions():
    obj, probe, positions, propagator, _ = make_problem(n=6)

    class Model(torch.nn.Module):
        def forward(self, obj, probe, positions):
            return ptyle.diffraction(obj, probe, positions, propagator)

    program = torch.export.export(
        Model(),
        (obj, probe, positions),
        dynamic_shapes=(None, None, {0: torch.export.Dim("n")}),
    )
    assert "ptyle.diffraction" in str(program.graph)
    expected = ptyle.diffraction(obj, probe, positions[:2], propagator)
    assert torch.equal(program.module()(obj, probe, positions[:2]), expected)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_torchscript_saved_and_loaded_again_keeps_its_gradient():
    class Model(torch.nn.Module):
        def forward(self, obj, probe, positions, propagator, patterns):
            return torch.ops.ptyle.diffraction_loss(obj, probe, positions, propagator, patterns)[0]

    file = io.BytesIO()
    torch.jit.save(torch.jit.script(Model()), file)
    file.seek(0)
    loaded = torch.jit.load(file)
    obj, probe, positions, propagator, patterns = make_problem()
    (probe,) = leaves(probe)
    loss = loaded(obj, probe, positions, propagator, patterns)
    (gradient,) = torch.autograd.grad(loss, probe)
    direct = ptyle.diffraction_loss(obj, probe, positions, propagator, patterns)[0]
    assert torch.equal(loss, direct)
    assert torch.equal(gradient, torch.autograd.grad(direct, probe)[0])


def test_meta_tensors_have_the_shapes_of_the_cpu():
    args = make_problem()
    on_meta = [t.to("meta") for t in args]
    loss, losses = ptyle.diffraction_loss(*on_meta)
    assert loss.shape == () and losses.shape == (5,) and loss.dtype == torch.float64
    assert ptyle.exit_waves(*on_meta[:4]).shape == (5, 2, 8, 6)
    assert ptyle.diffraction(*on_meta[:4]).shape == (5, 8, 6)
    with pytest.raises(ValueError, match="ptyle::exit_waves: probe must"):
        ptyle.exit_waves(on_meta[0], on_meta[1][0], *on_meta[2:4])
