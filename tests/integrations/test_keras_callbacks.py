"""What callbacks hear of `fit` for Keras, and which are refused."""

import csv
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras_runs import VALIDATION, assert_at_best, assert_equal, eager, fit, kept, listener, plain

from rlhf_tune.errors import InvalidInputError

pytest.importorskip("keras")
pytestmark = pytest.mark.keras
keras_and_numpy_2 = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")


def test_early_stopping_stops_and_user_callbacks_may_too() -> None:
    import keras

    patient = keras.callbacks.EarlyStopping(patience=1, min_delta=10.0, restore_best_weights=True)
    model = eager()
    history = fit(model, epochs=8, callbacks=[patient])
    assert history.epoch == [0, 1]
    assert_at_best(model, history)

    class Once(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = True

    assert fit(eager(), epochs=8, callbacks=[Once()]).epoch == [0]


@keras_and_numpy_2
def test_callbacks_that_set_the_rate_own_it_or_are_refused() -> None:
    import keras

    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    plateau = keras.callbacks.ReduceLROnPlateau(patience=0, min_delta=10.0, factor=0.5)
    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.1 / (1 + epoch))
    for owner, name in ((plateau, "ReduceLROnPlateau"), (scheduler, "LearningRateScheduler")):
        with pytest.raises(InvalidInputError, match=f"'default' and {name} do; leave that out"):
            fit(eager(), callbacks=[owner])
        arguments = {"callbacks": [owner], "shuffle": False, "epochs": 3}
        ours, theirs = eager(0.1), eager(0.1)
        history = fit(ours, policy="constant", constraints=[kept()], **arguments)
        expected = plain(theirs, **arguments)
        assert history.history["learning_rate"] == expected.history["learning_rate"]
        assert len(set(history.history["learning_rate"])) > 1
        assert_equal(ours, theirs)
    with pytest.raises(InvalidInputError, match="the optimizer's ExponentialDecay do"):
        fit(eager(schedule))
    history = fit(eager(schedule), policy="constant", constraints=[kept()])
    assert history.history["learning_rate"] == pytest.approx(
        [0.1 * 0.5 ** (e * 0.2) for e in (1, 2, 3)]
    )


@keras_and_numpy_2
def test_files_are_written_as_in_one_fit(tmp_path: Path) -> None:
    import keras

    log, best = tmp_path / "log.csv", tmp_path / "best.keras"
    written = [
        keras.callbacks.CSVLogger(log),
        keras.callbacks.ModelCheckpoint(best, save_best_only=True),
    ]
    if keras.backend.backend() == "tensorflow" and find_spec("tensorboard"):
        written.append(keras.callbacks.TensorBoard(tmp_path / "board"))
    history = fit(eager(), epochs=4, callbacks=written, constraints=[kept()])
    rows = list(csv.DictReader(log.read_text().splitlines()))
    assert [int(row["epoch"]) for row in rows] == history.epoch
    assert [float(row["kept"]) for row in rows] == history.history["kept"]
    assert [float(row["val_loss"]) for row in rows] == history.history["val_loss"]
    loaded = keras.saving.load_model(best)
    assert loaded.evaluate(*VALIDATION, verbose=0) == pytest.approx(
        min(history.history["val_loss"]), rel=1e-4
    )


def test_callbacks_hear_of_committed_epochs_only() -> None:
    heard = listener()
    history = fit(eager(100.0), policy="bold", epochs=6, callbacks=[heard])
    assert len(history.discarded) > 2
    assert sum(history.history["rolled_back"]) <= len(history.discarded)
    ends = [(epoch, logs) for name, epoch, *_, logs in told(heard, "on_epoch_end")]
    assert [epoch for epoch, _ in ends] == history.epoch == list(range(len(ends)))
    assert all(np.isfinite(list(logs.values())).all() for _, logs in ends)
    batches = [batch for _, batch, _ in told(heard, "on_train_batch_end")]
    assert batches == (list(range(2)) * len(ends))[: len(batches)]  # the last epoch is a part
    assert len(batches) > 2 * (len(ends) - 1)
    assert len({len(column) for column in history.history.values()}) == 1


def told(heard: Any, name: str) -> list[Any]:
    return [event for event in heard.heard if event[0] == name]


def test_callbacks_that_cannot_work_are_refused(tmp_path: Path) -> None:
    import keras

    with pytest.raises(InvalidInputError, match="SwapEMAWeights: callbacks see an epoch after"):
        fit(eager(), callbacks=[keras.callbacks.SwapEMAWeights()])
    with pytest.raises(InvalidInputError, match="BackupAndRestore: a run cannot be taken up"):
        fit(eager(), callbacks=[keras.callbacks.BackupAndRestore(tmp_path / "backup")])


def test_a_callback_does_not_change_the_model_handed_back() -> None:
    import keras

    class Spoil(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            self.seen = self.model.get_weights()
            self.model.set_weights([0 * w for w in self.seen])

    model, spoil = eager(), Spoil()
    fit(model, callbacks=[spoil], constraints=[kept()])
    for now, seen in zip(model.get_weights(), spoil.seen, strict=True):
        np.testing.assert_array_equal(now, seen)


def test_callbacks_made_of_functions_hear_of_batches() -> None:
    import keras

    heard: list[int] = []
    made = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: heard.append(batch)
    )
    fit(eager(), policy="constant", constraints=[kept()], epochs=2, callbacks=[made])
    assert heard == [0, 1, 0, 1]


def test_a_list_of_callbacks_is_looked_into() -> None:
    import keras

    plateau = keras.callbacks.ReduceLROnPlateau(patience=0)
    with pytest.raises(InvalidInputError, match="ReduceLROnPlateau do"):
        fit(eager(), callbacks=keras.callbacks.CallbackList([plateau], add_history=True))
    with pytest.raises(InvalidInputError, match="must hold callbacks of Keras, but got str"):
        fit(eager(), callbacks=["early stopping"])
    heard = listener()
    fit(eager(), epochs=2, callbacks=keras.callbacks.CallbackList([heard]))
    assert heard.heard[0][0] == "on_train_begin"


def test_a_subclass_that_sets_the_rate_is_refused() -> None:
    import keras

    class Steps(keras.callbacks.LearningRateScheduler):
        pass

    with pytest.raises(InvalidInputError, match="Steps do"):
        fit(eager(), callbacks=[Steps(lambda epoch: 0.1)])


@pytest.mark.parametrize("policy", ["default", "constant"])
@pytest.mark.parametrize("constraints", [(), (kept(),)])
def test_histories_are_json(policy: str, constraints: Any) -> None:
    import keras

    class Writes(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs |= {"norm": np.float32(2.5), "pair": np.arange(2), "tensor": keras.ops.ones(())}

    history = fit(eager(), policy=policy, constraints=constraints, callbacks=[Writes()]).history
    assert json.loads(json.dumps(history)) == history
    assert history["norm"][0] == 2.5
    assert history["pair"][0] == [0, 1]


@pytest.mark.parametrize("policy", ["default", "constant"])
@pytest.mark.parametrize("constraints", [(), (kept(),)])
def test_an_exception_carries_the_history(policy: str, constraints: Any) -> None:
    import keras

    class Full(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left") as raised:
        fit(eager(), policy=policy, constraints=constraints, callbacks=[Full()], epochs=9)
    assert raised.value.history.history["loss"][0] > 0
    assert raised.value.history.epoch[0] == 0


@pytest.mark.parametrize("policy", ["default", "constant"])
def test_metrics_of_several_numbers_are_kept(policy: str) -> None:
    import keras

    class Shares(keras.metrics.Metric):
        """Of the two classes among the predictions."""

        def __init__(self):
            super().__init__(name="shares")
            self.seen = self.add_variable((2,), "zeros")

        def update_state(self, y_true, y_pred, sample_weight=None):
            hot = keras.ops.one_hot(keras.ops.argmax(y_pred, -1), 2)
            self.seen.assign(self.seen + keras.ops.sum(hot, 0))

        def result(self):
            return self.seen / keras.ops.sum(self.seen)

    history = fit(eager(metrics=[Shares()]), policy=policy, constraints=[kept()]).history
    assert np.sum(history["val_shares"][-1]) == pytest.approx(1.0)
    assert np.sum(json.loads(json.dumps(history["shares"]))[-1]) == pytest.approx(1.0)
