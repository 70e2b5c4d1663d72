"""Blocks of rows: every row once, in order, and about as much at once as was said."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from client.statistics.blocks import blocks


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 60))
def test_blocks_are_all_rows_in_order_and_none_is_larger_than_a_block_and_one_row(sizes: list[int], largest: int) -> None:
    found = blocks(np.array(sizes, dtype=np.int64), largest=largest)
    assert [row for block in found for row in range(block.start, block.stop)] == list(range(len(sizes)))
    for block in found:
        assert block.stop > block.start
        assert sum(sizes[block]) <= largest + sizes[block.start]


def test_a_row_larger_than_a_block_begins_one_of_its_own() -> None:
    assert blocks(np.array([1, 100, 1, 9, 1], dtype=np.int64), largest=10) == [slice(0, 1), slice(1, 3), slice(3, 5)]
