"""Simulated people and real choices: what comparisons teach, beside what could be known."""

from __future__ import annotations

import csv
import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler

from rlhf_tune import DQNSampler
from rlhf_tune.feedback import JudgementLog, RewardModel, bradley_terry, fit_annotators, next_pair
from rlhf_tune.study.comparing import Session
from rlhf_tune.study.preferences import make_preferential

Floats = NDArray[np.float64]
Utility = Callable[[Floats], Floats]

ITEMS, OUTCOMES = 60, 5
SPACE = {"x": FloatDistribution(1e-4, 1.0, log=True), "n": IntDistribution(1, 16)}
BRANDS = ("yoplait", "dannon", "hiland", "weight")


def answer(gap: Floats, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Whether the first is preferred, with logistic noise."""
    return np.asarray(rng.random(np.shape(gap)) < 1 / (1 + np.exp(-np.clip(gap, -50, 50))))


def ordered(seed: int, deviation: float, *, chosen: bool, questions: int = 20) -> float:
    """The pair accuracy after questions about 60 trials of five outcomes.

    Args:
        seed: Of everything.
        deviation: Of the utilities, beside the noise of an answer.
        chosen: Whether the questions are those that tell most, or drawn.
        questions: So many.
    """
    rng = np.random.default_rng(seed)
    outcomes, weights = rng.normal(size=(ITEMS, OUTCOMES)), rng.normal(size=OUTCOMES)
    utilities = outcomes @ (deviation * weights / np.linalg.norm(weights))
    asked: list[tuple[int, int]] = []
    said: list[bool] = []
    nothing = np.zeros((0, OUTCOMES))
    model = RewardModel().fit(nothing, nothing, population=outcomes)
    for _ in range(questions):
        pair = next_pair(model, outcomes, asked, rng) if chosen else None
        i, j = pair or (int(k) for k in rng.choice(ITEMS, 2, replace=False))
        asked.append((i, j))
        said.append(bool(answer(utilities[i] - utilities[j], rng)))
        left, right = np.array(asked).T
        model = RewardModel().fit(
            outcomes[left], outcomes[right], answers=said, population=outcomes
        )
    i, j = np.triu_indices(ITEMS, 1)
    found = model.predict(outcomes)[0]
    return float(((found[i] > found[j]) == (utilities[i] > utilities[j])).mean())


def straight(x: Floats) -> Floats:
    """A utility that is linear."""
    return np.asarray(x @ np.array([2.0, -1.0, 1.0, 0.5, -0.5]))


def bent(x: Floats) -> Floats:
    """Enough is enough of the first, too little of the second hurts, and two go together."""
    low, both = 2 * np.minimum(x[:, 0], 0) + 1.5 * np.tanh(3 * x[:, 1]), x[:, 3] * x[:, 4]
    return np.asarray(low - 2 * np.maximum(x[:, 2], 0) + both)


UTILITIES: Mapping[str, Utility] = {"linear": straight, "bent": bent}


def taught(utility: Utility, members: int, seed: int) -> tuple[float, float, float, float]:
    """Of 1,500 noisy pairs: accuracy, the oracle's, calibration error, accuracy where certain."""

    def pairs(n: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
        a, b = rng.normal(size=(2, n, OUTCOMES))
        first = answer(utility(a) - utility(b), rng)[:, None]
        return np.where(first, a, b), np.where(first, b, a)

    rng = np.random.default_rng(seed)
    model = RewardModel(seed=seed, members=members).fit(*pairs(1500, rng))
    preferred, rejected = pairs(4000, rng)
    score, p = model.score(preferred, rejected), model.probability(preferred, rejected)
    certain = np.maximum(p, 1 - p) > 0.95
    oracle = float((utility(preferred) > utility(rejected)).mean())
    return score.accuracy, oracle, score.calibration_error, float((p[certain] > 0.5).mean())


def utility_of(params: Mapping[str, float]) -> float:
    """Of a preferential study: best at .01 and at the top of the range of n."""
    return -((math.log10(params["x"]) + 2) ** 2) - 0.05 * (16 - params["n"]) ** 2


SAMPLERS: Mapping[str, Callable[[int], BaseSampler]] = {
    "random search": lambda seed: RandomSampler(seed=seed),
    "`default`": lambda seed: DQNSampler(seed=seed),
}


def regret(name: str, seed: int, comparisons: int = 30) -> float:
    """Of the recommendation of a preferential study, in utility."""
    rng = np.random.default_rng(1000 + seed)
    study = optuna.create_study(sampler=SAMPLERS[name](seed))
    make_preferential(study)
    with tempfile.TemporaryDirectory() as folder:
        session = Session(study, JudgementLog(Path(folder) / "log.jsonl"), seed=seed)
        study.ask(SPACE)
        for _ in range(comparisons):
            study.ask(SPACE)
            question = session.question()
            assert question is not None
            left, right = question
            gap = utility_of(left.params) - utility_of(right.params)
            first = float(answer(np.array(gap), rng))
            session.answer(left, right, (first, 1 - first))
    return -utility_of(DQNSampler(seed=0).recommend(study))


def correlations(seed: int) -> tuple[float, float]:
    """With the truth: of utilities weighted by reliability, and of pooled ones."""
    rng = np.random.default_rng(seed)
    true, triples = 1.5 * rng.normal(size=20), []
    for who, scale in (("ada", 1.0), ("ben", 1.0), ("coin", 0.0), ("contrary", -1.0)):
        for _ in range(100):
            i, j = (int(k) for k in rng.choice(20, 2, replace=False))
            first = answer(scale * (true[i] - true[j]), rng)
            triples.append((who, i, j) if first else (who, j, i))
    weighted = fit_annotators(20, triples).utilities
    pooled = bradley_terry(20, [(i, j) for _, i, j in triples])
    return tuple(float(np.corrcoef(u, true)[0, 1]) for u in (weighted, pooled))  # type: ignore[return-value]


def choices(path: Path) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """The real choices of a file: chosen and rejected [N, 6] (price, feature, brand), and who."""
    chosen, rejected, who = [], [], []
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            seen = {
                b: [
                    float(row[f"price.{b}"]),
                    float(row[f"feat.{b}"]),
                    *(float(b == c) for c in BRANDS),
                ]
                for b in BRANDS
            }
            for brand in BRANDS:
                if brand != row["choice"]:
                    chosen.append(seen[row["choice"]])
                    rejected.append(seen[brand])
                    who.append(int(row["id"]))
    return np.array(chosen), np.array(rejected), np.array(who)


def held_out(path: Path, seed: int) -> dict[str, float]:
    """The accuracy on pairs of people whose choices taught nothing, by method."""
    from sklearn.linear_model import LogisticRegression

    chosen, rejected, who = choices(path)
    people = np.random.default_rng(seed).permutation(np.unique(who))
    test = np.isin(who, people[: len(people) // 4])
    gaps = chosen - rejected
    both = np.concatenate([gaps[~test], -gaps[~test]])
    sides = np.repeat([1, 0], (~test).sum())
    linear = LogisticRegression(C=1e6, fit_intercept=False, max_iter=5000).fit(both, sides)
    found = {"linear Bradley-Terry": float((gaps[test] @ linear.coef_[0] > 0).mean())}
    for name, members in (("reward model", 0), ("its ensemble", 5)):
        model = RewardModel(seed=seed, members=members).fit(chosen[~test], rejected[~test])
        found[name] = model.score(chosen[test], rejected[test]).accuracy
    return found
