"""Shapes of passes: every example in one, none too large, and how wide it is made is its own affair."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shared.model.passes import PassShapes

SHAPES = st.builds(
    PassShapes,
    tokens=st.integers(1, 200),
    rows=st.integers(1, 20),
    longest=st.just(41),
    fills_up=st.booleans(),
    coarse=st.booleans(),
)


@given(lengths=st.lists(st.integers(0, 41), max_size=60), shapes=SHAPES)
def test_every_example_is_in_exactly_one_pass_and_no_pass_is_larger_than_allowed(
    lengths: list[int], shapes: PassShapes
) -> None:
    found = list(shapes.passes(np.array(lengths, dtype=np.int64)))
    assert sorted(int(row) for rows, _ in found for row in rows) == list(range(len(lengths)))
    for rows, width in found:
        assert max(lengths[row] for row in rows) <= width <= 41
        assert len(rows) <= shapes.most_rows(width) <= shapes.rows
        assert shapes.most_rows(width) == 1 or shapes.most_rows(width) * width <= shapes.tokens
    widths = [width for _, width in found]
    assert widths == sorted(widths)


@given(length=st.integers(0, 41), others=st.lists(st.integers(0, 41), max_size=20), shapes=SHAPES)
def test_how_wide_an_example_is_made_depends_on_its_own_length_alone(
    length: int, others: list[int], shapes: PassShapes
) -> None:
    (alone,) = shapes.widths(np.array([length])).tolist()
    assert shapes.widths(np.array([*others, length])).tolist()[-1] == alone
    assert alone <= (max(2 * length, 2) if shapes.coarse else max(1.25 * length, 2))
    assert len(set(shapes.widths(np.arange(42)).tolist())) <= (6 if shapes.coarse else 17)


@given(lengths=st.lists(st.integers(0, 41), max_size=60), shapes=SHAPES, most=st.integers(1, 50))
def test_a_batch_is_made_of_whole_passes_and_is_no_larger_than_allowed_unless_it_is_a_single_one(
    lengths: list[int], shapes: PassShapes, most: int
) -> None:
    own = np.array(lengths, dtype=np.int64)
    passes = [rows.tolist() for rows, _ in shapes.passes(own)]
    batches = list(shapes.batches(own, most))
    assert [row for rows in batches for row in rows] == [row for rows in passes for row in rows]
    for rows in batches:
        # Looked at by themselves the users of a batch share the same passes as before.
        found = [rows[members].tolist() for members, _ in shapes.passes(own[rows])]
        assert all(members in passes for members in found)
        assert len(rows) <= most or len(found) == 1
