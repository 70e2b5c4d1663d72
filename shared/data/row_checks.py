"""Rows that cannot be used: refused with their number and the place of the first one, or left out and counted.

Here lives the choice between the two, which is the user's (`data.bad_rows`). Here never lives what makes a row a bad one.
"""

from __future__ import annotations

from typing import Final, Literal

import polars as pl

from shared.data.lines import Lines, Rows, place
from shared.errors import DataError

BadRows = Literal["refuse", "drop"]
# A tenth of the rows is no accident but another notation or another column, so it is not offered to leave them out; more
# than half is never left out.
_OFFERED: Final = 0.1
_MOST: Final = 0.5


class RowChecks:
    """The checks on the rows of one table.

    Args:
        height: Number of rows, >= 1. (private)
        source: Name of the file, for messages. (public)
        lines: Where rows are, for messages.
        bad_rows: `refuse` raises at the first kind of bad row, `drop` remembers them for `keep`.
    """

    def __init__(self, height: int, *, source: str, lines: Lines | Rows | None, bad_rows: BadRows) -> None:
        self._height, self._source, self._lines, self._drop = height, source, lines, bad_rows == "drop"
        self._bad: pl.Series | None = None
        self.repairs: dict[str, int] = {}

    def require(self, good: pl.Series, expected: str, *, dropped: str, advice: str = "") -> None:
        """Checks all rows.

        Args:
            good: Boolean, a row each; null is not good. (private)
            expected: What a good row has, for the message.
            dropped: The count's name where bad rows are left out.
            advice: What to do, beside leaving rows out.

        Raises:
            DataError: If a row is bad and none may be, or more than half of them are.
        """
        count = self._height - int(good.sum())
        if not count:
            return
        bad = ~good.fill_null(False)
        if self._drop and count <= _MOST * self._height:
            self._bad = bad if self._bad is None else self._bad | bad
            self.repairs[dropped] = count
            return
        few = count <= _OFFERED * self._height
        offer = f"To leave out {count} of {self._height} rows, set data.bad_rows=drop (--bad-rows drop)." if few else ""
        what_to_do = " ".join(filter(None, (advice, offer))) or "Mend the file."
        raise DataError(
            f"Expected {expected} in {self._source}, found {count} violation{'s' * (count > 1)}; "
            f"first at {place(int(bad.arg_max() or 0), self._lines)}. {what_to_do}"
        )

    def keep(self, table: pl.DataFrame) -> pl.DataFrame:
        """The table without the rows that were bad.

        Raises:
            DataError: If none is left.
        """
        if self._bad is None:
            return table
        kept = table.filter(~self._bad)
        if kept.is_empty():
            raise DataError(f"Expected at least one row without a fault in {self._source}, found 0. Is it the right file?")
        return kept
