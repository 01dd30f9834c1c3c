"""Trainers that raise, diverge, exit or run out of memory: a clear record, and a sane next move."""

import gc
import math
import weakref
from typing import Any

import numpy as np
import pytest

from rlhf_tune.errors import DivergedError
from rlhf_tune.run.checkpoints import attach
from rlhf_tune.run.driver import Run
from rlhf_tune.run.memory import ran_out
from rlhf_tune.run.policies import RunPolicy
from rlhf_tune.run.stretch import Move
from rlhf_tune.testing import (
    FaultyTrainer,
    ScriptedTrainer,
    TrainerContract,
    diverges,
    not_finite,
    out_of_memory,
    raises,
)


class TestAFaultyTrainerWithoutFaults(TrainerContract):
    def make(self) -> Any:
        return FaultyTrainer(ScriptedTrainer())

    def state(self, trainer: Any) -> Any:
        return vars(trainer.model)


def run_of(*faults: Any, batch_size: int = 32, epochs: float = 8, **options: Any) -> Run:
    trainer = FaultyTrainer(ScriptedTrainer(batch_size=batch_size, samples=1280), *faults)
    return Run(trainer, epochs=epochs, **options)


def growing(state: Any) -> Move:
    """Doubles the batch wherever it may."""
    now, limit = state.batch_size_now, state.batch_size_limit
    return Move("grow", {"batch_size": now * 2} if now * 2 <= limit else {})


@pytest.mark.parametrize("policy", ["default", "dqn", "grow", "bold", "constant"])
def test_a_batch_that_does_not_fit_is_halved_and_the_run_goes_on(policy: str) -> None:
    run = run_of(out_of_memory(above=40), batch_size=128, policy=policy)
    with pytest.warns(UserWarning, match="memory ran out at batch size"):
        history = run.drive()
    assert history.out_of_memory == [128, 64]
    assert max(history.history["batch_size"]) == 32
    assert history.history["val_loss"][-1] < 0.1, "it learned"
    assert run.guarded.spent == pytest.approx(8), "what failed cost nothing"


def test_larger_batches_are_masked_once_one_has_failed() -> None:
    run = run_of(out_of_memory(above=100), policy=RunPolicy(growing, guard=None, stretches=8))
    with pytest.warns(UserWarning, match="at batch size 128; the run goes on with smaller ones"):
        history = run.drive()
    assert history.out_of_memory == [128], "tried once"
    assert max(history.history["batch_size"]) == 64
    sizes = [stretch.batch_size for stretch in run.guarded.record]
    assert sizes == sorted(sizes)


def test_a_state_in_the_middle_of_an_epoch_keeps_its_place() -> None:
    """Memory that shrinks meanwhile, as where another process takes some."""
    shrunk = out_of_memory(above=16)
    run = run_of(
        lambda trainer, number, steps: shrunk(trainer, number, steps) if number > 1 else None,
        policy=RunPolicy(lambda _: Move("stay"), guard=None, stretches=32),
        epochs=4,
    )
    with pytest.warns(UserWarning, match="at batch size 32"):
        history = run.drive()
    assert history.history["batch_size"] == [16, 16, 16, 16]
    assert len(history.epoch) == 4
    assert run.guarded.spent == pytest.approx(4)


def test_where_no_smaller_batch_can_be_set_the_error_is_the_callers() -> None:
    run = run_of(out_of_memory(above=0), batch_size=4)
    with (
        pytest.warns(UserWarning, match="memory ran out"),
        pytest.raises(MemoryError, match="at batch size 1") as caught,
    ):
        run.drive()
    assert caught.value.history.out_of_memory == [4, 2]
    assert caught.value.best is run.guarded._trainer.model


def test_what_the_failed_step_held_is_free_before_the_next_one() -> None:
    held: list[Any] = []

    def fault(trainer: Any, number: int, steps: int) -> None:
        gc.disable()
        if trainer.hyperparameters["batch_size"] > 32:
            large = np.zeros(10)
            held.append(weakref.ref(large))
            raise MemoryError
        assert held[-1]() is None

    try:
        with pytest.warns(UserWarning, match="memory ran out"):
            run_of(fault, batch_size=64, epochs=1).drive()
    finally:
        gc.enable()


@pytest.mark.filterwarnings("ignore:memory ran out")
def test_sizes_that_failed_are_known_after_a_restart(tmp_path: Any) -> None:
    faults = out_of_memory(above=40), raises(KeyboardInterrupt(), at=20)
    run = run_of(*faults, batch_size=128)
    attach(run, tmp_path)
    run.drive()
    again = run_of(out_of_memory(above=40), batch_size=128)
    assert attach(again, tmp_path)
    history = again.drive()
    assert history.out_of_memory == [128, 64], "none was tried again"


def test_an_environment_says_so_and_masks_it() -> None:
    pytest.importorskip("gymnasium")
    from rlhf_tune.envs import TuningEnv

    trainer = FaultyTrainer(ScriptedTrainer(samples=1280), out_of_memory(above=32))
    env = TuningEnv(trainer, steps=5)
    _, info = env.reset(seed=0)
    doubles = next(
        i for i, move in enumerate(env.move_set.actions)
        if move == {"learning_rate": 1.0, "batch_size": 2.0}
    )  # fmt: skip
    assert info["action_mask"][doubles]
    with pytest.warns(UserWarning, match="memory ran out at batch size 64"):
        _, _, _, _, info = env.step(doubles)
    assert info["verdict"] == "out of memory"
    assert info["batch_size"] == 32
    assert not info["action_mask"][doubles]


class ResourceExhaustedError(Exception):
    """As TensorFlow's is called."""


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (MemoryError(), True),
        (ResourceExhaustedError("OOM when allocating tensor"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] can't allocate"), False),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (ValueError("out of memory"), False),
    ],
)  # fmt: skip
def test_which_errors_say_that_memory_ran_out(error: Exception, memory: bool) -> None:
    assert ran_out(error) is memory


def test_pytorch_s_own_error_is_one() -> None:
    torch = pytest.importorskip("torch")
    assert ran_out(torch.OutOfMemoryError("CUDA out of memory"))


@pytest.mark.keras
def test_tensorflow_s_own_error_is_one() -> None:
    tensorflow = pytest.importorskip("tensorflow")
    assert ran_out(tensorflow.errors.ResourceExhaustedError(None, None, "OOM"))


@pytest.mark.parametrize("error", [ValueError("bug"), SystemExit(3), OSError(28, "disk full")])
def test_whatever_is_raised_leaves_the_best_state_and_the_history(error: BaseException) -> None:
    run = run_of(raises(error, at=11))
    with pytest.raises(type(error)) as caught:
        run.drive()
    assert caught.value is error
    history = caught.value.history
    assert history.epoch
    best = run.guarded.best
    assert run.guarded._trainer.evaluate()["val_loss"] == pytest.approx(best.value)
    assert "rlhf_tune: " in caught.value.__notes__[0]


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_one_loss_that_is_not_finite_is_rolled_back_and_the_rate_cut(loss: float) -> None:
    run = run_of(not_finite(at=11, loss=loss))
    history = run.drive()
    (stretch,) = history.discarded
    assert stretch.verdict == "diverged"
    at = next(i for i, each in enumerate(run.guarded.record) if each is stretch)
    assert run.guarded.record[at + 1].learning_rate < stretch.learning_rate
    assert history.history["val_loss"][-1] < 0.1


def test_rates_that_diverge_are_left_for_smaller_ones() -> None:
    history = run_of(diverges(above=0.02)).drive()
    assert max(history.history["learning_rate"]) <= 0.02
    assert history.history["val_loss"][-1] < history.history["val_loss"][0]


def test_what_diverges_at_any_rate_ends_with_the_cause() -> None:
    with pytest.raises(DivergedError, match="and would at any"):
        run_of(diverges(above=0)).drive()


def data() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(320, 4)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(np.int64)


@pytest.mark.filterwarnings("ignore:memory ran out")
def test_a_fit_of_pytorch_goes_on_smaller() -> None:
    torch = pytest.importorskip("torch")
    from rlhf_tune_integrations.pytorch import fit

    class Large(torch.nn.Linear):
        def forward(self, x: Any) -> Any:
            if self.training and len(x) > 20:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(x)

    torch.manual_seed(0)
    model, (x, y) = Large(4, 2), data()
    optimizer, loss = torch.optim.Adam(model.parameters()), torch.nn.functional.cross_entropy
    fits = {"batch_size": 64, "epochs": 6, "verbose": 0, "seed": 0}
    history = fit(model, optimizer, loss, (x[:256], y[:256]), (x[256:], y[256:]), **fits)
    assert history.out_of_memory == [64, 32]
    assert set(history.history["batch_size"]) == {16}
    assert history.history["val_loss"][-1] < history.history["val_loss"][0]


@pytest.mark.keras
@pytest.mark.filterwarnings("ignore:memory ran out")
def test_a_fit_of_keras_goes_on_smaller() -> None:
    keras = pytest.importorskip("keras")
    from rlhf_tune_integrations.keras import fit

    @keras.saving.register_keras_serializable("faults")
    class Large(keras.Sequential):
        def train_step(self, *data: Any) -> Any:
            raise NotImplementedError

    del Large  # TensorFlow's own train step raises within its graph, as at the GPU
    tensorflow = pytest.importorskip("tensorflow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("raises in TensorFlow's graph")

    keras.utils.set_random_seed(0)

    class Limit(keras.layers.Layer):
        def call(self, x: Any, training: bool = False) -> Any:
            def check(rows: Any) -> Any:
                if training and len(rows) > 20:
                    raise MemoryError
                return rows

            seen = tensorflow.numpy_function(check, [x], tensorflow.float32, stateful=True)
            return tensorflow.ensure_shape(seen, x.shape)

    model = keras.Sequential([keras.Input((4,)), Limit(), keras.layers.Dense(2)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = data()
    held_out = {"validation_data": (x[256:], y[256:]), "verbose": 0, "seed": 0}
    history = fit(model, x[:256], y[:256], batch_size=64, epochs=4, **held_out)
    assert set(history.history["batch_size"]) == {16}


@pytest.mark.keras
@pytest.mark.filterwarnings("ignore:`x` holds values that are not finite")
def test_keras_hands_back_no_weights_that_are_nan() -> None:
    keras = pytest.importorskip("keras")
    from rlhf_tune_integrations.keras import fit

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = data()
    train = x[:256].copy()
    train[5] = np.nan
    held_out = {"validation_data": (x[256:], y[256:]), "verbose": 0, "seed": 0}
    with pytest.raises(DivergedError, match="not finite, first in row 5"):
        fit(model, train, y[:256], epochs=4, **held_out)
    assert all(np.isfinite(weights).all() for weights in model.get_weights())
