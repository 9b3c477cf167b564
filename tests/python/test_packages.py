"""What is installed: the program is not Python's, and a torch that does not fit is refused before
anything of ptyle's is loaded. tests/consume/check.sh holds the package in other places."""

import importlib.metadata
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import ptyle
import pytest
from ptyle import _library

LAUNCHER = Path(sysconfig.get_path("scripts")) / "ptyle"
PROGRAM = _library.FOLDER / "ptyle"
LIBRARIES = sorted(_library.FOLDER.glob("*.so"))
MINOR = ".".join(importlib.metadata.version("torch").split(".")[:2])
ROOT = Path(__file__).parents[2]


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


def launch(*folders: Path) -> subprocess.CompletedProcess:
    """`ptyle --version`, with the folders in front of Python's path."""
    environment = {"PYTHONPATH": ":".join(map(str, folders)), "PATH": "/usr/bin:/bin"}
    return subprocess.run([LAUNCHER, "--version"], capture_output=True, text=True, env=environment)


def test_the_launcher_becomes_the_program_for_the_installed_torch(tmp_path):
    running = subprocess.Popen(
        ["/bin/sh", "-c", f"echo $$; exec {LAUNCHER} check /dev/stdin"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    process = Path("/proc") / running.stdout.readline().strip() / "exe"
    wait = time.monotonic() + 60
    while process.readlink() != PROGRAM.resolve() and time.monotonic() < wait:
        time.sleep(0.01)
    became = process.readlink()
    running.communicate("")
    assert became == PROGRAM.resolve()

    for other in "2.16.0", "1.13.1":
        pretend_torch(tmp_path, other)
        refused = launch(tmp_path)
        assert refused.returncode == 2 and refused.stdout == ""
        assert f"ptyle: ptyle was compiled for torch {MINOR}, got torch {other}" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
        shutil.rmtree(tmp_path / f"torch-{other}.dist-info")
    assert launch(tmp_path).returncode == 0


def copy_package(folder, *without):
    """The package in `folder`, for a test to spoil."""
    shutil.copytree(
        _library.FOLDER.parents[1],
        folder / "ptyle",
        ignore=shutil.ignore_patterns("__pycache__", "models", "include", *without),
    )
    return folder / "ptyle"


def test_the_launcher_says_what_it_does_not_find(tmp_path):
    def said(*folders):
        refused = launch(*folders)
        assert refused.returncode == 2 and refused.stdout == ""
        assert len(refused.stderr.splitlines()) == 1, refused.stderr
        return refused.stderr

    for name, file in ("folder", "ptyle/_versions.py"), ("file", "ptyle.py"):
        path = tmp_path / name / file
        path.parent.mkdir(parents=True)
        path.touch()
    (tmp_path / "package" / "ptyle").mkdir(parents=True)
    (tmp_path / "package" / "ptyle" / "__init__.py").touch()
    finds = "the package ptyle must be what Python finds by its name, got"
    assert f"{finds} {tmp_path}/file/ptyle.py\n" in said(tmp_path / "file")
    assert f"{finds} {tmp_path}/package/ptyle/__init__.py\n" in said(tmp_path / "package")
    # a folder without __init__.py is Python's last choice
    assert launch(tmp_path / "folder").returncode == 0
    alone = subprocess.run(
        [sys.executable, "-S", LAUNCHER],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(tmp_path / "folder")},
    )
    assert alone.returncode == 2 and f"{finds} {tmp_path}/folder/ptyle\n" in alone.stderr
    program = copy_package(tmp_path / "own") / "lib" / MINOR / "ptyle"
    program.unlink()
    assert f"{program} cannot be started: No such file or directory" in said(tmp_path / "own")


def test_no_torch_at_all_is_said(tmp_path):
    package = copy_package(tmp_path)
    (package / "lib" / "2.x").mkdir()  # of somebody else
    (package / "lib" / "2.x" / "libptyle_ops.so").touch()
    code = (
        "import importlib.metadata as m, importlib.util\n"
        "def version(name): raise m.PackageNotFoundError(name)\n"
        "m.version = version\n"
        "import ptyle"
    )
    last = python(code, tmp_path).stderr.splitlines()[-1]
    assert f"compiled for torch {MINOR}, but {sys.executable} has no torch: pip install" in last


@pytest.mark.parametrize("file", [PROGRAM, *LIBRARIES], ids=lambda file: file.name)
def test_nothing_installed_needs_python(file):
    assert not [name for name in needed(file) if "python" in name]


def test_only_the_cuda_library_needs_cuda():
    for file in PROGRAM, _library.FOLDER / "libptyle_ops.so":
        assert not [name for name in needed(file) if name.startswith("libcu") or "cuda" in name]


def pretend_torch(folder, version):
    """Of a torch of another version only what pip says of it."""
    folder = folder / f"torch-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")


@pytest.mark.parametrize("other", ["1.13.0", "2.10.1+cu128", "2.16.0", "3.0.0"])
def test_another_torch_is_refused_before_anything_is_loaded(tmp_path, other):
    pretend_torch(tmp_path, other)
    result = python(
        "try:\n"
        "    import ptyle\n"
        "except ImportError as error:\n"
        "    print(error)\n"
        "print('torch' in sys.modules, 'libptyle' in open('/proc/self/maps').read())\n",
        tmp_path,
    )
    message, loaded = result.stdout.splitlines()
    assert f"compiled for torch {MINOR}, got torch {other.split('+')[0]};" in message
    assert "pip install --no-build-isolation --no-deps --force-reinstall ." in message
    assert loaded == "False False"


@pytest.mark.parametrize("patch", ["0+cpu", "9"])
def test_any_build_of_the_same_minor_version_is_accepted(tmp_path, patch):
    pretend_torch(tmp_path, f"{MINOR}.{patch}")
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
    program = subprocess.run([LAUNCHER, "--version"], capture_output=True, text=True, check=True)
    assert version in program.stdout


def test_a_gpu_without_the_cuda_library_is_told(tmp_path):
    copy_package(tmp_path, "libptyle_ops_cuda.so")
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


def test_a_cuda_library_that_cannot_load_is_told_and_leaves_the_cpu(tmp_path):
    library = copy_package(tmp_path) / "lib" / MINOR / "libptyle_ops_cuda.so"
    library.unlink(missing_ok=True)
    library.write_text("nothing")
    result = python(
        "import torch, warnings\n"
        "torch.cuda.is_available = lambda: True\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    import ptyle\n"
        "print(*[w.message for w in caught])\n"
        "print(ptyle.good_size(13))\n"
        "try:\n"
        "    ptyle.load_cuda()\n"
        "except RuntimeError as error:\n"
        "    print(error)\n",
        tmp_path,
    )
    told, size, error = result.stdout.splitlines()
    assert told.startswith("ptyle: torch sees a GPU, but ptyle's operators work on the CPU alone: ")
    for text in told, error:
        assert "libptyle_ops_cuda.so cannot be loaded: " in text and "file too short" in text, text
    assert size.isdigit()


def test_libraries_are_chosen_by_torchs_minor_version(tmp_path):
    package = copy_package(tmp_path)
    shutil.copytree(package / "lib" / MINOR, package / "lib" / "2.99")
    code = "import ptyle; print(ptyle._library.FOLDER)"
    assert python(code, tmp_path).stdout.strip() == str(package / "lib" / MINOR)
    shutil.rmtree(package / "lib" / MINOR)
    refused = python(code, tmp_path)
    assert f"compiled for torch 2.99, got torch {MINOR}" in refused.stderr


def test_the_package_says_where_it_is():
    def said(*options, code=0):
        done = subprocess.run(
            [sys.executable, "-m", "ptyle", *options], capture_output=True, text=True
        )
        assert done.returncode == code, done.stderr
        return done.stdout.strip()

    assert Path(said("--library")) == _library.FOLDER / "libptyle_ops.so"
    prefix = Path(said("--cmake-prefix"))
    assert (prefix / "lib" / "cmake" / "ptyle" / "ptyleConfig.cmake").is_file()
    said(code=2)
    said("--library", "--cmake-prefix", code=2)


def test_the_package_needs_the_torch_it_was_compiled_with():
    needs = importlib.metadata.requires("ptyle")
    assert f"torch=={MINOR}.*" in needs and {"numpy", "h5py"} < set(needs), needs


def test_versions_are_those_of_the_list():
    lines = (ROOT / "cmake" / "torch-versions.txt").read_text().splitlines()
    versions = [line.split() for line in lines if not line.startswith("#")]
    minors = [[int(part) for part in torch.split(".")[:2]] for torch, *_ in versions]
    assert minors == sorted(minors)
    assert {tested for *_, tested in versions} <= {"everything", "operators", "python", "nothing"}
    torch, toolkit, tested = versions[-1]
    assert tested == "everything"
    cuda = ".".join(toolkit.split(".")[:2])
    for file, words in {
        "requirements.in": [f"torch=={torch}\n", f"cuda-toolkit[nvcc]=={toolkit} "],
        "requirements.lock": [f"\ntorch=={torch} ", f"\ncuda-toolkit=={toolkit} "],
        "pyproject.toml": [
            f'"torch=={torch}"',
            f'"cuda-toolkit[nvcc]=={toolkit};',
            f'"nvidia-nvvm=={cuda}.*;',
            f'"nvidia-cuda-crt=={cuda}.*;',
        ],
        "README.md": [f"PyTorch {versions[0][0][:4]} to {torch[:4]}"],
    }.items():
        text = (ROOT / file).read_text()
        for word in words:
            assert word in text, (file, word)


def configured(folder, *options):
    """What CMake says of a torch in `folder`/torch that is nothing but files with names."""
    done = subprocess.run(
        ["cmake", "-G", "Ninja", "-S", ROOT, "-B", folder / "build", *options],
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    return " ".join((done.stdout + done.stderr).split())


def pretend_wheel(folder, version, cuda="13.2"):
    (folder / "torch" / "lib").mkdir(parents=True)
    (folder / "torch" / "lib" / "libtorch_cpu.so").touch()
    (folder / "torch" / "version.py").write_text(f"__version__ = '{version}'\ncuda = '{cuda}'\n")


@pytest.mark.skipif(not shutil.which("cmake"), reason="no cmake")
def test_cmake_refuses_an_older_torch_wherever_it_is_named(tmp_path):
    pretend_wheel(tmp_path, "2.10.0+cu128", "12.8")
    root = f"-DPTYLE_TORCH_ROOT={tmp_path / 'torch'}"
    folder = f"-DTorch_DIR={tmp_path / 'torch' / 'share' / 'cmake' / 'Torch'}"
    for option in root, folder:
        shutil.rmtree(tmp_path / "build", ignore_errors=True)
        said = configured(tmp_path, option)
        assert "ptyle is built for PyTorch 2.11 to 2.15, found 2.10.0 in" in said, said


@pytest.mark.skipif(not shutil.which("cmake"), reason="no cmake")
def test_cmake_wants_all_parts_of_nvcc_of_one_version(tmp_path):
    pretend_wheel(tmp_path, "2.11.0", "13.0")
    options = (f"-DPTYLE_TORCH_ROOT={tmp_path / 'torch'}", "-DPTYLE_CUDA=ON")
    said = configured(tmp_path, *options)
    assert "there is no nvcc in" in said and '"nvidia-nvvm==13.0.*"' in said, said
    (tmp_path / "nvidia" / "cu13" / "bin").mkdir(parents=True)
    (tmp_path / "nvidia" / "cu13" / "bin" / "nvcc").touch()
    for name in "nvidia_cuda_nvcc-13.0.88", "nvidia_cuda_crt-13.0.88", "nvidia_nvvm-13.5.37":
        (tmp_path / f"{name}.dist-info").mkdir()
    said = configured(tmp_path, *options)
    parts = "nvidia-cuda-nvcc 13.0 nvidia-cuda-crt 13.0 nvidia-nvvm 13.5"
    assert f"the parts of nvcc are of several versions: {parts}" in said, said
