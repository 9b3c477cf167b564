"""Learned priors in the program: both formats, ranks, resumes, and what is said of bad ones."""

import json
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from ptyle.models import files
from ptyle.models.denoiser import Denoiser
from ptyle.models.regulariser import HuberVariation
from rank_processes import finish, start

PTYLE = str(Path(sys.executable).parent / "ptyle")
PRIOR = """
[[prior]]
file = "phase.pt"
noise = 0.1
every_batches = 3
strength = 0.7
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small film, an untrained denoiser that changes much, in both formats, and a regulariser."""
    folder = tmp_path_factory.mktemp("priors")
    subprocess.run(
        [PTYLE, "simulate", "PbTiO3", "-o", "film.h5", "--scan", "8", "8", "--window", "32"]
        + ["--step-nm", "0.12", "--dose", "1000", "--max-angle-mrad", "30"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    torch.manual_seed(1)
    model = Denoiser(1, 8, (1, 2, 1))
    with torch.no_grad():
        model.layers[-1].weight.mul_(5.0)
    card = files.card("denoiser", ["phase"], model.radius, noise={"least": 0.01, "most": 0.5})
    files.export(model, card, folder / "phase.pt")
    files.export(model, card, folder / "phase.pt2")
    huber = HuberVariation()
    card = files.card("regulariser", ["phase"], huber.radius)
    files.export(huber, card, folder / "huber.pt")
    plain = (folder / "film.toml").read_text()
    plain = plain.replace("[reconstruct]\n", "[reconstruct]\nbatches = 8\n")
    (folder / "plain.toml").write_text(plain)
    (folder / "film.toml").write_text(plain + PRIOR)
    return folder


def run(folder, output, *settings, config="film.toml", ranks=1, more=()):
    command = [PTYLE, "run", config, *more]
    for setting in ("reconstruct.iterations=3", f"output.folder={output}", *settings):
        command += ["--set", setting]
    ends = finish(start(command, ranks, cwd=folder))
    return ends[0][0], ends[0][2]


def check(folder, *settings):
    command = [PTYLE, "check", "film.toml"]
    for setting in settings:
        command += ["--set", setting]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def object_of(folder, output):
    with h5py.File(folder / output / "result.h5") as file:
        return file["object"][:]


def test_both_formats_give_the_same_object_and_metrics_tell_of_them(folder):
    for name in ("phase.pt", "phase.pt2"):
        code, error = run(folder, name[:-1] + "x" + name[-1], f"prior[0].file={folder / name}")
        assert code == 0, error
    assert run(folder, "plain", config="plain.toml")[0] == 0
    scripted, compiled = object_of(folder, "phase.pxt"), object_of(folder, "phase.ptx2")
    difference = np.linalg.norm(scripted - compiled) / np.linalg.norm(scripted)
    assert difference < 1e-5
    assert np.linalg.norm(scripted - object_of(folder, "plain")) > 1e-3 * np.linalg.norm(scripted)
    lines = (folder / "phase.pxt" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert all(row["prior_seconds"] > 0 for row in rows)
    assert all("prior_error_after" in row for row in rows)  # every third of eight batches
    plain = json.loads((folder / "plain" / "metrics.jsonl").read_text().splitlines()[0])
    assert "prior_seconds" not in plain


def test_ranks_and_resumes_give_the_same_bits(folder):
    grid = "tiles.grid=[2,3]"
    assert run(folder, "one", grid)[0] == 0
    code, error = run(folder, "three", grid, ranks=3)
    assert code == 0, error
    assert run(folder, "two", grid, "reconstruct.iterations=2")[0] == 0
    assert run(folder, "two", grid, more=["--resume"])[0] == 0
    expected = object_of(folder, "one")
    assert (object_of(folder, "three") == expected).all()
    assert (object_of(folder, "two") == expected).all()


def test_a_regulariser_smooths(folder):
    settings = [f"prior[0].file={folder}/huber.pt", "prior[0].kind=gradient"]
    config = (folder / "film.toml").read_text().replace("noise = 0.1\n", "")
    (folder / "huber.toml").write_text(config)
    code, error = run(
        folder,
        "huber",
        *settings,
        "prior[0].strength=1",
        "prior[0].every_batches=1",
        config="huber.toml",
    )
    assert code == 0, error

    def variation(name):
        phase = np.angle(object_of(folder, name))
        return np.abs(np.diff(phase, axis=1)).mean() + np.abs(np.diff(phase, axis=2)).mean()

    assert run(folder, "rough", config="plain.toml")[0] == 0
    assert variation("huber") < 0.95 * variation("rough")
    rows = [json.loads(line) for line in (folder / "huber" / "metrics.jsonl").open()]
    assert all(0 < abs(row["prior_descent"]) < 0.1 for row in rows)
    assert not any("prior_error_after" in row for row in rows)


def test_a_prior_that_does_nothing_is_not_blamed(folder):
    settings = ["prior[0].strength=1e-12", "reconstruct.iterations=40"]
    code, error = run(folder, "idle", *settings)
    assert code == 0 and "prior.strength, noise, every_batches" not in error, error


def test_residuals_at_full_strength_converge_where_amplitudes_are_small(folder):
    """At few counts some amplitudes nearly vanish, and with them what a phase means."""

    class Mean(torch.nn.Module):
        def forward(self, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
            padded = torch.nn.functional.pad(x, [1, 1, 1, 1], "replicate")
            return torch.nn.functional.avg_pool2d(padded, 3, 1)

    files.export(
        Mean(),
        files.card("denoiser", ["phase"], 1, noise={"least": 0, "most": 1}),
        folder / "mean.pt",
    )
    settings = [f"prior[0].file={folder}/mean.pt", "prior[0].kind=red", "prior[0].strength=1"]
    settings += ["prior[0].every_batches=1", "reconstruct.iterations=30"]
    code, error = run(folder, "red", *settings)
    assert code == 0, error
    assert np.abs(object_of(folder, "red")).max() < 3
    rows = [json.loads(line) for line in (folder / "red" / "metrics.jsonl").open()]
    assert rows[-1]["amplitude_error"] < 1.05 * rows[0]["amplitude_error"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["prior[0].file=nothing.pt"], "prior[0].file: must be a file, got"),
        (["prior[0].file=film.h5"], "must be TorchScript or a compiled .pt2"),
        (["prior[0].noise=3"], "prior[0].noise: must be what the model was trained with"),
        (["prior[0].on=object"], "must be a model of phase, amplitude"),
        (["prior[0].kind=gradient"], "must not be given for kind"),
        (["prior[0].strength=2"], "prior[0].strength must be at most 1"),
        (["prior[0].kind=magic"], 'prior[0].kind must be "plug-and-play", "red" or "gradient"'),
        (["prior[0].strenght=1"], "the nearest known key is prior[0].strength"),
        (["prior[1].noise=0.1"], "prior[1] must be a table of the config, which has 1 [[prior]]"),
    ],
)
def test_what_does_not_fit_is_said_in_a_sentence(folder, settings, words):
    code, error = run(folder, "refused", *settings)
    assert code == 2, error
    assert words in error, error
    assert not (folder / "refused").exists()
    checked = check(folder, *settings)
    assert checked.returncode == 2 and words in checked.stderr, checked.stderr


def test_a_prior_that_the_run_ends_before_using_is_reported(folder):
    for settings in ["prior[0].start=3"], ["prior[0].every_batches=25"]:  # of 3 x 8
        code, error = run(folder, "unused", *settings, more=["--overwrite"])
        assert code == 0 and "prior[0] is never used: every_batches = " in error, error
    for settings in ["prior[0].start=2"], ["prior[0].every_batches=24"]:
        code, error = run(folder, "unused", *settings, more=["--overwrite"])
        assert code == 0 and "never used" not in error, error


def test_another_model_is_not_resumed_with(folder):
    model = folder / "replaced.pt"
    model.write_bytes((folder / "phase.pt").read_bytes())
    settings = [f"prior[0].file={model}"]
    assert run(folder, "replaced", *settings)[0] == 0
    more = ["reconstruct.iterations=4", *settings]
    model.write_bytes((folder / "phase.pt2").read_bytes())
    code, error = run(folder, "replaced", *more, more=["--resume"])
    assert code == 3 and "prior[0].file of checksum" in error, error
    model.write_bytes((folder / "phase.pt").read_bytes())
    code, error = run(folder, "replaced", *more, more=["--resume"])
    assert code == 0, error


def test_check_tells_what_is_refined_when_and_what_acts_beside_the_data(folder):
    text = (folder / "plain.toml").read_text()
    text += "[refine.probe]\nstart = 5\nend = 40\nevery = 2\nstep = 0.5\n"
    text += '[[constraint]]\nkind = "pure_phase"\nweight = 0.5\n'
    text += '[[regulariser]]\nkind = "tikhonov"\nweight = 0.02\nstart = 3\n'
    (folder / "terms.toml").write_text(text)
    command = [PTYLE, "check", "terms.toml"]
    told = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    lines = [re.sub(" +", " ", line) for line in told.splitlines()]
    assert "refine object" in lines
    assert (
        "refine probe, every 2 iterations, from iteration 6, until iteration 40, step 0.5" in lines
    )
    assert "constraint pure_phase of the object, weight 0.5" in lines
    assert "regulariser tikhonov of the object, from iteration 4, weight 0.02" in lines


def test_check_tells_of_priors(folder):
    checked = check(folder)
    assert checked.returncode == 0
    assert "plug-and-play on the phase, a denoiser that sees 4 pixels" in checked.stdout
    assert re.search(
        r"strength 0.7, noise 0.1 \(the counts leave 0.1\d*\), every 3 batches\n", checked.stdout
    )
    checked = check(folder, "prior[0].start=100")
    assert "doubtful: prior[0] is never used" in checked.stdout


def test_the_plain_methods_of_the_demo_do_what_they_are_named_after():
    from ptyle import compare, demo

    generator = np.random.default_rng(2)
    truth = np.where(np.hypot(*(np.indices((64, 64)) - 31.5)) < 14, 1.0, 0.0)
    noisy = truth + 0.3 * generator.standard_normal(truth.shape)
    given = compare.without_ramp(noisy)
    one = compare.Comparison(0.0, True, (0, 0), given, compare.without_ramp(truth), 1.0, None)
    smooth = demo.less_variation(one, 0.3)
    assert smooth.error < 0.5 * one.error and smooth.correlation > 0.95

    def energy(phase):
        rows, columns = (
            np.diff(phase, axis=axis, append=np.take(phase, [-1], axis)) for axis in (0, 1)
        )
        return ((phase - given) ** 2).sum() / 2 + 0.3 * np.hypot(rows, columns).sum()

    for other in given, 0.9 * smooth.phase, 1.1 * smooth.phase, one.truth:
        assert energy(smooth.phase) < energy(other)

    impulse = np.zeros((64, 64))
    impulse[30, 33] = 1
    one.phase = impulse
    made = demo.blurred(one, 1.5).phase
    made = made - np.median(made)
    rows = np.indices(made.shape)[0][22:39, 25:42] - 30
    part = made[22:39, 25:42]
    assert (part * rows**2).sum() / part.sum() == pytest.approx(1.5**2, rel=0.05)


def test_the_noise_proposed_is_that_of_the_counts(folder):
    """1 / sqrt(N), N the counts that light a pixel of the object, found here with whole windows."""
    with h5py.File(folder / "film.h5") as file:
        power = (np.abs(file["probe"][:]) ** 2).sum(0)
        positions = file["positions"][:]
    positions = np.rint(positions - positions.min(0)).astype(int)
    light = np.zeros(positions.max(0) + power.shape)
    for row, column in positions:
        light[row : row + power.shape[0], column : column + power.shape[1]] += power
    expected = (light.sum() / (light**2).sum()) ** 0.5
    text = (folder / "film.toml").read_text().replace("noise = 0.1\n", "")
    (folder / "unsaid.toml").write_text(text)
    command = [PTYLE, "check", "unsaid.toml", "--set", "tiles.grid=[2,2]"]
    checked = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    said = re.search(r", noise ([0-9.e+-]+) \(of the counts\)", checked.stdout)
    assert said, checked.stdout + checked.stderr
    assert float(said[1]) == pytest.approx(expected, rel=0.05)
    assert f"noise 0.1 (the counts leave {float(said[1]):.3g})" in check(folder).stdout

    # what is not said is what is proposed, to the last bit on any tiles
    assert run(folder, "unsaid", config="unsaid.toml")[0] == 0
    assert run(folder, "said", f"prior[0].noise={said[1]}")[0] == 0
    assert np.abs(object_of(folder, "unsaid") - object_of(folder, "said")).max() < 1e-4


def test_a_prior_that_is_told_of_too_much_noise_is_reported(folder):
    words = "times what the counts leave in a phase"
    for noise, found in ("0.4", True), ("0.1", False):
        settings = [f"prior[0].noise={noise}"]
        code, error = run(folder, "loud", *settings, more=["--overwrite"])
        assert code == 0 and (f"prior[0].noise = {noise} is" in error and words in error) == found
        assert ("doubtful: prior[0].noise" in check(folder, *settings).stdout) == found


def test_a_prior_that_wipes_the_object_out_is_reported(folder):
    class Flat(torch.nn.Module):
        def forward(self, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
            return x - x

    card = files.card("denoiser", ["phase"], 0, noise={"least": 0.01, "most": 0.5})
    files.export(Flat(), card, folder / "flat.pt")
    settings = [f"prior[0].file={folder}/flat.pt", "prior[0].every_batches=0"]
    for strength, found in ("1", True), ("0.2", False):
        code, error = run(folder, f"flat_{strength}", *settings, f"prior[0].strength={strength}")
        assert code == 0 and ("warning: priors wipe the object out" in error) == found, error
        rows = [json.loads(line) for line in (folder / f"flat_{strength}/metrics.jsonl").open()]
        assert (abs(rows[-1]["prior_left"]) < 1e-3) == found
        assert rows[-1]["prior_left"] < 1


def test_a_prior_against_the_data_is_reported(folder):
    class Wrong(torch.nn.Module):
        def forward(self, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
            return x + torch.sin(50 * x)

    card = files.card("denoiser", ["phase"], 0, noise={"least": 0.01, "most": 0.5})
    files.export(Wrong(), card, folder / "wrong.pt")
    for every in 0, 3, 5:  # 8 batches
        settings = [f"prior[0].file={folder}/wrong.pt", f"prior[0].every_batches={every}"]
        code, error = run(folder, f"wrong_{every}", *settings)
        assert code == 0, error
        assert "warning: priors work against the data in iteration 1: they took" in error, error
        for line in (folder / f"wrong_{every}" / "metrics.jsonl").read_text().splitlines():
            row = json.loads(line)
            assert row["prior_error_after"] > 1.05 * row["prior_error_before"]
