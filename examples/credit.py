r"""Credit decisions: accuracy against the gap between groups, trained with and without a ceiling.

One run is plain; one trains under a ceiling of the gap of selection rates, with a floor of
accuracy beside it, and hands back a model that is certified on people who steered nothing. Beside
them are what fixed weights reach, and fairlearn's ExponentiatedGradient and ThresholdOptimizer:

    python examples/credit.py --report credit.md --picture credit.png
    python examples/credit.py --data adult.csv.gz --label income-per-year --positive ">50K" \
        --sensitive sex --drop fnlwgt education --at-most 0.1

The data are drawn from a model of applicants unless a table is given. A ceiling that the people at
hand cannot certify, as in a table of a thousand, is refused with how many it takes.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rlhf_tune.errors import CannotCertify, TooFewSamplesError
from rlhf_tune.safety import FairnessReport, GroupFairness, constraint, fairness_report
from rlhf_tune_integrations.pytorch import TorchTrainer, fit

WEIGHTS = (0.0, 0.5, 1.0, 1.25, 1.5, 1.75)
BOUNDS = (0.1, 0.05, 0.025, 0.01)  # of ExponentiatedGradient, to the mean of all: half of a gap
SLACK = 0.05  # of accuracy that a fair model may lose to a plain one

Rows = NDArray[np.intp]
Bits = NDArray[np.bool_]


@dataclass(frozen=True)
class People:
    """A table: features [N, D], labels [N] of which 1 is the benefit, groups [N]."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    group: NDArray[np.str_]

    def divided(self, seed: int) -> list[Rows]:
        """Rows to train on (40 %), to validate on (10 %), to probe (25 %) and to test on."""
        order = np.random.default_rng(seed).permutation(len(self.y))
        return np.split(order, (len(order) * np.array([0.4, 0.5, 0.75])).astype(int))

    def of(self, rows: Rows) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Features and labels."""
        return self.x[rows], self.y[rows]


@dataclass(frozen=True)
class Point:
    """A model on people whom nobody had seen."""

    method: str
    accuracy: float
    gap: float


def drawn(n: int = 12_000, seed: int = 0) -> People:
    """Applicants of two groups: income and debts differ, and so do past decisions on them."""
    rng = np.random.default_rng(seed)
    group = rng.choice(["a", "b"], n, p=[0.65, 0.35])
    first = group == "a"
    income, debts = rng.normal(0.4 * first, 1, n), rng.normal(-0.2 * first, 1, n)
    area = first + rng.normal(0, 0.6, n)
    past = income - 0.7 * debts + 0.5 * first + rng.normal(0, 0.7, n) > 0.6
    x = np.column_stack([income, debts, area, rng.normal(size=(n, 3))])
    return People(x.astype(np.float32), past.astype(np.int64), group)


def read(path: Path, label: str, positive: str, sensitive: str, drop: Sequence[str] = ()) -> People:
    """A table: text becomes a column for each value, and all columns are standardised."""
    import pandas as pd

    table = pd.read_csv(path).dropna(subset=[sensitive])
    features = pd.get_dummies(table.drop(columns=[label, *drop]), dtype=float)
    features = features.fillna(features.mean())
    x = ((features - features.mean()) / (features.std() + 1e-9)).clip(-5, 5)
    y = (table[label].astype(str) == positive).astype(int)
    group = table[sensitive].astype(str)
    return People(x.to_numpy(np.float32), y.to_numpy(np.int64), group.to_numpy(str))


def network(people: People, seed: int) -> torch.nn.Module:
    """As linear as fairlearn's logistic regressions, so that methods are compared."""
    torch.manual_seed(seed)
    return torch.nn.Linear(people.x.shape[1], 2)


def predicted(model: torch.nn.Module, x: NDArray[np.float32]) -> Bits:
    """Who is selected [N]."""
    with torch.no_grad():
        return model(torch.from_numpy(x)).argmax(1).numpy().astype(bool)


def judged(people: People, rows: Rows, selected: Bits, method: str) -> tuple[Point, FairnessReport]:
    """Accuracy and gap on people."""
    report = fairness_report(people.y[rows], selected, {"group": people.group[rows]})
    gap = report.macro["demographic_parity"].value
    return Point(method, report.overall.accuracy, gap), report


def fixed(people: People, seed: int, steps: int) -> Iterator[Point]:
    """Training with a weight that stays; the first one is plain training."""
    train, validation, probe, test = people.divided(seed)
    remedy = GroupFairness(*people.of(probe), {"group": people.group[probe]}, at_most=1.0).remedy()
    for weight in WEIGHTS:
        model = network(people, seed)
        trainer = TorchTrainer(
            model,
            torch.optim.Adam(model.parameters()),
            torch.nn.functional.cross_entropy,
            people.of(train),
            people.of(validation),
            remedies=(remedy,),
            groups={"group": people.group[train]},
            batch_size=64,
            seed=seed,
        )
        trainer.set(**dict.fromkeys(remedy.names[:1], weight))
        trainer.train(steps)
        yield judged(people, test, predicted(model, people.x[test]), f"weight {weight:g}")[0]


def reached(
    people: People, seed: int, steps: int, at_most: float
) -> tuple[torch.nn.Module, bool, Mapping[str, list[Any]]]:
    """One run under a ceiling: the model, whether it is certified, and the history."""
    train, validation, probe, _ = people.divided(seed)
    x, y = people.of(validation)
    usual = max(y.mean(), 1 - y.mean())  # of always saying the same
    right = constraint(
        "right", lambda model: predicted(model, x) == y, at_least=max(0.5, usual - SLACK)
    )
    ceiling = GroupFairness(
        *people.of(probe), {"group": people.group[probe]}, at_most=at_most, name="gap"
    )
    model = network(people, seed)
    certified = True
    try:
        history = fit(
            model,
            torch.optim.Adam(model.parameters()),
            torch.nn.functional.cross_entropy,
            people.of(train),
            (x, y),
            steps=steps,
            batch_size=64,
            constraints=[ceiling, right],
            reach=True,
            groups={"group": people.group[train]},
            verbose=0,
            seed=seed,
        )
    except CannotCertify as exc:
        certified, history = False, exc.history
    return model, certified, history.history


def fairlearn_s(people: People, seed: int) -> Iterator[Point]:
    """What the library's own reductions and post-processing make of logistic regressions."""
    from fairlearn.postprocessing import ThresholdOptimizer
    from fairlearn.reductions import DemographicParity, ExponentiatedGradient
    from sklearn.linear_model import LogisticRegression

    train, *_, test = people.divided(seed)
    x, y, groups = people.x[train].astype(float), people.y[train], people.group[train]
    unseen = people.x[test].astype(float)  # ThresholdOptimizer fails on single precision

    def point(method: str, select: Callable[[], Any]) -> Point:
        return judged(people, test, np.asarray(select()).astype(bool), method)[0]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own use of pandas and scikit-learn
        for bound in BOUNDS:
            parity = DemographicParity(difference_bound=bound)
            search = ExponentiatedGradient(LogisticRegression(max_iter=300), parity, eps=bound)
            search.fit(x, y, sensitive_features=groups)
            yield point(
                f"ExponentiatedGradient {bound:g}",
                lambda search=search: search.predict(unseen, random_state=seed),
            )
        cuts = ThresholdOptimizer(
            estimator=LogisticRegression(max_iter=300), constraints="demographic_parity"
        )
        cuts.fit(x, y, sensitive_features=groups)
        among = {"sensitive_features": people.group[test], "random_state": seed}
        yield point("ThresholdOptimizer", lambda: cuts.predict(unseen, **among))


def at_gap(points: Sequence[Point], gap: float) -> float:
    """The accuracy of a frontier at a gap, straight between its points; at the ends those.

    A point is no part of it if another one has more accuracy and less of a gap.
    """
    ordered: list[Point] = []
    for point in sorted(points, key=lambda point: point.gap):
        if not ordered or point.accuracy > ordered[-1].accuracy:
            ordered.append(point)
    return float(np.interp(gap, [p.gap for p in ordered], [p.accuracy for p in ordered]))


def draw(points: Sequence[Point], path: Path) -> None:
    """Accuracy over the gap, a colour a method."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.subplots()
    families: dict[str, list[Point]] = {}
    for point in points:
        families.setdefault(point.method.split(" ")[0], []).append(point)
    for name, of in families.items():
        ordered = sorted(of, key=lambda point: point.gap)
        axes.plot([p.gap for p in ordered], [p.accuracy for p in ordered], "o-", label=name)
    axes.set(xlabel="gap of selection rates, people not seen", ylabel="accuracy")
    axes.grid(color="0.92")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main(argv: Sequence[str] | None = None) -> int:
    """Train, and show what was reached."""
    args = _parser().parse_args(argv)
    people = drawn(seed=args.seed)
    if args.data is not None:
        people = read(args.data, args.label, args.positive, args.sensitive, args.drop)
    test = people.divided(args.seed)[-1]
    points = list(fixed(people, args.seed, args.steps))
    try:
        model, certified, history = reached(people, args.seed, args.steps, args.at_most)
    except TooFewSamplesError as exc:
        print(f"no run under the ceiling: {exc}")
    else:
        point, report = judged(people, test, predicted(model, people.x[test]), "reach=True")
        points.append(point)
        print(f"{'certified' if certified else 'not certified'}: gap at most {args.at_most:g}")
        print("fair_weight:", *(f"{weight:.2f}" for weight in history["fair_weight[gap]"]))
        if args.report is not None:
            args.report.write_text(report.to_markdown())
    if not args.alone:
        points += fairlearn_s(people, args.seed)
    for point in points:
        print(f"{point.method:28} accuracy {point.accuracy:.3f}  gap {point.gap:.3f}")
    if args.picture is not None:
        draw(points, args.picture)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, metavar="FILE.csv", help="a table; default: drawn applicants")
    add("--label", default="class-label", help="its column of decisions (class-label)")
    add("--positive", default="1", help="the decision that is a benefit (1)")
    add("--sensitive", default="sex", help="its column of groups (sex)")
    add("--drop", nargs="*", default=[], help="columns that are no features")
    add("--at-most", type=float, default=0.1, help="ceiling of the gap (0.1)")
    add("--steps", type=int, default=2400, help="of each run, of 64 people (2400)")
    add("--seed", type=int, default=0)
    add("--alone", action="store_true", help="leave fairlearn's methods out")
    add("--report", type=Path, metavar="FILE.md", help="write the report of the run's model")
    add("--picture", type=Path, metavar="FILE.png", help="draw accuracy over the gap")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
