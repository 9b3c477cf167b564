"""The learned prior against plain methods on few electrons, on a crystal that it was trained on and
on one that it was not: `./dev bench priors`.

    python tests/bench/priors.py [FOLDER] [--checkpoint FILE] [--json FILE]

FOLDER [build/bench_priors] keeps the trained prior. Of plain methods a row has, in each measure,
the setting that the truth likes best; the prior's are the demo's and the same on both crystals.
Ends with 1 where the prior is not better than all of them in both measures on both.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

from ptyle import demo


def other_arguments(output: Path) -> list[str]:
    """Strontium titanate, which no network of ptyle.models is trained on, 300 e/A^2."""
    arguments = demo.faint_arguments(output)
    arguments[1] = "SrTiO3"
    for name, value in (("--orientation", "001"), ("--dose", "300")):
        arguments[arguments.index(name) + 1] = value
    return arguments


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", default="build/bench_priors", type=Path)
    parser.add_argument("--checkpoint", type=Path, help="of a trained denoiser")
    parser.add_argument("--json", type=Path, help="file to write both tables to")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.checkpoint:
        shutil.copy(options.checkpoint, options.folder / "phase.ckpt")
        (options.folder / "phase.pt").unlink(missing_ok=True)
    demo.make_prior(options.folder, print)
    tables, better = {}, True
    for title, name, arguments in (
        ("PbTiO3, 0.78 nm, 200 e/A^2 (trained on)", "trained", demo.faint_arguments),
        ("SrTiO3, 0.78 nm, 300 e/A^2 (not trained on)", "other", other_arguments),
    ):
        film = demo.Measured(
            options.folder, name, arguments(options.folder / f"{name}.h5"), demo.quiet
        )
        tables[title] = film.table(film.baselines(), film.with_prior())
        print(title)
        better = demo.print_table(tables[title], print) and better
        sys.stdout.flush()
    if options.json:
        options.json.write_text(json.dumps(tables, indent=1) + "\n")
    print("the prior is better in both measures on both" if better else "the prior is NOT better")
    return 0 if better else 1


if __name__ == "__main__":
    sys.exit(main())
