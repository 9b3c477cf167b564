"""The command line ``python -m ptyle.models``: train, export, evaluate, card.

Exit codes: 0 done; 1 failed while running; 2 the command line is wrong; 130 interrupted, saved.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from . import amortised, evaluation, files, specimens, training
from .regulariser import HuberVariation
from .repeats import Repeats


def number(kind: type, rule: str, holds: Callable) -> Callable:
    """An argparse type: a number of which a rule holds."""

    def parse(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not math.isfinite(value) or not holds(value):
            raise argparse.ArgumentTypeError(f"must be {rule}, got {text!r}")
        return value

    return parse


def writable(text: str) -> Path:
    """An argparse type: a file that can be written."""
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"must be a file in an existing folder, got {text!r}")
    return path


def folder(text: str) -> Path:
    """An argparse type: a folder, or the name of one to be made."""
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"must be a folder, got the file {text!r}")
    return path


def choice(*names: str) -> Callable:
    """An argparse type: one of some words."""

    def parse(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"must be {' or '.join(names)}, got {text!r}")
        return text

    return parse


POSITIVE = number(float, "a number greater than 0", lambda value: value > 0)


def count(most: int) -> Callable:
    """An argparse type: an integer from 1 to `most`."""
    return number(int, f"an integer from 1 to {most}", lambda value: 1 <= value <= most)


def between(least: float, most: float) -> Callable:
    """An argparse type: a number in a range."""
    return number(float, f"a number from {least:g} to {most:g}", lambda x: least <= x <= most)


SEED = number(int, "an integer from 0 to 1000000", lambda value: 0 <= value <= 1_000_000)
CHANNELS = choice(*files.CHANNELS)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m ptyle.models",
        description="Learned priors: train, export, evaluate.",
        epilog="Example: train denoiser -o phase.ckpt; export phase.ckpt -o phase.pt2; "
        "evaluate phase.pt2",
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="train|export|evaluate|card")

    train = verbs.add_parser("train", help="train a network on simulated specimens")
    train.add_argument("kind", type=choice("denoiser", "amortised"), help="denoiser or amortised")
    train.add_argument("-o", "--output", type=writable, required=True, help="checkpoint to write")
    train.add_argument("--force", action="store_true", help="overwrite an existing one")
    train.add_argument("--resume", action="store_true", help="go on from it, as it was begun")
    train.add_argument(
        "--channels", type=CHANNELS, help="of a denoiser: phase [default] or object, phase and "
        "amplitude"
    )  # fmt: skip
    train.add_argument("--quick", action="store_true", help="a small network in half a minute")
    train.add_argument("--steps", type=count(1_000_000), help="[900]")
    train.add_argument("--batch", type=count(4096), help="images or experiments a step [10; 2]")
    train.add_argument("--width", type=count(1024), help="features of hidden layers [24; 16]")
    train.add_argument("--rate", type=POSITIVE, help="of Adam, at its largest [0.002]")
    train.add_argument("--seed", type=SEED, help="of everything drawn [0]")

    export = verbs.add_parser("export", help="write a prior that `ptyle run` loads")
    export.add_argument("model", help="a denoiser's checkpoint, or huber")
    export.add_argument(
        "-o", "--output", type=writable, required=True, help=".pt TorchScript, .pt2 compiled"
    )
    export.add_argument("--force", action="store_true", help="overwrite an existing file")
    export.add_argument(
        "--isa", type=choice("v3", "native"), help="of a .pt2: v3 (AVX2) [default] or native"
    )
    export.add_argument(
        "--repeats", action="store_true", help="average first what repeats, as crystals do (.pt)"
    )
    export.add_argument(
        "--channels", type=CHANNELS, help="of huber: phase [default], object, probe"
    )
    export.add_argument(
        "--delta", type=between(1e-6, 1e6), help="of huber, in the image's units [0.05]"
    )
    export.add_argument("--weight", type=between(1e-6, 1e6), help="of huber [1]")

    evaluate = verbs.add_parser("evaluate", help="errors on specimens that were not trained on")
    evaluate.add_argument("model", help="a checkpoint, .pt or .pt2")
    evaluate.add_argument(
        "--noise",
        type=between(1e-6, 1e3),
        nargs="+",
        help="standard deviations [0.01 0.03 0.1 0.3]",
    )
    evaluate.add_argument("--contrast", type=between(1e-6, 1e3), help="of the phase, in rad [0.3]")
    evaluate.add_argument("--json", type=writable, help="file to write all rows to")
    evaluate.add_argument("--png", type=writable, help="file to draw to")
    evaluate.add_argument("--seed", type=SEED, default=0, help="of pieces and noise [0]")

    for verb in (train, evaluate):
        verb.add_argument("--threads", type=count(1024), help="[all cores]")
        verb.add_argument(
            "--specimens", type=folder, help="folder that simulated specimens are kept in [none]"
        )
    show = verbs.add_parser("card", help="print the card of an exported prior")
    show.add_argument("model", help="a .pt or .pt2")
    return top


class Wrong(ValueError):
    """The command line asks for what cannot be."""


def allow_writing(options: argparse.Namespace) -> None:
    if options.output.exists() and not options.force:
        raise Wrong(
            f"--output: {options.output} must not exist (--force overwrites it), got a file"
        )


def refuse(options: argparse.Namespace, names: list[str], rule: str) -> None:
    for name in names:
        given = getattr(options, name)
        if given is not None and given is not False:
            raise Wrong(f"--{name}: {rule}, got {given!r}")


def train(options: argparse.Namespace) -> None:
    numbers = ["steps", "batch", "width", "rate"]
    if options.resume:
        refuse(options, [*numbers, "seed", "channels", "quick", "force"], "must not be given with "
               "--resume, which goes on as it was begun")  # fmt: skip
        settings = files.load_checkpoint(options.output)["settings"]
        if settings["kind"] != options.kind:
            raise Wrong(f"kind: must be {settings['kind']}, as in the checkpoint, "
                        f"got {options.kind!r}")  # fmt: skip
    else:
        allow_writing(options)
        settings = {"kind": options.kind, "seed": options.seed or 0}
        settings |= training.DEFAULTS[options.kind]
        settings |= training.QUICK[options.kind] if options.quick else {}
        settings |= {name: getattr(options, name) for name in numbers if getattr(options, name)}
        if options.kind == "denoiser":
            settings["channels"] = options.channels or "phase"
            if settings["channels"] == "probe":
                raise Wrong(
                    "--channels: must be phase or object to train on specimens, got 'probe'"
                )
        else:
            refuse(options, ["channels"], "is for a denoiser")
    start = time.monotonic()
    training.train(options.output, settings, resume=options.resume, folder=options.specimens)
    seconds = training.clock(time.monotonic() - start)
    print(f"{options.output}: trained in {seconds}")
    if settings["kind"] == "denoiser":
        evaluation.print_levels(files.load_checkpoint(options.output)["error"])


def export(options: argparse.Namespace) -> None:
    allow_writing(options)
    if options.output.suffix not in (".pt", ".pt2"):
        raise Wrong(f"--output: must end in .pt or .pt2, got {str(options.output)!r}")
    if options.output.suffix == ".pt":
        refuse(options, ["isa"], "is for a .pt2")
    else:
        refuse(options, ["repeats"], "is for a .pt")
    if options.model == "huber":
        refuse(options, ["repeats"], "is for a denoiser")
        if options.output.suffix == ".pt2":
            raise Wrong("--output: must end in .pt for a regulariser (a .pt2 has no gradient), got "
                        f"{str(options.output)!r}")  # fmt: skip
        model = HuberVariation(options.delta or 0.05, options.weight or 1.0)
        channels = files.CHANNELS[options.channels or "phase"]
        found = files.card("regulariser", channels, model.radius, name="Huber total variation",
                           delta=model.delta, weight=model.weight)  # fmt: skip
    else:
        refuse(options, ["channels", "delta", "weight"], "is for huber")
        model, content = training.restored(options.model)
        settings = content["settings"]
        if settings["kind"] != "denoiser":
            raise Wrong(f"model: must be a denoiser or huber, got {settings['kind']!r}")
        if "error" not in content:
            raise Wrong(f"model: {options.model} must be trained to its end (train --resume), got "
                        f"step {content['step']} of {settings['steps']}")  # fmt: skip
        if options.repeats:
            model = Repeats(model)
        found = files.card(
            "denoiser",
            files.CHANNELS[settings["channels"]],
            model.radius,
            noise=dict(zip(("least", "most"), specimens.NOISE, strict=True)),
            trained_on=", ".join(specimens.TRAINING) + " and drawn images",
            noise_of_contrast=list(specimens.NOISE_OF_CONTRAST),
            seed=settings["seed"],
            steps=settings["steps"],
            error=content["error"],
            repeats=options.repeats,
        )
    start = time.monotonic()
    files.export(model, found, options.output, options.isa or "v3")
    size = options.output.stat().st_size
    seconds = training.clock(time.monotonic() - start)
    print(f"{options.output}: {size} bytes, made in {seconds}")


def evaluate(options: argparse.Namespace) -> None:
    if not Path(options.model).is_file():
        raise Wrong(f"model: must be an existing file, got {options.model!r}")
    if Path(options.model).suffix in (".pt", ".pt2"):
        model, found = files.load(options.model)
        if found["kind"] != "denoiser":
            raise Wrong(f"model: must be a denoiser or a checkpoint, got a {found['kind']!r}")
        channels = found["channels"]
    else:
        model, content = training.restored(options.model)
        if content["settings"]["kind"] == "amortised":
            refuse(options, ["noise", "contrast", "png"], "is for a denoiser")
            rows = amortised.iterations_saved(model, options.seed, options.specimens)
            evaluation.print_iterations(rows)
            if options.json:
                options.json.write_text(json.dumps(rows, indent=1) + "\n")
            return
        channels = files.CHANNELS[content["settings"]["channels"]]
    if options.png and options.png.suffix not in (".pdf", ".png", ".svg"):
        raise Wrong(f"--png: must end in .png, .pdf or .svg, got {str(options.png)!r}")
    levels = options.noise or list(training.HELD_OUT_NOISE)
    rows = training.denoiser_errors(model, len(channels), levels, options.seed, options.specimens,
                                    options.contrast or 0.3)  # fmt: skip
    evaluation.print_specimens(rows)
    evaluation.print_levels(training.over_specimens(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    if options.png:
        evaluation.draw(model, len(channels), levels, options.seed, options.specimens,
                        options.contrast or 0.3, options.png)  # fmt: skip


def card(options: argparse.Namespace) -> None:
    print(json.dumps(files.read_card(options.model), indent=1))


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if getattr(options, "threads", None):
        torch.set_num_threads(options.threads)
    try:
        {"train": train, "export": export, "evaluate": evaluate, "card": card}[options.verb](
            options
        )
    except ValueError as error:
        print(f"ptyle.models: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"ptyle.models: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ptyle.models: interrupted; train --resume goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
