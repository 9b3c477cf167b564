"""Calls of halo_insert and halo_add in which the last rank has something else than the others.

`halo_disagreement.py FILE`, started with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. One call
after another; every rank writes what each of them raised into FILE.RANK.
"""

import json
import sys

import ptyle
import torch
import torch.distributed as dist

RIGHT = dict(row_cuts=[0, 4, 8, 12], column_cuts=[0, 8], halo=(2, 1), owners=[0, 1, 2])
# what the last rank has: arguments, its tensors' (rows, slices, dtype, gradient)
CASES = {
    "right": {},
    "row_cuts": dict(row_cuts=[0, 5, 8, 12]),
    "more rows": dict(row_cuts=[0, 4, 8, 13], rows=5),
    "more tiles": dict(row_cuts=[0, 4, 6, 8, 12], owners=[0, 1, 1, 2]),
    "column_cuts": dict(column_cuts=[0, 9], columns=9),
    "halo": dict(halo=(1, 1)),
    "owners": dict(owners=[1, 0, 2]),
    "slices": dict(slices=3),
    "type": dict(dtype=torch.float64),
    "complex": dict(dtype=torch.complex64),
    "gradient": dict(gradient=True),
    "operator": dict(operator="halo_add"),
    "right again": {},
}


def call(group, *, operator="halo_insert", rows=4, columns=8, slices=2, gradient=False, **rest):
    dtype = rest.pop("dtype", torch.float32)
    tiling = RIGHT | rest
    if operator == "halo_add":  # the last tile's rows with its halo
        rows += tiling["halo"][0]
    tile = torch.ones(slices, rows, columns, dtype=dtype, requires_grad=gradient)
    return getattr(ptyle, operator)([tile], **tiling, group=group)


def main(path: str) -> None:
    dist.init_process_group("gloo")
    rank, group = dist.get_rank(), dist.group.WORLD.group_name
    found = {}
    for name, change in CASES.items():
        try:
            (extended,) = call(group, **(change if rank == dist.get_world_size() - 1 else {}))
            found[name] = f"{extended.sum().item():g}"
        except ValueError as error:
            found[name] = str(error)
    with open(f"{path}.{rank}", "w") as file:
        json.dump(found, file)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
