"""Exported programs that cannot be measured are said to be so, and run nothing."""

import io
import json
import zipfile
from collections import OrderedDict, namedtuple
from pathlib import Path
from typing import Any

import pytest
from gate_models import ROBUST, save_exported, torch_linear

from rlhf_tune.errors import ArtifactError, InvalidInputError, UnsupportedModelError
from rlhf_tune.gate.artifact import ModelFile

torch = pytest.importorskip("torch")

ANY = {0: torch.export.Dim("batch")}
Pair = namedtuple("Pair", "logits hidden")


class Returns(torch.nn.Module):
    def __init__(self, form: Any) -> None:
        super().__init__()
        self.linear, self.form = torch.nn.Linear(4, 2), form

    def forward(self, x: Any) -> Any:
        return self.form(self.linear(x))


def exported(module: Any, arguments: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(module, arguments, **options), buffer)
    return buffer.getvalue()


def load(content: bytes) -> Any:
    return ModelFile(Path("m.pt2"), content).load()[0]


@pytest.mark.parametrize(
    ("form", "says"),
    [
        (lambda z: {"logits": z}, "returns a dict"),
        (lambda z: {"logits": z, 'hidden state of "é"': z + 1}, "returns a dict"),
        (lambda z: OrderedDict(logits=z), "returns a OrderedDict"),
        (lambda z: (z, z + 1), "returns a tuple"),
        (lambda z: (z,), "returns a tuple"),
        (lambda z: [z], "returns a list"),
        (lambda z: {"a": ({"b": z},)}, "returns a dict"),
    ],
)
def test_outputs_that_are_no_tensor_are_unsupported_and_not_unsafe(form: Any, says: str) -> None:
    content = exported(Returns(form), (torch.zeros(3, 4),), dynamic_shapes=(ANY,))
    with pytest.raises(UnsupportedModelError, match=f"must return one tensor .* {says}"):
        load(content)


class Two(torch.nn.Module):
    def forward(self, x: Any, y: Any) -> Any:
        return x + y


class Keyword(torch.nn.Module):
    def forward(self, *, x: Any) -> Any:
        return x * 2


class Nested(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        return x[0] * 2


@pytest.mark.parametrize(
    ("module", "arguments", "options", "says"),
    [
        (Two(), 2 * (torch.zeros(3, 4),), {"dynamic_shapes": (ANY, ANY)}, "takes 2 inputs"),
        (Keyword(), (), {"kwargs": {"x": torch.zeros(3, 4)}}, "1 by keyword"),
        (Nested(), ([torch.zeros(3, 4)],), {"dynamic_shapes": ([ANY],)}, "or nests them"),
    ],
)
def test_inputs_that_are_not_one_tensor_are_unsupported(
    module: Any, arguments: Any, options: Any, says: str
) -> None:
    with pytest.raises(UnsupportedModelError, match=f"must take one tensor by position.*{says}"):
        load(exported(module, arguments, **options))


@pytest.mark.parametrize("size", [1, 2, 3, 256])
def test_a_fixed_batch_is_one_error_whatever_its_size(size: int) -> None:
    content = exported(torch_linear(ROBUST), (torch.zeros(size, 4),))
    with pytest.raises(InvalidInputError, match=rf"those of {size} alone; .* dynamic_shapes"):
        load(content)


@pytest.mark.parametrize(("low", "high"), [(4, 4096), (1, 64), (3, 255)])
def test_so_is_a_range_of_batches_that_is_too_narrow(low: int, high: int) -> None:
    some = {0: torch.export.Dim("batch", min=low, max=high)}
    content = exported(torch_linear(ROBUST), (torch.zeros(5, 4),), dynamic_shapes=(some,))
    with pytest.raises(InvalidInputError, match=rf"to {high} alone; .* dynamic_shapes"):
        load(content)


@pytest.mark.parametrize("batch", [torch.export.Dim("n"), torch.export.Dim.AUTO])
def test_any_batch_is_taken_however_it_is_said(batch: Any) -> None:
    content = exported(torch_linear(ROBUST), (torch.zeros(5, 4),), dynamic_shapes=({0: batch},))
    for size in (1, 2, 256):
        assert load(content)(torch.zeros(size, 4)).shape == (size, 2)


def test_tokens_are_unsupported() -> None:
    module = torch.nn.Sequential(
        torch.nn.Embedding(9, 2), torch.nn.Flatten(), torch.nn.Linear(8, 2)
    )
    content = exported(
        module, (torch.zeros(3, 4, dtype=torch.long),), dynamic_shapes=({0: ANY[0]},)
    )
    with pytest.raises(UnsupportedModelError, match=r"takes torch\.int64: tokens"):
        load(content)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.half, torch.float64])
def test_numbers_of_any_width_are_taken(dtype: Any) -> None:
    module = torch_linear(ROBUST).to(dtype)
    content = exported(module, (torch.zeros(3, 4, dtype=dtype),), dynamic_shapes=({0: ANY[0]},))
    assert load(content)(torch.zeros(5, 4, dtype=dtype)).dtype == dtype


# What an attacker may write where inputs and outputs are described

LEAF = {"type": None, "context": None, "children_spec": []}


def of_dict(*keys: Any, context: Any = None, kind: str = "builtins.dict", parts: int = 1) -> str:
    text = json.dumps(list(keys)) if context is None else context
    node = {"type": kind, "context": text, "children_spec": [LEAF] * parts}
    return json.dumps([1, node])


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_exported(tmp_path_factory.mktemp("exported") / "model.pt2", ROBUST)


def described(archive: Path, **changes: str) -> bytes:
    """The archive with other descriptions of inputs and outputs."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(buffer, "w") as target:
        for entry in source.infolist():
            content = source.read(entry)
            if entry.filename.endswith("models/model.json"):
                document = json.loads(content)
                call = document["graph_module"]["module_call_graph"][0]["signature"]
                call.update(changes)
                content = json.dumps(document).encode()
            target.writestr(entry.filename, content)
    return buffer.getvalue()


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is refused here is refused before torch's own load sees it."""

    def load_pt2(*_: Any, **__: Any) -> Any:
        raise AssertionError("this came too late")

    monkeypatch.setattr("torch.export.pt2_archive._package.load_pt2", load_pt2)


@pytest.mark.usefixtures("unloaded")
@pytest.mark.parametrize(
    "text",
    [
        of_dict(1),
        of_dict("a", "b"),
        of_dict("a", context="__import__('os').system('x')"),
        of_dict("a", context='{"a": 1}'),
        of_dict("a", context="null"),
        of_dict("a", kind="os.system; x"),
        of_dict("a", kind="builtins.tuple"),
        json.dumps([2, LEAF]),
        json.dumps([1, {**LEAF, "more": 1}]),
        json.dumps([1, LEAF, LEAF]),
        "[" * 10**5,
        "__import__('os').system('x')",
        "",
    ],
)
@pytest.mark.parametrize("key", ["in_spec", "out_spec"])
def test_descriptions_that_no_export_writes_are_unsafe(key: str, text: str, archive: Path) -> None:
    with pytest.raises(ArtifactError, match=f"as '{key}'"):
        load(described(archive, **{key: text}))


@pytest.mark.usefixtures("unloaded")
@pytest.mark.parametrize("key", ["x): __import__('os').mkdir('ran') #", "a", "", "\u202e"])
def test_whatever_a_dictionary_s_keys_say_they_are_never_loaded(key: str, archive: Path) -> None:
    inputs = {
        "type": "builtins.tuple",
        "context": "null",
        "children_spec": [
            {"type": "builtins.tuple", "context": "null", "children_spec": []},
            {"type": "builtins.dict", "context": json.dumps([key]), "children_spec": [LEAF]},
        ],
    }
    with pytest.raises(UnsupportedModelError, match="1 by keyword"):
        load(described(archive, in_spec=json.dumps([1, inputs])))
    with pytest.raises(UnsupportedModelError, match="returns a dict"):
        load(described(archive, out_spec=of_dict(key)))


@pytest.mark.usefixtures("unloaded")
def test_a_class_of_outputs_is_named_and_never_looked_up(archive: Path) -> None:
    text = of_dict("logits", kind="shop.outputs.Scores")
    with pytest.raises(UnsupportedModelError, match="returns a Scores"):
        load(described(archive, out_spec=text))
    with pytest.raises(ArtifactError, match="as 'in_spec'"):
        load(described(archive, in_spec=text))


@pytest.mark.usefixtures("unloaded")
def test_what_is_unsafe_elsewhere_is_said_before_what_is_unsupported(archive: Path) -> None:
    content = described(archive, out_spec=of_dict("a"), in_spec="x")
    with pytest.raises(ArtifactError, match="as 'in_spec'"):
        load(content)
