"""A deep image prior over four tiles: each rank generates the tiles it owns.

    python models/experiments/deep_image_prior.py                    # one process
    torchrun --nproc-per-node=4 models/experiments/deep_image_prior.py

An untrained convolutional network makes the phase of every tile from a code of fixed noise; all
tiles share its weights. `halo_insert` brings what neighbours generated into a tile's halo, the
physics compares it with the measured patterns of the tile's own positions, and backward sends the
halos' gradients home (image gradient decomposition). Weights see the sum over ranks. Nobody holds
the whole object; the loss is the same for any number of ranks, to rounding.
"""

import argparse
import json
import os

import ptyle
import torch
import torch.distributed as distributed
from torch import Tensor, nn

SIZE, WINDOW = 44, 16
CUTS = [0, 21, SIZE]  # rows and columns of the 2 x 2 tiles
HALO = (WINDOW // 2, WINDOW // 2)


def problem() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """truth [1, rows, columns] rad, probe, positions [n, 2], noisy patterns; on all ranks alike."""
    generator = torch.Generator().manual_seed(7)
    rows = torch.arange(SIZE, dtype=torch.double)
    truth = torch.zeros(SIZE, SIZE, dtype=torch.double)
    for _ in range(60):
        y, x, radius = torch.rand(3, generator=generator, dtype=torch.double)
        r2 = (rows[:, None] - SIZE * y) ** 2 + (rows[None] - SIZE * x) ** 2
        truth += 0.4 * torch.exp(-r2 / (2 * (1.2 + radius) ** 2))
    axis = rows[:WINDOW] - (WINDOW - 1) / 2
    r2 = axis[:, None] ** 2 + axis[None] ** 2
    probe = 12 * torch.polar(torch.exp(-r2 / 24), 0.05 * r2)[None]
    steps = torch.arange(0, SIZE - WINDOW + 1, 4, dtype=torch.double)
    positions = torch.cartesian_prod(steps, steps)
    clean = ptyle.diffraction(truth[None], probe, positions)
    return truth[None], probe, positions, torch.poisson(clean, generator=generator)


def decoder() -> nn.Sequential:
    """A code [1, 8, rows, columns] to a phase [1, 1, rows, columns] near 0.3 rad."""
    torch.manual_seed(3)
    layers = []
    for features in (8, 16, 16):
        layers += [nn.Conv2d(features, 16, 3, padding=1), nn.Tanh()]
    return nn.Sequential(*layers, nn.Conv2d(16, 1, 3, padding=1), nn.Softplus()).double()


def main(steps: int = 120) -> dict:
    ranks, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    torch.set_num_threads(1)
    network = decoder()
    # Before the group: what torch loads for its first optimizer would hold the group beyond its
    # end, and Gloo's threads meet an interpreter that is gone.
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    group = ""
    if ranks > 1:
        distributed.init_process_group("gloo")
        group = distributed.group.WORLD.group_name
    truth, probe, positions, patterns = problem()
    owners = [tile * ranks // 4 for tile in range(4)]
    mine = [tile for tile in range(4) if owners[tile] == rank]

    def span(k: int) -> tuple[int, int]:
        return CUTS[k], CUTS[k + 1]

    codes, members, origins = [], [], []
    centres = positions + WINDOW / 2
    for tile in mine:
        (top, bottom), (left, right) = span(tile // 2), span(tile % 2)
        generator = torch.Generator().manual_seed(100 + tile)
        shape = (1, 8, bottom - top, right - left)
        codes.append(torch.randn(*shape, generator=generator, dtype=torch.double))
        inside = (centres[:, 0] >= top) & (centres[:, 0] < bottom)
        members.append(inside & (centres[:, 1] >= left) & (centres[:, 1] < right))
        origins.append((max(0, top - HALO[0]), max(0, left - HALO[1])))

    def diffraction_loss(tile: Tensor, where: Tensor, counts: Tensor, origin) -> Tensor:
        return ptyle.diffraction_loss(tile, probe, where, None, counts, origin=origin)[0]

    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        owned = [network(code)[0] for code in codes]  # [1, rows, columns] each
        extended = ptyle.halo_insert(owned, CUTS, CUTS, HALO, owners, group=group)
        loss = torch.zeros((), dtype=torch.double)
        for tile, which, origin in zip(extended, members, origins, strict=True):
            loss = loss + diffraction_loss(tile, positions[which], patterns[which], origin)
        loss.backward()
        total = loss.detach().clone()
        if ranks > 1:
            for parameter in network.parameters():
                distributed.all_reduce(parameter.grad)
            distributed.all_reduce(total)
        optimizer.step()
        losses.append(float(total))

    # Squared error of what each rank owns, without the constant that no pattern sees.
    with torch.no_grad():
        sums = torch.zeros(3, dtype=torch.double)
        for tile, code in zip(mine, codes, strict=True):
            (top, bottom), (left, right) = span(tile // 2), span(tile % 2)
            wrong = torch.full((SIZE, SIZE), torch.nan, dtype=torch.double)
            wrong[top:bottom, left:right] = network(code)[0, 0]
            wrong = (wrong - truth[0])[6:-6, 6:-6]  # where the probe shines
            wrong = wrong[~wrong.isnan()]
            sums += torch.stack([wrong.square().sum(), wrong.sum(), torch.ones_like(wrong).sum()])
        if ranks > 1:
            distributed.all_reduce(sums)
    error = float((sums[0] / sums[2] - (sums[1] / sums[2]) ** 2).sqrt() / truth.std())
    if ranks > 1:
        distributed.destroy_process_group()
    result = {"ranks": ranks, "losses": losses, "error": error}
    if rank == 0:
        print(
            f"{ranks} rank(s): loss {losses[0]:.1f}, after {steps} steps {losses[-1]:.1f}; "
            f"error against the truth {error:.2f} of its contrast"
        )
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--json", help="where rank 0 writes the losses")
    options = parser.parse_args()
    found = main(options.steps)
    if options.json and int(os.environ.get("RANK", "0")) == 0:
        with open(options.json, "w") as file:
            json.dump(found, file)
