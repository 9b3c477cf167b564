"""Documentation, stored schemas and types are those of the operators that are there."""

import doctest
import inspect
import re
import sys
from pathlib import Path

import ptyle
import pytest
import torch
from conftest import ROOT

sys.path.insert(0, str(ROOT / "ops" / "docs"))

import make  # noqa: E402

FUNCTIONS = [name for _, _, functions in make.PAGES.values() for name in functions]
SCHEMAS = ROOT / "tests" / "python" / "schemas.txt"


def test_what_is_made_is_up_to_date():
    stale = [
        str(p.relative_to(ROOT))
        for p, text in make.files().items()
        if not p.exists() or p.read_text() != text
    ]
    assert not stale, "run: .venv/bin/python ops/docs/make.py"


def test_every_function_is_on_a_page():
    functions = [name for name in ptyle.__all__ if inspect.isfunction(getattr(ptyle, name))]
    assert sorted(FUNCTIONS) == sorted(set(functions) - {"version", "load_cuda"})


@pytest.mark.parametrize("name", FUNCTIONS)
def test_examples_are_true(name):
    function = getattr(ptyle, name)
    assert "Example" in make.sections(function), f"{name} has no example"
    torch.manual_seed(0)
    (test,) = doctest.DocTestFinder(recurse=False).find(function, name, globs={})
    assert test.examples
    report = []
    runner = doctest.DocTestRunner(optionflags=doctest.REPORT_NDIFF)
    assert runner.run(test, out=report.append).failed == 0, "".join(report)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_is_described_and_typed(name):
    function = getattr(ptyle, name)
    parameters = inspect.signature(function).parameters
    described = [a for a, _ in make.entries(make.sections(function).get("Args", ""))]
    assert [a for a in parameters if a in described] == described  # in the order of the call
    if "The other arguments are those of" not in " ".join(inspect.getdoc(function).split()):
        assert described == list(parameters)
    assert all(p.annotation is not p.empty for p in parameters.values())
    assert inspect.signature(function).return_annotation is not inspect.Signature.empty


def test_schemas_are_the_stored_ones():
    now = [str(schema) for _, schema in make.schemas().items()]
    assert sorted(now) == SCHEMAS.read_text().splitlines(), (
        "after 1.0 arguments are only appended, with defaults. Where that is so, or the operator "
        f"is new, {SCHEMAS.name} must hold:\n" + "\n".join(sorted(now))
    )


# --- types of torch.ops.ptyle ---


def typed(name):
    """The signature of a typed operator, without self."""
    cls = inspect.get_annotations(ptyle.TorchOps, eval_str=True)[name]
    signature = inspect.signature(cls.__call__)
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def test_every_operator_has_its_type_and_no_other():
    assert list(inspect.get_annotations(ptyle.TorchOps)) == list(make.schemas())
    assert ptyle.ops is torch.ops.ptyle
    assert (ROOT / "ops" / "python" / "ptyle" / "py.typed").exists()


@pytest.mark.parametrize("name", list(make.schemas()))
def test_types_are_those_of_the_schema(name):
    parameters = typed(name).parameters.values()
    arguments = getattr(torch.ops.ptyle, name).default._schema.arguments
    assert [p.name for p in parameters] == [a.name for a in arguments]
    for parameter, argument in zip(parameters, arguments, strict=True):
        assert (parameter.kind is parameter.KEYWORD_ONLY) == argument.kwarg_only
        assert (parameter.default is not parameter.empty) == argument.has_default_value()
        if argument.has_default_value():
            default = parameter.default
            assert (list(default) if isinstance(default, tuple) else default) == (
                argument.default_value
            )


@pytest.mark.parametrize("name", [n for n in make.schemas() if hasattr(ptyle, n)])
def test_functions_have_the_arguments_of_the_schema(name):
    function = inspect.signature(getattr(ptyle, name)).parameters.values()
    for ours, theirs in zip(function, typed(name).parameters.values(), strict=True):
        assert (ours.name, ours.kind) == (theirs.name, theirs.kind)
        if theirs.default is not theirs.empty:
            assert ours.default == theirs.default


def test_the_pages_are_in_the_package():
    docs = Path(ptyle.__file__).parent / "docs"
    pages = {p.name: p.read_text() for p in (ROOT / "ops" / "docs").glob("*.md")}
    assert {p.name: p.read_text() for p in docs.iterdir()} == pages
    for text in pages.values():  # every link between them leads somewhere
        for target in re.findall(r"\]\(([^)#]+)", text):
            assert target in pages
    assert "Nyquist rows and columns cos(pi f)" in pages["formulae.md"]
    assert "``cos(pi f)``" in ptyle.exit_waves.__doc__
