"""Tables of results: as text, as HTML, as a DataFrame."""

import math
import sys

import pytest

from rlhf_tune.errors import MissingExtraError
from rlhf_tune.tables import Table, cell


def test_text_is_aligned_and_rounded() -> None:
    table = Table(("name", "value"), [("a", 0.123456), ("bb", 12), ("c", None)], "what", ("so",))
    assert table.to_text().splitlines() == [
        "what",
        "name   value",
        "a     0.1235",
        "bb        12",
        "c",
        "so",
    ]


def test_long_tables_are_cut_and_say_so() -> None:
    table = Table(("n",), [(i,) for i in range(30)], shown=2)
    assert table.to_text().splitlines() == ["n", "0", "1", "... and 28 more"]
    assert len(table.to_text(rows=30).splitlines()) == 31
    assert table.to_html().count("<tr>") == 3
    assert "and 28 more" in table.to_html()


def test_narrow_terminals_fold_and_lose_nothing() -> None:
    table = Table(("parameter", "value"), [("x" * 60, 1)])
    text = table.to_text(width=30)
    assert max(map(len, text.splitlines())) <= 30
    assert text.count("x") == 60


def test_what_texts_hold_is_text() -> None:
    table = Table(("<i>",), [("<b>&[red]\x1b[0m\n\u202e",)], "<t>", ("<n>",))
    assert "[red]\\x1b[0m \\u202e" in table.to_text()
    page = table.to_html()
    assert "&lt;b&gt;&amp;[red]\\x1b[0m" in page
    assert not {"<b>", "<i>", "<t>", "<n>"} & {page[i : i + 3] for i in range(len(page))}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, ""),
        (math.nan, ""),
        (math.inf, "inf"),
        (True, "yes"),
        (False, "no"),
        (7, "7"),
        (1e-9, "1e-09"),
        (0.5, "0.5"),
        ("a  b", "a b"),
        (("x", 1), "('x', 1)"),
    ],
)
def test_cells(value: object, shown: str) -> None:
    assert cell(value) == shown


def test_a_dataframe_has_all_rows_and_its_numbers() -> None:
    pandas = pytest.importorskip("pandas")
    frame = Table(("n", "x"), [(i, i / 3) for i in range(30)], shown=2).to_dataframe()
    assert isinstance(frame, pandas.DataFrame)
    assert frame.shape == (30, 2)
    assert frame["x"].iloc[1] == 1 / 3


def test_without_pandas_the_error_names_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match="pip install pandas"):
        Table(("n",), [(1,)]).to_dataframe()
