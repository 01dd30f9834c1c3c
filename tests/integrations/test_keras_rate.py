"""The Keras trainer between moves: what is traced again, and whose the learning rate is."""

from typing import Any

import numpy as np
import pytest
from keras_trainers import VALIDATION, X, Y, eager, network, trainer

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.safety import constraint

pytest.importorskip("keras")
pytestmark = pytest.mark.keras


# Tracing


def traces(**compiled: Any) -> tuple[Any, list[Any]]:
    import keras

    seen: list[Any] = []

    class Traced(keras.layers.Layer):
        def call(self, x, training=False):
            if training:
                seen.append(x.shape[0])
            return x

    model = network(Traced(), **compiled)
    seen.clear()
    return model, seen


def test_moves_do_not_trace_again() -> None:
    model, seen = traces()
    run = trainer(model, batch_size=4)
    run.train(1)
    run.set(batch_size=8)
    run.train(1)
    traced = len(seen)
    for size, rate in ((16, 0.1), (4, 0.2), (2, 0.3), (32, 0.4), (1, 0.5)):
        run.set(batch_size=size, learning_rate=rate)
        run.train(1)
    assert len(seen) == traced


def test_with_jit_compile_the_batch_size_keeps_to_a_grid() -> None:
    run = trainer(network(jit_compile=True))
    run.set(batch_size=16)
    run.set(batch_size=2)
    for size in (24, 12, 7):
        with pytest.raises(InvalidInputError, match="8 times a power of two"):
            run.set(batch_size=size)


# The learning rate


def schedule() -> Any:
    import keras

    return keras.optimizers.schedules.ExponentialDecay(0.1, decay_steps=5, decay_rate=0.5)


def test_a_schedule_is_scaled_and_given_back() -> None:
    import keras

    own = schedule()
    model = network(optimizer=keras.optimizers.SGD(own))
    run = trainer(model)
    run.train(5)
    kept = run.snapshot()
    assert run.hyperparameters["learning_rate"] == pytest.approx(0.05)
    run.set(learning_rate=0.2)
    before = model.get_weights()[0]
    run.train(5)
    assert run.hyperparameters["learning_rate"] == pytest.approx(0.1)
    assert np.abs(model.get_weights()[0] - before).max() > 0
    run.restore(kept)
    assert run.hyperparameters["learning_rate"] == pytest.approx(0.05)
    run.set(learning_rate=0.2)
    run.close()
    assert model.optimizer._learning_rate is own
    assert float(model.optimizer.learning_rate) == pytest.approx(0.05)


def test_the_factor_on_a_schedule_takes_effect_in_a_traced_step() -> None:
    import keras

    moved = []
    for factor in (1.0, 4.0):
        model = network(optimizer=keras.optimizers.SGD(schedule()))
        run = trainer(model, shuffle=False)
        run.train(1)  # traced
        before = model.get_weights()[0]
        run.set(learning_rate=factor * run.hyperparameters["learning_rate"])
        run.train(1)
        moved.append(model.get_weights()[0] - before)
    np.testing.assert_allclose(moved[1], 4 * moved[0], rtol=1e-4, atol=1e-6)


def test_a_schedule_at_zero_cannot_be_set() -> None:
    import keras

    rising = keras.optimizers.schedules.CosineDecay(0.0, 10, warmup_target=0.1, warmup_steps=5)
    run = trainer(eager(optimizer=keras.optimizers.SGD(rising)))
    with pytest.raises(InvalidInputError, match="where the schedule gives 0"):
        run.set(learning_rate=0.1)


def test_a_saved_schedule_with_a_factor_can_be_loaded() -> None:
    import keras

    from rlhf_tune_integrations.keras.rate import ScaledSchedule

    config = keras.optimizers.schedules.serialize(ScaledSchedule(schedule()))
    loaded = keras.optimizers.schedules.deserialize(config)
    assert float(loaded(5)) == pytest.approx(0.05)


# Whose it is


class Sets:
    """Makes a callback that sets the rate in one of its hooks."""

    def __init__(self, hook: str, value: Any, *, since: int = 0) -> None:
        self.hook, self.value, self.since = hook, value, since

    def __call__(self) -> Any:
        import keras

        def sets(callback: Any, epoch: int, *_: Any, **__: Any) -> None:
            if epoch >= self.since:
                callback.model.optimizer.learning_rate = self.value

        return type("Mine", (keras.callbacks.Callback,), {self.hook: sets})()


def fitted(callback: Any, **arguments: Any) -> Any:
    from rlhf_tune_integrations.keras import fit

    chosen = {"policy": "default", "epochs": 6, "seed": 0, "verbose": 0, **arguments}
    model = eager()
    return model, fit(model, X, Y, validation_data=VALIDATION, callbacks=[callback], **chosen)


@pytest.mark.parametrize("policy", ["default", "bold"])
def test_a_callback_that_sets_the_rate_is_refused_before_a_step(policy: str) -> None:
    with pytest.raises(InvalidInputError, match=r"only one side may set .* to 0\.0003 .*constant"):
        fitted(Sets("on_epoch_begin", 3e-4)(), policy=policy)


def test_a_callback_that_sets_the_rate_later_is_refused_with_what_there_was() -> None:
    with pytest.raises(InvalidInputError, match="leave that out, or say policy=") as raised:
        fitted(Sets("on_epoch_end", 7.0, since=1)())
    history: Any = raised.value.__dict__["history"]
    assert history.epoch == [0, 1]
    assert max(history.history["learning_rate"]) < 7.0


def test_a_schedule_set_by_a_callback_cannot_be_overruled() -> None:
    with pytest.raises(InvalidInputError, match="leave that out, or say policy="):
        fitted(Sets("on_epoch_end", schedule(), since=1)())


def test_a_constant_run_lets_callbacks_set_the_rate() -> None:
    callback = Sets("on_epoch_begin", 0.125)()
    holds = constraint("holds", lambda model: 1.0, at_least=0.0)
    for constraints in ([], [holds]):
        _, history = fitted(callback, policy="constant", constraints=constraints, epochs=2)
        assert history.history["learning_rate"] == [0.125] * 2


def test_a_rate_set_before_training_is_the_given_one() -> None:
    import keras

    class First(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.model.optimizer.learning_rate = 0.02

    _, history = fitted(First(), policy="bold", epochs=2)
    doublings = np.log2(np.array(history.history["learning_rate"]) / 0.02)
    np.testing.assert_allclose(doublings, np.rint(doublings), atol=1e-5)
