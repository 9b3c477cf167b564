#!python
# The command `ptyle` of a Python environment: becomes the program that was compiled for the
# environment's torch. Loads neither; pip writes the environment's interpreter into the first line.
import importlib.util
import os
import sys


def main() -> None:
    package = importlib.util.find_spec("ptyle")  # found, not imported
    if package is None:
        sys.exit(f"ptyle: the package ptyle must be installed for {sys.executable}")
    path = os.path.join(os.path.dirname(package.origin), "_versions.py")
    spec = importlib.util.spec_from_file_location("_versions", path)
    versions = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(versions)
    try:
        program = versions.folder_for_torch(package.submodule_search_locations) / "ptyle"
        os.execv(program, sys.argv)
    except (ImportError, OSError) as error:
        print(f"ptyle: {error}", file=sys.stderr)
        sys.exit(2)


main()
