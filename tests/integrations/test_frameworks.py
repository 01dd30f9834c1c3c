"""Finding the adapter of a model, and what the core does without one."""

import subprocess
import sys
from typing import Any

import pytest

from rlhf_tune import frameworks
from rlhf_tune.errors import UnsupportedModelError

torch = pytest.importorskip("torch")


def test_a_model_without_adapter_is_refused_with_the_way_out() -> None:
    with pytest.raises(UnsupportedModelError, match=r"builtins\.object; add an adapter"):
        frameworks.framework_of(object())


def test_the_most_derived_class_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    class Entry:
        def __init__(self, name: str) -> None:
            self.name = name

        def load(self) -> Any:
            return self.name

    entries = {name: Entry(name) for name in (__name__, "torch")}
    monkeypatch.setattr(frameworks, "_adapters", lambda: entries)

    class Mine(torch.nn.Linear):
        pass

    assert frameworks.framework_of(Mine(1, 1)) == __name__
    assert frameworks.framework_of(torch.nn.Linear(1, 1)) == "torch"


@pytest.mark.parametrize("name", ["rlhf_tune.safety", "rlhf_tune.frameworks"])
def test_the_core_loads_no_framework(name: str) -> None:
    heavy = "{'torch', 'tensorflow', 'keras', 'cleverhans', 'rlhf_tune_integrations'}"
    code = f"import sys, {name}; assert not {heavy} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
