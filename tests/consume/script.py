"""Saves a model that uses ptyle as TorchScript, with the losses of its training: `script.py FILE`.

In float64: the optimisers of the two languages round differently, and training amplifies that. The
same loop runs with ptyle.diffraction_loss, with the scripted model and with the model saved and
loaded again; replay.cpp goes on from there, in C++.
"""

import sys
import warnings

import ptyle
import torch
from torch import Tensor

warnings.filterwarnings("ignore", category=FutureWarning)  # torch.jit is deprecated, not gone
STEPS = 40


class Model(torch.nn.Module):
    """The loss of (object, probe), with data and a start in its buffers."""

    def __init__(self, **buffers: Tensor):
        super().__init__()
        for name, value in buffers.items():
            self.register_buffer(name, value)

    def forward(self, object: Tensor, probe: Tensor) -> Tensor:
        loss, losses = torch.ops.ptyle.diffraction_loss(
            object, probe, self.positions, self.propagator, self.patterns
        )
        return loss


def make_model() -> Model:
    torch.manual_seed(0)
    truth = 0.5 * torch.rand(2, 24, 27, dtype=torch.double)
    probe = torch.randn(2, 12, 10, dtype=torch.complex128)
    positions = torch.rand(30, 2, dtype=torch.double) * 17 - 1
    phase = torch.randn(12, 10, dtype=torch.double)
    propagator = torch.polar(torch.ones_like(phase), phase)
    return Model(
        positions=positions,
        propagator=propagator,
        patterns=ptyle.diffraction(truth, probe, positions, propagator),
        object=torch.zeros_like(truth),
        probe=torch.view_as_real(0.9 * probe),  # real leaves: Adam is wrong for complex ones
        losses=torch.zeros(STEPS, dtype=torch.double),
    )


def train(model, loss_of) -> Tensor:
    object, probe = (t.detach().clone().requires_grad_() for t in (model.object, model.probe))
    optimizer = torch.optim.Adam([object, probe], lr=0.02)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(object, torch.view_as_complex(probe))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return torch.tensor(losses, dtype=torch.double)


def main(path: str) -> None:
    model = make_model()

    def plain(object, probe):
        return ptyle.diffraction_loss(
            object, probe, model.positions, model.propagator, model.patterns
        )[0]

    losses = train(model, plain)
    assert losses[-1] < 0.1 * losses[0], losses
    model.losses.copy_(losses)
    scripted = torch.jit.script(model)
    scripted.save(path)
    for again in (scripted, torch.jit.load(path)):
        torch.testing.assert_close(train(again, again), losses, rtol=1e-6, atol=0)


if __name__ == "__main__":
    main(sys.argv[1])
