"""What users hand in as numbers."""

import numpy as np
import pytest

from rlhf_tune.arrays import as_array
from rlhf_tune.errors import InvalidInputError

torch = pytest.importorskip("torch")


@pytest.mark.parametrize(
    "values",
    [
        [0.5, 1.5],
        np.array([0.5, 1.5], np.float16),
        torch.tensor([0.5, 1.5]),
        torch.tensor([0.5, 1.5], requires_grad=True),
        torch.tensor([0.5, 1.5], dtype=torch.bfloat16),
        torch.tensor([0.5, 1.5], dtype=torch.bfloat16, requires_grad=True) * 1,
        np.ma.array([0.5, 1.5], mask=[False, False]),
    ],
)
def test_numbers_of_every_kind_become_an_array(values):
    array = as_array("`x`", values)
    assert isinstance(array, np.ndarray)
    assert array.tolist() == [0.5, 1.5]


def test_arrays_are_not_copied():
    values = np.ones((2, 3), np.float32)
    assert as_array("`x`", values) is values


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (None, "NoneType"),
        ("many", "'many'"),
        (["a", "b"], "<U1"),
        ([1.0, None], "dtype object"),
        ([[1.0], [1.0, 2.0]], "list: setting an array element"),
        (np.array([1j]), "complex128"),
        (np.array(["2024-01-01"], "M8[D]"), "datetime64"),
        (np.ma.array([1.0, 2.0], mask=[False, True]), "some of its values are masked"),
        (torch.ones(2, 2).to_sparse(), "Tensor"),
        ({"a": 1.0}, "dict"),
        (np.zeros(2, [("a", "f4")]), "dtype"),
    ],
)
def test_what_holds_no_numbers_is_named(values, said):
    with pytest.raises(InvalidInputError, match="`x` must ") as caught:
        as_array("`x`", values)
    assert said in str(caught.value)


def test_a_sparse_matrix_is_told_how_to_become_dense():
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(InvalidInputError, match=r"x\.toarray\(\)"):
        as_array("`x`", sparse.csr_matrix(np.eye(2)))
