"""`ptyle run` from outside: real data, interruption, restart, output."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import measured, vacuum

PROGRAM = Path(sys.executable).parent / "ptyle"
pytestmark = pytest.mark.skipif(
    not PROGRAM.exists(), reason=f"{PROGRAM} is not built: ./dev build makes it"
)


def start(*arguments, **options):
    return subprocess.Popen(
        [PROGRAM, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def run(*arguments, code=0, cwd=None):
    done = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == code, done.stderr
    return done


def result(folder):
    with h5py.File(Path(folder) / "result.h5") as file:
        tensors = {name: file[name][()] for name in ("object", "probe", "positions")}
        tensors.update({f"history/{name}": file[f"history/{name}"][()] for name in file["history"]})
    return tensors


def same_bits(a, b):
    return all(a[name].tobytes() == b[name].tobytes() for name in a if name != "history/seconds")


def iterations(number):
    return ["--set", f"reconstruct.iterations={number}"]


@pytest.fixture
def star(tmp_path):
    data = measured("siemens-star/siemens-star-small.h5")
    config = tmp_path / "star.toml"
    config.write_text(
        f'[data]\nfile = "{data}"\n[probe]\nfile = "{data}"\n[output]\ncheckpoint_every = 2\n'
    )
    return config


def test_a_siemens_star_with_the_defaults(star):
    """Far field, one mode, the stored probe: what users of the field expect of this data."""
    run("run", star)
    folder = star.with_suffix("")
    with h5py.File(folder / "result.h5") as file:
        error = file["history/amplitude_error"][()]
        assert file["object"].dtype == np.complex64 and file["object"].ndim == 3
        assert file["positions"].shape == (516, 2)
        rows, columns = file["object"].shape[1:]
        corners = file["positions"][()]
        assert (corners >= 0).all()
        assert (corners[:, 0] + 128 <= rows).all() and (corners[:, 1] + 128 <= columns).all()
    assert len(error) == 30 and error[-1] <= 0.40
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == list(range(1, 31))
    assert lines[-1]["amplitude_error"] == error[-1]
    for key in ("loss", "seconds", "positions_per_second", "wait_seconds", "bytes_sent"):
        assert key in lines[-1]
    assert lines[-1]["peak_bytes"] > 1e7
    for name in ("object_phase.png", "object_amplitude.png", "probe.png", "config.toml"):
        assert (folder / name).stat().st_size > 100

    # The resolved config gives the same result from anywhere.
    again = folder.parent / "again"
    run("run", folder / "config.toml", "--set", f"output.folder={again}")
    assert same_bits(result(folder), result(again))


def test_exchanged_rows_and_columns_show_in_the_error(star, tmp_path):
    swapped = tmp_path / "swapped.h5"
    with h5py.File(measured("siemens-star/siemens-star-small.h5")) as file:
        with h5py.File(swapped, "w") as out:
            out["data"], out["probe"] = file["data"][()], file["probe"][()]
            out["positions"] = file["positions"][()][:, ::-1]
    short = ("--set", "reconstruct.iterations=20", "--set", "output.png=false")
    run("run", star, *short)
    run("run", star, *short, "--set", f"data.file={swapped}", "--set", "output.folder=swapped")
    right = result(tmp_path / "star")["history/amplitude_error"][-1]
    wrong = result(tmp_path / "swapped")["history/amplitude_error"][-1]
    assert wrong >= 3.5 * right


@pytest.mark.parametrize("optimizer", ["descent", "lbfgs"])
def test_a_killed_run_resumes_with_the_same_bits(star, tmp_path, optimizer):
    batches = 1 if optimizer == "lbfgs" else 4
    options = []
    for setting in (
        "reconstruct.iterations=9",
        f"reconstruct.batches={batches}",
        f"reconstruct.optimizer={optimizer}",
        "reconstruct.momentum=0.2",
        "output.png=false",
    ):
        options += ["--set", setting]
    run("run", star, *options, "--set", "output.folder=whole")
    killed = tmp_path / "killed"
    process = start("run", star, *options, "--set", "output.folder=killed")
    metrics = killed / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 5:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "result.h5").exists()
    # An existing folder is never taken over silently.
    refused = run("run", star, *options, "--set", "output.folder=killed", code=2)
    assert "output.folder" in refused.stderr and "--resume" in refused.stderr
    resumed = run("run", star, *options, "--set", "output.folder=killed", "--resume")
    assert "resuming" in resumed.stderr
    assert same_bits(result(tmp_path / "whole"), result(killed))
    lines = [json.loads(line)["iteration"] for line in metrics.read_text().splitlines()]
    assert lines == list(range(1, 10))


def test_ctrl_c_saves_everything_and_exits_130(star, tmp_path):
    options = ["--set", "reconstruct.iterations=500"]
    process = start("run", star, *options)
    metrics = tmp_path / "star" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "--resume" in stderr
    for name in ("result.h5", "checkpoint.h5", "object_phase.png", "probe.png", "config.toml"):
        assert (tmp_path / "star" / name).exists()
    done = len(result(tmp_path / "star")["history/loss"])
    more = ["--set", f"reconstruct.iterations={done + 1}"]
    run("run", star, *more, "--resume")
    run("run", star, *more, "--set", "output.folder=whole")
    assert same_bits(result(tmp_path / "star"), result(tmp_path / "whole"))


def test_the_bits_do_not_depend_on_the_number_of_threads(star, tmp_path):
    options = ["--set", "reconstruct.iterations=2", "--set", "output.png=false"]
    for threads in (1, 2):
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        process = start(
            "run", star, *options, "--set", f"output.folder=t{threads}", env=environment
        )
        _, stderr = process.communicate()
        assert process.returncode == 0, stderr
    assert same_bits(result(tmp_path / "t1"), result(tmp_path / "t2"))


@pytest.mark.parametrize("stored", ["as counted", "compressed", "grid", "each with its mask"])
def test_patterns_may_be_read_again_in_every_iteration(tmp_path, stored):
    """Streamed: the same bits as from memory, whatever way the patterns are stored."""
    run("simulate", "PbTiO3", "-o", tmp_path / "all.h5", "--scan", 12, 14, "--window", 32)
    config = tmp_path / "all.toml"
    options = ["--set", "reconstruct.iterations=3", "--set", "reconstruct.batches=3"]
    with h5py.File(tmp_path / "all.h5", "a") as file:
        data = file["data"][()]
        del file["data"]
        if stored == "grid":
            file.create_dataset("data", data=data.reshape(12, 14, 32, 32), chunks=(2, 3, 32, 32))
        elif stored == "compressed":
            file.create_dataset("data", data=data, chunks=(5, 32, 32), compression="gzip")
        else:
            file["data"] = data
    if stored == "each with its mask":  # the brightest pixels of some patterns
        options += ["--set", f"detector.saturation={np.quantile(data, 0.9999)}"]
    bits = []
    for stream in ("false", "true"):
        folder = tmp_path / stream
        done = run(
            *("run", config, *options, "--set", f"output.folder={folder}"),
            *("--set", f"data.stream={stream}"),
        )
        assert "3 of 3" in done.stderr
        bits.append(result(folder))
    assert same_bits(*bits)
    assert "(streamed from the file)" in run("check", config, "--set", "data.stream=true").stdout


def test_streamed_patterns_take_little_memory_and_resume(tmp_path):
    run("simulate", "PbTiO3", "-o", tmp_path / "all.h5", "--scan", 60, 60, "--window", 64)
    config = tmp_path / "all.toml"
    held = {}
    for stream in ("false", "true"):
        folder = tmp_path / stream
        options = ["--set", f"output.folder={folder}", "--set", "output.png=false"]
        run("run", config, *options, "--set", f"data.stream={stream}", *iterations(2))
        line = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
        held[stream] = line["tensor_bytes"]
        other = "true" if stream == "false" else "false"
        resumed = run(
            *("run", config, *options, "--resume", "--set", f"data.stream={other}"), *iterations(3)
        )
        assert "resuming" in resumed.stderr
    assert held["true"] < 0.85 * held["false"]
    assert same_bits(result(tmp_path / "false"), result(tmp_path / "true"))


def test_a_config_of_another_run_is_refused_on_resume(star):
    options = ["--set", "reconstruct.iterations=2", "--set", "output.png=false"]
    run("run", star, *options)
    refused = run("run", star, *options, "--set", "reconstruct.seed=5", "--resume", code=2)
    assert "reconstruct.seed" in refused.stderr and "5" in refused.stderr


def test_other_updates_go_on_with_object_and_probe(star):
    options = ["--set", "output.png=false"]
    run("run", star, *options, "--set", "reconstruct.iterations=4")
    with h5py.File(star.with_suffix("") / "result.h5") as file:
        error = file["history/amplitude_error"][-1]
    options += ["--set", "reconstruct.iterations=6", "--set", "reconstruct.step=0.5", "--resume"]
    said = run("run", star, *options).stderr
    assert "updates begin anew, unknowns stay: reconstruct.step = 0.5, was 1.0" in said
    with h5py.File(star.with_suffix("") / "result.h5") as file:
        changes = file.attrs["changes"].decode().splitlines()
        errors = file["history/amplitude_error"][()]
    assert changes == ["after iteration 4: reconstruct.step = 0.5, was 1.0"]
    assert len(errors) == 6 and errors[4] < 1.05 * error and errors[5] < error


def test_other_data_is_refused_on_resume(star, tmp_path):
    data = tmp_path / "copy.h5"
    with h5py.File(measured("siemens-star/siemens-star-small.h5")) as file:
        with h5py.File(data, "w") as out:
            for name in file:
                out[name] = file[name][()]
    options = ["--set", "reconstruct.iterations=2", "--set", f"data.file={data}"]
    run("run", star, *options)
    with h5py.File(data, "a") as file:
        file["positions"][0] += 40
    refused = run("run", star, *options, "--resume", code=3)
    assert "must be resumed with the data it was made with" in refused.stderr


def test_exchanged_patterns_are_refused_on_resume(star, tmp_path):
    data = tmp_path / "copy.h5"
    with h5py.File(measured("siemens-star/siemens-star-small.h5")) as file:
        with h5py.File(data, "w") as out:
            for name in file:
                out[name] = file[name][()]
    options = ["--set", "reconstruct.iterations=2", "--set", f"data.file={data}"]
    run("run", star, *options)
    with h5py.File(data, "a") as file:
        file["data"][:2] = file["data"][:2][::-1]
    refused = run("run", star, *options, "--resume", code=3)
    assert "must be resumed with the data it was made with" in refused.stderr


def write_project(folder):
    """Data, mask, dark and probe in several files, and a config that names them by its folder."""
    folder.mkdir()
    rows, columns = np.mgrid[0:8:2, 0:8:2]
    probe, counts = vacuum(16)
    with h5py.File(folder / "d.h5", "w") as file:
        file["data"] = counts + 1
    with h5py.File(folder / "more.h5", "w") as file:
        file["scan:positions"] = np.stack([rows.ravel(), columns.ravel()], 1).astype(float)
        file["mask"] = np.zeros((16, 16), np.uint8)
        file["dark"] = np.ones((16, 16))
        file["probe"] = probe
    config = folder / "c.toml"
    config.write_text(
        '[data]\nfile = "d.h5"\npositions = "more.h5:scan:positions"\nmask = "more.h5:mask"\n'
        '[detector]\ndark = "more.h5:dark"\n[probe]\nfile = "d.h5"\ndataset = "more.h5:probe"\n'
        "[reconstruct]\niterations = 6\nbatches = 4\n[output]\npng = false\n"
    )
    return config


def test_a_resume_goes_by_the_data_and_not_by_its_place(tmp_path):
    config = write_project(tmp_path / "one")
    run("run", config, "--set", "output.folder=whole")
    whole = result(tmp_path / "one" / "whole")
    run("run", config, *iterations(3))
    before = tmp_path / "one"

    moved = tmp_path / "moved"
    shutil.copytree(before, moved)
    run("run", moved / "c.toml", "--resume")
    assert same_bits(result(moved / "c"), whole)

    linked = tmp_path / "linked"
    shutil.copytree(before, tmp_path / "elsewhere")
    linked.symlink_to(tmp_path / "elsewhere")
    run("run", linked / "c.toml", "--resume")
    assert same_bits(result(linked / "c"), whole)

    # Other names of files and datasets, from another working directory.
    renamed = tmp_path / "renamed"
    shutil.copytree(before, renamed)
    (renamed / "d.h5").rename(renamed / "counts.h5")
    with h5py.File(renamed / "counts.h5", "a") as file:
        file.move("data", "entry/frames")
    (renamed / "more.h5").rename(renamed / "12:30.h5")
    text = (renamed / "c.toml").read_text().replace("d.h5", "counts.h5")
    text = text.replace("more.h5", "12:30.h5").replace(
        "[detector]", 'patterns = "entry/frames"\n[detector]'
    )
    (renamed / "c.toml").write_text(text)
    run("run", "renamed/c.toml", "--resume", cwd=tmp_path)
    assert same_bits(result(renamed / "c"), whole)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("d.h5:data", lambda x: x[:, ::-1], "patterns and masks of checksum"),
        ("d.h5:data", lambda x: x + 1, "counts"),
        ("d.h5:data", lambda x: x[[1, 0, *range(2, 16)]], "counts per pattern of checksum"),
        ("more.h5:scan:positions", lambda x: x[::-1], "positions of checksum"),
        ("more.h5:mask", lambda x: np.eye(16), "masked pixels"),
        ("more.h5:dark", lambda x: x[::-1] * np.arange(16), "counts"),
        ("more.h5:probe", lambda x: x * 1j, "a probe of checksum"),
    ],
)
def test_changed_data_are_refused_on_resume_and_the_change_is_named(tmp_path, name, change, words):
    config = write_project(tmp_path / "one")
    run("run", config, *iterations(2))
    file_name, dataset = name.split(":", 1)
    with h5py.File(tmp_path / "one" / file_name, "a") as file:
        changed = change(file[dataset][()])
        del file[dataset]
        file[dataset] = changed
    refused = run("run", config, "--resume", code=3)
    assert "must be resumed with the data it was made with, " in refused.stderr
    assert words in refused.stderr.splitlines()[-1], refused.stderr


def test_a_result_without_a_checkpoint_is_not_started_anew(star, tmp_path):
    options = ["--set", "reconstruct.iterations=1", "--set", "output.png=false"]
    run("run", star, *options)
    (tmp_path / "star" / "checkpoint.h5").unlink()
    before = (tmp_path / "star" / "result.h5").read_bytes()
    refused = run("run", star, *options, "--resume", code=2)
    assert "must hold a checkpoint.h5 to resume from" in refused.stderr
    assert (tmp_path / "star" / "result.h5").read_bytes() == before


@pytest.mark.parametrize("modes", [1, 3])
def test_large_windows_in_double_do_not_depend_on_the_threads_either(tmp_path, modes):
    """Reductions of torch split by threads from some size on: nothing of a run may use them."""
    data = tmp_path / "film.h5"
    run("simulate", "PbTiO3", "-o", data, "--window", "200", "--scan", "2", "2")
    for threads in (1, 2):
        process = start(
            *("run", tmp_path / "film.toml", "--set", "reconstruct.precision=double"),
            *("--set", "reconstruct.iterations=2", "--set", f"probe.modes={modes}"),
            *("--set", "probe.file=", "--set", "probe.semiangle_mrad=21"),
            *("--set", "output.png=false", "--set", f"output.folder=t{threads}"),
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        _, stderr = process.communicate()
        assert process.returncode == 0, stderr
    assert same_bits(result(tmp_path / "t1"), result(tmp_path / "t2"))


def test_a_step_that_leaves_nothing_finite_fails(star, tmp_path):
    options = ["--set", "reconstruct.iterations=1", "--set", "reconstruct.learning_rate=1e300"]
    options += ["--set", "reconstruct.optimizer=adam"]
    failed = run("run", star, *options, "--set", 'reconstruct.refine=["object"]', code=1)
    assert "must stay finite" in failed.stderr
    assert not (tmp_path / "star" / "result.h5").exists()
    # nothing of worth is there: the next try needs no option
    run("run", star, "--set", "reconstruct.iterations=1")


def test_a_run_that_does_not_fit_into_memory_is_refused(star, tmp_path):
    options = ["--set", "object.slices=10000", "--set", "object.thickness_nm=1000"]
    options += ["--set", "object.padding=3000"]
    options += ["--set", "beam.energy_keV=8", "--set", 'beam.kind="xray"']
    refused = run("run", star, *options, "--set", "detector.object_pixel_nm=10", code=1)
    assert "must fit into the memory" in refused.stderr
    assert not (tmp_path / "star").exists()


def test_a_run_that_explodes_fails_and_keeps_its_checkpoint(star, tmp_path):
    options = ["--set", "output.png=false"]
    run("run", star, *options, "--set", "reconstruct.iterations=4")
    options += ["--set", "reconstruct.iterations=60", "--resume"]
    options += ["--set", "reconstruct.optimizer=adam", "--set", "reconstruct.learning_rate=20"]
    failed = run("run", star, *options, code=1)
    assert "the run diverged" in failed.stderr and "reconstruct.learning_rate" in failed.stderr
    assert "keeps the result of iteration 4" in failed.stderr
    with h5py.File(tmp_path / "star" / "checkpoint.h5") as file:
        assert np.isfinite(file["unknowns/object/0/value"][()]).all()
        assert np.isfinite(file["unknowns/probe/0/value"][()]).all()


def test_an_error_that_does_not_fall_is_said(star):
    options = ["--set", "reconstruct.iterations=2", "--set", "output.png=false"]
    said = run(
        "run",
        star,
        *options,
        "--set",
        "reconstruct.step=1e-9",
        "--set",
        'reconstruct.refine=["object"]',
    ).stderr
    assert "ptyle check" not in said
    # steps of any length are taken back where they overshoot; Adam's are not
    run("run", star, *options, "--overwrite", "--set", "reconstruct.step=100")
    options += ["--set", "reconstruct.optimizer=adam", "--set", "reconstruct.batches=1"]
    rate = "reconstruct.learning_rate="
    said = run("run", star, *options, "--overwrite", "--set", f"{rate}0.9").stderr
    assert "the amplitude_error did not fall" in said
    failed = run("run", star, *options, "--overwrite", "--set", f"{rate}20", code=1)
    assert "the run diverged" in failed.stderr
