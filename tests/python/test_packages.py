"""What is installed: the program is not Python's, and a torch that does not fit is refused before
anything of ptyle's is loaded. tests/consume/check.sh holds the package in other places."""

import importlib.metadata
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import ptyle
import pytest
from ptyle import _library

PROGRAM = Path(sysconfig.get_path("scripts")) / "ptyle"
LIBRARIES = sorted(_library.FOLDER.glob("*.so"))


def needed(file: Path) -> list[str]:
    """The shared libraries that an ELF file names."""
    lines = subprocess.run(
        ["readelf", "-d", file], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return [line.split("[")[1].rstrip("]") for line in lines if "(NEEDED)" in line]


def python(code: str, *folders: Path) -> subprocess.CompletedProcess:
    """Run the code in a fresh interpreter, with the folders in front of its path."""
    start = f"import sys; sys.path[:0] = {[str(folder) for folder in folders]}\n"
    return subprocess.run(
        [sys.executable, "-I", "-c", start + code], capture_output=True, text=True
    )


def test_the_program_is_no_python_script():
    assert PROGRAM.read_bytes()[:4] == b"\x7fELF"


@pytest.mark.parametrize("file", [PROGRAM, *LIBRARIES], ids=lambda file: file.name)
def test_nothing_installed_needs_python(file):
    assert not [name for name in needed(file) if "python" in name]


def test_only_the_cuda_library_needs_cuda():
    for file in PROGRAM, _library.FOLDER / "libptyle_ops.so":
        assert not [name for name in needed(file) if name.startswith("libcu") or "cuda" in name]


@pytest.mark.parametrize("other", ["2.14.1", "2.15.1+cu132", "3.0.0"])
def test_another_torch_is_refused_before_anything_is_loaded(tmp_path, other):
    folder = tmp_path / f"torch-{other}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {other}\n")
    result = python(
        "try:\n"
        "    import ptyle\n"
        "except ImportError as error:\n"
        "    print(error)\n"
        "print('torch' in sys.modules, 'libptyle' in open('/proc/self/maps').read())\n",
        tmp_path,
    )
    message, loaded = result.stdout.splitlines()
    assert f"needs torch {_library.TORCH_VERSION}" in message
    assert f"got {other.split('+')[0]}" in message
    assert loaded == "False False"


def test_a_build_of_the_same_torch_is_accepted(tmp_path):
    folder = tmp_path / "torch.dist-info"
    folder.mkdir()
    version = f"{_library.TORCH_VERSION}+cpu"
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
    result = python("import ptyle; print(ptyle.__version__)", tmp_path)
    assert result.stdout.strip() == ptyle.__version__, result.stderr


def test_importing_prints_nothing_and_loads_no_test_tools():
    result = python(
        "import torch; before = set(sys.modules); import ptyle\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - sys.stdlib_module_names))"
    )
    assert result.stdout == "['ptyle']\n"
    assert result.stderr == ""


def test_one_version_everywhere():
    version = importlib.metadata.version("ptyle")
    assert ptyle.__version__ == ptyle.version() == version
    program = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True)
    assert version in program.stdout


def test_a_gpu_without_the_cuda_library_is_told(tmp_path):
    shutil.copytree(
        _library.FOLDER.parent,
        tmp_path / "ptyle",
        ignore=shutil.ignore_patterns("libptyle_ops_cuda.so", "__pycache__", "models", "include"),
    )
    code = (
        "import torch, warnings\n"
        "torch.cuda.is_available = lambda: {}\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    import ptyle\n"
        "print(ptyle.__file__, [str(w.message) for w in caught])\n"
    )
    result = python(code.format(True), tmp_path)
    assert str(tmp_path) in result.stdout, result.stderr
    assert "built without CUDA (PTYLE_CUDA=off)" in result.stdout
    assert result.stdout.count("ptyle: torch sees a GPU") == 1
    assert python(code.format(False), tmp_path).stdout.endswith(" []\n")
