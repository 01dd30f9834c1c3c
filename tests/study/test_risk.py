"""`SafetyChecker`: measuring constraints, and predicting them for moves not made yet."""

import math

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.safety import constraint
from rlhf_tune.study.history import History, read
from rlhf_tune.study.risk import SafetyChecker
from rlhf_tune.study.space import lattice

LR = FloatDistribution(1e-5, 1e-1, log=True)


def history(**costs: float) -> History:
    """Trials at 10^-5, 10^-4, ... with the given costs, one constraint."""
    study = optuna.create_study()
    for i, cost in enumerate(costs.values()):
        study.add_trial(
            create_trial(
                params={"lr": 10.0 ** (i - 5)},
                distributions={"lr": LR},
                value=0.0,
                constraints={"robust": cost},
            )
        )
    return read(study.trials, lattice({"lr": LR}, {}), study.direction)


CELLS = np.arange(0, 41, 2)[:, None]  # a fifth of a decade apart


def test_safe_near_safe_trials_and_unsafe_near_unsafe_ones() -> None:
    p = SafetyChecker().p_safe(history(a=-0.3, b=-0.2, c=-0.1, d=0.2, e=0.3), CELLS)
    assert (p[:9] > 0.9).all()
    assert (p[16:] < 0.1).all()
    assert ((np.diff(p) < 0.01) | (p[1:] > 0.9)).all()


def test_without_constraints_everything_is_safe() -> None:
    study = optuna.create_study()
    study.add_trial(create_trial(params={"lr": 1e-3}, distributions={"lr": LR}, value=0.0))
    plain = read(study.trials, lattice({"lr": LR}, {}), study.direction)
    assert (SafetyChecker(confidence=0.99).p_safe(plain, CELLS) == 1).all()


def test_one_unsafe_start_does_not_condemn_the_whole_space() -> None:
    p = SafetyChecker().p_safe(history(a=0.2), CELLS)
    assert p[0] < 0.1
    assert 0.3 < p[-1] < 0.7


def test_without_measurements_the_prior_prefers_usual_learning_rates() -> None:
    study = optuna.create_study()
    for value in (1e-3, 1e-2):
        study.add_trial(create_trial(params={"lr": value}, distributions={"lr": LR}, value=0.0))
    study.add_trial(
        create_trial(
            params={"lr": 1e-2}, distributions={"lr": LR}, value=0.0, constraints={"robust": -0.1}
        )
    )
    before = read(study.trials, lattice({"lr": LR}, {}), study.direction).before(2)
    p = SafetyChecker().p_safe(before, CELLS)
    assert p.argmax() * 0.2 - 5 == pytest.approx(-2, abs=0.5)
    assert p[0] < p[-1] < p.max() < 0.6


def test_surprises_widen_the_prediction() -> None:
    calm = history(a=-0.1, b=-0.1, c=-0.1, d=-0.1)
    rough = history(a=-0.1, b=-0.9, c=0.9, d=-0.1)
    at_the_last = CELLS[15:16]
    assert SafetyChecker().p_safe(calm, at_the_last) > 0.95
    assert SafetyChecker().p_safe(rough, at_the_last) < 0.8


def test_costs_in_other_units_are_judged_by_themselves() -> None:
    costs = {"a": -3.0, "b": -2.0, "c": 1.0, "d": 2.0}
    p = SafetyChecker().p_safe(history(**costs), CELLS)
    milli = {key: 1000 * cost for key, cost in costs.items()}
    np.testing.assert_allclose(SafetyChecker().p_safe(history(**milli), CELLS), p)


def test_a_feasible_trial_among_unsafe_repetitions_is_not_reliable() -> None:
    study = optuna.create_study()
    trials = [(1e-3, -0.01), (1e-3, 0.1), (1e-3, 0.1), (1e-2, -0.1), (1e-2, -0.1)]
    for lr, cost in trials:
        study.add_trial(
            create_trial(
                params={"lr": lr}, distributions={"lr": LR}, value=0.0, constraints={"robust": cost}
            )
        )
    known = read(study.trials, lattice({"lr": LR}, {}), study.direction)
    assert SafetyChecker().reliable(known).tolist() == [False, False, False, True, True]
    assert SafetyChecker().reliable(known.before(3)).tolist() == [True, False, False]


def test_risk_is_what_was_predicted_before_each_trial() -> None:
    known = history(a=-0.3, b=-0.2, c=0.4)
    risk = SafetyChecker().risk(known)
    assert risk.numbers.tolist() == [1, 2]
    assert risk.safe.tolist() == [True, False]
    assert risk.observed == 1
    expected = SafetyChecker().p_safe(known.before(2), known.cells[2:])
    assert risk.p_safe[1] == pytest.approx(expected[0])
    assert risk.predicted == pytest.approx((1 - risk.p_safe).sum())


def test_an_untrusted_measurement_counts_as_unsafe() -> None:
    p = SafetyChecker().p_safe(history(a=-0.2, b=-0.2, c=math.inf, d=math.inf), CELLS)
    assert p[0] > 0.7
    assert p[12] < 0.2
    assert np.isfinite(p).all()


def test_more_confidence_masks_more() -> None:
    known = history(a=-0.3, b=-0.1, c=0.0, d=0.2)
    allowed = [SafetyChecker(confidence=c).mask(known, CELLS).sum() for c in (0.0, 0.5, 0.9)]
    assert allowed[0] == 21
    assert allowed[0] > allowed[1] > allowed[2] > 0


def test_measures_every_constraint_by_name() -> None:
    checker = SafetyChecker(
        [
            constraint("size", lambda model: float(model), at_most=10),
            constraint("speed", lambda model: 1.0 / model, at_least=0.5),
        ]
    )
    measured = checker.measure(4)
    assert measured.keys() == {"size", "speed"}
    assert measured["size"].satisfied
    assert not measured["speed"].satisfied
    assert measured["speed"].cost == pytest.approx(0.25)


def test_two_constraints_of_one_name_are_refused() -> None:
    twice = [constraint("size", lambda model: 1.0, at_most=10)] * 2
    with pytest.raises(InvalidInputError, match="different names"):
        SafetyChecker(twice).measure(None)
