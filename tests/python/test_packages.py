"""What is installed: the program is not Python's, and a torch that does not fit is refused before
anything of ptyle's is loaded. tests/consume/check.sh holds the package in other places."""

import importlib.metadata
import os
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


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
def test_the_program_refuses_libraries_of_another_torch(tmp_path):
    major, minor = map(int, MINOR.split("."))
    for other, code in (minor, 0), (minor + 1, 2):
        version = major << 56 | other << 48
        (tmp_path / "other.c").write_text(
            f"unsigned long aoti_torch_abi_version(void) {{ return {version}ul; }}"
        )
        library = tmp_path / f"other{other}.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "other.c"], check=True)
        done = subprocess.run(
            [PROGRAM, "--version"],
            capture_output=True,
            text=True,
            env={"LD_PRELOAD": str(library)},
        )
        assert done.returncode == code, done.stderr
    said = (
        f"this program was compiled for torch {MINOR}, got the libraries of torch {major}.{other}"
    )
    assert said in done.stderr and len(done.stderr.splitlines()) == 1


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


def configured(folder, *options, source=ROOT, code=1, **environment):
    """What CMake says of a torch in `folder`/torch that is nothing but files with names."""
    shutil.rmtree(folder / "build", ignore_errors=True)
    for name in "PTYLE_TORCH_ROOT", "Torch_DIR", "CUDACXX", "PTYLE_CUDA":
        environment.setdefault(name, "")
    done = subprocess.run(
        ["cmake", "-G", "Ninja", "-S", source, "-B", folder / "build", *options],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    assert done.returncode == code, done.stdout + done.stderr
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
        said = configured(tmp_path, option)
        assert "ptyle is built for PyTorch 2.11 to 2.15, found 2.10.0 in" in said, said


def pretend_nvcc(folder, version, *parts):
    """Of nvcc and its parts what pip says of them, and an nvcc that knows its version."""
    (folder / "nvidia" / "cu13" / "bin").mkdir(parents=True)
    (folder / "nvidia" / "cu13" / "bin" / "nvcc").touch()
    parts = parts or [version] * 3
    for name, part in zip(("cuda_nvcc", "cuda_crt", "nvvm"), parts, strict=True):
        (folder / f"nvidia_{name}-{part}.dist-info").mkdir()


@pytest.mark.skipif(not shutil.which("cmake"), reason="no cmake")
def test_cmake_wants_all_parts_of_nvcc_of_torchs_cuda(tmp_path):
    for name, *versions in (
        ("none",),
        ("several", "13.0.88", "13.0.88", "13.5.37"),
        ("newer", "13.2.86", "13.2.86", "13.2.86"),
    ):
        folder = tmp_path / name
        pretend_wheel(folder, "2.11.0", "13.0")
        if versions:
            pretend_nvcc(folder, "", *versions)
        said = configured(folder, f"-DPTYLE_TORCH_ROOT={folder / 'torch'}", "-DPTYLE_CUDA=ON")
        expected = "there is no nvcc in"
        if versions:
            nvcc, crt, nvvm = (version[:4] for version in versions)
            expected = (
                "all parts of nvcc must be of torch's CUDA 13.0, got "
                f"nvidia-cuda-nvcc {nvcc} nvidia-cuda-crt {crt} nvidia-nvvm {nvvm}"
            )
        assert expected in said and '"nvidia-nvvm==13.0.*"' in said, said


@pytest.mark.skipif(not shutil.which("cmake"), reason="no cmake")
def test_cmake_advises_a_toolkit_for_cuda_12(tmp_path):
    pretend_wheel(tmp_path, "2.11.0+cu128", "12.8")
    options = (f"-DPTYLE_TORCH_ROOT={tmp_path / 'torch'}", "-DPTYLE_CUDA=ON")
    said = configured(tmp_path, *options)
    assert "CUDACXX be the nvcc of an installed toolkit of CUDA 12.8" in said, said
    assert "pip install" not in said and "PTYLE_CUDA=off" in said
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho release 12.4, V12.4.131\n")
    nvcc.chmod(0o755)
    said = configured(tmp_path, *options, CUDACXX=str(nvcc))
    assert "must be of torch's CUDA 12.8, got CUDACXX 12.4" in said, said
    nvcc.write_text("#!/bin/sh\necho release 12.8, V12.8.93\n")  # it is asked to compile then
    said = configured(tmp_path, *options, CUDACXX=str(nvcc))
    assert "CUDA cannot be compiled" not in said and "; CUDA ON" in said, said


@pytest.mark.skipif(not shutil.which("cmake"), reason="no cmake")
def test_cmake_wants_a_torch_with_cuda_where_cuda_is_asked_for(tmp_path):
    pretend_wheel(tmp_path, "2.11.0+cpu", "")
    said = configured(tmp_path, f"-DPTYLE_TORCH_ROOT={tmp_path / 'torch'}", "-DPTYLE_CUDA=ON")
    assert "is one without CUDA" in said, said


@pytest.mark.skipif(not shutil.which("cmake"), reason="no cmake")
def test_a_named_torch_comes_before_that_beside_the_package(tmp_path):
    """ptyle in the site-packages of one torch, and another torch."""
    beside, named = tmp_path / "beside", tmp_path / "named"
    pretend_wheel(beside, "2.14.1")
    pretend_wheel(named, "2.15.0")
    cmake = beside / "ptyle" / "lib" / "cmake" / "ptyle"
    cmake.mkdir(parents=True)
    shutil.copy(ROOT / "cmake" / "TorchWheel.cmake", cmake)
    source = tmp_path / "source"
    source.mkdir()
    (source / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.25)\nproject(outside NONE)\n"
        f'include("{cmake}/TorchWheel.cmake")\n'
        'message(STATUS "found=${TORCH_WHEEL_VERSION} ${TorchWheel_REASON}")\n'
    )
    root, folder = str(named / "torch"), str(named / "torch" / "share" / "cmake" / "Torch")

    def found(*options, **environment):
        return configured(tmp_path, *options, source=source, code=0, **environment)

    assert "found=2.14.1" in found()
    assert "found=2.15.0" in found(f"-DPTYLE_TORCH_ROOT={root}")
    assert "found=2.15.0" in found(f"-DTorch_DIR={folder}")
    assert "found=2.15.0" in found(PTYLE_TORCH_ROOT=root)
    assert "found=2.15.0" in found(Torch_DIR=folder)
    (named / "torch" / "version.py").unlink()
    assert "no PyTorch wheel found" in found(Torch_DIR=folder)
    (named / "torch" / "build-version").write_text("2.15.0+cpu")
    assert "is LibTorch's archive" in found(Torch_DIR=folder)


@pytest.mark.skipif(not shutil.which("cmake"), reason="no cmake")
def test_metadata_need_the_torch_that_cmake_compiles_for(tmp_path):
    pretend_wheel(tmp_path, "2.13.0+cu130")
    script = ROOT / "cmake" / "requirements_of_package.py"

    def needs(*minors, **environment):
        return subprocess.run(
            [sys.executable, script, *minors], capture_output=True, text=True, env=environment
        )

    root, folder = tmp_path / "torch", tmp_path / "torch" / "share" / "cmake" / "Torch"
    assert needs().stdout == f"torch=={MINOR}.*\n"
    assert needs(Torch_DIR=str(folder)).stdout == "torch==2.13.*\n"
    assert needs(PTYLE_TORCH_ROOT=str(root)).stdout == "torch==2.13.*\n"
    assert needs("2.13", "2.11").stdout == "torch>=2.11,<2.14,!=2.12.*\n"
    for refused in needs("2"), needs("2.11", "2.12/x"), needs(Torch_DIR=str(tmp_path / "a/b/c")):
        assert refused.returncode == 1 and len(refused.stderr.splitlines()) == 1, refused.stderr

    options = ("-DSKBUILD=2", f"-DPython_EXECUTABLE={sys.executable}", "-DPTYLE_CUDA=OFF")
    said = configured(tmp_path, *options, f"-DTorch_DIR={folder}")
    assert f"the package would need torch=={MINOR}.*, found 2.13.0 in" in said, said
    said = configured(
        tmp_path, *options, "-DCMAKE_DISABLE_FIND_PACKAGE_PNG=ON", Torch_DIR=str(folder)
    )
    assert "the package would need" not in said


@pytest.mark.skipif(not shutil.which("cmake"), reason="no cmake")
@pytest.mark.parametrize(
    ("option", "package"),
    [
        ("CMAKE_DISABLE_FIND_PACKAGE_HDF5=ON", "libhdf5-dev"),
        ("CMAKE_DISABLE_FIND_PACKAGE_PNG=ON", "libpng-dev"),
        ("CMAKE_DISABLE_FIND_PACKAGE_CLI11=ON", "libcli11-dev"),
        ("CMAKE_DISABLE_FIND_PACKAGE_nlohmann_json=ON", "nlohmann-json3-dev"),
        ("PTYLE_TOMLPLUSPLUS_INCLUDE=", "libtomlplusplus-dev"),
    ],
)
def test_cmake_names_the_system_package_that_is_missing(tmp_path, option, package):
    pretend_wheel(tmp_path, "2.11.0")
    root = f"-DPTYLE_TORCH_ROOT={tmp_path / 'torch'}"
    said = configured(tmp_path, root, "-DPTYLE_CUDA=OFF", f"-D{option}")
    assert f"which is missing: install {package} (its name in Debian and Ubuntu)" in said, said


def test_the_wheel_is_for_any_version_of_python():
    assert "\nTag: py3-none-linux_" in importlib.metadata.distribution("ptyle").read_text("WHEEL")
