"""A prior learned from a user's own studies."""

import math
from pathlib import Path

import numpy as np
import optuna
import pytest

from rlhf_tune import DQNSampler
from rlhf_tune.cli.main import main
from rlhf_tune.errors import InvalidInputError
from rlhf_tune.pretraining.studies import read_study, update
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
