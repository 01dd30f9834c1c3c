"""Data of two groups whose labels differ in rate, for tests of both frameworks."""

from typing import Any

import numpy as np

RNG = np.random.default_rng(0)
N = 5200
SEX = RNG.choice(["f", "m"], N, p=[0.4, 0.6])
SKILL = RNG.normal(size=N)
X = np.column_stack([SKILL, (SEX == "m") + RNG.normal(0, 0.3, N), RNG.normal(size=N)])
X = X.astype(np.float32)
Y = (SKILL + 1.2 * (SEX == "m") + RNG.normal(0, 0.8, N) > 0.8).astype(np.int64)
TRAIN, VALIDATION, PROBE, TEST = (
    slice(1200),
    slice(1200, 1600),
    slice(1600, 4400),
    slice(4400, None),
)


def of(part: slice) -> tuple[Any, Any]:
    return X[part], Y[part]


def gap(predicted: Any, part: slice) -> float:
    sex = SEX[part]
    return float(predicted[sex == "m"].mean() - predicted[sex == "f"].mean())
