"""Attacks with CleverHans and without it: the same, bit for bit, and the result names who did."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from linear_models import X, Y, keras_linear, linear

from rlhf_tune import gate
from rlhf_tune.engine import OWN, engine
from rlhf_tune.errors import NoGradientError
from rlhf_tune.frameworks import framework_of
from rlhf_tune.gate.verify import verify
from rlhf_tune.safety import RobustAccuracy, constraint, perturb
from rlhf_tune.safety.non_inferiority import NonInferiority

torch = pytest.importorskip("torch")

THEIRS = "cleverhans 4.0.0"


def trained(seed: int = 0) -> Any:
    """A small network with every kind of layer whose gradients round."""
    torch.manual_seed(seed)
    nn = torch.nn
    return nn.Sequential(
        nn.Unflatten(1, (1, 6)),
        nn.Conv1d(1, 5, 3, padding=1),
        nn.BatchNorm1d(5),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(30, 2),
    )


def half() -> Any:
    return linear().to(torch.bfloat16)


def keras_network() -> Any:
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential(
        [
            *(keras.Input((6,)), layers.Reshape((6, 1)), layers.Conv1D(5, 3, padding="same")),
            *(layers.BatchNormalization(), layers.Activation("relu"), layers.Flatten()),
            layers.Dense(2, "softmax"),
        ]
    )


MODELS = [
    trained,
    half,
    linear,
    pytest.param(keras_network, marks=pytest.mark.keras),
    pytest.param(keras_linear, marks=pytest.mark.keras),
]


@pytest.fixture
def hide(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Goes on as if CleverHans were not installed."""
    found = importlib.util.find_spec

    def find(name: str, package: str | None = None) -> Any:
        return None if name.partition(".")[0] == "cleverhans" else found(name, package)

    return lambda: monkeypatch.setattr(importlib.util, "find_spec", find)


@pytest.mark.parametrize("build", MODELS)
def test_both_engines_take_the_same_steps(build: Any, hide: Callable[[], None]) -> None:
    pytest.importorskip("cleverhans")
    others = Y[:, None] != np.arange(2)
    every = [
        {"loss": "cross_entropy"},
        {"loss": "margin", "rival": others},
        {"loss": "margin", "draws": 3},
    ]

    def directions() -> tuple[list[Any], Any]:
        model = build()  # a new one, since compiled programs are kept
        with framework_of(model).classifier(model) as lent:
            own = Y[:, None] == np.arange(2)
            link = lent.link or "logit"
            found = [lent.direction(X, own, link=link, **how) for how in every]
            assert lent.engine == engine()
        return found, perturb(model, X, Y, eps=0.1, attack="pgd", steps=7, restarts=2)

    signs, moved = directions()
    hide()
    assert engine() == OWN
    again, moved_again = directions()
    for sign, ours in zip(signs, again, strict=True):
        assert set(np.unique(sign)) <= {-1.0, 0.0, 1.0}
        np.testing.assert_array_equal(sign, ours)
    assert any((sign != 0).any() for sign in signs)
    np.testing.assert_array_equal(moved, moved_again)


def test_the_measurement_names_the_engine(hide: Callable[[], None]) -> None:
    pytest.importorskip("cleverhans")
    floor = RobustAccuracy(X[:99], Y[:99], eps=0.05, at_least=0.1, full=True)
    by_theirs = floor(linear())
    assert by_theirs.engine == THEIRS
    assert (floor & constraint("zero", lambda model: 0.0, at_most=1.0))(linear()).engine == THEIRS
    assert NonInferiority(linear(), X[:99], Y[:99], eps=0.05, margin=0.2)(linear()).engine == THEIRS
    hide()
    by_ours = floor(linear())
    assert by_ours.engine == "rlhf_tune"
    assert {**vars(by_theirs), "engine": ""} == {**vars(by_ours), "engine": ""}


def test_without_a_gradient_step_there_is_no_engine() -> None:
    assert RobustAccuracy(X, Y, eps=0.1, at_least=0.1, attack="noise")(linear()).engine is None


def test_an_input_without_gradient_is_named_by_ours_too(hide: Callable[[], None]) -> None:
    class Detached(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            scale = torch.ones(2, requires_grad=True)
            return x.detach()[:, :2] * scale  # needs a gradient, but none leads to the inputs

    hide()
    with pytest.raises(NoGradientError, match="must be differentiable in the inputs"):
        RobustAccuracy(X, Y, eps=0.1, at_least=0.1)(Detached())


def test_measuring_by_ours_changes_nothing(hide: Callable[[], None]) -> None:
    hide()
    model = trained()
    model(torch.as_tensor(X)).sum().backward()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = [p.grad.clone() for p in model.parameters()]
    stream = torch.random.get_rng_state()
    RobustAccuracy(X[:99], Y[:99], eps=0.1, at_least=0.1, full=True)(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert torch.equal(torch.random.get_rng_state(), stream)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


def test_a_report_of_one_engine_verifies_with_the_other(
    hide: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cleverhans")
    jsonschema = pytest.importorskip("jsonschema")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    path = tmp_path / "model.pt2"
    example = (torch.as_tensor(X[:2]),)
    size = torch.export.Dim("batch", min=1)
    program = torch.export.export(linear(), example, dynamic_shapes=({0: size},))
    torch.export.save(program, path)
    floor = RobustAccuracy(X, Y, eps=0.01, at_least=0.1)

    def report(name: str) -> tuple[Path, dict[str, Any]]:
        written = gate.check(path, [floor])
        (tmp_path / name).write_text(written.to_json())
        return tmp_path / name, json.loads(written.to_json())

    theirs, one = report("theirs.json")
    hide()
    ours, other = report("ours.json")
    assert (one["engine"], other["engine"]) == (THEIRS, "rlhf_tune")
    for document in (one, other):
        jsonschema.validate(document, gate.report.schema())
        for row in document["requirements"]:
            assert row.pop("engine") == document["engine"]
    different = {key for key in one if one[key] != other[key]}
    assert different <= {"engine", "digest", "versions"}
    assert verify(path, theirs).exit_code == verify(path, ours).exit_code == 0
