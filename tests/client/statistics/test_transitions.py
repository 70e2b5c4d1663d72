"""Transitions: what a loop over positions finds, of L2 norm 1 at most, whatever the history and the other users."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from client.statistics import transitions
from client.statistics.transitions import transition_sums
from tests.alone import transition_vectors

NUM_ITEMS, DIMENSIONS, LAST, DECAY, LONGEST = 9, 4, 5, 0.8, 50
ROOM = 2.0**-40


def _texts() -> NDArray[np.float32]:
    """Directions of which two are opposite and one is missing, as that of an item without a text is."""
    texts = np.random.default_rng(8).normal(size=(NUM_ITEMS, DIMENSIONS))
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    texts[1], texts[2] = -texts[0], 0.0
    return texts.astype(np.float32)


CONTENT = _texts()
MEAN = CONTENT.astype(np.float64).mean(axis=0)
HISTORY = st.one_of(
    st.lists(st.integers(0, NUM_ITEMS - 1), max_size=70),
    st.integers(0, NUM_ITEMS - 1).map(lambda item: [item] * 1000),
    st.just([0, 1] * 500),
    st.permutations(range(NUM_ITEMS)),
    st.lists(st.integers(-(2**31), 2**31 - 1), max_size=6),
)


def _found(histories: list[list[int]], mean: NDArray[np.float64] = MEAN, longest: int = LONGEST) -> NDArray[np.float64]:
    series = pl.Series(histories, dtype=pl.List(pl.Int32))
    return transition_vectors(series, CONTENT, mean, last=LAST, decay=DECAY, longest=longest)


def _by_loops(history: list[int]) -> NDArray[np.float64]:
    """Sums of single products, in Python's numbers."""
    total = [[0.0] * DIMENSIONS for _ in range(DIMENSIONS)]
    items = history[-LONGEST - 1 :]
    if any(item not in range(NUM_ITEMS) for item in history):
        items = []
    for position in range(1, len(items)):
        before = [0.0] * DIMENSIONS
        for steps_back in range(min(LAST, position)):
            for column in range(DIMENSIONS):
                before[column] += DECAY**steps_back * float(CONTENT[items[position - 1 - steps_back], column])
        length = max(math.sqrt(math.fsum(value**2 for value in before)), 1e-12)
        for row in range(DIMENSIONS):
            for column in range(DIMENSIONS):
                following = float(CONTENT[items[position], column]) - float(MEAN[column])
                total[row][column] += before[row] / length * following
    whole = np.array(total).ravel()
    norm = math.sqrt(math.fsum(whole**2))
    return whole / norm if norm else whole


@settings(max_examples=100)
@given(st.lists(HISTORY, max_size=4))
@example([[], [3], [3, 4], [2, 2, 2]])
def test_transitions_equal_those_of_a_loop_over_positions(histories: list[list[int]]) -> None:
    found = _found(histories)
    assert found.shape == (len(histories), DIMENSIONS**2)
    for row, history in zip(found, histories, strict=True):
        # Fifty products of numbers below 2, which may cancel, over a norm.
        np.testing.assert_allclose(row, _by_loops(history), atol=1e-9)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38])
def test_guarantee_no_direction_that_a_server_sends_shows_who_has_the_item(value: float) -> None:
    """Directions come from a server, which may be anybody's: one user's item must not spoil the sum of a silo."""
    directions = CONTENT.astype(np.float32)
    directions[5] = value
    histories = pl.Series([[3, 5, 4], [3, 4, 6]], dtype=pl.List(pl.Int32))
    sums = transition_sums(
        histories, np.zeros(2, dtype=np.int64), directions, MEAN, num_clients=1, last=LAST, decay=DECAY, longest=LONGEST
    )
    own = transition_vectors(histories, directions, MEAN, last=LAST, decay=DECAY, longest=LONGEST)
    assert np.isfinite(sums).all() and np.isfinite(own).all()
    assert np.linalg.norm(own[0]) <= 1 + ROOM and np.linalg.norm(own[1]) == pytest.approx(1.0)
    np.testing.assert_allclose(sums[0], own.sum(axis=0), atol=1e-12)
    alone = transition_vectors(histories[1:], directions, MEAN, last=LAST, decay=DECAY, longest=LONGEST)
    np.testing.assert_array_equal(own[1:], alone)


def test_where_the_mean_is_not_finite_nobody_counts() -> None:
    series = pl.Series([[3, 5, 4], [3, 4, 6]], dtype=pl.List(pl.Int32))
    with np.errstate(invalid="ignore"):
        found = transition_vectors(series, CONTENT, np.full(DIMENSIONS, np.nan), last=LAST, decay=DECAY, longest=LONGEST)
    np.testing.assert_array_equal(found, np.zeros((2, DIMENSIONS**2)))


@settings(max_examples=100)
@given(st.lists(HISTORY, max_size=4), st.sampled_from([0.0, 1e-200, 1e200]))
def test_guarantee_the_l2_norm_of_a_row_of_transitions_is_at_most_1_whatever_the_history(
    histories: list[list[int]], shift: float
) -> None:
    """A server may send any popularity, and with it any mean, that squares to a finite number or does not."""
    with np.errstate(all="ignore"):
        rows = _found(histories, MEAN + shift)
    for row, history in zip(rows, histories, strict=True):
        assert math.sqrt(math.fsum(row**2)) <= 1 + ROOM
        if any(item not in range(NUM_ITEMS) for item in history) or len(history) < 2:
            assert not row.any()


@settings(max_examples=75)
@given(st.lists(HISTORY, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_guarantee_a_row_of_transitions_depends_on_its_own_history_alone(histories: list[list[int]], random: object) -> None:
    """Bit by bit: alone, among others, and in any order."""
    order = list(range(len(histories)))
    random.shuffle(order)  # type: ignore[attr-defined]
    among = _found(histories)
    np.testing.assert_array_equal(_found([histories[number] for number in order]), among[order])
    for number, history in enumerate(histories):
        np.testing.assert_array_equal(_found([history])[0], among[number])


def test_only_the_latest_transitions_of_a_history_count() -> None:
    rng = np.random.default_rng(5)
    latest = rng.integers(3, NUM_ITEMS, size=LONGEST + 1).tolist()
    earlier = rng.integers(3, NUM_ITEMS, size=200).tolist()
    np.testing.assert_array_equal(_found([earlier + latest]), _found([latest]))
    assert np.abs(_found([earlier[-1:] + latest], longest=LONGEST + 1) - _found([latest])).max() > 1e-6


def test_the_transitions_of_silos_add_up_to_those_of_their_users_wherever_the_blocks_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(6)
    histories = [rng.integers(0, NUM_ITEMS, size=length).tolist() for length in rng.integers(0, 60, size=40)]
    silos, rows = rng.integers(0, 3, size=40), _found(histories)
    for block in (1, 300, 10**6):
        monkeypatch.setattr(transitions, "_BLOCK", block)
        np.testing.assert_array_equal(_found(histories), rows)
        series = pl.Series(histories, dtype=pl.List(pl.Int32))
        summed = transition_sums(series, silos, CONTENT, MEAN, num_clients=4, last=LAST, decay=DECAY, longest=LONGEST)
        for silo in range(4):
            np.testing.assert_allclose(summed[silo], rows[silos == silo].sum(axis=0), rtol=1e-12, atol=1e-12)
