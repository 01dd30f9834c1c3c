"""A skorch net trained while a policy moves its learning rate.

python examples/skorch_net.py
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from skorch import NeuralNetClassifier

from rlhf_tune_integrations.skorch import fit


def network() -> torch.nn.Module:
    """Logits of ten digits."""
    return torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))


def main(argv: Sequence[str] | None = None) -> int:
    """Train with the policy and without, and print both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args(argv)
    images, labels = load_digits(return_X_y=True)
    x, x_val, y, y_val = train_test_split((images / 16).astype(np.float32), labels, random_state=0)
    for policy in ("constant", "default"):
        torch.manual_seed(0)
        net = NeuralNetClassifier(
            network,
            criterion=torch.nn.CrossEntropyLoss,
            optimizer=torch.optim.Adam,
            lr=1e-3,
            batch_size=32,
            iterator_train__shuffle=True,
            train_split=None,  # the validation data are given below
            verbose=0,
        )
        fit(net, x, y, validation_data=(x_val, y_val), epochs=args.epochs, policy=policy, verbose=0)
        print(f"policy {policy}: accuracy {(net.predict(x_val) == y_val).mean():.3f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
