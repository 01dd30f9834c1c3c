"""How many samples a gate needs: ``python -m rlhf_tune.gate.power`` prints the docs' tables."""

from __future__ import annotations

from collections.abc import Iterable

from scipy.stats import binom

SIZES = (50, 100, 200, 500, 1000, 2000, 5000, 10000)
FLOORS = (0.5, 0.75, 0.9)
MARGINS = (-0.02, 0.0, 0.02, 0.05, 0.1)


def least_successes(n: int, floor: float, confidence: float = 0.95) -> int:
    """The fewest successes of n whose exact lower bound is at least `floor`; n + 1 if none is.

    The lower Clopper-Pearson bound of k successes reaches the floor exactly when k or more would
    be seen with a probability of at most ``1 - confidence`` if the floor were the truth.
    """
    return int(binom.isf(1 - confidence, n, floor)) + 1


def chance_of_a_pass(truth: float, n: int, floor: float, confidence: float = 0.95) -> float:
    """The probability that a model of this true accuracy passes on n samples."""
    return float(binom.sf(least_successes(n, floor, confidence) - 1, n, truth))


def observed(confidence: float = 0.95) -> str:
    """A table: the accuracy that must be observed for a pass."""
    head = ["n", *(f"floor {floor:g}" for floor in FLOORS)]
    rows = [[str(n), *(_share(n, floor, confidence) for floor in FLOORS)] for n in SIZES]
    return _table(head, rows)


def power(floor: float = 0.75, confidence: float = 0.95) -> str:
    """A table: the chance of a pass by how far the truth is from the floor."""
    head = ["n", *(f"true accuracy {floor + margin:g}" for margin in MARGINS)]
    rows = [
        [str(n), *(f"{chance_of_a_pass(floor + m, n, floor, confidence):.3f}" for m in MARGINS)]
        for n in SIZES
    ]
    return _table(head, rows)


def _share(n: int, floor: float, confidence: float) -> str:
    least = least_successes(n, floor, confidence)
    return f"{least / n:.4g}" if least <= n else "none"


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    print(f"{observed()}\n\n{power()}")
