"""Where a row of a table stands in its file, for messages.

Here lives the map from rows to lines. Here never lives what a row holds: a message locates a fault and never quotes it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Lines:
    """The line of a file at which each row of its table begins.

    Attributes:
        first: Line of row 0 where every line is a row, >= 1: 1, or 2 below a header.
        skipped: For each line that begins no row (a blank line, a line within a quoted field), the index of the row that
            follows it; ascending.
    """

    first: int = 2
    skipped: Sequence[int] = ()

    def of(self, row: int) -> int:
        """The line of a row, which is counted from 0."""
        return self.first + row + bisect_right(self.skipped, row)


@dataclass(frozen=True)
class Rows:
    """The row of a file that each row of its unrolled table comes from.

    Attributes:
        starts: For each row of the file, the index of its first row in the table; ascending.
    """

    starts: Sequence[int]

    def of(self, row: int) -> int:
        """The row of the file, from 1, that a row of the table, from 0, comes from."""
        return bisect_right(self.starts, row)


def place(row: int, lines: Lines | Rows | None) -> str:
    """Says where a row is, such as "line 7", or "row 6" where the file has no lines; rows of files count from 1.

    Args:
        row: Index of the row, from 0.
        lines: Lines of the file; None where it has rows but no lines (Parquet), `Rows` where each has several.
    """
    if isinstance(lines, Rows):
        return f"row {lines.of(row)}"
    return f"row {row + 1}" if lines is None else f"line {lines.of(row)}"
