"""The popularity count: one user's influence is exactly 1 in L2 norm."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.alone import count_items

NUM_ITEMS = 30

HISTORY = st.lists(st.integers(0, NUM_ITEMS - 1), max_size=60)


def _count(histories: list[list[int]]) -> np.ndarray:
    return count_items(pl.Series(histories, dtype=pl.List(pl.Int32)), num_items=NUM_ITEMS)


@given(st.lists(HISTORY, max_size=5), HISTORY, st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_adding_or_removing_one_user_moves_the_count_by_exactly_one_in_l2_norm(
    others: list[list[int]], history: list[int], place: int
) -> None:
    with_user = _count([*others[:place], history, *others[place:]])
    moved = float(np.linalg.norm(with_user.astype(np.float64) - _count(others)))
    assert moved == pytest.approx(1.0 if history else 0.0, abs=1e-6)


def test_repeats_of_an_item_count_once_and_users_add_up() -> None:
    counts = _count([[0, 0, 0, 0], [0, 1, 2, 3, 3], []])
    np.testing.assert_allclose(counts[:5], [1.5, 0.5, 0.5, 0.5, 0.0])
    assert counts.dtype == np.float64
    assert counts.shape == (NUM_ITEMS,)


def test_a_client_without_any_interaction_answers_like_others() -> None:
    np.testing.assert_array_equal(_count([]), np.zeros(NUM_ITEMS))
    np.testing.assert_array_equal(_count([[], []]), np.zeros(NUM_ITEMS))


@given(st.lists(HISTORY, max_size=5), st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=5))
def test_a_history_with_items_that_the_catalog_lacks_counts_as_nothing(others: list[list[int]], faulty: list[int]) -> None:
    """It must neither change the message's size nor spoil what the other users contribute."""
    outside = [*faulty, NUM_ITEMS]
    np.testing.assert_array_equal(_count([*others, outside]), _count(others))
    np.testing.assert_array_equal(_count([[-1], *others]), _count(others))
