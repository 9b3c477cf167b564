"""Checkpoints, exported priors and their cards.

A card is a dict that says what a prior is for (README.md lists its keys). An exported file is a zip
of torch's, TorchScript (``.pt``) or compiled by AOTInductor (``.pt2``); in both the card is the
uncompressed record ``extra/ptyle_card.json``, which torch's reader finds without loading the model.
"""

import contextlib
import copy
import ctypes
import json
import os
import platform
import tempfile
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

RECORD = "ptyle_card.json"  # in the folder "extra"
CHANNELS = {
    "phase": ["phase"],
    "object": ["phase", "amplitude"],
    "probe": ["real", "imaginary"],
}
UNITS = {"phase": "rad", "amplitude": "1", "real": "1", "imaginary": "1"}
LARGEST = 1 << 20  # pixels along a side, and images in a batch
MOST_REACH = 65536  # of a receptive field, pixels: as the program has it


def card(kind: str, channels: list[str], receptive_field: int | None, **more) -> dict:
    """What an exported file says of itself.

    kind: "denoiser" or "regulariser"
    channels: a value of `CHANNELS`
    receptive_field: pixels on each side that an output pixel depends on; None: all of the image
    more: what README.md lists, of a denoiser at least noise, {"least", "most"}

    ValueError where the program would refuse it.
    """
    if kind not in ("denoiser", "regulariser"):
        raise ValueError(f"kind: must be 'denoiser' or 'regulariser', got {kind!r}")
    if channels not in CHANNELS.values():
        known = ", ".join(map(str, CHANNELS.values()))
        raise ValueError(f"channels: must be one of {known}, got {channels!r}")
    if receptive_field is not None:
        if type(receptive_field) is not int or not 0 <= receptive_field <= MOST_REACH:
            raise ValueError(
                f"receptive_field: must be an integer from 0 to {MOST_REACH} or None, "
                f"got {receptive_field!r}"
            )
    if kind == "denoiser":
        noise = more.get("noise")
        try:
            fits = 0 <= noise["least"] <= noise["most"] < float("inf")
        except (KeyError, TypeError):
            fits = False
        if not fits:
            raise ValueError(
                "noise: must be {'least': a, 'most': b}, the standard deviations that the denoiser "
                f"was trained with, 0 <= a <= b, got {noise!r}"
            )
    made = {
        "format": "ptyle.prior",
        "version": 1,
        "kind": kind,
        "channels": channels,
        "units": [UNITS[channel] for channel in channels],
        "receptive_field": receptive_field,
        "ptyle": version("ptyle"),
        "torch": str(torch.__version__),
    }
    if taken := sorted(made.keys() & more.keys()):
        raise ValueError(f"{taken[0]}: must not be given, is {made[taken[0]]!r}")
    made = {**made, "smallest": [1, 1], **more}
    smallest = made["smallest"]
    sizes = smallest if isinstance(smallest, (list, tuple)) else ()
    if len(sizes) != 2 or not all(type(n) is int and 1 <= n <= MOST_REACH for n in sizes):
        raise ValueError(f"smallest: must be [rows, columns] from 1, got {smallest!r}")
    return made


def _reason(error: Exception) -> str:
    """The first sentence of what torch says: advice follows that does not fit here."""
    return (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0].rstrip(".")


def read_card(path: str | Path) -> dict:
    """The card of an exported file, whose model is not loaded."""
    try:
        reader = torch._C.PyTorchFileReader(str(path))
        found = json.loads(reader.get_record(f"extra/{RECORD}"))
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path}: must be a prior with a card: {_reason(error)}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: the card must be a JSON object, got {type(found).__name__}")
    if found.get("format") != "ptyle.prior" or found.get("version") != 1:
        raise ValueError(
            f'{path}: the card\'s format must be "ptyle.prior", version 1, got '
            f"{found.get('format')!r}, version {found.get('version')!r}"
        )
    return found


def _example(found: dict) -> tuple[Tensor, ...]:
    """Inputs of no special size."""
    x = torch.linspace(0, 1, 2 * len(found["channels"]) * 41 * 37, dtype=torch.float32)
    x = x.reshape(2, len(found["channels"]), 41, 37)
    noise = torch.tensor([0.1, 0.2], dtype=torch.float32)
    return (x, noise) if found["kind"] == "denoiser" else (x,)


def _check(model: nn.Module, found: dict) -> None:
    """ValueError where the model does not do what its card says, on made-up images."""
    reach, channels = found["receptive_field"], len(found["channels"])
    denoiser = found["kind"] == "denoiser"
    generator = torch.Generator().manual_seed(0)

    def run(x: Tensor, noise: Tensor) -> Tensor:
        with torch.no_grad():
            made = model(x, noise) if denoiser else model(x)
        if not isinstance(made, Tensor) or made.dtype != torch.float32:
            got = made.dtype if isinstance(made, Tensor) else type(made).__name__
            raise ValueError(f"model: must give a float32 tensor, got {got}")
        wanted = list(x.shape) if denoiser else [len(x), *x.shape[2:]]
        number = reach is None and not denoiser and made.dim() == 0
        if list(made.shape) != wanted and not number:
            raise ValueError(
                f"model: must give {wanted} of an image {list(x.shape)}, got {list(made.shape)}"
            )
        if not made.isfinite().all():
            raise ValueError("model: must give finite numbers of finite ones, got others")
        return made

    def image(*shape: int) -> Tensor:
        return torch.rand(1, channels, *shape, generator=generator, dtype=torch.float32)

    smallest = found.get("smallest", [1, 1])
    levels = [found["noise"][key] for key in ("least", "most")] if denoiser else [0, 0]
    noise = torch.tensor(levels, dtype=torch.float32)
    run(image(*smallest), noise[:1])
    side = max(41 if reach is None else 2 * min(reach, 500) + 9, *smallest)
    x, other = image(side, side + 2), image(side, side + 2)
    made = run(x, noise[1:])
    close = 1e-4 * float(made.abs().max()) + 1e-6
    if reach is not None and reach <= 500:  # of more it would take too large an image
        _check_reach(run, x, other, made, noise[1:], reach, close)
    both = run(torch.cat([other, x]), noise)
    if both.dim() > 0 and (both[1:] - made).abs().max() > close:
        raise ValueError("model: must give of an image what it gives of it alone, got another")


def _check_reach(
    run: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    other: Tensor,
    made: Tensor,
    noise: Tensor,
    reach: int,
    close: float,
) -> None:
    """ValueError where what the model made of x has seen more than `reach` pixels around each."""
    other = other.clone()
    other[..., : reach + 1, : reach + 1] = x[..., : reach + 1, : reach + 1]
    apart = float((run(other, noise) - made)[..., 0, 0].abs().max())
    if apart > close:
        raise ValueError(
            "receptive_field: must be the pixels on each side that a result depends on, got "
            f"{reach}, and what lies beyond changes the result at (0, 0) by {apart:.2g}"
        )
    # a tile may begin anywhere
    shifted = run(x[..., 1:, 1:].contiguous(), noise)
    ours, theirs = slice(reach + 1, -reach or None), slice(reach, -reach or None)
    apart = float((made[..., ours, ours] - shifted[..., theirs, theirs]).abs().max())
    if apart > close:
        raise ValueError(
            "model: must give the same where the image begins a pixel later, got a difference "
            f"of {apart:.2g} (strides tie a result to even places)"
        )


def export(model: nn.Module, found: dict, path: str | Path, isa: str = "v3") -> None:
    """Writes a prior with its card: TorchScript to .pt, compiled by AOTInductor to .pt2.

    isa: of a .pt2, "v3" (AVX2, any x86-64 processor since 2015) or "native" (this one's)

    The model stays as it is: a copy is written. Neither torch's compiler cache nor its settings
    in this process are touched.

    ValueError where the path's ending is another, where this torch compiles for its own processor
    alone ("v3" with torch 2.11), and where the model does not do what the card says: it is run on a
    small image.
    """
    path = Path(path)
    if path.suffix not in (".pt", ".pt2"):
        raise ValueError(f"{path}: a prior's file must end in .pt or .pt2")
    if isa not in ("v3", "native"):
        raise ValueError(f"isa: must be 'v3' or 'native', got {isa!r}")
    model = copy.deepcopy(model).eval().requires_grad_(False)
    _check(model, found)
    text = json.dumps(found, indent=1, allow_nan=False)
    # the archive's inner folder has the file's name: the same name, in a folder of its own
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        part = Path(scratch) / path.name
        if path.suffix == ".pt":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # TorchScript is deprecated, and has gradients
                torch.jit.script(model).save(str(part), _extra_files={RECORD: text})
        elif found["kind"] == "regulariser":
            raise ValueError(f"{path}: a regulariser must go to .pt: a .pt2 has no gradient")
        else:
            if isa == "v3":
                _require_portable_code()
            _compile(model, found, text, part, isa)
        part.replace(path)


@contextlib.contextmanager
def _fresh_compiler(folder: str) -> Iterator[None]:
    """torch's compiler with a cache of its own in `folder`, and the processor's instructions known.

    torch asks for the processor's vector instructions once a process: it compiles a trial library
    with the options of the moment and keeps it in the cache. Without libtorch that trial cannot be
    loaded, the answer is "none", and a cache in which it was asked so keeps that answer for every
    later program. So it is asked here, with libtorch, in a cache that nobody else reads.
    """
    from torch._inductor import config, cpu_vec_isa
    from torch._inductor.utils import fresh_cache

    with fresh_cache(dir=folder):
        with config.patch({"aot_inductor.link_libtorch": True, "cpp.simdlen": None}):
            if not cpu_vec_isa.valid_vec_isa_list():
                # asked before in this process, of a cache with the wrong answer
                cpu_vec_isa.valid_vec_isa_list.cache_clear()
                cpu_vec_isa.VecISA._VecISA__bool__impl.cache_clear()
            if not cpu_vec_isa.valid_vec_isa_list() and platform.machine() == "x86_64":
                warnings.warn(
                    "torch's compiler finds no vector instructions on this processor: the model is "
                    "right, and several times slower than it could be",
                    stacklevel=5,
                )
        yield


def _require_portable_code() -> None:
    from torch._inductor import config

    if not hasattr(config.cpp, "march"):
        raise ValueError(
            f"isa: must be 'native' with torch {torch.__version__}, which compiles a .pt2 for the "
            "processor that it runs on (torch 2.15 makes portable ones), got 'v3'"
        )


def _compile(model: nn.Module, found: dict, text: str, path: Path, isa: str) -> None:
    from torch.export import Dim
    from torch.export.pt2_archive._package import package_pt2

    names = dict(zip((0, 2, 3), ("n", "rows", "columns"), strict=True))
    sizes = {axis: Dim(name, min=1, max=LARGEST) for axis, name in names.items()}
    short = {f"ptyle_{key}": str(found[key]) for key in ("kind", "receptive_field", "ptyle")}
    options = {
        "aot_inductor.package": True,
        # libtorch.so, which needs all of CUDA, is not asked for: who loads the file has torch_cpu
        "aot_inductor.link_libtorch": False,
        # they would go to a folder that all of the user's programs share, whatever the cache is
        "aot_inductor.precompile_headers": False,
        "aot_inductor.metadata": {**short, "ptyle_channels": ",".join(found["channels"])},
    }
    if isa == "v3":  # without march, g++ would use this processor's instructions all the same
        options |= {"cpp.simdlen": 256, "cpp.march": "x86-64-v3"}
    with torch.no_grad(), tempfile.TemporaryDirectory() as scratch:
        exported = torch.export.export(
            model, _example(found), dynamic_shapes={"x": sizes, "noise": {0: sizes[0]}}
        )
        options["aot_inductor.output_path"] = scratch
        with _fresh_compiler(scratch):
            made = torch._inductor.aot_compile(exported.module(), _example(found), options=options)
        package_pt2(str(path), aoti_files={"model": made}, extra_files={RECORD: text})


def load(path: str | Path):
    """An exported prior and its card: (model, card); the model is called like the module."""
    found = read_card(path)
    if "constants.pkl" in torch._C.PyTorchFileReader(str(path)).get_all_records():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.jit.load(str(path)), found
    # such a file names no libraries and takes torch's from the process, where Python hides them
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    return torch._inductor.aoti_load_package(str(path)), found


def save_checkpoint(path: str | Path, content: dict) -> None:
    """Written beside and moved into place: what was there stays whole until the new one is."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("wb") as file:  # torch's own says nothing of folders that are read-only
            torch.save({"format": "ptyle.models", "version": 1, **content}, file)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def load_checkpoint(path: str | Path) -> dict:
    """A checkpoint of `python -m ptyle.models train`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a file that is something else
            content = torch.load(path, weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{path}: must be an existing checkpoint, got no file") from None
    except Exception as error:  # of pickle, zip and torch: whatever is in the file
        raise ValueError(
            f"{path}: must be a checkpoint of `train`, got something else ({_reason(error)})"
        ) from None
    parts = {"settings": dict, "model": dict, "optimizer": dict, "losses": list, "step": int}
    if not isinstance(content, dict) or content.get("format") != "ptyle.models":
        raise ValueError(f"{path}: must be a checkpoint of `train`, got something else")
    if content.get("version") != 1:
        raise ValueError(f"{path}: must be of version 1, got {content.get('version')!r}")
    for name, kind in parts.items():
        if not isinstance(content.get(name), kind):
            raise ValueError(f"{path}: must be a whole checkpoint, got one without {name!r}")
    return content
