"""Pairs: what a double loop over a history finds, of L2 norm 1 at most, whatever the history and the other users."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from client.statistics import pairs
from client.statistics.pairs import pair_place, pair_sums, pair_vectors, pairs_size
from client.statistics.sparse import SparseRows

NUM_ITEMS = 12
IN_HEAD = [0, 2, 3, 5, 7, 8, 11]
HEAD = len(IN_HEAD)
PLACES = np.full(NUM_ITEMS, -1, dtype=np.int64)
PLACES[IN_HEAD] = np.arange(HEAD)
# Float64 sums of some thousand squares are within this of the exact ones, far below what a clipped contribution may exceed.
ROOM = 2.0**-40

HISTORY = st.one_of(
    st.lists(st.integers(0, NUM_ITEMS - 1), max_size=40),
    st.integers(0, NUM_ITEMS - 1).map(lambda item: [item] * 1000),
    st.tuples(st.sampled_from(IN_HEAD), st.sampled_from(IN_HEAD)).map(lambda two: [*two] * 500),
    st.permutations(range(NUM_ITEMS)),
    st.lists(st.integers(-(2**31), 2**31 - 1), max_size=6),
)
WINDOW, DECAY = st.integers(1, 50), st.sampled_from([1.0, 0.9, 0.5, 1e-8])


def _found(histories: list[list[int]], *, window: int = 10, decay: float = 0.9) -> SparseRows:
    series = pl.Series(histories, dtype=pl.List(pl.Int32))
    return pair_vectors(series, PLACES, head=HEAD, window=window, decay=decay)


def _dense(rows: SparseRows) -> NDArray[np.float64]:
    return np.array([rows.dense(number) for number in range(len(rows))]).reshape(len(rows), rows.size)


def _by_loops(history: list[int], *, window: int, decay: float) -> NDArray[np.float64]:
    """Every two places of the head's part of a history; norms by `math.fsum`."""
    if any(item not in range(NUM_ITEMS) for item in history):
        return np.zeros(pairs_size(HEAD))
    head = [IN_HEAD.index(item) for item in history if item in IN_HEAD]
    weights = {(low, high): 0.0 for low in range(HEAD) for high in range(low + 1, HEAD)}
    for near in range(len(head)):
        for far in range(near + 1, min(near + window, len(head) - 1) + 1):
            if head[near] != head[far]:
                weights[min(head[near], head[far]), max(head[near], head[far])] += decay ** (far - near - 1)
    norm = math.sqrt(math.fsum(weight**2 for weight in weights.values()))
    return np.array([weight / norm if norm else 0.0 for weight in weights.values()])


@settings(max_examples=150)
@given(st.lists(HISTORY, max_size=5), WINDOW, DECAY)
@example([[], [0], [0, 2], [1, 4, 6]], 10, 0.9)
def test_pairs_equal_those_of_a_double_loop(histories: list[list[int]], window: int, decay: float) -> None:
    found = _dense(_found(histories, window=window, decay=decay))
    assert found.shape == (len(histories), pairs_size(HEAD))
    for row, history in zip(found, histories, strict=True):
        # A coordinate is a sum of at most 500 x 50 positive terms over a norm.
        np.testing.assert_allclose(row, _by_loops(history, window=window, decay=decay), rtol=1e-11, atol=1e-300)


@settings(max_examples=150)
@given(st.lists(HISTORY, max_size=5), WINDOW, DECAY)
def test_guarantee_the_l2_norm_of_a_row_of_pairs_is_at_most_1_whatever_the_history(
    histories: list[list[int]], window: int, decay: float
) -> None:
    rows = _found(histories, window=window, decay=decay)
    for number, history in enumerate(histories):
        places, values = rows.row(number)
        assert math.sqrt(math.fsum(value**2 for value in values)) <= 1 + ROOM
        assert len(set(places.tolist())) == len(places)
        assert ((places >= 0) & (places < rows.size)).all()
        if any(item not in range(NUM_ITEMS) for item in history) or len(set(history) & set(IN_HEAD)) < 2:
            assert not values.any()


@settings(max_examples=100)
@given(st.lists(HISTORY, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_guarantee_a_row_of_pairs_depends_on_its_own_history_alone(histories: list[list[int]], random: object) -> None:
    """Bit by bit: alone, among others, and in any order."""
    order = list(range(len(histories)))
    random.shuffle(order)  # type: ignore[attr-defined]
    among = _dense(_found(histories))
    np.testing.assert_array_equal(_dense(_found([histories[number] for number in order])), among[order])
    for number, history in enumerate(histories):
        np.testing.assert_array_equal(_dense(_found([history]))[0], among[number])


@settings(max_examples=100)
@given(st.lists(st.tuples(HISTORY, st.integers(0, 2)), max_size=6))
def test_the_pairs_of_silos_add_up_to_those_of_their_users(users: list[tuple[list[int], int]]) -> None:
    histories, silos = [history for history, _ in users], np.array([silo for _, silo in users], dtype=np.int64)
    rows = _found(histories)
    dense, summed = _dense(rows), _dense(rows.summed(silos, num_groups=3))
    for silo in range(3):
        np.testing.assert_allclose(summed[silo], dense[silos == silo].sum(axis=0), rtol=1e-13, atol=0)
    np.testing.assert_allclose(summed.sum(axis=0), dense.sum(axis=0), rtol=1e-13, atol=0)


@given(st.lists(HISTORY, max_size=4), HISTORY, st.integers(0, 4))
def test_adding_or_removing_one_user_moves_a_silos_pairs_by_at_most_1_in_l2_norm(
    others: list[list[int]], history: list[int], place: int
) -> None:
    def silo(histories: list[list[int]]) -> NDArray[np.float64]:
        return _found(histories).summed(np.zeros(len(histories), dtype=np.int64), num_groups=1).dense(0)

    moved = float(np.linalg.norm(silo([*others[:place], history, *others[place:]]) - silo(others)))
    assert moved <= 1 + ROOM


def test_users_of_several_blocks_get_the_rows_that_they_get_alone() -> None:
    rng = np.random.default_rng(3)
    histories = [rng.integers(0, NUM_ITEMS, size=900).tolist() for _ in range(60)] + [[], [0, 2]]
    assert pairs._BLOCK < 900 * 60 * 50
    among = _dense(_found(histories, window=50))
    for number in (0, 23, 24, 47, 59, 60, 61):
        np.testing.assert_array_equal(_dense(_found([histories[number]], window=50))[0], among[number])


def test_the_pairs_of_silos_are_the_same_bit_by_bit_wherever_the_blocks_end(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    histories = [rng.integers(-1, NUM_ITEMS, size=length).tolist() for length in rng.integers(0, 20, size=30)]
    silos, rows = rng.integers(0, 3, size=30), _found(histories)
    at_once = rows.summed(silos, num_groups=4)
    for block in (1, 100, 10**6):
        monkeypatch.setattr(pairs, "_BLOCK", block)
        series = pl.Series(histories, dtype=pl.List(pl.Int32))
        summed = pair_sums(series, silos, PLACES, num_clients=4, head=HEAD, window=10, decay=0.9)
        for name in ("starts", "places", "values"):
            np.testing.assert_array_equal(getattr(summed, name), getattr(at_once, name))
    nobody = pair_sums(series[:0], silos[:0], PLACES, num_clients=2, head=HEAD, window=10, decay=0.9)
    assert len(nobody) == 2 and not len(nobody.values)


@pytest.mark.parametrize("head", [2, 3, 17])
def test_each_pair_has_a_coordinate_of_its_own(head: int) -> None:
    low, high = np.triu_indices(head, 1)
    np.testing.assert_array_equal(pair_place(low, high, head), np.arange(pairs_size(head)))
