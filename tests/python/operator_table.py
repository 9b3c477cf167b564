"""The operator table's data: what the tests run and what ops/docs/table.md says."""

from dataclasses import dataclass, field

import torch
import torch._inductor.exc
from conftest import make_problem
from ptyle import reference

COLUMNS = {
    "CPU": "the outputs are those of plain torch (`ptyle.reference`; for `_accumulate_`, gradients "
    "by torch's autograd)",
    "Meta": "tensors without data give outputs of the same shapes and types",
    "autograd": "first derivatives against differences, `gradcheck` in double precision",
    "second derivative": "the same of the gradients, `gradgradcheck`",
    "autocast": "a bfloat16 input is taken in float32, its gradient is bfloat16",
    "compile": "`torch.compile(fullgraph=True)` with inductor, another number of positions "
    "without compiling again; outputs and gradients",
    "export": "`torch.export` with any number of positions",
    "AOTInductor": "compiled ahead of time, packaged, loaded, run with another number of positions",
    "TorchScript": "scripted, saved, loaded; outputs and gradients to the bit",
    "vmap": "`torch.func.vmap` (torch's fallback, a loop) equals a loop",
}


@dataclass(frozen=True)
class NotApplicable:
    """A cell that does not apply: why, and the error that its test then sees."""

    reason: str
    error: type[Exception]
    match: str


@dataclass(frozen=True)
class Row:
    """An operator and how to call it. Tensors are names of `problem`'s, "argument=name" if other.

    The first of `unknowns` is what autocast and vmap vary.
    """

    name: str
    tensors: str
    unknowns: str
    options: dict = field(default_factory=dict)
    mutated: str = ""
    exceptions: dict[str, NotApplicable] = field(default_factory=dict)

    def operator(self):
        return getattr(torch.ops.ptyle, self.name)

    def arguments(self, **options) -> dict[str, torch.Tensor]:
        """The tensors by the operator's names for them."""
        there = problem(**options)
        pairs = [text.split("=") for text in self.tensors.split()]
        return {pair[0]: there[pair[-1]].clone() for pair in pairs}

    def call(self, operator=None, **tensors) -> tuple[torch.Tensor, ...]:
        """Its outputs; what it would change is copied first, and counts as output."""
        changed = self.mutated.split()
        tensors = {n: t.clone() if n in changed else t for n, t in tensors.items()}
        result = (operator or self.operator())(**tensors, **self.options)
        if changed:
            return tuple(tensors[name] for name in changed)
        return result if isinstance(result, tuple) else (result,)

    def reference(self, **tensors) -> tuple[torch.Tensor, ...]:
        return self.call(getattr(reference, self.name), **tensors)

    def is_differentiable(self) -> bool:
        return "autograd" not in self.exceptions


def problem(dtype=torch.complex128, n=3) -> dict[str, torch.Tensor]:
    obj, probe, positions, propagator, patterns = make_problem(
        dtype=dtype, n=n, h=4, w=5, rows=9, columns=8, real_object=True
    )
    generator = torch.Generator().manual_seed(1)
    real = obj.dtype
    return dict(
        object=obj,
        probe=probe,
        positions=positions,
        propagator=propagator,
        patterns=patterns,
        patches=torch.randn(n, 2, 4, 5, dtype=real, generator=generator),
        buffer_of_object=torch.ones_like(obj),
        buffer_of_probe=torch.ones_like(probe),
        illumination=torch.ones_like(obj),
        amplitude_errors=torch.ones(n, dtype=torch.double),
        losses=torch.ones(n, dtype=torch.double),
    )


MODEL = "object probe positions propagator"
BUFFERS = "grad_object=buffer_of_object grad_probe=buffer_of_probe losses illumination "
BUFFERS += "amplitude_errors"
NO_GRADIENT = NotApplicable(
    "it adds gradients into the caller's buffers and has none itself; tensors that require one are "
    "an error",
    NotImplementedError,
    "object must not require a gradient",
)
NOT_IN_INDUCTOR = NotApplicable(
    "torch's inductor cannot lower an operator that changes its arguments where some are complex; "
    '`torch.compile(backend="aot_eager")` and a call outside what is compiled work (tested)',
    torch._inductor.exc.InductorError,
    "auto_functionalized_v2 was not removed",
)
ROWS = [
    Row("exit_waves", MODEL, MODEL),
    Row("diffraction", MODEL, MODEL),
    Row("diffraction_loss", f"{MODEL} patterns", MODEL),
    Row(
        "diffraction_loss_accumulate_",
        f"{MODEL} patterns {BUFFERS}",
        "object",
        dict(grad_positions=None, grad_propagator=None),
        mutated="grad_object grad_probe losses illumination amplitude_errors",
        exceptions={
            "autograd": NO_GRADIENT,
            "second derivative": NO_GRADIENT,
            "autocast": NotApplicable(
                "a buffer has the type of its input: nothing is cast, half precision is an error",
                TypeError,
                "object must be ComplexFloat or Float",
            ),
            "compile": NOT_IN_INDUCTOR,
            "AOTInductor": NOT_IN_INDUCTOR,
            "vmap": NotApplicable(
                "torch's fallback takes no operator that changes its arguments; call it in a loop",
                RuntimeError,
                "Batching rule not implemented",
            ),
        },
    ),
    Row("extract_patches", "object positions", "object positions", dict(window=[4, 5])),
    Row("add_patches", "patches positions", "patches positions", dict(shape=[9, 8])),
    Row(
        "illumination",
        "probe positions",
        "probe",
        dict(shape=[9, 8]),
        exceptions={
            "autocast": NotApplicable(
                "its only values are complex, and there are no complex numbers of 16 bits to go "
                "with bfloat16",
                TypeError,
                "probe must be complex64 or complex128",
            ),
        },
    ),
]
