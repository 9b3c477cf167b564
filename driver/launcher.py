#!python
# The command `ptyle` of a Python environment: becomes the program that was compiled for the
# environment's torch. Loads neither; pip writes the environment's interpreter into the first line.
import importlib.util
import os
import sys


def fail(text) -> None:
    print(f"ptyle: {text}", file=sys.stderr)
    sys.exit(2)


def main() -> None:
    package = importlib.util.find_spec("ptyle")  # found, not imported
    if package is None:
        fail(f"the package ptyle must be installed for {sys.executable}")
    folders = [*(package.submodule_search_locations or [])]
    path = os.path.join(os.path.dirname(package.origin or ""), "_versions.py")
    if not folders or not package.origin or not os.path.isfile(path):
        found = package.origin or folders[0]  # a file or a folder that happens to have the name
        fail(f"the package ptyle must be what Python finds by its name, got {found}")
    spec = importlib.util.spec_from_file_location("_versions", path)
    versions = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(versions)
    try:
        program = versions.folder_for_torch(folders) / "ptyle"
    except ImportError as error:
        fail(error)
    try:
        os.execv(program, sys.argv)
    except OSError as error:
        fail(f"{program} cannot be started: {error.strerror}")


main()
