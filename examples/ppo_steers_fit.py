"""A MaskablePPO of sb3-contrib learns to move a learning rate, and then steers `fit`.

It learns on `TuningEnv` over a training run that is a formula, some hundred episodes,
each from a rate drawn at random. Then `RunPolicy.of(agent)` drives a real run of PyTorch with it,
from a rate a hundred times too small, beside the DQN of this project (`policy="dqn"`), the
default policy, and a constant rate, which is what it has to beat.

    python examples/ppo_steers_fit.py
    python examples/ppo_steers_fit.py --learn 2048 --epochs 4
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from sb3_contrib import MaskablePPO
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from rlhf_tune.envs import TuningEnv
from rlhf_tune.run import RunPolicy
from rlhf_tune.run.schedules import SGD
from rlhf_tune.testing import ScriptedTrainer
from rlhf_tune_integrations.pytorch import fit


class FromAnyRate(gym.Wrapper):  # type: ignore[type-arg]
    """Every episode begins at a learning rate drawn between 1e-4 and 1."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Draw it."""
        super().reset(seed=seed)
        drawn = float(10 ** self.env.np_random.uniform(-4, 0))
        return self.env.reset(options={"learning_rate": drawn})

    def action_masks(self) -> Any:
        """Where MaskablePPO looks for them."""
        return self.env.unwrapped.action_masks()


def taught(steps: int, seed: int) -> MaskablePPO:
    """An agent that has taken so many steps in the formula."""
    trainer = ScriptedTrainer(samples=3200, curvature=1.0, noise=4.0)
    env = FromAnyRate(TuningEnv(trainer, steps=100, usual_rate=SGD))
    agent = MaskablePPO("MlpPolicy", env, seed=seed, n_steps=256, gamma=0.99, device="cpu")
    return agent.learn(steps)


def main(argv: Sequence[str] | None = None) -> int:
    """Teach, then compare by the validation loss of a real run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--learn", type=int, default=6_000, help="steps in the formula")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--rate", type=float, default=1e-4, help="that the run begins with")
    args = parser.parse_args(argv)
    agent = taught(args.learn, seed=0)
    images, labels = load_digits(return_X_y=True)
    x, x_val, y, y_val = train_test_split((images / 16).astype(np.float32), labels, random_state=0)
    policies = {"constant": "constant", "default": "default", "dqn": "dqn"}
    for name, policy in {**policies, "MaskablePPO": RunPolicy.of(agent)}.items():
        torch.manual_seed(0)
        layers = torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)
        model = torch.nn.Sequential(*layers)
        history = fit(
            model,
            torch.optim.SGD(model.parameters(), lr=args.rate, momentum=0.9),
            torch.nn.functional.cross_entropy,
            (x, y),
            (x_val, y_val),
            epochs=args.epochs,
            policy=policy,
            seed=0,
            verbose=0,
        )
        rates = history.history["learning_rate"]
        loss = min(history.history["val_loss"])
        print(f"{name}: validation loss {loss:.3f}, rates {min(rates):.2g} to {max(rates):.2g}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
