"""halo_insert and halo_add: adjoint, derivatives, every way in which torch calls them, ranks."""

import json
import pathlib
import subprocess
import sys

import ptyle
import pytest
import torch
from rank_processes import CLEAN, finish, start

SCRIPT = pathlib.Path(__file__).with_name("halo_training.py")
# rows, columns, halo of grids over 9 x 8 pixels; with empty tiles and tiles below the halo
GRIDS = [
    ([0, 9], [0, 8], (3, 3)),
    ([0, 4, 9], [0, 5, 8], (2, 1)),
    ([0, 1, 2, 9], [0, 8], (4, 0)),
    ([0, 3, 3, 9], [0, 0, 2, 8], (5, 6)),
]


def tiles_of(rows, columns):
    return [
        (slice(r, r_end), slice(c, c_end))
        for r, r_end in zip(rows[:-1], rows[1:], strict=True)
        for c, c_end in zip(columns[:-1], columns[1:], strict=True)
    ]


def extended_of(rows, columns, halo):
    frames = []
    for r, c in tiles_of(rows, columns):
        if r.start == r.stop or c.start == c.stop:
            frames.append((r, c))
            continue
        frames.append(
            tuple(
                slice(max(s.start - h, 0), min(s.stop + h, end))
                for s, h, end in zip((r, c), halo, (rows[-1], columns[-1]), strict=True)
            )
        )
    return frames


def tiling(grid):
    rows, columns, halo = grid
    return rows, columns, halo, [0] * ((len(rows) - 1) * (len(columns) - 1))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
def test_insert_is_the_object_and_add_its_adjoint(grid, dtype):
    object = torch.randn(2, 9, 8, dtype=dtype)
    owned = [object[:, r, c] for r, c in tiles_of(grid[0], grid[1])]
    frames = extended_of(*grid)
    extended = ptyle.halo_insert(owned, *tiling(grid))
    for tile, (r, c) in zip(extended, frames, strict=True):
        assert torch.equal(tile, object[:, r, c])
    y = [torch.randn_like(tile) for tile in extended]
    expected = torch.zeros_like(object)
    for tile, (r, c) in zip(y, frames, strict=True):
        expected[:, r, c] += tile
    for sums, (r, c) in zip(ptyle.halo_add(y, *tiling(grid)), tiles_of(*grid[:2]), strict=True):
        torch.testing.assert_close(sums, expected[:, r, c])


@pytest.mark.parametrize("name", ["halo_insert", "halo_add"])
@pytest.mark.parametrize("grid", GRIDS)
def test_derivatives_of_first_and_second_order(name, grid):
    frames = tiles_of(*grid[:2]) if name == "halo_insert" else extended_of(*grid)
    object = torch.randn(1, 9, 8, dtype=torch.complex128)
    inputs = [object[:, r, c].clone().requires_grad_() for r, c in frames]

    def call(*tensors):
        return tuple(t for t in getattr(ptyle, name)(tensors, *tiling(grid)) if t.numel() > 0)

    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


@pytest.mark.parametrize("name", ["halo_insert", "halo_add"])
def test_opcheck(name):
    grid = GRIDS[1]
    frames = tiles_of(*grid[:2]) if name == "halo_insert" else extended_of(*grid)
    object = torch.randn(2, 9, 8, dtype=torch.complex64)
    inputs = [object[:, r, c].clone().requires_grad_() for r, c in frames]
    rows, columns, halo, owners = tiling(grid)
    torch.library.opcheck(
        getattr(torch.ops.ptyle, name).default, (inputs, rows, columns, list(halo), owners)
    )


def test_views_are_read_as_what_they_show():
    object = torch.randn(9, 8, 2, dtype=torch.complex64).conj()
    tiles = tiles_of(*GRIDS[1][:2])
    views = [object.permute(2, 0, 1)[:, r, c] for r, c in tiles]
    plain = [v.resolve_conj().contiguous() for v in views]
    for a, b in zip(
        ptyle.halo_insert(views, *tiling(GRIDS[1])),
        ptyle.halo_insert(plain, *tiling(GRIDS[1])),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_torchscript_has_them(tmp_path):
    class Model(torch.nn.Module):
        def forward(self, owned: list[torch.Tensor]) -> list[torch.Tensor]:
            return torch.ops.ptyle.halo_insert(owned, [0, 4, 9], [0, 8], [2, 2], [0, 0])

    object = torch.randn(1, 9, 8)
    owned = [object[:, :4], object[:, 4:]]
    torch.jit.script(Model()).save(tmp_path / "halo.pt")
    for a, b in zip(torch.jit.load(tmp_path / "halo.pt")(owned), Model()(owned), strict=True):
        assert torch.equal(a, b)


def test_the_compiler_stays_out():
    """Two equal calls stay two, and what lies around them is compiled."""
    object = torch.randn(1, 9, 8)
    owned = [object[:, :4].clone(), object[:, 4:].clone()]
    arguments = ([0, 4, 9], [0, 8], (2, 2), [0, 0])

    def model(tiles):
        first = ptyle.halo_insert([2 * t for t in tiles], *arguments)
        second = ptyle.halo_insert([2 * t for t in tiles], *arguments)
        return first[0].sum() + second[1].sum()

    torch.testing.assert_close(torch.compile(model, backend="eager")(owned), model(owned))
    explained = torch._dynamo.explain(model)(owned)
    assert explained.graph_break_count >= 2
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(model, backend="eager", fullgraph=True)(owned)


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (ValueError, "row_cuts must begin with 0", dict(row_cuts=[1, 9])),
        (ValueError, "column_cuts must not descend", dict(column_cuts=[0, 9, 8])),
        (ValueError, "halo must be two integers that are not negative", dict(halo=(1, -1))),
        (ValueError, "owners must have one rank for each of the 2 tiles, got 1", dict(owners=[0])),
        (ValueError, r"owners must be ranks below 1 \(no group is given\)", dict(owners=[0, 1])),
        (ValueError, "owned must have one tensor for each of the 2 tiles", dict(owned=1)),
        (ValueError, r"owned\[1\] must have shape \[slices, 5, 8\]", dict(owned="shape")),
        (TypeError, "owned must be float32", dict(owned="long")),
        (ValueError, r".* another in owned\[1\]", dict(owned="type")),
        (ValueError, 'group must be the name of a process group, got "no"', dict(group="no")),
    ],
)
def test_errors_name_argument_rule_and_value(error, message, change):
    first, second = torch.zeros(1, 4, 8), torch.zeros(1, 5, 8)
    owned = {
        1: [first],
        "shape": [first, first],
        "long": [first.long(), second.long()],
        "type": [first, second.double()],
    }.get(change.get("owned"), [first, second])
    arguments = dict(row_cuts=[0, 4, 9], column_cuts=[0, 8], halo=(1, 1), owners=[0, 0])
    arguments |= {k: v for k, v in change.items() if k != "owned"}
    with pytest.raises(error, match="ptyle::halo_insert: " + message):
        ptyle.halo_insert(owned, **arguments)


def test_forward_mode_says_so():
    object = torch.randn(1, 9, 8)
    with pytest.raises(NotImplementedError, match="forward-mode"):
        torch.func.jvp(
            lambda t: ptyle.halo_insert([t], [0, 9], [0, 8], (1, 1), [0])[0], (object,), (object,)
        )


def run_ranks(ranks, script, *arguments):
    """The script as so many ranks; all of them must succeed."""
    ends = finish(start([sys.executable, script, *arguments], ranks), timeout=120)
    assert [code for code, *_ in ends] == [0] * ranks, ends


@pytest.mark.timeout(180)
def test_training_over_four_ranks_is_training_over_one(tmp_path):
    """Ten lines with loss.backward(); nobody holds the whole object."""
    one = tmp_path / "one.pt"
    subprocess.run(
        [sys.executable, SCRIPT, one, "0,23", "0,26"],
        check=True,
        timeout=60,
        env=CLEAN,
    )
    run_ranks(4, SCRIPT, tmp_path / "four.pt", "0,11,23", "0,9,9,17,26")
    (whole, losses), (tiled, tiled_losses) = torch.load(one), torch.load(tmp_path / "four.pt")
    torch.testing.assert_close(tiled_losses, losses, rtol=1e-10, atol=0)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-9)
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.timeout(180)
def test_ranks_that_call_differently_are_named(tmp_path):
    """On every rank the same sentence instead of an abort in Gloo, and the next call is right."""
    run_ranks(3, SCRIPT.with_name("halo_disagreement.py"), tmp_path / "found")
    found = [json.loads((tmp_path / f"found.{rank}").read_text()) for rank in range(3)]

    def same(what, left, right):
        return (
            f"ptyle::halo_insert: {what} must be the same on all ranks, got {left} on rank 0 and "
            f"{right} on rank 2"
        )

    expected = {
        "row_cuts": same("row_cuts", "[0, 4, 8, 12]", "[0, 5, 8, 12]"),
        "more rows": same("row_cuts", "[0, 4, 8, 12]", "[0, 4, 8, 13]"),
        "more tiles": same("row_cuts", "[0, 4, 8, 12]", "[0, 4, 6, 8, 12]"),
        "column_cuts": same("column_cuts", "[0, 8]", "[0, 9]"),
        "halo": same("halo", "(2, 1)", "(1, 1)"),
        "owners": same("owners", "[0, 1, 2]", "[1, 0, 2]"),
        "slices": same("the number of slices of owned", "2", "3"),
        "type": same("the type of owned", "Float", "Double"),
        "complex": same("the type of owned", "Float", "ComplexFloat"),
        "gradient": same("requires_grad of owned", "False", "True"),
        "operator": same("the call", "halo_insert", "halo_add"),
    }
    for rank, results in enumerate(found):
        for name in ("right", "right again"):  # rows of the extended tile, columns, slices
            assert results.pop(name) == str([6, 8, 6][rank] * 8 * 2)
        for name, text in results.items():
            wanted = expected[name]
            if rank == 2 and name == "operator":  # by its own name there
                wanted = wanted.replace("ptyle::halo_insert:", "ptyle::halo_add:")
            assert text.splitlines()[0] == wanted
        assert results.keys() == expected.keys()
