"""A Keras run that was killed ends as one that was not, bit for bit."""

import os
import subprocess
import sys

import numpy as np
import pytest
from keras_runs import X, Y, assert_equal, eager, fit, kept, listener, network
from killed import entries, killed_after

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.safety import RobustAccuracy

pytestmark = pytest.mark.keras
keras = pytest.importorskip("keras")


class Rows(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, i):
        return X[i * 20 : (i + 1) * 20], Y[i * 20 : (i + 1) * 20]


def run(folder=None, make=eager, compiled=None, **arguments):
    model = make(**(compiled() if compiled else {}))
    return model, fit(model, **{"epochs": 4, "checkpoint": folder, **arguments})


FLOOR = RobustAccuracy(X, Y, eps=0.1, bounds=(-10.0, 10.0), at_least=0.2)
KINDS = {
    "plain": {"make": network},
    "steps": {"make": network, "steps_per_epoch": 3, "batch_size": 16},
    "drawn seed": {"make": network, "seed": None},
    "long": {"make": network, "epochs": 14, "policy": "grow"},
    "metrics": {"make": network, "compiled": lambda: {"metrics": ["accuracy"]}, "epochs": 3},
    "SGD": {
        "make": network,
        "compiled": lambda: {"optimizer": keras.optimizers.SGD(0.01, momentum=0.9)},
    },
    "constrained": {"make": network, "constraints": [kept()]},
    "seldom verified": {"make": network, "constraints": [kept()], "verify_every": 3},
    "reaching": {"make": network, "constraints": [FLOOR], "reach": True},
}


PARAMETERS = [*list(KINDS)[:2], *(pytest.param(k, marks=pytest.mark.slow) for k in list(KINDS)[2:])]


@pytest.mark.parametrize("kind", PARAMETERS)
def test_a_killed_run_ends_as_one_that_was_not(tmp_path, kind):
    arguments = KINDS[kind]
    keras.utils.set_random_seed(0)
    model, history = run(**arguments)
    for writes in (1, 4):
        folder = tmp_path / str(writes)
        with killed_after(writes):
            run(folder, **arguments)
        resumed, entered = run(folder, **arguments)
        assert_equal(resumed, model)
        assert entries(entered) == entries(history)


@pytest.mark.parametrize("writes", [2, 3, 8])
def test_callbacks_hear_the_epochs_that_they_have_not_heard(tmp_path, writes):
    whole, before, after = listener(), listener(), listener()
    keras.utils.set_random_seed(0)
    run(callbacks=whole)
    with killed_after(writes):
        run(tmp_path, callbacks=before)
    run(tmp_path, callbacks=after)

    def told(name, *heard):
        return [event[1:] for each in heard for event in each.heard if event[0] == name]

    assert told("on_epoch_end", before, after) == told("on_epoch_end", whole)
    assert told("on_train_batch_end", before, after) == told("on_train_batch_end", whole)
    assert told("on_train_end", after) == told("on_train_end", whole)
    begun = [event[0] for event in told("on_epoch_begin", after)]
    assert begun == list(range(begun[0], 4))


def test_a_finished_run_returns_at_once(tmp_path, capsys):
    model, history = run(tmp_path)
    heard = listener()
    again, entered = run(tmp_path, callbacks=heard, verbose=2)
    assert_equal(again, model)
    assert entries(entered) == entries(history)
    assert [event[0] for event in heard.heard] == ["on_train_begin", "on_train_end"]
    assert capsys.readouterr().out == "taken up from its checkpoint, after 4 epochs\n"


def test_a_run_that_a_callback_stopped_stays_so(tmp_path):
    class Enough(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    model, history = run(tmp_path, callbacks=Enough())
    again, entered = run(tmp_path)
    assert entered.epoch == history.epoch == [0, 1]
    assert_equal(again, model)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"make": network}, "layers"),
        ({"compiled": lambda: {"optimizer": keras.optimizers.SGD()}}, "variables|optimizer"),
        ({"compiled": lambda: {"optimizer": keras.optimizers.Adam(beta_1=0.5)}}, "optimizer"),
        ({"x": X[:40], "y": Y[:40]}, "data"),
        ({"shuffle": False}, "data"),
        ({"batch_size": 20}, "batch_size"),
        ({"initial_epoch": 1, "epochs": 5}, "initial_epoch"),
        ({"seed": 1}, "seed"),
        ({"constraints": [kept()]}, "constraints"),
    ],
    ids=[
        "layers",
        "optimizer",
        "options",
        "samples",
        "shuffle",
        "batch_size",
        "initial_epoch",
        "seed",
        "constraints",
    ],
)
def test_another_run_is_refused_before_anything_changes(tmp_path, other, said):
    with killed_after(2):
        run(tmp_path)
    content = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InvalidInputError, match=f"there '({said})' is .* delete the folder"):
        run(tmp_path, **other)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == content


def test_data_of_an_order_of_their_own_go_on_with_a_new_pass(tmp_path):
    stream = {"x": Rows(), "y": None, "batch_size": None, "epochs": 6, "shuffle": False}
    with killed_after(4):
        run(tmp_path, **stream)
    _, history = run(tmp_path, **stream)
    assert history.epoch == list(range(len(history.epoch)))
    assert len(history.epoch) >= 5


def test_a_loop_of_keras_cannot_be_taken_up(tmp_path):
    for constraints in ([], [kept()]):
        with pytest.raises(InvalidInputError, match="`checkpoint` must be None with policy='con"):
            run(tmp_path, policy="constant", constraints=constraints)


def test_half_precision_comes_back(tmp_path):
    keras.utils.set_random_seed(0)

    def half():
        keras.config.set_dtype_policy("bfloat16")
        try:
            return network()
        finally:
            keras.config.set_dtype_policy("float32")

    def wide(model):
        return [keras.ops.convert_to_numpy(keras.ops.cast(v, "float32")) for v in model.weights]

    model, _ = run(make=half)
    with killed_after(3):
        run(tmp_path, make=half)
    for a, b in zip(wide(run(tmp_path, make=half)[0]), wide(model), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_it_works_on_the_torch_backend():
    pytest.importorskip("torch")
    words = "-W", "ignore:__array__:DeprecationWarning"
    name = "test_a_killed_run_ends_as_one_that_was_not"
    tests = [f"{__file__}::{name}[{kind}]" for kind in KINDS]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words, *tests],
        env={**os.environ, "KERAS_BACKEND": "torch"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert f"{len(KINDS)} passed" in done.stdout
