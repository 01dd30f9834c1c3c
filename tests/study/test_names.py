"""Constraints of one kind in a trial: all of them count, each by a name of its own."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
import pytest

from rlhf_tune import CannotCertify
from rlhf_tune.errors import InvalidInputError
from rlhf_tune.safety import Constraint, MembershipLeakage, RobustAccuracy, by_group
from rlhf_tune.study.risk import SafetyChecker
from tests.study.bowl import objective, study

torch = pytest.importorskip("torch")
pytest.importorskip("rlhf_tune_integrations.pytorch")

X = np.random.default_rng(3).random((240, 5)).astype(np.float32)
Y = (X[:, 0] > X[:, 1]).astype(np.int64)


def model() -> Any:
    """Right on every sample; within eps it keeps those with |x0 - x1| > 2 eps."""
    linear = torch.nn.Linear(5, 2)
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias.zero_()
        linear.weight[1, 0], linear.weight[1, 1] = 1, -1
    return linear


def robust(eps: float = 0.02, at_least: float = 0.5, **arguments: Any) -> Constraint:
    return RobustAccuracy(X, Y, eps=eps, at_least=at_least, **arguments)


def studied(constraints: Sequence[Constraint]) -> optuna.Study:
    """Three trials that set each constraint as the README says."""

    def with_constraints(trial: optuna.Trial) -> float:
        for each in constraints:
            measurement = each(model())
            trial.set_constraint(measurement.name, measurement.cost)
        return objective(trial)

    s = study()
    s.optimize(with_constraints, n_trials=3)
    return s


@pytest.mark.parametrize(
    "pair",
    [
        lambda: [robust(0.02), robust(0.4)],
        lambda: [robust(0.4), robust(0.02)],
        lambda: [robust(0.02, attack="noise"), robust(0.4, attack="pgd")],
        lambda: [robust(0.4), robust(0.4, 0.0, full=True)],
        lambda: [
            robust(0.02, name="all"),
            RobustAccuracy(X, 1 - Y, eps=0.02, at_least=0.5, name="shifted"),
        ],
    ],
    ids=["radii", "radii, the strict one first", "attacks", "full or not", "two data sets"],
)
@pytest.mark.filterwarnings("ignore:the study ends here")
def test_the_stricter_of_two_floors_counts(pair: Callable[[], list[Constraint]]) -> None:
    constraints = pair()
    s = studied(constraints)
    assert set(s.trials[0].constraints) == {each.name for each in constraints}
    assert len(s.trials[0].constraints) == 2
    with pytest.raises(CannotCertify):
        s.sampler.recommend(s)


def test_two_floors_that_hold_are_recommended() -> None:
    s = studied([robust(0.01), robust(0.02)])
    assert s.sampler.recommend(s)


def test_equal_names_are_refused_where_constraints_are_handed_over() -> None:
    half = np.arange(len(X)) % 2 == 0
    a, b = (RobustAccuracy(X[rows], Y[rows], eps=0.02, at_least=0.5) for rows in (half, ~half))
    with pytest.raises(InvalidInputError, match=r"robust_accuracy\[eps=0.02\].*name="):
        SafetyChecker([a, b])
    with pytest.raises(InvalidInputError, match=r"robust_accuracy\[eps=0.02\].*name="):
        _ = a & b
    leaks = [
        MembershipLeakage((X[rows], Y[rows]), (X[~rows], Y[~rows]), at_most=0.5)
        for rows in (half, ~half)
    ]
    with pytest.raises(InvalidInputError, match=r"membership_leakage.*name="):
        SafetyChecker(leaks)


def test_names_tell_leakages_of_two_data_sets_apart() -> None:
    half = np.arange(len(X)) % 2 == 0
    leaks = [
        MembershipLeakage((X[rows], Y[rows]), (X[~rows], Y[~rows]), at_most=0.5, name=name)
        for rows, name in ((half, "even"), (~half, "odd"))
    ]
    measured = SafetyChecker(leaks).measure(model())
    assert set(measured) == {"even", "odd"}
    both = (leaks[0] & leaks[1])(model())
    assert {"even.auc", "odd.auc", "even.cost", "odd.cost"} <= set(both.details)


def test_groups_of_two_radii_keep_their_names() -> None:
    groups = np.arange(len(X)) % 3

    def at(eps: float) -> Constraint:
        return by_group(groups, lambda of: RobustAccuracy(X[of], Y[of], eps=eps, at_least=0.3))

    measured = SafetyChecker([at(0.02), at(0.1)]).measure(model())
    assert set(measured) == {
        "robust_accuracy[eps=0.02] by group",
        "robust_accuracy[eps=0.1] by group",
    }
    assert all(f"{name[:-9]}[2].cost" in found.details for name, found in measured.items())
