"""The Python experiments of models/experiments, on small cases. tests/consume/check.sh builds and
runs the C++ ones."""

import json
import subprocess
import sysconfig
from pathlib import Path

import pytest
import torch
from conftest import ROOT

FOLDER = ROOT / "models" / "experiments"
SCRIPT = FOLDER / "deep_image_prior.py"


@pytest.fixture(autouse=True)
def experiments(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("ranks", [3, 4])
def test_a_deep_image_prior_has_the_same_losses_on_any_number_of_ranks(tmp_path, ranks):
    import deep_image_prior

    one = deep_image_prior.main(steps=40)
    assert one["losses"][-1] < 0.4 * one["losses"][0]
    assert one["error"] < 0.6
    torchrun = Path(sysconfig.get_path("scripts")) / "torchrun"
    options = ["--steps", "40", "--json", tmp_path / "losses.json"]
    command = [torchrun, f"--nproc-per-node={ranks}", "--standalone", SCRIPT, *options]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    many = json.loads((tmp_path / "losses.json").read_text())
    assert many["ranks"] == ranks
    torch.testing.assert_close(many["losses"], one["losses"], rtol=1e-9, atol=0)
    assert many["error"] == pytest.approx(one["error"], rel=1e-6)


def test_a_scripted_module_is_trained_on_in_another_process(tmp_path):
    import scripted

    report = scripted.main(str(tmp_path / "module.pt"))
    assert report["goal"] < report["trained"] < 0.1 * report["first"]
    assert report["apart"] <= 1e-6


def test_optimisers_of_others_find_the_object_of_the_program():
    import optimisers

    report = optimisers.main()
    for name in "ptyle run, L-BFGS", "torch L-BFGS", "torch Adam":
        assert report[name] < 1e-4, name
    for name in "torch L-BFGS from ours", "torch Adam from ours":
        assert report[name] < 1e-4, name
    assert report["position error, after"] < 0.7 * report["position error, before"]
    for name in "noisy, own variation", "noisy, variation from a file":
        assert report[name] < 0.9 * report["noisy, no regulariser"], name
