"""Logistic regression, SVM, linear regression and a network of scikit-learn, their rates moved.

python examples/sklearn_estimators.py
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import SGDClassifier, SGDRegressor
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from rlhf_tune_integrations.sklearn import fit

CONSTANT = {"learning_rate": "constant", "eta0": 0.01, "random_state": 0}


def main(argv: Sequence[str] | None = None) -> int:
    """Train each, and print its score on the validation data."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args(argv)
    estimators = {
        "logistic regression": SGDClassifier(loss="log_loss", **CONSTANT),
        "SVM": SGDClassifier(loss="hinge", **CONSTANT),
        "network": MLPClassifier(random_state=0),
        "linear regression": SGDRegressor(**CONSTANT),
    }
    for name, estimator in estimators.items():
        load = load_diabetes if name == "linear regression" else load_digits
        features, targets = load(return_X_y=True)
        targets = targets / 100 if load is load_diabetes else targets
        x, x_val, y, y_val = train_test_split(
            StandardScaler().fit_transform(features), targets, random_state=0
        )
        history = fit(
            estimator, x, y, validation_data=(x_val, y_val), epochs=args.epochs, seed=0, verbose=0
        )
        rates = history.history["learning_rate"]
        score = estimator.score(x_val, y_val)
        print(f"{name}: score {score:.3f}, rates {max(rates):.2g} to {min(rates):.2g}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
