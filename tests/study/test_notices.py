"""What a study says while it runs."""

import logging
import math

import optuna
import pytest

from rlhf_tune import DQNSampler
from rlhf_tune.study import notices
from tests.study.bowl import objective, study, with_constraint
from tests.study.made_trials import study_of, trial


def said(s: optuna.Study, n: int, caplog: pytest.LogCaptureFixture, f: object) -> list[str]:
    with caplog.at_level(logging.INFO, logger="rlhf_tune"):
        s.optimize(f, n_trials=n, catch=ArithmeticError)
    return [record.message for record in caplog.records if record.name.startswith("rlhf_tune")]


def test_a_line_a_trial_with_its_constraints_and_what_was_predicted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    s = study(seed=1)
    recognised, first, *others = said(s, 6, caplog, with_constraint)
    assert recognised.startswith("parameters seen: batch_size as batch_size (log scale, starts at")
    trials, risk = s.trials, s.sampler.risk(s)
    cost = trials[0].constraints["robustness"]
    assert first == (
        f"trial 0: value {trials[0].value:.4g}; robustness cost {cost:+.3g} "
        f"({'kept' if cost <= 0 else 'violated'}); P(safe) not predicted yet"
    )
    for number, line, p in zip(risk.numbers, others, risk.p_safe, strict=True):
        assert line.startswith(f"trial {number}: value ")
        assert line.endswith(f"P(safe) predicted {p:.2f}")


def test_without_constraints_optunas_own_line_is_enough(caplog: pytest.LogCaptureFixture) -> None:
    (recognised,) = said(study(seed=1), 4, caplog, objective)
    assert recognised.startswith("parameters seen")


def test_a_failed_trial_has_a_line_without_a_value(caplog: pytest.LogCaptureFixture) -> None:
    def fails(t: optuna.Trial) -> float:
        t.suggest_float("lr", 1e-5, 1e-1, log=True)
        t.set_constraint("size\x1b", -1.0)
        raise ArithmeticError

    lines = said(study(), 1, caplog, fails)
    told = "trial 0: no value; size\\x1b cost -1 (kept); P(safe) not predicted yet"
    assert lines[1] == told


def unsafe(t: optuna.Trial) -> float:
    value = objective(t)
    t.set_constraint("size", 2.0 if t.number == 1 else 3.0)
    t.set_constraint("speed", -1.0)
    return value


def test_that_nothing_is_feasible_is_said_after_five_trials_and_ten_and_twenty(
    caplog: pytest.LogCaptureFixture,
) -> None:
    warned = [line for line in said(study(), 12, caplog, unsafe) if "unsafe" in line]
    five, ten = warned
    assert five.startswith(
        "5 trials were unsafe and none was feasible; in the nearest, trial 1, size misses its "
        "bound by 2; if this goes on, start from a safe point"
    )
    assert ten.startswith("10 trials were unsafe")


def test_one_feasible_trial_is_enough_to_say_nothing() -> None:
    trials = study_of(trial(1.0, 1e-3, x=-0.1), *(trial(1.0, 1e-2, x=0.1) for _ in range(5))).trials
    assert notices.unsafe(trials[:5], trials[5]) == ""
    assert notices.unsafe(trials[1:5], trials[5]) != ""


def test_untrusted_trials_count_as_unsafe() -> None:
    trials = study_of(*(trial(1.0, 1e-3, x=math.inf) for _ in range(5))).trials
    assert "x misses its bound by inf" in notices.unsafe(trials[:4], trials[4])


def test_a_study_that_only_repeats_says_so(caplog: pytest.LogCaptureFixture) -> None:
    def two(t: optuna.Trial) -> float:
        return float(t.suggest_categorical("c", ["a", "b"]) == "a")

    warned = [line for line in said(study(), 13, caplog, two) if "repeated" in line]
    five, ten = warned
    assert five.startswith("the last 5 trials repeated points (2 distinct of 7 trials)")
    assert "widen the ranges" in five
    assert ten.startswith("the last 10 trials repeated points (2 distinct of 12 trials)")


def test_trials_without_parameters_are_no_repeats(caplog: pytest.LogCaptureFixture) -> None:
    assert not [line for line in said(study(), 7, caplog, lambda t: 1.0) if "repeated" in line]


def test_a_study_that_ends_early_says_after_how_many_points_and_what_would_help() -> None:
    def lone(t: optuna.Trial) -> float:
        value = objective(t)
        kept = t.params == {"lr": 1e-3, "batch_size": 32}
        t.set_constraint("robustness", -0.01 if kept else 0.3)
        return value

    s = study(budget=30)
    told = r"ends here, after \d+ trials at \d+ distinct points: no untried point is worth its risk"
    with pytest.warns(UserWarning, match=told + r".*to go on, lower `price`.*trials are saved"):
        s.optimize(lone, n_trials=30)


def test_lines_stand_beside_optunas_unless_logging_is_configured_to_show_them() -> None:
    ours = logging.getLogger("rlhf_tune")
    assert notices.logger().name == "optuna.rlhf_tune"  # there are handlers, but no level
    ours.setLevel(logging.INFO)
    assert notices.logger().name == "rlhf_tune.study"
    ours.setLevel(logging.NOTSET)
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    assert not notices.logger().isEnabledFor(logging.WARNING)
    optuna.logging.set_verbosity(before)


def test_what_is_said_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    silent, loud = study(seed=4), study(seed=4)
    silent.optimize(with_constraint, n_trials=8)
    said(loud, 8, caplog, with_constraint)
    assert [t.params for t in loud.trials] == [t.params for t in silent.trials]
    assert isinstance(loud.sampler, DQNSampler)
