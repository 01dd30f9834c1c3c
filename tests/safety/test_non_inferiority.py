"""Robust accuracy beside another model's, on a linear model whose answers are known."""

from typing import Any

import numpy as np
import pytest

from rlhf_tune.safety.intervals import difference_interval
from rlhf_tune.safety.non_inferiority import NonInferiority

pytestmark = pytest.mark.usefixtures("fakes_are_classifiers")

X = np.linspace(0, 1, 100)[:, None]
Y = (X[:, 0] > 0.5).astype(int)


class Threshold:
    """Class 1 above `at`; the loss falls towards the true class."""

    link = "logit"

    def __init__(self, at: float, scale: float = 1.0) -> None:
        self.at, self.scale = at, scale

    def outputs(self, x: Any) -> Any:
        return self.scale * (x.astype(np.float64) - self.at)

    def direction(self, x: Any, own: Any, *, loss: str, link: str, **more: Any) -> Any:
        return np.where(own[:, 1:], -1.0, 1.0)


def compare(new: Any, old: Any, margin: float = 0.05) -> Any:
    return NonInferiority(old, X, Y, eps=0.001, margin=margin)(new)


def test_a_model_does_not_fall_behind_itself() -> None:
    result = compare(Threshold(0.5), Threshold(0.5))
    assert (result.value, result.details["gained"], result.details["lost"]) == (0, 0, 0)
    assert result.satisfied


def test_only_the_samples_on_which_the_models_disagree_speak() -> None:
    result = compare(Threshold(0.4), Threshold(0.5))
    lost = int(((X[:, 0] > 0.4) & (X[:, 0] <= 0.5)).sum())
    assert result.details["lost"] == lost / 100
    assert result.value == -lost / 100
    assert result.interval == difference_interval(0, lost, 100, 0.95)
    assert not result.satisfied
    assert compare(Threshold(0.4), Threshold(0.5), margin=0.25).satisfied


def test_a_doubt_of_the_baseline_is_a_doubt() -> None:
    result = compare(Threshold(0.5), Threshold(0.5, np.nan))
    assert not result.trusted
    assert result.reasons == ("baseline: the model's outputs are not finite",)
