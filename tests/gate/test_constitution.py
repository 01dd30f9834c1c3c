"""Constitutions: rules on outcomes and on models, read from TOML."""

import math
from pathlib import Path

import numpy as np
import pytest
from gate_models import X, Y, torch_linear, weights

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.gate import Constitution

RULES = """
[outcomes.accuracy]
at_least = 0.85

[outcomes.seconds]
at_most = 60
"""


def read(folder: Path, text: str) -> Constitution:
    path = folder / "rules.toml"
    path.write_text(text)
    return Constitution.read(path)


def test_a_cost_says_by_how_much_a_rule_is_broken(tmp_path: Path) -> None:
    rules = read(tmp_path, RULES)
    costs = rules.costs({"accuracy": 0.8, "seconds": 50.0, "else": 1.0})
    assert costs == {
        "rule accuracy": pytest.approx(0.05),
        "rule seconds": pytest.approx(-10),
    }


def test_what_is_not_known_is_not_kept(tmp_path: Path) -> None:
    costs = read(tmp_path, RULES).costs({"accuracy": math.nan})
    assert costs == {"rule accuracy": math.inf, "rule seconds": math.inf}


def test_a_model_is_measured_as_the_gate_does(tmp_path: Path) -> None:
    model = torch_linear(weights())
    np.savez(tmp_path / "holdout.npz", x=X, y=Y)
    gate = '[gate]\ndata = "holdout.npz"\neps = 1e-6\nmin_robust_accuracy = 0.9\n'
    rules = read(tmp_path, RULES + gate)
    costs = rules.costs({"accuracy": 0.9, "seconds": 1.0}, model)
    assert costs["robust_accuracy"] <= 0
    np.savez(tmp_path / "holdout.npz", x=X, y=1 - Y)
    assert read(tmp_path, gate).costs({}, model)["robust_accuracy"] > 0.5
    with pytest.raises(InvalidInputError, match="rules models, but got none"):
        rules.costs({"accuracy": 0.9})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the tables 'outcomes', 'gate' or both"),
        ("[rules]\n", r"has \['rules'\]"),
        ("outcomes = 3\n", "must be tables"),
        ("[outcomes]\naccuracy = 0.9\n", "'accuracy' is 0.9"),
        ("[outcomes.a]\nat_least = 1\nat_most = 2\n", "one of at_least and at_most"),
        ("[outcomes.a]\nat_least = true\n", "finite number"),
        ("[outcomes.a]\nat_least = nan\n", "finite number"),
        ("[gate]\neps = 0.1\n", "--data, --min-robust-accuracy must be given"),
        ('[gate]\ndata = "x.npz"\neps = 0.1\nbaseline = "old.pt"\n', r"got \['baseline'\]"),
        ('[gate]\ndata = "x.npz"\neps = 0.1\nmin_robustness = 1\n', "unknown keys"),
        ("[outcomes", "must be TOML"),
    ],
)
def test_what_is_no_rule_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        read(tmp_path, text)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="cannot be read"):
        Constitution.read(tmp_path / "none.toml")
