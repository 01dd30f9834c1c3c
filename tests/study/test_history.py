"""A study as arrays."""

import itertools
import math

import numpy as np
import optuna
import pytest
from made_trials import SPACE, study_of, trial
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial

from rlhf_tune.study.history import common_space, keys, read
from rlhf_tune.study.space import lattice


def history_of(*trials, direction: str = "minimize"):  # type: ignore[no-untyped-def]
    study = study_of(*trials, direction=direction)
    return read(study.trials, lattice(SPACE, {}), study.direction)


def test_the_best_trial_is_feasible() -> None:
    history = history_of(trial(3.0, 1e-3, c=-1.0), trial(1.0, 1e-2, c=0.5), trial(2.0, 1e-4, c=0.0))
    assert history.eligible.tolist() == [True, False, True]
    assert history.unsafe.tolist() == [False, True, False]
    assert history.best() == 2


def test_without_a_feasible_trial_the_least_violating_one_is_the_best() -> None:
    history = history_of(trial(1.0, 1e-3, c=0.9), trial(2.0, 1e-2, c=0.1), trial(3.0, 1e-4, c=0.1))
    assert history.best() == 1


def test_a_trial_without_a_required_constraint_is_unchecked() -> None:
    history = history_of(trial(1.0, 1e-3), trial(2.0, 1e-2, c=-0.1), trial(3.0, 1e-4, d=-0.1))
    assert not history.eligible.any()
    assert history.measured.tolist() == [False, False, False]
    history = history_of(trial(1.0, 1e-3), trial(2.0, 1e-2, c=-0.1))
    assert history.best() == 1


def test_infinite_values_become_the_extreme_finite_ones() -> None:
    values = [1.0, math.inf, 3.0, -math.inf]
    history = history_of(*(trial(v, 1e-3) for v in values))
    assert history.values.tolist() == [-1.0, -3.0, -3.0, -1.0]
    assert history.best() == 0


def test_common_space_takes_the_latest_range_and_only_shared_parameters() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for high in (10, 20):
        t = study.ask({"x": FloatDistribution(0, high), "y": FloatDistribution(0, 1)})
        study.tell(t, 0.0)
    study.tell(study.ask({"x": FloatDistribution(0, 5)}), 0.0)
    assert common_space(study.trials) == {"x": FloatDistribution(0, 5)}
    assert common_space([]) == {}


def test_a_repeated_measurement_tells_whether_there_is_noise() -> None:
    assert history_of(trial(2.0, 0.1), trial(3.0, 0.01), trial(2.0, 0.1)).repeats_itself
    assert not history_of(trial(2.0, 0.1), trial(2.0, 0.01)).repeats_itself
    noisy = history_of(trial(2.0, 0.1), trial(2.1, 0.1), trial(2.0, 0.1))
    assert not noisy.repeats_itself
    one_differs = [trial(2.0, 0.1), trial(2.0, 0.1), trial(1.0, 0.01), trial(1.1, 0.01)]
    assert not history_of(*one_differs).repeats_itself
    assert not history_of(trial(2.0, 0.1), trial(None, 0.1)).repeats_itself


def test_an_unordered_value_counts_as_distance() -> None:
    study = optuna.create_study()
    choice = optuna.distributions.CategoricalDistribution(["a", "b"])
    for value in ("a", "b", "a"):
        study.add_trial(
            create_trial(
                params={"lr": 1e-3, "kind": value},
                distributions={"lr": SPACE["lr"], "kind": choice},
                value=0.0,
            )
        )
    history = read(study.trials, lattice({"lr": SPACE["lr"]}, {}), study.direction)
    rows = history.features()
    assert np.linalg.norm(rows[0] - rows[1]) == pytest.approx(1.0)
    assert np.linalg.norm(rows[0] - rows[2]) == 0.0


def test_the_beginnings_of_a_history_share_its_arrays() -> None:
    """Else `transitions` of ten thousand trials would copy fifty million numbers."""
    history = history_of(*(trial(float(n), 1e-4 * n) for n in range(1, 7)))
    first = history.before(4)
    assert first.values.tolist() == [-1.0, -2.0, -3.0, -4.0]
    assert first.params == history.params[:4]
    for name in ("positions", "cells", "values", "blocked"):
        assert np.shares_memory(getattr(first, name), getattr(history, name))


@pytest.mark.parametrize("columns", [0, 1, 3])
def test_rows_have_one_key_where_they_are_equal(columns: int) -> None:
    rows = np.random.default_rng(0).integers(0, 2, size=(20, columns))
    found = keys(rows)
    for i, j in itertools.combinations(range(20), 2):
        assert (found[i] == found[j]) == bool((rows[i] == rows[j]).all())
