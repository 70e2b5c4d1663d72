"""From a path to tables of strings: the faults that every text format shares, each told in one line.

Here lives joining what blocks of a file hold (`opening.py`, `rows.py`, `fields.py`). Here never live names of columns or
types: readers name columns, and `Interactions.validated` casts them, because only then can a bad value be located by line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import polars as pl

from shared.data.catalog import CATEGORIES, PRICE
from shared.data.lines import Lines, Rows
from shared.data.readers.fields import Table, header_names, split_first
from shared.data.readers.rows import Dialect, Findings, rows
from shared.errors import DataError

_HEAD_BYTES: Final = 1 << 20
# What the readers of JSON lines make of an item.
ITEM_SCHEMA: Final[dict[str, Any]] = {"item": pl.String, "text": pl.String, CATEGORIES: pl.List(pl.String), PRICE: pl.String}


@dataclass(frozen=True)
class RawTables:
    """What a reader found: columns renamed, values untouched.

    Attributes:
        interactions: Columns `user`, `item`, `timestamp` (which may be absent where the order of the file is the order of
            time), optionally `value`, in file order. (private)
        source: Name of the interactions' file, for messages.
        items: Columns `item`, `text` and modalities as `build_catalog` takes them, in file order, or None where
            there is no items file. (public)
        items_source: Name of the items' file, for messages.
        users: Column `user` and attributes, or None. (private)
        users_source: Name of the users' file, for messages.
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
    users_source: str = ""
    lines: Lines | Rows | None = field(default_factory=Lines)
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
        separator: As of `Dialect`.
        names: Column names of a file without header; None where the first line is one.
        quote: As of `Dialect`.
        encoding: As of `decoded`.
        keep: Columns to keep; None keeps all.
        numbers: Columns that become integers or floats where every field is one, to save memory.

    Returns:
        One column a field. Lines with too few fields end in nulls.

    Raises:
        DataError: As `rows`; if a line has more fields than there are columns, a quotation mark is out of place, or a
            quoted field holds whole rows.
    """
    dialect, findings, frames = Dialect(separator, quote), Findings(path), []
    table = Table(path, dialect, findings, names)
    for block in rows(path, dialect, findings, encoding=encoding):
        frame = table.parsed(block)
        if frame is not None:
            kept = frame if keep is None else frame.select(name for name in table.names if name in keep)
            frames.append(compacted(kept, numbers))
    findings.refuse()
    if not frames:
        frames = [pl.DataFrame(schema=dict.fromkeys(table.names, pl.String))]
    return Records(joined(frames), Lines(table.first_line, table.skipped), findings.repairs)


def read_header(path: Path, *, separator: str, quote: str | None = None) -> list[str]:
    """The column names in the first row, blanks around them left out.

    Raises:
        DataError: As `rows`, and if a quotation mark in it is out of place.
    """
    dialect, findings = Dialect(separator, quote), Findings(path)
    block = next(block for block in rows(path, dialect, findings, size=_HEAD_BYTES) if block.text)
    header = split_first(block.text, quote)[0]
    findings.refuse(last_line=block.lines.of(header.count(b"\n") - 1))
    names = header_names(header, dialect, findings, block.lines.of(0))
    findings.refuse(last_line=block.lines.of(0))
    return names


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
    """Reads MovieLens-1M's and 10M's layout: no header, fields separated by `::`; lines in UTF-8, or else latin-1.

    Raises:
        DataError: As `rows`, and if a line has another number of fields.
    """
    frames, wrong, first, height = [], 0, 0, 0
    first_line, skipped = 1, list[int]()
    for block in rows(path, Dialect("::"), Findings(path), encoding="latin-1"):
        lines = pl.Series("line", block.text.decode().removesuffix("\n").split("\n") if block.text else [], dtype=pl.String)
        bad = lines.str.count_matches("::", literal=True) != len(names) - 1
        if bad.any():
            first = first or block.lines.of(int(bad.arg_max() or 0))
            wrong += int(bad.sum())
        fields = lines.str.split_exact("::", len(names) - 1).struct.rename_fields(list(names)).struct.unnest()
        frames.append(compacted(fields, numbers))
        if not height:
            first_line = block.lines.of(0)
        skipped += [height + row for row in block.lines.skipped if height or row]
        height += len(lines)
    if wrong:
        raise DataError(
            f"Expected {len(names)} fields ({', '.join(names)}) separated by '::' in {path.name}, found "
            f"{wrong} other lines; first at line {first}. Mend these lines, or fetch the file again."
        )
    return Records(joined(frames), Lines(first_line, skipped))


def added(*repairs: Mapping[str, int]) -> dict[str, int]:
    """The counts of several files, added up by what was repaired."""
    total: Counter[str] = Counter()
    for counts in repairs:
        total.update(counts)
    return dict(total)


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
