"""Tables in files: CSV, TSV, Parquet and Arrow, of which only the columns that are needed are read.

Here live the schema and the columns of one table, whatever it is stored as. Here never live roles: which column
is the user's, `columns.py` says.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl

from shared.data.parquet import NotParquetError, parquet_schema, read_parquet
from shared.data.readers.opening import suffix_of
from shared.data.readers.reading import Records, joined, read_delimited, read_header
from shared.errors import DataError

SUFFIXES: Final = (".tsv", ".csv", ".parquet")
STATE: Final = "state.json"


@dataclass(frozen=True)
class Table:
    """A table on disk.

    Attributes:
        path: The file, or the folder of a Hugging Face data set.
        schema: Its columns and their types; all strings in text files.
        parts: The files of rows, one after the other.
        first_line: Line of the first row; None where the file has no lines.
    """

    path: Path
    schema: dict[str, pl.DataType]
    parts: tuple[Path, ...]
    first_line: int | None

    @property
    def name(self) -> str:
        """For messages."""
        return self.path.name

    def read(self, columns: Collection[str], *, numbers: Collection[str] = ()) -> Records:
        """The rows of some columns.

        Args:
            columns: Their names.
            numbers: Those of them that become numbers where every field is one.

        Raises:
            DataError: If the file is damaged.
        """
        kept = [name for name in self.schema if name in columns]
        if self.first_line is not None:
            separator, quote = dialect(self.path)
            return read_delimited(self.path, separator=separator, quote=quote, keep=kept, numbers=numbers)
        return Records(joined([_columnar(part, kept) for part in self.parts]), None)


def open_table(path: Path) -> Table:
    """A CSV, TSV or Parquet file.

    Raises:
        DataError: If its head cannot be read.
    """
    if suffix_of(path) == ".parquet":
        if path.is_dir():
            raise DataError(f"Expected a file at {path}, found a folder.")
        return Table(path, _schema(path), (path,), None)
    separator, quote = dialect(path)
    names = read_header(path, separator=separator, quote=quote)
    return Table(path, dict.fromkeys(names, pl.String()), (path,), 2)


def open_arrow(folder: Path) -> Table:
    """A folder that `datasets.Dataset.save_to_disk` wrote: `state.json` lists the Arrow streams.

    Raises:
        DataError: If a file is missing or damaged, or rows are only an index into others.

    Source:
        Hugging Face `datasets`, `Dataset.save_to_disk`: `_data_files`, and `_indices_data_files` in versions before 2.
    """
    state = read_json(folder / STATE)
    files = [entry.get("filename") for entry in state.get("_data_files") or [] if isinstance(entry, dict)]
    if not files or not all(isinstance(file, str) and Path(file).name == file for file in files):
        raise DataError(f"Expected the names of Arrow files in {folder.name}/{STATE}, found none. Save the data set again.")
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise DataError(f"Expected all rows in {folder.name}, found an index. Call flatten_indices() before save_to_disk().")
    parts = tuple(folder / str(file) for file in files)
    absent = [part.name for part in parts if not part.is_file()]
    if absent:
        raise DataError(
            f"Expected {len(parts)} Arrow files in {folder.name}, found {len(absent)} missing. Copy all of them."
        )
    return Table(folder, dict(_arrow(parts[0], None, rows=0).schema), parts, None)


def read_json(path: Path) -> dict[str, Any]:
    """A small JSON file that holds an object.

    Raises:
        DataError: If it is missing, or holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"No file at {path}. Check the path.") from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise DataError(f"Expected a JSON object in {path.parent.name}/{path.name}, found something else or a part of one.")
    return found


def dialect(path: Path) -> tuple[str, str | None]:
    """Separator and quotation mark: tabs without marks, or whichever separator splits the first line most."""
    if suffix_of(path) == ".tsv":
        return "\t", None
    header = read_header(path, separator="\n")[0]
    return max((",", ";", "\t", "|"), key=header.count), '"'


def _schema(path: Path) -> dict[str, pl.DataType]:
    try:
        return parquet_schema(path)
    except NotParquetError:
        raise _not_parquet(path) from None


def _not_parquet(path: Path) -> DataError:
    if not path.stat().st_size:
        return DataError(f"Expected data in {path.name}, found an empty file.")
    return DataError(f"Expected a Parquet file at {path.name}, found something else or a part of one. Fetch it again.")


def _columnar(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    """Some columns of a Parquet file or an Arrow stream."""
    if suffix_of(path) != ".parquet":
        return _arrow(path, columns)
    try:
        return read_parquet(path, columns)
    except NotParquetError:
        raise _not_parquet(path) from None


def _arrow(path: Path, columns: Sequence[str] | None, rows: int | None = None) -> pl.DataFrame:
    """Some columns of an Arrow stream."""
    try:
        with path.open("rb") as file:  # A path would be taken as a pattern.
            return pl.read_ipc_stream(file, columns=None if columns is None else list(columns), n_rows=rows)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # Not what is in the file, but that it cannot be opened.
        raise DataError(f"Expected an Arrow stream at {path.name}, found something else or a part of one.") from None
