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

from rlhf_tune.errors import ArtifactError

_PLAIN = (  # text or numbers that are never executed
    r"archive_format|archive_version|byteorder|version|\.data/version|\.data/serialization_id"
    r"|\.format_version|data/weights/weight_\d+|data/constants/tensor_\d+"
)
_CONFIG = r"data/(weights/model_weights|constants/model_constants)_config\.json"
_INPUTS = "data/sample_inputs/model.pt"
_PROGRAM = "models/model.json"

_FREE = {"metadata", "guards_code"}  # never evaluated: the guards are left out on loading
_CODE = {"as_graph", "as_operator", "as_custom_obj", "custom_obj", "as_string_to_argument"}
_TEXT = re.compile(r"[\w.+\-]{0,200}", re.ASCII)
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
    **dict.fromkeys(
        ("in_spec", "out_spec"),
        re.compile(
            r'(?:"builtins\.(?:tuple|list|dict)"|"type"|"context"|"children_spec"'
            r'|"null"|"\[\]"|null|\d++|[\s\[\]{}:,]){0,500}+'
        ),
    ),
}


def load(content: bytes) -> torch.nn.Module:
    """The module of an archive by `torch.export.save`.

    Raises:
        ArtifactError: If it holds anything that could run code, or is damaged.
    """
    try:
        from torch.export.pt2_archive import _package as package  # torch >= 2.9

        _check(package.PT2ArchiveReader(io.BytesIO(content)))
        program = package.load_pt2(io.BytesIO(content)).exported_programs["model"]
        module: torch.nn.Module = program.module(check_guards=False)
    except ArtifactError:
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
    for name in names:
        if name == _PROGRAM:
            _check_program(json.loads(archive.read_bytes(name)))
        elif name == _INPUTS:
            _check_tensors(name, archive.read_bytes(name))
        elif re.fullmatch(_CONFIG, name):
            _check_payload(name, json.loads(archive.read_bytes(name)))
        elif not re.fullmatch(_PLAIN, name):
            raise ArtifactError(f"the archive must not hold the record {name!r}")


def _check_tensors(name: str, content: bytes) -> None:
    try:
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as exc:
        raise ArtifactError(f"the record {name!r} holds a pickle that is not plain data") from exc


def _check_payload(name: str, config: Any) -> None:
    for weight, entry in config["config"].items():
        path = entry["path_name"]
        if entry["use_pickle"] is not False or not re.fullmatch(r"(weight|tensor)_\d+", path):
            raise ArtifactError(f"{name!r} must not pickle {weight!r}")
    _check_program(config)


def _check_program(program: Any) -> None:
    for key, text in _texts(program):
        if not _RULES.get(key, _TEXT).fullmatch(text):
            raise ArtifactError(f"the archive must not hold {text[:80]!r} as {key!r}")
        if text in _CODE:
            raise ArtifactError(f"the archive must not use {text!r}")


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
