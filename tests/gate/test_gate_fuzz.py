"""Whatever the gate is given, it does not fall over, and passes only what holds."""

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gate_models import EPS, ROBUST, X, Y, save_data, save_exported, save_keras, save_safetensors
from gate_models import worst_case as kept

from rlhf_tune import cli
from rlhf_tune.frameworks import framework_of
from rlhf_tune.gate import spec
from rlhf_tune.gate.artifact import ModelFile
from rlhf_tune.safety.intervals import proportion_interval

torch = pytest.importorskip("torch")
hypothesis = pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

FACTORY = ("--factory", "gate_models:linear")
FEW = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
ROWS = slice(0, 60)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save_data(Path("data.npz"), x=X[ROWS], y=Y[ROWS])
    return tmp_path


def outcome(capsys: Any, *words: str) -> int:
    """The exit status; whatever it is, nothing worse than one line was said."""
    capsys.readouterr()
    code = cli.main(list(words))
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert err.count("\n") <= 1, err
    assert code in range(5)
    return code


def holds(file: str, factory: str | None, eps: float, floor: float) -> bool:
    """Whether a linear model's file keeps a floor, in closed form."""
    model, _ = ModelFile.read(file).load(factory)
    w, b = sorted(framework_of(model).weights(model).values(), key=np.ndim, reverse=True)
    w = w.T if file.endswith((".safetensors", ".pt2")) else w
    inside = eps * (1 - 1e-6)  # a boundary that the box just touches is a matter of rounding
    n_right = int(kept(w.astype(float), b.astype(float), X[ROWS], Y[ROWS], inside).sum())
    return proportion_interval(n_right, 60, 0.95)[0] >= floor


SCALARS = st.one_of(
    st.floats(), st.integers(), st.booleans(), st.text(max_size=5), st.sampled_from(["pgd", ""])
)
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=3), st.just(0.1), st.just([0.0, 1.0]))
KEYS = st.sampled_from(
    ["eps", "bounds", "attack", "sweep", "groups", "confidence", "seed", "max_samples", "margin"]
)
PAIRED = st.sampled_from(
    ["min_accuracy", "baseline", "members", "max_leakage", "max_unfairness", "factory", "new"]
)


def toml(table: dict[str, Any]) -> str:
    """TOML of scalars and lists; JSON's text is TOML's but for what JSON cannot say."""
    special = {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}
    lines = []
    for key, value in table.items():
        text = json.dumps(value)
        for word, other in special.items():
            text = text.replace(word, other) if '"' not in text else text
        lines.append(f"{key} = {text}")
    return "\n".join(lines)


@FEW
@given(
    table=st.dictionaries(KEYS | PAIRED, VALUES, max_size=3),
    floor=st.sampled_from([0.01, 0.7, 0.97]),
)
def test_random_specs(table: dict[str, Any], floor: float, place: Path, capsys: Any) -> None:
    save_safetensors(place / "m.safetensors", ROBUST)
    values = {"eps": EPS, "sweep": [0.0], **table}
    Path("gate.toml").write_text(toml(values), encoding="utf-8")
    words = ["gate", "m.safetensors", "--spec", "gate.toml", "--quiet", "--data", "data.npz"]
    code = outcome(capsys, *words, *FACTORY, "--min-robust-accuracy", str(floor))
    if code == 0:
        read = spec.of_values(
            {**spec.gather("gate.toml", {}), "data": Path(), "min_robust_accuracy": floor}
        )
        assert holds("m.safetensors", FACTORY[1], read.eps, floor)


@settings(FEW, max_examples=100)
@given(content=st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode)))
def test_random_text_as_a_spec(content: bytes, place: Path, capsys: Any) -> None:
    save_safetensors(place / "m.safetensors", ROBUST)
    Path("gate.toml").write_bytes(content)
    try:
        asked = tomllib.loads(content.decode())
    except ValueError:
        asked = {}
    words = ("gate", "m.safetensors", "--spec", "gate.toml", *FACTORY, "--quiet")
    assert outcome(capsys, *words) == 2, asked


@pytest.mark.parametrize("save", [save_safetensors, save_exported])
@settings(FEW, max_examples=40)
@given(
    places=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=3),
    bit=st.integers(0, 7),
)
def test_flipped_bytes(save: Any, places: list[float], bit: int, place: Path, capsys: Any) -> None:
    name = {save_safetensors: "m.safetensors", save_exported: "m.pt2"}[save]
    factory = FACTORY if save is save_safetensors else ()
    content = bytearray(_content(save, place / name))
    for share in places:
        content[int(share * len(content))] ^= 1 << bit
    Path(name).write_bytes(content)
    words = ("--data", "data.npz", "--eps", str(EPS), "--min-robust-accuracy", "0.7")
    code = outcome(capsys, "gate", name, *words, *factory, "--sweep", "0", "--quiet")
    if code == 0:
        assert holds(name, factory[1] if factory else None, EPS, 0.7)


_SAVED: dict[Any, bytes] = {}


def _content(save: Any, path: Path) -> bytes:
    if save not in _SAVED:
        _SAVED[save] = save(path, ROBUST).read_bytes()
    return _SAVED[save]


@pytest.mark.keras
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras' saving
@settings(FEW, max_examples=15)
@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_flipped_bytes_of_keras(share: float, bit: int, place: Path, capsys: Any) -> None:
    pytest.importorskip("keras")
    content = bytearray(_content(save_keras, place / "m.keras"))
    content[int(share * len(content))] ^= 1 << bit
    Path("m.keras").write_bytes(content)
    words = ("--data", "data.npz", "--eps", str(EPS), "--min-robust-accuracy", "0.7")
    code = outcome(capsys, "gate", "m.keras", *words, "--sweep", "0", "--quiet")
    if code == 0:
        assert holds("m.keras", None, EPS, 0.7)


@settings(FEW, max_examples=100)
@given(data=st.data())
def test_changed_reports(data: Any, place: Path, capsys: Any) -> None:
    save_safetensors(place / "m.safetensors", ROBUST)
    if "report" not in _SAVED:
        words = ("--data", "data.npz", "--eps", str(EPS), "--min-robust-accuracy", "0.7")
        more = (*FACTORY, "--sweep", "0", "--quiet", "--report", "r.json")
        assert cli.main(["gate", "m.safetensors", *words, *more]) == 0
        _SAVED["report"] = Path("r.json").read_bytes()
    content = bytearray(_SAVED["report"])
    at = data.draw(st.integers(0, len(content) - 1))
    content[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    Path("r.json").write_bytes(content)
    code = outcome(capsys, "verify", "m.safetensors", "--report", "r.json", "--quiet")
    if code == 0:
        assert json.loads(content) == json.loads(_SAVED["report"])
