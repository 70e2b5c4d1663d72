"""From a path to a table of strings: the faults that every text format shares, each told in one line.

Here live opening, decoding and splitting into fields. Here never live names of columns or types: readers
name columns, and `Interactions.validated` casts them, because only then can a bad value be located by line.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from shared.errors import DataError


@dataclass(frozen=True)
class RawTables:
    """What a reader found: columns renamed, values untouched.

    Attributes:
        interactions: Columns `user`, `item`, `timestamp`, optionally `value`, in file order. (private)
        source: Name of the interactions' file, for messages.
        items: Columns `item` and `text` in file order, or None where there is no items file. (public)
        items_source: Name of the items' file, for messages.
        users: Column `user` and attributes, or None. (private)
        first_line: Line of the first interaction; None where the file has no lines.
        positional: Whether the file says that `timestamp` is a position; None where it does not say.
    """

    interactions: pl.DataFrame
    source: str
    items: pl.DataFrame | None = None
    items_source: str = ""
    users: pl.DataFrame | None = None
    first_line: int | None = 2
    positional: bool | None = None


def read_bytes(path: Path) -> bytes:
    """Reads a file whole.

    Raises:
        DataError: If it is missing, a folder, unreadable or empty.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"No file at {path}. Check the path.") from error
    except IsADirectoryError as error:
        raise DataError(f"Expected a file at {path}, found a folder.") from error
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}. Check its permissions.") from error
    if not data.strip():
        raise DataError(f"Expected data in {path.name}, found an empty file.")
    return data


def read_text(path: Path, *, encoding: str = "utf-8-sig") -> str:
    """Reads a text file; a byte-order mark and empty lines at the end are dropped.

    Raises:
        DataError: As `read_bytes`, and if the file is binary or in another encoding.
    """
    data = read_bytes(path)
    if b"\0" in data:
        raise DataError(f"Expected text in {path.name}, found binary data. Unpack or convert it first.")
    try:
        return data.decode(encoding).rstrip("\r\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"Expected UTF-8 text in {path.name}, found other bytes; first at line {line}. Convert it."
        ) from error


def read_delimited(
    path: Path,
    *,
    separator: str,
    names: Sequence[str] | None = None,
    quote: str | None = None,
    encoding: str = "utf-8-sig",
) -> pl.DataFrame:
    """Reads a file of delimited fields as strings; an empty field is null.

    Args:
        path: The file.
        separator: One character.
        names: Column names of a file without header; None where the first line is one.
        quote: The character around fields that hold the separator; None where nothing is quoted, as in
            RecBole's and MovieLens' tab-separated files, whose titles hold bare quotation marks.
        encoding: Name of the encoding.

    Returns:
        One String column a field. Lines with too few fields end in nulls.

    Raises:
        DataError: As `read_text`, and if a line has more fields than there are columns.
    """
    text = read_text(path, encoding=encoding)
    try:
        table = pl.read_csv(
            io.BytesIO(text.encode()),
            separator=separator,
            has_header=names is None,
            quote_char=quote,
            infer_schema=False,
        )
    except pl.exceptions.PolarsError:
        # The parser's own message quotes the line, so it is not chained: a line is somebody's.
        raise DataError(
            f"Expected the same number of fields in every line of {path.name}, found lines with more. "
            "Check the separator and the quotation marks."
        ) from None
    if names is None:
        return table.rename({name: name.strip() for name in table.columns})
    if table.width != len(names):
        raise DataError(f"Expected {len(names)} fields ({', '.join(names)}) a line in {path.name}, found {table.width}.")
    return table.rename(dict(zip(table.columns, names, strict=True)))


def read_double_colon(path: Path, *, names: Sequence[str]) -> pl.DataFrame:
    """Reads MovieLens-1M's layout: latin-1, no header, fields separated by `::`.

    Raises:
        DataError: As `read_text`, and if a line has another number of fields.
    """
    text = read_text(path, encoding="latin-1")
    lines = pl.Series("line", text.replace("\r\n", "\n").split("\n"))
    counts = lines.str.count_matches("::", literal=True)
    wrong = counts != len(names) - 1
    if wrong.any():
        raise DataError(
            f"Expected {len(names)} fields ({', '.join(names)}) separated by '::' in {path.name}, found "
            f"{wrong.sum()} other lines; first at line {(wrong.arg_max() or 0) + 1}."
        )
    return lines.str.split_exact("::", len(names) - 1).struct.rename_fields(list(names)).struct.unnest()


def require_columns(path: Path, found: Sequence[str], expected: Sequence[str], advice: str) -> None:
    """Refuses a table that lacks a column.

    Column names are quoted; the first line of a file without header is data, and is not.

    Raises:
        DataError: If a column of `expected` is not among `found`.
    """
    if set(expected) <= set(found):
        return
    raise DataError(f"Expected columns {', '.join(expected)} in {path.name}, found {describe_columns(found)}. {advice}")


def describe_columns(found: Sequence[str]) -> str:
    """Quotes column names, unless they look like data."""
    if any(name.replace(".", "", 1).replace("-", "", 1).isdigit() for name in found):
        return f"{len(found)} fields whose first line is not a header"
    return ", ".join(found[:20]) + (", ..." if len(found) > 20 else "")
