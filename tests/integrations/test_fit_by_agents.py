"""`fit` of both frameworks, driven by agents that learned in `TuningEnv`."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("gymnasium")

from rlhf_tune.envs import TuningEnv
from rlhf_tune.run import RunPolicy
from rlhf_tune.safety import constraint

RNG = np.random.default_rng(0)
X = RNG.normal(size=(256, 4)).astype(np.float32)
Y = (X[:, 0] * X[:, 1] > 0).astype(np.int64)
TRAIN, VALIDATION = (X[:192], Y[:192]), (X[192:], Y[192:])
HELD = constraint("steady", lambda model: 1.0, at_least=0.5)


class Doubling:
    """Doubles the rate wherever it may, else stays; it remembers what it was shown."""

    def __init__(self) -> None:
        self.shown: list[Any] = []

    def act(self, observation: Any, mask: Any) -> int:
        self.shown.append(observation)
        return 9 if mask[9] else 0


def check(history: Any, agent: Doubling) -> None:
    assert set(history.history["move"]) == {"rate x2"}
    assert history.history["learning_rate"] == pytest.approx([0.002, 0.004, 0.008, 0.016])
    assert len(agent.shown) == 4
    assert {(seen.shape, seen.dtype.name) for seen in agent.shown} == {((20,), "float32")}
    assert agent.shown[-1][-1] == pytest.approx(0.5)  # the margin of the constraint


def torch_parts() -> Any:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    return model, optimizer, torch.nn.functional.cross_entropy


def test_an_agent_drives_fit_of_torch() -> None:
    parts, agent = torch_parts(), Doubling()
    from rlhf_tune_integrations.pytorch import fit

    policy = RunPolicy.of(agent, stretches=4)
    history = fit(
        *parts, TRAIN, VALIDATION, epochs=4, policy=policy, constraints=[HELD], seed=0, verbose=0
    )
    check(history, agent)


def test_an_agent_drives_a_controller_of_torch() -> None:
    (model, optimizer, loss_fn), agent = torch_parts(), Doubling()
    import torch

    from rlhf_tune_integrations.pytorch import Controller

    policy = RunPolicy.of(agent)
    controller = Controller(model, optimizer, epochs=3, policy=policy)
    x, y = map(torch.from_numpy, VALIDATION)
    while controller.running:
        with torch.no_grad():
            controller.after_epoch({"val_loss": float(loss_fn(model(x), y))})
    controller.finish()
    assert [stretch.move for stretch in controller.record] == ["rate x2"] * 3
    assert [stretch.learning_rate for stretch in controller.record] == pytest.approx(
        [0.002, 0.004, 0.008]
    )


@pytest.mark.parametrize("name", ["PPO", "MaskablePPO"])
def test_an_agent_of_stable_baselines_learns_on_a_trainer_and_drives_fit(name: str) -> None:
    baselines = pytest.importorskip("stable_baselines3")
    module = pytest.importorskip("sb3_contrib") if name == "MaskablePPO" else baselines
    parts = torch_parts()
    from rlhf_tune_integrations.pytorch import TorchTrainer, fit

    env = TuningEnv(TorchTrainer(*parts, TRAIN, VALIDATION, seed=0), steps=48, stretch=6)
    agent = getattr(module, name)("MlpPolicy", env, n_steps=16, batch_size=8, seed=0, device="cpu")
    agent.learn(16)
    policy = RunPolicy.of(agent, stretches=8)
    history = fit(*torch_parts(), TRAIN, VALIDATION, epochs=8, policy=policy, seed=0, verbose=0)
    assert history.history["val_loss"][-1] < 0.75


@pytest.mark.keras
def test_an_agent_drives_fit_of_keras() -> None:
    keras = pytest.importorskip("keras")
    from rlhf_tune_integrations.keras import fit

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss)
    agent = Doubling()
    history = fit(
        model,
        *TRAIN,
        epochs=4,
        validation_data=VALIDATION,
        verbose=0,
        policy=RunPolicy.of(agent, stretches=4),
        constraints=[HELD],
        seed=0,
    )
    check(history, agent)
