"""`fit` for Keras: as `model.fit`, with moves that are verified or rolled back."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras_runs import (
    EXTRA,
    VALIDATION,
    X,
    Y,
    assert_at_best,
    assert_equal,
    eager,
    fit,
    kept,
    listener,
    network,
    plain,
    small,
    without,
)

from rlhf_tune.agents.network import Network
from rlhf_tune.errors import CannotCertify, InvalidInputError
from rlhf_tune.run import dqn_moves
from rlhf_tune.safety import constraint

pytest.importorskip("keras")
pytestmark = pytest.mark.keras
keras_and_numpy_2 = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")


# As model.fit


def test_constant_without_constraints_is_fit_bit_for_bit() -> None:
    ours, heard, hears = network(), listener(), listener()
    history = fit(ours, policy="constant", callbacks=[heard], batch_size=16)
    theirs = network()
    expected = plain(theirs, callbacks=[hears], batch_size=16)
    assert_equal(ours, theirs)
    assert without(EXTRA, history.history) == expected.history
    assert heard.heard == hears.heard
    assert history.epoch == expected.epoch
    assert history.history["learning_rate"] == pytest.approx([0.01] * 3)
    assert history.history["batch_size"] == [16] * 3
    assert history.history["move"] == ["stay"] * 3
    assert history.history["rolled_back"] == [0] * 3
    assert history.discarded == []
    assert ours.history is history


def test_a_verified_constant_run_is_fit_bit_for_bit() -> None:
    ours, theirs, heard, hears = network(), network(), listener(), listener()
    history = fit(
        ours, policy="constant", constraints=[kept()], callbacks=heard, shuffle=False, batch_size=16
    )
    expected = plain(theirs, callbacks=[hears], shuffle=False, batch_size=16)
    assert_equal(ours, theirs)
    extra = EXTRA | {"kept"}
    assert without(extra, history.history) == expected.history
    assert [(*rest, without(extra, logs)) for *rest, logs in heard.heard] == hears.heard
    assert history.history["kept"] == [0.0] * 3
    assert history.history["batch_size"] == [16] * 3


def test_weights_of_samples_and_a_split_reach_the_steps() -> None:
    arguments = {
        "validation_data": None,
        "validation_split": 0.25,
        "sample_weight": np.linspace(0, 1, 60),
        "validation_freq": 2,
        "initial_epoch": 1,
        "epochs": 5,
        "shuffle": False,
    }
    ours, theirs = eager(), eager()
    history = fit(ours, policy="constant", constraints=[kept()], **arguments)
    expected = plain(theirs, **arguments)
    assert_equal(ours, theirs)
    assert without(EXTRA | {"kept"}, history.history) == expected.history
    assert history.epoch == expected.epoch == [1, 2, 3, 4]
    assert len(history.history["val_loss"]) == 2


def test_validation_data_is_required() -> None:
    for policy in ("default", "constant"):
        with pytest.raises(InvalidInputError, match="`validation_split` must be given"):
            fit(eager(), policy=policy, validation_data=None)


def test_the_draw_of_the_seed_follows_keras() -> None:
    ends = []
    for _ in range(2):
        model = eager()  # sets the random seed
        fit(model, seed=None, epochs=1)
        ends.append(model)
    assert_equal(*ends)


def test_the_training_of_tf_data_has_no_batch_size() -> None:
    tf = pytest.importorskip("tensorflow")
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(20)
    for policy in ("grow", "constant"):
        model = eager()
        history = fit(model, x=data, y=None, batch_size=None, policy=policy, shuffle=False)
        assert len(history.history["loss"]) >= 2
        assert "batch_size" not in history.history


# Moves


def test_what_diverges_is_rolled_back_and_the_best_state_handed_back() -> None:
    model = eager(1e20)
    history = fit(model, policy="bold", epochs=8)
    assert {stretch.verdict for stretch in history.discarded} <= {"diverged", "worse"}
    assert all(np.isfinite(w).all() for w in model.get_weights())
    assert_at_best(model, history)


def test_the_range_test_replaces_a_bad_rate() -> None:
    rates = []
    for rate in (1e-9, 1e3):
        history = fit(small(rate), epochs=4, batch_size=4)
        first = 1e-3 * 10**1.25 * (4 / 32) ** 0.5  # lower for small batches
        assert history.range_test[0].learning_rate == pytest.approx(first)
        rates.append(history.history["learning_rate"][0])
    assert rates[0] == pytest.approx(rates[1], rel=1e-3)
    assert 1e-5 < rates[0] < 1


def test_the_batch_grows_in_powers_of_two() -> None:
    history = fit(small(), batch_size=2, policy="grow", epochs=5)
    sizes = history.history["batch_size"]
    assert sizes == sorted(sizes)
    assert {2} < set(sizes) <= {2, 4}


def test_learned_moves_change_rate_and_batch_between_epochs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weight = np.zeros((len(dqn_moves.FEATURES) + 2, 1))
    weight[-2:, 0] = -1.0, 1.0  # smaller rates and larger batches
    network = dqn_moves.RunNetwork(Network([(weight, np.zeros(1))]))
    monkeypatch.setattr(dqn_moves, "shipped", lambda: network)
    history = fit(small(), batch_size=2, policy="dqn", epochs=14).history
    at = history["move"].index("rate x0.25, batch x2")
    assert history["batch_size"] == [2] * at + [4] * (len(history["batch_size"]) - at)
    assert history["learning_rate"][at] < history["learning_rate"][at - 1]


def test_a_violation_is_rolled_back() -> None:
    largest = constraint("weight", lambda m: float(np.abs(m.get_weights()[0]).max()), at_most=1.0)
    model = eager(0.05)
    history = fit(model, policy="bold", epochs=8, constraints=[largest])
    assert "violates" in {stretch.verdict for stretch in history.discarded}
    assert largest(model).satisfied
    assert max(history.history["weight"]) <= 1.0


def test_where_nothing_can_be_certified_the_best_model_is_in_the_error() -> None:
    never = constraint("never", lambda model: 2.0, at_most=1.0)
    model, heard = eager(), listener()
    with pytest.raises(CannotCertify, match="never = 2 for a ceiling of 1") as raised:
        fit(model, constraints=[never], callbacks=[heard])
    assert raised.value.best is model
    assert raised.value.history is model.history
    assert heard.heard[-1][0] == "on_train_end"
    assert len(model.history.history["loss"]) == 3


@pytest.mark.parametrize("where", ["a callback", "a step"])
@pytest.mark.parametrize("policy", ["default", "constant"])
def test_an_interrupt_leaves_the_best_state_and_a_history(where: str, policy: str) -> None:
    import keras

    class Interrupt(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 2:
                if where == "a callback":
                    raise KeyboardInterrupt
                self.model.train_function = interrupted

    def interrupted(batches):
        raise KeyboardInterrupt

    model = eager()
    history = fit(model, epochs=9, policy=policy, callbacks=[Interrupt()])
    assert history.interrupted
    assert history.epoch[:2] == [0, 1]
    assert len(history.epoch) <= 3
    assert len({len(column) for column in history.history.values()}) == 1
    if policy == "default":
        assert_at_best(model, history)
    model.train_function = None
    assert len(fit(model, epochs=2).epoch) == 2  # and goes on


def test_averaged_weights() -> None:
    import keras

    def averaged() -> Any:
        return eager(optimizer=keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.5))

    model = averaged()
    fit(model)
    average = model.optimizer._model_variables_moving_average
    for weight, mean in zip(model.trainable_variables, average, strict=True):
        np.testing.assert_array_equal(weight.numpy(), mean.numpy())
    with pytest.raises(InvalidInputError, match="must not have use_ema=True"):
        fit(averaged(), constraints=[kept()])


def test_the_mode_follows_the_metric() -> None:
    import keras

    entropy = keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="entropy")
    model = eager(metrics=["accuracy", entropy])
    for metric, better in (("accuracy", np.greater_equal), ("entropy", np.less_equal)):
        history = fit(model, monitor=f"val_{metric}", epochs=2).history[f"val_{metric}"]
        now = model.evaluate(*VALIDATION, verbose=0, return_dict=True)[metric]
        assert better(now, np.array(history)).all() or now == pytest.approx(history[-1])


def test_a_metric_without_a_known_mode_needs_one() -> None:
    def score(y_true, y_pred):
        return 0.0 * y_pred[:, 0]

    with pytest.raises(InvalidInputError, match="got 'auto' for 'val_score'"):
        fit(eager(metrics=[score]), monitor="val_score")
    with pytest.raises(InvalidInputError, match="`mode` must be one of"):
        fit(eager(), mode="least")
    with pytest.raises(InvalidInputError, match="`policy` must be one of"):
        fit(eager(), policy="best")
    with pytest.raises(InvalidInputError, match="`monitor` must be one of"):
        fit(eager(), monitor="val_nothing", mode="min")


# What is shown


@pytest.mark.parametrize("verbose", [1, 2])
def test_the_display_shows_what_happens(verbose: int, capsys: pytest.CaptureFixture[str]) -> None:
    fit(eager(30.0), policy="bold", epochs=3, verbose=verbose, constraints=[kept("size")])
    shown = capsys.readouterr().out
    assert "Epoch 1/3" in shown
    assert "learning_rate: " in shown
    assert "batch_size: 30" in shown
    assert "size margin: 1.0" in shown
    assert "rolled back: " in shown
    fit(small(), epochs=4, batch_size=4, verbose=verbose)
    assert "range test (" in capsys.readouterr().out


def test_silence_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    fit(eager(30.0), policy="bold", verbose=0)
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_all_of_it_works_on_the_torch_backend() -> None:
    pytest.importorskip("torch")
    here = Path(__file__).parent
    words = ["-q", "-p", "no:cacheprovider", "-W", "ignore:__array__:DeprecationWarning"]
    chosen = (
        "not TfData and (replays or brings_everything or next_steps or arrays or verified_constant "
        "or committed or files or averaged or is_fit_for or keras_statistics)"
    )
    files = [
        str(here / f"test_keras_{part}.py")
        for part in ("trainer", "fit", "callbacks", "as_fit", "statistics")
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, "-k", chosen, *files],
        env={**os.environ, "KERAS_BACKEND": "torch"},
        cwd=here.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
