"""What prints as a table; the tables themselves are made in `rlhf_tune.tables`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlhf_tune.tables import Table


class Tabled(ABC):
    """A result that prints as a table, shows as one in a notebook, and becomes a DataFrame."""

    __slots__ = ()

    @abstractmethod
    def table(self) -> Table:
        """The result as rows."""

    def __str__(self) -> str:
        return self.table().to_text()

    def _repr_html_(self) -> str:
        return self.table().to_html()

    def to_dataframe(self) -> Any:
        """All rows as a `pandas.DataFrame`, numbers as numbers.

        Raises:
            MissingExtraError: If pandas is not installed.
        """
        return self.table().to_dataframe()
