"""What a run is between stretches, as plain values: numbers, texts, arrays, lists, mappings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, final

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.run.stretch import Stretch
from rlhf_tune.safety.measurement import Measurement

_KIND = "is a"  # key of a mapping that stands for an object
_STRETCH = "stretch of the record"


@final
class Plainly:
    """Turns attributes of a run into plain values, and back.

    A stretch is written as its number in the record: runs tell stretches apart by identity, so
    that each must come back as one object, however many attributes lead to it.
    """

    def __init__(self, record: Sequence[Stretch], kinds: Iterable[type] = ()) -> None:
        """For a run with this record.

        Args:
            record: To which stretches belong; at reading it must be complete.
            kinds: Dataclasses that may be met besides stretches and measurements.
        """
        self._record = record
        self._kinds = {kind.__name__: kind for kind in (Measurement, *kinds)}

    def plain(self, value: Any) -> Any:
        """As a plain value."""
        if isinstance(value, Stretch):
            return {_KIND: _STRETCH, "number": _number(self._record, value)}
        if is_dataclass(value):
            return {_KIND: type(value).__name__, **self._fields(value)}
        if isinstance(value, Mapping):
            return {key: self.plain(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.plain(each) for each in value)
        return value

    def revived(self, value: Any) -> Any:
        """From a plain value."""
        if isinstance(value, Mapping):
            items = {key: self.revived(each) for key, each in value.items()}
            kind = items.get(_KIND)
            if kind == _STRETCH:
                return self._record[items["number"]]
            if not isinstance(kind, str) or kind not in self._kinds:
                return items
            return self._kinds[items.pop(_KIND)](**items)
        if isinstance(value, list | tuple):
            return type(value)(self.revived(each) for each in value)
        return value

    def record(self) -> list[dict[str, Any]]:
        """The stretches themselves."""
        return [self._fields(stretch) for stretch in self._record]

    def stretches(self, record: Sequence[Mapping[str, Any]]) -> list[Stretch]:
        """From what `record` returned."""
        return [Stretch(**self.revived(each)) for each in record]

    def _fields(self, value: Any) -> dict[str, Any]:
        return {each.name: self.plain(getattr(value, each.name)) for each in fields(value)}


def _number(record: Sequence[Stretch], stretch: Stretch) -> int:
    return next(i for i, each in enumerate(record) if each is stretch)


def check_same(here: Mapping[str, Any], there: Mapping[str, Any]) -> None:
    """Raise `InvalidInputError`, naming what differs, unless a state is of an equal run.

    Args:
        here: What the run must have in common with those whose state it takes, by name.
        there: The same of the run whose state it is.
    """
    for name in (*here, *there):
        ours, theirs = here.get(name), there.get(name)
        if ours != theirs:
            raise InvalidInputError(
                f"a run goes on from a state of its own only, but there {name!r} is "
                f"{_short(theirs)} and here it is {_short(ours)}; call it as before"
            )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
