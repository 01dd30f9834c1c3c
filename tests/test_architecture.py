"""The rules of the house, executable: import directions, lazy imports, exported names."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import rlhf_tune

ROOT = Path(rlhf_tune.__file__).parent

# A module may import those of its own layer and of the layers before it.
LAYERS = [
    ["errors", "lazy", "quiet", "tensors", "threads"],
    ["agents", "frameworks"],
    ["safety", "rewards", "feedback"],
    ["study"],
    ["run"],
    ["history", "pretraining", "envs"],
    ["gate", "testing", "plot"],
    ["demo"],
    ["cli"],
]
RANK = {name: i for i, layer in enumerate(LAYERS) for name in layer}


def modules() -> list[Path]:
    return sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def part(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    tree = ast.parse(path.read_text())
    tree.body = [
        n
        for n in tree.body
        if not (isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test))
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downwards_only(path: Path) -> None:
    for name in imported(path):
        assert not name.startswith("rlhf_tune_integrations"), "the core imports an integration"
        if name.startswith("rlhf_tune."):
            target = name.split(".")[1]
            assert target in RANK, f"{target} imports the package root or has no layer"
            assert RANK[target] <= RANK[part(path)], f"{part(path)} must not import {target}"


def test_every_part_has_a_layer() -> None:
    assert {part(p) for p in modules()} <= RANK.keys()


def test_integrations_do_not_reach_above_the_environments() -> None:
    folder = ROOT.parent / "integrations" / "rlhf_tune_integrations"
    if not folder.is_dir():
        pytest.skip("the source tree is not there")
    for path in folder.glob("*.py"):
        used = {n.split(".")[1] for n in imported(path) if n.startswith("rlhf_tune.")}
        assert not used & {"cli", "gate", "demo"}, path.name


def test_importing_the_package_loads_no_framework() -> None:
    code = (
        "import sys, rlhf_tune; rlhf_tune.errors if hasattr(rlhf_tune, 'errors') else None; "
        "print([m for m in ('torch', 'tensorflow', 'keras', 'optuna') if m in sys.modules])"
    )
    assert run(code) == "[]"


def test_the_sampler_loads_neither_torch_nor_tensorflow_before_it_is_used() -> None:
    code = (
        "import sys; from rlhf_tune import DQNSampler; DQNSampler(seed=0); "
        "print([m for m in ('torch', 'tensorflow', 'keras') if m in sys.modules])"
    )
    assert run(code) == "[]"


@pytest.mark.parametrize("part", ["safety", "gate", "gate.command"])
def test_importing_it_loads_no_framework(part: str) -> None:
    code = (
        f"import sys, rlhf_tune.{part}; "
        "print([m for m in ('torch', 'tensorflow', 'keras', 'cleverhans') if m in sys.modules])"
    )
    assert run(code) == "[]"


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_public_names_are_these() -> None:
    assert sorted(rlhf_tune.__all__) == [
        "CannotCertify",
        "DQNSampler",
        "RlhfTuneError",
        "__version__",
        "gate",
        "safety",
    ]
    for name in rlhf_tune.__all__:
        assert getattr(rlhf_tune, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = rlhf_tune.nonsense


def test_an_unknown_extra_names_the_install_line() -> None:
    from rlhf_tune.errors import MissingExtraError, require

    with pytest.raises(MissingExtraError, match=r"pip install 'rlhf-tune\[keras\]'"):
        require("no_such_framework.layers", extra="keras")
