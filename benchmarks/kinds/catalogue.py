"""The problems of each kind: what they are made of, and how to load them with their scales."""

from __future__ import annotations

import json
from functools import lru_cache

from benchmarks.kinds.data import SPLITS, Split, family
from benchmarks.kinds.networks import Kind as Network
from benchmarks.kinds.problems import SCALES, Constraint, Live, Scale, Spec
from rlhf_tune.errors import InvalidInputError

CONSTRAINED = ("fine_tuning", "costs")
"""The kinds with a constraint."""


def _grids() -> list[Spec]:
    def one(dataset: str, space: str, optimizer: str, depth: int = 1) -> Spec:
        return Spec("grids", dataset, space, optimizer=optimizer, depth=depth)

    return [
        one("wine", "listed", "sgd"),
        one("moons", "whole", "adam", 2),
        one("classification:wide", "stepped", "adamw"),
        one("quantiles", "powers", "adam"),
        one("friedman:1", "listed", "adam", 2),
        one("digits", "listed", "sgd"),
        one("breast_cancer", "whole", "adam", 2),
        one("hastie", "stepped", "adamw"),
        one("s_curve", "powers", "adam"),
        one("diabetes", "whole", "sgd", 2),
    ]


def _rates() -> list[Spec]:
    def one(dataset: str, space: str, optimizer: str, depth: int) -> Spec:
        return Spec("rates", dataset, space, optimizer=optimizer, depth=depth)

    return [
        one("iris", "wide", "adam", 0),
        one("classification", "narrow", "adam", 2),
        one("moons", "linear", "sgd", 1),
        one("friedman:2", "wide", "sgd", 1),
        one("wine", "linear", "sgd", 0),
        one("breast_cancer", "wide", "adam", 0),
        one("digits:low", "narrow", "sgd", 2),
        one("circles", "linear", "sgd", 1),
        one("low_rank", "wide", "adam", 1),
        one("digits:high", "linear", "sgd", 0),
    ]


def _many(kind: str) -> list[Spec]:
    """`four`, `seven` and `categories`: the same data sets, in a space named after the kind."""
    validation = ("wine", "classification:wide", "quantiles", "friedman:3", "sparse")
    test = ("digits", "circles", "diabetes", "s_curve", "hastie")
    return [Spec(kind, name, kind, optimizer="sgd") for name in (*validation, *test)]


def _eight() -> list[Spec]:
    def one(dataset: str, network: Network) -> Spec:
        return Spec("eight", dataset, "eight", network=network)

    return [
        one("majority", "gru"),
        one("majority:long", "rnn"),
        one("adding", "gru"),
        one("adding:long", "rnn"),
        one("parity", "rnn"),
        one("sine", "rnn"),
        one("sine:short", "gru"),
        one("recall", "gru"),
    ]


def _fine_tuning() -> list[Spec]:
    validation = ("wine", "classification", "quantiles", "friedman:1")
    test = ("digits", "digits:low", "breast_cancer", "s_curve")
    return [
        Spec(
            "fine_tuning",
            name,
            "tuning",
            optimizer=("adam", "sgd")[i % 2],
            constraint="diverged" if i < 2 else "forgotten",
            flag=i % 2 == 1,
        )
        for names in (validation, test)
        for i, name in enumerate(names)
    ]


def _costs() -> list[Spec]:
    def one(dataset: str, constraint: Constraint, percentile: float) -> Spec:
        return Spec("costs", dataset, "sized", constraint=constraint, percentile=percentile)

    return [
        one("classification:wide", "flops", 40),
        one("quantiles", "parameters", 35),
        one("wine", "ceiling", 50),
        one("moons", "gap", 60),
        one("friedman:3", "gap", 40),
        one("digits", "flops", 40),
        one("circles", "parameters", 35),
        one("breast_cancer", "ceiling", 50),
        one("hastie", "gap", 60),
        one("diabetes", "gap", 40),
    ]


def _accuracy() -> list[Spec]:
    return [
        Spec("accuracy", "iris", "whole", objective="accuracy", optimizer="sgd"),
        Spec("accuracy", "classification:wide", "listed", objective="f1"),
        Spec("accuracy", "quantiles", "powers", objective="accuracy", depth=2),
        Spec("accuracy", "moons", "stepped", objective="f1", optimizer="adamw"),
        Spec("accuracy", "digits", "whole", objective="accuracy", optimizer="sgd"),
        Spec("accuracy", "digits:high", "listed", objective="f1"),
        Spec("accuracy", "hastie", "powers", objective="accuracy", depth=2),
        Spec("accuracy", "circles", "stepped", objective="f1", optimizer="adamw"),
    ]


@lru_cache(maxsize=1)
def specs() -> dict[str, list[Spec]]:
    """Every problem of every kind."""
    return {
        "grids": _grids(),
        "rates": _rates(),
        "four": _many("four"),
        "seven": _many("seven"),
        "eight": _eight(),
        "categories": _many("categories"),
        "fine_tuning": _fine_tuning(),
        "costs": _costs(),
        "accuracy": _accuracy(),
    }


KINDS = tuple(specs())


@lru_cache(maxsize=1)
def scales() -> dict[str, Scale]:
    """What is recorded, by the names of problems."""
    found = json.loads(SCALES.read_text()) if SCALES.exists() else {}
    return {name: Scale(**scale) for name, scale in found.items()}


def problems(kind: str, split: Split) -> list[Live]:
    """The problems of a kind whose data are in a split.

    Raises:
        InvalidInputError: If one has no scale yet.
    """
    chosen = [s for s in specs()[kind] if family(s.dataset) in SPLITS[split]]
    missing = [spec.name for spec in chosen if spec.name not in scales()]
    if missing:
        raise InvalidInputError(
            f"every problem needs a scale, but {SCALES} has none of {missing}; "
            "run python -m benchmarks.record_kinds"
        )
    return [Live(spec, scales()[spec.name]) for spec in chosen]
