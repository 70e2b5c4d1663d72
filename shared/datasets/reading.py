"""From a path to tables of strings: the faults that every text format shares, each told in one line.

Here lives splitting into fields, block by block (`opening.py`). Here never live names of columns or types: readers name
columns, and `Interactions.validated` casts them, because only then can a bad value be located by line.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import polars as pl

from shared.catalog import CATEGORIES, PRICE
from shared.datasets.opening import blocks, decoded
from shared.errors import DataError
from shared.lines import Lines

# What the readers of JSON lines make of an item.
ITEM_SCHEMA: Final[dict[str, Any]] = {"item": pl.String, "text": pl.String, CATEGORIES: pl.List(pl.String), PRICE: pl.String}


@dataclass(frozen=True)
class RawTables:
    """What a reader found: columns renamed, values untouched.

    Attributes:
        interactions: Columns `user`, `item`, `timestamp`, optionally `value`, in file order. (private)
        source: Name of the interactions' file, for messages.
        items: Columns `item`, `text` and modalities as `build_catalog` takes them, in file order, or None where
            there is no items file. (public)
        items_source: Name of the items' file, for messages.
        users: Column `user` and attributes, or None. (private)
        lines: Lines of the interactions, for messages; None where the file has no lines.
        positional: Whether the file says that `timestamp` is a position; None where it does not say.
        repairs: What the reader left out or made up, to how many rows it happened.
        roles: For each file that was read, which of its columns became which of ours.
    """

    interactions: pl.DataFrame
    source: str
    items: pl.DataFrame | None = None
    items_source: str = ""
    users: pl.DataFrame | None = None
    lines: Lines | None = field(default_factory=Lines)
    positional: bool | None = None
    repairs: dict[str, int] = field(default_factory=dict)
    roles: dict[str, dict[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Records:
    """The rows of a text file.

    Attributes:
        frame: One column a field; strings, or numbers where that was asked for and every value is one. (private)
        lines: Where the rows stand in the file; None where it has no lines.
        repairs: What was repaired, in words, to how many lines it happened.
    """

    frame: pl.DataFrame
    lines: Lines | None
    repairs: dict[str, int] = field(default_factory=dict)


def read_delimited(
    path: Path,
    *,
    separator: str,
    names: Sequence[str] | None = None,
    quote: str | None = None,
    encoding: str = "utf-8",
    keep: Collection[str] | None = None,
    numbers: Collection[str] = (),
) -> Records:
    """Reads a file of delimited fields as strings; an empty field is null.

    Args:
        path: The file.
        separator: One character.
        names: Column names of a file without header; None where the first line is one.
        quote: The character around fields that hold the separator; None where nothing is quoted, as in
            RecBole's and MovieLens' tab-separated files, whose titles hold bare quotation marks.
        encoding: "utf-8" or "latin-1".
        keep: Columns to keep; None keeps all.
        numbers: Columns that become integers or floats where every field is one, to save memory.

    Returns:
        One column a field. Lines with too few fields end in nulls.

    Raises:
        DataError: As `blocks`, if it is in another encoding, and if a line has more fields than there are columns.
    """
    frames, wide, line, first = [], _Wide(path), 1, 1 if names else 2
    for block in blocks(path, quote=quote):
        text = decoded(block, path, line, encoding)
        if names is None:
            header, text = _split_header(text, quote)
            names, line = _names(header, separator, quote), line + header.count(b"\n")
        elif line == 1:
            _check_width(path, text, separator, quote, names)
        table = _parsed(text, separator, quote, names, wide, line)
        if table is not None:
            frames.append(compacted(table if keep is None else table.select(n for n in names if n in keep), numbers))
        line += text.count(b"\n")
    wide.refuse()
    if not frames:
        frames = [pl.DataFrame(schema=dict.fromkeys(names or (), pl.String))]
    return Records(joined(frames), Lines(first))


def read_header(path: Path, *, separator: str, quote: str | None = None) -> list[str]:
    """The column names in the first line, blanks around them left out.

    Raises:
        DataError: As `blocks`, and if it is in another encoding.
    """
    block = next(blocks(path, size=1 << 20, quote=quote))
    header, _ = _split_header(block, quote)
    return _names(decoded(header, path, 1), separator, quote)


def _split_header(text: bytes, quote: str | None) -> tuple[bytes, bytes]:
    """The first line and the rest."""
    end = text.find(b"\n") + 1 or len(text)
    while quote is not None and text.count(quote.encode(), 0, end) % 2 and end < len(text):
        end = text.find(b"\n", end) + 1 or len(text)
    return text[:end], text[end:]


def _names(header: bytes, separator: str, quote: str | None) -> list[str]:
    """The fields of a header; a name that occurs again gets a number, since columns need names of their own."""
    table = pl.read_csv(io.BytesIO(header), separator=separator, quote_char=quote, infer_schema=False)
    return [name.strip() for name in table.columns]


def _check_width(path: Path, text: bytes, separator: str, quote: str | None, names: Sequence[str]) -> None:
    """Refuses a file without header whose first line has another number of fields."""
    first, _ = _split_header(text, quote)
    width = len(next(_rows(first, separator, quote), []))
    if width != len(names):
        raise DataError(f"Expected {len(names)} fields ({', '.join(names)}) a line in {path.name}, found {width}.")


def _parsed(
    text: bytes, separator: str, quote: str | None, names: Sequence[str], wide: _Wide, line: int
) -> pl.DataFrame | None:
    """The fields of one block; None where a line of it is at fault, which `wide` then knows."""
    if not text:
        return None
    try:
        return pl.read_csv(
            io.BytesIO(text),
            separator=separator,
            has_header=False,
            quote_char=quote,
            schema=dict.fromkeys(names, pl.String),
            missing_columns="insert",
        )
    except pl.exceptions.PolarsError:
        # The parser's own message quotes the line, so it is not chained: a line is somebody's.
        wide.look(text, separator, quote, len(names), line)
        return None


def _rows(text: bytes, separator: str, quote: str | None) -> Iterator[list[str]]:
    """The fields of each line by Python's reader, which is slow and names the line."""
    lines = text.decode().split("\n")
    if quote is None:
        return (line.rstrip("\r").split(separator) for line in lines)
    return csv.reader((line + "\n" for line in lines), delimiter=separator, quotechar=quote)


class _Wide:
    """Lines with more fields than there are columns, counted over the blocks of a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.count, self._first, self._quotes = 0, 0, 0

    def look(self, text: bytes, separator: str, quote: str | None, width: int, line: int) -> None:
        """Counts the lines at fault in a block that starts at `line`."""
        before, at = self.count, line
        rows = _rows(text, separator, quote)
        try:
            for row in rows:
                if len(row) > width:
                    self._first = self._first or at
                    self.count += 1
                at = line + rows.line_num if hasattr(rows, "line_num") else at + 1
        except csv.Error:
            self._quotes = self._quotes or at
        if self.count == before and not self._quotes:
            self._quotes = line

    def refuse(self) -> None:
        """Raises if any was found.

        Raises:
            DataError: With their number and the first one's place.
        """
        if self.count:
            raise DataError(
                f"Expected the same number of fields in every line of {self._path.name}, found lines with more: "
                f"{self.count}, first at line {self._first}. Check the separator and the quotation marks."
            )
        if self._quotes:
            raise DataError(
                f"Expected fields of {self._path.name} that can be told apart, found a quotation mark out of place "
                f"at or after line {self._quotes}. Double the marks inside of fields, and close each field."
            )


def compacted(table: pl.DataFrame, numbers: Collection[str]) -> pl.DataFrame:
    """Makes numbers of those columns where every field is one; the others stay strings, to be told of later."""
    columns = []
    for name in table.columns:
        column = table[name]
        if name in numbers and column.dtype == pl.String:
            for dtype in (pl.Int64, pl.Float64):
                cast = column.cast(dtype, strict=False)
                if cast.null_count() == column.null_count():
                    column = cast
                    break
        columns.append(column)
    # One chunk a block: fast readers make dozens, whose strings take twice the memory.
    return pl.DataFrame(columns).rechunk()


def joined(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """One table below the other; a column that is of several types becomes one of strings."""
    first = frames[0]
    mixed = [name for name in first.columns if any(frame.schema[name] != first.schema[name] for frame in frames)]
    return pl.concat([frame.with_columns(pl.col(mixed).cast(pl.String)) if mixed else frame for frame in frames])


def read_double_colon(path: Path, *, names: Sequence[str], numbers: Collection[str] = ()) -> Records:
    """Reads MovieLens-1M's layout: latin-1, no header, fields separated by `::`.

    Raises:
        DataError: As `blocks`, and if a line has another number of fields.
    """
    frames, wrong, first, line = [], 0, 0, 1
    for block in blocks(path):
        text = decoded(block, path, line, "latin-1").decode().replace("\r\n", "\n").removesuffix("\n")
        lines = pl.Series("line", text.split("\n"))
        bad = lines.str.count_matches("::", literal=True) != len(names) - 1
        if bad.any():
            first = first or line + int(bad.arg_max() or 0)
            wrong += int(bad.sum())
        fields = lines.str.split_exact("::", len(names) - 1).struct.rename_fields(list(names)).struct.unnest()
        frames.append(compacted(fields, numbers))
        line += len(lines)
    if wrong:
        raise DataError(
            f"Expected {len(names)} fields ({', '.join(names)}) separated by '::' in {path.name}, found "
            f"{wrong} other lines; first at line {first}."
        )
    return Records(joined(frames), Lines(1))


def require_columns(path: Path, found: Sequence[str], expected: Sequence[str], advice: str) -> None:
    """Refuses a table that lacks a column.

    What was found is not quoted: the first line of a file without header is somebody's data.

    Raises:
        DataError: If a column of `expected` is not among `found`.
    """
    missing = [name for name in expected if name not in found]
    if missing:
        raise DataError(
            f"Expected columns {', '.join(expected)} in {path.name}, found no {', '.join(missing)} among {len(found)}. "
            f"{advice}"
        )
