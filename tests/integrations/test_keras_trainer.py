"""The Keras trainer: the contract, and each trap of Keras that was met on the way."""

from typing import Any

import numpy as np
import pytest
from keras_trainers import (
    SAMPLES,
    VALIDATION,
    X,
    Y,
    assert_same,
    eager,
    named,
    network,
    seeded,
    state,
    trainer,
    watch,
)

from rlhf_tune.errors import InvalidInputError, UnsupportedModelError
from rlhf_tune.testing import TrainerContract

pytest.importorskip("keras")
pytestmark = pytest.mark.keras


class TestKerasTrainer(TrainerContract):
    def make(self):
        return trainer(network(), seed=1)

    def state(self, trainer):
        return state(trainer)

    def watched(self):
        run = trainer(eager(), seed=1)
        return run, watch(run)


def dataset() -> Any:
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)


def py_dataset() -> Any:
    import keras

    class Data(keras.utils.PyDataset):
        def __len__(self):
            return 5

        def __getitem__(self, i):
            return X[8 * i : 8 * i + 8], Y[8 * i : 8 * i + 8]

    return Data()


class TestOnTfData(TrainerContract):
    owns_order = False
    batch_sizes = ()

    def make(self):
        return trainer(eager(), x=dataset(), y=None, batch_size=None)

    def state(self, trainer):
        return state(trainer)

    def watched(self):
        run = self.make()
        return run, watch(run)


# The data


@pytest.mark.parametrize("kind", ["arrays", "dict", "tf.data", "PyDataset", "generator", "steps"])
def test_every_kind_of_data_trains_as_fit_trains_it(kind: str) -> None:
    def generator():
        while True:
            yield from zip(np.split(X[:32], 4), np.split(Y[:32], 4), strict=True)

    arguments: dict[str, dict[str, Any]] = {
        "arrays": {"x": X, "y": Y, "batch_size": 8},
        "dict": {"x": {"named": X}, "y": Y, "batch_size": 8},
        "tf.data": {"x": dataset()},
        "PyDataset": {"x": py_dataset()},
        "generator": {"x": generator(), "steps_per_epoch": 3},
        "steps": {"x": dataset().repeat(), "steps_per_epoch": 7},
    }
    chosen = {"y": None, "batch_size": None, "shuffle": False, **arguments[kind]}
    make = named if kind == "dict" else seeded
    run = trainer(make(), **chosen)
    for _ in range(2):
        taken = run.train(run.steps_per_epoch)
    if kind == "generator":
        chosen["x"] = generator()
    plain = make()
    history = plain.fit(**{**chosen, "epochs": 2, "verbose": 0})
    assert taken["loss"] == pytest.approx(history.history["loss"][-1], rel=1e-6)
    assert run.epoch_logs() == {k: v[-1] for k, v in history.history.items()}
    for ours, theirs in zip(run.model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    run.close()


@pytest.mark.parametrize(
    "weights",
    [
        {"class_weight": {0: 1.0, 1: 5.0, 2: 0.1}},
        {"sample_weight": np.linspace(0, 2, SAMPLES)},
        {"validation_data": None, "validation_split": 0.25},
    ],
    ids=lambda w: next(iter(w)),
)
def test_weights_and_split_are_those_of_fit(weights: dict[str, Any]) -> None:
    arguments = {"validation_data": VALIDATION, "shuffle": False, "batch_size": 8, **weights}
    run = trainer(seeded(), **arguments)
    run.train(run.steps_per_epoch)
    plain = seeded()
    history = plain.fit(X, Y, verbose=0, **arguments).history
    logs = {**run.epoch_logs(), **run.evaluate()}
    assert logs == {key: values[-1] for key, values in history.items()}


def test_shuffled_epochs_differ_and_follow_the_seed() -> None:
    orders = []
    for seed in (1, 1, 2):
        run = trainer(eager(), seed=seed, batch_size=20)
        seen = watch(run)
        run.train(2 * run.steps_per_epoch)
        rows = seen()
        orders += [rows[:SAMPLES], rows[SAMPLES:]]
    assert orders[:2] == orders[2:4]
    assert orders[0] != orders[1]
    assert orders[0] != orders[4]


def test_the_end_of_an_epoch_adds_few_shapes() -> None:
    from rlhf_tune_integrations.keras.batches import ArrayBatches, Place, replace

    data = ArrayBatches((np.arange(1000), None), 16, shuffle=True, seed=0)
    shapes = set()
    for size in (16, 64, 128, 32, 256, 64, 16, 256) * 4:
        data.place = replace(data.place, batch_size=size)
        shapes |= {len(data.take(1)[0][0][0]) for _ in range(5)}
    assert len(shapes - {16, 32, 64, 128, 256}) <= 5  # one rest for each size
    assert isinstance(data.place, Place)


def test_data_of_unknown_length_needs_steps_per_epoch() -> None:
    endless = dataset().repeat()
    with pytest.raises(InvalidInputError, match="pass steps_per_epoch"):
        trainer(eager(), x=endless, y=None, batch_size=None)


def test_empty_data_is_refused() -> None:
    nothing = dataset().take(0).repeat(1)
    with pytest.raises(InvalidInputError, match="at least one batch"):
        trainer(eager(), x=nothing, y=None, batch_size=None, steps_per_epoch=3)


def test_without_validation_data_it_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="validation_split"):
        trainer(eager(), validation_data=None)


# What a snapshot holds


def test_the_state_of_mixed_precision_is_restored() -> None:
    import keras

    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(), initial_scale=8.0, dynamic_growth_steps=2
    )
    run = trainer(network(optimizer=optimizer))
    kept, then = run.snapshot(), state(run)
    run.train(4)
    assert float(optimizer.dynamic_scale) == 32.0
    run.restore(kept)
    assert float(optimizer.dynamic_scale) == 8.0
    assert_same(then, state(run))
    run.set(learning_rate=0.25)
    assert run.hyperparameters["learning_rate"] == 0.25
    assert float(optimizer.inner_optimizer.learning_rate) == 0.25


def test_unseeded_random_layers_replay() -> None:
    import keras

    class Noise(keras.layers.Layer):
        def call(self, x):
            return x + keras.random.normal(keras.ops.shape(x))

    run = trainer(network(Noise()))
    run.train(1)
    kept = run.snapshot()
    losses = []
    for _ in range(2):
        run.restore(kept)
        losses.append(run.train(3)["loss"])
    assert losses[0] == losses[1]


def test_the_moving_average_of_the_weights_is_restored() -> None:
    import keras

    run = trainer(eager(optimizer=keras.optimizers.Adam(use_ema=True)))
    kept, then = run.snapshot(), state(run)
    run.train(3)
    run.restore(kept)
    assert_same(then, state(run))


# The training step


def test_several_steps_per_execution_are_the_same_steps() -> None:
    ends = []
    for steps in (1, 3):
        run = trainer(network(steps_per_execution=steps))
        run.train(4)
        taken = run.train(7)
        assert taken["steps"] == 7
        ends.append((taken["loss"], state(run)))
    assert ends[0][0] == ends[1][0]
    assert_same(ends[0][1], ends[1][1])


def test_a_train_step_of_the_users_own() -> None:
    import keras

    class Own(keras.Sequential):
        def train_step(self, data):
            return {"loss": super().train_step(data)["loss"] * 0 + 7.0, "other": 1.0}

    class Silent(keras.Sequential):
        def train_step(self, data):
            super().train_step(data)
            self._loss_tracker.reset_state()
            return {"d_loss": 1.0}

    layers = [keras.Input((4,)), keras.layers.Dense(3)]
    for kind in (Own, Silent):
        model = kind(layers)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss, run_eagerly=True)
        run = trainer(model)
        if kind is Silent:
            with pytest.raises(UnsupportedModelError, match=r"must return 'loss'.*d_loss"):
                run.train(1)
        else:
            run.train(1)
            assert run.epoch_logs() == {"loss": 7.0, "other": 1.0}


def test_weights_that_are_not_finite_are_seen_where_the_loss_is() -> None:
    import keras

    x = X.copy()
    x[5] = np.nan  # TensorFlow's ReLU makes zeros of it, so that the loss stays finite
    layers = [keras.Input((4,)), keras.layers.Dense(5, "relu"), keras.layers.Dense(3)]
    model = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, run_eagerly=True)
    with pytest.warns(UserWarning, match="first in row 5"):
        run = trainer(model, x=x, batch_size=39)
    assert run.finite
    run.train(1)
    assert not run.finite
    assert "`x` holds values that are not finite, first in row 5" in str(run.data_fault())


def test_what_cannot_be_driven_is_refused() -> None:
    import keras

    class OwnFit(keras.Sequential):
        def fit(self, *arguments, **more):
            return super().fit(*arguments, **more)

    layers = [keras.Input((4,)), keras.layers.Dense(3)]
    two = keras.Sequential(layers)
    two.compile("sgd", "mse")
    two.other_optimizer = keras.optimizers.Adam()
    own = OwnFit(layers)
    own.compile("sgd", "mse")
    function = keras.Sequential(layers)
    function.compile(keras.optimizers.SGD(lambda: 0.1), "mse")
    cases = {
        "must be compiled": keras.Sequential(layers),
        "one optimizer, but has 2": two,
        "OwnFit has its own": own,
        "but is a function": function,
    }
    for reason, model in cases.items():
        with pytest.raises(UnsupportedModelError, match=reason):
            trainer(model)


def test_the_user_hears_of_each_step() -> None:
    run = trainer(eager())
    heard = []
    run.on_step = lambda step, logs: heard.append((step, sorted(logs)))
    run.train(7)
    assert heard == [(i % 5, ["accuracy", "loss"]) for i in range(7)]


def test_the_environment_drives_it() -> None:
    from rlhf_tune.envs import TuningEnv

    run = trainer(eager())
    env = TuningEnv(run, steps=10)
    _, info = env.reset(seed=0)
    rates = {run.hyperparameters["learning_rate"]}
    for action in np.flatnonzero(info["action_mask"])[1:4]:
        _, _, _, _, info = env.step(int(action))
        rates.add(run.hyperparameters["learning_rate"])
    assert len(rates) > 1
