"""Statistics of BatchNormalization are made anew, and nothing else is touched."""

from typing import Any

import numpy as np
import pytest

keras = pytest.importorskip("keras")
pytestmark = [
    pytest.mark.keras,
    pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning"),  # Keras and NumPy 2
]

X = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)


def network(*, frozen: bool = False, kind: Any = None) -> Any:
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Input((3,)),
        keras.layers.Dense(4),
        keras.layers.BatchNormalization(trainable=not frozen),
        keras.layers.ReLU(),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(2),
    ]
    model = (kind or keras.Sequential)(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss)
    return model


def trainer_of(model: Any, x: Any = X, y: Any = Y) -> Any:
    from rlhf_tune_integrations.keras import KerasTrainer

    return KerasTrainer(model, x, y, batch_size=16, validation_data=(X, Y), seed=0)


def test_the_mean_over_an_epoch_takes_their_place() -> None:
    model = network()
    trainer = trainer_of(model)
    trainer.train(4)  # an epoch
    assert trainer.refresh()
    inside = keras.ops.convert_to_numpy(model.layers[0](X))
    norm = model.layers[1]
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(norm.moving_mean), inside.mean(axis=0), rtol=1e-4, atol=1e-6
    )
    assert norm.momentum == 0.99


def test_training_goes_on_as_if_nothing_had_been() -> None:
    ends = []
    for asked in (False, True):
        trainer = trainer_of(network())
        trainer.train(2)
        if asked:
            assert trainer.refresh()
        loss = trainer.train(5)["loss"]
        weights = [keras.ops.convert_to_numpy(w) for w in trainer.model.trainable_variables]
        ends.append((loss, weights))
    assert ends[0][0] == ends[1][0]
    for one, other in zip(ends[0][1], ends[1][1], strict=True):
        np.testing.assert_array_equal(one, other)


def test_frozen_layers_keep_theirs() -> None:
    assert not trainer_of(network(frozen=True)).refresh()


def test_a_stream_is_not_read_ahead_for_them() -> None:
    class Stream(keras.utils.PyDataset):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, number: int) -> Any:
            rows = slice(16 * number, 16 * number + 16)
            return X[rows], Y[rows]

    trainer = trainer_of(network(), Stream(), None)
    assert not trainer.refresh()
    assert np.isnan(trainer.knowledge())


def test_a_step_of_the_users_own_says_what_the_model_is_called_on() -> None:
    class Own(keras.Sequential):
        def train_step(self, *arguments: Any) -> Any:
            return super().train_step(*arguments)

    assert not trainer_of(network(kind=Own)).refresh()


def test_knowledge_tells_a_trained_model_from_a_fresh_one() -> None:
    trainer = trainer_of(network())
    assert 0.6 < trainer.knowledge() < 1.6
    trainer.set(learning_rate=0.5)
    trainer.train(200)
    trainer.refresh()  # of momentum .99, which 200 steps do not fill
    assert trainer.knowledge() < 0.3


def test_to_ask_for_knowledge_changes_nothing() -> None:
    ends = []
    for asked in (False, True):
        trainer = trainer_of(network())
        if asked:
            assert trainer.knowledge() > 0
        ends.append(trainer.train(7)["loss"])
    assert ends[0] == ends[1]
