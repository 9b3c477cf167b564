"""The sound inputs that recipes spoil: small data from a numpy model, configs, a learned prior."""

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np

WINDOW = (12, 16)
SCAN = (5, 6)


def patterns_and_probe(random, near=False):
    """Counts of a smooth phase object, positions (row, column) of the corners, the probe."""
    rows, columns = (SCAN[k] * 3 + WINDOW[k] + 2 for k in range(2))
    i, j = np.mgrid[:rows, :columns]
    obj = np.exp(0.4j * np.sin(i / 2.5) * np.cos(j / 3.0))
    y, x = np.mgrid[: WINDOW[0], : WINDOW[1]] - np.array([5.5, 7.5]).reshape(2, 1, 1)
    probe = np.exp(-(y**2 + x**2) / 14.0 + 0.03j * (y**2 + x**2))
    corners = np.array([[3 * a + 1, 3 * b + 1] for a in range(SCAN[0]) for b in range(SCAN[1])])
    waves = np.array([probe * obj[a : a + WINDOW[0], b : b + WINDOW[1]] for a, b in corners])
    if not near:
        waves = np.fft.fftshift(np.fft.fft2(waves, norm="ortho"), axes=(1, 2))
    intensity = np.abs(waves) ** 2
    counts = random.poisson(intensity * 2000.0 / intensity[0].sum())
    return counts.astype(np.uint16), corners.astype(float), probe.astype(np.complex64)


def write_data(path, near=False):
    random = np.random.default_rng(5)
    counts, corners, probe = patterns_and_probe(random, near)
    with h5py.File(path, "w") as file:
        file["data"] = counts
        file["positions"] = corners
        file["probe"] = probe
        file["modes"] = np.stack([probe, 0.3 * probe * np.linspace(-1, 1, WINDOW[1])])
        file["mask"] = random.random(WINDOW) < 0.02
        file["mask3"] = random.random(counts.shape) < 0.01
        file["dark"] = np.zeros(WINDOW, np.float32)
        file["floats"] = counts.astype(np.float32)
        file["grid"] = counts.reshape(*SCAN, *WINDOW)
        file.create_dataset("packed", data=counts, chunks=(4, 12, 16), compression="gzip")
        file.create_dataset("pieces", data=counts, chunks=(3, 5, 7), shuffle=True, fletcher32=True)
        file["group/inner"] = np.arange(6.0)
        file["data"].attrs["unit"] = "counts"
        file.attrs["note"] = "made by a model of its own"


SOUND = {
    "data.file": '"data.h5"',
    "detector.pixel_mrad": "1.5",
    "beam.energy_keV": "200.0",
    "probe.file": '"data.h5"',
    "reconstruct.iterations": "2",
    "reconstruct.batches": "3",
    "output.folder": '"out"',
    "output.checkpoint_every": "1",
    "output.png": "false",
}
COMPUTED = {
    "probe.file": None,
    "probe.semiangle_mrad": "5.0",
    "probe.defocus_nm": "30.0",
    "probe.aberrations.C30_nm": "1000.0",
}
# what a config of another kind has beside this; None leaves a key out
KINDS = {
    "plain": {},
    "masked": {"data.mask": '"mask"', "detector.dark": '"dark"', "output.png": "true"},
    "masks": {"data.mask": '"mask3"', "data.patterns": '"floats"'},
    "grid": {"data.patterns": '"grid"', "data.stream": "true"},
    "packed": {"data.patterns": '"packed"', "data.stream": "true"},
    "pieces": {"data.patterns": '"pieces"', "detector.bin": "[2, 2]", **COMPUTED},
    "raster": {
        "data.positions": None,
        "data.raster.shape": "[5, 6]",
        "data.raster.step": "3.0",
        "data.rotation_deg": "4.0",
    },
    "slices": {"object.slices": "2", "object.thickness_nm": "4.0"},
    "modes": {"probe.dataset": '"modes"', "probe.modes": "2", "reconstruct.precision": '"double"'},
    "computed": COMPUTED,
    "near": {
        "data.file": '"near.h5"',
        "probe.file": '"near.h5"',
        "detector.geometry": '"near"',
        "detector.pixel_mrad": None,
        "detector.pixel_size_um": "0.1",
        "detector.distance_m": "1e-3",
        "beam.kind": '"xray"',
        "beam.energy_keV": "10.0",
    },
    "tiles": {"tiles.grid": "[2, 2]", "tiles.exchange": '"voxels"', "tiles.extra_rows": "1"},
    "adam": {"reconstruct.optimizer": '"adam"', "reconstruct.likelihood": '"poisson"'},
    "lbfgs": {"reconstruct.optimizer": '"lbfgs"', "reconstruct.batches": "1"},
    "prior": {
        "prior[0].file": '"phase.pt"',
        "prior[0].noise": "0.1",
        "prior[0].strength": "0.2",
    },
}


def config_of(kind):
    keys = SOUND | KINDS[kind]
    return {key: text for key, text in keys.items() if text is not None}


def toml_of(keys):
    """A config from dotted keys; those of one table stand under its header."""
    tables = {}
    for key, text in keys.items():
        table, _, name = key.partition(".")
        tables.setdefault(table if name else "", []).append((name or key, text))
    lines = []
    for table, rows in sorted(tables.items()):
        if table.startswith("prior["):
            lines.append("[[prior]]")
        elif table:
            lines.append(f"[{table}]")
        lines += [f"{name} = {text}" for name, text in rows]
    return "\n".join(lines) + "\n"


PRIOR = """
import sys, torch
from ptyle.models import files
class Shrink(torch.nn.Module):
    def forward(self, x, noise):
        return x * (1.0 - noise.reshape(-1, 1, 1, 1))
files.export(Shrink(), files.card("denoiser", ["phase"], 0, noise={"least": 0.0, "most": 1.0}),
             sys.argv[1])
"""


def make(folder, program):
    """All sound inputs in `folder`, with a run's checkpoint and the bits of its result."""
    folder = Path(folder)
    write_data(folder / "data.h5")
    write_data(folder / "near.h5", near=True)
    (folder / "shrink.py").write_text(PRIOR)  # torch compiles what it can read
    command = [sys.executable, "shrink.py", "phase.pt"]
    made = subprocess.run(command, cwd=folder, capture_output=True)
    if made.returncode != 0:
        raise RuntimeError(made.stderr.decode())
    for kind in KINDS:
        (folder / f"{kind}.toml").write_text(toml_of(config_of(kind)))
    (folder / "note.json").write_text(json.dumps({"note": "no prior, no config, no data"}))
    for kind in KINDS:
        run(program, folder, ["check", f"{kind}.toml"])
    # One iteration is done, the second is what a resume adds.
    for count in (1, 2):
        settings = ["--set", f"reconstruct.iterations={count}"]
        settings += ["--set", f"output.folder=done{count}"]
        run(program, folder, ["run", "plain.toml", *settings])


def run(program, folder, arguments):
    done = subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"sound inputs, and {arguments}: {done.stderr}")
