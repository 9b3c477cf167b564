"""`ptyle` on a disk that is full, gone or broken, as a process: its exit code, its one sentence,
what it leaves. Every call of a run in turn is the business of tests/cpp/faults_test.cpp."""

import errno
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import vacuum
from rank_processes import CLEAN, finish, start

ROOT = Path(__file__).parents[2]
PROGRAM = Path(sys.executable).parent / "ptyle"
PRELOADED = ROOT / "build" / "default" / "tests" / "cpp" / "libptyle_faults.so"
ONCE, FULL, GONE = range(3)  # tests/faults/faults.h

pytestmark = pytest.mark.skipif(
    not PROGRAM.exists(), reason=f"{PROGRAM} is not built: ./dev build makes it"
)
needs_faults = pytest.mark.skipif(
    not PRELOADED.exists(), reason=f"{PRELOADED.name} is not built: ./dev test makes it"
)


def ptyle(*arguments, faults=None, count=None, **options):
    there = dict(CLEAN)
    if faults or count:
        there["LD_PRELOAD"] = str(PRELOADED)
        folder, kind, error, call = faults or (count[0], ONCE, 0, 0)
        there["PTYLE_FAULTS"] = f"{folder}:{kind}:{error}:{call}"
        if count:
            there["PTYLE_FAULTS_COUNT"] = str(count[1])
    there.update(options.pop("env", {}))
    return subprocess.run(
        [PROGRAM, *map(str, arguments)],
        env=there,
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        **options,
    )


def calls_of(folder, tmp_path, *arguments):
    """How many calls an undisturbed process makes below `folder`."""
    done = ptyle(*arguments, count=(folder, tmp_path / "count"))
    assert done.returncode == 0, done.stderr
    return int((tmp_path / "count").read_text())


def expect_failure(done, folder, error):
    """One sentence with the place and the system's reason, exit 1, nothing unfinished."""
    assert done.returncode == 1, (done.returncode, done.stderr)
    said = [line for line in done.stderr.splitlines() if "error: " in line]
    assert len(said) == 1, done.stderr
    assert os.strerror(error) in said[0] and str(folder) in said[0], said
    assert not list(folder.glob("**/*.tmp.*")), list(folder.iterdir())


def bits(folder):
    with h5py.File(folder / "result.h5") as file:
        return [file[name][()].tobytes() for name in ("object", "probe", "history/loss")]


@pytest.fixture
def small(tmp_path):
    rows, columns = np.mgrid[0:6:2, 0:6:2]
    probe, patterns = vacuum(9)
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["data"] = patterns.astype(np.uint16)
        file["positions"] = np.stack([rows.ravel(), columns.ravel()], 1).astype(float)
        file["probe"] = probe
    (tmp_path / "c.toml").write_text(
        '[data]\nfile = "data.h5"\n[probe]\nfile = "data.h5"\n[reconstruct]\niterations = 4\n'
        'batches = 3\n[output]\nfolder = "out"\ncheckpoint_every = 1\n'
    )
    return tmp_path


@needs_faults
@pytest.mark.parametrize(
    ("kind", "error"), [(FULL, errno.ENOSPC), (GONE, errno.ESTALE), (ONCE, errno.EIO)]
)
def test_a_run_ends_with_one_sentence_and_goes_on_later(small, kind, error):
    config, out = small / "c.toml", small / "out"
    count = calls_of(out, small, "run", config, "--set", "output.folder=out")
    whole = bits(out)
    assert count > 60
    for call in np.unique(np.linspace(2, count, 9).astype(int)):
        shutil.rmtree(out)
        done = ptyle("run", config, faults=(out, kind, error, call))
        if done.returncode == 0:  # a full disk does not mind what takes no space
            assert kind == FULL
            assert bits(out) == whole
            continue
        expect_failure(done, out, error)
        anew = "--resume" if (out / "checkpoint.h5").exists() else "--overwrite"
        done = ptyle("run", config, anew)
        assert done.returncode == 0, done.stderr
        assert bits(out) == whole


@needs_faults
def test_a_simulation_ends_with_one_sentence(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    arguments = ("simulate", "star", "--scan", 3, 3, "--window", 32, "-o", out / "s.h5")
    count = calls_of(out, tmp_path, *arguments)
    for call in np.unique(np.linspace(1, count - 1, 6).astype(int)):
        shutil.rmtree(out)
        out.mkdir()
        done = ptyle(*arguments, faults=(out, GONE, errno.EDQUOT, call))
        expect_failure(done, out, errno.EDQUOT)
        if (out / "s.h5").exists():
            with h5py.File(out / "s.h5") as file:
                assert file["data"].shape == (9, 32, 32)


@needs_faults
def test_on_two_ranks_the_other_one_hears_of_it(small):
    out = small / "out"
    faults = {
        "LD_PRELOAD": str(PRELOADED),
        "PTYLE_FAULTS": f"{out}:{FULL}:{errno.ENOSPC}:60",
    }
    ends = finish(
        start(
            [PROGRAM, "run", small / "c.toml", "--set", "tiles.grid=auto"],
            ranks=2,
            env=lambda rank: faults if rank == 0 else {},
        )
    )
    assert [code for code, *_ in ends] == [1, 75], ends
    for rank, (_, _, stderr) in enumerate(ends):
        said = [line for line in stderr.splitlines() if "error: " in line]
        assert len(said) == 1 and os.strerror(errno.ENOSPC) in said[0], stderr
        # Whose line it is.
        assert all(f" rank {rank}] " in line for line in stderr.splitlines()), stderr
    assert not list(out.glob("*.tmp.*"))
    done = ptyle("run", small / "c.toml", "--resume", "--set", "tiles.grid=auto")
    assert done.returncode == 0, done.stderr


def test_standard_output_may_be_full_too(small):
    with open("/dev/full", "w") as full:
        done = ptyle("check", small / "c.toml", stdout=full)
    assert done.returncode == 1, done.stderr
    assert "standard output: cannot be written: No space left on device" in done.stderr


def test_a_file_may_not_grow_further(small):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))

    done = ptyle("run", small / "c.toml", preexec_fn=limit)
    expect_failure(done, small / "out", errno.EFBIG)


def test_a_disk_that_is_really_full(small):
    disk = small / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", disk], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("no right to mount a small disk")
    try:
        config = (small / "c.toml", "--set", f"output.folder={disk}/out")
        for left in (4, 24, 60, 100):
            (disk / "fill").write_bytes(bytes(1024 * (128 - left)))
            done = ptyle("run", *config)
            if done.returncode != 0:
                expect_failure(done, disk / "out", errno.ENOSPC)
            (disk / "fill").unlink()
            kept = "--resume" if (disk / "out/checkpoint.h5").exists() else "--overwrite"
            done = ptyle("run", *config, kept, "--set", "output.png=false")
            assert done.returncode == 0, done.stderr
            shutil.rmtree(disk / "out")
    finally:
        subprocess.run(["umount", disk], check=True)
