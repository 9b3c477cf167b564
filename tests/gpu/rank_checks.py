"""Halos between tiles, on one rank and between two; a gradient that is worked on tile by tile.

A rank is a process of this file: `rank_checks.py BACKEND DEVICE INDEX`, told its rank as launchers
do. It prints its largest difference.
"""

import json
import os
import sys
import traceback
from pathlib import Path

import ptyle
import torch
import torch.distributed as dist
from check_runner import Skip, one_line
from processes import CommandFailed, as_ranks, first_gpu, lets_no_ranks_share
from random_problems import Case, make

GRIDS = [  # row cuts, column cuts, halo
    ([0, 9], [0, 8], (3, 3)),
    ([0, 4, 9], [0, 5, 8], (2, 1)),
    ([0, 1, 2, 9], [0, 8], (4, 0)),
    ([0, 3, 3, 9], [0, 0, 2, 8], (5, 6)),
]
TYPES = {"float32": 1e-5, "float64": 1e-13, "complex64": 1e-5, "complex128": 1e-13}


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
    if not worst <= TYPES[kind]:
        raise AssertionError(f"grid {grid}, {kind}: rank {rank} differs by {worst:.1e}")
    return worst


def tiled_error(owners, rank, group, meeting_place, device) -> float:
    """The loss of tiles and its gradient of what each owns, against those of the whole object on
    the CPU. Halos are exchanged where `meeting_place` says; tiles are worked on on `device`."""
    case = Case(n=40, h=16, w=12, rows=52, columns=47, slices=3)
    problem = make(case, "complex128")
    obj, probe, positions, propagator = problem.model
    whole = torch.ops.ptyle.diffraction_loss_gradients(
        *problem.model, problem.patterns, needs=[True, True, False, False]
    )
    rows, columns, halo = [0, 24, 52], [0, 23, 47], (16, 12)
    owned, extended = frames_of(rows, columns, halo)
    centre = positions + torch.tensor([case.h / 2, case.w / 2])
    tile_of = 2 * (centre[:, 0] >= rows[1]).long() + (centre[:, 1] >= columns[1]).long()
    mine = [tile for tile, owner in enumerate(owners) if owner == rank]
    parts = [obj[:, owned[t][0], owned[t][1]].to(meeting_place).requires_grad_() for t in mine]
    beam = probe.to(device).requires_grad_()
    wide = ptyle.halo_insert(parts, rows, columns, halo, owners, group=group)
    loss = torch.zeros((), dtype=torch.double, device=device)
    for tile, t in zip(wide, mine, strict=True):
        here = tile_of == t
        origin = (extended[t][0].start, extended[t][1].start)
        model = (tile.to(device), beam, positions[here].to(device), propagator.to(device))
        one, _ = ptyle.diffraction_loss(*model, problem.patterns[here].to(device), origin=origin)
        loss = loss + one
    *found, of_probe = torch.autograd.grad(loss, [*parts, beam])
    sums = torch.cat([torch.view_as_real(of_probe).flatten(), loss.detach().reshape(1)])
    sums = sums.to(meeting_place)
    if group:
        dist.all_reduce(sums)
    sums = sums.cpu()
    found += [sums[-1], torch.view_as_complex(sums[:-1].reshape(*probe.shape, 2))]
    expected = [whole[2][:, owned[t][0], owned[t][1]] for t in mine] + [whole[0], whole[3]]
    worst = 0.0
    for ours, theirs in zip(found, expected, strict=True):
        error = (ours.cpu() - theirs).abs().max().item() / theirs.abs().max().item()
        if not error <= 1e-11:
            raise AssertionError(f"rank {rank}: a tiled gradient differs by {error:.1e}")
        worst = max(worst, error)
    return worst


def errors_of(rank, size, group, meeting_place, device) -> dict:
    worst = 0.0
    for grid in GRIDS:
        tiles = (len(grid[0]) - 1) * (len(grid[1]) - 1)
        if tiles < size:
            continue  # the operators take no empty lists
        in_turn, in_runs = (
            [t % size for t in range(tiles)],
            [t * size // tiles for t in range(tiles)],
        )
        for owners in (in_turn, in_runs)[:size]:
            for kind in TYPES:
                error = exchange_error(grid, owners, rank, group, kind, meeting_place)
                worst = max(worst, error)
    tiled = tiled_error([t % size for t in range(4)], rank, group, meeting_place, device)
    return dict(halos=worst, gradients=tiled)


def words(errors: list[dict]) -> str:
    halos, gradients = (max(e[name] for e in errors) for name in ("halos", "gradients"))
    return f"halos differ by up to {halos:.0e}, tiled gradients by {gradients:.0e}"


def one_rank(session):
    return words([errors_of(0, 1, "", session.device, session.device)])


# ---- processes ----


def on_ranks(backend: str, device: str, count: int, environment=None) -> str:
    command = [sys.executable, Path(__file__).resolve(), backend, device]
    said = as_ranks(command, count, environment=environment)
    return words([json.loads(next(x for x in lines if x.startswith("{"))) for lines in said])


def two_ranks_gloo(session):
    """Both on one GPU: halos travel by way of the CPU."""
    return on_ranks("gloo", session.device, 2, first_gpu() if session.cuda else None)


def one_rank_nccl(session):
    return on_ranks("nccl", "cuda", 1)


def two_ranks_nccl(session):
    return on_ranks("nccl", "cuda", 2)


def two_ranks_nccl_one_gpu(session):
    try:
        return on_ranks("nccl", "cuda", 2, {"NCCL_MULTI_RANK_GPU_ENABLE": "1"} | first_gpu())
    except CommandFailed as failure:
        if lets_no_ranks_share(failure):
            raise Skip("this NCCL lets no two ranks share a GPU") from None
        raise


def as_one(backend: str, device: str) -> None:
    options = {}
    if device == "cuda":
        index = int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count()
        torch.cuda.set_device(index)
        device = f"cuda:{index}"
    meeting_place = "cpu"
    if backend == "nccl":
        backend, meeting_place = "cpu:gloo,cuda:nccl", device
        options["device_id"] = torch.device(device)
    dist.init_process_group(backend, **options)
    group, rank, size = dist.group.WORLD.group_name, dist.get_rank(), dist.get_world_size()
    print(json.dumps(errors_of(rank, size, group, meeting_place, device)), flush=True)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    try:
        as_one(*sys.argv[1:])
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        print(one_line(error), flush=True)
        os._exit(1)  # without waiting for the other rank
