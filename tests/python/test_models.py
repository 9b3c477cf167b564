"""Learned priors: what a denoiser sees, tiles and the whole, files with cards, training, the
command line. `models` is tested from the source tree where it is not installed."""

import itertools
import json
import math
import os
import subprocess
import sys

import ptyle
import pytest
import torch
from conftest import ROOT
from torch._inductor import config as inductor_config

# Older versions of torch compile a .pt2 for the processor that they run on.
PORTABLE = hasattr(inductor_config.cpp, "march")
portable = pytest.mark.skipif(not PORTABLE, reason="this torch makes no portable .pt2")


@pytest.fixture(scope="module", autouse=True)
def package(tmp_path_factory):
    """`ptyle.models`, of the source tree."""
    folder = tmp_path_factory.mktemp("package")
    (folder / "models").symlink_to(ROOT / "models", target_is_directory=True)
    ptyle.__path__.insert(0, str(folder))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    ptyle.__path__.remove(str(folder))


@pytest.fixture(scope="module")
def specimens_folder(tmp_path_factory):
    """Where simulated specimens are kept: simulated once."""
    return tmp_path_factory.mktemp("specimens")


@pytest.fixture(scope="module")
def trained(specimens_folder, tmp_path_factory):
    """A checkpoint of a short training."""
    from ptyle.models import __main__ as command

    path = tmp_path_factory.mktemp("trained") / "phase.ckpt"
    line = ["train", "denoiser", "-o", str(path), "--quick", "--steps", "150", "--threads", "1"]
    assert command.main([*line, "--specimens", str(specimens_folder)]) == 0
    return path


def make_denoiser(channels=1, seed=0):
    """Untrained; its last layer is as large as the others, so that it does something."""
    from ptyle.models.denoiser import Denoiser

    torch.manual_seed(seed)
    model = Denoiser(channels, width=12)
    with torch.no_grad():
        model.layers[-1].weight.mul_(5)
    return model.eval()


def make_repeats(channels=1):
    """A mean over what repeats, with an untrained network behind it."""
    from ptyle.models.denoiser import Denoiser
    from ptyle.models.repeats import Repeats

    torch.manual_seed(4)
    network = Denoiser(channels, 8, (1, 1))
    with torch.no_grad():
        network.layers[-1].weight.mul_(5)
    return Repeats(network).eval()


def columns_of_atoms(size, turn=0.3):
    """A crystal [1, 1, size, size] seen along its columns: peaks of 1 in cells of 11.3 x 12.9."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    u = (y * math.cos(turn) - x * math.sin(turn)) / 11.3
    v = (y * math.sin(turn) + x * math.cos(turn)) / 12.9
    peaks = 20 * (torch.cos(2 * math.pi * u) + torch.cos(2 * math.pi * v) - 2) / 4
    return torch.exp(peaks)[None, None]


@torch.no_grad()
def test_what_repeats_is_averaged_and_what_does_not_stays():
    from ptyle.models import specimens

    model = make_repeats()
    r = model.around
    generator = torch.Generator().manual_seed(6)
    noise = torch.tensor([0.3])
    truth = columns_of_atoms(60 + 2 * r)
    noisy = truth + 0.3 * torch.randn(truth.shape, generator=generator)
    mean, left = model.averaged(noisy, noise)
    error = (mean - truth[:, :, r:-r, r:-r]).std()
    assert error < 0.35 * 0.3 and left.mean() < 0.35, (error, left.mean())
    # of n measurements the n-th part of the variance is left
    assert 0.5 < error / (0.3 * left.square().mean().sqrt()) < 2

    # blobs and plates: other places look otherwise, and are not mixed in
    for level in (0.03, 0.1):
        drawn = 0.5 * specimens.drawn(80 + 2 * r, generator)[None, None]
        noisy = drawn + level * torch.randn(drawn.shape, generator=generator)
        mean, _ = model.averaged(noisy, torch.tensor([level]))
        assert (mean - drawn[:, :, r:-r, r:-r]).square().mean().sqrt() < 1.02 * level

    # an atom that is missing, in noise that hides none, is not filled in from its neighbours
    middle = 30 + r
    window = truth[0, 0, middle - 8 : middle + 8, middle - 8 : middle + 8]
    row, column = divmod(int(window.argmax()), 16)
    row, column = row + middle - 8, column + middle - 8
    height = float(truth[0, 0, row, column])
    there = (slice(row - 4, row + 5), slice(column - 4, column + 5))
    truth[0, 0][there] = truth[0, 0].min()
    noisy = truth + 0.05 * torch.randn(truth.shape, generator=generator)
    mean, left = model.averaged(noisy, torch.tensor([0.05]))
    assert float(mean[0, 0, row - r, column - r]) < 0.25 * height
    assert left.mean() < 0.5


def test_repeats_are_exported_as_torchscript_with_their_reach(tmp_path):
    from ptyle.models import files

    model = make_repeats()
    card = files.card("denoiser", ["phase"], model.radius, noise={"least": 0.01, "most": 1})
    files.export(model, card, tmp_path / "repeats.pt")
    loaded, _ = files.load(tmp_path / "repeats.pt")
    x, noise = columns_of_atoms(50) + 0.2 * torch.randn(2, 1, 50, 50), torch.tensor([0.2, 0.1])
    with torch.no_grad():
        assert (loaded(x, noise) - model(x, noise)).abs().max() <= 2e-6


def make_prior(name):
    """(function of an image [1, 1, rows, columns], radius)"""
    from ptyle.models.regulariser import HuberVariation

    if name == "regulariser":
        model = HuberVariation()
        return (lambda x: model(x)[:, None]), model.radius
    model = make_denoiser() if name == "denoiser" else make_repeats()
    return (lambda x: model(x, torch.tensor([0.3]))), model.radius


@pytest.mark.parametrize("name", ["denoiser", "regulariser"])
def test_a_pixel_sees_exactly_the_declared_surroundings(name):
    model, r = make_prior(name)
    size = 4 * r + 9
    centre = size // 2
    torch.manual_seed(1)
    x = torch.randn(1, 1, size, size, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(x)[0, 0, centre, centre], x)
    rows, columns = gradient[0, 0].nonzero(as_tuple=True)
    assert (rows - centre).abs().max() <= r and (columns - centre).abs().max() <= r
    assert max((rows - centre).abs().max(), (columns - centre).abs().max()) == r
    with torch.no_grad():
        changed = x.detach().clone()
        changed[0, 0, centre, centre] += 1
        rows, columns = (model(changed) - model(x))[0, 0].nonzero(as_tuple=True)
    assert (rows - centre).abs().max() <= r and (columns - centre).abs().max() <= r


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *itertools.product(
            ("denoiser", "regulariser"),
            ((61, 53), (40, 97), (13, 64), (7, 5), (1, 31), (1, 1)),
        ),
        ("repeats", (97, 40)),
    ],
)
def test_tiles_give_what_the_whole_gives(name, shape):
    model, r = make_prior(name)
    rows, columns = shape
    torch.manual_seed(2)
    x = 3 + torch.randn(1, 1, rows, columns)
    if name == "repeats":
        x = 0.3 * x + columns_of_atoms(100)[:, :, :rows, :columns]
    with torch.no_grad():
        whole = model(x)
        joined = torch.full_like(whole, float("nan"))
        for top, bottom in ((0, rows // 3), (rows // 3, rows)):
            for left, right in ((0, columns // 2), (columns // 2, columns)):
                if top == bottom or left == right:
                    continue
                up, west = max(0, top - r), max(0, left - r)
                tile = x[:, :, up : bottom + r, west : right + r]
                joined[:, :, top:bottom, left:right] = model(tile)[
                    :, :, top - up : bottom - up, left - west : right - west
                ]
    assert (joined - whole).abs().max() <= 1e-6


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("make", ["network", "repeats"])
def test_units_and_offsets_do_not_matter(channels, make):
    model = make_denoiser(channels) if make == "network" else make_repeats(channels)
    torch.manual_seed(3)
    x, noise = torch.randn(2, channels, 30, 31), torch.tensor([0.2, 0.7])
    with torch.no_grad():
        once = model(x, noise)
        assert once.shape == x.shape and (once - x).abs().max() > 0.01
        assert torch.allclose(model(8 * x, 8 * noise), 8 * once, atol=1e-5)
        assert torch.allclose(model(x + 2.5, noise), once + 2.5, atol=1e-5)
        assert torch.equal(model(x, torch.zeros(2)), x)
        assert not model(torch.zeros_like(x), noise).isnan().any()
        # every image has the noise of its own
        assert torch.allclose(model(x[1:], noise[1:]), once[1:], atol=1e-6)


def test_the_regulariser_is_an_energy_with_a_gradient():
    from ptyle.models.regulariser import HuberVariation

    model = HuberVariation(delta=0.1, weight=2.0)
    x = torch.randn(2, 2, 9, 7, dtype=torch.double, requires_grad=True)
    energy = model(x)
    assert energy.shape == (2, 9, 7) and energy.min() >= 0
    assert model(torch.full((1, 1, 5, 5), 3.0)).abs().max() == 0
    assert torch.autograd.gradcheck(lambda x: model(x).sum(), x)

    # quadratic for small steps, linear for large ones; four pixels lie at the edge
    def edge(height):
        step = torch.zeros(1, 1, 4, 4, dtype=torch.double)
        step[:, :, 2:] = height
        return float(model(step).sum())

    assert edge(1e-3) == pytest.approx(4 * 2.0 / 16 * 1e-6, rel=1e-3)
    assert edge(1e3) == pytest.approx(4 * 2.0 / 8 * 0.1 * 1e3, rel=1e-3)

    flat = torch.zeros(36, dtype=torch.double)
    curvature = torch.autograd.functional.hessian(lambda x: model(x.view(1, 1, 6, 6)).sum(), flat)
    assert 0.8 * 2.0 < torch.linalg.eigvalsh(curvature).max() <= 2.0


@pytest.mark.parametrize("ending", ["pt", pytest.param("pt2", marks=portable)])
def test_export_keeps_numbers_and_carries_a_card(trained, tmp_path, ending, capsys):
    from ptyle.models import __main__ as command
    from ptyle.models import files, training

    path = tmp_path / f"phase.{ending}"
    assert command.main(["export", str(trained), "-o", str(path)]) == 0
    # what the program does: the record alone, the model is not loaded
    record = torch._C.PyTorchFileReader(str(path)).get_record("extra/ptyle_card.json")
    card = json.loads(record)
    assert card["format"] == "ptyle.prior" and card["version"] == 1
    assert card["kind"] == "denoiser" and card["channels"] == ["phase"] and card["units"] == ["rad"]
    assert card["receptive_field"] == 30 and card["smallest"] == [1, 1] and card["seed"] == 0
    assert card["noise"] == {"least": 0.005, "most": 0.5}
    assert [row["noise"] for row in card["error"]] == [0.01, 0.03, 0.1, 0.3]
    assert card["ptyle"] == ptyle.__version__ and card["torch"] == torch.__version__
    capsys.readouterr()
    assert command.main(["card", str(path)]) == 0
    assert json.loads(capsys.readouterr().out) == card

    model, _ = training.restored(trained)
    loaded, again = files.load(path)
    assert again == card
    if ending == "pt2":
        facts = loaded.get_metadata()
        assert facts["ptyle_kind"] == "denoiser" and facts["AOTI_CPU_ISA"] == "AVX2"
    with torch.no_grad():
        for n, rows, columns in ((1, 40, 40), (3, 41, 29), (1, 1, 1), (2, 5, 131)):
            x, noise = torch.randn(n, 1, rows, columns), 0.02 + 0.3 * torch.rand(n)
            assert (loaded(x, noise) - model(x, noise)).abs().max() <= 2e-6


def alone(code: str, cache, folder) -> list[str]:
    """Lines that code prints in a fresh process whose compiler cache, HOME and TMPDIR are given."""
    home, temporary = folder / "home", folder / "tmp"
    for place in (cache, home, temporary):
        place.mkdir(exist_ok=True)
    environment = os.environ | {"HOME": str(home), "TMPDIR": str(temporary)}
    environment |= {"TORCHINDUCTOR_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_CACHE_DIR", None)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


ASK = """
from torch._inductor.cpu_vec_isa import pick_vec_isa
print(pick_vec_isa())
"""
ASK_WITHOUT_LIBTORCH = """
import torch
from torch._inductor import config
from torch._inductor.cpu_vec_isa import pick_vec_isa
with config.patch({"aot_inductor.link_libtorch": False}):
    print(pick_vec_isa())
"""
EXPORT = """
import torch
from ptyle.models import denoiser, files
torch.manual_seed(0)
model = denoiser.Denoiser(1, 8, (1, 1))
card = files.card("denoiser", ["phase"], model.radius, noise={"least": 0, "most": 1})
files.export(model, card, "small.pt2")
print(files.load("small.pt2")[0].get_metadata()["AOTI_CPU_ISA"])
"""


def files_in(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


@portable
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="asks for AVX2")
def test_export_on_a_fresh_machine_is_vector_code_and_leaves_the_compiler_cache_alone(tmp_path):
    cache, temporary = tmp_path / "cache", tmp_path / "tmp"
    made, here = alone(EXPORT + ASK, cache, tmp_path)
    assert made == "AVX2" and "avx" in here
    assert not files_in(cache) and not files_in(temporary)
    assert alone(ASK, cache, tmp_path) == [here]


@portable
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="asks for AVX2")
def test_export_is_vector_code_where_the_cache_holds_a_wrong_answer(tmp_path):
    """Torch's own doing: asked without libtorch it answers "none", and keeps that."""
    cache = tmp_path / "cache"
    lines = alone(ASK_WITHOUT_LIBTORCH + EXPORT + ASK, cache, tmp_path)
    assert lines[:2] == ["INVALID_VEC_ISA", "AVX2"] and "avx" in lines[2]


def test_export_leaves_the_model_and_the_random_numbers_as_they_were(tmp_path):
    from ptyle.models import files, training

    model = make_denoiser().train()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    training.build({"kind": "denoiser", "channels": "phase", "width": 8, "seed": 1})
    card = files.card("denoiser", ["phase"], model.radius, noise={"least": 0, "most": 1})
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # what a caller may have set
    try:
        files.export(model, card, tmp_path / "phase.pt")
    finally:
        torch.set_default_dtype(default)
    assert torch.equal(torch.rand(3), expected)
    assert model.training and all(one.requires_grad for one in model.parameters())
    x, noise = torch.rand(1, 1, 30, 31), torch.tensor([0.2])
    with torch.no_grad():
        assert torch.allclose(files.load(tmp_path / "phase.pt")[0](x, noise), model(x, noise))


def test_export_of_the_regulariser_has_gradients(tmp_path):
    from ptyle.models import __main__ as command
    from ptyle.models import files
    from ptyle.models.regulariser import HuberVariation

    path = tmp_path / "tv.pt"
    line = ["export", "huber", "-o", str(path), "--delta", "0.1", "--channels", "object"]
    assert command.main(line) == 0
    loaded, card = files.load(path)
    assert card["kind"] == "regulariser" and card["channels"] == ["phase", "amplitude"]
    assert card["receptive_field"] == 1
    x = torch.randn(1, 2, 11, 6, requires_grad=True)
    (gradient,) = torch.autograd.grad(loaded(x).sum(), x)
    (same,) = torch.autograd.grad(HuberVariation(0.1)(x).sum(), x)
    assert torch.allclose(gradient, same)


def test_training_lowers_the_error_on_other_specimens(trained, specimens_folder, tmp_path, capsys):
    from ptyle.models import __main__ as command

    rows = tmp_path / "rows.json"
    picture = tmp_path / "picture.png"
    line = ["evaluate", str(trained), "--noise", "0.1", "0.3", "--json", str(rows)]
    line += ["--png", str(picture), "--specimens", str(specimens_folder)]
    assert command.main(line) == 0
    assert "noise 0.3: error" in capsys.readouterr().out
    for row in json.loads(rows.read_text()):
        assert row["after"] < 0.95 * row["before"], row
    assert picture.stat().st_size > 10_000


@pytest.mark.parametrize("kind", ["denoiser", "amortised"])
def test_bits_are_those_of_the_seed_also_after_an_interruption(kind, specimens_folder, tmp_path):
    from ptyle.models import training

    settings = {"kind": kind, "seed": 3, "channels": "object", **training.DEFAULTS[kind]}
    settings |= {"steps": 8, "batch": 2, "width": 8}

    def run(name, **more):
        path = tmp_path / name
        return training.train(path, settings, folder=specimens_folder, say=str, **more)

    once, again = run("a"), run("b")
    run("c", until=3)
    resumed = run("c", resume=True)
    settings["seed"] = 4
    other = run("d")
    for name, value in once.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
        assert torch.equal(value, resumed.state_dict()[name]), name
    differ = [not torch.equal(v, other.state_dict()[k]) for k, v in once.state_dict().items()]
    assert any(differ)
    losses = [torch.load(tmp_path / name, weights_only=True)["losses"] for name in "ac"]
    assert losses[0] == losses[1] and len(losses[0]) == 8


def test_the_drawn_noise_has_the_declared_deviation():
    from ptyle.models import specimens

    generator = torch.Generator().manual_seed(0)
    truth, noisy, noise = specimens.batch([specimens.drawn(128, generator)], 200, 48, 2, generator)
    measured = (noisy - truth).std((1, 2, 3)) / noise
    assert (measured - 1).abs().max() < 0.2 and abs(float(measured.mean()) - 1) < 0.02
    assert noise.min() >= 0.005 and noise.max() <= 0.5
    assert truth[:, 1].max() <= 1 and truth[:, 1].min() >= 0.7


@pytest.mark.parametrize("shape, window", [((1, 97, 61), (31, 17)), ((3, 32, 5), (8, 8)),
                                           ((1, 1, 1), (1, 2))])  # fmt: skip
def test_generators_start_near_vacuum_and_the_guess_for_any_size(shape, window):
    from ptyle.models.generator import Generator

    torch.manual_seed(0)
    guess = torch.randn(2, *window, dtype=torch.complex64)
    make = Generator(shape, guess)
    with torch.no_grad():
        made, probe = make()
        again, _ = Generator(shape, guess)()
    assert made.shape == shape and made.dtype == torch.complex64
    assert (made - 1).abs().max() < 0.01
    assert probe.shape == guess.shape and (probe - guess).abs().max() < 0.01 * guess.abs().max()
    assert torch.equal(made, again)


def experiment(window=16, scan=6):
    from ptyle.models import amortised, specimens

    generator = torch.Generator().manual_seed(5)
    source = [specimens.drawn(96, generator)]
    return amortised.random_problem(source, generator, window, scan)


def test_generators_explain_patterns():
    from ptyle.models.generator import Generator

    patterns, positions, probe, truth = experiment()
    make = Generator(truth.shape, probe)
    optimizer = torch.optim.Adam(make.parameters(), lr=3e-3)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        made, guess = make()
        loss, _ = ptyle.diffraction_loss(made, guess, positions, None, patterns)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    noise = float(ptyle.diffraction_loss(truth, probe, positions, None, patterns)[0])
    assert losses[-1] - noise < 0.5 * (losses[0] - noise)


@pytest.mark.parametrize("window", [16, 13])
def test_the_amortised_network_places_what_it_sees(window):
    from ptyle.models.amortised import InitialObject

    torch.manual_seed(0)
    model = InitialObject(8)
    patterns, positions, probe, truth = experiment(window)
    rows, columns = truth.shape[1:]
    with torch.no_grad():
        made = model(patterns, positions, probe, (rows, columns))
        assert made.shape == truth.shape and made.dtype == torch.complex64
        assert (made - 1).abs().max() < 0.5
        # probe and object move together; the power of the probe given does not matter
        moved = model(patterns, positions + 7, 3 * probe, (rows, columns), (7, 7))
        assert (moved - made).abs().max() < 1e-3
        wide = model(patterns, positions, probe, (rows + 60, columns))
        assert torch.equal(wide[:, -10:], torch.ones_like(wide[:, -10:]))
    made = model(patterns.to(torch.int32), positions, probe, (rows, columns))
    loss, _ = ptyle.diffraction_loss(made, probe, positions, None, patterns)
    vacuum = torch.ones_like(truth)
    assert loss <= ptyle.diffraction_loss(vacuum, probe, positions, None, patterns)[0]
    loss.backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())


@pytest.mark.parametrize(
    "line, said",
    [
        ("train unet -o a.ckpt", "must be denoiser or amortised, got 'unet'"),
        ("train denoiser -o a.ckpt --steps 0",
         "--steps: must be an integer from 1 to 1000000, got '0'"),
        ("train denoiser -o a.ckpt --rate nan",
         "--rate: must be a number greater than 0, got 'nan'"),
        ("train denoiser -o none/a.ckpt",
         "must be a file in an existing folder, got 'none/a.ckpt'"),
        ("train denoiser -o a.ckpt --channels phases",
         "--channels: must be phase or object or probe, got 'phases'"),
        ("train denoiser -o a.ckpt --resume", "must be an existing checkpoint, got no file"),
        ("train denoiser -o a.ckpt --resume --seed 3",
         "--seed: must not be given with --resume, which goes on as it was begun, got 3"),
        ("train denoiser -o a.ckpt --resume --seed 0",
         "--seed: must not be given with --resume, which goes on as it was begun, got 0"),
        ("train denoiser -o a.ckpt --specimens old.pt",
         "--specimens: must be a folder, got the file 'old.pt'"),
        ("train denoiser -o old.pt", "old.pt must not exist (--force overwrites it), got a file"),
        ("train amortised -o a.ckpt --channels phase",
         "--channels: is for a denoiser, got 'phase'"),
        ("export none.ckpt -o a.pt2", "none.ckpt: must be an existing checkpoint, got no file"),
        ("export old.pt -o a.pt2", "old.pt: must be a checkpoint of `train`"),
        ("export huber -o a.onnx", "--output: must end in .pt or .pt2, got 'a.onnx'"),
        ("export huber -o a.pt2", "must end in .pt for a regulariser"),
        ("export huber -o a.pt --delta 0",
         "--delta: must be a number from 1e-06 to 1e+06, got '0'"),
        ("export old.pt -o a.pt --delta 1", "--delta: is for huber, got 1.0"),
        ("export old.pt -o a.pt2 --repeats", "--repeats: is for a .pt, got True"),
        ("export huber -o a.pt --repeats", "--repeats: is for a denoiser, got True"),
        ("evaluate old.pt", "old.pt: must be a prior with a card"),
        ("evaluate none.pt", "model: must be an existing file, got 'none.pt'"),
        ("evaluate old.pt --noise -1", "--noise: must be a number from 1e-06 to 1000, got '-1'"),
        ("train denoiser -o a.ckpt --width 100000000",
         "--width: must be an integer from 1 to 1024, got '100000000'"),
        ("card none.pt", "none.pt: must be a prior with a card"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named_with_the_rule_and_the_value(
    line, said, tmp_path, monkeypatch, capsys
):
    from ptyle.models import __main__ as command

    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.pt").write_text("nothing")
    try:
        code = command.main(line.split())
    except SystemExit as stopped:
        code = stopped.code
    error = capsys.readouterr().err
    assert code == 2 and said in error, error
    assert not [file for file in tmp_path.iterdir() if file.name != "old.pt"]
    assert (tmp_path / "old.pt").read_text() == "nothing"


class Own(torch.nn.Module):
    """A denoiser of somebody's own: a mean over 3 x 3, or one of its mistakes."""

    def __init__(self, how: str = ""):
        super().__init__()
        self.how = how

    def forward(self, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        if self.how == "cropped":
            return x[:, :, 1:]
        if self.how == "double":
            return x.double()
        if self.how == "not finite":
            return x / 0
        if self.how == "normalised":
            return x - x.mean()
        if self.how == "weakly normalised":
            return x - x.mean((2, 3), keepdim=True) * 0.01
        if self.how == "of the first":
            return x * (1 - 0.5 * noise[0])
        if self.how == "strided":
            sums = x[:, :, ::2, ::2]
            return torch.nn.functional.interpolate(sums, [x.size(2), x.size(3)])
        padded = torch.nn.functional.pad(x, [1, 1, 1, 1], "replicate")
        return torch.nn.functional.avg_pool2d(padded, 3, 1)


@pytest.mark.parametrize(
    ("how", "reach", "said"),
    [
        ("cropped", 1, r"model: must give \[1, 1, 1, 1\] of an image \[1, 1, 1, 1\]"),
        ("double", 1, "model: must give a float32 tensor, got torch.float64"),
        ("not finite", 1, "model: must give finite numbers"),
        ("normalised", 1, r"receptive_field: .* got 1, and what lies beyond changes the result"),
        ("weakly normalised", 1, "receptive_field: .* got 1, and what lies beyond"),
        ("of the first", 1, "model: must give of an image what it gives of it alone"),
        ("strided", 2, "model: must give the same where the image begins a pixel later"),
        ("", 0, r"receptive_field: .* got 0, and what lies beyond changes the result"),
        ("", -1, "receptive_field: must be an integer from 0"),
        ("", 2.0, "receptive_field: must be an integer from 0"),
    ],
)
def test_a_model_that_does_not_do_what_its_card_says_is_not_exported(tmp_path, how, reach, said):
    from ptyle.models import files

    with pytest.raises(ValueError, match=said):
        card = files.card("denoiser", ["phase"], reach, noise={"least": 0, "most": 1})
        files.export(Own(how), card, tmp_path / "own.pt")
    assert not list(tmp_path.iterdir())


def test_a_card_needs_what_the_readme_says_and_no_more(tmp_path):
    from ptyle.models import files

    card = {"format": "ptyle.prior", "version": 1, "kind": "denoiser", "channels": ["phase"]}
    card |= {"receptive_field": 1, "noise": {"least": 0.1, "most": 0.2}}
    files.export(Own(), card, tmp_path / "own.pt")
    assert files.load(tmp_path / "own.pt")[1] == card


def test_damaged_checkpoints_and_hopeless_rates_are_said_in_a_sentence(
    trained, specimens_folder, tmp_path, capsys
):
    from ptyle.models import __main__ as command

    whole = torch.load(trained, weights_only=True)
    for change, said in [
        ({"model": None}, "must be a whole checkpoint, got one without 'model'"),
        ({"settings": {"kind": "denoiser"}}, "must hold the network that its settings describe"),
        ({"settings": whole["settings"] | {"width": 5}}, "must hold the network"),
        ({"version": 9}, "must be of version 1, got 9"),
    ]:
        torch.save(whole | change, tmp_path / "torn.ckpt")
        for line in [
            ["export", str(tmp_path / "torn.ckpt"), "-o", str(tmp_path / "a.pt")],
            ["evaluate", str(tmp_path / "torn.ckpt")],
        ]:
            assert command.main(line) == 2
            error = capsys.readouterr().err
            assert said in error and error.count("\n") == 1, error
    line = ["train", "denoiser", "-o", str(tmp_path / "b.ckpt"), "--quick", "--rate", "1e30"]
    assert command.main([*line, "--specimens", str(specimens_folder)]) == 2
    assert "the loss must stay finite, got" in capsys.readouterr().err


def test_a_model_of_ones_own_is_exported(tmp_path):
    from ptyle.models import files

    for channels in files.CHANNELS.values():
        card = files.card("denoiser", channels, 1, noise={"least": 0, "most": 1})
        files.export(Own(), card, tmp_path / "own.pt")
        model, found = files.load(tmp_path / "own.pt")
        x = torch.rand(2, len(channels), 5, 4)
        assert found == card and torch.equal(model(x, torch.ones(2)), Own()(x, torch.ones(2)))


@pytest.mark.parametrize(
    ("arguments", "more", "said"),
    [
        (("magic", ["phase"], 1), {}, "kind: must be 'denoiser' or 'regulariser', got 'magic'"),
        (("regulariser", ["amplitude"], 1), {}, "channels: must be one of"),
        (("denoiser", ["phase"], 1), {}, "noise: must be .* got None"),
        (("denoiser", ["phase"], 1), {"noise": {"least": 1, "most": 0}}, "noise: must be"),
        (("denoiser", ["phase"], 1), {"noise": {"least": "0", "most": 1}}, "noise: must be"),
        (("regulariser", ["phase"], True), {}, "receptive_field: must be an integer"),
        (("regulariser", ["phase"], 1), {"smallest": [0, 1]}, r"smallest: .* got \[0, 1\]"),
        (("regulariser", ["phase"], 1), {"version": 2}, "version: must not be given, is 1"),
    ],
)
def test_a_card_that_the_program_would_refuse_is_not_made(arguments, more, said):
    from ptyle.models import files

    with pytest.raises(ValueError, match=said):
        files.card(*arguments, **more)


@pytest.mark.skipif(PORTABLE, reason="this torch makes portable .pt2")
def test_a_portable_file_is_refused_where_this_torch_makes_none(tmp_path):
    from ptyle.models import files

    model = make_denoiser()
    card = files.card("denoiser", ["phase"], model.radius, noise={"least": 0, "most": 1})
    with pytest.raises(ValueError, match="isa: must be 'native' with torch 2"):
        files.export(model, card, tmp_path / "small.pt2")
    files.export(model, card, tmp_path / "small.pt2", "native")
    files.load(tmp_path / "small.pt2")
