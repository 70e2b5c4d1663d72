"""JSON lines: an object a line, of which only the fields that are needed are kept.

Here lives reading blocks of lines, fast where all is well and line by line where something is at fault, and telling which
lines that are. Here never live names of fields, which are each format's.

Some data sets come with Python's notation in place of JSON ({u'user': ...}); their lines are read as literals, never as
code, some ten times slower, and counted.
"""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl

from shared.data.lines import Lines
from shared.data.readers.opening import blocks, suffix_of
from shared.data.readers.reading import Records, compacted, joined
from shared.data.times import in_notations
from shared.errors import DataError

SUFFIXES: Final = (".json", ".jsonl", ".ndjson")
LITERALS: Final = "lines in Python's notation instead of JSON (read slowly)"
_HEAD_BYTES: Final = 1 << 20


def files(path: Path) -> list[Path]:
    """The files of JSON lines at a path, sorted by name."""
    found = [path] if path.is_file() else sorted(path.iterdir()) if path.is_dir() else []
    return [file for file in found if suffix_of(file) in SUFFIXES and file.is_file() and file.name not in _NOT_DATA]


# What else lies in folders of data: how Hugging Face and Tacit describe theirs.
_NOT_DATA: Final = ("state.json", "dataset_info.json", "dataset_dict.json", "config.json", "run.json", "population.json")


def first_fields(path: Path) -> frozenset[str]:
    """Names of the fields in the first line; none where that is no object.

    Raises:
        DataError: If the file cannot be read at all.
    """
    for block in blocks(path, size=_HEAD_BYTES):
        for line in block.split(b"\n"):
            if line.strip():
                return frozenset(_object(line) or {})
    return frozenset()


def read_fields(
    path: Path, fields: Sequence[str], *, numbers: Sequence[str] = (), times: Mapping[str, Sequence[str]] | None = None
) -> Records:
    """Reads single values, numbers and strings alike as strings; null where a line lacks a field.

    Args:
        path: The file.
        fields: Names.
        numbers: Those of them that become numbers where every value of a block is one.
        times: Those of them that are times, and the format's notations; they become whole seconds where every value of a
            block is one.

    Raises:
        DataError: As `blocks`, and if a line is no object, or a field holds an object or a list; with counts and the first
            line of each.
    """
    faults, frames, line, literal = _Faults(path), [], 1, 0
    skipped: list[int] = []
    height = 0
    for block in blocks(path):
        frame = _fast(block, fields)
        count = block.count(b"\n")
        if frame is None:
            rows, notation = [], 0
            for number, found in _slowly(block, line, faults):
                notation += found.literal
                rows.append(tuple(_single(found.fields.get(name), name, number, faults) for name in fields))
            frame = pl.DataFrame(rows, schema=dict.fromkeys(fields, pl.String), orient="row")
            literal += notation
        if frame.height < count:
            skipped += _blank(block, height)
        height += frame.height
        frame = frame.with_columns(_dated(frame[name], notations) for name, notations in (times or {}).items())
        frames.append(compacted(frame, numbers))
        line += count
    faults.refuse(line - 1)
    lines = Lines(1, skipped)
    return Records(joined(frames), lines, {LITERALS: literal} if literal else {})


def _dated(texts: pl.Series, notations: Sequence[str]) -> pl.Series:
    """Times as whole seconds, to save memory; texts where not all can be read, for the checks on rows."""
    seconds = in_notations(texts, notations)
    return texts if seconds.null_count() else seconds


def read_objects(path: Path, repairs: dict[str, int]) -> Iterator[Mapping[str, Any]]:
    """Gives the object of each line, nested ones included; for files of items, which are read whole.

    Args:
        path: The file.
        repairs: Where the number of lines in Python's notation is added.

    Raises:
        DataError: As `blocks`, and at the end if any line was no object.
    """
    faults, line, literal = _Faults(path), 1, 0
    for block in blocks(path):
        for _, found in _slowly(block, line, faults):
            literal += found.literal
            yield found.fields
        line += block.count(b"\n")
    faults.refuse(line - 1)
    if literal:
        repairs[LITERALS] = repairs.get(LITERALS, 0) + literal


def words(value: object) -> list[str]:
    """All strings and numbers in a value, lists in it taken apart, in order."""
    if isinstance(value, list | tuple):
        return [word for part in value for word in words(part)]
    single = value if isinstance(value, str) else str(value) if isinstance(value, int | float) else ""
    return [_spelled(single)] if single else []


def scalar(value: object) -> str | None:
    """A string or a number as a string; None for anything else."""
    return _spelled(value) if isinstance(value, str) else str(value) if isinstance(value, int | float) else None


def shortened(text: str, length: int = 300) -> str:
    """The words at the beginning that fit."""
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length + 1].rpartition(" ")[0] or text[:length]


def _fast(block: bytes, fields: Sequence[str]) -> pl.DataFrame | None:
    """The block by the fast reader; None where any line needs a closer look."""
    try:
        frame = pl.read_ndjson(block, schema=dict.fromkeys(fields, pl.String()))
    except pl.exceptions.PolarsError:
        return None
    # Objects and lists come as their text; so may a string that begins so, which the slow way tells apart.
    nested = pl.any_horizontal(pl.all().str.contains(r"^[{\[]").fill_null(False)).any()
    return None if frame.select(nested).item() else frame


@dataclass(frozen=True)
class _Line:
    fields: Mapping[str, Any]
    literal: bool


def _slowly(block: bytes, line: int, faults: _Faults) -> Iterator[tuple[int, _Line]]:
    """The objects of a block by Python's readers, with the numbers of their lines."""
    for number, text in enumerate(block.removesuffix(b"\n").split(b"\n"), start=line):
        if not text.strip():
            continue
        found = _object(text)
        if found is not None:
            yield number, _Line(found, text.lstrip()[:2] in (b"{'", b"{u"))
        elif _is_utf8(text):
            faults.add("a JSON object", number)
        else:
            faults.add("UTF-8 text", number)


def _object(line: bytes) -> dict[str, Any] | None:
    """The object in a line, in JSON or in Python's notation; None where there is none."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        if line.lstrip()[:2] not in (b"{'", b"{u"):
            return None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Of escapes such as "\d", which Python reads as they stand.
                found = ast.literal_eval(line.decode().strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            return None
    return found if isinstance(found, dict) and all(isinstance(name, str) for name in found) else None


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _blank(block: bytes, row: int) -> list[int]:
    """For each blank line of a block, the row that follows it; `row` is the first row of the block."""
    found = []
    for text in block.removesuffix(b"\n").split(b"\n"):
        if text.strip():
            row += 1
        else:
            found.append(row)
    return found


def _single(value: object, name: str, number: int, faults: _Faults) -> str | None:
    """A single value as a string; an object or a list is a fault."""
    if isinstance(value, dict | list | tuple | set):
        faults.add(f"a single value of {name}", number)
        return None
    return None if value is None else str(value).lower() if isinstance(value, bool) else scalar(value)


def _spelled(text: str) -> str:
    """Half a pair of surrogates, which no encoding has, becomes a question mark."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


class _Faults:
    """What was wrong with the lines of a file: of each kind, how many and the first."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, list[int]] = {}

    def add(self, expected: str, line: int) -> None:
        """Counts one more."""
        entry = self._found.setdefault(expected, [0, line, line])
        entry[0], entry[2] = entry[0] + 1, line

    def refuse(self, last_line: int) -> None:
        """Raises for the kind that came first.

        Raises:
            DataError: With the number of lines and the place of the first one.
        """
        for expected, (count, first, last) in self._found.items():
            cut = " The last line is one of them: the file may be cut." if last == last_line else ""
            raise DataError(
                f"Expected {expected} in every line of {self._path.name}, found {count} other line{'s' * (count > 1)}; "
                f"first at line {first}.{cut} Mend them or fetch the file again."
            )
