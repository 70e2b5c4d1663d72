"""The k best items: what is seen is out, ties go to the lower row, and the order is that of a full sort."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ConfigError, DataError
from shared.ranking import top_k


def test_a_list_leaves_out_what_is_seen_and_falls_in_score() -> None:
    scores = np.array([0.1, 0.9, 0.5, 0.7], dtype=np.float32)
    assert top_k(scores, np.array([1]), k=2).tolist() == [3, 2]
    assert top_k(scores, np.array([], dtype=np.int32), k=10).tolist() == [1, 3, 2, 0]
    assert top_k(scores, np.array([0, 1, 2, 3]), k=2).tolist() == []


def test_ties_go_to_the_lower_row_and_a_score_that_is_no_number_ranks_last() -> None:
    assert top_k(np.array([1.0, 2.0, 2.0, 1.0]), np.array([], dtype=np.int64), k=3).tolist() == [1, 2, 0]
    assert top_k(np.array([np.nan, -np.inf, 2.0]), np.array([], dtype=np.int64), k=3).tolist() == [2, 1, 0]


@given(
    st.lists(st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0, np.nan]), min_size=1, max_size=30),
    st.lists(st.integers(0, 29), max_size=40),
    st.integers(1, 35),
)
def test_a_list_is_the_beginning_of_a_full_sort(scores: list[float], seen: list[int], k: int) -> None:
    seen = [row for row in seen if row < len(scores)]
    order = sorted(
        set(range(len(scores))) - set(seen), key=lambda row: (np.isnan(scores[row]), -np.nan_to_num(scores[row]), row)
    )
    before = np.array(scores)
    assert top_k(before, np.array(seen, dtype=np.int64), k=k).tolist() == order[:k]
    np.testing.assert_array_equal(before, scores)


def test_a_list_of_no_items_or_of_another_catalog_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^Expected k >= 1, got k=0\. Use 10\.$"):
        top_k(np.zeros(2), np.array([0]), k=0)
    for row in (-1, 2):
        with pytest.raises(DataError, match=r"^Expected item rows in \[0, 2\), found others"):
            top_k(np.zeros(2), np.array([row]), k=1)
