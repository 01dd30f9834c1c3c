"""A contract that any trainer must pass, as tests."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.run.history import Epoch, History
from rlhf_tune.run.policies import RunPolicy
from rlhf_tune.run.state import RunState
from rlhf_tune.run.stretch import Guard, Move
from rlhf_tune.run.trainer import Trainer
from rlhf_tune.run.trees import put_together, taken_apart
from rlhf_tune.testing.skipping import skip


@dataclass(frozen=True)
class Fitted:
    """What a call of `fit` left behind.

    Attributes:
        history: That it returned.
        steps: Optimizer steps, as the framework counts them.
        val_loss: Of the model, measured by hand.
    """

    history: History
    steps: int
    val_loss: float


class TrainerContract:
    """What every `Trainer` must do, as tests for pytest.

    Subclass it under a name that starts with Test, and say how to make a trainer:

        class TestMine(TrainerContract):
            def make(self):
                return MyTrainer(...)

            def state(self, trainer):
                return {"weights": ..., "moments": ..., "statistics": ...}

            def watched(self):
                trainer = MyTrainer(data_that_writes_down_who_was_asked_for)
                return trainer, read_and_forget

    An adapter's `fit` is tested too, where `fitted`, `scheduled` and `accumulating` say how.

    The model should have everything that is hard to replay: dropout, normalisation statistics, an
    optimizer with moments; and a number of samples that leaves a rest of two or more at each size.
    """

    owns_order: ClassVar[bool] = True
    """Whether the trainer decides which samples make the next batch; else replay is not asked."""
    batch_sizes: ClassVar[Sequence[int]] = (8, 16, 4)
    """Sizes to try; none if the batch size cannot be changed."""
    rates: ClassVar[Sequence[float]] = (1e-2, 2.5e-4)
    """Two allowed learning rates."""

    def make(self) -> Trainer[Any]:
        """A fresh trainer, equal to the last one made."""
        raise NotImplementedError

    def state(self, trainer: Trainer[Any]) -> Mapping[str, ArrayLike]:
        """Copies of all that training changes, by name."""
        raise NotImplementedError

    def watched(self) -> tuple[Trainer[Any], Callable[[], Sequence[int]]] | None:
        """A trainer, and a function that tells which samples were trained on since its last call.

        Samples are numbered from 0. None skips the test.
        """
        return None

    def fitted(self, steps: int, **driving: Any) -> Fitted | None:
        """Call `fit` on what is like `make`'s, with a budget of steps and these keywords.

        The validation loss must be the same number that the run saw. None skips the tests of `fit`.
        """
        return None

    def scheduled(self) -> Callable[[], object] | None:
        """Calls `fit` with a schedule of the framework's, which must be refused. None skips."""
        return None

    def accumulating(self) -> tuple[Trainer[Any], Callable[[], int], int] | None:
        """A trainer whose steps take several batches, a count of batches, and how many a step.

        None skips the test.
        """
        return None

    def test_training_takes_the_steps_asked_for_and_changes_the_model(self) -> None:
        trainer = self.make()
        before = self._copy(trainer)
        metrics = trainer.train(3)
        assert metrics["steps"] == 3
        assert math.isfinite(metrics["loss"])
        assert not _same(before, self._copy(trainer)), "three steps changed nothing"

    def test_equal_trainers_train_equally(self) -> None:
        first = self.make()
        metrics = dict(first.train(3))
        second = self.make()
        assert dict(second.train(3)) == metrics
        self._assert_same(self._copy(first), second)

    def test_evaluation_gives_a_validation_loss_and_changes_nothing(self) -> None:
        trainer = self.make()
        trainer.train(3)
        before = self._copy(trainer)
        metrics = trainer.evaluate()
        assert math.isfinite(metrics["val_loss"])
        assert dict(trainer.evaluate()) == dict(metrics), "a second evaluation differs"
        self._assert_same(before, trainer)

    def test_evaluation_leaves_the_next_steps_as_they_were(self) -> None:
        trainer = self.make()
        trainer.train(2)
        trainer.train(3)
        plain = self._copy(trainer)
        trainer = self.make()
        trainer.train(2)
        trainer.evaluate()
        trainer.train(3)
        self._assert_same(plain, trainer)

    def test_a_value_set_is_read_back(self) -> None:
        trainer = self.make()
        for name, values in self._settable().items():
            for value in values:
                trainer.set(**{name: value})
                assert math.isclose(trainer.hyperparameters[name], value, rel_tol=1e-6)
                trainer.train(1)
                assert math.isclose(trainer.hyperparameters[name], value, rel_tol=1e-6)

    def test_the_learning_rate_takes_effect(self) -> None:
        trainer = self.make()
        start = trainer.snapshot()
        ends = []
        for rate in self.rates:
            trainer.restore(start)
            trainer.set(learning_rate=rate)
            trainer.train(2)
            ends.append(self._copy(trainer))
        assert not _same(*ends), "two learning rates gave the same steps"

    def test_what_is_not_allowed_is_refused_and_changes_nothing(self) -> None:
        trainer = self.make()
        before = dict(trainer.hyperparameters)
        bad: list[dict[str, float]] = [{"nonsense": 1.0}, {"learning_rate": math.nan}]
        bad += [{"learning_rate": -1.0}, {"learning_rate": math.inf}]
        bad += [{"batch_size": size} for size in (0, -1, 2.5)]
        bad += [{"learning_rate": before["learning_rate"] / 2, "nonsense": 1.0}]
        for values in bad:
            try:
                trainer.set(**values)
            except InvalidInputError:
                assert dict(trainer.hyperparameters) == before, f"{values} was half taken"
            else:
                raise AssertionError(f"set must refuse {values} with InvalidInputError")

    def test_a_snapshot_brings_everything_back_as_often_as_asked(self) -> None:
        trainer = self.make()
        trainer.train(2)
        then, kept = self._copy(trainer), trainer.snapshot()
        values = dict(trainer.hyperparameters)
        for _ in range(2):
            self._set_others(trainer)
            trainer.train(3)
            trainer.restore(kept)
            self._assert_same(then, trainer)
            assert dict(trainer.hyperparameters) == values

    def test_snapshots_are_independent(self) -> None:
        trainer = self.make()
        first, early = trainer.snapshot(), self._copy(trainer)
        trainer.train(2)
        second, late = trainer.snapshot(), self._copy(trainer)
        trainer.train(1)
        trainer.restore(first)
        self._assert_same(early, trainer)
        trainer.restore(second)
        self._assert_same(late, trainer)

    def test_the_memory_of_a_snapshot_can_be_used_again(self) -> None:
        trainer = self.make()
        kept = trainer.snapshot()
        trainer.train(2)
        then, kept = self._copy(trainer), trainer.snapshot(into=kept)
        trainer.train(2)
        trainer.restore(kept)
        self._assert_same(then, trainer)

    def test_after_restore_then_set_the_value_set_is_in_effect(self) -> None:
        trainer = self.make()
        kept = trainer.snapshot()
        for name, values in self._settable().items():
            for value in values:
                trainer.train(1)
                trainer.restore(kept)
                trainer.set(**{name: value})
                assert math.isclose(trainer.hyperparameters[name], value, rel_tol=1e-6)
                trainer.train(1)
                assert math.isclose(trainer.hyperparameters[name], value, rel_tol=1e-6)

    def test_a_diverged_stretch_does_not_raise_and_can_be_undone(self) -> None:
        trainer = self.make()
        trainer.train(2)
        then, kept = self._copy(trainer), trainer.snapshot()
        trainer.set(learning_rate=1e30)
        metrics = trainer.train(20)
        assert metrics["steps"] == 20 or not math.isfinite(metrics["loss"])
        trainer.evaluate()
        trainer.restore(kept)
        self._assert_same(then, trainer)

    def test_a_restored_run_replays_bit_for_bit(self) -> None:
        if not self.owns_order:
            skip("the order of the data is not the trainer's")
        trainer = self.make()
        for size in self.batch_sizes or (None,):
            if size is not None:
                trainer.set(batch_size=size)
            trainer.train(2)
            kept = trainer.snapshot()
            steps = trainer.steps_per_epoch + 1  # across the end of an epoch
            first, end = dict(trainer.train(steps)), self._copy(trainer)
            trainer.evaluate()
            trainer.restore(kept)
            assert dict(trainer.train(steps)) == first
            self._assert_same(end, trainer)

    def test_a_snapshot_goes_on_in_another_trainer_bit_for_bit(self) -> None:
        trainer = self.make()
        if not hasattr(trainer, "saved"):
            skip("the trainer's snapshots cannot be written")
        trainer.train(trainer.steps_per_epoch + 1)
        document, arrays = taken_apart(trainer.saved(trainer.snapshot()))
        text = json.dumps(document)
        trainer.train(2)
        other = self.make()
        assert other.identity == trainer.identity  # type: ignore[attr-defined]
        kept = other.loaded(put_together(json.loads(text), arrays))  # type: ignore[attr-defined]
        for _ in range(2):
            other.restore(kept)
            if self.owns_order:
                other.train(2)
                self._assert_same(self._copy(trainer), other)

    def test_every_sample_is_seen_once_per_epoch_at_every_batch_size(self) -> None:
        watched = self.watched()
        if watched is None:
            skip("no samples are watched")
        trainer, seen = watched
        orders = []
        for size in self.batch_sizes or (None,):
            if size is not None:
                trainer.set(batch_size=size)
            seen()
            trainer.train(trainer.steps_per_epoch)
            orders.append(list(seen()))
            assert sorted(orders[-1]) == list(range(len(orders[-1]))), f"at batch size {size}"
        assert len({len(order) for order in orders}) == 1, "samples were lost at a batch size"

    def test_a_batch_size_changed_in_mid_epoch_loses_no_sample(self) -> None:
        watched = self.watched()
        if watched is None or len(self.batch_sizes) < 2:
            skip("no samples are watched, or the batch size cannot be changed")
        trainer, seen = watched
        large, small = sorted(self.batch_sizes)[-2:][::-1]
        trainer.set(batch_size=large)
        trainer.train(1)
        trainer.set(batch_size=small)
        samples = list(seen())
        total = None
        while total is None:  # until the first sample of the next epoch
            trainer.train(1)
            samples += seen()
            if len(set(samples)) < len(samples):
                total = len(set(samples))
        assert sorted(samples[:total]) == list(range(total))

    def test_a_step_takes_all_batches_whose_gradients_it_accumulates(self) -> None:
        made = self.accumulating()
        if made is None:
            skip("nothing is accumulated")
        trainer, batches, each = made
        assert trainer.train(2)["steps"] == 2
        assert batches() == 2 * each

    def test_a_schedule_of_the_frameworks_is_refused(self) -> None:
        fit = self.scheduled()
        if fit is None:
            skip("the framework has no schedules")
        error = _raised(fit, InvalidInputError)
        assert error, "two owners of the rate must be refused"
        assert "must have one owner" in str(error)

    def test_the_loop_ends_within_a_step_of_the_budget(self) -> None:
        for steps in (1, 11):
            fitted = self._fitted(steps, policy="constant")
            assert steps <= fitted.steps <= steps + 1

    def test_the_model_after_the_end_is_the_verified_one(self) -> None:
        fitted = self._fitted(12, policy=RunPolicy(self._ruin, Guard(0.0, 0.0)))
        assert fitted.history.discarded, "the last stretches must have been for nothing"
        assert fitted.val_loss == fitted.history.history["val_loss"][-1]
        assert 12 <= fitted.steps <= 13, "the framework counts discarded steps too"

    def test_an_interrupted_run_ends_at_its_best_state(self) -> None:
        def interrupt(_: Epoch) -> None:
            raise KeyboardInterrupt

        fitted = self._fitted(40, policy=self._sound, on_epoch=interrupt)
        assert fitted.history.interrupted
        assert fitted.val_loss <= min(fitted.history.history["val_loss"])
        assert fitted.steps < 40

    def test_what_is_raised_by_a_listener_comes_out_and_nothing_is_left_running(self) -> None:
        def fail(_: Epoch) -> None:
            raise LookupError("told")

        before = threading.active_count()
        error = _raised(lambda: self._fitted(40, policy=self._sound, on_epoch=fail), LookupError)
        assert error, "an exception of on_epoch must come out of fit"
        assert error.history.epoch == [0]  # type: ignore[attr-defined]
        assert threading.active_count() == before

    @property
    def _sound(self) -> RunPolicy:
        """Commits what is better than all before."""
        move = Move("sound", {"learning_rate": self.rates[0]})
        return RunPolicy(lambda _: move, Guard(0.0, 0.0))

    def _ruin(self, state: RunState) -> Move:
        """A sound rate as long as nothing is committed, then one that spoils everything."""
        sound = not any(stretch.committed for stretch in state.record)
        return Move(
            "sound" if sound else "ruin", {"learning_rate": self.rates[0] if sound else 1e3}
        )

    def _fitted(self, steps: int, **driving: Any) -> Fitted:
        fitted = self.fitted(steps, **driving)
        if fitted is None:
            skip("there is no fit to test")
        return fitted

    def _copy(self, trainer: Trainer[Any]) -> dict[str, Any]:
        return {name: np.array(value) for name, value in self.state(trainer).items()}

    def _assert_same(self, before: Mapping[str, Any], trainer: Trainer[Any]) -> None:
        now = self._copy(trainer)
        assert before.keys() == now.keys(), f"{before.keys() ^ now.keys()} came or went"
        for name, value in before.items():
            np.testing.assert_array_equal(now[name], value, err_msg=name)

    def _settable(self) -> dict[str, Sequence[float]]:
        sizes = {"batch_size": self.batch_sizes} if self.batch_sizes else {}
        return {"learning_rate": self.rates, **sizes}

    def _set_others(self, trainer: Trainer[Any]) -> None:
        for name, values in self._settable().items():
            now = trainer.hyperparameters[name]
            other = next(v for v in values if not math.isclose(v, now, rel_tol=1e-6))
            trainer.set(**{name: other})


def _raised(call: Callable[[], object], kind: type[Exception]) -> Exception | None:
    try:
        call()
    except kind as error:
        return error
    return None


def _same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return all(np.array_equal(a[name], b[name], equal_nan=True) for name in a)
