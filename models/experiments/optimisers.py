"""torch's optimisers on ptyle's physics: the same object as the program's own.

    python models/experiments/optimisers.py

Object, probe and positions are plain real leaves, complex ones as `[..., 2]` (torch's Adam and
L-BFGS are wrong for complex leaves). From noise-free patterns, starting at vacuum, torch's L-BFGS,
torch's Adam and `ptyle run` find the same object, up to its global phase. A regulariser, a function
of one's own or a TorchScript file, joins the loss like anything else.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
import ptyle
import torch
from ptyle.models import files
from ptyle.models.regulariser import HuberVariation
from torch import Tensor

SIZE, WINDOW = 40, 16
DOSE = 0.003  # of the noise-free patterns, in the part with noise


def problem() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """truth [1, rows, columns] and probe complex128, positions [n, 2], patterns [n, h, w]."""
    torch.manual_seed(2)
    rows = torch.arange(SIZE, dtype=torch.double)
    truth = torch.zeros(SIZE, SIZE, dtype=torch.double)
    for y, x in torch.rand(30, 2, dtype=torch.double) * SIZE:
        truth += 0.5 * torch.exp(-((rows[:, None] - y) ** 2 + (rows[None] - x) ** 2) / 5)
    axis = rows[:WINDOW] - (WINDOW - 1) / 2
    r2 = axis[:, None] ** 2 + axis[None] ** 2
    probe = 10 * torch.polar(torch.exp(-r2 / 30), 0.06 * r2)[None]
    steps = torch.arange(0, SIZE - WINDOW + 1, 3, dtype=torch.double)
    positions = torch.cartesian_prod(steps, steps)
    truth = torch.polar(torch.ones_like(truth), truth)[None]
    return truth, probe, positions, ptyle.diffraction(truth, probe, positions)


def vacuum() -> Tensor:
    return torch.tensor([1.0, 0.0], dtype=torch.double).repeat(1, SIZE, SIZE, 1).requires_grad_()


def by_adam(loss_of, steps: int = 400) -> Tensor:
    leaf = vacuum()
    optimizer = torch.optim.Adam([leaf], lr=0.05)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(torch.view_as_complex(leaf)).backward()
        optimizer.step()
        schedule.step()
    return torch.view_as_complex(leaf.detach())


def by_lbfgs(loss_of, more: list[Tensor] = (), steps: int = 150) -> Tensor:
    """more: other leaves that loss_of uses."""
    leaf = vacuum()
    leaves = [leaf, *more]
    optimizer = torch.optim.LBFGS(
        leaves, max_iter=steps, history_size=20, line_search_fn="strong_wolfe",
        tolerance_grad=1e-12, tolerance_change=1e-14,
    )  # fmt: skip

    def closure():
        optimizer.zero_grad()
        loss = loss_of(torch.view_as_complex(leaf))
        loss.backward()
        return loss

    optimizer.step(closure)
    return torch.view_as_complex(leaf.detach())


def by_the_program(folder: Path, probe, positions, patterns) -> Tensor:
    with h5py.File(folder / "data.h5", "w") as file:
        file["data"] = patterns.float().numpy()
        file["positions"] = positions.numpy()
        file["probe"] = probe.numpy()
    (folder / "run.toml").write_text(
        '[data]\nfile = "data.h5"\nzero_frequency = "corner"\n'
        '[probe]\nfile = "data.h5"\npower = "keep"\n'
        f"[object]\nshape = [{SIZE}, {SIZE}]\n"
        '[reconstruct]\nrefine = ["object"]\noptimizer = "lbfgs"\nbatches = 1\niterations = 150\n'
        'precision = "double"\nhistory = 20\n[output]\nfolder = "out"\npng = false\n'
    )
    program = Path(sys.executable).parent / "ptyle"
    subprocess.run([program, "run", "run.toml"], cwd=folder, check=True, capture_output=True)
    with h5py.File(folder / "out" / "result.h5") as file:
        return torch.from_numpy(file["object"][()].astype(np.complex128))


def difference(a: Tensor, b: Tensor) -> float:
    """Relative, where the probe shines, up to a global phase."""
    inside = (slice(None), slice(8, SIZE - 8), slice(8, SIZE - 8))
    a, b = a[inside], b[inside]
    turn = (a.conj() * b).sum()
    return float((a * turn / turn.abs() - b).norm() / b.norm())


def main() -> dict[str, float]:
    truth, probe, positions, patterns = problem()

    def loss_of(object: Tensor, probe=probe, positions=positions) -> Tensor:
        return ptyle.diffraction_loss(object, probe, positions, None, patterns)[0]

    with tempfile.TemporaryDirectory() as folder:
        found = {
            "ptyle run, L-BFGS": by_the_program(Path(folder), probe, positions, patterns),
            "torch L-BFGS": by_lbfgs(loss_of),
            "torch Adam": by_adam(loss_of),
        }
        report = {name: difference(object, truth) for name, object in found.items()}
        ours = found["ptyle run, L-BFGS"]
        for name in ("torch L-BFGS", "torch Adam"):
            report[f"{name} from ours"] = difference(found[name], ours)

        # Positions off by up to half a pixel, and a probe off by a little: leaves too.
        off = (positions + 0.5 * (torch.rand_like(positions) - 0.5)).requires_grad_()
        guess = torch.view_as_real(0.97 * probe).clone().requires_grad_()
        start = float((off.detach() - positions).square().mean().sqrt())
        object = by_lbfgs(
            lambda object: loss_of(object, torch.view_as_complex(guess), off), [guess, off], 250
        )
        moved = off.detach() - positions
        report["position error, before"] = start
        report["position error, after"] = float((moved - moved.mean(0)).square().mean().sqrt())
        assert torch.isfinite(object.abs()).all()

        # A regulariser of one's own, and the same from a file.
        noisy = torch.poisson(patterns * DOSE) / DOSE

        def noisy_loss(object: Tensor) -> Tensor:
            return ptyle.diffraction_loss(object, probe, positions, None, noisy)[0]

        def variation(object: Tensor) -> Tensor:
            phase = object.angle()
            return phase.diff(dim=1).square().sum() + phase.diff(dim=2).square().sum()

        files.export(HuberVariation(), files.card("regulariser", ["phase"], 1), f"{folder}/tv.pt")
        huber, _ = files.load(f"{folder}/tv.pt")
        report["noisy, no regulariser"] = difference(by_lbfgs(noisy_loss, steps=60), truth)
        own = by_lbfgs(lambda object: noisy_loss(object) + 1000 * variation(object), steps=60)
        report["noisy, own variation"] = difference(own, truth)

        def with_the_file(object: Tensor) -> Tensor:
            energy = huber(object.angle()[:, None].float()).sum().double()
            return noisy_loss(object) + 20000 * energy

        report["noisy, variation from a file"] = difference(
            by_lbfgs(with_the_file, steps=60), truth
        )
    for name, value in report.items():
        print(f"{name:32} {value:.2e}")
    return report


if __name__ == "__main__":
    main()
