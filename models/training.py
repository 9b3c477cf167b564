"""Training of the denoiser and of the amortised network: seeds, progress, checkpoints.

Every step draws its numbers from a generator of its own, seeded by the run's seed and the step's
number: a run that is interrupted and resumed has the bits of one that was not, on as many threads.
"""

import contextlib
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from . import amortised, specimens
from .denoiser import Denoiser
from .files import CHANNELS, load_checkpoint, save_checkpoint

HELD_OUT_NOISE = (0.01, 0.03, 0.1, 0.3)  # rad, of `denoiser_errors`
# For every kind what `train` begins with; all of it is kept in the checkpoint.
DEFAULTS = {
    "denoiser": {"steps": 900, "rate": 2e-3, "batch": 10, "size": 40, "width": 24},
    "amortised": {"steps": 900, "rate": 2e-3, "batch": 2, "size": 32, "width": 16},
}
QUICK = {
    "denoiser": {"steps": 500, "batch": 8, "width": 16},
    "amortised": {"steps": 150, "batch": 1, "width": 12},
}


def build(settings: dict) -> nn.Module:
    """An untrained network, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers go on as they would
        torch.manual_seed(settings["seed"])
        if settings["kind"] == "denoiser":
            return Denoiser(len(CHANNELS[settings["channels"]]), settings["width"])
        return amortised.InitialObject(settings["width"])


def denoiser_loss(model: nn.Module, sources: list[Tensor], settings: dict, step: int) -> Tensor:
    """Mean squared error, in units of the noise's variance and of the specimen's, added: what is
    left of little noise and what is lost of a faint specimen count alike.

    Seven steps of eight compute only what no padding reaches, the eighth the whole piece.
    """
    generator = torch.Generator().manual_seed(settings["seed"] * 1_000_003 + step)
    channels = len(CHANNELS[settings["channels"]])
    r, n = model.radius, settings["batch"]
    if step % 8 == 7:
        truth, noisy, noise = specimens.batch(sources, n, settings["size"] + r, channels, generator)
        error = model(noisy, noise) - truth
    else:
        truth, noisy, noise = specimens.batch(
            sources, n, settings["size"] + 2 * r, channels, generator
        )
        error = model.inside(noisy, noise) - truth[:, :, r:-r, r:-r]
    variance = noise.square()[:, None, None, None]
    held = truth.var((2, 3), keepdim=True) + 0.05 * variance
    return (error.square() * (1 / variance + 1 / held)).mean()


@torch.no_grad()
def denoiser_errors(
    model: Callable, channels: int, levels, seed: int, folder: str | Path | None, contrast=0.3
) -> list[dict]:
    """Root mean squared errors on held-out specimens, without and with the denoiser.

    levels: standard deviations of the noise, in the units of the images
    contrast: of the phase, rad between its percentiles
    """
    held_out = specimens.images(specimens.HELD_OUT, folder, 1000 + seed)
    rows = []
    for i, (name, image) in enumerate(held_out.items()):
        for j, level in enumerate(levels):
            generator = torch.Generator().manual_seed(1_000_000 * (seed + 1) + 100 * i + j)
            limit = 0.35 + 0.45 * torch.rand(4, 1, 1, 1, generator=generator)
            truth = specimens.pieces([image], 4, 80, generator, largest=1.0, limit=limit)
            if channels == 2:
                truth = torch.cat([contrast * truth, 1 - 0.2 * truth.clamp(0, 1)], 1)
            else:
                truth = contrast * truth
            noisy = truth + level * specimens.noise_like(4, channels, 80, generator, limit)
            denoised = model(noisy, torch.full((4,), float(level)))
            before, after = (float((x - truth).square().mean().sqrt()) for x in (noisy, denoised))
            rows.append({"specimen": name, "noise": level, "before": before, "after": after})
    return rows


def over_specimens(rows: list[dict]) -> list[dict]:
    """`denoiser_errors` averaged over the specimens, one row a level of noise."""
    found = []
    for level in dict.fromkeys(row["noise"] for row in rows):
        some = [row for row in rows if row["noise"] == level]
        before, after = (
            (sum(row[key] ** 2 for row in some) / len(some)) ** 0.5 for key in ("before", "after")
        )
        found.append({"noise": level, "before": before, "after": after, "ratio": after / before})
    return found


def clock(seconds: float) -> str:
    """ "42 s" or "3 min 5 s"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Ctrl-C waits for the step to end: whether it has come. A second one ends at once."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came = []

    def note(number: int, frame) -> None:
        came.append(number)
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGINT, before)


def train(
    path: str | Path,
    settings: dict,
    *,
    resume: bool = False,
    folder: str | Path | None = None,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
    until: int | None = None,
    save_every_s: float = 20.0,
) -> nn.Module:
    """Trains and writes the checkpoint `path`, at the end and every `save_every_s` seconds.

    settings: kind, seed, channels (denoiser) and the numbers of DEFAULTS; ignored when resuming
    folder: where simulated specimens are kept; None: simulated anew
    until: the step to stop at, as if interrupted there
    """
    content = {"settings": settings, "step": 0, "losses": [], "seconds": 0.0}
    if resume:
        content = load_checkpoint(path)
        settings = content["settings"]
    model = _network(path, content) if resume else build(settings)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings["rate"])
    if resume:
        optimizer.load_state_dict(content["optimizer"])
    steps = settings["steps"]
    sources = list(specimens.images(specimens.TRAINING, folder, settings["seed"]).values())
    loss_of = denoiser_loss if settings["kind"] == "denoiser" else amortised.training_loss

    def save() -> None:
        content["model"] = model.state_dict()
        content["optimizer"] = optimizer.state_dict()
        content["seconds"] = spent + time.monotonic() - start
        save_checkpoint(path, {k: v for k, v in content.items() if k not in ("format", "version")})

    spent, start = content["seconds"], time.monotonic()
    said = saved = start
    first = content["step"]
    with interruptible() as interrupted:
        for step in range(first, min(steps, until if until is not None else steps)):
            # warms up over 20 steps, then falls along a cosine
            fall = 0.5 * (1 + math.cos(math.pi * step / steps))
            optimizer.param_groups[0]["lr"] = settings["rate"] * min(1, (step + 1) / 20) * fall
            optimizer.zero_grad()
            loss = loss_of(model, sources, settings, step)
            if not torch.isfinite(loss):
                raise ValueError(
                    f"the loss must stay finite, got {loss.item()} in step {step + 1}: "
                    f"--rate {settings['rate']} is too large"
                )
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            content["losses"].append(float(loss.detach()))
            content["step"] = step + 1
            now = time.monotonic()
            if now - said > 5 or step + 1 == steps or step == first:
                said = now
                recent = content["losses"][-50:]
                left = (now - start) / (step + 1 - first) * (steps - step - 1)
                mean = sum(recent) / len(recent)
                say(f"step {step + 1} of {steps}, loss {mean:.4f}, {clock(left)} left")
            if now - saved > save_every_s:
                saved = now
                save()
            if interrupted():
                save()
                raise KeyboardInterrupt
    save()
    if content["step"] == steps and settings["kind"] == "denoiser":
        model.eval()
        channels = len(CHANNELS[settings["channels"]])
        rows = denoiser_errors(model, channels, HELD_OUT_NOISE, settings["seed"], folder)
        content["error"] = over_specimens(rows)
        save()
    return model


def _network(path: str | Path, content: dict) -> nn.Module:
    """What the checkpoint holds."""
    try:
        model = build(content["settings"])
        model.load_state_dict(content["model"])
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: must hold the network that its settings describe, got another "
            f"({type(error).__name__})"
        ) from None
    return model


def restored(path: str | Path) -> tuple[nn.Module, dict]:
    """The network of a checkpoint, ready to use, and the checkpoint's content."""
    content = load_checkpoint(path)
    return _network(path, content).eval(), content
