"""Statistics of a run that continues another: over what is new alone, of L2 norm 1 at most, wherever that begins."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from client.statistics.pairs import pair_vectors, pairs_size
from client.statistics.popularity import count_items
from client.statistics.transitions import recent_directions
from client.store.population import open_population, read_clients
from shared.data.catalog import ItemCatalog
from simulations.population import write_population
from tests.alone import transition_vectors

NUM_ITEMS, HEAD, WINDOW, DECAY, DIMENSIONS = 10, 7, 3, 0.9, 4
ROOM = 2.0**-40
PLACES = np.where(np.arange(NUM_ITEMS) < HEAD, np.arange(NUM_ITEMS), -1)
CONTENT = np.random.default_rng(1).normal(size=(NUM_ITEMS, DIMENSIONS)).astype(np.float32)
CONTENT /= np.linalg.norm(CONTENT, axis=1, keepdims=True)
MEAN = CONTENT.mean(axis=0).astype(np.float64)
HISTORY = st.one_of(
    st.lists(st.integers(0, NUM_ITEMS - 1), max_size=12),
    st.integers(0, HEAD - 1).map(lambda item: [item, item + 1] * 200),
    st.lists(st.integers(-5, 10**6), max_size=3),
)
# The new begins anywhere in the history, and also behind it.
USER = HISTORY.flatmap(lambda history: st.tuples(st.just(history), st.integers(0, len(history) + 2)))


def _vectors(users: list[tuple[list[int], int]]) -> dict[str, NDArray[np.float64]]:
    """Each user's vectors by statistic."""
    histories = pl.Series([history for history, _ in users], dtype=pl.List(pl.Int32))
    first = np.array([counted for _, counted in users], dtype=np.int64)
    pairs = pair_vectors(histories, PLACES, head=HEAD, window=WINDOW, decay=DECAY, first=first)
    return {
        "popularity": count_items(
            histories, np.arange(len(users)), num_clients=len(users), num_items=NUM_ITEMS, first=first
        ),
        "pairs": np.array([pairs.dense(row) for row in range(len(users))]).reshape(len(users), pairs_size(HEAD)),
        "transitions": transition_vectors(histories, CONTENT, MEAN, last=5, decay=0.8, longest=50, first=first),
    }


@settings(max_examples=100)
@given(st.lists(USER, max_size=4), USER, st.integers(0, 4))
def test_guarantee_one_user_moves_a_continued_statistic_by_at_most_1_in_l2_norm_wherever_the_new_begins(
    others: list[tuple[list[int], int]], user: tuple[list[int], int], place: int
) -> None:
    with_user, without = _vectors([*others[:place], user, *others[place:]]), _vectors(others)
    for name, rows in with_user.items():
        moved = rows.sum(axis=0) - without[name].sum(axis=0)
        assert math.sqrt(math.fsum((moved**2).tolist())) <= 1.0 + 1e-9
        assert (np.sqrt((rows**2).sum(axis=1)) <= 1.0 + ROOM).all()


@settings(max_examples=60)
@given(st.lists(st.integers(0, NUM_ITEMS - 1), max_size=12), st.integers(0, 14))
def test_what_is_new_is_counted_as_a_loop_counts_it(history: list[int], counted: int) -> None:
    found = _vectors([(history, counted)])
    new = set(history[counted:])
    np.testing.assert_allclose(
        found["popularity"][0], [len(new) ** -0.5 if item in new else 0.0 for item in range(NUM_ITEMS)], atol=1e-12
    )
    inside = [(item, place >= counted) for place, item in enumerate(history) if item < HEAD]
    weights: Counter[tuple[int, int]] = Counter()
    for near, (left, _) in enumerate(inside):
        for distance, (right, is_new) in enumerate(inside[near + 1 : near + 1 + WINDOW]):
            if left != right and is_new:
                weights[min(left, right), max(left, right)] += DECAY**distance  # type: ignore[assignment]
    norm = math.sqrt(sum(weight**2 for weight in weights.values())) or 1.0
    expected = [weights[low, high] / norm for low in range(HEAD) for high in range(low + 1, HEAD)]
    np.testing.assert_allclose(found["pairs"][0], expected, atol=1e-12)
    total = np.zeros((DIMENSIONS, DIMENSIONS))
    if len(history) > 1:
        directions = recent_directions(CONTENT[history].astype(np.float64), np.zeros(1, dtype=np.int64), last=5, decay=0.8)
        for place in range(max(1, counted), len(history)):
            total += np.outer(directions[place - 1], CONTENT[history[place]] - MEAN)
    total /= np.linalg.norm(total) or 1.0
    np.testing.assert_allclose(found["transitions"][0], total.ravel(), atol=1e-9)


def test_the_two_parts_of_a_history_share_no_pair_and_no_transition() -> None:
    """Counted up to 4 and counted from 4 on, the unnormalized sums are those of the whole."""
    history = [0, 1, 2, 3, 4, 5, 6, 0]
    whole, new = _vectors([(history, 0)]), _vectors([(history, 4)])
    old = _vectors([(history[:4], 0)])
    for name in ("pairs", "transitions"):
        parts = np.stack([old[name][0], new[name][0]])
        scale, *_ = np.linalg.lstsq(parts.T, whole[name][0], rcond=None)
        np.testing.assert_allclose(scale @ parts, whole[name][0], atol=1e-9)
        assert (scale > 0).all()


def _table(rows: dict[str, list[int]]) -> pl.DataFrame:
    kept = pl.List(pl.Int32)
    one: list[list[int]] = [[0]] * len(rows)
    schema: Any = {"user": pl.String, "train": kept, "validation": kept, "test": kept}
    users = sorted(rows)
    columns = {"user": users, "train": [rows[user] for user in users], "validation": one, "test": one}
    return pl.DataFrame(columns, schema=schema)


def test_a_population_remembers_what_was_counted_of_each_user_in_any_order_of_clients(tmp_path: Path) -> None:
    catalog = ItemCatalog(tuple("abc"), ("w1", "w2", "w3"))
    write_population(_table({"bo": [0, 1], "di": [2]}), catalog, None, tmp_path / "before", clients=2)
    before = open_population(tmp_path / "before")
    grown = _table({"al": [0], "bo": [0, 1, 2], "cy": [1, 1], "di": [2, 0, 1]})
    write_population(grown, catalog, None, tmp_path / "after", clients=2, before=before)
    rows = read_clients(tmp_path / "after", [1, 0])
    assert rows.counted is not None
    assert dict(zip(rows.histories["user"], rows.counted.tolist(), strict=True)) == {"al": 0, "bo": 2, "cy": 0, "di": 1}
    assert read_clients(tmp_path / "before", [0, 1]).counted is None


def test_a_known_user_stays_in_the_silo_and_a_new_one_follows_the_rule(tmp_path: Path) -> None:
    """By taste: more interactions of another taste would move a user to a silo that holds nothing of what was spent."""
    catalog = ItemCatalog(tuple("abcdef"), ("red", "red", "red", "blue", "blue", "blue"))
    rng = np.random.default_rng(0)
    first = {f"u{number}": rng.integers(0, 6, size=3).tolist() for number in range(60)}
    second = {user: [*own, *(5 - np.array(own)).tolist(), *(5 - np.array(own)).tolist()] for user, own in first.items()}
    second |= {f"v{number}": rng.integers(0, 6, size=3).tolist() for number in range(20)}
    skew: dict[str, Any] = {"clients": 4, "dirichlet_alpha": 0.1}
    write_population(_table(first), catalog, None, tmp_path / "before", **skew)
    write_population(_table(second), catalog, None, tmp_path / "free", **skew)
    write_population(_table(second), catalog, None, tmp_path / "after", before=open_population(tmp_path / "before"), **skew)

    def homes(name: str) -> dict[str, int]:
        rows = read_clients(tmp_path / name, np.arange(4), ["user"])
        return dict(zip(rows.histories["user"], rows.client.tolist(), strict=True))

    before, free, after = homes("before"), homes("free"), homes("after")
    assert {user: after[user] for user in first} == before
    assert any(free[user] != before[user] for user in first)  # without it, users move
    assert {user: after[user] for user in second if user not in first} == {
        user: free[user] for user in second if user not in first
    }
