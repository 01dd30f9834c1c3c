"""`rlhf_tune.fit` finds the adapter, and adapters have the names that users guess."""

import importlib
import importlib.util
import sys
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import rlhf_tune
from rlhf_tune import frameworks
from rlhf_tune.errors import MissingExtraError, UnsupportedModelError

ADAPTERS = {entry.name: entry for entry in entry_points(group=frameworks.TRAINERS)}
RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)


def kind(name: str, module: str, *bases: type) -> type:
    """A class as if it were of another module."""
    return type(name, bases, {"__module__": module})


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the adapters of four frameworks, one of them a third party's, are asked for."""
    found: list[Any] = []

    def entry(name: str) -> SimpleNamespace:
        def fit(model: Any, /, *args: Any, **named: Any) -> str:
            found.append((name, model, args, named))
            return f"history of {name}"

        return SimpleNamespace(load=lambda: SimpleNamespace(fit=fit))

    known = {name: entry(name) for name in ("torch", "lightning", "sklearn", "theirs")}
    monkeypatch.setattr(frameworks, "_trainers", lambda: known)
    return found


def test_everything_is_passed_on_and_the_history_back(asked: list[Any]) -> None:
    model = kind("Net", "theirs.nets.deep", object)()
    given = {"model": 3, "epochs": 2}  # a name of ours is no obstacle to one of theirs
    assert rlhf_tune.fit(model, X, Y, **given) == "history of theirs"
    ((name, got, args, named),) = asked
    assert (name, named) == ("theirs", given)
    assert got is model
    assert args[0] is X
    assert args[1] is Y


def test_the_most_derived_class_that_is_known_decides(asked: list[Any]) -> None:
    module = kind("Module", "torch.nn.modules.module", object)
    lightning = kind("LightningModule", "lightning.pytorch.core.module", module)
    estimator = kind("BaseEstimator", "sklearn.base", object)
    for base, name in ((module, "torch"), (lightning, "lightning"), (estimator, "sklearn")):
        users = kind("Mine", "__main__", kind("Ours", "torchlike.sub", base))
        rlhf_tune.fit(users())
        assert asked.pop()[0] == name


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize(
    ("model", "says"),
    [
        (object(), r"\['lightning', 'sklearn', 'theirs', 'torch'\] was expected, but got builtins"),
        (None, "but got builtins.NoneType; add an adapter by an entry point of the group 'rlhf_t"),
        (kind("Net", "torch.nn", object), "the class Net itself, where an instance is needed"),
        (kind("Net", "torchvision.models", object)(), "but got torchvision.models.Net"),
    ],
)
def test_what_nobody_trains_is_refused_with_the_way_out(model: Any, says: str) -> None:
    with pytest.raises(UnsupportedModelError, match=says):
        rlhf_tune.fit(model)


def test_a_torch_module_of_the_users_own_is_trained() -> None:
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Sequential):
        pass

    torch.manual_seed(0)
    model = Net(torch.nn.Linear(4, 2))
    history = rlhf_tune.fit(
        model,
        torch.optim.SGD(model.parameters(), 0.1),
        torch.nn.functional.cross_entropy,
        (X[:64], Y[:64]),
        (X[64:], Y[64:]),
        epochs=3,
        seed=0,
    )
    assert history.history["val_loss"][-1] < 0.7


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # whatever six frameworks say when they are imported
@pytest.mark.parametrize(
    ("module", "cls", "name"),
    [
        ("torch.nn", "Linear", "torch"),
        ("lightning.pytorch", "LightningModule", "lightning"),
        ("skorch", "NeuralNetClassifier", "skorch"),
        ("sklearn.linear_model", "SGDClassifier", "sklearn"),
        ("transformers", "Trainer", "transformers"),
        ("trl", "SFTTrainer", "transformers"),
        pytest.param("keras", "Model", "keras", marks=pytest.mark.keras),
    ],
)
def test_real_classes_and_a_users_own_of_them_are_known(module: str, cls: str, name: str) -> None:
    theirs = getattr(pytest.importorskip(module), cls)
    users = type("Mine", (theirs,), {"__module__": "__main__"})
    for made in (object.__new__(theirs), object.__new__(users)):
        assert frameworks._serving(made, frameworks._trainers(), "a group").name == name


@pytest.mark.keras
def test_a_keras_model_is_trained() -> None:
    import keras

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, "softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    history = rlhf_tune.fit(
        model, X[:64], Y[:64], epochs=3, validation_data=(X[64:], Y[64:]), verbose=0, seed=0
    )
    assert isinstance(history, keras.callbacks.History)
    assert len(history.history["val_loss"]) == 3


def test_the_six_frameworks_are_registered() -> None:
    assert set(ADAPTERS) == {"keras", "lightning", "sklearn", "skorch", "torch", "transformers"}


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_each_registered_adapter_trains(name: str) -> None:
    """By its signature; what it does is its own tests'."""
    module = adapter(ADAPTERS[name].value)
    assert callable(module.fit)


FOLDER = Path(rlhf_tune.__file__).parent
INTEGRATIONS = Path(
    importlib.util.find_spec("rlhf_tune_integrations").submodule_search_locations[0]
)
HERE = sorted(
    {path.stem for path in INTEGRATIONS.iterdir() if path.suffix in ("", ".py")}
    - {"__init__"}
    - {"__pycache__"}
)


def adapter(name: str) -> ModuleType:
    """An adapter, where it and its framework are."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not there yet")
    try:
        return importlib.import_module(name)
    except MissingExtraError as exc:
        pytest.skip(str(exc))


@pytest.mark.parametrize("name", HERE)
def test_an_adapter_has_the_name_that_users_guess(name: str) -> None:
    theirs = adapter(f"rlhf_tune_integrations.{name}")
    ours = importlib.import_module(f"rlhf_tune.{name}")
    assert ours is not theirs
    for public in getattr(theirs, "__all__", ["fit"]):
        assert getattr(ours, public) is getattr(theirs, public)
    lines = (FOLDER / f"{name}.py").read_text().splitlines()
    assert len(lines) == 3, "an alias has no code"


def test_a_name_as_the_framework_has_it_shadows_nothing() -> None:
    for name in ("keras", "sklearn", "ray", "transformers"):
        if importlib.util.find_spec(name) is not None:
            assert importlib.util.find_spec(name).origin != str(FOLDER / f"{name}.py")


def test_an_alias_without_its_framework_names_the_install_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("torch", "keras"):
        monkeypatch.setitem(sys.modules, module, None)
    for name, extra in (("pytorch", "torch"), ("keras", "keras")):
        for module in (f"rlhf_tune.{name}", f"rlhf_tune_integrations.{name}"):
            monkeypatch.delitem(sys.modules, module, raising=False)
        with pytest.raises(MissingExtraError, match=rf"pip install 'rlhf-tune\[{extra}\]'"):
            importlib.import_module(f"rlhf_tune.{name}")
