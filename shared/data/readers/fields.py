"""Fields of delimited rows: the blocks of a file as they become one table, and where its rows stand in the file.

Here lives splitting into fields, and the two faults that only fields show: lines with too many, and quoted fields that hold
whole rows. Here never live quotation marks out of place (`rows.py`) or types (`reading.py`).

A quotation mark that opens a field and is closed lines later is good CSV, and swallows the rows between. Such a field shows
itself by its lines: each has as many separators as a row of this file, none followed by a blank as in prose, and fields of
the same characters as their columns (numbers where all other rows have numbers).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from shared.data.readers.rows import MISPLACED, SWALLOWED, WIDE, Dialect, Findings, Rows
from shared.errors import DataError

_SAMPLE: Final = 10_000
_CHARACTERS: Final = (r"\d", r"[a-z]", r"[A-Z]", r"[^\W\d_a-zA-Z]", r"\s", r"[^\w\s]|_")


class Table:
    """The blocks of a file, which become one table.

    Args:
        path: The file.
        dialect: Its separator and quotation mark.
        findings: Where faults are counted.
        names: Column names; None where the first row holds them.

    Attributes:
        names: Column names; empty until the first row was met.
        first_line: Line of the first row of data.
        skipped: As of `Lines`.
    """

    def __init__(self, path: Path, dialect: Dialect, findings: Findings, names: Sequence[str] | None) -> None:
        self._path, self._dialect, self._findings = path, dialect, findings
        self._headed, self._height, self._spaced = names is None, 0, False
        self.names: Sequence[str] = names or ()
        self.first_line = 2 if self._headed else 1
        self.skipped: list[int] = []

    def parsed(self, block: Rows) -> pl.DataFrame | None:
        """The fields of a block as strings, an empty one null; None where it has no rows, or a fault was found up to it.

        Raises:
            DataError: If a file without header has another number of columns.
        """
        if self._findings:
            return None
        text, above = block.text, 0
        if not self._height and text:
            text, above = self._began(block)
        frame = self._split(text, block, above) if text else None
        if frame is not None:
            self._locate(frame, block, above)
        elif self._height:
            self.skipped += [self._height] * len(block.lines.skipped)
        return frame

    def _began(self, block: Rows) -> tuple[bytes, int]:
        """Takes the header off the first rows; gives what is below it and how many lines it has."""
        first, rest = split_first(block.text, self._dialect.quote)
        fields = next(_split_slowly(first, self._dialect), [])
        self._spaced = len(fields) > 1 and all(field.startswith(" ") for field in fields[1:])
        if not self._headed:
            width = len(fields)
            if width != len(self.names):
                raise DataError(
                    f"Expected {len(self.names)} fields ({', '.join(self.names)}) a line in {self._path.name}, "
                    f"found {width}. Check the separator, or name the format."
                )
            above, text = 0, block.text
        elif self.names:
            above, text = 0, block.text
        else:
            self.names = header_names(first, self._dialect, self._findings, block.lines.of(0))
            above, text = first.count(b"\n"), rest
        self.first_line = block.lines.of(above)
        return text, above

    def _split(self, text: bytes, block: Rows, above: int) -> pl.DataFrame | None:
        """The fields by a fast parser; None where a line is at fault."""
        try:
            return pl.read_csv(
                io.BytesIO(text),
                separator=self._dialect.separator,
                has_header=False,
                quote_char=self._dialect.quote,
                schema=dict.fromkeys(self.names, pl.String),
                missing_columns="insert",
            )
        except pl.exceptions.PolarsError:
            # The parser's own message quotes the line, so it is not chained: a line is somebody's.
            at = above
            for row, height in _with_heights(text, self._dialect):
                if len(row) > len(self.names):
                    self._findings.add(WIDE, block.lines.of(at))
                at += height
            if not self._findings:
                self._findings.add(MISPLACED, block.lines.of(above))
            return None

    def _locate(self, frame: pl.DataFrame, block: Rows, above: int) -> None:
        """Notes which lines begin no row, and looks into fields of several lines."""
        rows = np.arange(frame.height)
        starts = rows
        if frame.height < block.height - above:
            breaks = frame.select(pl.sum_horizontal(pl.all().str.count_matches("\n", literal=True))).to_series().to_numpy()
            starts = rows + np.cumsum(breaks) - breaks
            self.skipped += np.repeat(self._height + rows + 1, breaks).tolist()
            for row in self._swallowing(frame):
                self._findings.add(SWALLOWED, block.lines.of(above + int(starts[row])))
        # Blank lines above the first row are already counted in its line.
        blank = [at - above for at in block.lines.skipped if self._height or at > above]
        if blank:
            self.skipped += (self._height + np.searchsorted(starts, blank)).tolist()
        self.skipped.sort()
        self._height += frame.height

    def _swallowing(self, frame: pl.DataFrame) -> Iterator[int]:
        """Rows with a field that holds whole rows."""
        characters = [_unknown_characters(frame[name]) for name in self.names]
        for place, name in enumerate(self.names):
            several = frame[name].str.contains("\n", literal=True).fill_null(False)
            for row in several.arg_true():
                if self._holds_rows(str(frame[name][row]), place, characters):
                    yield row

    def _holds_rows(self, value: str, place: int, characters: Sequence[re.Pattern[str] | None]) -> bool:
        """Whether at least half of the lines of a field would be rows, or the begin or end of one."""
        separator, last = self._dialect.separator, len(self.names) - 1
        lines = value.split("\n")
        wanted = [last - place, *[last] * (len(lines) - 2), place]
        found = counted = 0
        for number, (line, separators) in enumerate(zip(lines, wanted, strict=True)):
            if not separators or not line.strip():
                continue
            counted += 1
            if not self._spaced and separator + " " in line:
                continue
            fields = line.split(separator)
            columns = characters[place if number == 0 else 0 :]
            # The first and the last line end and begin in the field itself, so one field of them is a part of it.
            known = not any(
                unknown is not None and unknown.search(field) for field, unknown in zip(fields, columns, strict=False)
            )
            found += len(fields) == separators + 1 and known and any(fields)
        return 0 < counted <= 2 * found


def split_first(text: bytes, quote: str | None) -> tuple[bytes, bytes]:
    """The first row and the rest, of whole rows whose marks are by the rules."""
    end = text.find(b"\n") + 1
    while quote is not None and text.count(quote.encode(), 0, end) % 2 and end < len(text):
        end = text.find(b"\n", end) + 1
    return text[:end], text[end:]


def header_names(header: bytes, dialect: Dialect, findings: Findings, line: int) -> list[str]:
    """The fields of a header; a name that occurs again gets a number, since columns need names of their own."""
    table = pl.read_csv(
        io.BytesIO(header), separator=dialect.separator, quote_char=dialect.quote, infer_schema=False, has_header=True
    )
    if any("\n" in name and dialect.separator in name for name in table.columns):
        findings.add(SWALLOWED, line)
    return [" ".join(name.split("\n")).strip() for name in table.columns]


def _unknown_characters(column: pl.Series) -> re.Pattern[str] | None:
    """What none of a column's fields of one line has: digits, letters, blanks, signs; None where it has all or no fields."""
    sample = column.drop_nulls().head(_SAMPLE)
    text = "".join(sample.filter(~sample.str.contains("\n", literal=True)))
    unknown = [kind for kind in _CHARACTERS if text and not re.search(kind, text)]
    return re.compile("|".join(unknown)) if unknown else None


def _with_heights(text: bytes, dialect: Dialect) -> Iterator[tuple[list[str], int]]:
    """The fields of each row by Python's reader, which is slow, and how many lines it has."""
    for row in _split_slowly(text, dialect):
        yield row, 1 + sum(field.count("\n") for field in row)


def _split_slowly(text: bytes, dialect: Dialect) -> Iterator[list[str]]:
    lines = text.decode().removesuffix("\n").split("\n")
    if dialect.quote is None:
        return (line.split(dialect.separator) for line in lines)
    return csv.reader((line + "\n" for line in lines), delimiter=dialect.separator, quotechar=dialect.quote)
