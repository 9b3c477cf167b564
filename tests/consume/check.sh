#!/usr/bin/env bash
# The package as others use it: a wheel in an environment of its own, and a plain prefix, both with
# the build folder out of the way.
#
#   tests/consume/check.sh PYTHON BUILD [FOLDER]
#
# PYTHON is the interpreter of the environment that holds torch, BUILD a build tree configured with
# PTYLE_WHEEL=ON (its compiled libraries are packed, nothing is compiled twice), FOLDER is worked in.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=$(realpath -s "$1")
build=$(realpath -s "$2")
work=$(realpath -ms "${3:-$root/build/packages}")
plain=$build.plain # beside BUILD: the compiler's cache knows what has the same relative path
sources=$root/tests/consume
unset LD_LIBRARY_PATH PYTHONPATH CMAKE_PREFIX_PATH
away=$build.away

restore() {
  if [[ -d $away ]]; then
    rm -rf "$build" # what something made in the meantime
    mv "$away" "$build"
  fi
}
trap restore EXIT # also after Ctrl-C
if [[ -d $build ]]; then
  rm -rf "$away"
else # a call before this one was killed
  restore
fi

# shellcheck source=tests/consume/environment.sh
source "$root/tests/consume/environment.sh"

# outside NAME SOURCES TARGET OPTION...: configure and compile an outside project from nothing
outside() {
  local name=$1 folder=$2 target=$3
  shift 3
  rm -rf "${work:?}/$name"
  # the compiler is found again from the cache, where there is one
  if command -v ccache > /dev/null; then
    set -- "$@" -DCMAKE_CXX_COMPILER_LAUNCHER=ccache
  fi
  quietly "$name-configure" cmake -G Ninja -S "$folder" -B "$work/$name" \
    -DCMAKE_BUILD_TYPE=Release -DCMAKE_FIND_USE_PACKAGE_REGISTRY=OFF "$@"
  quietly "$name-build" cmake --build "$work/$name" --target "$target"
}

elf_files() { # FOLDER...
  find "$@" -type f -exec sh -c 'head -c 4 "$1" | grep -q ELF' _ {} \; -print
}

run_path() { # FILE: one folder a line
  readelf -d "$1" | sed -n 's/.*(R\(UN\)\?PATH).*\[\(.*\)\]/\2/p' | tr ':' '\n'
}

# no_build_folder FILE...: nothing installed names the folder that it was built in
no_build_folder() {
  if grep -l -F -e "$build/" -e "$plain/" "$@"; then
    fail "the files above name the build folder"
  fi
}

make_wheel() {
  rm -rf "$work/wheel"
  SKBUILD_BUILD_DIR=$build SKBUILD_CMAKE_ARGS="-GNinja" quietly wheel "$python" -m pip wheel \
    --disable-pip-version-check --no-input --no-index --no-build-isolation --no-deps \
    -w "$work/wheel" "$root"
}

make_environment() {
  link_environment "$python" "$environment"
  quietly install "$python" -m pip --python "$environment/bin/python" install \
    --disable-pip-version-check --no-input --no-index --no-deps "$work"/wheel/ptyle-*.whl
}

check_wheel_files() {
  local file entry files
  mapfile -t files < <(elf_files "$site/ptyle")
  ((${#files[@]} >= 2)) || fail "no library or no program in $environment"
  for file in "${files[@]}"; do
    while read -r entry; do
      [[ $entry == "\$ORIGIN" || $entry == "\$ORIGIN/"* ]] || fail "$file: RUNPATH has $entry"
    done < <(run_path "$file")
  done
  [[ -n $(run_path "$program") ]] || fail "the program has no RUNPATH"
  mapfile -t files < <(find "$site/ptyle" "$environment/bin/ptyle" -type f)
  no_build_folder "${files[@]}"
}

check_wheel_runs() {
  (
    cd /
    "$environment/bin/python" -I -c 'import ptyle, sys
assert ptyle.__file__.startswith(sys.prefix), ptyle.__file__'
    [[ $("$environment/bin/ptyle" --version) == *"$version"* ]] || fail "ptyle --version"
    # the operators' library is that of this environment, and so are torch and CUDA's libraries
    local line
    while read -r line; do
      [[ $line == "$environment/"* ]] || fail "the program loads $line"
    done < <(ldd "$program" | awk '/libptyle|libtorch|libc10|libcud/ { print $3 }')
  )
}

# A plain prefix, moved after the installation. Where torch is cannot be told from it.
make_prefix() {
  local option
  option=$(sed -n 's/^\(PTYLE_CUDA:BOOL\)=\(.*\)$/-D\1=\2/p' "$build/CMakeCache.txt")
  quietly plain-configure cmake -G Ninja -S "$root" -B "$plain" -DCMAKE_BUILD_TYPE=Release \
    -DPTYLE_WHEEL=OFF -DPython3_EXECUTABLE="$python" ${option:+"$option"}
  quietly plain-build cmake --build "$plain" --target wheel
  rm -rf "$work/prefix" "$work/moved"
  quietly plain-install cmake --install "$plain" --prefix "$work/prefix"
  mv "$work/prefix" "$work/moved"
  rm -rf "$plain"
}

check_prefix() {
  local file entry files
  mapfile -t files < <(elf_files "$work/moved")
  for file in "${files[@]}"; do
    while read -r entry; do
      [[ $entry == "\$ORIGIN"* || $entry == "$(platlib "$python")/"* ]] \
        || fail "$file: RUNPATH has $entry"
    done < <(run_path "$file")
  done
  mapfile -t files < <(find "$work/moved" -type f)
  no_build_folder "${files[@]}"
  [[ $("$work/moved/bin/ptyle" --version) == *"$version"* ]] || fail "ptyle --version, prefix"
}

mkdir -p "$work"
environment=$work/environment
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/pyproject.toml")
make_wheel
make_environment
site=$(platlib "$environment/bin/python")
program=$(find "$site/ptyle/lib" -name ptyle -type f)
make_prefix
outside from-wheel "$sources" all -DCMAKE_PREFIX_PATH="$site/ptyle"
prefix_options=(-DCMAKE_PREFIX_PATH="$work/moved" -DPTYLE_TORCH_ROOT="$(platlib "$python")/torch")

# from here on as on another machine
mv "$build" "$away"
check_wheel_files
check_wheel_runs
check_prefix
"$work/from-wheel/consume"
"$environment/bin/python" "$sources/loader.py" "$work/loader.pt"
"$work/from-wheel/loader" "$work/loader.pt"
outside experiments "$root/models/experiments" all -DCMAKE_PREFIX_PATH="$site/ptyle"
"$environment/bin/python" -m ptyle.models export huber --force -o "$work/tv.pt" > "$work/export.log" 2>&1
"$environment/bin/python" "$root/models/experiments/scripted.py" "$work/scripted.pt"
"$work/experiments/scripted" "$work/scripted.pt"
"$work/experiments/optimisers" "$work/tv.pt"
"$work/experiments/unrolled"
outside twice-from-wheel "$sources/twice" all -DCMAKE_PREFIX_PATH="$site/ptyle"
"$work/twice-from-wheel/twice"
restore
outside from-prefix "$sources" all "${prefix_options[@]}"
"$work/from-prefix/consume"
"$work/from-prefix/loader" "$work/loader.pt"
outside twice-from-prefix "$sources/twice" all "${prefix_options[@]}"
"$work/twice-from-prefix/twice"
echo "packages: wheel $(du -ch "$work"/wheel/*.whl | awk 'END { print $1 }')B," \
  "in an environment of its own; prefix; both without the build folder"
