"""Dates and times as texts, to whole seconds since 1970.

Here live the notations of the formats. A time without zone is taken as UTC: only the order within a data set matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import polars as pl

from shared.errors import DataError
from shared.lines import Lines, place

DAY: Final = "%Y-%m-%d"
SECOND: Final = "%Y-%m-%dT%H:%M:%S"
CLOCK: Final = "%m/%d/%Y %I:%M:%S %p"  # MIND
OFFSET: Final = "%b %d %H:%M:%S %z %Y"  # Goodreads, after the name of the day, which says nothing more.
EXAMPLES: Final = {DAY: "2017-12-17", CLOCK: "11/11/2019 9:05:58 AM", OFFSET: "Thu Nov 29 12:34:56 -0800 2012"}


class Times:
    """Reads a column of times part by part, and counts what is none.

    Args:
        notations: Tried one after the other.
        field: Name of the column, for messages.
        source: Name of the file, for messages.
    """

    def __init__(self, notations: Sequence[str], field: str, source: str) -> None:
        self._notations, self._field, self._source = notations, field, source
        self._rows, self._bad, self._first = 0, 0, 0

    def read(self, texts: pl.Series) -> pl.Series:
        """The next part as whole seconds, under its own name; null where a text is no time, or before 1970.

        Args:
            texts: Strings. (private)
        """
        seconds = _parsed(texts, self._notations[0])
        for notation in self._notations[1:]:
            if seconds.null_count():
                seconds = seconds.fill_null(_parsed(texts, notation))
        bad = (seconds.is_null() | (seconds < 0)).fill_null(True)
        if bad.any():
            self._first = self._first if self._bad else self._rows + int(bad.arg_max() or 0)
            self._bad += int(bad.sum())
        self._rows += len(texts)
        return seconds.alias(texts.name)

    def refuse(self, lines: Lines | None) -> None:
        """Raises if any text was no time.

        Args:
            lines: Lines of the rows, for the message; None where rows are no lines.

        Raises:
            DataError: With their number and the place of the first one.
        """
        if not self._bad:
            return
        example = EXAMPLES[self._notations[0]]
        raise DataError(
            f"Expected times from 1970 on such as '{example}' in {self._field} of {self._source}, found {self._bad} others; "
            f"first at {place(self._first, lines)}."
        )


def _parsed(texts: pl.Series, notation: str) -> pl.Series:
    """Seconds since 1970, null where the notation is another."""
    if notation == OFFSET:
        times = texts.str.slice(4).str.strptime(pl.Datetime("us", "UTC"), notation, strict=False)
    else:
        times = texts.str.strip_chars().str.strptime(pl.Datetime("us"), notation, strict=False)
    return times.dt.epoch("s").cast(pl.Int64)
