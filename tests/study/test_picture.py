"""The picture of a study."""

import math

import optuna
import pytest
from optuna.samplers import RandomSampler

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.plot import plot_study
from tests.study.bowl import objective, study, with_constraint
from tests.study.made_trials import study_of, trial

pytest.importorskip("matplotlib")


def labels(figure: object) -> list[str]:
    return [axes.get_ylabel() for axes in figure.axes]


def legend(figure: object) -> set[str]:
    return {text.get_text() for text in figure.legends[0].get_texts()}


def points(axes: object, label: str) -> list[list[float]]:
    (found,) = [c for c in axes.collections if c.get_label() == label]
    return found.get_offsets().tolist()


def test_plane_course_costs_and_risk() -> None:
    s = study(seed=1)
    s.optimize(with_constraint, n_trials=8)
    figure = plot_study(s)
    plane, course, cost, risk = figure.axes
    assert (plane.get_xlabel(), plane.get_ylabel()) == ("lr", "batch_size")
    assert (plane.get_xscale(), plane.get_yscale()) == ("log", "log")
    assert labels(figure)[1:] == ["value", "cost", "P(safe)"]
    assert cost.get_title(loc="left") == "cost of robustness"
    feasible = [t for t in s.trials if t.constraints["robustness"] <= 0]
    unsafe = [t for t in s.trials if t.constraints["robustness"] > 0]
    assert points(plane, "unsafe") == [[t.params["lr"], t.params["batch_size"]] for t in unsafe]
    assert points(course, "feasible") == [[t.number, t.value] for t in feasible]
    best = s.sampler.recommendation(s)
    assert points(course, "recommended") == [[best.number, best.value]]
    assert [list(line.get_ydata()) for line in cost.lines] == [[0, 0]]
    assert sum(len(c.get_offsets()) for c in risk.collections) == 7  # of the first none is known
    assert {text.get_text() for text in plane.texts} >= {"0", "7"}


def test_the_course_is_that_of_the_best_feasible_trial() -> None:
    s = study_of(
        trial(2.0, 1e-3, x=-1), trial(0.5, 1e-2, x=1), trial(1.0, 1e-4, x=-1), trial(None, 1e-1)
    )
    (line,) = [line for line in plot_study(s).axes[1].lines if "best" in str(line.get_label())]
    assert line.get_ydata().tolist() == [2.0, 2.0, 1.0, 1.0]


def test_a_maximized_study_rises() -> None:
    s = study_of(trial(1.0, 1e-3), trial(0.5, 1e-2), trial(2.0, 1e-4), direction="maximize")
    figure = plot_study(s)
    (line,) = figure.axes[1].lines
    assert line.get_ydata().tolist() == [1.0, 1.0, 2.0]
    assert "complete" in legend(figure)
    assert "feasible" not in legend(figure)


def test_of_many_parameters_the_two_that_matter_most_are_drawn() -> None:
    def f(t: optuna.Trial) -> float:
        t.suggest_categorical("kind", ["a", "b"])
        return (
            1e-3 * t.suggest_float("idle", 0, 1)
            + (t.suggest_float("width", 0, 1) - 0.3) ** 2
            + abs(t.suggest_float("depth", 0, 1) - 0.7)
        )

    s = optuna.create_study(sampler=RandomSampler(seed=0))
    s.optimize(f, n_trials=40)
    plane = plot_study(s).axes[0]
    assert {plane.get_xlabel(), plane.get_ylabel()} == {"width", "depth"}


def test_one_parameter_is_drawn_against_the_value() -> None:
    s = study(seed=0)
    s.optimize(lambda t: math.log10(t.suggest_float("lr", 1e-5, 1, log=True)) ** 2, n_trials=4)
    line, course = plot_study(s).axes
    assert (line.get_xlabel(), line.get_ylabel()) == ("lr", "value")
    assert points(line, "complete") == [[t.params["lr"], t.value] for t in s.trials]
    assert course.get_xlabel() == "trial"


def test_without_ordered_parameters_the_course_stands_alone() -> None:
    s = study(seed=0)
    s.optimize(lambda t: float(len(t.suggest_categorical("c", ["a", "bb"]))), n_trials=3)
    assert labels(plot_study(s)) == ["value"]


def test_conditional_parameters_of_no_common_space() -> None:
    s = study(seed=0)
    s.optimize(lambda t: t.suggest_float(f"p{t.number % 2}", 0, 1), n_trials=4)
    assert labels(plot_study(s)) == ["value"]


def test_all_failed_trials_stand_at_the_bottom() -> None:
    s = study_of(trial(None, 1e-3), trial(None, 1e-2))
    figure = plot_study(s)
    assert legend(figure) == {"failed"}
    assert "none can be recommended" in figure.get_suptitle()
    assert [y for _, y in figure.axes[1].collections[-1].get_offsets().tolist()] == [0.02, 0.02]


def test_untrusted_pruned_and_unchecked_trials_have_looks_of_their_own() -> None:
    def f(t: optuna.Trial) -> float:
        value = objective(t)
        if t.number == 2:
            raise optuna.TrialPruned
        if t.number != 3:
            t.set_constraint("robust", math.inf if t.number == 1 else -0.1)
        return value

    s = optuna.create_study(sampler=RandomSampler(seed=0))
    s.optimize(f, n_trials=5)
    assert legend(plot_study(s)) >= {"pruned", "unchecked", "not trusted", "unsafe", "feasible"}


def test_names_have_no_meaning_of_their_own(tmp_path) -> None:  # type: ignore[no-untyped-def]
    def f(t: optuna.Trial) -> float:
        value = t.suggest_float("$x^$", 0, 1) + t.suggest_float("_<b>", 0, 1)
        t.set_constraint("_$a_b^$", value - 1)
        return value

    s = optuna.create_study(study_name="$\\frac$\x1b", sampler=RandomSampler(seed=0))
    s.optimize(f, n_trials=4)
    figure = plot_study(s)
    figure.savefig(tmp_path / "study.png")  # mathtext would raise here
    assert figure.axes[0].get_xlabel() == r"\$x^\$"
    assert "\x1b" not in figure.get_suptitle()


def test_an_empty_study_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="a trial that ended, but 'empty' has none"):
        plot_study(optuna.create_study(study_name="empty"))
    with pytest.raises(InvalidInputError, match=r"must be an optuna\.Study"):
        plot_study("study")  # type: ignore[arg-type]
