"""Reading model files: what is loaded is what was hashed, and nothing in a file is executed."""

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gate_models import (
    FRAGILE,
    ROBUST,
    X,
    bias,
    save_exported,
    save_keras,
    save_safetensors,
    torch_linear,
)

from rlhf_tune.errors import ArtifactError, InvalidInputError
from rlhf_tune.frameworks import framework_of
from rlhf_tune.gate import digest
from rlhf_tune.gate.artifact import ModelFile

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

FACTORY = "gate_models:linear"


class Payload:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


@pytest.fixture
def trace(tmp_path: Path) -> Any:
    path = tmp_path / "the_payload_ran"
    yield path
    assert not path.exists()


def outputs(model: Any) -> Any:
    with framework_of(model).classifier(model) as classifier:
        return classifier.outputs(X)


def save_state_dict(path: Path, w: Any) -> Path:
    torch.save(torch_linear(w).state_dict(), path)
    return path


SAVED: dict[str, tuple[Callable[[Path, Any], Path], str | None]] = {
    "model.safetensors": (save_safetensors, FACTORY),
    "model.pt": (save_state_dict, FACTORY),
    "model.pth": (save_state_dict, FACTORY),
    "model.pt2": (save_exported, None),
}


@pytest.fixture(scope="module", params=SAVED)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    save, factory = SAVED[request.param]
    return save(tmp_path_factory.mktemp("saved") / request.param, ROBUST), factory


def test_every_format_gives_the_model_its_hash_and_the_same_weights(saved: Any) -> None:
    path, factory = saved
    file = ModelFile.read(path)
    model, identity = file.load(factory)
    np.testing.assert_allclose(outputs(model), X @ ROBUST + bias(ROBUST), atol=1e-5)
    assert identity.name == path.name
    assert identity.sha256 == digest.of_bytes(path.read_bytes())
    assert identity.size == path.stat().st_size
    weights = {"weight": ROBUST.T, "bias": bias(ROBUST)}
    assert identity.weights_digest == file.weights_digest() == digest.of_arrays(weights)


def test_a_file_of_weights_needs_a_factory_and_a_model_has_none(saved: Any) -> None:
    path, factory = saved
    wrong, says = (FACTORY, "holds a model") if factory is None else (None, "--factory package")
    with pytest.raises(InvalidInputError, match=says):
        ModelFile.read(path).load(wrong)


def test_a_damaged_file_is_refused(saved: Any, tmp_path: Path) -> None:
    path, factory = saved
    content = path.read_bytes()
    for cut in (1, 8, len(content) // 2, len(content) - 1):
        (tmp_path / path.name).write_bytes(content[:cut])
        with pytest.raises(ArtifactError):
            ModelFile.read(tmp_path / path.name).load(factory)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pt2", ".safetensors"])
@pytest.mark.parametrize("dump", [pickle.dumps, lambda it: _torch_bytes(it)])
def test_a_pickle_under_any_name_is_refused_and_not_run(
    suffix: str, dump: Any, tmp_path: Path, trace: Path
) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(dump(Payload(trace)))
    with pytest.raises(ArtifactError):
        ModelFile.read(path).load(FACTORY)


def _torch_bytes(it: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(it, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["model.pkl", "model.JOBLIB", "model.h5", "model", "model.txt"])
def test_other_suffixes_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ArtifactError, match="pickles are never loaded"):
        ModelFile.read(tmp_path / name).load()


def test_a_whole_module_and_a_checkpoint_are_refused(tmp_path: Path) -> None:
    torch.save(torch_linear(ROBUST), tmp_path / "module.pt")
    torch.save({"model": torch_linear(ROBUST).state_dict(), "epoch": 3}, tmp_path / "check.pt")
    torch.save([torch.zeros(3)], tmp_path / "list.pt")
    for name, says in {"module": "holds more", "check": "alone", "list": "holds list"}.items():
        with pytest.raises(ArtifactError, match=says):
            ModelFile.read(tmp_path / f"{name}.pt").load(FACTORY)


def test_weights_must_fit_the_factory_s_model(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2, 5), "bias": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(ArtifactError, match="size mismatch for weight"):
        ModelFile.read(tmp_path / "other.pt").load(FACTORY)


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        ("gate_models", "must be package.module:function"),
        ("no_such_module:linear", "No module named"),
        ("gate_models:no_such_function", "no attribute"),
        ("gate_models:worst_case", "raised TypeError"),
        ("sys:exit", "raised SystemExit"),
    ],
)
def test_a_factory_that_fails_is_bad_usage(factory: str, says: str, tmp_path: Path) -> None:
    path = save_safetensors(tmp_path / "m.safetensors", ROBUST)
    with pytest.raises(InvalidInputError, match=says):
        ModelFile.read(path).load(factory)


def test_a_factory_of_something_else_is_refused(tmp_path: Path) -> None:
    path = save_safetensors(tmp_path / "m.safetensors", ROBUST)
    with pytest.raises(ArtifactError, match=r"torch\.nn\.Module, but got dict"):
        ModelFile.read(path).load("builtins:dict")


def test_narrow_numbers_are_widened_without_loss(tmp_path: Path) -> None:
    state = {"weight": torch.tensor(ROBUST.T).bfloat16(), "bias": torch.zeros(2).bfloat16()}
    torch.save(state, tmp_path / "narrow.pt")
    wide = {name: value.float().numpy() for name, value in state.items()}
    assert ModelFile.read(tmp_path / "narrow.pt").weights_digest() == digest.of_arrays(wide)


# Exported programs


def rewritten(path: Path, suffix: str, edit: Callable[[bytes], bytes], more: str = "") -> Path:
    """A copy of a .pt2 archive with one record changed, and perhaps one more."""
    source = zipfile.ZipFile(path)
    changed = path.with_name("changed.pt2")
    with zipfile.ZipFile(changed, "w") as target:
        for entry in source.infolist():
            content = source.read(entry)
            ends = entry.filename.endswith(suffix)
            target.writestr(entry.filename, edit(content) if ends else content)
        if more:
            target.writestr(f"{source.namelist()[0].split('/')[0]}/{more}", b"x")
    return changed


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_exported(tmp_path_factory.mktemp("exported") / "model.pt2", ROBUST)


def in_json(change: Callable[[Any], None]) -> Callable[[bytes], bytes]:
    def edit(content: bytes) -> bytes:
        document = json.loads(content)
        change(document)
        return json.dumps(document).encode()

    return edit


def code(trace: Path) -> str:
    return f"__import__('os').mkdir('{trace}')"


def expression(trace: Path) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        values = document["graph_module"]["graph"]["tensor_values"]
        sizes = [size for value in values.values() for size in value["sizes"] if "as_expr" in size]
        sizes[0]["as_expr"]["expr_str"] = code(trace)

    return change


def operator(name: str, argument: str) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        node = document["graph_module"]["graph"]["nodes"][0]
        node["target"] = name
        node["inputs"] = [{"name": "path", "arg": {"as_string": argument}, "kind": 1}]

    return change


def placeholder(trace: Path) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        old = document["graph_module"]["graph"]["inputs"][-1]["as_tensor"]["name"]
        text = json.dumps(document).replace(f'"{old}"', json.dumps(f"{old}={code(trace)}"))
        document.clear()
        document.update(json.loads(text))

    return change


def pickled(config: Any) -> None:
    next(iter(config["config"].values()))["use_pickle"] = True


def spec_type(document: Any) -> None:
    call = document["graph_module"]["module_call_graph"][0]["signature"]
    call["in_spec"] = call["in_spec"].replace("builtins.tuple", "collections.OrderedDict")


MODEL, WEIGHTS = "models/model.json", "model_weights_config.json"


@pytest.mark.parametrize(
    ("suffix", "edit", "says"),
    [
        (MODEL, lambda trace: in_json(expression(trace)), "'expr_str'"),
        (MODEL, lambda trace: in_json(operator("torch.os.mkdir", str(trace))), "'target'"),
        (MODEL, lambda _: in_json(operator("torch.ops.aten.save.default", "f")), "'target'"),
        (MODEL, lambda _: in_json(operator("torch.ops.aten.relu.default", "/f")), "'as_string'"),
        (MODEL, lambda trace: in_json(placeholder(trace)), "must not hold"),
        (MODEL, lambda _: in_json(spec_type), "'in_spec'"),
        (WEIGHTS, lambda _: in_json(pickled), "must not pickle"),
        ("sample_inputs/model.pt", lambda t: lambda _: _torch_bytes((Payload(t),)), "plain data"),
    ],
)
def test_code_in_an_exported_program_is_refused_and_not_run(
    suffix: str, edit: Any, says: str, exported: Path, trace: Path
) -> None:
    changed = rewritten(exported, suffix, edit(trace))
    with pytest.raises(ArtifactError, match=says):
        ModelFile.read(changed).load()


def test_guards_in_an_exported_program_are_never_run(exported: Path, trace: Path) -> None:
    guard = in_json(lambda document: document.update(guards_code=[code(trace)]))
    model, _ = ModelFile.read(rewritten(exported, MODEL, guard)).load()
    np.testing.assert_allclose(outputs(model), X @ ROBUST + bias(ROBUST), atol=1e-5)


@pytest.mark.parametrize(
    "more", ["data/aotinductor/model/wrapper.so", "data/constants/model.pt", "MODELS/model.json"]
)
def test_records_of_other_kinds_are_refused(more: str, exported: Path) -> None:
    with pytest.raises(ArtifactError, match="must"):
        ModelFile.read(rewritten(exported, "nothing", bytes, more)).load()


def test_an_untouched_copy_of_an_archive_is_loaded(exported: Path) -> None:
    assert ModelFile.read(rewritten(exported, "nothing", bytes)).load()[0] is not None


def test_a_convolutional_network_is_let_through(tmp_path: Path) -> None:
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding="same"),
        torch.nn.BatchNorm2d(4),
        torch.nn.GELU(approximate="tanh"),
        torch.nn.AdaptiveAvgPool2d(2),
        torch.nn.Dropout(),
        torch.nn.Flatten(),
        torch.nn.Linear(16, 3),
    ).eval()
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(network, (torch.zeros(2, 1, 8, 8),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "network.pt2")
    model, _ = ModelFile.read(tmp_path / "network.pt2").load()
    x = torch.rand(5, 1, 8, 8)
    torch.testing.assert_close(model(x), network(x))


def test_attention_is_let_through(tmp_path: Path) -> None:
    class Attention(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            weights = torch.softmax(torch.einsum("bid, bjd->bij", x, x), dim=-1)
            return torch.einsum("bij, bjd->bid", weights, x).mean(dim=1)

    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(Attention(), (torch.rand(2, 4, 3),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "attention.pt2")
    model, _ = ModelFile.read(tmp_path / "attention.pt2").load()
    x = torch.rand(5, 4, 3)
    torch.testing.assert_close(model(x), Attention()(x))


# Keras


@pytest.mark.keras
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras' saving
class TestKeras:
    def test_the_model_its_hash_and_the_digest_of_its_weights(self, tmp_path: Path) -> None:
        pytest.importorskip("keras")
        path = save_keras(tmp_path / "model.keras", ROBUST)
        file = ModelFile.read(path)
        model, identity = file.load()
        np.testing.assert_allclose(outputs(model), X @ ROBUST + bias(ROBUST), atol=1e-5)
        again = ModelFile.read(save_keras(tmp_path / "again.keras", ROBUST))
        other = ModelFile.read(save_keras(tmp_path / "other.keras", FRAGILE))
        assert identity.weights_digest == file.weights_digest() == again.weights_digest()
        assert other.weights_digest() != identity.weights_digest

    def test_code_is_refused_and_not_run(self, tmp_path: Path, trace: Path) -> None:
        keras = pytest.importorskip("keras")

        class Own(keras.layers.Layer):  # type: ignore[misc]
            def call(self, x: Any) -> Any:
                return x

        for name, layer in {"lambda": keras.layers.Lambda(lambda x: x), "own": Own()}.items():
            model = keras.Sequential([keras.Input((4,)), layer, keras.layers.Dense(2)])
            model.save(tmp_path / f"{name}.keras")
            with pytest.raises(ArtifactError, match="Keras refuses the file in safe mode"):
                ModelFile.read(tmp_path / f"{name}.keras").load()
        (tmp_path / "pickle.keras").write_bytes(pickle.dumps(Payload(trace)))
        with pytest.raises(ArtifactError, match="no zip file"):
            ModelFile.read(tmp_path / "pickle.keras").load()

    def test_a_damaged_file_is_refused(self, tmp_path: Path) -> None:
        pytest.importorskip("keras")
        path = save_keras(tmp_path / "model.keras", ROBUST)
        content = path.read_bytes()
        for cut in (1, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:cut])
            with pytest.raises(ArtifactError):
                ModelFile.read(path).load()
