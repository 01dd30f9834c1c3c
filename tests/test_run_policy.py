"""The policies of a training run, as pure functions of what it recorded."""

import math
from dataclasses import replace

import numpy as np
import pytest

from rlhf_tune.envs.guarded import Stretch, largest_batch
from rlhf_tune.policy import run as policies
from rlhf_tune.policy.run import Probe, Situation


def stretch(rate=0.1, verdict="committed", batch_size=32):
    return Stretch("stay", rate, batch_size, 10, 1.0, {"loss": 1.0}, verdict=verdict)


def situation(record=(), progress=0.1, **values):
    return Situation(learning_rate=0.1, record=record, progress=progress, **values)


def test_the_decay_is_terminal_and_ends_at_zero():
    factors = [policies.terminal_decay(p) for p in np.linspace(0, 1, 21)]
    assert factors[:13] == [1.0] * 13
    assert factors == sorted(factors, reverse=True)
    assert policies.terminal_decay(0.8) == pytest.approx(0.5)
    assert factors[-1] == 0.0


def test_default_stays_cuts_after_each_rollback_and_decays():
    bad = stretch(verdict="worse")
    assert policies.cut_and_decay(situation()).name == "stay"
    assert policies.cut_and_decay(situation()).learning_rate == 0.1
    cut = policies.cut_and_decay(situation([stretch(), bad]))
    assert (cut.name, cut.learning_rate) == ("cut", 0.1 / 4)
    later = policies.cut_and_decay(situation([bad, bad, stretch()], progress=0.8))
    assert later.name == "decay"
    assert later.learning_rate == pytest.approx(0.1 / 16 / 2)


def test_bold_doubles_and_divides_what_it_tried_by_four():
    assert policies.bold(situation()).learning_rate == 0.1
    assert policies.bold(situation([stretch(0.1)])).learning_rate == pytest.approx(0.2)
    raised = [stretch(0.1), stretch(0.2, "worse")]
    assert policies.bold(situation(raised)).learning_rate == pytest.approx(0.05)


def test_constant_stays_and_ends_after_a_rollback():
    assert policies.constant(situation([stretch()])) == policies.Move("stay")
    assert policies.constant(situation([stretch(verdict="diverged")])) is None


def test_growing_takes_over_a_part_of_the_decay():
    start = situation(progress=0.9, batch_size=32, batch_size_now=32, batch_size_limit=1024)
    move, factor = policies.cut_and_grow(start), policies.terminal_decay(0.9)
    assert (move.name, move.batch_size) == ("grow batch", 128)
    assert move.learning_rate / move.batch_size == pytest.approx(0.1 * factor / 32)
    within = replace(start, batch_size_now=64, batch_size_limit=64)
    assert policies.cut_and_grow(within).batch_size is None
    assert policies.cut_and_grow(within).learning_rate == pytest.approx(0.1 * factor * 2)


def test_growing_without_a_batch_size_is_decay():
    assert policies.cut_and_grow(situation(progress=0.9)) == policies.cut_and_decay(
        situation(progress=0.9)
    )


def test_a_batch_grows_no_further_than_some_steps_of_an_epoch():
    assert largest_batch(32, 100) == 32 * 12
    assert largest_batch(32, 3) == 32


def probes(*losses):
    return [Probe(0.1 / 10**i, loss) for i, loss in enumerate(losses)]


def test_a_range_test_tries_ten_times_the_usual_rate_and_the_usual_one():
    assert policies.next_probe([], usual=0.01, start=1.0) == pytest.approx(0.1)
    assert policies.next_probe(probes(0.9), usual=0.01, start=1.0) == pytest.approx(0.01)
    assert policies.next_probe(probes(0.9, 0.8), usual=0.01, start=1.0) is None


def test_it_goes_on_to_smaller_rates_while_all_make_things_worse():
    assert policies.next_probe(probes(9.0, 3.0), 0.01, start=1.0) == pytest.approx(0.001)
    assert policies.next_probe(probes(math.inf, math.nan), 0.01, start=1.0) == pytest.approx(0.001)
    assert policies.next_probe(probes(9.0, 3.0, 1.1), 0.01, start=1.0) is None
    assert policies.next_probe(probes(9.0, 8.0, 7.0, 6.0, 5.0), 0.01, start=1.0) is None


def test_it_takes_the_largest_rate_that_is_not_clearly_worse():
    assert policies.rate_from_probes(probes(0.9, 0.8), usual=0.01) == pytest.approx(0.1)
    assert policies.rate_from_probes(probes(1.1, 0.8), usual=0.01) == pytest.approx(0.01)
    assert policies.rate_from_probes(probes(math.nan, 0.8), usual=0.01) == pytest.approx(0.01)
    assert policies.rate_from_probes(probes(-0.75, -0.8), usual=0.01) == pytest.approx(0.1)
    assert policies.rate_from_probes(probes(-0.5, -0.8), usual=0.01) == pytest.approx(0.01)


def test_it_has_an_answer_where_nothing_can_be_seen():
    assert policies.rate_from_probes([], usual=0.01) == 0.01
    assert policies.rate_from_probes(probes(math.inf, math.nan), usual=0.01) == pytest.approx(0.01)
