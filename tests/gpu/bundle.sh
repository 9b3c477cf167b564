#!/usr/bin/env bash
# Everything that tests/gpu/run.py needs, in one archive for a machine with a GPU and torch 2.11, where there
# may be neither network, compiler, HDF5 nor this repository.
#
#   tests/gpu/bundle.sh OUT
#
# builds here, against torch 2.11 and CUDA 13.0, code for sm_80, sm_90 and PTX for later ones, and writes
# OUT/ptyle-gpu.tar.gz. There, where python3 (or PYTHON) has a torch 2.11 with CUDA 13.0:
#
#   tar -xzf ptyle-gpu.tar.gz && PYTHON=python3 ptyle-gpu/run.sh --minutes 8
set -euo pipefail
(($# == 1)) || {
  echo "usage: tests/gpu/bundle.sh OUT" >&2
  exit 2
}
out=$(realpath -m "$1")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
root=$PWD
most_mib=60

die() {
  echo "bundle.sh: $*" >&2
  exit 1
}

# own_libraries PROGRAM: what it loads and is neither torch's, this build's nor every system's
own_libraries() {
  local name path everywhere='^lib(c|m|dl|rt|util|pthread|resolv|stdc\+\+|gcc_s|gomp)[.-]'
  ldd "$1" | sed -n 's/^[ \t]*\([^ ]*\) => \(.*\)$/\1\t\2/p' | while IFS=$'\t' read -r name path; do
    [[ $path != 'not found' ]] || die "$1 needs $name, which is not found"
    path=${path% (*}
    case "$path" in
      "$build"/* | */torch/* | */nvidia/*) continue ;;
    esac
    [[ $name =~ $everywhere ]] || echo "$path"
  done
}

version=$(sed -n 's/^\(2\.11\.[0-9]*\) .*/\1/p' cmake/torch-versions.txt)
minor=${version%.*}
./dev setup --torch "$version"
python=$root/.venv-$version/bin/python
build=$root/build/bundle
rm -rf "$build/tree"
bundle=$build/tree/ptyle-gpu
mkdir -p "$bundle" "$out"

# Where the program's libraries are in the bundle; the wrapper bin/ptyle says where torch's are. Messages of
# torch's headers name their files: without the environment's folder, also as the compiler's cache has it.
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
names="\"-fmacro-prefix-map=$site/=\" \"-fmacro-prefix-map=../../${site#"$root"/}/=\""
cmake -G Ninja -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DPTYLE_TESTS=OFF -DPTYLE_WHEEL=ON -DPTYLE_CUDA=ON \
  "-DCMAKE_CXX_FLAGS=$names" -DPython3_EXECUTABLE="$python" \
  "-DPTYLE_PROGRAM_RPATH=\$ORIGIN/../lib;\$ORIGIN/../python/ptyle/lib/$minor" > "$build.log" 2>&1 < /dev/null \
  || { tail -n 30 "$build.log" >&2 && exit 1; }
cmake --build "$build" -j "${PTYLE_JOBS:-$(nproc)}" --target wheel
cmake --install "$build" --prefix "$bundle/python" --strip > /dev/null

# The package, with no more of its metadata than what its version asks for.
cp -r ops/python/ptyle/. "$bundle/python/ptyle"
cp -r models "$bundle/python/ptyle/models"
rm -rf "$bundle"/python/ptyle/{include,docs,lib/cmake,models/experiments}
package=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
info=$bundle/python/ptyle-$package.dist-info
mkdir "$info"
printf 'Metadata-Version: 2.1\nName: ptyle\nVersion: %s\n' "$package" > "$info/METADATA"

# The program and all that it loads and that is neither torch's nor every system's.
mkdir -p "$bundle/bin" "$bundle/libexec" "$bundle/lib"
mv "$bundle/python/ptyle/lib/$minor/ptyle" "$bundle/libexec/ptyle"
libraries=$(own_libraries "$build/driver/ptyle")
while IFS= read -r library; do
  cp -L "$library" "$bundle/lib"
done <<< "$libraries"

cp tests/gpu/bundle/ptyle "$bundle/bin/ptyle"
cp tests/gpu/bundle/run.sh "$bundle/run.sh"
mkdir "$bundle/gpu"
cp tests/gpu/*.py "$bundle/gpu"

find "$bundle" -name __pycache__ -prune -exec rm -r {} +
if grep -r -l -a -E 'python3\.[0-9]' "$bundle"; then
  die "the files above name a version of Python"
fi
tar -C "$build/tree" -czf "$out/ptyle-gpu.tar.gz" ptyle-gpu
size=$((($(stat -c %s "$out/ptyle-gpu.tar.gz") + 1048575) >> 20)) # rounded up
((size <= most_mib)) || die "$out/ptyle-gpu.tar.gz must have at most $most_mib MiB, got $size MiB"
echo "$out/ptyle-gpu.tar.gz: $size MiB; there: tar -xzf ptyle-gpu.tar.gz && ptyle-gpu/run.sh --minutes 8"
