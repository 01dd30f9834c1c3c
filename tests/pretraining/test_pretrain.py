"""Policies learned from recorded tasks and from a user's own studies."""

import json
import math
from pathlib import Path

import numpy as np
import optuna
import pytest

from rlhf_tune import DQNSampler
from rlhf_tune.cli.main import main
from rlhf_tune.errors import InvalidInputError
from rlhf_tune.pretraining.network import fit, jobs, simulate, train
from rlhf_tune.pretraining.priors import SHIFTS, Recorded, listed
from rlhf_tune.pretraining.studies import read_study, update
from rlhf_tune.study import dqn_residual
from rlhf_tune.study.prior import RATES, SIZES, load, shipped

optuna.logging.set_verbosity(optuna.logging.ERROR)


def study(best: float, n: int = 12, storage: str | None = None, name: str | None = None):  # type: ignore[no-untyped-def]
    """A past study whose optimum is at learning rate 10**best."""
    s = optuna.create_study(
        sampler=optuna.samplers.RandomSampler(seed=0), storage=storage, study_name=name
    )
    s.optimize(
        lambda t: (
            10
            + min(1, 0.3 * (math.log10(t.suggest_float("lr", 1e-6, 1, log=True)) - best) ** 2)
            + 0.01 * t.suggest_int("batch_size", 16, 256, log=True) / 256
        ),
        n_trials=n,
    )
    return s


def task(family: str, best: float) -> Recorded:
    rates, sizes = np.linspace(-5, 0.5, 12), np.log10([16.0, 64.0, 256.0])
    surface = np.repeat(-np.minimum(1, 0.3 * (rates - best) ** 2)[:, None], 3, axis=1)
    noise = 0.02 * np.random.default_rng(0).normal(size=(2, *surface.shape))
    return Recorded(family, rates, sizes, surface + noise)


MANY = [task(name, -1.5 - i / 8) for i, name in enumerate("abcdefghijkl")]
TASKS = [task("a", -2.0), task("b", -3.0), task("c", -1.5), task("d", -2.5)]


# Your own past


def test_the_prior_moves_towards_what_studies_found() -> None:
    prior = shipped("performance")
    past = [read_study(study(-4.6), prior) for _ in range(8)]
    moved = update(prior, past)
    column = int(np.abs(SIZES - np.log10(32)).argmin())
    before, after = (RATES[p.mean[:, column].argmax()] for p in (prior, moved))
    assert after < before - 0.4
    assert len(moved.surfaces) > len(prior.surfaces)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: study(-2, n=2), "fewer than 4"),
        (lambda: optuna.create_study(directions=["minimize", "maximize"]), "several objectives"),
    ],
)
def test_useless_studies_say_why(make, why: str) -> None:  # type: ignore[no-untyped-def]
    assert why in read_study(make(), shipped("performance")).why_not


def test_studies_without_a_known_parameter_or_without_a_difference_are_useless() -> None:
    other = optuna.create_study()
    other.optimize(lambda t: t.suggest_float("momentum", 0, 1), n_trials=5)
    assert "learning rate" in read_study(other, shipped("performance")).why_not
    constant = optuna.create_study()
    constant.optimize(lambda t: 0 * t.suggest_float("lr", 1e-4, 1, log=True), n_trials=5)
    assert "same value" in read_study(constant, shipped("performance")).why_not
    with pytest.raises(InvalidInputError, match="same value"):
        update(shipped("performance"), [read_study(constant, shipped("performance"))])


def test_the_command_learns_from_a_storage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, out = f"sqlite:///{tmp_path}/team.db", tmp_path / "own.safetensors"
    for i in range(3):
        study(-4.6, n=6, storage=url, name=f"s{i}")
    optuna.create_study(storage=url, study_name="empty")
    assert main(["pretrain", "--storage", url, "-o", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "s0: 6 trials\n" in printed
    assert "empty: 0 trials, left out: it has fewer than 4" in printed

    own, before = load(out)["performance"].mean, shipped("performance").mean
    found = int(np.abs(RATES + 4.6).argmin())
    assert (own[found] > before[found] + 0.05).all()
    s = optuna.create_study(sampler=DQNSampler(policy=str(out), seed=0))
    s.optimize(lambda t: t.suggest_float("lr", 1e-6, 1, log=True), n_trials=3)
    assert load(out).keys() == {"performance", "robustness"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--storage", "sqlite:///{}/none.db"], "holds none"),
        (["--storage", "nonsense://x"], "URL of an Optuna storage"),
        (["--storage", "sqlite:///{}/none.db", "--study", "x"], "name a study of the storage"),
        (["--tables", "{}"], "benchmarks.record"),
        (["--tables", "{}", "--study", "x"], "give both"),
        (["--storage", "sqlite:///{}/x.db", "--network", "n.safetensors"], "give `--tables`"),
    ],
)
def test_bad_usage_is_told(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [argument.format(tmp_path) for argument in arguments]
    assert main(["pretrain", *given, "-o", str(tmp_path / "out.safetensors")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()


def test_the_output_folder_must_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "none" / "x.safetensors"
    assert main(["pretrain", "--storage", "sqlite://", "-o", str(out)]) == 2
    assert "folder that exists" in capsys.readouterr().err


# The Q-network


def test_priors_of_simulated_studies_never_saw_the_family() -> None:
    plan = jobs(TASKS, 0)
    assert len(plan) == 2 * len(TASKS)
    assert {job.shift for job in plan} <= set(SHIFTS)
    for job in plan:
        others = [other for other in TASKS if other.family != job.task.family]
        mine = [other for other in plan if other.prior is job.prior]
        held = {other.task.family for other in mine}
        same = listed([t for t in others if t.family not in held])
        np.testing.assert_allclose(job.prior.surfaces, same.surfaces)


def test_simulated_rewards_are_gains_of_the_true_mean() -> None:
    steps = simulate(jobs(TASKS, 0)[3], None)
    assert len(steps) == 19
    for step in steps:
        assert (step.reward >= 0).all()
        assert step.free[step.taken]
    assert steps[0].reward.max() > steps[-1].reward.max()


def test_features_are_counted_from_the_incumbent_in_training_too() -> None:
    """There the candidates are the whole lattice, whose first cell is a corner."""
    named = dqn_residual.FEATURES.index
    for step in simulate(jobs(TASKS, 0)[3], None):
        (stay,) = np.flatnonzero(step.seen.features[:, named("is stay")])
        for name in dqn_residual.FEATURES:
            if "incumbent" in name:
                assert step.seen.features[stay, named(name)] == 0, name


def test_an_untrained_network_is_expected_improvement() -> None:
    from rlhf_tune.pretraining.network import _layers, _network

    features = len(dqn_residual.FEATURES)
    blank = dqn_residual.QMap(np.zeros(features), np.ones(features), _layers(_network(None)))
    seen = simulate(jobs(TASKS, 0)[0], None)[3].seen
    np.testing.assert_array_equal(blank.q(seen), seen.ei)


def test_training_lowers_the_error_resumes_and_repeats(tmp_path: Path) -> None:
    told: list[str] = []

    def learned(folder: str, rounds: int) -> dqn_residual.QMap:
        return train(
            MANY,
            rounds=rounds,
            seed=1,
            checkpoint=tmp_path / folder,
            processes=1,
            progress=lambda what, share: told.append(what),
        )

    learned("parts", 1)
    parts, whole = learned("parts", 2), learned("whole", 2)
    for name, tensor in whole.tensors().items():
        np.testing.assert_allclose(parts.tensors()[name], tensor, rtol=1e-4, atol=1e-6)
    assert {"simulating studies", "learning"} <= set(told)
    steps = [step for job in jobs(MANY, 9) for step in simulate(job, None)]
    error = {
        name: np.mean([((q(s.seen) - s.reward) ** 2).mean() for s in steps])
        for name, q in {
            "ei": lambda seen: seen.ei,
            "rho": lambda seen: seen.ei + _rho(whole, seen),
        }.items()
    }
    assert error["rho"] < error["ei"]


def _rho(network: dqn_residual.QMap, seen: dqn_residual.View) -> np.ndarray:
    """What the network adds to the expected improvement of the next trial."""
    return network.scores(seen)[:, 0]


def test_the_numpy_network_equals_the_torch_one() -> None:
    import torch

    from rlhf_tune.pretraining.network import _network

    steps = simulate(jobs(TASKS, 0)[1], None)
    network = fit([steps], None, seed=0, progress=lambda what, share: None)
    seen = steps[4].seen
    x = dqn_residual.inputs(network.normalised(seen.features), seen.ei).astype(np.float32)
    with torch.no_grad():
        scores = _network(network)(torch.from_numpy(x)).numpy()
    residual = scores[:, 0] + dqn_residual.DISCOUNT * scores[:, 1]
    apart, bound = residual - residual[seen.ei.argmax()], dqn_residual.BOUND * seen.ei.max()
    expected = seen.ei + np.clip(apart, -bound, bound)
    np.testing.assert_allclose(network.q(seen), expected, atol=1e-5)
    assert np.abs(expected - seen.ei).max() > 0


def test_a_file_without_a_network_is_refused(tmp_path: Path) -> None:
    from rlhf_tune.study.prior import FLAT, save

    save({"performance": FLAT}, tmp_path / "p.safetensors", {})
    with pytest.raises(InvalidInputError, match="lacks"):
        dqn_residual.load_qmap(tmp_path / "p.safetensors")


def test_recorded_tables_are_read_as_the_benchmarks_read_them() -> None:
    from benchmarks.recorded import tasks
    from rlhf_tune.pretraining.tables import read_tables

    table = tasks.load("train")[0]
    mine = read_tables(tasks.TABLES)["performance"][0]
    theirs = -tasks.normalised(table.val_loss[..., -1], table.chance)
    np.testing.assert_allclose(mine.values, theirs, atol=1e-6)
    assert json.loads((tasks.TABLES / "split.json").read_text())["train"]
