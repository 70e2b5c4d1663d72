"""From an owner's file to the node's database: CSV, JSON lines or Parquet, a chunk at a time.

What lives here: reading rows, what a usable row is, refusing or leaving out the others. What never does: the database
(`interactions.py`), and the readers of published data sets (`shared/data/readers/`), which no device carries.

A row means the same in whatever company it comes, so that one file at once, many pieces, or one interaction after the other
end with the same database: ids are spelled as a simulation spells them, and each time is read by itself
(`shared/data/times.py`). Messages locate the first row that cannot be used and never quote it.
"""

from __future__ import annotations

import csv
import gc
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, Final, Literal

import polars as pl
from pydantic_core import from_json

from client.store.interactions import CHUNK, Added, InteractionStore
from shared.data.column_names import RECOGNIZED, parse_columns, recognize
from shared.data.row_checks import BadRows
from shared.data.times import READ, seconds_of_each
from shared.data.typed_columns import Use, accepts, as_ids, type_name
from shared.errors import ConfigError, DataError
from shared.files import wide_encoding

Format = Literal["auto", "csv", "parquet", "jsonl"]

ROLES: Final[Mapping[str, Use]] = {"user": "ids", "item": "ids", "timestamp": "times"}
# A longer line of JSON is no interaction, and is not read into memory. A field of CSV is limited by Python to as much.
_LONGEST_LINE: Final = 131_072
_SUFFIXES: Final = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
_SEPARATORS: Final = ",\t;|"
_LARGEST_EXACT: Final = 2.0**53
# Line, user, item, time. (private)
_Cells = tuple[int, str | None, str | None, str | None]
_LEAVE_OUT: Final = "Mend the file, or leave such rows out with --bad-rows drop."
# As for a data set: what is wrong with more than half of the rows is wrong with the file.
_MOST_BAD: Final = 0.5


@dataclass(frozen=True)
class Ingested:
    """What became of the rows of a file. (private)

    Attributes:
        rows: How many there were.
        added: What became of those that could be used.
        dropped: How many were left out because they could not.
    """

    rows: int
    added: Added
    dropped: int


@dataclass(frozen=True)
class Rows:
    """Some rows as they were found.

    Attributes:
        columns: `user`, `item`, `timestamp` of any type; null where there is none. (private)
        places: Where each row is, for messages: the number of its line, or of the row itself.
        unit: "line" or "row".
    """

    columns: Mapping[str, pl.Series]
    places: Sequence[int]
    unit: str

    @property
    def height(self) -> int:
        """How many rows."""
        return len(self.places)


def ingest(
    store: InteractionStore,
    source: Path | IO[bytes],
    *,
    format: Format = "auto",
    columns: str = "",
    bad_rows: BadRows = "refuse",
) -> Ingested:
    """Adds a file's interactions to the database, all of them or none.

    Guarantee:
        After an error, or where the process is killed, the database is as it was; ingested again, a file changes nothing.

    Args:
        store: The database, which exists.
        source: A file, or a stream of CSV or JSON lines. (private)
        format: Of the file; auto goes by its name and its first byte.
        columns: Column map, e.g. "user=uid,item=asin,timestamp=t"; without one the usual names are recognized. (public)
        bad_rows: `drop` leaves rows out that cannot be used, and counts them.

    Raises:
        ConfigError: If the map is wrong.
        DataError: If the file cannot be read, lacks a column, holds no row, or a row that cannot be used; with `drop`, if
            that is so of more than half of its rows.
        StoreUnavailable: If the database cannot be written.
    """
    mapping = parse_columns(columns, name="--columns")
    if unused := sorted(mapping.keys() - ROLES.keys()):
        raise ConfigError(f"Expected user, item and timestamp in --columns, got {unused[0]}. Leave it out.")
    name = (source.name or str(source)) if isinstance(source, Path) else "standard input"
    with _opened(source, name) as stream, store.adding() as add, _without_garbage_collection():
        total, added, dropped = 0, Added(), 0
        for rows in _rows(stream, format, name, mapping):
            frame = usable(rows, source=name, bad_rows=bad_rows)
            total, dropped = total + rows.height, dropped + rows.height - frame.height
            added += add(frame)
        if not total:
            raise DataError(f"Expected at least one interaction in {name}, found 0. Is it the right file?")
        if dropped > _MOST_BAD * total:
            raise DataError(
                f"Expected at most half of the rows of {name} to be left out, found {dropped} of {total} that cannot be "
                "used. Nothing was changed. Is it the right file, and are these its columns?"
            )
    return Ingested(total, added, dropped)


def usable(rows: Rows, *, source: str, bad_rows: BadRows = "refuse", advice: str = _LEAVE_OUT) -> pl.DataFrame:
    """Reads ids and times, and refuses rows that cannot be used, or leaves them out.

    Args:
        rows: As they were found. (private)
        source: Name of the file, for messages. (public)
        bad_rows: `drop` leaves them out.
        advice: What to do about one, for the message.

    Returns:
        `user` String, `item` String, `timestamp` Int64: seconds since 1970, >= 0; nothing is null or empty. (private)

    Raises:
        DataError: If a column is of a type that cannot be read so, or with `refuse` at the first row that cannot be used.
    """
    for role, use in ROLES.items():
        if not accepts(use, dtype := rows.columns[role].dtype):
            raise DataError(
                f"Expected the {role} of {source} to be {'times' if use == 'times' else 'text or whole numbers'}, found a "
                f"column of type {type_name(dtype)}. Nothing was changed. Convert it, or name another with --columns."
            )
    read = [as_ids(rows.columns["user"]), as_ids(rows.columns["item"]), seconds_of_each(rows.columns["timestamp"])]
    frame = pl.DataFrame([column.alias(role) for role, column in zip(ROLES, read, strict=True)])
    bad = {
        "a user id": frame["user"].is_null(),
        "an item id": frame["item"].is_null(),
        "a time from 1970 on": ~(frame["timestamp"] >= 0).fill_null(False),
    }
    first = {expected: int(column.arg_true()[0]) for expected, column in bad.items() if column.any()}
    if not first:
        return frame
    if bad_rows == "drop":
        user, item, time = bad.values()
        return frame.filter(~(user | item | time))
    expected = min(first, key=first.__getitem__)
    place = f"{rows.unit} {rows.places[first[expected]]}"
    notations = f" {READ}" if expected.startswith("a time") else ""
    raise DataError(
        f"Expected {expected} in every {rows.unit} of {source}, found none that can be read in {place}. Nothing was "
        f"changed. {advice}{notations}"
    )


def spelled(user: str) -> str:
    """A user's id as `usable` spells it. (private)"""
    return str(as_ids(pl.Series([user], dtype=pl.String))[0] or "")


def rows_of_objects(objects: Iterable[Any], names: Mapping[str, str], places: Sequence[int], *, unit: str) -> Rows:
    """Rows from JSON values; what is no object, or lacks a field, is a row without it.

    Args:
        objects: What pydantic's `from_json` gave, which takes no halves of characters. (private)
        names: The field of each role. (public)
        places: As of `Rows`.
        unit: As of `Rows`.
    """
    fields = [value if isinstance(value, dict) else {} for value in objects]
    found = {}
    for role in ROLES:
        values = [one.get(names[role]) for one in fields]
        texts = [value if type(value) is str else _text(value) for value in values]
        found[role] = pl.Series(role, texts, dtype=pl.String)
    return Rows(found, places, unit)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Rows are many small objects without cycles: looking for some among them takes a quarter of the time."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@contextmanager
def _opened(source: Path | IO[bytes], name: str) -> Iterator[IO[bytes]]:
    if not isinstance(source, Path):
        yield source
        return
    try:
        stream = source.open("rb")
    except OSError as error:
        raise DataError(f"Expected a file to ingest, could not open {name}: {error.strerror}. Check the path.") from None
    with stream:
        yield stream


def _rows(stream: IO[bytes], format: Format, name: str, mapping: Mapping[str, str]) -> Iterator[Rows]:
    """All rows of a file, a chunk at a time.

    Raises:
        DataError: If it cannot be read, or lacks a column.
    """
    buffered: Any = stream if hasattr(stream, "peek") else io.BufferedReader(stream)
    try:
        head = buffered.peek(4)[:4]
        if head[:2] == b"\x1f\x8b" or wide_encoding(head):
            raise DataError(
                f"Expected text in UTF-8, or Parquet, in {name}, found a packed file or another encoding. Convert it."
            )
        kind = format if format != "auto" else _kind(Path(name), head)
        yield from {"parquet": _parquet, "jsonl": _json_lines, "csv": _csv}[kind](buffered, name, mapping)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(f"Expected to read {name} to its end, got an error ({reason}). Nothing was changed.") from None


def _kind(name: Path, head: bytes) -> str:
    if head == b"PAR1":
        return "parquet"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"[")):
        return "jsonl"
    return _SUFFIXES.get(name.suffix.lower(), "csv")


def _named(found: Sequence[str], name: str, mapping: Mapping[str, str]) -> dict[str, str]:
    """The column of each role: by the map, or by its usual name; what else a file has is not told, it may be somebody's."""
    absent = [column for column in mapping.values() if column not in found]
    if absent:
        raise DataError(f"Expected column {absent[0]} in {name}, as --columns says, found none of that name. Correct it.")
    free = [column for column in found if column not in mapping.values()]
    names = {role: mapping.get(role) or recognize(free, RECOGNIZED[role]) for role in ROLES}
    missing = [role for role, column in names.items() if column is None]
    if missing:
        raise DataError(
            f"Expected columns for user, item and timestamp in {name}, found none for {', '.join(missing)}. Name them: "
            "--columns 'user=...,item=...,timestamp=...'."
        )
    return {role: column for role, column in names.items() if column is not None}


def _csv(stream: IO[bytes], name: str, mapping: Mapping[str, str]) -> Iterator[Rows]:
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    lines = csv.reader([])
    try:
        first = text.readline(_LONGEST_LINE)
        # A line is never read whole, however long it is; its pieces are rows that cannot be used.
        pieces = chain([first], iter(partial(text.readline, _LONGEST_LINE), ""))
        lines = csv.reader(pieces, delimiter=max(_SEPARATORS, key=first.count), strict=True)
        header = next(lines, [])
        if not header:
            return
        names = _named(header, name, mapping)
        user, item, moment = (header.index(names[role]) for role in ROLES)

        def cells() -> Iterator[_Cells]:
            line = lines.line_num + 1
            for row in lines:
                if len(row) == len(header):
                    yield line, row[user], row[item], row[moment]
                elif row:  # a blank line is none
                    yield line, None, None, None
                line = lines.line_num + 1

        yield from _chunks(cells())
    except UnicodeDecodeError:
        raise DataError(
            f"Expected text in UTF-8 in {name}, found other bytes behind line {lines.line_num}. Nothing was changed. "
            "Convert the file."
        ) from None
    except csv.Error:
        raise DataError(
            f"Expected CSV in {name}, found a quotation that is not closed, or a field longer than {_LONGEST_LINE} "
            f"characters, in line {lines.line_num}. Nothing was changed. Mend the file."
        ) from None
    finally:
        text.detach()


def _json_lines(stream: IO[bytes], name: str, mapping: Mapping[str, str]) -> Iterator[Rows]:
    numbered = _json_values(stream, name)
    names: dict[str, str] = {}
    while chunk := list(islice(numbered, CHUNK)):
        places, values = zip(*chunk, strict=True)
        if not names:
            first = next((value for value in values if isinstance(value, dict)), None)
            if first is None:
                raise DataError(
                    f"Expected a JSON object in each line of {name}, found none in line {places[0]}. Nothing was changed. "
                    "Write one interaction a line."
                )
            names = _named(list(first), name, mapping)
        yield rows_of_objects(values, names, places, unit="line")


def _json_values(stream: IO[bytes], name: str) -> Iterator[tuple[int, Any]]:
    """Number and value of each line that is not blank; None where it is no JSON."""
    for number, line in enumerate(iter(partial(stream.readline, _LONGEST_LINE), b""), start=1):
        if len(line) == _LONGEST_LINE and not line.endswith(b"\n"):
            raise DataError(
                f"Expected lines of at most {_LONGEST_LINE} bytes in {name}, found a longer one, line {number}. Nothing was "
                "changed. Write one interaction a line."
            )
        try:
            value = from_json(line if number > 1 else line.removeprefix(b"\xef\xbb\xbf"), allow_inf_nan=False)
        except ValueError:
            if not line.strip(b"\xef\xbb\xbf \t\r\n"):
                continue
            value = None
        yield number, value


def _parquet(stream: IO[bytes], name: str, mapping: Mapping[str, str]) -> Iterator[Rows]:
    if not stream.seekable():
        raise DataError(f"Expected a file of Parquet, got {name}. Name the file: Parquet is not read from its beginning.")
    try:
        scan = pl.scan_parquet(stream)
        names = _named(list(scan.collect_schema()), name, mapping)
        scan = scan.select(pl.col(column).alias(role) for role, column in names.items())
        height = scan.select(pl.len()).collect().item()
        for start in range(0, height, CHUNK):
            frame = scan.slice(start, CHUNK).collect()
            yield Rows(frame.to_dict(), range(start + 1, start + 1 + frame.height), "row")
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        raise DataError(
            f"Expected Parquet in {name}, found something else or a damaged file. Nothing was changed."
        ) from None


def _chunks(cells: Iterator[_Cells]) -> Iterator[Rows]:
    while chunk := list(islice(cells, CHUNK)):
        places, *columns = zip(*chunk, strict=True)
        found = {role: pl.Series(role, column, dtype=pl.String) for role, column in zip(ROLES, columns, strict=True)}
        yield Rows(found, places, "line")


def _text(value: Any) -> str | None:
    """A JSON value as the text that CSV has for it; None where it is no text and no number."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        if value.is_integer():
            return str(int(value)) if abs(value) <= _LARGEST_EXACT else None
    return str(value)
