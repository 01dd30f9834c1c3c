"""What a run tells: its history as a table, the state handed back, and how far its bounds are."""

import io
import logging
from collections.abc import Sequence

import pytest
from rich.console import Console

from rlhf_tune.errors import CannotCertify
from rlhf_tune.run.display import display
from rlhf_tune.run.driver import Run
from rlhf_tune.run.history import History
from rlhf_tune.run.stretch import Move, Stretch
from rlhf_tune.safety import Measurement, constraint
from rlhf_tune.safety.intervals import proportion_interval
from rlhf_tune.safety.measurement import Measure, measured
from rlhf_tune.safety.shortfall import nearest, remedies, told
from rlhf_tune.testing import ScriptedTrainer

RATE = {"learning_rate": 0.1}


def floor(value: float, bound: float, n: int = 100, name: str = "robust") -> Measurement:
    interval = proportion_interval(round(value * n), n, 0.95)
    return measured(name, value, bound, interval, n, kind="floor")


def driven(*constraints: object, epochs: int = 8) -> History:
    run = Run(ScriptedTrainer(), epochs=epochs, policy="constant", constraints=constraints)
    return run.drive(lambda epoch: None)


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno == logging.WARNING]


def test_a_quarter_into_the_budget_it_says_how_far_the_floor_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    late = constraint("steps", lambda model: model.steps, at_least=70)
    driven(late)
    (said,) = warned(caplog)
    assert said.startswith(
        "after 2 epochs no state of the run keeps its bounds; nearest was steps = 20 for a floor "
        "of 70; the run goes on"
    )
    assert "lower the floor of steps to 20 or below, or train longer" in said


def test_a_run_that_keeps_its_bounds_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    driven(constraint("steps", lambda model: model.steps, at_least=0))
    driven()
    assert warned(caplog) == []


def test_the_state_handed_back_is_known() -> None:
    history = driven(constraint("steps", lambda model: model.steps, at_least=0))
    assert history.returned == len(history.epoch) - 1 == 7
    assert history.spent == [1, 2, 3, 4, 5, 6, 7, 8]
    assert history.bounds == {"steps": 0}
    with pytest.raises(CannotCertify) as caught:
        driven(constraint("steps", lambda model: model.steps, at_least=1000))
    assert caught.value.history.bounds == {"steps": 1000}
    assert caught.value.history.returned is not None


@pytest.mark.parametrize(("spent", "number"), [(1.0, 0), (1.5, 1), (3.5, 2), (4.0, None)])
def test_a_state_belongs_to_the_epoch_in_which_it_was_committed(
    spent: float, number: int | None
) -> None:
    history = History(spent=[1.0, 2.0, 3.5])
    history.mark(Stretch.trained(Move("stay"), {"loss": 1.0, "steps": 1}, RATE, spent))
    assert history.returned == number
    history.mark(None)
    assert history.returned is None


def test_a_history_prints_as_a_table() -> None:
    history = driven(constraint("steps", lambda model: model.steps, at_least=0))
    lines = str(history).splitlines()
    assert lines[0].split()[0] == "epoch"
    assert {"val_loss", "learning_rate", "steps"} <= set(lines[0].split())
    assert lines[1].split()[0] == "1"
    assert "the model handed back is that of epoch 8" in lines
    assert "certified: steps = 80 for a floor of 0" in lines
    assert "<table>" in history._repr_html_()
    pytest.importorskip("pandas")
    assert history.to_dataframe()["steps"].tolist() == history.history["steps"]
    assert "History" in repr(history)


def test_an_empty_history_prints_too() -> None:
    assert str(History()) == ""
    assert History()._repr_html_().startswith("<div>")


def test_a_measurement_prints_as_a_row() -> None:
    one = floor(0.62, 0.6)
    head, row = str(one).splitlines()
    assert head.split() == [
        "measure",
        "value",
        "asked",
        "one-sided",
        "bound",
        "n",
        "cost",
        "verdict",
    ]
    assert row.split()[:5] == ["robust", "0.62", ">=", "0.6", f"{one.interval[0]:.4g}"]
    assert row.endswith("missed")
    assert str(floor(0.9, 0.6)).endswith("kept")
    doubted = measured("<x>", 0.9, 0.6, (0.8, 1.0), 9, kind="ceiling", reasons=["it is odd"])
    assert str(doubted).splitlines()[-1] == "<x>: it is odd"
    assert "not trusted" in str(doubted)
    assert "&lt;x&gt;" in doubted._repr_html_()


def test_what_is_missing_is_quoted_with_its_samples() -> None:
    assert told(floor(0.62, 0.6)) == (
        f"robust = 0.62 for a floor of 0.6 (one-sided lower bound "
        f"{floor(0.62, 0.6).interval[0]:.4g} of n = 100, missed by "
        f"{floor(0.62, 0.6).missed:.2g})"
    )


def test_the_nearest_of_each_constraint() -> None:
    runs = [{"a": floor(0.2, 0.6, name="a")}, {"a": floor(0.5, 0.6, name="a")}, {}]
    assert [m.value for m in nearest(runs)] == [0.5]


def test_remedies_would_have_helped() -> None:
    """The advised floor is kept by the same measurement, and the advised n certifies."""
    short = floor(0.62, 0.6)
    lower, longer, more = remedies([short])
    assert lower.startswith("lower the floor of robust to 0.")
    advised = float(lower.split()[6])
    assert floor(0.62, advised).satisfied
    assert not floor(0.62, advised + 0.002).satisfied
    assert longer == "train longer"
    n = int(more.split()[5])
    assert floor(0.62, 0.6, n=round(n * 1.05 / 50) * 50).satisfied
    assert not floor(0.62, 0.6, n=round(n * 0.8 / 50) * 50).satisfied


def test_more_samples_are_counted_only_where_they_would_do() -> None:
    below = floor(0.5, 0.6)
    assert remedies([below])[-1] == "measure on more samples"
    assert "would do" not in remedies([below, floor(0.62, 0.6, name="b")])[-1]


def test_a_ceiling_is_raised_and_an_exact_measure_needs_no_samples() -> None:
    exact = measured("size", 12.34567, 10.0, (12.34567, 12.34567), 1, kind="ceiling")
    assert remedies([exact]) == ["raise the ceiling of size to 12.4 or above", "train longer"]
    unknown = measured("size", float("nan"), 10.0, (0.0, float("inf")), 1, kind="ceiling")
    assert remedies([unknown])[0] == "ask less of size"


@pytest.mark.parametrize("constraints", [(), (constraint("steps", lambda m: m.steps, at_least=0),)])
def test_the_bar_says_when_training_is_over_and_certifying_begins(
    constraints: Sequence[Measure],
) -> None:
    console, seen = Console(file=io.StringIO(), force_terminal=True, width=100), []
    with display(4, "val_loss", console) as shown:

        def told(stretch: Stretch) -> None:
            shown.stretch(stretch)
            seen.append(shown._bars.tasks[0].description)

        run = Run(
            ScriptedTrainer(), epochs=4, policy="constant", constraints=constraints, on_stretch=told
        )
        run.drive(shown.epoch)
    assert set(seen[:-1]) == {"training"}
    assert seen[-1] == ("certifying" if constraints else "training")
