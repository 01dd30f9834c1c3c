"""Reads ``torch.export`` archives (.pt2), of which every part is checked before it is used.

Such an archive is not free of code. `torch.export.load` unpickles records that fail its safe
path, evaluates the expressions of symbolic shapes, looks operators up anywhere below ``torch``,
and writes names into Python source. So only what an ordinary export contains is let through: an
allow-list, read by the reader that the load itself uses.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from typing import Any

import torch

from rlhf_tune.errors import (
    ArtifactError,
    InvalidInputError,
    RlhfTuneError,
    UnsupportedModelError,
)

_PLAIN = (  # text or numbers that are never executed
    r"archive_format|archive_version|byteorder|version|\.data/version|\.data/serialization_id"
    r"|\.format_version|data/weights/weight_\d+|data/constants/tensor_\d+"
)
_CONFIG = r"data/(weights/model_weights|constants/model_constants)_config\.json"
_INPUTS = "data/sample_inputs/model.pt"
_PROGRAM = "models/model.json"

_BATCH = 256  # the largest that a measurement passes on; the smallest is 1

_FREE = {"metadata", "guards_code"}  # never evaluated: the guards are left out on loading
_CODE = {"as_graph", "as_operator", "as_custom_obj", "custom_obj", "as_string_to_argument"}
_TEXT = re.compile(r"[\w.+\-]{0,200}", re.ASCII)
_LISTS, _DICTS = {"builtins.tuple", "builtins.list"}, {"builtins.dict", "collections.OrderedDict"}
_NODE = ("type", "context", "children_spec")
_TENSOR: Any = (None, [])
_ONLY = {  # what is loaded: one tensor leads to one, so that no key reaches the source
    "in_spec": ("builtins.tuple", [("builtins.tuple", [_TENSOR]), ("builtins.dict", [])]),
    "out_spec": _TENSOR,
}
_RULES = {
    "expr_str": re.compile(
        r"(?:Symbol\('[suz]\w*+'(?:, \w++=(?:True|False))*+\)"
        r"|(?:Add|Mul|Integer|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv)\("
        r"|[su]?\d++(?!\w)|[-+(), ]|\*(?!\*)){0,500}+",
        re.ASCII,
    ),
    "as_string": re.compile(r"[\w.+\-, >]{0,200}", re.ASCII),  # as of einsum; quoted in source
    "target": re.compile(
        r"torch\.ops\.aten\.(?!save\.|from_file\.)\w+\.\w+"
        r"|_operator\.(?:getitem|add|sub|mul|floordiv|mod|neg|eq|ne|lt|le|gt|ge)"
        r"|torch\.sym_(?:int|float|max|min|not)",
        re.ASCII,
    ),
}


def load(content: bytes) -> torch.nn.Module:
    """The module of an archive by `torch.export.save`.

    Raises:
        ArtifactError: If it holds anything that could run code, or is damaged.
        UnsupportedModelError: If it takes or returns anything but one tensor of numbers.
        InvalidInputError: If it does not take batches of every size.
    """
    try:
        from torch.export.pt2_archive import _package as package  # torch >= 2.9

        _check(package.PT2ArchiveReader(io.BytesIO(content)))
        program = package.load_pt2(io.BytesIO(content)).exported_programs["model"]
        _check_input(program)
        module: torch.nn.Module = program.module(check_guards=False)
    except RlhfTuneError:
        raise
    except Exception as exc:
        raise ArtifactError(
            f"the file must be a program that this torch ({torch.__version__}) exported, "
            f"but: {type(exc).__name__}: {brief(exc)}"
        ) from exc
    return module


def brief(exc: Exception) -> str:
    """The message of an error on one line, cut."""
    return " ".join(str(exc).split())[:300]


def _check(archive: Any) -> None:
    """Raise `ArtifactError` for the first record that an ordinary export would not hold."""
    names = archive.get_file_names()
    if len(set(names)) < len(names):
        raise ArtifactError("the archive holds two records of one name")
    nests: list[tuple[str, Any]] = []
    for name in names:
        if name == _PROGRAM:
            nests += _check_program(json.loads(archive.read_bytes(name)))
        elif name == _INPUTS:
            _check_tensors(name, archive.read_bytes(name))
        elif re.fullmatch(_CONFIG, name):
            nests += _check_payload(name, json.loads(archive.read_bytes(name)))
        elif not re.fullmatch(_PLAIN, name):
            raise ArtifactError(f"the archive must not hold the record {name!r}")
    for key, nest in nests:
        _check_nest(key, nest)


def _check_tensors(name: str, content: bytes) -> None:
    try:
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as exc:
        raise ArtifactError(f"the record {name!r} holds a pickle that is not plain data") from exc


def _check_payload(name: str, config: Any) -> list[tuple[str, Any]]:
    for weight, entry in config["config"].items():
        path = entry["path_name"]
        if entry["use_pickle"] is not False or not re.fullmatch(r"(weight|tensor)_\d+", path):
            raise ArtifactError(f"{name!r} must not pickle {weight!r}")
    return _check_program(config)


def _check_program(program: Any) -> list[tuple[str, Any]]:
    """Raise `ArtifactError` for a text that is not allowed; returns how in- and outputs nest."""
    nests = []
    for key, text in _texts(program):
        if key in _ONLY:
            nests.append((key, _nest_of(key, text)))
        elif not _RULES.get(key, _TEXT).fullmatch(text):
            raise ArtifactError(f"the archive must not hold {text[:80]!r} as {key!r}")
        elif text in _CODE:
            raise ArtifactError(f"the archive must not use {text!r}")
    return nests


def _nest_of(key: str, text: str) -> Any:
    """How inputs or outputs nest: (type, parts), the type of a tensor being None.

    Raises:
        ArtifactError: If it is not made of plain lists and dictionaries of texts.
    """

    def nest(node: Any) -> Any:
        kind, parts = node["type"], [nest(part) for part in node["children_spec"]]
        keys: Any = None if node["context"] is None else json.loads(node["context"])
        if len(node) != len(_NODE):
            raise ValueError(node)
        if (kind in _LISTS or (kind is None and not parts)) and keys is None:
            return kind, parts
        named = isinstance(keys, list) and [type(name) for name in keys] == [str] * len(parts)
        if kind in _DICTS and named:
            return kind, parts
        if key == "out_spec" and kind not in _LISTS | _DICTS and _TEXT.fullmatch(kind):
            return kind, parts  # a class of outputs, which is refused by its name alone
        raise ValueError(node)

    try:
        version, root = json.loads(text)
        if version == 1:
            return nest(root)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    raise ArtifactError(f"the archive must not hold {text[:80]!r} as {key!r}")


def _check_nest(key: str, nest: Any) -> None:
    """Raise `UnsupportedModelError` unless it is that of one tensor."""
    if nest == _ONLY[key]:
        return
    if key == "out_spec":
        kind = str(nest[0]).rpartition(".")[2]
        raise UnsupportedModelError(
            f"the exported program must return one tensor [B, C], but returns a {kind}; export a "
            f"module whose forward returns the class scores alone"
        )
    positions, keywords = (len(parts) for _, parts in nest[1])
    raise UnsupportedModelError(
        f"the exported program must take one tensor by position, but takes {positions} inputs by "
        f"position and {keywords} by keyword, or nests them"
    )


def _check_input(program: Any) -> None:
    """Raise an error of our own unless the input is of numbers, in batches of any size."""
    (name,) = program.graph_signature.user_inputs
    value: Any = next(node.meta["val"] for node in program.graph.nodes if node.name == name)
    kind = getattr(value, "dtype", type(value))
    if not getattr(kind, "is_floating_point", False):
        raise UnsupportedModelError(
            f"the exported program must take numbers that can change a little, but takes {kind}: "
            f"tokens and constants cannot be measured"
        )
    size: Any = value.shape[0] if value.ndim else 0
    fixed = isinstance(size, int)
    span = None if fixed else program.range_constraints.get(size.node.expr)
    if span is None or span.lower > 2 or span.upper < _BATCH:  # torch counts 1 to those from 2
        sizes = f"of {size}" if span is None else f"from {span.lower} to {span.upper}"
        raise InvalidInputError(
            f"the exported program must take batches of any size, but takes those {sizes} alone; "
            f"export it again and specify dynamic_shapes=({{0: torch.export.Dim('batch')}},)"
        )


def _texts(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string of parsed JSON, with the key that it is the value of; keys have none."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield "", name
            if name not in _FREE:
                yield from _texts(value, name)
    elif isinstance(node, list):
        for value in node:
            yield from _texts(value, key)
    elif isinstance(node, str):
        yield key, node
