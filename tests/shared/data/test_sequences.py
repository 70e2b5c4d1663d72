import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.data.sequences import PADDING, draw_windows, pad_histories
from shared.errors import ConfigError

HISTORIES = st.lists(st.lists(st.integers(0, 99), max_size=12), min_size=1, max_size=8)


def test_histories_are_padded_on_the_right_and_keep_their_last_items() -> None:
    batch = pad_histories([np.array([1, 2, 3, 4]), np.array([5]), np.array([], dtype=int)], max_length=3)
    assert batch.items.tolist() == [[2, 3, 4], [5, PADDING, PADDING], [PADDING] * 3]
    assert batch.lengths.tolist() == [3, 1, 0]
    assert batch.mask.tolist() == [[True] * 3, [True, False, False], [False] * 3]
    assert (batch.items.dtype, batch.lengths.dtype) == (np.int64, np.int64)


@given(histories=HISTORIES, max_length=st.integers(1, 15))
def test_padded_rows_are_the_tails_of_the_histories(histories: list[list[int]], max_length: int) -> None:
    batch = pad_histories(histories, max_length=max_length)
    assert batch.items.shape[1] == max(1, min(max_length, max(map(len, histories))))
    for row, length, history in zip(batch.items.tolist(), batch.lengths.tolist(), histories, strict=True):
        assert row[:length] == history[-max_length:]
        assert all(item == PADDING for item in row[length:])


@given(histories=HISTORIES)
def test_polars_lists_and_arrays_pad_alike(histories: list[list[int]]) -> None:
    series = pl.Series(histories, dtype=pl.List(pl.Int32))
    assert pad_histories(series, max_length=5).items.tolist() == pad_histories(histories, max_length=5).items.tolist()


@given(histories=HISTORIES, max_length=st.integers(1, 6), seed=st.integers(0, 1000))
def test_windows_are_contiguous_parts_of_the_histories(histories: list[list[int]], max_length: int, seed: int) -> None:
    # Items become positions, so that the place of a window can be read off.
    marked = [list(range(len(history))) for history in histories]
    batch = draw_windows(marked, max_length=max_length, rng=np.random.default_rng(seed))
    for row, length, history in zip(batch.items.tolist(), batch.lengths.tolist(), marked, strict=True):
        assert length == min(len(history), max_length)
        start = row[0] if length else 0
        assert row[:length] == list(range(start, start + length)) and start + length <= len(history)


def test_every_window_start_is_drawn_equally_often() -> None:
    """Null: uniform over 5 starts. n = 5000 windows; false alarm below 1e-6 (each count within 6 sd)."""
    batch = draw_windows([list(range(7))] * 5000, max_length=3, rng=np.random.default_rng(0))
    counts = np.bincount(batch.items[:, 0], minlength=5)
    assert len(counts) == 5 and np.abs(counts - 1000).max() < 6 * np.sqrt(5000 * 0.2 * 0.8)


def test_a_window_does_not_depend_on_the_lengths_of_other_histories() -> None:
    long = list(range(50))
    one = draw_windows([long, [1, 2], long], max_length=4, rng=np.random.default_rng(7))
    two = draw_windows([long, long, long], max_length=4, rng=np.random.default_rng(7))
    assert one.items[[0, 2]].tolist() == two.items[[0, 2]].tolist()


def test_the_same_seed_draws_the_same_windows() -> None:
    first, second = (draw_windows([list(range(99))] * 9, max_length=4, rng=np.random.default_rng(3)) for _ in "ab")
    assert first.items.tolist() == second.items.tolist()


def test_a_fixed_width_does_not_depend_on_the_batch() -> None:
    assert pad_histories([[1]], max_length=2, width=5).items.tolist() == [[1, *[PADDING] * 4]]
    with pytest.raises(ConfigError, match=r"Expected width >= max_length, got width=2, max_length=3\."):
        pad_histories([[1]], max_length=3, width=2)


def test_an_empty_batch_and_a_length_below_1() -> None:
    assert pad_histories([], max_length=3).items.shape == (0, 1)
    with pytest.raises(ConfigError, match=r"Expected max_length >= 1, got max_length=0\."):
        draw_windows([[1]], max_length=0, rng=np.random.default_rng(0))
