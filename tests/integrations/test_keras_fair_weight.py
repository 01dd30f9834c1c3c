"""`fair_weight` in Keras: a gap ceiling is reached and holds; groups come beside the batches."""

import functools
from typing import Any

import numpy as np
import pytest
from fair_data import PROBE, SEX, TEST, TRAIN, VALIDATION, X, Y, gap, of

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.safety import GroupFairness, constraint
from rlhf_tune.safety.remedy import Batch

pytestmark = pytest.mark.keras
keras = pytest.importorskip("keras")


def network(**compiled: Any) -> Any:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(8, "relu"),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )
    loss = "sparse_categorical_crossentropy"
    model.compile(**{"optimizer": keras.optimizers.Adam(0.01), "loss": loss, **compiled})
    return model


def predicted(model: Any, part: slice) -> Any:
    return keras.ops.convert_to_numpy(model(X[part])).argmax(1)


def ceilings() -> Any:
    right = constraint("right", lambda m: predicted(m, VALIDATION) == Y[VALIDATION], at_least=0.6)
    return [GroupFairness(*of(PROBE), {"sex": SEX[PROBE]}, at_most=0.15), right]


def run(model: Any = None, *data: Any, **arguments: Any) -> Any:
    from rlhf_tune_integrations.keras import fit

    model = model or network()
    options = {"epochs": 6, "seed": 0, "verbose": 0, "validation_data": of(VALIDATION)}
    options |= {"constraints": ceilings(), "reach": True, "groups": {"sex": SEX[TRAIN]}}
    return model, fit(model, *(data or of(TRAIN)), **{**options, **arguments})


@functools.cache
def usual() -> Any:
    return run()


def test_a_gap_that_plain_training_has_is_closed_certified_and_holds_on_others() -> None:
    plain, _ = run(constraints=(), reach=False, groups=None)
    assert gap(predicted(plain, TEST), TEST) > 0.25
    model, history = usual()
    assert history.certificate["demographic_parity"].satisfied
    assert abs(gap(predicted(model, TEST), TEST)) < 0.15
    assert max(history.history["fair_weight"]) > 0.5
    assert (predicted(model, TEST) == Y[TEST]).mean() > 0.7


def test_the_model_keeps_its_own_step_and_loss() -> None:
    model, _ = usual()
    assert not vars(model).keys() & {"train_step", "compute_loss"}
    model.fit(*of(TRAIN), verbose=0)


def trained(weight: float, *data: Any, steps: int = 150, **arguments: Any) -> float:
    from rlhf_tune_integrations.keras import KerasTrainer

    model = arguments.pop("model", None) or network()
    remedy = ceilings()[0].remedy()
    options = {"validation_data": of(VALIDATION), "remedies": (remedy,), "seed": 0, **arguments}
    trainer = KerasTrainer(model, *data, **options)
    trainer.set(fair_weight=weight)
    trainer.train(steps)
    trainer.close()
    return gap(predicted(model, TEST), TEST)


def test_a_part_for_validation_takes_its_groups_along() -> None:
    """The rows are those that are left: with groups of other rows the weight would do nothing."""
    part = slice(0, 1600)
    options = {"validation_data": None, "validation_split": 0.25, "groups": {"sex": SEX[part]}}
    gaps = [trained(weight, *of(part), **options) for weight in (-1.5, 0.0, 1.5)]
    assert gaps[0] > gaps[1] + 0.05 > gaps[2] + 0.15


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="needs tf.data")
def test_a_pipeline_brings_its_groups() -> None:
    import tensorflow as tf

    slices = tf.data.Dataset.from_tensor_slices((*of(TRAIN), {"sex": SEX[TRAIN]}))
    data = slices.shuffle(1200, seed=0).batch(32)
    assert trained(3.0, data) < 0.1
    with pytest.raises(InvalidInputError, match="as a further element"):
        trained(1.5, data, groups={"sex": SEX[TRAIN]})


@pytest.mark.parametrize(
    "compiled",
    [
        {"steps_per_execution": 5},
        {"run_eagerly": True},
        pytest.param({"jit_compile": True}, marks=pytest.mark.slow),
    ],
    ids=["steps_per_execution", "run_eagerly", "jit_compile"],
)
def test_however_the_step_is_executed(compiled: Any) -> None:
    steps = 20 if "run_eagerly" in compiled else 60
    wide, narrow = (
        trained(
            weight,
            *of(TRAIN),
            groups={"sex": SEX[TRAIN]},
            model=network(**compiled),
            steps=steps,
            batch_size=128,
        )
        for weight in (-3.0, 3.0)
    )
    assert narrow < wide - 0.2


def test_a_step_of_the_user_s_is_handed_what_it_knows() -> None:
    seen = []

    class Own(keras.Sequential):
        def train_step(self, data: Any) -> Any:
            seen.append(len(data))
            return super().train_step(data)

    keras.utils.set_random_seed(0)
    model = Own([keras.Input((3,)), keras.layers.Dense(2, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    trained(1.0, *of(TRAIN), groups={"sex": SEX[TRAIN]}, model=model, steps=3)
    assert set(seen) == {2}


@pytest.mark.parametrize("form", ["two logits", "probabilities", "one logit", "one probability"])
def test_every_form_of_output_has_the_same_price(form: str) -> None:
    from rlhf_tune_integrations.keras import mean_price

    logits = np.array([[0.0, 1.0], [0.0, -2.0], [0.0, 0.3]], np.float32)
    chance = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    outputs, kind, y = {
        "two logits": (logits, "logits", np.array([1, 0, 1])),
        "probabilities": (chance, "probabilities", np.eye(2)[[1, 0, 1]]),
        "one logit": (logits[:, 1:], "logits", np.array([[1.0], [0.0], [1.0]])),
        "one probability": (chance[:, 1], "probabilities", np.array([1.0, 0.0, 1.0])),
    }[form]
    prices = np.array([1.0, 5.0, -2.0], np.float32), np.array([7.0, 3.0, 9.0], np.float32)
    batch = Batch(None, keras.ops.convert_to_tensor(y), lambda _: 0.0)
    for positive in (1, 0):
        told = {"positive": positive, "kind": kind}
        paid = mean_price(network(), batch, keras.ops.convert_to_tensor(outputs), *prices, **told)
        chosen = [1.0, 3.0, -2.0] if positive == 1 else [7.0, 5.0, 9.0]
        assert float(paid) == pytest.approx(float((chance[:, positive] * chosen).mean()), rel=1e-5)


def test_what_cannot_be_priced_is_refused() -> None:
    for changes, says in (
        ({"groups": None}, "`groups` must be given, the group of each training sample"),
        ({"groups": {"sex": SEX[:9]}}, f"for each of the {TRAIN.stop} samples, but has 9"),
        ({"reach": False}, "`groups` are for a remedy"),
        ({"reach": False, "policy": "constant", "constraints": ()}, "`groups` are for a remedy"),
    ):
        with pytest.raises(InvalidInputError, match=says):
            run(**changes)
