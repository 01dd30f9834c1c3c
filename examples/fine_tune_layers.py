"""Fine-tune a network by groups of its layers, then with two operations of your own.

A small network is trained on handwritten digits; then the digits come mirrored, and 60 labels of
them are there. One call finds which layers to train. After that the environment is played by hand
with operations that the package does not have: half of a group's weights are pruned, where the
reward pays for the smaller model, and a group is fused with the one of another network. Run it:

    python examples/fine_tune_layers.py
    python examples/fine_tune_layers.py --epochs 2
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from sklearn.datasets import load_digits

from rlhf_tune.envs import FineTuningEnv
from rlhf_tune.fine_tuning import OPERATIONS, Operation, describe_groups
from rlhf_tune.fine_tuning.groups import Layers
from rlhf_tune.fine_tuning.operations import GroupTrainer
from rlhf_tune_integrations.pytorch import TorchTrainer, fine_tune, layers_of


def network(x: torch.Tensor, y: torch.Tensor, epochs: int) -> torch.nn.Module:
    """A network trained on some rows."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 32),
        torch.nn.ReLU(),
        torch.nn.Linear(32, 32),
        torch.nn.ReLU(),
        torch.nn.Linear(32, 10),
    )
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(y)).split(32):
            loss = torch.nn.functional.cross_entropy(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


def pruned(trainer: GroupTrainer, names: Sequence[str]) -> None:
    """The smaller half of each array of weights becomes 0."""
    for name in names:
        held = trainer.layers.weights(name)
        cut = [np.where(np.abs(w) < np.median(np.abs(w)), 0, w) for w in held]
        trainer.layers.assign(name, cut)


def fused_with(other: Layers) -> Operation:
    """Half way to the weights of another network of the same kind (arXiv:2203.05482)."""

    def fuse(trainer: GroupTrainer, names: Sequence[str]) -> None:
        for name in names:
            pairs = zip(trainer.layers.weights(name), other.weights(name), strict=True)
            trainer.layers.assign(name, [(a + b) / 2 for a, b in pairs])

    return Operation("fuse", change=fuse)


def main(argv: Sequence[str] | None = None) -> int:
    """Tune, explain, and try the operations on each group."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    args = parser.parse_args(argv)
    digits = load_digits()
    x = torch.tensor(digits.data / 16, dtype=torch.float32)
    y = torch.tensor(digits.target)
    model = network(x[:800], y[:800], args.epochs)
    other = layers_of(network(x[200:1000], y[200:1000], args.epochs))
    mirrored = x[1000:].reshape(-1, 8, 8).flip(2).flatten(1)
    few, validation = (mirrored[:60], y[1000:1060]), (mirrored[60:120], y[1060:1120])
    describe_groups(model)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    print(
        fine_tune(
            model,
            *few,
            validation_data=validation,
            optimizer=optimizer,
            epochs=args.epochs,
            policy="search",
            seed=0,
        )
    )
    trainer = TorchTrainer(
        model,
        optimizer,
        torch.nn.functional.cross_entropy,
        few,
        validation,
        batch_size=16,
        metrics=("accuracy",),
        seed=0,
    )
    operations = (
        *OPERATIONS,
        Operation("prune", change=pruned, bonus=0.05),
        fused_with(other),
    )
    env = FineTuningEnv(trainer, operations=operations)
    for action in range(env.action_space.n):
        group, operation = env.decode(action)
        if operation in ("prune", "fuse"):
            env.reset(seed=0)
            _, reward, _, _, info = env.step(np.int64(action))
            print(f"{operation} {group}: accuracy {info['metric']:.3f}, reward {reward:+.3f}")
    env.reset()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
