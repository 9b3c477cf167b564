"""ptyle: differentiable ptychography operators on PyTorch.

Importing loads the operators (``torch.ops.ptyle.*``) and prints nothing. The functions below are
those operators with docstrings, and builders of what they are fed with; ``ptyle.ops`` is
``torch.ops.ptyle`` with types, and ``ptyle.reference`` holds the same physics in plain torch.

Shapes and words, the same everywhere in ptyle:

``object``      ``[slices, rows, columns]``; complex: transmission, real: phase shift in radians,
                transmission ``exp(1j * object)``. Vacuum outside.
``probe``       ``[modes, h, w]`` complex, incoherent modes; ``h x w`` is the window.
``positions``   ``[n, 2]`` float64, (row, column) of the window's top-left corner in object pixels.
                The window sees the object at the floor; the fraction moves the probe, by a Fourier
                shift, periodic over the window: at row -0.25 the corner is -1 and the probe moves
                by 0.75. Nothing jumps where a position passes a whole pixel, as long as the probe
                is small at the window's edge.
``propagator``  ``[h, w]`` or ``[slices - 1, h, w]`` complex transfer function between slices, zero
                frequency at ``[0, 0]``; None for one slice.
``patterns``    ``[n, h, w]`` counts, zero frequency at ``[0, 0]`` in the far field: uint8, int16,
                uint16, int32, float32 or float64 as they are; other integers and floats are copied
                into one of these in every call, where they fit.
``origin``      (row, column), whole pixels: where the object's corner lies in the frame of the
                positions.

All tensors lie on one device. One call works in one precision, that of the probe: complex64 with
float32 or complex128 with float64 for everything but positions, patterns, masks and ``losses``
buffers. Inputs may have any strides and may be views; buffers that are added into are contiguous.
There may be no slices, modes, positions or object pixels; a window has at least one pixel.
Derivatives are reverse-mode ones (``backward``, ``torch.autograd.grad``, to any order); forward
mode is an error, and torch does not let ``torch.func.grad`` and its relatives into operators in
C++: for those there is ``ptyle.reference``.
"""

# the first of all: torch is not imported before it is known to fit
from ptyle._library import load_cuda, version

# isort: split
from ptyle import reference
from ptyle._operators import (
    add_patches,
    cpu_kernels,
    diffraction,
    diffraction_loss,
    diffraction_loss_accumulate_,
    exit_waves,
    extract_patches,
    good_size,
    halo_add,
    halo_insert,
    illumination,
    window_stack,
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
    "cpu_kernels",
    "diffraction",
    "diffraction_loss",
    "diffraction_loss_accumulate_",
    "electron_wavelength",
    "exit_waves",
    "extract_patches",
    "fresnel_propagator",
    "good_size",
    "halo_add",
    "halo_insert",
    "hermite_modes",
    "illumination",
    "load_cuda",
    "object_shape",
    "ops",
    "raster_positions",
    "reference",
    "version",
    "window_stack",
]
__version__ = version()
