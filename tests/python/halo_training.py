"""A reconstruction over tiles in plain torch, as a rank: `halo_training.py FILE ROWS COLUMNS`.

Started by torchrun or with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT; without, one rank. Rank 0
saves the whole object and the losses.
"""

import os
import sys

import ptyle
import torch
import torch._dynamo  # what an optimizer loads: after a group was made, it would outlive its end
import torch.distributed as dist


def problem():
    torch.manual_seed(0)
    truth = 0.5 * torch.rand(2, 23, 26, dtype=torch.double)
    probe = torch.randn(1, 8, 8, dtype=torch.complex128)
    positions = torch.rand(70, 2, dtype=torch.double) * torch.tensor([15.0, 18.0])
    propagator = ptyle.fresnel_propagator((8, 8), 0.5, 0.025, 20.0, dtype=torch.complex128)
    return probe, positions, propagator, ptyle.diffraction(truth, probe, positions, propagator)


def main(path: str, tile_rows: str, tile_columns: str) -> None:
    ranks = int(os.environ.get("WORLD_SIZE", 1))
    rank, group = 0, ""
    if ranks > 1:
        dist.init_process_group("gloo")
        rank, group = dist.get_rank(), dist.group.WORLD.group_name
    probe, positions, propagator, patterns = problem()
    rows, columns = ([int(c) for c in text.split(",")] for text in (tile_rows, tile_columns))
    tiles = [
        (r, c, r_end - r, c_end - c)
        for r, r_end in zip(rows[:-1], rows[1:], strict=True)
        for c, c_end in zip(columns[:-1], columns[1:], strict=True)
    ]
    owners = [tile * ranks // len(tiles) for tile in range(len(tiles))]
    mine = [tile for tile, owner in enumerate(owners) if owner == rank]
    tiling = (rows, columns, (4, 4), owners)

    owned = [torch.zeros(2, *tiles[t][2:], dtype=torch.double, requires_grad=True) for t in mine]
    centres = (positions + 4).clamp(min=0)
    members = []
    for r, c, h, w in (tiles[t] for t in mine):
        inside = (centres >= torch.tensor([r, c])) & (centres < torch.tensor([r + h, c + w]))
        members.append(inside.all(1))
    optimizer = torch.optim.Adam(owned, lr=0.02)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = torch.zeros((), dtype=torch.double)
        for t, tile, there in zip(
            mine, ptyle.halo_insert(owned, *tiling, group=group), members, strict=True
        ):
            origin = (max(tiles[t][0] - 4, 0), max(tiles[t][1] - 4, 0))
            loss = (
                loss
                + ptyle.diffraction_loss(
                    tile, probe, positions[there], propagator, patterns[there], origin=origin
                )[0]
            )
        loss.backward()
        optimizer.step()
        total = loss.detach().clone()
        if ranks > 1:
            dist.all_reduce(total)
        losses.append(total)
    gathered = [(mine, [t.detach() for t in owned])]
    if ranks > 1:
        gathered = [None] * ranks if rank == 0 else None
        dist.gather_object((mine, [t.detach() for t in owned]), gathered)
    if rank == 0:
        whole = torch.zeros(2, rows[-1], columns[-1], dtype=torch.double)
        for numbers, tensors in gathered:
            for number, tensor in zip(numbers, tensors, strict=True):
                r, c, h, w = tiles[number]
                whole[:, r : r + h, c : c + w] = tensor
        torch.save((whole, torch.stack(losses)), path)
    if ranks > 1:
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
