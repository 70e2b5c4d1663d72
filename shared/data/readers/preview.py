"""A dry run: which file and column plays which role, and the first rows as they are understood.

Here lives making a small copy of a data set, of the heads of its files, in a folder that nobody else can read and that is
gone afterwards; the format's own reader then reads that. What it shows is therefore what reading does, for every
format, and a big file is not read whole. What it returns is somebody's data: NOT PRIVATE, for the person who holds the file.
"""

from __future__ import annotations

import gzip
import json
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from shared.data.interactions import Order
from shared.data.parquet import NotParquetError, parquet_schema, read_parquet_head
from shared.data.readers import Dataset, find_reader, read_raw
from shared.data.readers.dataset import assembled
from shared.data.readers.modalities import BESIDE, parse_vectors
from shared.data.readers.opening import suffix_of
from shared.data.readers.rows import Dialect, first_rows
from shared.data.readers.tables import STATE, dialect, open_table
from shared.data.row_checks import BadRows
from shared.data.typed_columns import type_name
from shared.errors import ConfigError, DataError, TacitError

HEAD_LINES: Final = 10_000
HEAD_BYTES: Final = 1 << 20
WHOLE_BYTES: Final = 8 << 20
# Ids of these files need not come in one order; the head of one may know nothing of the head of the other.
LISTS: Final = (".item", ".kg", ".link")
WHOLE_LISTS: Final = 64 << 20
MOST_FILES: Final = 50
QUOTED: Final = (".csv",)
OTHERS: Final = (".tsv", ".json", ".jsonl", ".ndjson", ".inter", ".item", ".user", ".kg", ".link", ".data", ".dat")
PLAIN_NAMES: Final = ("u.item", "u.user")
NUMBERS_SHOWN: Final = 4


def preview(
    source: str,
    *,
    format: str = "auto",
    columns: str = "",
    vectors: str = "",
    order: Order = "time",
    bad_rows: BadRows = "refuse",
    rows: int = 5,
) -> dict[str, Any]:
    """Reads the heads of a data set's files.

    Args:
        source: A folder or a file. (public)
        format: As of `load_dataset`.
        columns: As of `load_dataset`. (public)
        vectors: As of `load_dataset`. (public)
        order: As of `load_dataset`.
        bad_rows: As of `load_dataset`.
        rows: How many rows of each table to show, >= 1.

    Returns:
        Only JSON types: `name`, `format`, `roles` (file to role to column), `interactions`, `items`, `users` (rows),
        `positional`, `repairs` and `warnings` (of what was looked at), `interactions_looked_at`, `whole` (whether that was
        all). (private)

    Raises:
        ConfigError: As `load_dataset`.
        DataError: As `load_dataset`, of what was looked at.
    """
    files = parse_vectors(vectors)
    if rows < 1:
        raise ConfigError(f"Expected rows >= 1, got rows={rows}.")
    path = Path(source)
    find_reader(path, format=format, columns=columns, vectors=files)
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / (path.name if path.is_dir() and path.name else "data")
        try:
            whole = _copy_heads(path if path.is_dir() else path.parent, folder, path)
        except OSError as error:
            raise DataError(f"Cannot read {path}: {error.strerror}. Check its permissions.") from error
        try:
            found, tables = read_raw(
                folder if path.is_dir() else folder / path.name,
                format=format,
                columns=columns,
                vectors=files,
                order=order,
                bad_rows=bad_rows,
            )
            name = path.name if path.is_dir() else path.stem
            dataset = assembled(name, tables, folder, {}, order=order, bad_rows=bad_rows, whole=whole)
        except TacitError as error:
            # The copy lies where nobody would look for it.
            raise type(error)(str(error).replace(str(folder), str(path if path.is_dir() else path.parent))) from None
        roles = {file: dict(role) for file, role in tables.roles.items()}
        if (folder / BESIDE).is_file():
            roles[BESIDE] = {name: name for name in parquet_schema(folder / BESIDE)}
    for name, file in files.items():
        roles[Path(file).name] = {name: _shape(path if path.is_dir() else path.parent, file)}
    return shown(dataset, found, roles, rows, whole=whole)


def _copy_heads(source: Path, target: Path, named: Path) -> bool:
    """Copies the heads of the files that a reader may want, splits of Hugging Face included; says whether that was all.

    Raises:
        DataError: If a folder holds more of them than any format has.
    """
    target.mkdir(parents=True)
    files = [file for file in sorted(source.iterdir()) if file.is_file() and _wanted(file)]
    if named.is_file() and named not in files:
        files.append(named)
    if len(files) > MOST_FILES:
        raise DataError(
            f"Expected at most {MOST_FILES} files of data in {source}, found {len(files)}. Name the file itself."
        )
    whole = True
    for file in files:
        _copy_head(file, target / file.name)
        whole = whole and file.stat().st_size == (target / file.name).stat().st_size
    for split in sorted(child for child in source.iterdir() if (child / STATE).is_file()):
        whole = _copy_heads(split, target / split.name, split) and whole
    return whole


def _wanted(file: Path) -> bool:
    return suffix_of(file) in (*QUOTED, *OTHERS, ".parquet", ".arrow") or file.name in PLAIN_NAMES


def _copy_head(file: Path, target: Path) -> None:
    """Copies a small file whole, so that its faults and all ids are there, and the first rows of a big one."""
    suffix, size = suffix_of(file), file.stat().st_size
    if size <= (WHOLE_LISTS if suffix in LISTS else WHOLE_BYTES):
        shutil.copyfile(file, target)
        return
    try:
        if suffix == ".parquet":
            with target.open("wb") as written:
                read_parquet_head(file, HEAD_LINES).write_parquet(written)
        elif suffix == ".arrow":
            with file.open("rb") as opened:
                head = pl.read_ipc_stream(opened, n_rows=HEAD_LINES)
            with target.open("wb") as written:
                head.write_ipc_stream(written, compat_level=pl.CompatLevel.oldest())
        else:
            quoted = Dialect(*dialect(file)) if suffix in QUOTED else Dialect("\t")
            block = first_rows(file, quoted, HEAD_BYTES)
            target.write_bytes(gzip.compress(block) if file.suffix.lower() == ".gz" else block)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, NotParquetError, DataError):
        # Whatever is wrong with its head, the reader says it of the copy, under the same name.
        with file.open("rb") as stream:
            target.write_bytes(stream.read(HEAD_BYTES))


def _shape(folder: Path, file: str) -> str:
    """What a file of vectors holds, without reading it."""
    path = next((found for found in (folder / file, Path(file)) if found.is_file()), None)
    if path is None:
        raise DataError(f"Expected the file {Path(file).name} of data.vectors beside the data, found none. Check the path.")
    if path.suffix.lower() == ".npy":
        try:
            found = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, OSError):
            raise DataError(f"Expected an array of numbers in {path.name}, found something else or a part of one.") from None
        return f"{' x '.join(map(str, found.shape))} {found.dtype}"
    return ", ".join(f"{name} {type_name(dtype)}" for name, dtype in open_table(path).schema.items())


def shown(dataset: Dataset, format: str, roles: dict[str, dict[str, str]], rows: int, *, whole: bool) -> dict[str, Any]:
    """The first rows of each table in JSON types."""
    interactions = dataset.interactions.frame.head(rows).to_dicts()
    if not dataset.interactions.positional:
        for row in interactions:
            row["time"] = _iso(row["timestamp"])
    items = [{name: _short(value) for name, value in row.items()} for row in dataset.catalog.table.head(rows).to_dicts()]
    users = dataset.user_attributes
    return {
        "name": dataset.name,
        "format": format,
        "roles": roles,
        "positional": dataset.interactions.positional,
        "interactions": interactions,
        "items": items,
        "users": [] if users is None else users.head(rows).to_dicts(),
        "repairs": dict(dataset.interactions.repairs),
        "warnings": list(dataset.warnings),
        "interactions_looked_at": dataset.interactions.num_interactions,
        "whole": whole,
    }


def _short(value: Any) -> Any:
    """A vector as its first numbers."""
    if isinstance(value, list) and value and isinstance(value[0], float):
        numbers = [round(number, 4) for number in value[:NUMBERS_SHOWN]]
        return json.dumps(numbers)[:-1] + (f", ... {len(value)} numbers]" if len(value) > NUMBERS_SHOWN else "]")
    return value


def _iso(seconds: int) -> str | None:
    """A time as ISO 8601; None where the calendar ends before it."""
    try:
        return datetime.fromtimestamp(seconds, tz=UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return None
