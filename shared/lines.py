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


def place(row: int, lines: Lines | None) -> str:
    """Says where a row is, such as "line 7", or "row 6" where the file has no lines; rows of files count from 1.

    Args:
        row: Index of the row, from 0.
        lines: Lines of the file; None where it has rows but no lines (Parquet).
    """
    return f"row {row + 1}" if lines is None else f"line {lines.of(row)}"
