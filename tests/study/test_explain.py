"""What `DQNSampler` tells of a study: its recommendation, its candidates, its risk."""

import math

import numpy as np
import pytest
from optuna.trial import create_trial

from rlhf_tune import CannotCertify, DQNSampler
from tests.study.bowl import BATCH, LR, objective, study, with_constraint


def test_no_trial_to_recommend() -> None:
    s = study()
    with pytest.raises(CannotCertify, match="run the study first"):
        s.sampler.recommend(s)
    assert s.sampler.explain(s) == []


def test_the_recommendation_is_not_the_luckiest_trial() -> None:
    s = study()
    rng = np.random.default_rng(0)
    space = {"lr": LR, "batch_size": BATCH}
    for lr in np.geomspace(1e-5, 1e-1, 33):
        noise = -1.2 if abs(math.log10(lr) + 4) < 0.05 else 0.05 * rng.normal()
        value = 0.5 * abs(math.log10(lr) + 2) + noise
        s.add_trial(
            create_trial(
                params={"lr": float(lr), "batch_size": 64}, distributions=space, value=value
            )
        )
    assert abs(math.log10(s.best_params["lr"]) + 4) < 0.05
    assert abs(math.log10(s.sampler.recommend(s)["lr"]) + 2) < 0.5


def test_explain_says_why_a_move_is_masked() -> None:
    s = study(seed=1, confidence=0.5, price=1.0)
    s.optimize(with_constraint, n_trials=8)
    moves = s.sampler.explain(s)
    assert {m.why for m in moves} == {"", "taken", "predicted unsafe", "not worth its risk"}
    assert all(m.masked == bool(m.why) for m in moves)
    assert [m.q for m in moves if not m.masked] == sorted(
        (m.q for m in moves if not m.masked), reverse=True
    )
    unsafe = [m for m in moves if m.why == "predicted unsafe"]
    assert all(m.p_safe < 0.5 for m in unsafe)
    assert all(m.q < 0 for m in moves if m.why == "not worth its risk")


def test_explain_shows_prior_and_data_apart() -> None:
    s = study(seed=1)
    s.optimize(objective, n_trials=8)
    moves = s.sampler.explain(s)
    assert any(abs(m.prior - m.mean) > m.deviation for m in moves)
    here = min(moves, key=lambda m: abs(m.prior - m.mean))  # counted from the incumbent
    assert here.prior == pytest.approx(here.mean, abs=0.05)
    blind = study(seed=1, policy="no_prior")
    blind.optimize(objective, n_trials=8)
    assert len({round(m.prior, 9) for m in blind.sampler.explain(blind)}) == 1


def test_predicted_and_observed_risk(caplog: pytest.LogCaptureFixture) -> None:
    s = study(seed=1)
    with caplog.at_level("INFO", logger="rlhf_tune"):
        s.optimize(with_constraint, n_trials=8)
    risk = s.sampler.risk(s)
    unsafe = [t.constraints["robustness"] > 0 for t in s.trials[1:]]
    assert risk.observed == sum(unsafe)
    assert 0 < risk.predicted < 8
    assert sum("predicted" in record.message for record in caplog.records) == 8
    fresh = DQNSampler(seed=99).risk(s)  # a function of the trials
    np.testing.assert_array_equal(fresh.p_safe, risk.p_safe)
