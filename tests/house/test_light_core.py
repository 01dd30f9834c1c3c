"""The core without what extras install: what works, and what is said where something is missing."""

import functools
import json
import re
import tomllib
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import rlhf_tune
from rlhf_tune.errors import MissingExtraError, expect

ROOT = Path(__file__).parents[2]
Without = Callable[[Sequence[str], str], Any]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CORE = {"numpy", "optuna", "rich", "safetensors", "scipy", "threadpoolctl"}
HEAVY = [
    *("torch", "tensorflow", "keras", "cleverhans", "gymnasium", "matplotlib", "sklearn"),
    *("fairlearn", "stable_baselines3", "sb3_contrib", "lightning", "transformers", "skorch"),
    *("ray", "mlflow", "optuna_dashboard", "pandas", "jsonschema", "h5py"),
]
LIMIT = 300  # MB of an installed core

# What needs an extra, all else must be importable without any.
NEEDS = {
    **dict.fromkeys(("agents.dqn", "agents.losses", "demo.torch_cnn", "pytorch"), "torch"),
    **dict.fromkeys(("pretraining.network", "pretraining.fine_tuning"), "torch"),
    **dict.fromkeys(("demo.keras_cnn", "keras"), "keras"),
    "envs": "rl",
}
ALIASES = {"lightning", "ray", "sklearn", "skorch", "transformers"}  # or their frameworks, later


def test_the_core_is_six_packages() -> None:
    assert {re.split(r"[>=<]", line)[0] for line in PROJECT["dependencies"]} == CORE


def test_every_module_is_importable_or_names_its_extra(without: Without) -> None:
    folder = Path(rlhf_tune.__file__).parent
    names = [
        path.relative_to(folder).with_suffix("").as_posix().replace("/", ".")
        for path in sorted(folder.rglob("*.py"))
    ]
    modules = [name.removesuffix("__init__").removesuffix(".") for name in names]
    found = without(
        HEAVY,
        f"import importlib\nfailed = {{}}\nfor name in {modules!r}:\n"
        "    try: importlib.import_module(f'rlhf_tune.{name}'.rstrip('.'))\n"
        "    except Exception as exc: failed[name] = [type(exc).__name__, str(exc)]\n"
        "print(json.dumps(failed))",
    )
    for name, (error, text) in found.items():
        if name in ALIASES and "'rlhf_tune_integrations." in text:
            continue  # its adapter is not there yet
        needs = name if name in ALIASES else NEEDS.get(name) or NEEDS[name.partition(".")[0]]
        assert error == "MissingExtraError", (name, text)
        assert f"pip install 'rlhf-tune[{needs}]'" in text
    assert set(NEEDS) <= set(found)


POLICIES = """
import optuna, sys
from rlhf_tune import DQNSampler
optuna.logging.set_verbosity(optuna.logging.ERROR)
def objective(trial):
    rate = trial.suggest_float("lr", 1e-5, 1.0, log=True)
    batch = trial.suggest_int("batch_size", 16, 256, log=True)
    trial.set_constraint("small", batch - 200)
    return (1 + abs(rate * 100 - 1)) * batch ** 0.1
found = {}
for policy in ("default", "dqn", "no_prior", "plan", "random"):
    study = optuna.create_study(sampler=DQNSampler(policy=policy, seed=3, budget=12))
    study.optimize(objective, n_trials=12)
    found[policy] = [t.params for t in study.trials] + [study.sampler.recommend(study)]
"""


def test_every_policy_proposes_without_extras_what_it_does_with_them(without: Without) -> None:
    policies = dict[str, Any]()
    exec(POLICIES, policies)  # one text in both places
    light = without(HEAVY, POLICIES + "print(json.dumps([found, sorted(sys.modules)]))")
    assert light[0] == json.loads(json.dumps(policies["found"]))
    assert not set(HEAVY) & set(light[1])


GATE = """
from contextlib import contextmanager
from types import SimpleNamespace
import numpy as np
from rlhf_tune import frameworks, gate
from rlhf_tune.safety import MembershipLeakage, RobustAccuracy, perturb
class Linear:
    link = "logit"
    def outputs(self, x): return np.stack([-x[:, 0] + .5, x[:, 0] - .5], 1) * 9.0
    def direction(self, x, own, *, loss, link, rival=None, draws=1):
        sign = np.zeros_like(x); sign[:, 0] = np.where(own[:, 1], -1, 1); return sign
lend = contextmanager(lambda model: iter([model]))
entry = SimpleNamespace(load=lambda: SimpleNamespace(classifier=lend, weights=lambda m: {}))
frameworks._adapters = lambda: {"__main__": entry}
x = np.random.default_rng(0).random((300, 3)); y = (x[:, 0] > .5).astype(int)
floor = RobustAccuracy(x, y, eps=.1, at_least=.6, full=True)
leak = MembershipLeakage((x[:150], y[:150]), (x[150:], y[150:]), at_most=.9)
report = gate.check(Linear(), [floor, leak])
robust = float(((abs(x[:, 0] - .5) > .1)).mean())
print(json.dumps([report.verdict, report.measurements[0].value, robust, report.engine]))
"""


def test_measurements_and_the_gate_work_on_any_adapters_model(without: Without) -> None:
    verdict, value, robust, engine = without(HEAVY, GATE)
    assert verdict == "pass"
    assert value == pytest.approx(robust, abs=0.005)
    assert engine == "rlhf_tune"


def test_every_command_explains_itself(without: Without) -> None:
    commands = ["demo", "gate", "verify", "pretrain", "compare"]
    code = (
        "import contextlib, io\nfrom rlhf_tune.cli import main\ntexts = {}\n"
        f"for name in {commands}:\n    out = io.StringIO()\n"
        "    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):\n"
        "        main([name, '--help'])\n"
        "    texts[name] = out.getvalue()\nprint(json.dumps(texts))"
    )
    for name, text in without(HEAVY, code).items():
        assert text.startswith(f"usage: rlhf-tune {name}")


@pytest.mark.parametrize(
    ("code", "package", "extra"),
    [
        ("from rlhf_tune.envs import TuningEnv", "gymnasium", "rl"),
        ("import rlhf_tune.envs.tabular", "gymnasium", "rl"),
        ("from rlhf_tune.agents.dqn import DQN", "torch", "torch"),
        ("import rlhf_tune.pytorch", "torch", "torch"),
        ("from rlhf_tune_integrations.pytorch.files import load", "torch", "torch"),
        ("from rlhf_tune_integrations.keras import fit", "keras", "keras"),
        ("from rlhf_tune.frameworks import loader_of; loader_of('.pt')", "torch", "torch"),
        ("from rlhf_tune.frameworks import loader_of; loader_of('.keras')", "keras", "keras"),
    ],
)
def test_what_is_missing_is_named_with_its_line(
    code: str, package: str, extra: str, without: Without
) -> None:
    tried = (
        f"try: {code}\nexcept ImportError as exc: print(json.dumps([type(exc).__name__, str(exc)]))"
    )
    line = f"run: pip install 'rlhf-tune[{extra}]'"
    assert without(HEAVY, tried) == [
        "MissingExtraError",
        f"`{package}` must be installed for this; {line}",
    ]


def test_a_network_is_refused_before_the_priors_are_made(tmp_path: Path, without: Without) -> None:
    words = ["pretrain", "--tables", "benchmarks/tables", "-o", str(tmp_path / "p.safetensors")]
    words += ["--network", str(tmp_path / "n.safetensors")]
    told = f"from rlhf_tune.cli import main\nprint(json.dumps(main({words})))"
    assert without(HEAVY, told) == 2
    assert not list(tmp_path.iterdir())


def test_every_extra_that_an_error_names_exists_and_installs_the_package() -> None:
    extras = PROJECT["optional-dependencies"]
    names = {"sklearn": "scikit-learn", "optuna_dashboard": "optuna-dashboard", "h5py": "keras"}
    names |= {"mlflow": "mlflow-skinny"}
    asked = set()
    for folder in ("rlhf_tune", "integrations"):
        for path in (ROOT / folder).rglob("*.py"):
            call = r'(?:require|optional|expect)\(\s*"(\w+)[.\w]*",\s*extra="(\w+)"\s*\)'
            asked |= set(re.findall(call, path.read_text()))
    assert {("torch", "torch"), ("gymnasium", "rl"), ("keras", "keras")} <= asked
    for package, extra in asked:
        assert any(
            re.split(r"[\[>=<]", line)[0] == names.get(package, package)
            for line in everything(extra, extras)
        ), (package, extra)


def everything(extra: str, extras: dict[str, list[str]]) -> list[str]:
    """The requirements of an extra, with those of the extras that it names."""
    found = []
    for line in extras[extra]:
        inner = re.fullmatch(r"rlhf-tune\[([\w,]+)\]", line)
        if inner is None:
            found.append(line)
        else:
            found += [part for name in inner[1].split(",") for part in everything(name, extras)]
    return found


def test_former_names_of_extras_stay() -> None:
    extras = PROJECT["optional-dependencies"]
    assert everything("robustness", extras) == everything("cleverhans", extras)
    assert everything("sb3", extras) == everything("rl", extras)
    users = set(extras) - {"all", "benchmarks", "dev", "docs", "mlflow"}
    assert {r for name in users for r in everything(name, extras)} == set(everything("all", extras))


def test_a_package_that_is_there_is_not_missed() -> None:
    expect("numpy", extra="torch")
    with pytest.raises(MissingExtraError, match=r"`no_such_package` must be installed"):
        expect("no_such_package", extra="torch")


PAGE = (ROOT / "docs/install.md").read_text()
SIZES = re.findall(r"^\| `?([\w()]+)`? \|.*\| ~?([\d,]+) \| (\d+) \|$", PAGE, re.MULTILINE)


@pytest.mark.parametrize(("extra", "size", "count"), SIZES, ids=[extra for extra, *_ in SIZES])
def test_the_table_says_what_extras_weigh(extra: str, size: str, count: str) -> None:
    """Summed over what is installed here: the core, the extra, and what they need."""
    extras = PROJECT["optional-dependencies"]
    needed = [*PROJECT["dependencies"], *everything(extra, extras)] if extra in extras else None
    packages = closure(needed or PROJECT["dependencies"])
    if "torch" in packages and not metadata.version("torch").endswith("+cpu"):
        pytest.skip("the table has PyTorch without CUDA")
    total = sum(map(megabytes, packages))
    print(f"{extra}: {total:.0f} MB in {len(packages) + 1} packages")
    assert total == pytest.approx(float(size.replace(",", "")), rel=0.1)
    assert len(packages) + 1 == pytest.approx(int(count), abs=5)
    if extra == "(none)":
        assert packages >= CORE
        assert 50 < total < LIMIT


def closure(requirements: list[str]) -> set[str]:
    """The packages that pip would install; those of this platform must be here."""
    found, open_ = set[tuple[str, str]](), [Requirement(line) for line in requirements]
    while open_:
        asked = open_.pop()
        name = canonicalize_name(asked.name)
        for extra in {"", *asked.extras}:
            if (name, extra) not in found:
                found.add((name, extra))
                lines = (Requirement(line) for line in needs_of(name))
                open_ += [
                    line
                    for line in lines
                    if line.marker is None or line.marker.evaluate({"extra": extra})
                ]
    return {name for name, _ in found}


def needs_of(name: str) -> list[str]:
    try:
        return metadata.distribution(name).requires or []
    except metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed")


@functools.cache
def megabytes(name: str) -> float:
    files = (Path(str(file.locate())) for file in metadata.distribution(name).files or ())
    return sum(file.lstat().st_size for file in files if file.is_file()) / 1e6
