"""The picture of a training run."""

import numpy as np
import pytest

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.plot import plot_fairness, plot_run
from rlhf_tune.run.history import History
from rlhf_tune.safety import fairness_report

pytest.importorskip("matplotlib")


def history(**more: list[float]) -> History:
    return History(
        history={
            "loss": [1.0, 0.5, 0.4],
            "val_loss": [1.1, 0.6, 0.5],
            "learning_rate": [0.1, 0.1, 0.025],
            "move": ["stay", "stay", "cut"],
            "rolled_back": [0, 0, 2],
            **more,
        }
    )


def test_draws_what_there_is() -> None:
    figure = plot_run(history())
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "learning rate"]
    assert [line.get_label() for line in figure.axes[0].lines[:2]] == ["loss", "val_loss"]
    assert list(figure.axes[1].lines[0].get_ydata()) == [0.1, 0.1, 0.025]


def test_metrics_constraints_and_batch_size_have_places_of_their_own() -> None:
    more = {
        "accuracy": [0.1, 0.2, 0.3],
        "val_accuracy": [0.1, 0.2, 0.3],
        "robust_accuracy": [0.4, 0.5, 0.6],
        "batch_size": [32, 32, 64],
    }
    figure = plot_run(history(**more))
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels == ["loss", "metrics", "constraints", "learning rate", "batch size"]
    assert [line.get_label() for line in figure.axes[2].lines[:1]] == ["robust_accuracy"]


def test_weights_of_remedies_have_a_place_of_their_own() -> None:
    run = history(floor=[0.4, 0.5, 0.6], adversarial_weight=[0.25, 0.45, 0.4])
    run.knobs = ("adversarial_weight",)
    panels = {panel.get_ylabel(): panel for panel in plot_run(run).axes}
    assert panels["weights"].lines[0].get_label() == "adversarial_weight"
    assert panels["constraints"].lines[0].get_label() == "floor"


def test_rollbacks_are_marked() -> None:
    marked = [line for line in plot_run(history()).axes[0].lines if line.get_linestyle() == ":"]
    assert [list(line.get_xdata()) for line in marked] == [[2.5, 2.5]]


def test_what_is_asked_and_the_state_handed_back_are_marked() -> None:
    run = history(robust_accuracy=[0.4, 0.5, 0.6])
    run.bounds, run.returned = {"robust_accuracy": 0.45}, 1
    figure = plot_run(run)
    constraints = figure.axes[1]
    (asked,) = [line for line in constraints.lines if line.get_linestyle() == "--"]
    assert list(asked.get_ydata()) == [0.45, 0.45]
    assert asked.get_label() == "robust_accuracy: asked"
    for panel in figure.axes[:3]:
        assert [2.0, 2.0] in [list(line.get_xdata()) for line in panel.lines]
    assert "green: the state handed back" in figure.axes[2].get_xlabel()


def test_without_them_nothing_is_marked() -> None:
    figure = plot_run(history(robust_accuracy=[0.4, 0.5, 0.6]))
    assert "green" not in figure.axes[2].get_xlabel()
    assert not [line for line in figure.axes[1].lines if line.get_linestyle() == "--"]


def test_an_empty_history_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="at least one committed epoch"):
        plot_run(History())


def test_can_be_saved(tmp_path) -> None:  # type: ignore[no-untyped-def]
    plot_run(history()).savefig(tmp_path / "run.png")
    assert (tmp_path / "run.png").stat().st_size > 1000


def test_a_fairness_report_has_a_panel_a_metric_and_its_worst_level_stands_out() -> None:
    rng = np.random.default_rng(0)
    y, predicted = rng.integers(0, 2, (2, 400))
    groups = {"sex": rng.choice(["f", "m"], 400), "age": rng.choice(["old", "young"], 400)}
    figure = plot_fairness(fairness_report(y, predicted, groups))
    panels = figure.get_axes()
    assert [panel.get_xlabel() for panel in panels] == [
        "demographic parity",
        "equal opportunity",
        "equalized odds",
    ]
    assert [text.get_text() for text in panels[0].get_yticklabels()] == ["sex", "age", "sex x age"]
    colors = [line.get_color() for line in panels[0].get_lines() if line.get_marker() == "o"]
    assert sorted(colors) == ["crimson", "tab:blue", "tab:blue"]
