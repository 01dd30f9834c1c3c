"""The policies of a training run, as pure functions of what it recorded."""

import math
from dataclasses import replace

import numpy as np
import pytest

from rlhf_tune.run.guarded import largest_batch
from rlhf_tune.run.schedules import (
    bold,
    constant,
    cut_and_decay,
    cut_and_grow,
    next_probe,
    terminal_decay,
    warm_up,
)
from rlhf_tune.run.state import Probe, Situation
from rlhf_tune.run.stretch import Move, Stretch


def stretch(rate=0.1, verdict="committed", batch_size=32):
    return Stretch("stay", rate, batch_size, 10, 1.0, {"loss": 1.0}, verdict=verdict)


def situation(record=(), progress=0.5, **values):
    return Situation(learning_rate=0.1, record=record, progress=progress, **values)


def test_the_decay_is_terminal_and_ends_at_zero():
    factors = [terminal_decay(p) for p in np.linspace(0, 1, 21)]
    assert factors[:13] == [1.0] * 13
    assert factors == sorted(factors, reverse=True)
    assert terminal_decay(0.8) == pytest.approx(0.5)
    assert factors[-1] == 0.0


def test_the_rate_warms_up_in_proportion_and_then_no_more():
    assert warm_up(0.125) == pytest.approx(0.5)
    assert [warm_up(p) for p in (0.25, 0.6, 1.0)] == [1.0] * 3
    early = cut_and_decay(situation(progress=0.025))
    assert (early.name, early.learning_rate) == ("warm up", pytest.approx(0.1 / 10))
    again = cut_and_decay(situation([stretch(verdict="worse"), stretch()], progress=0.125))
    assert (again.name, again.learning_rate) == ("warm up", pytest.approx(0.1 / 4 / 2))


def test_default_stays_cuts_after_each_rollback_and_decays():
    bad = stretch(verdict="worse")
    assert cut_and_decay(situation()).name == "stay"
    assert cut_and_decay(situation()).learning_rate == 0.1
    cut = cut_and_decay(situation([stretch(), bad]))
    assert (cut.name, cut.learning_rate) == ("cut", 0.1 / 4)
    later = cut_and_decay(situation([bad, bad, stretch()], progress=0.8))
    assert later.name == "decay"
    assert later.learning_rate == pytest.approx(0.1 / 16 / 2)


def test_bold_doubles_and_divides_what_it_tried_by_four():
    assert bold(situation()).learning_rate == 0.1
    assert bold(situation([stretch(0.1)])).learning_rate == pytest.approx(0.2)
    raised = [stretch(0.1), stretch(0.2, "worse")]
    assert bold(situation(raised)).learning_rate == pytest.approx(0.05)


def test_constant_stays_and_ends_after_a_rollback():
    assert constant(situation([stretch()])) == Move("stay")
    assert constant(situation([stretch(verdict="diverged")])) is None


def test_growing_takes_over_a_part_of_the_decay():
    start = situation(progress=0.9, batch_size=32, batch_size_now=32, batch_size_limit=1024)
    move, factor = cut_and_grow(start), terminal_decay(0.9)
    assert (move.name, move.batch_size) == ("grow batch", 128)
    assert move.learning_rate / move.batch_size == pytest.approx(0.1 * factor / 32)
    within = replace(start, batch_size_now=64, batch_size_limit=64)
    assert cut_and_grow(within).batch_size is None
    assert cut_and_grow(within).learning_rate == pytest.approx(0.1 * factor * 2)


def test_growing_without_a_batch_size_is_decay():
    assert cut_and_grow(situation(progress=0.9)) == cut_and_decay(situation(progress=0.9))


def test_a_batch_grows_no_further_than_some_steps_of_an_epoch():
    assert largest_batch(32, 100) == 32 * 12
    assert largest_batch(32, 3) == 32


def probes(*losses):
    return [Probe(1.0 / 10 ** (i / 2), loss) for i, loss in enumerate(losses)]


def test_a_range_test_begins_far_above_the_usual_rate_and_takes_what_is_bearable():
    assert next_probe([], usual=0.01, start=1.0) == pytest.approx(0.01 * 10**1.25)
    assert next_probe(probes(0.9), usual=0.01, start=1.0) is None
    assert next_probe(probes(1.19), usual=0.01, start=1.0) is None
    assert next_probe(probes(-0.81), usual=0.01, start=-1.0) is None


def test_it_goes_on_to_smaller_rates_while_they_make_things_clearly_worse():
    assert next_probe(probes(1.21), 0.01, start=1.0) == pytest.approx(10**-0.5)
    assert next_probe(probes(-0.79), 0.01, start=-1.0) == pytest.approx(10**-0.5)
    assert next_probe(probes(math.inf, math.nan), 0.01, start=1.0) == pytest.approx(0.1)
    assert next_probe(probes(9.0, 3.0, 1.1), 0.01, start=1.0) is None
