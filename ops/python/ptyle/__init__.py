"""ptyle: differentiable ptychography operators on PyTorch.

Importing loads the operators (``torch.ops.ptyle.*``) and prints nothing. The functions below are
those operators with docstrings, and builders of what they are fed with; ``ptyle.ops`` is
``torch.ops.ptyle`` with types, and ``ptyle.reference`` holds the same physics in plain torch.

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
    add_patches,
    diffraction,
    diffraction_loss,
    diffraction_loss_accumulate_,
    exit_waves,
    extract_patches,
    illumination,
)
from ptyle._torch_ops import TorchOps, ops
from ptyle.builders import (
    aberrated_probe,
    angular_spectrum_propagator,
    electron_wavelength,
    fresnel_propagator,
    hermite_modes,
    object_shape,
    raster_positions,
)

__all__ = [
    "TorchOps",
    "aberrated_probe",
    "add_patches",
    "angular_spectrum_propagator",
    "diffraction",
    "diffraction_loss",
    "diffraction_loss_accumulate_",
    "electron_wavelength",
    "exit_waves",
    "extract_patches",
    "fresnel_propagator",
    "hermite_modes",
    "illumination",
    "load_cuda",
    "object_shape",
    "ops",
    "raster_positions",
    "version",
]
__version__ = version()
