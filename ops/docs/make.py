"""Makes what is made from the operators themselves, and compares it with what is there.

    .venv/bin/python ops/docs/make.py [--check]

The pages of this folder come from the docstrings, from csrc/README.md (the formulae) and from the
operator table of the tests, `ptyle/_torch_ops.py` from the schemas. --check writes nothing and
fails where a file is not up to date.
"""

import argparse
import inspect
import re
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "python"))

import operator_table  # noqa: E402
import ptyle  # noqa: E402
import torch  # noqa: E402

SOURCE = "<!-- Made by ops/docs/make.py from the docstrings: change those, not this page. -->\n"
FORMULAE_SOURCE = "<!-- Made by ops/docs/make.py from csrc/README.md. -->\n"
TABLE_SOURCE = "<!-- Made by ops/docs/make.py from tests/python/operator_table.py. -->\n"

# page: (title, what it is about, functions of `ptyle` in reading order)
PAGES = {
    "waves": (
        "Waves and diffraction",
        "The forward model: a probe through slices of an object, to a detector.",
        ("exit_waves", "diffraction"),
    ),
    "losses": (
        "Losses",
        "How badly an object, a probe and positions explain measured patterns.",
        ("diffraction_loss", "diffraction_loss_accumulate_"),
    ),
    "patches": (
        "Illumination and patches",
        "What a probe lights up, and windows of an object.",
        ("illumination", "extract_patches", "add_patches", "window_stack"),
    ),
    "tiles": (
        "Tiles",
        "An object cut into tiles over ranks: halos, differentiably.",
        ("halo_insert", "halo_add"),
    ),
    "builders": (
        "Builders",
        "What operators are fed with, in plain torch: propagators, probes, modes and positions.",
        (
            "electron_wavelength",
            "fresnel_propagator",
            "angular_spectrum_propagator",
            "aberrated_probe",
            "hermite_modes",
            "raster_positions",
            "object_shape",
            "cpu_kernels",
            "good_size",
        ),
    ),
}
SECTIONS = ("Args", "Returns", "Raises", "Example")


def sections(function) -> dict[str, str]:
    """A docstring's text ("") and its sections, each without its indentation."""
    parts, name = {"": []}, ""
    for line in inspect.getdoc(function).splitlines():
        if line.rstrip(":") in SECTIONS and line.endswith(":"):
            name = line[:-1]
            parts[name] = []
        else:
            parts[name].append(line)
    return {name: textwrap.dedent("\n".join(lines)).strip("\n") for name, lines in parts.items()}


def entries(text: str) -> list[tuple[str, str]]:
    """``name: meaning`` entries of Args or Raises, whose further lines are indented."""
    found: list[list[str]] = []
    for line in text.splitlines():
        if line.startswith(" "):
            found[-1][1] += " " + line.strip()
        else:
            name, meaning = line.split(": ", 1)
            found.append([name, meaning])
    return [(name, meaning) for name, meaning in found]


def markdown(text: str) -> str:
    """reStructuredText's code spans as Markdown's."""
    return text.replace("``", "`")


def signature(name: str, function) -> str:
    """The call as in the source, an argument a line where it does not fit one."""
    source = inspect.getsource(function)
    head = source[: re.search(r'^    """', source, re.MULTILINE).start()]
    head = re.sub(r"^@\w+\n", "", head)
    return head.strip().removeprefix("def ").rstrip(":")


def function_page(name: str) -> str:
    function = getattr(ptyle, name)
    parts = sections(function)
    lines = [f"## ptyle.{name}", "", "```python", signature(name, function), "```", ""]
    lines += [markdown(parts[""]), ""]
    if "Args" in parts:
        lines += ["| argument | |", "| --- | --- |"]
        lines += [f"| `{a}` | {markdown(m)} |" for a, m in entries(parts["Args"])] + [""]
    if "Returns" in parts:
        lines += ["Returns: " + markdown(parts["Returns"]), ""]
    if "Raises" in parts:
        lines += ["Raises:", ""]
        lines += [f"- {errors}: {markdown(m)}" for errors, m in entries(parts["Raises"])] + [""]
    lines += ["```pycon", parts["Example"], "```", ""]
    return "\n".join(lines)


def page(name: str) -> str:
    title, about, functions = PAGES[name]
    there = [function_page(f) for f in functions]
    conventions = "Shapes and words: [the first page](README.md).\n"
    return "\n".join([SOURCE + f"# {title}", "", about, conventions, *there])


def first_page() -> str:
    words, rules = inspect.getdoc(ptyle).split("everywhere in ptyle:\n\n")[1].split("\n\n")
    rows = []
    for line in words.splitlines():
        match = re.match(r"``(\w+)`` +(.*)", line)
        if match:
            rows.append([match[1], match[2]])
        else:
            rows[-1][1] += " " + line.strip()
    lines = [SOURCE + "# ptyle's operators in Python", ""]
    lines += ["| page | functions |", "| --- | --- |"]
    for name, (title, _, functions) in PAGES.items():
        listed = ", ".join(f"`{f}`" for f in functions)
        lines.append(f"| [{title}]({name}.md) | {listed} |")
    lines += [
        "| [Formulae](formulae.md) | the model and its gradients, as the kernels have them |",
        "| [Operator table](table.md) | every operator in every way in which torch calls it |",
        "",
        "The same words everywhere:",
        "",
        "| word | shape and meaning |",
        "| --- | --- |",
        *(f"| `{word}` | {markdown(meaning)} |" for word, meaning in rows),
        "",
        markdown(rules),
        "",
        "Every example here is run by the tests. These pages are in the package too, in the folder",
        '`Path(ptyle.__file__).parent / "docs"`.',
        "",
    ]
    return "\n".join(lines)


def formulae_page() -> str:
    """The sections of csrc/README.md that are about the model, not about its kernels."""
    parts = re.split(r"^## ", (ROOT / "csrc" / "README.md").read_text(), flags=re.MULTILINE)
    wanted = {part.split("\n", 1)[0]: part for part in parts}
    lines = [FORMULAE_SOURCE + "# Formulae", ""]
    lines += ["`ptyle.reference` is the same in plain torch, to read and to compare with.", ""]
    lines += [f"## {wanted[title].rstrip()}\n" for title in ("The model", "Gradients")]
    return "\n".join(lines)


def torch_versions() -> str:
    """A row of the versions of torch, with what was tested."""
    lines = (ROOT / "cmake" / "torch-versions.txt").read_text().splitlines()
    rows = [line.split() for line in lines if not line.startswith("#")]
    words = {
        "everything": "all tests",
        "operators": "C++ tests, operators, package, projects outside",
        "python": "compiled whole; operators and package in Python",
        "nothing": "not tried",
    }
    return "\n".join(
        [
            f"| torch | {' | '.join(version for version, *_ in rows)} |",
            f"| --- |{' --- |' * len(rows)}",
            f"| tested | {' | '.join(words[tested] for *_, tested in rows)} |",
        ]
    )


def table_page() -> str:
    columns = operator_table.COLUMNS
    lines = [
        TABLE_SOURCE + "# Operator table",
        "",
        'Every cell is a test, `tests/python/test_operator_table.py`. "-": does not apply, for the',
        "reason below, and the test asserts what happens instead. `halo_insert` and `halo_add`",
        "communicate and have tests of their own (`tests/python/test_halo.py`): CPU, Meta,",
        "first and second derivatives, TorchScript. `torch.compile` breaks its graph there.",
        "",
        f"| `torch.ops.ptyle` | {' | '.join(columns)} |",
        f"| --- |{' --- |' * len(columns)}",
    ]
    for row in operator_table.ROWS:
        cells = ["-" if c in row.exceptions else "yes" for c in columns]
        lines.append(f"| `{row.name}` | {' | '.join(cells)} |")
    lines += ["", "Versions of torch (another one of the same minor version does too):", ""]
    lines += [torch_versions(), "", "What a cell tests:", ""]
    lines += [f"- {column}: {meaning}" for column, meaning in columns.items()]
    lines += ["", 'Where there is "-":', ""]
    for row in operator_table.ROWS:
        grouped: dict[str, list[str]] = {}
        for column in columns:
            if column in row.exceptions:
                grouped.setdefault(row.exceptions[column].reason, []).append(column)
        lines += [f"- `{row.name}`, {', '.join(c)}: {reason}" for reason, c in grouped.items()]
    return "\n".join(lines) + "\n"


# --- ptyle/_torch_ops.py ---

HEAD = '''\
"""`torch.ops.ptyle` with types, so that editors complete operators and arguments.

Made by ops/docs/make.py from the schemas: change those, not this file.
"""

from collections.abc import Sequence
from typing import Protocol, Self, cast

import torch
from torch import Tensor
'''
TYPES = {
    "Tensor": "Tensor",
    "Optional[Tensor]": "Tensor | None",
    "List[int]": "Sequence[int]",
    "List[Tensor]": "Sequence[Tensor]",
    "List[bool]": "Sequence[bool]",
    "int": "int",
    "float": "float",
    "bool": "bool",
    "str": "str",
}


def schemas() -> dict[str, torch.FunctionSchema]:
    """Of all operators in the namespace, by name."""
    names = sorted({s.name for s in torch._C._jit_get_all_schemas()})
    names = [n.removeprefix("ptyle::") for n in names if n.startswith("ptyle::")]
    return {name: getattr(torch.ops.ptyle, name).default._schema for name in names}


def argument_text(argument) -> str:
    text = f"{argument.name}: {TYPES[argument.type.annotation_str]}"
    if argument.has_default_value():
        value = argument.default_value
        text += f" = {tuple(value) if isinstance(value, list) else value!r}"
    return text


def operator_class(name: str, schema) -> str:
    positional = [argument_text(a) for a in schema.arguments if not a.kwarg_only]
    keyword = [argument_text(a) for a in schema.arguments if a.kwarg_only]
    arguments = ["self", *positional, *(["*", *keyword] if keyword else [])]
    results = [TYPES[r.type.annotation_str].replace("Sequence", "list") for r in schema.returns]
    result = {0: "None", 1: results[0] if results else ""}.get(
        len(results), f"tuple[{', '.join(results)}]"
    )
    title = "".join(word.capitalize() for word in name.split("_"))
    public = f"See `ptyle.{name}`." if hasattr(ptyle, name) else "A derivative of an operator."
    return (
        f"class _{title}(Protocol):\n"
        "    @property\n    def default(self) -> Self: ...\n\n"
        f"    def __call__({', '.join(arguments)}) -> {result}:\n"
        f'        """{public}"""\n        ...\n'
    )


def torch_ops() -> str:
    found = schemas()
    classes = [operator_class(name, schema) for name, schema in found.items()]
    listing = '\nclass TorchOps(Protocol):\n    """The operators of the namespace."""\n\n'
    for text, name in zip(classes, found, strict=True):
        listing += f"    {name}: {re.match('class ([^(]+)', text)[1]}\n"
    tail = "\nops: TorchOps = cast(TorchOps, torch.ops.ptyle)\n"
    text = "\n\n".join([HEAD, *classes, listing.lstrip("\n"), tail.lstrip("\n")])
    ruff = Path(sys.executable).parent / "ruff"
    done = subprocess.run(
        [ruff, "format", "--config", ROOT / "pyproject.toml", "--stdin-filename", "x.py", "-"],
        input=text,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def files() -> dict[Path, str]:
    """Everything that is made, by path."""
    folder = ROOT / "ops" / "docs"
    made = {folder / f"{name}.md": page(name) for name in PAGES}
    made[folder / "README.md"] = first_page()
    made[folder / "formulae.md"] = formulae_page()
    made[folder / "table.md"] = table_page()
    made[ROOT / "ops" / "python" / "ptyle" / "_torch_ops.py"] = torch_ops()
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, only compare")
    check = parser.parse_args().check
    stale = [p for p, text in files().items() if not p.exists() or p.read_text() != text]
    for path in stale:
        print(("not up to date: " if check else "made ") + str(path.relative_to(ROOT)))
        if not check:
            path.write_text(files()[path])
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
