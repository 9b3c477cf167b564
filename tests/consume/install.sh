#!/usr/bin/env bash
# `pip install .` as a stranger does it: a copy of the tree, a new environment, nothing built before.
#
#   tests/consume/install.sh linked PYTHON [FOLDER]
#   tests/consume/install.sh fresh PYTHON [FOLDER]
#   tests/consume/install.sh torch==VERSION PYTHON [FOLDER]
#
# linked: without build isolation and without CUDA; torch and scikit-build-core are linked to from
#   PYTHON's environment, and the compiler's cache knows the files of a tree that was built before.
# fresh: as pip does it by itself: everything from PyPI, twice (for the build and to stay), with CUDA.
#   10 GB of disk and half an hour; PYTHON is only the interpreter.
# torch==VERSION: without build isolation in an environment where that torch is installed first, from PyPI,
#   with CUDA; it must be the one that stays and that the package then needs. 6 GB of disk.
# FOLDER is worked in.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
kind=$1
python=$(realpath -s "$2")
work=$(realpath -ms "${3:-$root/build/install-${kind/torch==/}}")
unset LD_LIBRARY_PATH PYTHONPATH CMAKE_PREFIX_PATH PTYLE_CUDA SKBUILD_BUILD_DIR SKBUILD_CMAKE_ARGS
# shellcheck source=tests/consume/environment.sh
source "$root/tests/consume/environment.sh"
tree=$work/tree
environment=$tree/.venv # where a stranger puts it, and where the compiler's cache has seen torch

copy_tree() {
  rm -rf "$work"
  mkdir -p "$tree"
  (
    cd "$root"
    if git rev-parse --is-inside-work-tree > /dev/null 2>&1; then
      git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
        [[ ! -e $file ]] || printf '%s\0' "$file"
      done
    else
      find . -type f ! -path './build/*' ! -path './.venv*/*' -print0
    fi | tar --null -T - -cf -
  ) | tar -C "$tree" -xf -
}

# What pip's last line promises: the package, the program, and find_package.
check_installed() {
  local site file version minor
  site=$(platlib "$environment/bin/python")
  version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/pyproject.toml")
  minor=$("$environment/bin/python" -c 'import torch; print(".".join(torch.__version__.split(".")[:2]))')
  for file in "lib/$minor/libptyle_ops.so" include/ptyle/ops.h lib/cmake/ptyle/ptyleConfig.cmake; do
    [[ -f $site/ptyle/$file ]] || fail "there is no $site/ptyle/$file"
  done
  [[ ! -e $site/lib && ! -e $site/include ]] || fail "$site holds folders that are not packages"
  (
    cd /
    "$environment/bin/python" -I -W error -c 'import ptyle, sys, torch
assert ptyle.__file__.startswith(sys.prefix), ptyle.__file__
probe = torch.ones(1, 4, 4, dtype=torch.complex64)
still = torch.zeros(1, 2, dtype=torch.double)
assert ptyle.diffraction(torch.zeros(1, 4, 4), probe, still).sum().item() == 16
import importlib.metadata
assert "torch==" + sys.argv[1] + ".*" in importlib.metadata.requires("ptyle"), importlib.metadata.requires("ptyle")' \
      "$minor"
    [[ $("$environment/bin/ptyle" --version) == *"$version"* ]] || fail "ptyle --version"
  )
  quietly find-package cmake -G Ninja -S "$root/tests/consume" -B "$work/outside" \
    -DCMAKE_PREFIX_PATH="$site/ptyle"
}

cuda_library() {
  find "$(platlib "$environment/bin/python")/ptyle/lib" -name libptyle_ops_cuda.so
}

linked() {
  local site entry name
  copy_tree
  link_environment "$python" "$environment"
  site=$(platlib "$environment/bin/python")
  # torch's own dependencies, not nvcc
  rm "$site/nvidia"
  mkdir -p "$site/nvidia/cu13"
  for entry in "$(platlib "$python")"/nvidia/* "$(platlib "$python")"/nvidia/cu13/*; do
    name=${entry##*/nvidia/}
    [[ $name == cu13 || $name == cu13/bin ]] || ln -s "$entry" "$site/nvidia/$name"
  done
  cd "$tree"
  local install=("$python" -m pip --python "$environment/bin/python" install
    --disable-pip-version-check --no-input --no-index --no-build-isolation)
  # without CUDA only where that was asked for
  if [[ $(uname -m) == x86_64 ]]; then
    if "${install[@]}" . > "$work/refused.log" 2>&1 < /dev/null; then
      fail "without nvcc, and without PTYLE_CUDA=off, the installation must fail"
    fi
    grep -q 'PTYLE_CUDA=off' "$work/refused.log" || fail "$work/refused.log must name PTYLE_CUDA=off"
  fi
  # the compiler's cache knows files by the compiler's name (CMake's is c++, scikit-build-core takes
  # Python's) and by the way from the build folder, which is as deep as theirs and new all the same
  export CC=cc CXX=c++ SKBUILD_BUILD_DIR=build/default
  PTYLE_CUDA=off quietly install "${install[@]}" .
  check_installed
  [[ -z $(cuda_library) ]] || fail "CUDA was to be off"
  PTYLE_CUDA=off quietly editable "${install[@]}" -e .
  (
    cd /
    "$environment/bin/python" -W error -c "import ptyle
assert ptyle.__file__.startswith('$tree/ops/python/'), ptyle.__file__"
  )
}

fresh() {
  copy_tree
  "$python" -m venv "$environment"
  cd "$tree"
  quietly install "$environment/bin/python" -m pip install --disable-pip-version-check --no-input .
  check_installed
  [[ $(uname -m) != x86_64 || -n $(cuda_library) ]] || fail "CUDA was to be on"
  rm -rf "$environment"
}

with_torch() {
  local version=${kind#torch==} minor kit cuda
  minor=$(cut -d . -f 1,2 <<< "$version")
  kit=$(sed -n "s/^$minor\.[0-9]* \([0-9.]*\) .*/\1/p" "$root/cmake/torch-versions.txt")
  cuda=$(cut -d . -f 1,2 <<< "$kit")
  copy_tree
  "$python" -m venv "$environment"
  cd "$tree"
  local pip=("$environment/bin/python" -m pip install --disable-pip-version-check --no-input)
  quietly torch "${pip[@]}" "$kind" numpy h5py scikit-build-core \
    "nvidia-cuda-nvcc==$cuda.*" "nvidia-cuda-crt==$cuda.*" "nvidia-nvvm==$cuda.*"
  export CC=cc CXX=c++
  quietly install "${pip[@]}" --no-build-isolation .
  [[ $("$environment/bin/python" -c 'import torch; print(torch.__version__)') == "$version"* ]] \
    || fail "torch $version was replaced"
  check_installed
  [[ -n $(cuda_library) ]] || fail "CUDA was to be on"
  rm -rf "$environment"
}

case "$kind" in
  linked | fresh) "$kind" ;;
  torch==*) with_torch ;;
  *) fail "the kind must be linked, fresh or torch==VERSION, got $kind" ;;
esac
echo "packages: pip install . ($kind): package, program, find_package"
