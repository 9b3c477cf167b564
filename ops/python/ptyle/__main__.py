"""python -m ptyle: what a build outside needs to know of the installed package."""

import argparse

from ptyle import _library


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ptyle", description=__doc__.split(": ")[1])
    parser.add_argument(
        "--cmake-prefix",
        action="store_true",
        help="the folder for CMAKE_PREFIX_PATH: find_package(ptyle) finds it there",
    )
    parser.add_argument(
        "--library",
        action="store_true",
        help="the operators' library, for torch.ops.load_library and for a linker",
    )
    parser.add_argument("--version", action="version", version=f"ptyle {_library.version()}")
    asked = parser.parse_args()
    if asked.cmake_prefix == asked.library:
        parser.error("say --cmake-prefix or --library")
    print(_library.FOLDER.parents[1] if asked.cmake_prefix else _library.FOLDER / "libptyle_ops.so")


if __name__ == "__main__":
    main()
