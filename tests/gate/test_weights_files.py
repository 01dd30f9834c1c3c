"""Weights alone: every way that PyTorch writes them, and what does not fit the model."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gate_models import FRAGILE, ROBUST, X, bias, torch_linear

from rlhf_tune.errors import ArtifactError, InvalidInputError
from rlhf_tune.frameworks import framework_of
from rlhf_tune.gate.artifact import ModelFile

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

FACTORY = "gate_models:linear"


class Tied(torch.nn.Module):
    """An autoencoder's way: two layers that are one, and a buffer that is another's view."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(4, 4, bias=False)
        self.second = torch.nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight
        self.out = torch.nn.Linear(4, 2)
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("again", self.mean)

    def forward(self, x: Any) -> Any:
        return self.out(self.second(self.first(x - self.mean)))


def tied() -> Any:
    """A factory; each time with other weights."""
    return Tied()


def untied() -> Any:
    """A factory: the same names, but tensors of their own."""
    model = Tied()
    model.second.weight = torch.nn.Parameter(model.second.weight.detach().clone())
    model.again = model.mean.clone()
    return model


def wrapped() -> Any:
    """A factory: a model of which all names begin like those of a wrapper."""

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = torch.nn.Linear(4, 2)

        def forward(self, x: Any) -> Any:
            return self.module(x)

    return Wrapped()


def compiled() -> Any:
    """A factory of a model that is compiled."""
    return torch.compile(torch.nn.Linear(4, 2), backend="eager")


def outputs(model: Any) -> Any:
    with framework_of(model).classifier(model) as classifier:
        return classifier.outputs(X)


def load(path: str, factory: str) -> Any:
    return ModelFile.read(path).load(factory)[0]


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# Tied weights


def test_a_tensor_of_two_names_may_be_written_once() -> None:
    model = Tied()
    safetensors.save_model(model, "tied.safetensors")
    torch.save(model.state_dict(), "tied.pt")
    assert len(safetensors.load_file("tied.safetensors")) < len(model.state_dict())
    for name in ("tied.safetensors", "tied.pt"):
        np.testing.assert_array_equal(outputs(load(name, f"{__name__}:tied")), outputs(model))


def test_what_a_model_does_not_tie_is_missing() -> None:
    safetensors.save_model(Tied(), "tied.safetensors")
    with pytest.raises(ArtifactError, match="Missing key"):
        load("tied.safetensors", f"{__name__}:untied")


def test_a_tensor_of_two_names_has_one_value() -> None:
    torch.save(untied().state_dict(), "same.pt")
    load("same.pt", f"{__name__}:tied")
    other = untied()
    with torch.no_grad():
        other.second.weight += 1
    torch.save(other.state_dict(), "other.pt")
    with pytest.raises(ArtifactError, match=r"one tensor for 'first\.weight' and 'second\.weight'"):
        load("other.pt", f"{__name__}:tied")


@pytest.mark.parametrize("left_out", ["out.bias", "mean", "first.weight"])
def test_whatever_else_is_left_out_is_refused(left_out: str) -> None:
    state = {k: v for k, v in untied().state_dict().items() if k != left_out}
    torch.save(state, "some.pt")
    with pytest.raises(ArtifactError, match="Missing key"):
        load("some.pt", f"{__name__}:untied")


def test_no_weights_at_all_are_refused() -> None:
    torch.save({}, "none.pt")
    with pytest.raises(ArtifactError, match="Missing key"):
        load("none.pt", f"{__name__}:tied")


def test_weights_that_the_model_lacks_are_refused() -> None:
    torch.save({**torch_linear(ROBUST).state_dict(), "more": torch.zeros(1)}, "more.pt")
    with pytest.raises(ArtifactError, match="Unexpected key"):
        load("more.pt", FACTORY)


# Wrappers


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_wrappers_put_before_all_names_is_left_out(prefix: str, suffix: str) -> None:
    state = {prefix + name: value for name, value in torch_linear(ROBUST).state_dict().items()}
    if suffix == ".pt":
        torch.save(state, "m.pt")
    else:
        safetensors.save_file(state, "m.safetensors")
    found = outputs(load(f"m{suffix}", FACTORY))
    np.testing.assert_allclose(found, X @ ROBUST + bias(ROBUST), atol=1e-5)


@pytest.mark.parametrize("inside", ["", "module."])
def test_a_model_whose_own_names_begin_so_keeps_them(inside: str) -> None:
    state = {f"{inside}module.{k}": v for k, v in torch_linear(ROBUST).state_dict().items()}
    torch.save(state, "m.pt")
    found = outputs(load("m.pt", f"{__name__}:wrapped"))
    np.testing.assert_allclose(found, X @ ROBUST + bias(ROBUST), atol=1e-5)


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_a_compiled_model_takes_either(prefix: str) -> None:
    state = {prefix + name: value for name, value in torch_linear(ROBUST).state_dict().items()}
    torch.save(state, "m.pt")
    found = load("m.pt", f"{__name__}:compiled").state_dict()
    assert torch.equal(found["_orig_mod.bias"], torch.from_numpy(bias(ROBUST)))


def test_a_wrapper_before_some_names_alone_is_refused() -> None:
    weight, bias_ = torch_linear(ROBUST).state_dict().values()
    torch.save({"module.weight": weight, "bias": bias_}, "m.pt")
    with pytest.raises(ArtifactError, match=r"Missing key.* Unexpected key.*module\.weight"):
        load("m.pt", FACTORY)


# Other files


@pytest.mark.parametrize("name", ["m.PT", "m.Pth", "m.ckpt", "m.bin", "pytorch_model.BIN"])
def test_state_dicts_of_other_suffixes(name: str) -> None:
    torch.save(torch_linear(ROBUST).state_dict(), name)
    np.testing.assert_allclose(outputs(load(name, FACTORY)), X @ ROBUST + bias(ROBUST), atol=1e-5)


def test_safetensors_in_capitals() -> None:
    safetensors.save_file(torch_linear(ROBUST).state_dict(), "m.SAFETENSORS")
    assert load("m.SAFETENSORS", FACTORY) is not None


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net"])
def test_a_checkpoint_is_refused_with_the_way_to_save_its_weights(key: str) -> None:
    torch.save({key: torch_linear(ROBUST).state_dict(), "epoch": 7, "lr": [0.1]}, "c.ckpt")
    with pytest.raises(ArtifactError, match=rf"alone, as by torch.save\(checkpoint\['{key}'\]"):
        load("c.ckpt", FACTORY)


def test_a_checkpoint_of_several_weights_names_them_all() -> None:
    torch.save({n: torch_linear(ROBUST).state_dict() for n in ("model", "ema")}, "c.pt")
    with pytest.raises(ArtifactError, match=r"with weights as \['model', 'ema'\]"):
        load("c.pt", FACTORY)


def test_a_checkpoint_that_holds_more_than_data_is_not_unpickled(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> Any:
            return Path.mkdir, (tmp_path / "ran",)

    torch.save({"state_dict": torch_linear(ROBUST).state_dict(), "x": Payload()}, "c.ckpt")
    with pytest.raises(ArtifactError, match="pickled models are never loaded"):
        load("c.ckpt", FACTORY)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pt2", ".bin"])
@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused_with_advice_that_is_safe(suffix: str, traced: bool) -> None:
    linear = torch_linear(FRAGILE)
    script = torch.jit.trace(linear, torch.zeros(2, 4)) if traced else torch.jit.script(linear)
    script.save(f"m{suffix}")
    with pytest.raises(ArtifactError, match=r"TorchScript .* torch\.export\.save") as refused:
        load(f"m{suffix}", FACTORY)
    assert "weights_only" not in str(refused.value)


@pytest.mark.parametrize(
    "name", ["m.pkl", "m.joblib", "m.dill", "m.onnx", "m.h5", "m.tflite", "m.pb"]
)
def test_files_that_cannot_be_read_safely_are_refused_unread(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(name).write_bytes(pickle.dumps({"x": 1}))
    monkeypatch.setattr("rlhf_tune.gate.artifact.loader_of", None)
    with pytest.raises(ArtifactError, match=f"'{name}' cannot be gated: ") as refused:
        ModelFile.read(name).load()
    assert "weights_only" not in str(refused.value)
    assert "safe_mode" not in str(refused.value)


def test_a_saved_model_is_refused() -> None:
    Path("saved").mkdir()
    Path("saved/saved_model.pb").write_bytes(b"x")
    with pytest.raises(ArtifactError, match=r"SavedModel.* save the model as \.keras"):
        ModelFile.read("saved")


@pytest.mark.parametrize("content", [b"PK\x03\x04", b"PK\x05\x06" + b"\0" * 18, b"x" * 99])
def test_damage_is_said_without_unsafe_advice(content: bytes) -> None:
    Path("m.pt").write_bytes(content)
    with pytest.raises(ArtifactError) as refused:
        load("m.pt", FACTORY)
    assert "weights_only" not in str(refused.value)


def test_capitals_of_an_unknown_suffix_are_unknown() -> None:
    Path("m.TXT").write_bytes(b"x")
    with pytest.raises(ArtifactError, match="must end in one of"):
        ModelFile.read("m.TXT").load()


def test_a_state_dict_needs_its_factory_whatever_its_suffix() -> None:
    torch.save(torch_linear(ROBUST).state_dict(), "m.CKPT")
    with pytest.raises(InvalidInputError, match="holds weights alone"):
        ModelFile.read("m.CKPT").load()


def test_what_is_read_is_in_memory_alone() -> None:
    buffer = io.BytesIO()
    torch.save(torch_linear(ROBUST).state_dict(), buffer)
    model, _ = ModelFile(Path("gone.pt"), buffer.getvalue()).load(FACTORY)
    assert torch.equal(model.bias, torch.from_numpy(bias(ROBUST)))
