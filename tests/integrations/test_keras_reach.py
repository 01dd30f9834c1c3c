"""`fit(..., reach=True)` for Keras: one trace, the model keeps its own loss, what is refused."""

import functools
from typing import Any

import numpy as np
import pytest

from rlhf_tune.errors import CannotCertify, InvalidInputError, UnsupportedModelError
from rlhf_tune.safety import RobustAccuracy
from rlhf_tune.safety.attacks import Box
from rlhf_tune.safety.remedy import Batch, Remedy

pytestmark = pytest.mark.keras
keras = pytest.importorskip("keras")

RNG = np.random.default_rng(0)
# The first feature tells the classes apart by far; others do so a little, together surely, and
# plain training listens to them: they are what an attack can move.
Y = RNG.integers(0, 2, 900)
SIDE = (2 * Y - 1)[:, None]
FAR = 0.5 + SIDE * 0.2 + RNG.normal(0, 0.08, (900, 1))
NEAR = 0.5 + SIDE * 0.05 + RNG.normal(0, 0.05, (900, 30))
X = np.clip(np.hstack([FAR, NEAR]), 0, 1).astype(np.float32)
TRAIN, VALIDATION, PROBE = (X[:300], Y[:300]), (X[300:400], Y[300:400]), (X[400:], Y[400:])


def network(*, kind: Any = None, hidden: Any = (), **compiled: Any) -> Any:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((31,))
    outputs = keras.layers.Dense(16, "relu")(inputs)
    for layer in hidden:
        outputs = layer(outputs)
    outputs = keras.layers.Dense(2, dtype="float32")(outputs)
    model = (kind or keras.Model)(inputs, outputs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(**{"optimizer": keras.optimizers.Adam(0.01), "loss": loss, **compiled})
    return model


def reached(model: Any = None, *, at_least: float = 0.75, rows: int = 500, **arguments: Any) -> Any:
    from rlhf_tune_integrations.keras import fit

    model = model or network()
    floor = RobustAccuracy(PROBE[0][:rows], PROBE[1][:rows], eps=0.08, at_least=at_least)
    arguments = {
        "epochs": 16,
        "batch_size": 16,
        "seed": 0,
        "verbose": 0,
        "reach": True,
        **arguments,
    }
    return model, fit(model, *TRAIN, validation_data=VALIDATION, constraints=[floor], **arguments)


@functools.cache
def usual() -> Any:
    return reached()


def test_a_floor_that_plain_training_misses_is_reached_and_certified() -> None:
    with pytest.raises(CannotCertify, match="reach=True trains against them"):
        reached(reach=False)
    _, history = usual()
    (certificate,) = history.certificate.values()
    assert certificate.satisfied
    assert certificate.n == 250
    weights = history.history["adversarial_weight"]
    assert history.knobs == ("adversarial_weight",)
    assert weights[0] == 0.25
    assert max(weights) > 0.4


def test_the_model_keeps_its_own_loss_and_weights() -> None:
    model, _ = usual()
    fresh = network()
    assert "compute_loss" not in vars(model)
    assert [v.name for v in model.variables] == [v.name for v in fresh.variables]
    before = model.evaluate(*VALIDATION, verbose=0)
    loss = model.fit(*VALIDATION, batch_size=100, verbose=0).history["loss"][0]
    assert loss == pytest.approx(before, rel=1e-5)  # plain again: no term is left in the step


def test_moving_the_weight_traces_nothing_anew() -> None:
    traced: list[int] = []

    def term(model: Any, batch: Batch, outputs: Any, weights: Any) -> Any:
        traced.append(1)
        return weights["w"] * keras.ops.mean(outputs**2)

    from rlhf_tune_integrations.keras import KerasTrainer

    model = network()
    remedy = Remedy(("w",), term)
    trainer = KerasTrainer(model, *TRAIN, validation_data=VALIDATION, remedies=[remedy])
    trainer.train(3)
    kept, once = trainer.snapshot(), len(traced)
    trainer.set(w=0.9)
    assert trainer.hyperparameters["w"] == pytest.approx(0.9)
    heavy = trainer.train(3)["loss"]
    trainer.restore(kept)
    assert trainer.hyperparameters["w"] == 0.25
    light = trainer.train(3)["loss"]
    assert heavy > light  # the step reads the weight
    assert keras.backend.backend() == "torch" or len(traced) == once
    trainer.close()


def plain(variable: Any) -> Any:
    return keras.ops.convert_to_numpy(keras.ops.copy(variable.value))


def test_moved_inputs_stay_in_their_box_and_hurt() -> None:
    from rlhf_tune_integrations.keras import adversarial

    model, x, y = network(hidden=[keras.layers.BatchNormalization()]), X[:50], Y[:50]
    statistics = [plain(v) for v in model.non_trainable_variables]
    batch = Batch(keras.ops.convert_to_tensor(x), y, lambda given: model.compute_loss(x, y, given))
    eps = np.full(31, 0.1, dtype=np.float32)
    eps[3] = 0
    moved = adversarial._moved(model, batch, Box(eps, (0.0, 1.0)), 2)
    there = keras.ops.convert_to_numpy(moved)
    assert (np.abs(there - x) <= eps + 1e-6).all()
    assert there.min() >= 0
    assert there.max() <= 1
    assert float(batch.loss(model(moved))) > float(batch.loss(model(x)))
    for before, now in zip(statistics, model.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(before, plain(now))


def test_batch_norm_and_half_precision_are_trained() -> None:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = network(hidden=[keras.layers.BatchNormalization(), keras.layers.Dropout(0.1)])
        _, history = reached(model, rows=60, at_least=0.2, epochs=4)
    finally:
        keras.config.set_dtype_policy("float32")
    assert history.certificate


@pytest.mark.parametrize(
    ("compiled", "arguments"),
    [
        ({"optimizer": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=2)}, {}),
        ({}, {"class_weight": {0: 1.0, 1: 2.0}}),
        pytest.param({"steps_per_execution": 3}, {}, marks=pytest.mark.slow),
        pytest.param({}, {"sample_weight": np.linspace(0.5, 1.5, 300)}, marks=pytest.mark.slow),
    ],
    ids=["accumulation", "class weights", "several steps an execution", "sample weights"],
)
def test_what_compile_and_fit_offer_goes_with_a_moved_weight(compiled: Any, arguments: Any) -> None:
    made = {key: value() if callable(value) else value for key, value in compiled.items()}
    _, history = reached(network(**made), rows=60, at_least=0.2, epochs=3, **arguments)
    assert all(measured.satisfied for measured in history.certificate.values())
    weights = history.history["adversarial_weight"]
    assert len(set(weights)) > 1
    assert all(0.05 <= weight <= 0.95 for weight in np.round(weights, 6))


class Own(keras.Model):  # type: ignore[misc]
    """A step of its own, which may leave `compute_loss` out."""

    asks = True

    def train_step(self, data: Any) -> Any:
        if self.asks:
            return super().train_step(data)
        return {"loss": keras.ops.mean(self(data[0], training=True)) * 0.0}


def test_a_step_of_the_users_is_served_or_found_out() -> None:
    _, history = reached(network(kind=Own), rows=60, at_least=0.2, epochs=3)
    _, same = reached(rows=60, at_least=0.2, epochs=3)
    assert history.history["loss"] == same.history["loss"]
    deaf = network(kind=Own)
    deaf.asks = False
    with pytest.raises(InvalidInputError, match=r"from self\.compute_loss.*adversarial_weight"):
        reached(deaf)
    assert "compute_loss" not in vars(deaf)


class Blind(keras.Model):  # type: ignore[misc]
    """A loss that cannot tell training from validation."""

    def compute_loss(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        return super().compute_loss(x, y, y_pred, sample_weight)


def test_a_loss_that_cannot_tell_training_from_validation_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="must have the argument `training`"):
        reached(network(kind=Blind))


def test_integers_have_no_gradient() -> None:
    from rlhf_tune_integrations.keras import worst_outputs

    whole = keras.ops.ones((4, 31), dtype="int32")
    with pytest.raises(InvalidInputError, match="one array of floats, but got int32"):
        worst_outputs(network(), Batch(whole, None, lambda _: 0.0), Box(0.1, (0, 1)), steps=2)
