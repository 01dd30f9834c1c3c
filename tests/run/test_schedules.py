"""The policies of a training run, as pure functions of what it recorded."""

from dataclasses import replace

import numpy as np
import pytest

from rlhf_tune.run.schedules import (
    bold,
    constant,
    cut_and_decay,
    cut_and_grow,
    terminal_decay,
    warm_up,
)
from rlhf_tune.run.state import RunState, largest_batch
from rlhf_tune.run.stretch import Move, Stretch


def stretch(rate=0.1, verdict="committed", batch_size=32):
    now = {"learning_rate": rate, "batch_size": batch_size}
    return Stretch("stay", now, 10, 1.0, {"loss": 1.0}, verdict=verdict)


def rate_of(move):
    return move.hyperparameters["learning_rate"]


def state(record=(), progress=0.5, **values):
    return RunState(learning_rate=0.1, record=record, progress=progress, **values)


def test_the_decay_is_terminal_and_ends_at_zero():
    factors = [terminal_decay(p) for p in np.linspace(0, 1, 21)]
    assert factors[:13] == [1.0] * 13
    assert factors == sorted(factors, reverse=True)
    assert terminal_decay(0.8) == pytest.approx(0.5)
    assert factors[-1] == 0.0


def test_the_rate_warms_up_in_proportion_and_then_no_more():
    assert warm_up(0.125) == pytest.approx(0.5)
    assert [warm_up(p) for p in (0.25, 0.6, 1.0)] == [1.0] * 3
    early = cut_and_decay(state(progress=0.025))
    assert (early.name, rate_of(early)) == (
        "warm up",
        pytest.approx(0.1 / 10),
    )
    again = cut_and_decay(state([stretch(verdict="worse"), stretch()], progress=0.125))
    assert (again.name, rate_of(again)) == (
        "warm up",
        pytest.approx(0.1 / 4 / 2),
    )


def test_default_stays_cuts_after_each_rollback_and_decays():
    bad = stretch(verdict="worse")
    assert cut_and_decay(state()).name == "stay"
    assert rate_of(cut_and_decay(state())) == 0.1
    cut = cut_and_decay(state([stretch(), bad]))
    assert (cut.name, rate_of(cut)) == ("cut", 0.1 / 4)
    later = cut_and_decay(state([bad, bad, stretch()], progress=0.8))
    assert later.name == "decay"
    assert rate_of(later) == pytest.approx(0.1 / 16 / 2)


def test_bold_doubles_and_divides_what_it_tried_by_four():
    assert rate_of(bold(state())) == 0.1
    assert rate_of(bold(state([stretch(0.1)]))) == pytest.approx(0.2)
    raised = [stretch(0.1), stretch(0.2, "worse")]
    assert rate_of(bold(state(raised))) == pytest.approx(0.05)


def test_constant_stays_and_ends_after_a_rollback():
    assert constant(state([stretch()])) == Move("stay")
    assert constant(state([stretch(verdict="diverged")])) is None


def test_growing_takes_over_a_part_of_the_decay():
    start = state(progress=0.9, batch_size=32, now={"batch_size": 32}, batch_sizes=(1, 1024))
    move, factor = cut_and_grow(start), terminal_decay(0.9)
    assert (move.name, move.hyperparameters["batch_size"]) == ("grow batch", 128)
    assert rate_of(move) / move.hyperparameters["batch_size"] == pytest.approx(0.1 * factor / 32)
    within = replace(start, now={"batch_size": 64}, batch_sizes=(64, 64))
    assert "batch_size" not in cut_and_grow(within).hyperparameters
    assert rate_of(cut_and_grow(within)) == pytest.approx(0.1 * factor * 2)


def test_growing_without_a_batch_size_is_decay():
    assert cut_and_grow(state(progress=0.9)) == cut_and_decay(state(progress=0.9))


def test_a_batch_grows_no_further_than_some_steps_of_an_epoch():
    assert largest_batch(32, 100) == 32 * 12
    assert largest_batch(32, 3) == 32
