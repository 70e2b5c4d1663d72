"""From a path or a name to a validated data set; one module a format.

Here live the choice of the reader and the assembly of what it found. Here never live checks on rows
(`shared/interactions.py`) or on items (`shared/catalog.py`), which every format passes through alike.

Formats are told apart by their files, not by their content: `*.inter` is RecBole, `u.data`,
`ratings.dat` and `ratings.csv` beside `movies.csv` are MovieLens, any other CSV, TSV or Parquet file is
a table with a column map, and the name `synthetic` is the embedded set.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

import polars as pl

from shared.catalog import ItemCatalog, build_catalog
from shared.datasets import movielens, recbole, synthetic, tabular
from shared.datasets.reading import RawTables
from shared.errors import ConfigError, DataError
from shared.interactions import Interactions, looks_positional

DataFormat = Literal["auto", "recbole", "movielens", "tabular", "synthetic"]
FORMATS: Final[tuple[str, ...]] = get_args(DataFormat)
SYNTHETIC: Final = "synthetic"


@dataclass(frozen=True)
class Dataset:
    """A data set as everything downstream sees it.

    Attributes:
        name: Name of the folder or file, or `synthetic`. (public)
        interactions: Who did what when. (private)
        catalog: The items; holds every item of `interactions`. (public)
        user_attributes: Column `user` and further String columns, one row a user at most; None where
            the data set has none. (private)
        ceiling: Best achievable score on the test targets of leave-last-out, where it is known, such
            as {"hr@10": ..., "ndcg@10": ...}.
    """

    name: str
    interactions: Interactions
    catalog: ItemCatalog
    user_attributes: pl.DataFrame | None = None
    ceiling: dict[str, float] | None = None


def load_dataset(path_or_name: str, *, format: str = "auto", columns: str = "", seed: int = 0) -> Dataset:
    """Loads a data set; what it repaired is counted in `interactions.repairs`.

    Args:
        path_or_name: A folder, a file, or `synthetic`. (public)
        format: One of `FORMATS`; `auto` tells by the files.
        columns: Column map of a table, "user=...,item=...,timestamp=...,text=..."; empty means that
            the usual names are recognized. (public)
        seed: Makes the synthetic set; other sets do not depend on it.

    Returns:
        The validated data set.

    Raises:
        ConfigError: If the format is unknown, or a column map is given to a format that needs none.
        DataError: If there is nothing at the path, or it cannot be used; the message says why.
    """
    if format not in FORMATS:
        raise ConfigError(f"Expected data.format in {{{', '.join(FORMATS)}}}, got data.format={format!r}.")
    mapping = tabular.parse_columns(columns)
    if path_or_name == SYNTHETIC or format == "synthetic":
        if path_or_name != SYNTHETIC:
            raise ConfigError(f"Expected data='synthetic' with data.format='synthetic', got data={path_or_name!r}.")
        if format not in ("auto", "synthetic") or mapping:
            raise ConfigError("The synthetic set has one format and no columns to map. Leave both out.")
        return _synthetic(seed)
    path = Path(path_or_name)
    try:
        if not path.exists():
            raise DataError(f"No file or folder at {path}. Give a path, or 'synthetic' for the embedded set.")
        tables = _read(path, format, mapping)
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}. Check its permissions.") from error
    return _assembled(path.name if path.is_dir() and path.name else path.resolve().stem, tables)


def _synthetic(seed: int) -> Dataset:
    """The embedded set in its default size."""
    made = synthetic.generate(seed=seed)
    return Dataset(SYNTHETIC, made.interactions, made.catalog, made.user_attributes, made.ceiling)


def _read(path: Path, format: str, mapping: dict[str, str]) -> RawTables:
    """Finds the reader and lets it read."""
    if format in ("auto", "recbole") and (file := recbole.find(path)) is not None:
        _refuse_mapping(mapping, "RecBole")
        return recbole.read(file)
    if (format == "movielens" or (format == "auto" and not mapping)) and (file := movielens.find(path)) is not None:
        _refuse_mapping(mapping, "MovieLens")
        return movielens.read(file)
    if format in ("auto", "tabular") and (file := tabular.find(path)) is not None:
        return tabular.read(file, mapping)
    expected = {
        "recbole": "an .inter file",
        "movielens": "u.data, ratings.dat, or ratings.csv beside movies.csv",
        "tabular": "a .csv, .tsv or .parquet file",
    }
    wanted = expected.get(format, "; or ".join(expected.values()))
    raise DataError(f"Expected {wanted} at {path}, found none. Check the path, or name the format.")


def _refuse_mapping(mapping: dict[str, str], name: str) -> None:
    """A column map beside fixed names would be ignored; say so instead."""
    if mapping:
        raise ConfigError(f"Expected no data.columns with {name} files, whose columns are fixed. Leave it out.")


def _assembled(name: str, tables: RawTables) -> Dataset:
    """Validates rows, builds the catalog, joins the counts of repairs."""
    interactions = Interactions.validated(
        tables.interactions,
        source=tables.source,
        positional=bool(tables.positional),
        first_line=tables.first_line,
    )
    if tables.positional is None and looks_positional(interactions.frame):
        interactions = Interactions(interactions.frame, True, interactions.repairs)
    catalog, repairs = build_catalog(tables.items, interactions.frame["item"], source=tables.items_source)
    users = tables.users
    if users is not None:
        users = users.cast(pl.String).drop_nulls("user").unique("user", keep="first", maintain_order=True)
    return Dataset(name, interactions.with_repairs(repairs), catalog, users)
