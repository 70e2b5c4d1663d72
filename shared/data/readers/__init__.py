"""From a path or a name to a validated data set; one module a format.

Here lives the choice of the reader. Here never live checks on rows (`shared/data/interactions.py`) or on items
(`shared/data/catalog.py`), which every format passes through alike (`dataset.py`).

Formats are told apart by their files: `dataset_dict.json` or `state.json` is Hugging Face, `*.inter` RecBole, `u.data`,
`ratings.dat` and `ratings.csv` beside `movies.csv` MovieLens, `behaviors.tsv` MIND, any other CSV, TSV or Parquet file
a table with a column map; JSON lines are Amazon's, Steam's or Goodreads' by the fields of the first line.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from shared.data.column_names import parse_columns
from shared.data.interactions import Order
from shared.data.readers import amazon, goodreads, huggingface, jsonlines, mind, movielens, recbole, steam, tabular
from shared.data.readers.dataset import Dataset, assembled
from shared.data.readers.finding import did_you_mean, missing, nothing_found
from shared.data.readers.modalities import parse_vectors
from shared.data.readers.reading import RawTables
from shared.data.readers.tables import open_table
from shared.data.row_checks import BadRows
from shared.errors import ConfigError, DataError

__all__ = ["FORMATS", "Dataset", "find_reader", "load_dataset", "read_raw"]

FORMATS: Final = ("auto", "recbole", "movielens", "amazon", "mind", "steam", "goodreads", "huggingface", "tabular")
JSON_FORMATS: Final = {"amazon": amazon, "steam": steam, "goodreads": goodreads}
EXPECTED: Final = {
    "recbole": "an .inter file",
    "movielens": "u.data, ratings.dat, or ratings.csv beside movies.csv",
    "tabular": "a .csv, .tsv or .parquet file",
    "mind": "behaviors.tsv",
    "huggingface": "a folder with dataset_dict.json or state.json",
    "amazon": "a .json or .jsonl file of reviews",
    "steam": "a .json file of reviews",
    "goodreads": "a .json file of interactions",
}


def load_dataset(
    source: str | Path,
    *,
    format: str = "auto",
    columns: str = "",
    vectors: str = "",
    order: Order = "time",
    bad_rows: BadRows = "refuse",
) -> Dataset:
    """Loads a data set; what it repaired is counted in `interactions.repairs`.

    Args:
        source: A folder or a file. (public)
        format: One of `FORMATS`; `auto` tells by the files.
        columns: Column map of a table, "user=...,item=...,timestamp=...,text=..."; empty means that
            the usual names are recognized. (public)
        vectors: Files of item vectors, "image=images.npy,audio=audio.parquet". (public)
        order: `file` where each user's rows stand in the order in which they happened; times are then not read.
        bad_rows: `drop` leaves rows out whose ids, time or value cannot be read, and counts them.

    Returns:
        The validated data set.

    Raises:
        ConfigError: If the format is unknown, or a column map is given to a format that needs none.
        DataError: If there is nothing at the path, or it cannot be used; the message says why.
    """
    files = parse_vectors(vectors)
    path = Path(source)
    _, tables = read_raw(path, format=format, columns=columns, vectors=files, order=order, bad_rows=bad_rows)
    try:
        folder = path if path.is_dir() else path.parent
        name = path.name if path.is_dir() and path.name else path.resolve().stem
        return assembled(name, tables, folder, files, order=order, bad_rows=bad_rows)
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}. Check its permissions.") from error


def read_raw(
    path: Path,
    *,
    format: str = "auto",
    columns: str = "",
    vectors: Mapping[str, str] | None = None,
    order: Order = "time",
    bad_rows: BadRows = "refuse",
) -> tuple[str, RawTables]:
    """Finds the reader of a path and lets it read; the rows are as they were found.

    Args:
        path: A folder or a file. (public)
        format: As of `load_dataset`.
        columns: As of `load_dataset`. (public)
        vectors: As of `parse_vectors`; its files are no interactions. (public)
        order: As of `load_dataset`.
        bad_rows: As of `load_dataset`; most formats leave bad rows to `assembled`.

    Returns:
        The format, and its tables; those of users are the file `users.*` beside where the format has none.

    Raises:
        ConfigError: As `load_dataset`.
        DataError: As `load_dataset`.
    """
    mapping = parse_columns(columns)
    found, read = find_reader(path, format=format, columns=columns, vectors=vectors, order=order, bad_rows=bad_rows)
    try:
        tables = read()
        anchor = path / "users" if path.is_dir() else path
        users = tabular.beside(anchor, "users") if tables.users is None else None
        if users is not None:
            roles, repairs = {**tables.roles, users.name: {"user": "user"}}, dict(tables.repairs)
            known = tabular.read_users(open_table(users), mapping, repairs)
            tables = replace(tables, users=known, users_source=users.name, roles=roles, repairs=repairs)
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}. Check its permissions.") from error
    return found, tables


def find_reader(
    path: Path,
    *,
    format: str = "auto",
    columns: str = "",
    vectors: Mapping[str, str] | None = None,
    order: Order = "time",
    bad_rows: BadRows = "refuse",
) -> tuple[str, Callable[[], RawTables]]:
    """Finds the format of the files at a path, and what reads them; reads no more than how they begin.

    Args:
        path: As of `read_raw`. (public)
        format: As of `load_dataset`.
        columns: As of `load_dataset`. (public)
        vectors: As of `read_raw`. (public)
        order: As of `read_raw`.
        bad_rows: As of `read_raw`.

    Raises:
        ConfigError: As `load_dataset`.
        DataError: If there is nothing at the path, or no data set of the format.
    """
    _known(format)
    mapping = parse_columns(columns)
    others = frozenset(Path(file).name for file in (vectors or {}).values())
    try:
        if not path.exists():
            raise missing(path)
        found = _reader(path, format, mapping, others, order, bad_rows)
        if found is None and format == "auto" and (files := jsonlines.files(path)):
            raise _unrecognized(files[0])
        if found is None:
            wanted = EXPECTED.get(format, "; or ".join(EXPECTED.values()))
            raise nothing_found(path, wanted, lambda folder: _holds(folder, format))
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}. Check its permissions.") from error
    return found


def _holds(folder: Path, format: str) -> bool:
    """Whether a folder seems to hold a data set; one with several files of interactions does."""
    try:
        return _reader(folder, format, {}, (), "time", "refuse") is not None
    except (DataError, OSError):
        return True


def _known(format: str) -> None:
    if format not in FORMATS:
        hint = did_you_mean(format, FORMATS, "Leave it out to tell it by the files.")
        raise ConfigError(f"Expected data.format in {{{', '.join(FORMATS)}}}, got data.format={format!r}. {hint}")


def _reader(
    path: Path, format: str, mapping: dict[str, str], others: Collection[str], order: Order, bad_rows: BadRows
) -> tuple[str, Callable[[], RawTables]] | None:
    """The format of the files at a path, and what reads them; None where no format has such files."""
    if format in ("auto", "huggingface") and (folder := huggingface.find(path)) is not None:
        return "huggingface", lambda: huggingface.read(folder, mapping, order)
    if format in ("auto", "recbole") and (file := recbole.find(path)) is not None:
        return "recbole", _without_map(mapping, "RecBole", partial(recbole.read, order=order), file)
    if (format == "movielens" or (format == "auto" and not mapping)) and (file := movielens.find(path)) is not None:
        return "movielens", _without_map(mapping, "MovieLens", partial(movielens.read, order=order), file)
    if (format == "mind" or (format == "auto" and not mapping)) and (file := mind.find(path)) is not None:
        return "mind", _without_map(mapping, "MIND", partial(mind.read, bad_rows=bad_rows), file)
    if format in ("auto", "tabular") and (file := tabular.find(path, others)) is not None:
        return "tabular", lambda: tabular.read(file, mapping, order)
    for name, module in JSON_FORMATS.items():
        if format in ("auto", name) and (file := module.find(path, named=format == name)) is not None:
            return name, _without_map(mapping, name.capitalize(), module.read, file)
    return None


def _without_map(
    mapping: dict[str, str], name: str, read: Callable[[Path], RawTables], file: Path
) -> Callable[[], RawTables]:
    """A reader of files whose columns are fixed: a column map would be ignored; say so instead."""
    if mapping:
        raise ConfigError(f"Expected no data.columns with {name} files, whose columns are fixed. Leave it out.")
    return lambda: read(file)


def _unrecognized(path: Path) -> DataError:
    """The error for JSON whose fields no format has."""
    # Names of fields are not quoted: an object may map ids.
    fields = len(jsonlines.first_fields(path))
    found = f"{fields} others" if fields else "no JSON object in the first line"
    return DataError(
        f"Expected JSON lines with the fields of Amazon's, Steam's or Goodreads' interactions in {path.name}, found "
        f"{found}. Name the format, or convert to CSV and give a column map."
    )
