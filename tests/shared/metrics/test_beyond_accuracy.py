"""Metrics of the catalog as a whole against hand-made cases and RecBole's formulas."""

import math
from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.metrics import average_popularity, entropy, gini, item_coverage, ranking, tail_share
from shared.metrics.beyond_accuracy import recommended
from tests import oracles


def candidates_of(scores, seen):
    return ranking.mask_seen(scores, seen, np.empty(0, dtype=np.int64))


@contextmanager
def blocks_of(scores):
    """Looks at so many scores at once; a fixture would not be made anew for every example."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "BLOCK", scores)
        yield


counts_of_items = st.lists(st.integers(0, 20), min_size=1, max_size=12).map(np.array)


@given(st.data())
def test_recommended_items_equal_the_slow_oracle_with_ties_at_the_end_of_the_list(data):
    num_items, k = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 10))
    row = st.lists(st.integers(-1, 1), min_size=num_items, max_size=num_items)
    rows = data.draw(st.lists(row, min_size=1, max_size=4))
    seen = [data.draw(st.sets(st.integers(0, num_items - 1))) for _ in rows]
    candidates = candidates_of(np.array(rows, dtype=np.float32), [np.array(sorted(items), dtype=int) for items in seen])
    expected = Counter(
        item for row, items in zip(rows, seen, strict=True) for item in oracles.list_of_user(row, items, set(), k)
    )
    with blocks_of(data.draw(st.integers(1, 3)) * len(rows)):
        users, items = recommended(candidates, k)
    assert np.bincount(items, minlength=num_items).tolist() == [expected[item] for item in range(num_items)]
    assert np.bincount(users, minlength=len(rows)).tolist() == [min(k, num_items - len(items)) for items in seen]


def test_a_constant_model_fills_its_lists_from_the_first_rows():
    _, items = recommended(candidates_of(np.zeros((3, 5), dtype=np.float32), [[]] * 3), 2)
    assert sorted(items.tolist()) == [0, 0, 0, 1, 1, 1]


def test_no_users_recommend_nothing():
    users, items = recommended(candidates_of(np.zeros((0, 4), dtype=np.float32), []), 2)
    assert (users.tolist(), items.tolist()) == ([], [])


def test_hand_made_counts():
    counts, popularity = np.array([6, 2, 0, 0]), np.array([10, 4, 1, 0])
    assert item_coverage(counts) == 0.5
    # Ascending 0 0 2 6, factors -3 -1 1 3: (2 + 18) / (4 * 8).
    assert gini(counts) == pytest.approx(20 / 32)
    assert entropy(counts) == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert average_popularity(counts, popularity) == pytest.approx((6 * 10 + 2 * 4) / 8)
    assert tail_share(counts, popularity) == pytest.approx(2 / 8)  # The least popular 3 of 4.
    assert tail_share(counts, popularity, tail_fraction=0.5) == 0.0
    assert tail_share(counts, popularity, tail_fraction=1.0) == 1.0


@given(counts_of_items, st.data())
def test_recbole_formulas_give_the_same_numbers(counts, data):
    popularity = np.array([data.draw(st.integers(1, 9)) for _ in counts])
    total = int(counts.sum())
    if total == 0:
        return
    listed = [item for item, count in enumerate(counts) for _ in range(count)]
    by_item = Counter(listed)
    # GiniIndex: only recommended items in the sum, with the highest places.
    ascending = np.array(sorted(by_item.values()))
    places = np.arange(len(counts) - len(by_item) + 1, len(counts) + 1)
    recbole_gini = np.sum((2 * places - len(counts) - 1) * ascending) / total / len(counts)
    assert gini(counts) == pytest.approx(recbole_gini)
    # ShannonEntropy: divided by the number of distinct recommended items.
    recbole_entropy = sum(-c / total * math.log(c / total) for c in by_item.values()) / len(by_item)
    assert entropy(counts) / len(by_item) == pytest.approx(recbole_entropy)
    # ItemCoverage, AveragePopularity, TailPercentage with its default of 0.1 where no item is cold.
    assert item_coverage(counts) == pytest.approx(len(set(listed)) / len(counts))
    assert average_popularity(counts, popularity) == pytest.approx(np.mean([popularity[i] for i in listed]))
    by_popularity = sorted(enumerate(popularity), key=lambda pair: (pair[1], pair[0]))
    tail = {item for item, _ in by_popularity[: max(int(len(counts) * 0.1), 1)]}
    recbole_tail = np.mean([item in tail for item in listed])
    assert tail_share(counts, popularity, tail_fraction=0.1) == pytest.approx(recbole_tail)


@given(counts_of_items)
def test_bounds_hold_for_all_counts(counts):
    size, popularity = len(counts), np.arange(len(counts))
    assert 0 <= item_coverage(counts) <= 1
    assert -1e-12 <= gini(counts) <= 1 - 1 / size + 1e-12
    assert 0 <= entropy(counts) <= math.log(size) + 1e-12
    assert 0 <= average_popularity(counts, popularity) <= size
    assert 0 <= tail_share(counts, popularity) <= 1


def test_even_and_one_sided_recommendations_are_the_two_ends():
    even, one_sided = np.full(5, 7), np.array([0, 0, 35, 0, 0])
    assert (gini(even), gini(one_sided)) == (pytest.approx(0), pytest.approx(1 - 1 / 5))
    assert (entropy(even), entropy(one_sided)) == (pytest.approx(math.log(5)), 0.0)


def test_nothing_recommended_is_zero_everywhere():
    nothing = np.zeros(3, dtype=np.int64)
    assert [item_coverage(nothing), gini(nothing), entropy(nothing)] == [0.0, 0.0, 0.0]
    assert [average_popularity(nothing, np.ones(3)), tail_share(nothing, np.ones(3))] == [0.0, 0.0]
