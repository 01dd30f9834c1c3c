"""A loop that somebody else owns hands over after each step, and exactly one side is awake."""

import contextvars
import os
import signal
import threading
import time

import numpy as np
import pytest

from rlhf_tune.run.loops import Handover

HERE = contextvars.ContextVar("here")


def loop(handover, drive, steps=100):
    """Takes steps as a framework does; returns how many."""
    taken = 0
    with handover.watching():
        goes_on = handover.begin(drive)
        while goes_on and taken < steps:
            taken += 1
            goes_on = handover.stepped(float(taken))
    return taken


def test_the_driver_reads_as_if_it_called_the_loop():
    handover = Handover()

    def drive():
        return [handover.step() for _ in range(3)]

    assert loop(handover, drive) == 3
    assert handover.result == [1.0, 2.0, 3.0]


def test_a_driver_that_wants_no_step_ends_the_loop_before_the_first():
    handover = Handover()
    assert loop(handover, lambda: "nothing") == 0
    assert handover.result == "nothing"


def test_exactly_one_side_is_awake_and_no_thread_is_left():
    handover, awake, before = Handover(), [], threading.active_count()

    def both(side):
        awake.append(side)
        time.sleep(0.001)
        assert awake.pop() == side
        assert not awake

    def drive():
        for _ in range(20):
            handover.step()
            both("driver")

    with handover.watching():
        goes_on = handover.begin(drive)
        while goes_on:
            both("loop")
            goes_on = handover.stepped(0.0)
    assert threading.active_count() == before


def test_what_is_called_runs_where_the_loop_is():
    handover = Handover()

    def drive():
        there, value = handover.call(lambda: (threading.get_ident(), 7))
        with pytest.raises(LookupError, match="there"):
            handover.call(lambda: {}["there"])
        assert threading.get_ident() != there
        handover.step()
        return there, value

    loop(handover, drive)
    assert handover.result == (threading.get_ident(), 7)


def test_context_and_random_streams_are_the_callers():
    handover = Handover()
    HERE.set("the caller's")

    def drive():
        handover.step()
        return HERE.get(), np.geterr()["over"], np.random.random()  # noqa: NPY002

    np.random.seed(3)  # noqa: NPY002
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    with np.errstate(over="raise"):
        loop(handover, drive)
    assert handover.result == ("the caller's", "raise", expected)


def test_an_exception_of_the_driver_comes_out_of_the_loop():
    handover, before = Handover(), threading.active_count()

    def drive():
        handover.step()
        raise LookupError("driver")

    with pytest.raises(LookupError, match="driver"):
        loop(handover, drive)
    assert threading.active_count() == before


def test_an_exception_of_the_loop_is_raised_in_the_driver_which_may_still_call():
    handover, before, cleaned = Handover(), threading.active_count(), []

    def drive():
        try:
            while True:
                handover.step()
        finally:
            handover.call(lambda: cleaned.append(threading.current_thread()))

    def fail():
        with handover.watching():
            handover.begin(drive)
            handover.stepped(1.0)
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert cleaned == [threading.current_thread()]
    assert threading.active_count() == before


@pytest.mark.parametrize("ended", ["by itself", "by Ctrl-C"])
def test_a_loop_that_ends_early_ends_the_driver_as_ctrl_c_does(ended):
    handover = Handover()

    def drive():
        taken = 0
        try:
            while True:
                handover.step()
                taken += 1
        except KeyboardInterrupt:
            return taken

    with handover.watching():
        handover.begin(drive)
        handover.stepped(1.0)
        if ended == "by Ctrl-C":
            raise KeyboardInterrupt
    assert handover.result == 1
    assert not handover.stepped(1.0)  # it is over


def test_ctrl_c_while_the_driver_is_awake_is_told_at_its_next_step(heard):
    handover = Handover()

    def drive():
        handover.step()
        os.kill(os.getpid(), signal.SIGINT)  # falls on the main thread, which waits
        time.sleep(0.05)
        try:
            handover.step()
        except KeyboardInterrupt:
            return "interrupted"

    assert loop(handover, drive) == 1
    assert handover.result == "interrupted"
