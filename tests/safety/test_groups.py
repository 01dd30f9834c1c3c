"""Groups: attributes, their intersections, and what are none."""

from typing import Any

import numpy as np
import pytest

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.safety.groups import levels_of, skipped_of

SEX = np.array(["f", "m"] * 50)
AGE = np.repeat([1, 2, 3, 4], 25)


def test_attributes_and_their_intersections() -> None:
    levels = levels_of({"sex": SEX, "age": AGE, "half": AGE > 2}, 100, 5)
    keys = [level.key for level in levels]
    assert keys[:3] == ["sex", "age", "half"]
    assert set(keys[3:]) == {
        ("sex", "age"),
        ("sex", "half"),
        ("age", "half"),
        ("sex", "age", "half"),
    }
    both = levels[keys.index(("sex", "age"))]
    assert both.label == "sex x age"
    assert both.names == tuple(f"{s}, {a}" for s in "fm" for a in "1234")
    assert both.counts(np.ones(100, dtype=bool)).tolist() == [13, 12, 13, 12, 12, 13, 12, 13]
    assert both.counts(SEX == "f").tolist() == [13, 12, 13, 12, 0, 0, 0, 0]


def test_a_plain_array_is_one_attribute() -> None:
    (level,) = levels_of(list(SEX), 100, 5)
    assert (level.key, level.names) == ("group", ("f", "m"))


def test_a_data_frame_has_a_column_an_attribute() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"sex": SEX, "age": AGE})
    assert [level.key for level in levels_of(frame, 100, 5)] == ["sex", "age", ("sex", "age")]


def test_small_groups_are_left_out_and_said() -> None:
    labels = SEX.astype("U9")
    labels[:3] = "other"
    (level,) = levels_of(labels, 100, 20)
    assert level.names == ("f", "m")
    assert (level.codes[:3] == -1).all()
    assert level.counts(np.ones(100, dtype=bool)).sum() == 97
    assert dict(skipped_of([level])) == {"group: other": "3 of at least 20 samples"}


def test_an_intersection_may_have_no_group_large_enough() -> None:
    levels = levels_of({"sex": SEX, "age": AGE}, 100, 20)
    assert levels[-1].names == ()
    assert len(levels[-1].skipped) == 8


NAN = np.where(AGE == 1, np.nan, AGE)


@pytest.mark.parametrize(
    ("sensitive", "says"),
    [
        ({}, "at least one attribute, but has none"),
        (SEX[:99], "a group for each of the 100 samples, but has 99"),
        (np.full(100, "f"), r"at least two groups of 20 or more samples, but 'group' has \['f'\]"),
        (np.arange(100).astype(str), "'group' has none"),
        (NAN, "25 of 100 are None or NaN"),
        ([None, *SEX[1:]], "1 of 100 are None or NaN"),
        (np.linspace(0, 1, 100), "has 100 different numbers; cut them into ranges"),
        ({"age": np.arange(100)}, r"`sensitive\['age'\]` must be groups, but has 100"),
        (np.zeros((100, 2)), r"one label per sample \[N\], but got the shape \(100, 2\)"),
        ([1, "1"] * 50, "50 of 100 are text"),
    ],
)
def test_what_are_no_groups_is_refused(sensitive: Any, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        levels_of(sensitive, 100, 20)
