"""Move learning rate and batch size inside one training run, with a floor under attack.

A network of two convolutions, one dense layer and an output (ReLU, cross-entropy) is trained once.
Each stretch of the training is verified: it is rolled back if it makes things much worse, or lets
the accuracy under an FGSM attack fall below its floor again. Run it:

    python examples/mnist_cnn.py
    python examples/mnist_cnn.py --framework torch --epochs 5
    python examples/mnist_cnn.py --data mnist.npz --train 10000

mnist.npz holds x_train, y_train, x_test and y_test, as keras.datasets keeps it; without it the
digits of scikit-learn are used.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_tune import CannotCertify
from rlhf_tune.demo.data import DIGITS, Data, load
from rlhf_tune.safety import Constraint, RobustAccuracy

History = Mapping[str, Sequence[Any]]


def with_keras(
    data: Data, floor: Constraint, rate: float, epochs: int, policy: str, verbose: int
) -> tuple[Any, History]:
    """Train on images [N, H, W, C]; returns the model and the history."""
    import keras

    from rlhf_tune_integrations.keras import fit

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input(data.shape),
            keras.layers.Conv2D(16, 3, strides=2, padding="same", activation="relu"),
            keras.layers.Conv2D(32, 3, strides=2, padding="same", activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(data.classes),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    history = fit(
        model,
        data.x_train,
        data.y_train,
        epochs=epochs,
        validation_data=(data.x_validation, data.y_validation),
        constraints=[floor],
        policy=policy,
        verbose=2 * verbose,
    )
    return model, history.history


def with_torch(
    data: Data, floor: Constraint, rate: float, epochs: int, policy: str, verbose: int
) -> tuple[Any, History]:
    """Train on images [N, C, H, W]; returns the model and the history."""
    import torch
    from torch import nn

    from rlhf_tune_integrations.pytorch import fit

    torch.manual_seed(0)
    channels, height, width = data.x_train.shape[1:]
    model = nn.Sequential(
        nn.Conv2d(channels, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * -(-height // 4) * -(-width // 4), 64),
        nn.ReLU(),
        nn.Linear(64, data.classes),
    )
    history = fit(
        model,
        torch.optim.Adam(model.parameters(), rate),
        nn.functional.cross_entropy,
        (data.x_train, data.y_train),
        (data.x_validation, data.y_validation),
        epochs=epochs,
        metrics=["accuracy"],
        constraints=[floor],
        policy=policy,
        verbose=verbose,
    )
    return model, history.history


def channels_first(data: Data) -> Data:
    """The same images as PyTorch convolves them."""
    arrays = {name: getattr(data, name) for name in ("x_train", "x_validation", "x_test")}
    return dataclasses.replace(data, **{name: np.moveaxis(x, 3, 1) for name, x in arrays.items()})


def main(argv: Sequence[str] | None = None) -> int:
    """Train, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--framework", choices=("keras", "torch"), default="keras")
    parser.add_argument("--data", default=DIGITS, help="an npz file; default: embedded digits")
    parser.add_argument("--train", type=int, default=10_000, help="training images at most")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--policy", default="grow", help="dqn, default, grow, bold or constant")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate to begin with")
    parser.add_argument("--eps", type=float, default=0.05, help="of the attack, of the range 0..1")
    parser.add_argument("--at-least", type=float, default=0.5, help="accuracy under attack")
    parser.add_argument("--quiet", action="store_true", help="show the result only")
    args = parser.parse_args(argv)
    data = load(args.data, max_train=args.train)
    if args.framework == "torch":
        data = channels_first(data)
    asked: dict[str, Any] = {"eps": args.eps, "at_least": args.at_least}
    floor = RobustAccuracy(data.x_validation, data.y_validation, **asked)
    train = with_torch if args.framework == "torch" else with_keras
    try:
        model, history = train(data, floor, args.rate, args.epochs, args.policy, not args.quiet)
    except CannotCertify as exc:
        print("no model can be certified:", exc)
        return 1
    for rate, size, move in zip(
        history["learning_rate"], history["batch_size"], history["move"], strict=True
    ):
        print(f"learning rate {rate:.2g}, batch size {size}: {move}")
    held_out = RobustAccuracy(data.x_test, data.y_test, **asked, full=True)(model)
    clean = held_out.details["clean_accuracy"]
    print(f"held out: accuracy {clean:.3f}, under attack {held_out.value:.3f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
