"""Finding the adapter of a model, and what the core does without one."""

import subprocess
import sys
from typing import Any

import pytest
from linear_models import X, Y, linear, measure

from rlhf_tune import frameworks
from rlhf_tune.errors import MissingExtraError, UnsupportedModelError
from rlhf_tune.safety import MembershipLeakage, perturb

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


def test_a_missing_cleverhans_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "cleverhans"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cleverhans", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'rlhf-tune\[robustness\]'"):
        measure(linear())
    perturb(linear(), X, Y, eps=0.1, attack="noise")  # needs none
    MembershipLeakage((X[:99], Y[:99]), (X[99:], Y[99:]), at_most=0.5)(linear())
