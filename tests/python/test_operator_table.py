"""The cells of ops/docs/table.md: every operator in every way in which torch calls it.

A cell that does not apply runs the same test, and must see the error that the table says.
"""

import io

import pytest
import torch
import torch._dynamo.testing
from operator_table import COLUMNS, ROWS

PER_POSITION = ("positions", "patterns", "patches", "losses", "amplitude_errors")
MANY, FEWER = 7, 6  # positions; no other size is 7, so that none is taken for the same
BY_NAME = {row.name: row for row in ROWS}


def dynamic_shapes(tensors):
    n = torch.export.Dim("n", min=2)
    return {name: {0: n} if name in PER_POSITION else None for name in tensors}


def first(tensors, n):
    return {name: (t[:n] if name in PER_POSITION else t).clone() for name, t in tensors.items()}


def unknowns(row, tensors):
    """The tensors with leaves among them, and the leaves."""
    if not row.is_differentiable():
        return tensors, []
    leaves = {name: tensors[name].clone().requires_grad_() for name in row.unknowns.split()}
    return {**tensors, **leaves}, list(leaves.values())


def gradients(outputs, leaves):
    """Of a weighted sum of what can be differentiated."""
    outputs = [o for o in outputs if o.requires_grad]
    slopes = [torch.linspace(1, 2, o.numel()).reshape(o.shape).to(o.dtype) for o in outputs]
    return torch.autograd.grad(outputs, leaves, slopes) if leaves else ()


class Module(torch.nn.Module):
    """An operator with its tensors in the order of the row."""

    def __init__(self, row, names):
        super().__init__()
        self.row, self.names = row, names

    def forward(self, *tensors):
        return self.row.call(**dict(zip(self.names, tensors, strict=True)))


def cpu(row, request):
    tensors = row.arguments()
    for ours, theirs in zip(row.call(**tensors), row.reference(**tensors), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


def meta(row, request):
    tensors = row.arguments()
    on_meta = row.call(**{name: t.to("meta") for name, t in tensors.items()})
    for ours, theirs in zip(on_meta, row.call(**tensors), strict=True):
        assert ours.is_meta and ours.shape == theirs.shape and ours.dtype == theirs.dtype
        assert ours.stride() == theirs.stride()


def check_derivative(row, check):
    tensors = row.arguments()
    names = row.unknowns.split()

    def squares(*leaves):  # so that also linear operators have a second derivative
        outputs = row.call(**{**tensors, **dict(zip(names, leaves, strict=True))})
        return tuple(o * o for o in outputs if o.requires_grad)

    assert check(squares, [tensors[name].requires_grad_() for name in names], fast_mode=True)


def autograd(row, request):
    check_derivative(row, torch.autograd.gradcheck)


def second_derivative(row, request):
    check_derivative(row, torch.autograd.gradgradcheck)


def autocast(row, request):
    tensors = row.arguments(dtype=torch.complex64)
    name = row.unknowns.split()[0]
    value = tensors[name]
    low = (value.real if value.is_complex() else value).to(torch.bfloat16)
    if row.is_differentiable():
        low.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = row.call(**{**tensors, name: low})
    same = row.call(**{**tensors, name: low.detach().float()})
    for ours, theirs in zip(outputs, same, strict=True):
        assert torch.equal(ours, theirs) and ours.dtype == theirs.dtype
    (gradient,) = gradients(outputs, [low])
    assert gradient.dtype == torch.bfloat16 and gradient.abs().sum() > 0


def compile_(row, request, backend="inductor"):
    tensors = row.arguments(n=MANY)
    module = Module(row, list(tensors))
    torch.compiler.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend(backend)
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend=counter)
    for n in (MANY, FEWER):
        ours, our_leaves = unknowns(row, first(tensors, n))
        theirs, their_leaves = unknowns(row, first(tensors, n))
        outputs, expected = compiled(*ours.values()), row.call(**theirs)
        torch.testing.assert_close(outputs, expected)
        torch.testing.assert_close(
            gradients(outputs, our_leaves), gradients(expected, their_leaves)
        )
    assert counter.frame_count == 1


def export(row, request):
    tensors = row.arguments(n=MANY)
    program = torch.export.export(
        Module(row, list(tensors)),
        tuple(tensors.values()),
        dynamic_shapes=(tuple(dynamic_shapes(tensors).values()),),
    )
    assert f"ptyle.{row.name}." in str(program.graph)
    fewer = first(tensors, FEWER)
    for ours, theirs in zip(program.module()(*fewer.values()), row.call(**fewer), strict=True):
        assert torch.equal(ours, theirs)


class Operators(torch.nn.Module):
    """Several operators in one, because what takes its time is the compiler's start."""

    def forward(self, tensors: dict[str, dict[str, torch.Tensor]]):
        return {name: BY_NAME[name].call(**inner) for name, inner in tensors.items()}


def package(rows, folder):
    """Results of the loaded package, and its inputs."""
    tensors = {row.name: row.arguments(n=MANY) for row in rows}
    shapes = {name: dynamic_shapes(inner) for name, inner in tensors.items()}
    program = torch.export.export(Operators(), (tensors,), dynamic_shapes=(shapes,))
    path = torch._inductor.aoti_compile_and_package(
        program,
        package_path=str(folder / "operators.pt2"),
    )
    model = torch._inductor.aoti_load_package(path)
    fewer = {name: first(inner, FEWER) for name, inner in tensors.items()}
    return model(fewer), fewer


@pytest.fixture(scope="module")
def packaged(tmp_path_factory):
    rows = [row for row in ROWS if "AOTInductor" not in row.exceptions]
    return package(rows, tmp_path_factory.mktemp("package"))


def aot_inductor(row, request):
    if "AOTInductor" in row.exceptions:
        results, tensors = package([row], request.getfixturevalue("tmp_path"))
    else:
        results, tensors = request.getfixturevalue("packaged")
    expected = row.call(**tensors[row.name])
    for ours, theirs in zip(results[row.name], expected, strict=True):
        assert theirs.abs().sum() > 0
        torch.testing.assert_close(ours, theirs)


def torchscript(row, request):
    tensors = row.arguments()
    constants = "".join(f", {name}={value}" for name, value in row.options.items())
    named = "".join(f"{name}={name}, " for name in tensors).rstrip(", ")
    call = f"torch.ops.ptyle.{row.name}({named}{constants})"
    if row.mutated:
        body = f"  {call}\n  return ({', '.join(row.mutated.split())})\n"
    else:
        body = f"  return {call}\n"
    module = type(f"Scripted_{row.name}", (torch.jit.ScriptModule,), {})()
    module.define(f"def forward(self, {', '.join(tensors)}):\n{body}")
    file = io.BytesIO()
    torch.jit.save(module, file)
    file.seek(0)
    loaded = torch.jit.load(file)

    ours, our_leaves = unknowns(row, {name: t.clone() for name, t in tensors.items()})
    theirs, their_leaves = unknowns(row, tensors)
    outputs, expected = loaded(**ours), row.call(**theirs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    pairs = [
        *zip(outputs, expected, strict=True),
        *zip(gradients(outputs, our_leaves), gradients(expected, their_leaves), strict=True),
    ]
    assert all(torch.equal(a, b) for a, b in pairs)


def vmap(row, request):
    tensors = row.arguments()
    name = row.unknowns.split()[0]
    several = torch.stack([tensors[name], 2 * tensors[name]])
    batched = torch.func.vmap(lambda t: row.call(**{**tensors, name: t}))(several)
    for k in range(2):
        expected = row.call(**{**tensors, name: several[k]})
        for ours, theirs in zip(batched, expected, strict=True):
            torch.testing.assert_close(ours[k], theirs)


CELLS = {
    "CPU": cpu,
    "Meta": meta,
    "autograd": autograd,
    "second derivative": second_derivative,
    "autocast": autocast,
    "compile": compile_,
    "export": export,
    "AOTInductor": aot_inductor,
    "TorchScript": torchscript,
    "vmap": vmap,
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*", "ignore:There is a performance drop")
@pytest.mark.parametrize("column", CELLS)
@pytest.mark.parametrize("name", BY_NAME)
def test_cell(name, column, request):
    row = BY_NAME[name]
    exception = row.exceptions.get(column)
    if exception is None:
        CELLS[column](row, request)
    else:
        with pytest.raises(exception.error, match=exception.match):
            CELLS[column](row, request)


def test_an_operator_that_changes_its_arguments_compiles_without_inductor(request):
    compile_(BY_NAME["diffraction_loss_accumulate_"], request, backend="aot_eager")


def test_the_table_has_every_column_and_every_operator_that_is_not_a_gradient():
    assert list(CELLS) == list(COLUMNS)
    schemas = {s.name for s in torch._C._jit_get_all_schemas()}
    operators = {s.removeprefix("ptyle::") for s in schemas if s.startswith("ptyle::")}
    rest = {n for n in operators if not n.endswith(("_backward", "_gradients"))}
    # two communicate (test_halo.py), one takes no tensors (test_operators.py)
    assert rest == {*BY_NAME, "halo_insert", "halo_add", "cpu_kernels", "good_size"}
