"""Which rates a range test tries, from scratch and in fine-tuning."""

import math

import numpy as np
import pytest

from rlhf_tune.run.driver import Run
from rlhf_tune.run.range_test import fine_tuning, from_scratch, is_trained
from rlhf_tune.testing import ScriptedTrainer

DOWN = 10**-0.5


def played(search, *losses):
    """The rates tried, and the one found; None if the search would go on."""
    tried = [next(search)]
    for loss in losses:
        try:
            tried.append(search.send(loss))
        except StopIteration as found:
            return tried, found.value
    return tried, None


@pytest.mark.parametrize(("loss", "start"), [(0.9, 1.0), (1.19, 1.0), (-0.81, -1.0)])
def test_from_scratch_the_first_that_is_not_clearly_worse_is_taken(loss, start):
    tried, found = played(from_scratch(0.01, start), loss)
    assert tried == [found] == pytest.approx([0.01 * 10**1.25])


@pytest.mark.parametrize(("loss", "start"), [(1.21, 1.0), (-0.79, -1.0), (math.inf, 1.0)])
def test_from_scratch_it_goes_down_while_things_are_clearly_worse(loss, start):
    tried, found = played(from_scratch(1.0, start), loss, math.nan)
    assert tried == pytest.approx([10**1.25, 10**0.75, 10**0.25])
    assert found is None


@pytest.mark.parametrize(("size", "factor"), [(2, 0.25), (8, 0.5), (32, 1), (256, 1), (None, 1)])
def test_from_scratch_small_batches_begin_lower(size, factor):
    assert next(from_scratch(1.0, 1.0, size)) == pytest.approx(factor * 10**1.25)


def test_fine_tuning_begins_with_the_given_rate_and_takes_the_first_harmless_one():
    tried, found = played(fine_tuning(1e-5, 1e-3, start=0.5), 0.45, 0.51, 0.49)
    assert tried == pytest.approx([1e-5, 1e-3 / DOWN, 1e-3])
    assert found == tried[-1]


def test_fine_tuning_goes_on_down_while_the_given_rate_is_much_better():
    tried, found = played(fine_tuning(1e-4, 1e-3, start=0.5), 0.2, 0.45, 0.29)
    assert found == tried[-1] == pytest.approx(1e-3)


def test_fine_tuning_probes_nothing_within_half_a_decade_of_a_harmless_given_rate():
    single = float(np.float32(0.01))  # a bit below .01
    for given, usual in [(1e-3, 1e-3), (single, 0.01), (2e-3, 1e-3)]:
        tried, found = played(fine_tuning(given, usual, start=0.5), 0.4)
        assert tried == [given]
        assert found == pytest.approx(usual / DOWN)


def test_fine_tuning_goes_half_a_decade_below_what_is_harmful():
    tried, found = played(fine_tuning(9e-4, 1e-3, start=0.5), 0.4, 0.9)
    assert tried == pytest.approx([9e-4, 1e-3 / DOWN])
    assert found == pytest.approx(1e-3)
    tried, found = played(fine_tuning(1e-4, 1e-3, start=0.5), 0.4, 0.9, 0.9)
    assert found == pytest.approx(1e-3 * DOWN)


def test_fine_tuning_ends_at_the_given_rate_where_less_than_it_is_next():
    tried, found = played(fine_tuning(1.5e-3, 1e-3, start=0.5), 0.4)
    assert found == pytest.approx(1e-3 / DOWN)
    tried, found = played(fine_tuning(4e-3, 1e-3, start=0.5), 0.4)
    assert (tried, found) == ([4e-3], 4e-3)


def test_fine_tuning_takes_a_large_given_rate_that_is_harmless():
    assert played(fine_tuning(1.0, 1e-3, start=0.5), 0.5) == ([1.0], 1.0)


def test_fine_tuning_goes_below_a_given_rate_that_is_harmful():
    tried, found = played(fine_tuning(1.0, 1e-3, start=0.5), math.inf, 0.6, 0.5)
    assert tried == pytest.approx([1.0, DOWN, DOWN**2])
    assert found == tried[-1]


class Taught(ScriptedTrainer):
    """Says of itself that it was trained before."""

    def knowledge(self):
        return 0.4


def test_a_run_knows_fine_tuning_by_its_trainer():
    trainer = Taught(learning_rate=1e-4, samples=3200)
    run = Run(trainer, epochs=10, usual_rate=1e-3)
    history = run.drive(lambda epoch: None)
    assert history.range_test[0].learning_rate == 1e-4
    assert all(probe.learning_rate <= 1e-3 / DOWN + 1e-9 for probe in history.range_test)


def test_a_run_of_fine_tuning_too_short_for_probes_keeps_the_given_rate():
    run = Run(Taught(learning_rate=1e-4), epochs=1, usual_rate=1e-3)
    assert run.drive(lambda epoch: None).range_test == []
    assert max(s.learning_rate for s in run.guarded.record) == pytest.approx(1e-4)


@pytest.mark.parametrize(("knowledge", "trained"), [(0.4, True), (0.95, False), (math.nan, False)])
def test_what_is_not_known_counts_as_from_scratch(knowledge, trained):
    assert is_trained(knowledge) == trained
