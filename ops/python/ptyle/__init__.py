"""ptyle: differentiable ptychography operators on PyTorch.

Importing loads the operators (``torch.ops.ptyle.*``) and prints nothing. The functions below are
those operators with docstrings; ``ptyle.reference`` holds the same physics in plain torch.

Shapes and words, the same everywhere in ptyle:

``object``      ``[slices, rows, columns]``; complex: transmission, real: phase shift in radians,
                transmission ``exp(1j * object)``. Vacuum outside.
``probe``       ``[modes, h, w]`` complex, incoherent modes; ``h x w`` is the window.
``positions``   ``[n, 2]`` float64, (row, column) of the window's top-left corner in object pixels;
                the fractional part moves the probe.
``propagator``  ``[h, w]`` or ``[slices - 1, h, w]`` complex transfer function between slices, zero
                frequency at ``[0, 0]``; None for one slice.
``patterns``    ``[n, h, w]`` uint8, int16, uint16, int32, float32 or float64 counts, zero frequency
                at ``[0, 0]`` in the far field.
"""

from ptyle._library import load_cuda, version
from ptyle._operators import (
    diffraction,
    diffraction_loss,
    exit_waves,
    illumination,
)

__all__ = [
    "diffraction",
    "diffraction_loss",
    "exit_waves",
    "illumination",
    "load_cuda",
    "version",
]
__version__ = version()
