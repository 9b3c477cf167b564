"""./dev refuses what it does not know before anything starts."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def dev(tmp_path):
    """A ./dev that says what it would do: verb, torch, folder of the build, words."""
    text = (ROOT / "dev").read_text()
    begins = '"do_$verb" "$@"'
    assert text.count(begins) == 1
    (tmp_path / "dev").write_text(text.replace(begins, 'echo "$verb,$torch,${build##*/},$*"'))
    (tmp_path / "cmake").mkdir()
    shutil.copy(ROOT / "cmake" / "torch-versions.txt", tmp_path / "cmake")
    (tmp_path / "tests" / "bench").mkdir(parents=True)
    (tmp_path / "tests" / "bench" / "tiles.py").touch()

    def run(*arguments):
        return subprocess.run(
            ["bash", tmp_path / "dev", *arguments], capture_output=True, text=True, timeout=60
        )

    return run


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("build --torch=2.11.0", 'build takes [--torch VERSION], got "--torch=2.11.0"'),
        ("build foo", 'build takes [--torch VERSION], got "foo"'),
        ("build 2.11.0", 'got "2.11.0"'),
        ("build --torch", "build --torch must be followed by VERSION"),
        ("build --torch 2", 'one of 2.11.0, 2.12.1, 2.13.0, 2.14.1, 2.15.0, got "2"'),
        ("build --torch .", 'got "."'),
        ("build --torch 2.1", 'got "2.1"'),
        ("build --torch 2.11.0/x", 'got "2.11.0/x"'),
        ("build --torch 2.11.0.1", 'got "2.11.0.1"'),
        ("demo --torch 2.11.0", 'demo takes [FOLDER] [--prior], got "--torch"'),
        ("format --torch 2.11", 'format takes nothing, got "--torch"'),
        ("test --torch 2.11 --install extra", 'got "extra"'),
        ("wheel 2", "wheel VERSION must be a torch like one of 2.11.0"),
        ("wheel 2.11.0 9.9", 'got "9.9"'),
        ("sanitize 5 6", 'got "6"'),
        ("fuzz 1h", 'fuzz MINUTES must be a number, got "1h"'),
        ("torture --moments x", 'torture --moments must be a whole number, got "x"'),
        ("bench nothing", 'bench NAME must be one of tiles, got "nothing"'),
        ("compile", 'there is no verb "compile"'),
    ],
)
def test_wrong_command_lines_are_refused(dev, line, words):
    done = dev(*line.split())
    assert done.returncode == 2
    assert done.stdout == ""
    assert words in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize(
    ("line", "means"),
    [
        ("build", "build,,default,"),
        ("build --torch 2.11", "build,2.11.0,torch-2.11.0,--torch 2.11"),
        ("build --torch 2.11.7", "build,2.11.7,torch-2.11.7,--torch 2.11.7"),
        ("build --torch 2.15.0", "build,,default,--torch 2.15.0"),
        ("test --install --torch 2.11.0", "test,2.11.0,torch-2.11.0,--install --torch 2.11.0"),
        ("wheel 2.11 2.15.0", "wheel,,default,2.11 2.15.0"),
        ("fuzz 0.5 --sanitized --seed 3", "fuzz,,default,0.5 --sanitized --seed 3"),
        ("bench tiles --only direct x", "bench,,default,tiles --only direct x"),
        ("demo there --prior", "demo,,default,there --prior"),
    ],
)
def test_right_command_lines_are_understood(dev, line, means):
    assert dev(*line.split()).stdout == means + "\n"


def test_help_starts_nothing(dev):
    for line in ("", "--help", "build --help", "test -h"):
        done = dev(*line.split())
        assert done.returncode == 0 and done.stdout.startswith("usage: ./dev VERB"), line


@pytest.mark.parametrize(("value", "code"), [("", 0), ("off", 0), ("ON", 0), ("maybe", 2)])
def test_cuda_is_on_off_or_not_said(dev, monkeypatch, value, code):
    monkeypatch.setenv("PTYLE_CUDA", value)
    assert dev("build").returncode == code
