"""A run on disk: written whole or not at all after each stretch, and taken up from there.

A checkpoint is one safetensors file: the arrays, and the rest as JSON in its header. Reading it
executes nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, final

from rlhf_tune import files
from rlhf_tune.errors import InvalidInputError
from rlhf_tune.run.driver import Run
from rlhf_tune.run.saving import check_same
from rlhf_tune.run.trees import Arrays, name_of_array, put_together, taken_apart

FORMAT = "1"
"""Of the files; a number for each change that older versions cannot read."""

_MARK = "rlhf_tune run"
_LATEST, _PREVIOUS = "latest", "previous"


class Part(Protocol):
    """Something beside the run that goes on with it, such as a framework's own history."""

    def state_dict(self) -> Any:
        """Plain values."""
        ...

    def load_state_dict(self, state: Any) -> Any:
        """Take them."""
        ...


def attach(
    run: Run,
    folder: str | Path,
    parts: Sequence[Part] = (),
    about: Mapping[str, Any] = MappingProxyType({}),
) -> bool:
    """Take up a run from its folder, where there is one, and write it there from now on.

    Args:
        run: Not begun yet.
        folder: Of this run alone; made where it is missing.
        parts: What goes on with it.
        about: Further arguments that must be the same when it goes on, by name.

    Returns:
        Whether it was taken up.

    Raises:
        InvalidInputError: If the folder holds a damaged checkpoint, or one of another run; it is
            left as it is.
    """
    shelf = Shelf(Path(folder))

    def save() -> None:
        kept = [part.state_dict() for part in parts]
        shelf.write({"about": dict(about), "run": run.state_dict(), "parts": kept})

    state = shelf.read()
    if state is not None:
        _take_up(run, parts, about, state, shelf)
    run.on_rest = save
    return state is not None


def _take_up(
    run: Run,
    parts: Sequence[Part],
    about: Mapping[str, Any],
    state: Mapping[str, Any],
    shelf: Shelf,
) -> None:
    try:
        check_same(about, state["about"])
        run.load_state_dict(state["run"])
        for part, its in zip(parts, state["parts"], strict=True):
            part.load_state_dict(its)
    except InvalidInputError as exc:
        raise InvalidInputError(
            f"the checkpoint in {str(shelf.folder)!r} must be of this run: {exc}, or delete the "
            f"folder to begin anew"
        ) from exc


@final
class Shelf:
    """The two latest states of a run in a folder of its own.

    Attributes:
        folder: Where they are.
    """

    def __init__(self, folder: Path) -> None:
        """Make it where it is missing.

        Raises:
            InvalidInputError: If that is not possible.
        """
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise InvalidInputError(
                f"`checkpoint` must be a folder or the place for one, but {str(folder)!r} cannot "
                f"be made: {exc.strerror}"
            ) from exc
        files.clear(self._path(_LATEST))  # as large as the model, one for each kill

    def read(self) -> dict[str, Any] | None:
        """The latest state; None where there is none.

        Raises:
            InvalidInputError: If it is damaged or of a newer version; nothing is changed.
        """
        for name in (_LATEST, _PREVIOUS):  # a kill may fall between their two renames
            if self._path(name).exists():
                return _read(self._path(name))
        return None

    def write(self, state: Mapping[str, Any]) -> None:
        """Put a state in the place of the older one.

        Raises:
            OSError: If it cannot be written; then what was there is as it was.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import save_file

        document, arrays = taken_apart(state)
        text = json.dumps(document, allow_nan=False)
        about = {"kind": _MARK, "format": FORMAT, "digest": _digest(text), "state": text}
        latest = self._path(_LATEST)
        with files.whole(latest, older=self._path(_PREVIOUS)) as partial:
            try:
                save_file(arrays, partial, metadata=about)
            except SafetensorError as exc:  # of Rust, which has no errors of the system's
                raise OSError(f"{str(latest)!r} cannot be written: {exc}") from exc

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


def _read(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            about = file.metadata() or {}
            _check_kind(path, about)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        _check_whole(about, arrays)
        state: dict[str, Any] = put_together(json.loads(about["state"]), arrays)
        return state
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as exc:
        if isinstance(exc, InvalidInputError):
            raise
        raise InvalidInputError(
            f"a checkpoint must be as it was written, but {str(path)!r} is damaged ({exc}); delete "
            f"this file to go on from the state before it, or the folder to begin anew"
        ) from exc


def _check_kind(path: Path, about: Mapping[str, str]) -> None:
    if about.get("kind") != _MARK:
        raise InvalidInputError(
            f"a checkpoint must be one that a run wrote, but {str(path)!r} is another "
            f"safetensors file; give `checkpoint` a folder of its own"
        )
    if about.get("format") != FORMAT:
        raise InvalidInputError(
            f"a checkpoint must have the format {FORMAT}, but {str(path)!r} has "
            f"{about.get('format')!r}; go on with the version of rlhf_tune that wrote it"
        )


def _check_whole(about: Mapping[str, str], arrays: Arrays) -> None:
    if _digest(about["state"]) != about["digest"]:
        raise ValueError("its header does not match its digest")
    for name, array in arrays.items():
        if name_of_array(array) != name:
            raise ValueError(f"the array {name} does not match its digest")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
