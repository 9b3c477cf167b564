"""The README's examples are true."""

import re
import tomllib

from conftest import ROOT

README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_python_examples_run_and_learn():
    (code,) = blocks("python")
    names = {}
    exec(code, names)
    start = names["ptyle"].diffraction_loss(
        0 * names["truth"], names["probe"], names["positions"], None, names["patterns"]
    )[0]
    assert names["loss"] < 0.1 * start


def test_the_cpp_example_is_that_of_the_outside_project():
    (code,) = blocks("cpp")
    program = (ROOT / "tests" / "consume" / "main.cpp").read_text().splitlines()
    for line in code.splitlines():
        assert line in program


def test_the_configs_are_ones_that_the_program_knows():
    config, terms, tiles, prior = blocks("toml")
    assert set(tomllib.loads(config)) == {"data", "probe", "reconstruct", "output"}
    names = {"refine", "constraint", "regulariser"}
    assert set(tomllib.loads(terms)) == names
    assert set(tomllib.loads(terms)["refine"]) == {"probe"}
    assert set(tomllib.loads(tiles)["tiles"]) == {"grid", "halo", "exchange"}
    (table,) = tomllib.loads(prior)["prior"]
    assert set(table) == {"file", "kind", "on", "strength", "noise", "every_batches"}


def test_every_room_is_there():
    rooms = README.split("## The rooms")[1].split("\n## ")[0]
    found = re.findall(r"^\| `(\w+)` \|", rooms, re.MULTILINE)
    assert len(found) >= 5
    for room in found:
        assert (ROOT / room).is_dir()
