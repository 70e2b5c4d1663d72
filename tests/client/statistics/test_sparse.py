"""Rows of few values among many: what the same operations on whole rows give."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from client.statistics.sparse import SparseRows

# Float64 sums of some thousand squares are within this of the exact ones, far below what a clipped contribution may exceed.
ROOM = 2.0**-40


@given(st.lists(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=6), max_size=4))
def test_guarantee_the_norm_of_a_normalized_row_is_at_most_1_whatever_the_values_are(values: list[list[float]]) -> None:
    """The smallest and the largest numbers of float64 among them."""
    starts = np.concatenate([[0], np.cumsum([len(row) for row in values])]).astype(np.int64)
    places = np.concatenate([np.zeros(0, dtype=np.int64), *[np.arange(len(row)) for row in values]])
    rows = SparseRows(6, starts, places, np.array([value for row in values for value in row])).normalized()
    for number in range(len(values)):
        assert math.sqrt(math.fsum(value**2 for value in rows.row(number)[1])) <= 1 + ROOM


def _sparse(whole: NDArray[np.float64]) -> SparseRows:
    rows, places = np.nonzero(whole)
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(whole)))]).astype(np.int64)
    return SparseRows(whole.shape[1], starts, places, whole[rows, places])


def _whole(rows: SparseRows) -> NDArray[np.float64]:
    return np.array([rows.dense(number) for number in range(len(rows))]).reshape(len(rows), rows.size)


@given(st.integers(0, 2**32 - 1), st.integers(0, 6), st.integers(1, 8))
def test_rows_added_up_by_group_and_one_after_the_other_are_those_of_whole_rows(seed: int, count: int, size: int) -> None:
    """In whole numbers, which are exact in every order; rows, groups and columns without any value among them."""
    rng = np.random.default_rng(seed)
    whole = rng.integers(-3, 4, size=(count, size)).astype(np.float64) * rng.integers(0, 2, size=(count, size))
    groups = rng.integers(0, 3, size=count)
    rows = _sparse(whole)
    np.testing.assert_array_equal(_whole(rows), whole)
    expected = np.array([whole[groups == group].sum(axis=0) for group in range(3)])
    np.testing.assert_array_equal(_whole(rows.summed(groups, num_groups=3)), expected)
    both = SparseRows.empty(size, 2).followed_by(rows).followed_by(rows)
    np.testing.assert_array_equal(_whole(both), np.concatenate([np.zeros((2, size)), whole, whole]))


def test_a_normalized_row_keeps_its_direction_and_an_empty_one_stays_empty() -> None:
    rows = _sparse(np.array([[0.0, 3.0, 0.0, -4.0], [0.0] * 4, [1e300, 0.0, 0.0, 1e300]])).normalized()
    expected = [[0.0, 0.6, 0.0, -0.8], [0.0] * 4, [math.sqrt(0.5), 0.0, 0.0, math.sqrt(0.5)]]
    np.testing.assert_allclose(_whole(rows), expected, rtol=1e-15)
