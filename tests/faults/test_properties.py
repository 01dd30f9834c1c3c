"""Spaces, constraints, data, models, specs and files as nobody would think of them.

Whatever comes is taken, or refused by an error of ours; nothing else leaves the package.
"""

import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from rlhf_tune import DQNSampler
from rlhf_tune.errors import RlhfTuneError
from rlhf_tune.gate import npz, spec
from rlhf_tune.gate.verify import verify
from rlhf_tune.safety import RobustAccuracy, fairness_report
from rlhf_tune.study.dqn_residual import load_qmap
from rlhf_tune.study.prior import load
from rlhf_tune.tensors import SHIPPED
from tests.faults.surfaces import cases, no_foreign_error

pytestmark = pytest.mark.usefixtures("_quiet")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    optuna.logging.set_verbosity(before)


# Spaces: any mixture of distributions, results and constraints


@st.composite
def distributions(draw: Any) -> BaseDistribution:
    kind = draw(st.sampled_from(["float", "log", "step", "int", "logint", "category"]))
    if kind == "category":
        choice = (
            st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-9, 9) | st.text("ab1.e")
        )
        return CategoricalDistribution(
            draw(st.lists(choice, min_size=1, max_size=5, unique_by=repr))
        )
    if kind in ("int", "logint"):
        low = draw(st.integers(1 if kind == "logint" else -(2**70), 2**70))
        high = draw(st.integers(low, 2**71))
        return IntDistribution(low, high, log=kind == "logint")
    if kind == "log":
        low = draw(st.floats(1e-300, 1e300))
        return FloatDistribution(low, draw(st.floats(low, 1e301)), log=True)
    low = draw(st.floats(-1e307, 1e307))
    high = draw(st.floats(low, 1.1e307))
    step = draw(st.floats(1e-3, 10)) if kind == "step" and high - low < 1e6 else None
    return FloatDistribution(low, high, step=step)


NAMES = ["lr", "batch_size", "x", "learning_rate", "weight decay", "naïve", "[red]"]
RESULTS = st.floats(allow_nan=True, allow_infinity=True)
COSTS = st.floats(allow_nan=False, allow_infinity=True)


@cases(40)
@given(
    space=st.dictionaries(st.sampled_from(NAMES), distributions(), min_size=1, max_size=4),
    told=st.lists(
        st.tuples(RESULTS, st.dictionaries(st.sampled_from("ab"), COSTS)), min_size=1, max_size=6
    ),
    maximize=st.booleans(),
)
def test_spaces_results_and_constraints(
    space: dict[str, BaseDistribution], told: list[Any], maximize: bool
) -> None:
    direction = "maximize" if maximize else "minimize"
    study = optuna.create_study(direction=direction, sampler=DQNSampler(seed=0))
    with no_foreign_error():
        for result, costs in told:
            try:
                trial = study.ask(space)
            except ValueError as exc:  # Optuna's own, of a range that it cannot take
                assume(isinstance(exc, RlhfTuneError))
                raise
            for name, distribution in space.items():
                inside = distribution.to_internal_repr(trial.params[name])
                exact = abs(inside) <= 2**53  # Optuna keeps integers as floats
                assert distribution._contains(inside) or not exact, trial.params[name]
            for name, cost in costs.items():
                trial.set_constraint(name, cost)
            failed = math.isnan(result)
            study.tell(trial, None if failed else result,
                       state=optuna.trial.TrialState.FAIL if failed else None)  # fmt: skip
        study.sampler.explain(study)
        study.sampler.risk(study)
        assert study.sampler.recommend(study).keys() <= space.keys()


# Data and models


SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6)
NUMBERS = st.sampled_from([np.float32, np.float64, np.int64, np.uint8, np.bool_])


class Outputs:
    """A model of a class that nobody knows, whose outputs are given."""

    def __init__(self, outputs: Any) -> None:
        self.outputs = outputs

    def __call__(self, x: Any) -> Any:
        return self.outputs


@cases(60)
@given(
    x=NUMBERS.flatmap(lambda kind: arrays.arrays(kind, SHAPES)),
    y=arrays.arrays(st.sampled_from([np.int64, np.float32]), SHAPES),
    eps=st.floats() | st.integers(-1, 2) | st.lists(st.floats(0, 1), max_size=3),
    floor=st.floats(),
    bounds=st.tuples(st.floats(), st.floats()) | st.just((0.0, 1.0)),
    outputs=arrays.arrays(np.float64, SHAPES),
)
def test_samples_and_models(
    x: Any, y: Any, eps: Any, floor: float, bounds: Any, outputs: Any
) -> None:
    with no_foreign_error():
        RobustAccuracy(x, y, eps=eps, at_least=floor, bounds=bounds)(Outputs(outputs))


@cases(40)
@given(
    rows=st.integers(0, 60),
    data=st.data(),
)
def test_groups(rows: int, data: Any) -> None:
    labels = st.text(max_size=3) | st.integers(0, 3) | st.none() | st.floats()
    column = st.lists(labels, min_size=rows, max_size=rows)
    truth = data.draw(st.lists(st.integers(0, 2), min_size=rows, max_size=rows))
    guess = data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows))
    with no_foreign_error():
        fairness_report(truth, guess, {"a": data.draw(column)}, min_group_size=2).to_markdown()


# Specs and files


SCALARS = st.none() | st.floats() | st.integers() | st.booleans() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=6,
)
KEYS = [
    "data", "labels", "members", "member_labels", "eps", "bounds", "attack", "sweep", "groups",
    "confidence", "seed", "max_samples", "margin", "min_accuracy", "min_robust_accuracy",
    "max_leakage", "max_unfairness", "baseline", "factory", "report", "nonsense",
]  # fmt: skip


@cases(300)
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=8))
def test_specs(values: dict[str, Any]) -> None:
    with no_foreign_error():
        spec.of_values(spec.of_table(values, Path("gate.toml")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    np.savez(path / "plain.npz", x=rng.random((30, 3)), y=np.arange(30) % 2, groups=["a", "b"] * 15)
    np.savez_compressed(path / "packed.npz", x=rng.random((30, 3)), y=np.arange(30) % 2)
    np.save(path / "one.npy", rng.random((30, 3)))
    return path


@st.composite
def damaged(draw: Any, whole: bytes, most: int = 4) -> bytes:
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, most))):
        at = draw(st.integers(0, len(content)))
        content[at : at + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
    return bytes(content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content)


@cases(150)
@given(data=st.data(), name=st.sampled_from(["plain.npz", "packed.npz", "one.npy"]))
def test_files_of_samples(data: Any, name: str, folder: Path) -> None:
    path = folder / f"damaged-{name}"
    path.write_bytes(data.draw(damaged((folder / name).read_bytes())))
    with no_foreign_error():
        npz.load(path, bounds=(0.0, 1.0))


_SHIPPED = SHIPPED.read_bytes()
_HEADER = _SHIPPED[: 8 + int.from_bytes(_SHIPPED[:8], "little") + 64]


@cases(150)
@given(data=st.data())
def test_policy_files(data: Any, folder: Path) -> None:
    path = folder / "damaged.safetensors"
    rest = _SHIPPED[len(_HEADER) :] if data.draw(st.booleans()) else b""
    path.write_bytes(data.draw(damaged(_HEADER)) + rest)
    for read in (load, load_qmap):
        with no_foreign_error():
            read(path)


_REPORT = b"""{"schema": "rlhf-tune/gate-report/2", "digest": "0", "verdict": "pass",
"exit_code": 0, "artifact": {"name": "m", "sha256": "1", "weights_digest": "2", "factory": null}}"""


@cases(150)
@given(data=st.data())
def test_reports(data: Any, folder: Path) -> None:
    model, report = folder / "model.safetensors", folder / "report.json"
    model.write_bytes(_SHIPPED)
    report.write_bytes(data.draw(damaged(_REPORT) | st.binary(max_size=80)))
    with no_foreign_error():
        assert verify(model, report).exit_code != 0
