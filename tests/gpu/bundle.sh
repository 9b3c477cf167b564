#!/usr/bin/env bash
# Everything that tests/gpu/run.py needs, in one archive for a machine with a GPU and torch 2.11, where there
# may be neither network, compiler, HDF5 nor this repository.
#
#   tests/gpu/bundle.sh OUT
#
# builds here, against torch 2.11 and CUDA 13.0, code for sm_80, sm_90 and PTX for later ones, and writes
# OUT/ptyle-gpu.tar.gz. There: tar -xzf ptyle-gpu.tar.gz && ptyle-gpu/run.sh --minutes 8
set -euo pipefail
(($# == 1)) || {
  echo "usage: tests/gpu/bundle.sh OUT" >&2
  exit 2
}
out=$(realpath -m "$1")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
root=$PWD
most_mib=60

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
names="-fmacro-prefix-map=$site/= -fmacro-prefix-map=../../${site#"$root"/}/="
cmake -G Ninja -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DPTYLE_TESTS=OFF -DPTYLE_WHEEL=ON -DPTYLE_CUDA=ON \
  "-DCMAKE_CXX_FLAGS=$names" "-DCMAKE_CUDA_ARCHITECTURES=80-real;90-real;90-virtual" -DPython3_EXECUTABLE="$python" \
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
ldd "$build/driver/ptyle" | awk '$3 ~ /^\// { print $3 }' \
  | grep -v -E "/(torch|nvidia)/|^$build/|/lib(c|m|dl|rt|util|pthread|resolv|stdc\+\+|gcc_s|gomp)(\.|-)" \
  | xargs -I {} cp -L {} "$bundle/lib"

cat > "$bundle/bin/ptyle" <<'WRAPPER'
#!/bin/sh
# The program, with the libraries of the torch that $PYTHON (python3) has.
here=$(dirname "$(dirname "$(readlink -f "$0")")")
torch=$("${PYTHON:-python3}" -c 'import importlib.util as u
print(u.find_spec("torch").submodule_search_locations[0])') || {
  echo "ptyle: ${PYTHON:-python3} must have torch (PYTHON says which python)" >&2
  exit 2
}
for folder in "$torch/lib" "$torch"/../nvidia/*/lib; do
  LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder
done
export LD_LIBRARY_PATH
exec "$here/libexec/ptyle" "$@"
WRAPPER
cat > "$bundle/run.sh" <<'RUN'
#!/bin/sh
# All checks and times of ptyle on this machine's GPU; options are those of gpu/run.py.
here=$(dirname "$(readlink -f "$0")")
export PYTHON="${PYTHON:-python3}" PYTHONPATH="$here/python" PYTHONDONTWRITEBYTECODE=1
exec "$PYTHON" "$here/gpu/run.py" --program "$here/bin/ptyle" "$@"
RUN
chmod +x "$bundle/bin/ptyle" "$bundle/run.sh"
mkdir "$bundle/gpu"
cp tests/gpu/*.py "$bundle/gpu"

find "$bundle" -name __pycache__ -prune -exec rm -r {} +
if grep -r -l -a -E 'python3\.[0-9]' "$bundle"; then
  echo "bundle.sh: the files above name a version of Python" >&2
  exit 1
fi
tar -C "$build/tree" -czf "$out/ptyle-gpu.tar.gz" ptyle-gpu
size=$(($(stat -c %s "$out/ptyle-gpu.tar.gz") >> 20))
((size <= most_mib)) || {
  echo "bundle.sh: $out/ptyle-gpu.tar.gz must have at most $most_mib MiB, got $size MiB" >&2
  exit 1
}
echo "$out/ptyle-gpu.tar.gz: $size MiB; there: tar -xzf ptyle-gpu.tar.gz && ptyle-gpu/run.sh --minutes 8"
