"""The OptunaHub package: the registry's form, loaded as OptunaHub loads it, and Optuna's suite."""

import ast
import re
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    RelativeSamplerTestCase,
    SingleOnlySamplerTestCase,
)

optunahub = pytest.importorskip("optunahub", reason="pip install optunahub")

ROOT = Path(__file__).parents[2]
REGISTRY = ROOT / "packaging" / "optunahub"
PACKAGE = "samplers/rlhf_tune_dqn"
FOLDER = REGISTRY / PACKAGE


def sampler_class() -> type[BaseSampler]:
    return optunahub.load_local_module(PACKAGE, registry_root=str(REGISTRY)).DQNSampler


class TestLoaded(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    pytestmark = pytest.mark.slow  # test_conformance runs the same on the class itself

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: sampler_class()(seed=0)


def test_it_has_the_registry_s_form() -> None:
    assert {p.name for p in FOLDER.iterdir()} - {"__pycache__"} == {
        "LICENSE",
        "README.md",
        "__init__.py",
        "example.py",
    }
    assert (FOLDER / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    front, text = (FOLDER / "README.md").read_text().split("---\n")[1:]
    fields = dict(line.split(": ", 1) for line in front.splitlines())
    assert list(fields) == ["author", "title", "description", "tags", "optuna_versions", "license"]
    assert fields["license"] == "MIT License"
    assert fields["tags"].startswith("[sampler, ")
    heads = re.findall("^## (.+)$", text, re.M)
    assert heads == ["Abstract", "APIs", "Installation", "Example"]
    code = re.search("```python\n(.+?)```", text, re.S)
    ast.parse(code[1])


def test_the_signature_that_it_tells_is_the_sampler_s() -> None:
    import inspect

    told = re.search(r"^- `DQNSampler(\(.+\))`$", (FOLDER / "README.md").read_text(), re.M)[1]
    parameters = inspect.signature(sampler_class()).parameters.values()
    ours = ", ".join(f"{p.name}={p.default!r}".replace("'", '"') for p in parameters)
    assert told == f"(*, {ours})"


def test_its_example_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def local(package: str):
        return optunahub.load_local_module(package, registry_root=str(REGISTRY))

    monkeypatch.setattr(optunahub, "load_module", local)
    runpy.run_path(str(FOLDER / "example.py"), run_name="__main__")
    assert "'learning_rate'" in capsys.readouterr().out
