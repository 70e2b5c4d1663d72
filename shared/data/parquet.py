"""Parquet files by their paths, whatever characters these hold.

Here lives opening. Here never lives what a file means, or what to do about a damaged one.

A path that is given to polars is a pattern to it: `*`, `?` and `[` select other files, `~` is somebody's home, and a name
that is no UTF-8 is refused. A file that is open has no name, so every reader of the project opens the file first.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl


class NotParquetError(Exception):
    """The file is no Parquet, or a part of one; the parser's own words are left out, since they may quote values."""


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Some columns of a file, in that order, or all of them.

    Raises:
        NotParquetError: If it is none or damaged.
        OSError: If it cannot be opened.
    """
    with path.open("rb") as file:
        try:
            scan = pl.scan_parquet(file)
            return (scan if columns is None else scan.select(columns)).collect()
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
            raise NotParquetError from None


def read_parquet_head(path: Path, rows: int) -> pl.DataFrame:
    """The first rows of a file, all columns.

    Raises:
        NotParquetError: If it is none or damaged.
        OSError: If it cannot be opened.
    """
    with path.open("rb") as file:
        try:
            return pl.scan_parquet(file).head(rows).collect()
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
            raise NotParquetError from None


def write_parquet(table: pl.DataFrame, path: Path) -> None:
    """Writes a file, or writes over one.

    Raises:
        OSError: If it cannot be written.
    """
    with path.open("wb") as file:
        table.write_parquet(file)


def parquet_schema(path: Path) -> dict[str, pl.DataType]:
    """The columns of a file and their types.

    Raises:
        NotParquetError: If it is none or damaged.
        OSError: If it cannot be opened.
    """
    with path.open("rb") as file:
        try:
            return dict(pl.scan_parquet(file).collect_schema())
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
            raise NotParquetError from None


def parquet_metadata(path: Path) -> dict[str, str]:
    """What a file says of itself beside its table.

    Raises:
        NotParquetError: If it is none or damaged.
        OSError: If it cannot be opened.
    """
    with path.open("rb") as file:
        try:
            return dict(pl.read_parquet_metadata(file))
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
            raise NotParquetError from None
