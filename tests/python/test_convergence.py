"""The default optimiser on multislice problems, through the installed program: it reaches what it
must, and no draw of data, likelihood and batches makes it diverge. What is drawn, and the model
that tells how good a result is, are those of `./dev bench convergence`."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
import convergence  # noqa: E402
import multislice_cases as multislice  # noqa: E402

PROGRAM = convergence.PROGRAM
needs_program = pytest.mark.skipif(
    not PROGRAM.exists(), reason=f"{PROGRAM} is not built: ./dev build makes it"
)
SEED, RUNS = 1, 48


@needs_program
def test_case_b_converges_in_20_iterations(tmp_path):
    case = multislice.CASES["B"]
    problem = multislice.make(case)
    task = convergence.simulated_task(tmp_path, "B", case)
    start = task.model.data_error(
        np.ones_like(task.truth), problem.start, problem.corners, task.intensities
    )
    assert 0.18 < start < 0.21  # as hard as it is meant to be
    outcome = convergence.run(PROGRAM, task.config, {"reconstruct.iterations": 20})
    assert outcome.code == 0, outcome.said
    errors = task.errors(outcome)
    assert errors["data_error"] <= 0.006, errors
    assert errors["projection_error"] <= 0.05, errors


@needs_program
def test_no_draw_of_problem_likelihood_and_batches_diverges():
    rows = []
    for number, trial in enumerate(itertools.islice(convergence.trials(SEED), RUNS)):
        rows.append(convergence.attempt(PROGRAM, trial, {}, None, number))
    diverged = [
        f"{'; '.join(row['reasons'])}: {convergence.words(row)}, seed {row['seed']}"
        for row in rows
        if row["reasons"]
    ]
    assert not diverged, "\n".join(diverged)


@needs_program
@pytest.mark.parametrize("refine", ["object", "both"])
def test_steps_that_overshoot_are_taken_back(refine):
    # No parabola lies above the Poisson loss; one batch sees what a step did an iteration later.
    trial = next(convergence.trials(SEED))
    trial.factors |= dict(slices=20, modes=3, peak=2.0, guess=120.0, noise="none", geometry="far")
    trial.factors |= dict(likelihood="poisson", batches="one batch", refine=refine)
    row = convergence.attempt(PROGRAM, trial, {}, None, 0)
    assert not row["reasons"], row
    assert row["taken_back"] > 0  # else this tests nothing
    assert row["last_over_first"] < 1


@needs_program
def test_what_diverges_is_called_so():
    trial = next(convergence.trials(SEED))
    trial.factors |= dict(noise="none", likelihood="amplitude", refine="both")
    wild = {"reconstruct.optimizer": "adam", "reconstruct.learning_rate": 30.0}
    assert convergence.attempt(PROGRAM, trial, wild, None, 0)["reasons"]
    assert not convergence.attempt(PROGRAM, trial, {}, None, 0)["reasons"]


def test_the_first_draws_have_every_pair_of_levels():
    factors = {k: v for k, v in convergence.FACTORS.items() if k != "problem"}
    wanted = {
        ((a, x), (b, y))
        for a, b in itertools.combinations(factors, 2)
        for x, y in itertools.product(factors[a], factors[b])
    }
    for trial in itertools.islice(convergence.trials(SEED), RUNS):
        wanted -= convergence.pairs_of(trial.factors)
    assert not wanted


def test_the_object_error_is_blind_to_what_the_data_do_not_tell():
    case = multislice.Case(window=32, slices=3, grid=13, step=4)
    generator = np.random.default_rng(0)
    phases = multislice.make_phases(3, 12 * 4 + 32, 1.0, generator)
    truth = np.exp(1j * phases)
    y, x = np.indices(phases.shape[1:])
    shifts = np.array([0.3, -0.7]) + np.arange(3)[:, None] * np.array([-0.2, 0.1])
    free = multislice.fourier_moved(phases, shifts) + 0.02 * y - 0.3 * x + 0.1 * (y % 4 == x % 4)
    error = multislice.object_error(np.exp(1j * free), truth, case)
    assert error.projection < 0.05 and error.slices < 0.05, error
    # what they do tell counts as it is
    vacuum = multislice.object_error(np.ones_like(truth), truth, case)
    assert vacuum.projection == pytest.approx(1) and vacuum.slices == pytest.approx(1)
    noise = 0.05 * generator.standard_normal(phases.shape)
    inside = phases[:, 16:65, 16:65]
    error = multislice.object_error(truth * np.exp(1j * noise), truth, case)
    assert error.slices == pytest.approx((0.05 / inside.std((1, 2))).mean(), rel=0.1)
    swapped = multislice.object_error(truth[::-1], truth, case)
    assert swapped.slices > 0.5


def test_the_data_error_is_free_of_scale_and_nothing_else():
    problem = multislice.make(multislice.Case(window=16, slices=2, grid=3, step=3, modes=2))

    def error(obj, probe):
        return problem.model.data_error(obj, probe, problem.corners, problem.patterns)

    assert error(problem.truth, 3 * problem.probe) < 1e-7
    expected = np.stack(
        [problem.model.intensity(problem.truth, problem.start, c) for c in problem.corners]
    )
    a, b = np.sqrt(expected), np.sqrt(problem.patterns)
    best = (a * b).sum() / (a * a).sum()
    direct = np.sqrt(((best * a - b) ** 2).sum() / (b * b).sum())
    assert error(problem.truth, problem.start) == pytest.approx(direct, rel=1e-6)
