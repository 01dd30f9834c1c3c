"""The rules of the house, executable: import directions, lazy imports, exported names."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

import rlhf_tune

ROOT = Path(rlhf_tune.__file__).parent.parent
PACKAGES = [ROOT / "rlhf_tune", ROOT / "integrations" / "rlhf_tune_integrations"]

# Bottom to top: a module may import those of the floors below its own, and of its own room.
FLOORS = [
    ["ascent", "errors", "files", "foreign"],
    [
        "arrays",
        "engine",
        "lazy",
        "npz",
        "printable",
        "progress",
        "quiet",
        "streams",
        "tabled",
        "tables",
        "tensors",
        "threads",
        "rewards",
        "frameworks",
    ],
    ["agents", "feedback", "safety"],
    ["study", "run"],
    ["fine_tuning"],
    ["history", "gate", "testing", "envs", "pretraining", "plot"],
    ["demo"],
    ["cli"],
    ["keras", "lightning", "pytorch", "ray", "skorch", "sklearn", "transformers"],
]
# Adapters that stand on the one of PyTorch: Keras runs on it too.
ON_TORCH = [["keras"], ["lightning"], ["skorch"], ["transformers"]]
FLOOR = {room: i for i, rooms in enumerate(FLOORS) for room in rooms}

# `SafetyChecker` belongs to the study, and is named in the face of `safety` for those who look
# for it there.
UPWARDS = {("rlhf_tune.safety", "rlhf_tune.study.risk")}

# Aliases of the adapters, without code: nothing stands on them.
ALIASES = ("keras", "lightning", "pytorch", "ray", "skorch", "sklearn", "transformers")
UPWARDS |= {(f"rlhf_tune.{name}", f"rlhf_tune_integrations.{name}") for name in ALIASES}


@functools.cache
def graph() -> dict[str, set[str]]:
    """What each module imports of the house: inside functions too, for type checkers alone not.

    The homes that a lazy face names count as its imports.
    """
    files = {name(path, folder): path for folder in PACKAGES for path in folder.rglob("*.py")}
    return {module: arrows(path, files.keys()) for module, path in files.items()}


def name(path: Path, folder: Path) -> str:
    parts = path.relative_to(folder.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def arrows(path: Path, known: set[str]) -> set[str]:
    found: set[str] = set()
    nodes = [ast.parse(path.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            nodes += node.orelse
            continue
        nodes += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {full if full in known else node.module for full in inner}
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "face":
            texts = (n.value for n in ast.walk(node) if isinstance(n, ast.Constant))
            found |= {text for text in texts if isinstance(text, str) and text in known}
    return found & known


def floor(module: str) -> int:
    room = module.split(".")[1] if "." in module else ""
    if module.startswith("rlhf_tune_integrations"):
        return len(FLOORS) + (module.split(".")[1:2] in ON_TORCH)
    return FLOOR[room] if room else -1


def room(module: str) -> str:
    return ".".join(module.split(".")[:2])


def test_every_room_has_a_floor() -> None:
    assert {floor(module) for module in graph()} <= set(range(-1, len(FLOORS) + 2))


@pytest.mark.parametrize("module", sorted(graph()))
def test_imports_point_downwards_only(module: str) -> None:
    if module == "rlhf_tune":  # the face of all
        return
    for target in graph()[module]:
        assert target != "rlhf_tune", f"{module} imports the root"
        if room(target) != room(module) and (module, target) not in UPWARDS:
            assert floor(target) < floor(module), f"{module} must not import {target}"


def test_the_integrations_do_not_reach_above_the_wing_of_the_run() -> None:
    above = {"cli", "gate", "demo", "study", "pretraining"}
    for module, targets in graph().items():
        if module.startswith("rlhf_tune_integrations"):
            used = {t.split(".")[1] for t in targets if t.startswith("rlhf_tune.")}
            assert not used & above, module


def test_there_is_no_circle() -> None:
    """Modules that import each other would have to be known together."""
    for circle in components(graph()):
        assert len(circle) == 1, sorted(circle)


def components(arrows: dict[str, set[str]]) -> list[set[str]]:
    """The strongly connected components of a graph (Kosaraju and Sharir)."""
    order: list[str] = []
    seen: set[str] = set()
    for start in arrows:
        _visit(start, arrows, seen, order)
    back: dict[str, set[str]] = {module: set() for module in arrows}
    for module, targets in arrows.items():
        for target in targets - {module}:
            back[target].add(module)
    parts, seen = [], set()
    for start in reversed(order):
        part: list[str] = []
        _visit(start, back, seen, part)
        if part:
            parts.append(set(part))
    return parts


def _visit(start: str, arrows: dict[str, set[str]], seen: set[str], order: list[str]) -> None:
    if start not in seen:
        seen.add(start)
        for target in arrows[start]:
            _visit(target, arrows, seen, order)
        order.append(start)


def test_a_circle_would_be_found() -> None:
    assert {"a", "b"} in components({"a": {"b"}, "b": {"a", "c"}, "c": set()})


def loaded_by(code: str) -> set[str]:
    """The modules in memory after some code, in a process of its own."""
    out = run(f"import sys; {code}; print(*sys.modules, sep=chr(10))")
    return set(out.split("\n"))


FRAMEWORKS = {"torch", "tensorflow", "keras", "cleverhans"}


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_importing_the_package_loads_no_framework() -> None:
    assert not loaded_by("import rlhf_tune") & (FRAMEWORKS | {"optuna"})


def test_the_sampler_loads_no_framework_before_it_is_used() -> None:
    assert not loaded_by("from rlhf_tune import DQNSampler; DQNSampler(seed=0)") & FRAMEWORKS


@pytest.mark.parametrize(
    "part", ["safety.robustness", "safety.leakage", "gate", "gate.command", "run.driver"]
)
def test_a_measurement_a_run_and_the_gate_load_nothing_of_a_study(part: str) -> None:
    loaded = loaded_by(f"import rlhf_tune.{part}")
    assert not loaded & (FRAMEWORKS | {"optuna", "scipy.stats"})
    assert not any(module.startswith("rlhf_tune.study") for module in loaded)


# Non-blank lines of the package's own modules that an import loads.
CLOSURES = {
    "rlhf_tune.agents.dqn": 400,
    "rlhf_tune.run.guarded": 1580,
    "rlhf_tune_integrations.pytorch.fitting": 4_800,
    "rlhf_tune.study.sampler": 3720,
}


@pytest.mark.parametrize("module", sorted(CLOSURES))
def test_what_an_import_drags_along(module: str) -> None:
    if module in ("rlhf_tune.agents.dqn", "rlhf_tune_integrations.pytorch.fitting"):
        pytest.importorskip("torch")
    files = run(
        f"import sys, {module}; print(*[m.__file__ for n, m in sys.modules.items() "
        "if n.split('.')[0] in ('rlhf_tune', 'rlhf_tune_integrations')], sep=chr(10))"
    )
    texts = (Path(file).read_text(encoding="utf-8") for file in files.split("\n"))
    lines = sum(bool(line.strip()) for text in texts for line in text.split("\n"))
    print(f"{module}: {lines} lines")
    assert lines <= CLOSURES[module]


def test_the_public_names_are_these() -> None:
    assert sorted(rlhf_tune.__all__) == [
        "CannotCertify",
        "DQNSampler",
        "RlhfTuneError",
        "__version__",
        "dashboard_attributes",
        "dashboard_note",
        "explain",
        "fit",
        "gate",
        "recommend",
        "risk",
        "safety",
    ]
    for public in rlhf_tune.__all__:
        assert getattr(rlhf_tune, public) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = rlhf_tune.nonsense


def test_an_unknown_extra_names_the_install_line() -> None:
    from rlhf_tune.errors import MissingExtraError, require

    with pytest.raises(MissingExtraError, match=r"pip install 'rlhf-tune\[keras\]'"):
        require("no_such_framework.layers", extra="keras")
