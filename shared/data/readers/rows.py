"""Rows of delimited text: where they end, which lines are blank, and which quotation marks are out of place.

Here lives what decides whether a line break ends a row. Here never live fields, which `reading.py` splits: by then every
field either has no quotation mark or is quoted by the rules, so no two parsers can read it differently.

The rules are RFC 4180's: a quoted field begins and ends with a mark, and a mark within is doubled. A mark inside of a
field that does not begin with one stands for itself, as Python's csv module reads it; such fields are counted. Any other
mark is a fault, because it may swallow rows.

Source: RFC 4180, "Common Format and MIME Type for Comma-Separated Values (CSV) Files", section 2.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.data.lines import Lines
from shared.data.readers.opening import BLOCK_BYTES, blocks, decoded
from shared.errors import DataError

# A quoted field that is longer counts as one that is never closed, so that memory stays bounded.
LONGEST_FIELD: Final = BLOCK_BYTES
BARE: Final = "fields with quotation marks that are not doubled (read as they stand)"
_FEED: Final = ord("\n")
_WHITE: Final = b" \t\x0b\x0c\r"


@dataclass(frozen=True)
class Dialect:
    """How the fields of a file are told apart.

    Attributes:
        separator: One character of ASCII.
        quote: The character around fields that hold the separator; None where nothing is quoted, as in RecBole's and
            MovieLens' tab-separated files, whose titles hold bare quotation marks.
    """

    separator: str
    quote: str | None = None


@dataclass(frozen=True)
class Rows:
    """Whole rows of a file, in UTF-8.

    Attributes:
        text: Lines, none of them blank; quotation marks by the rules unless a fault was found. May be empty. (private)
        lines: Where the lines of `text` stand in the file; `skipped` are the blank ones.
        height: Number of lines in `text`.
    """

    text: bytes
    lines: Lines
    height: int


@dataclass(frozen=True)
class Fault:
    """A kind of fault: what was expected of a file, what was found, what to do."""

    expected: str
    found: str
    advice: str


MISPLACED: Final = Fault(
    "quotation marks around whole fields",
    "fields whose mark is not closed at their end",
    "Close each quoted field, and double the marks inside of it.",
)
RETURNS: Final = Fault(
    "one kind of line end in every line", "carriage returns within lines", "Save the file again, or quote these fields."
)
WIDE: Final = Fault(
    "the same number of fields in every line", "lines with more", "Check the separator and the quotation marks."
)
SWALLOWED: Final = Fault(
    "no rows within the quoted fields",
    "fields that hold whole rows",
    "Close the quotation mark in that line, or write the text without line breaks.",
)


class Findings:
    """What was amiss in a file, counted over its blocks.

    Attributes:
        repairs: What was repaired, in words, to how many fields it happened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._faults: dict[Fault, tuple[int, int]] = {}
        self.repairs: dict[str, int] = {}

    def __bool__(self) -> bool:
        """Whether any fault was found, so that what follows is only counted."""
        return bool(self._faults)

    def add(self, fault: Fault, line: int, count: int = 1) -> None:
        """Counts faults, the first of them in a line."""
        before, first = self._faults.get(fault, (0, line))
        self._faults[fault] = (before + count, min(first, line))

    def refuse(self, *, last_line: int | None = None) -> None:
        """Raises if any fault was found, up to a line if one is given.

        Raises:
            DataError: For the kind that was found first, with the number of its faults and the place of the first.
        """
        for fault, (count, first) in self._faults.items():
            if last_line is not None and first > last_line:
                continue
            raise DataError(
                f"Expected {fault.expected} of {self._path.name}, found {fault.found}: {count}, first at line {first}. "
                f"{fault.advice}"
            )


def rows(
    path: Path, dialect: Dialect, findings: Findings, *, encoding: str = "utf-8", size: int = BLOCK_BYTES
) -> Iterator[Rows]:
    """Gives a file in blocks of whole rows, without blank lines.

    Args:
        path: The file.
        dialect: Its separator and quotation mark.
        findings: Where faults and repairs are counted.
        encoding: As of `decoded`.
        size: As of `blocks`.

    Raises:
        DataError: As `blocks` and `decoded`.
    """
    line, rest = 1, b""
    for block in chain(blocks(path, size=size), (b"",)):
        text = rest + decoded(block, path, line + rest.count(b"\n"), encoding)
        rest = b""
        if dialect.quote is not None:
            text, rest = _Scan(text, dialect, findings, line).whole_rows(last=not block)
        if text:
            found = _without_blank_lines(text, dialect, findings, line)
            line += found.height + len(found.lines.skipped)
            yield found


def first_rows(path: Path, dialect: Dialect, size: int) -> bytes:
    """The first rows of a file as they stand, blank lines and faults included.

    Args:
        path: The file.
        dialect: Its separator and quotation mark.
        size: About how many bytes.

    Raises:
        DataError: As `blocks`.
    """
    text = next(blocks(path, size=size))
    if dialect.quote is None:
        return text
    _, rest = _Scan(text, dialect, Findings(path), 1).whole_rows(last=False)
    return text[: len(text) - len(rest)] or text


class _Scan:
    """The quotation marks of a text that begins with a row.

    Args:
        text: Whole lines. (private)
        dialect: With a quotation mark.
        findings: Where faults and repairs are counted.
        line: Number of the first line.
    """

    def __init__(self, text: bytes, dialect: Dialect, findings: Findings, line: int) -> None:
        self._text, self._findings, self._line = text, findings, line
        self._mark, self._separator = str(dialect.quote).encode(), dialect.separator.encode()
        self._places = _places(text, self._mark[0]) if self._mark in text else np.empty(0, dtype=np.int64)
        self._bare: list[tuple[int, int]] = []

    def whole_rows(self, *, last: bool) -> tuple[bytes, bytes]:
        """The rows that are whole, with bare marks doubled, and the rest; with `last` there is no rest."""
        places = self._places
        regular = self._regular()
        if regular == len(places) and not len(places) % 2:
            return self._text, b""
        end = len(self._text)
        if regular == len(places):
            # The last mark opens a field that goes on in the next block.
            end = self._row_start(int(places[-1]))
        if regular < len(places) or last or len(self._text) - end > LONGEST_FIELD:
            end = self._walk(self._opening(min(regular, len(places) - 1)), last=last)
        return self._mended(end), self._text[end:]

    def _regular(self) -> int:
        """How many marks are by the rules, from the first on: every other one opens a field, or is the second of a pair."""
        if not len(self._places):
            return 0
        data = np.frombuffer(self._text, np.uint8)
        beside = np.zeros(256, dtype=bool)
        beside[[self._mark[0], self._separator[0], _FEED]] = True
        # A text ends with a line feed, so something follows each mark; before the first place lies the last one.
        before, after = beside[data[self._places[::2] - 1]], beside[data[self._places[1::2] + 1]]
        wrong = [2 * int(np.argmin(side)) + at for at, side in enumerate((before, after)) if not side.all()]
        return min(wrong, default=len(self._places))

    def _row_start(self, at: int) -> int:
        """Where the row begins that holds a place, if all marks before it are by the rules."""
        start = self._text.rfind(b"\n", 0, at) + 1
        while (before := int(np.searchsorted(self._places, start))) % 2:
            start = self._text.rfind(b"\n", 0, int(self._places[before - 1])) + 1
        return start

    def _opening(self, index: int) -> int:
        """The mark that opens the field of a mark, if all before it are by the rules."""
        index -= index % 2
        while index and self._places[index] == self._places[index - 1] + 1:
            index -= 2
        return index

    def _walk(self, index: int, *, last: bool) -> int:
        """Goes from mark to mark, beginning at one that is not within a field; gives where whole rows end.

        After a fault it goes on in the next line, as if the field had ended with its own.
        """
        text, places = self._text, self._places.tolist()
        row = self._row_start(places[index])
        done = max(row, places[index - 1] + 1) if index else row
        while index < len(places):
            place = places[index]
            row = max(row, text.rfind(b"\n", done, place) + 1)
            if place > row and text[place - 1 : place] != self._separator:
                done = self._double(done, place)
                index = bisect_left(places, done, index)
                continue
            close = index + 1
            while close + 1 < len(places) and places[close + 1] == places[close] + 1:
                close += 2
            if close < len(places) and text[places[close] + 1 : places[close] + 2] in (b"\n", self._separator):
                done, index = places[close] + 1, close + 1
                continue
            if close >= len(places) and not last and len(text) - place <= LONGEST_FIELD:
                return row
            self._findings.add(MISPLACED, self._line + text.count(b"\n", 0, place))
            row = done = text.find(b"\n", place) + 1
            index = bisect_left(places, done, index)
        return len(text)

    def _double(self, done: int, place: int) -> int:
        """Notes the field around a bare mark, to be quoted; gives its end."""
        text = self._text
        start = max(done, text.rfind(self._separator, done, place) + 1, text.rfind(b"\n", done, place) + 1)
        feed = text.find(b"\n", place)
        end = text.find(self._separator, place, feed)
        end = feed if end < 0 else end
        self._bare.append((start, end))
        if b"\r" in text[start:end]:
            self._findings.add(RETURNS, self._line + text.count(b"\n", 0, start))
        return end

    def _mended(self, end: int) -> bytes:
        """The text up to a place, with the bare marks by the rules."""
        parts, at = [], 0
        bare = [field for field in self._bare if field[0] < end]
        for start, stop in bare:
            field = self._text[start:stop].replace(self._mark, self._mark * 2)
            parts += [self._text[at:start], self._mark, field, self._mark]
            at = stop
        if bare:
            self._findings.repairs[BARE] = self._findings.repairs.get(BARE, 0) + len(bare)
        return b"".join([*parts, self._text[at:end]])


def _places(text: bytes, character: int) -> NDArray[np.int64]:
    """Where a character occurs."""
    return np.flatnonzero(np.frombuffer(text, np.uint8) == character)


def _without_blank_lines(text: bytes, dialect: Dialect, findings: Findings, line: int) -> Rows:
    """Leaves out lines that hold nothing but white space, unless they are within a quoted field."""
    data, feeds = np.frombuffer(text, np.uint8), _places(text, _FEED)
    starts = np.concatenate(([0], feeds[:-1] + 1))
    candidates = np.flatnonzero(data[starts] <= ord(" "))
    if b"\r" in text and dialect.quote is not None:
        _refuse_returns(text, dialect.quote, findings, line)
    blank = [int(at) for at in candidates if not text[starts[at] : feeds[at]].strip(_WHITE)]
    if blank and dialect.quote is not None:
        inside = np.searchsorted(_places(text, ord(dialect.quote)), starts[blank]) % 2
        blank = [at for at, quoted in zip(blank, inside, strict=True) if not quoted]
    if not blank:
        return Rows(text, Lines(line), len(feeds))
    kept = np.ones(len(feeds), dtype=bool)
    kept[blank] = False
    lengths = feeds + 1 - starts
    whole = data[np.repeat(kept, lengths)].tobytes()
    return Rows(whole, Lines(line, [at - before for before, at in enumerate(blank)]), int(kept.sum()))


def _refuse_returns(text: bytes, quote: str, findings: Findings, line: int) -> None:
    """Counts carriage returns outside of quoted fields: some programs end a row there and others do not."""
    returns = _places(text, ord("\r"))
    bare = returns[np.searchsorted(_places(text, ord(quote)), returns) % 2 == 0]
    # At the end of a line they are white space.
    bare = [int(at) for at in bare if text[at + 1 : at + 2] != b"\n"]
    if bare:
        findings.add(RETURNS, line + text.count(b"\n", 0, bare[0]), len(bare))
