"""Where a row stands in its file, against counting the lines."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shared.data.lines import Lines, Rows, place


@given(st.lists(st.booleans(), max_size=30), st.integers(1, 2))
def test_a_row_stands_on_the_line_that_counting_finds(begins: list[bool], first: int) -> None:
    """A line begins a row or is skipped: a blank one, or one within a quoted field."""
    skipped, expected = [], []
    for line, begins_a_row in enumerate(begins, start=first):
        if begins_a_row:
            expected.append(line)
        else:
            skipped.append(len(expected))
    assert [Lines(first, skipped).of(row) for row in range(len(expected))] == expected


def test_a_message_names_lines_where_there_are_lines_and_rows_of_the_file_elsewhere() -> None:
    assert place(4, Lines(2)) == "line 6"
    assert place(4, Lines(2, (0, 3))) == "line 8"
    assert place(4, None) == "row 5"
    # Rows of the file began at rows 0, 2 and 5 of the unrolled table.
    assert [place(row, Rows([0, 2, 5])) for row in (0, 1, 2, 4, 5, 9)] == [
        "row 1",
        "row 1",
        "row 2",
        "row 2",
        "row 3",
        "row 3",
    ]
