"""What is known of items beside the files of a format: `modalities.parquet`, and the files of `data.vectors`.

Here live reading them and joining them to the items. Here never live checks on the values, which are
`build_catalog`'s, but for what only the file can say: its number of rows, and where in it the first fault is.

`modalities.parquet` has a column `item` and any of `categories`, `knowledge`, `price` and vectors. Of
`data.vectors`, "image=images.npy,audio=audio.parquet", a `.npy` file has a row an item in the order of the items
file, a Parquet file a column `item` and one column of lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from shared.data.catalog import LABELS, PRICE, build_catalog
from shared.data.readers.columns import described
from shared.data.readers.meeting import few_met, spelling_advice
from shared.data.readers.tables import open_table
from shared.data.typed_columns import as_ids
from shared.errors import ConfigError, DataError
from shared.listing import join_list, split_list

BESIDE: Final = "modalities.parquet"
UNMATCHED: Final = "rows of {name} whose item is unknown (left out)"
RESERVED: Final = ("item", "text", PRICE, *LABELS)


def parse_vectors(vectors: str) -> dict[str, str]:
    """Reads "image=images.npy,audio=audio.parquet"; an empty string is an empty map.

    Raises:
        ConfigError: If a part is not `name=file`, a name is given twice or means something else, or the file is
            neither `.npy` nor `.parquet`.
    """
    found: dict[str, str] = {}
    for part in split_list(vectors, name="data.vectors"):
        name, equals, file = (piece.strip() for piece in part.partition("="))
        if not equals or not name or Path(file).suffix.lower() not in (".npy", ".parquet"):
            raise ConfigError(
                f"Expected data.vectors of the form 'image=images.npy,audio=audio.parquet', got the part {part!r}."
            )
        if name in found or name in RESERVED:
            why = "twice" if name in found else "which is no vector's name"
            raise ConfigError(
                f"Expected each vector of data.vectors under a name of its own, got {name!r}, {why}. Rename it."
            )
        found[name] = file
    return found


@dataclass(eq=False)
class Joined:
    """Items with what is known of them.

    Attributes:
        items: As of `RawTables.items`; None where there are none. (public)
        unmatched: How many rows of a file had an item that is unknown.
        warnings: Files that know few of the items.
    """

    items: pl.DataFrame | None
    unmatched: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def joined(items: pl.DataFrame | None, source: str, met: pl.Series, folder: Path, vectors: Mapping[str, str]) -> Joined:
    """Adds columns to the items; items that only a file beside and the interactions know are added below.

    Args:
        items: As of `RawTables.items`. (public)
        source: Name of the items' file, for messages. (public)
        met: Distinct item ids of the interactions. (private)
        folder: Where the data lie. (public)
        vectors: As of `parse_vectors`. (public)

    Raises:
        DataError: If a file is absent or damaged, none of its items is known, or a column is there already.
    """
    found = Joined(items)
    files = {name: _located(folder, file) for name, file in vectors.items()}
    in_order = {name: path for name, path in files.items() if path.suffix.lower() == ".npy"}
    for name, path in in_order.items():  # before anything adds items below those of the file whose order they have
        found.items = _in_order(found.items, source, name, path)
    if (folder / BESIDE).is_file():
        _merge(found, source, _beside(folder / BESIDE), BESIDE, met)
    for name in (name for name in files if name not in in_order):
        _merge(found, source, _one_vector(files[name], name), files[name].name, met)
    return found


def lasting(vectors: str, folder: Path) -> str:
    """`data.vectors` for whoever reads it from elsewhere: what is not beside the data gets its whole path.

    Args:
        vectors: As of `parse_vectors`.
        folder: Where the data lie.
    """
    parts = []
    for name, file in parse_vectors(vectors).items():
        path = file if (folder / file).is_file() else str(Path(file).resolve())
        parts.append(f"{name}={path}")
    return join_list(parts)


def _located(folder: Path, file: str) -> Path:
    """The file beside the data, or else from where the program was started."""
    path = next((found for found in (folder / file, Path(file)) if found.is_file()), None)
    if path is None:
        raise DataError(f"Expected the file {Path(file).name} of data.vectors beside the data, found none. Check the path.")
    return path


def _beside(path: Path) -> pl.DataFrame:
    """All of `modalities.parquet`."""
    table = open_table(path)
    if "item" not in table.schema:
        raise DataError(f"Expected a column item in {path.name}, found {described(table)}. Name it so.")
    return table.read([name for name in table.schema if name != "text"]).frame.select("item", pl.exclude("item"))


def _one_vector(path: Path, name: str) -> pl.DataFrame:
    """A Parquet file of ids and one column of lists."""
    table = open_table(path)
    lists = [column for column, dtype in table.schema.items() if is_vector(dtype)]
    if "item" not in table.schema or len(lists) != 1:
        raise DataError(
            f"Expected a column item and one column of lists of numbers in {path.name}, found {described(table)}."
        )
    return table.read(["item", *lists]).frame.rename({lists[0]: name})


def is_vector(dtype: pl.DataType) -> bool:
    """Whether a column of that type holds lists of numbers."""
    return isinstance(dtype, pl.List | pl.Array) and bool(dtype.inner.is_numeric())


def _merge(result: Joined, source: str, found: pl.DataFrame, name: str, met: pl.Series) -> None:
    """Joins a table with a column `item`; counts rows without a partner under its file's name, and items without a row."""
    items = result.items
    # The checks of a catalog, made here too because only here the row at fault is a row of this file.
    build_catalog(found.with_columns(pl.lit(None, pl.String).alias("text")), pl.Series(dtype=pl.String), source=name)
    found = found.with_columns(as_ids(found["item"]).alias("item")).drop_nulls("item")
    found = found.unique("item", keep="first", maintain_order=True)
    if items is None:
        listed = pl.DataFrame(schema={"item": pl.String, "text": pl.String})
    else:
        listed = items.with_columns(as_ids(items["item"]).alias("item"))
    # A format has its fields even where nothing is in them.
    listed = listed.select(name for name in listed.columns if name not in found.columns[1:] or _says_something(listed[name]))
    twice = set(found.columns) & set(listed.columns) - {"item"}
    if twice:
        raise DataError(f"Expected {sorted(twice)[0]} of the items once, found it in {source} and {name}. Leave one out.")
    number = pl.col("item").cast(pl.Int64, strict=False)
    others = found.join(listed.select("item"), on="item", how="anti").select("item")
    added = others.filter(pl.col("item").is_in(met.implode())).sort(number, "item", nulls_last=True)
    if found.height == others.height and added.is_empty():
        raise DataError(
            f"Expected ids in {name} that are items of this data set, found none among {found.height}. Are they another's?"
            f"{spelling_advice(found['item'], pl.concat([listed['item'], met]))}"
        )
    if others.height > added.height:
        result.unmatched[UNMATCHED.format(name=name)] = others.height - added.height
    known = found.height - others.height + added.height
    if warning := few_met(known, pl.concat([listed["item"], met]).n_unique(), name=name, of="items of this data set"):
        result.warnings.append(warning)
    result.items = pl.concat([listed, added], how="diagonal").join(found, on="item", how="left", maintain_order="left")


def _says_something(column: pl.Series) -> bool:
    """Whether any item has a value, or a label that is not blank."""
    if column.dtype != pl.List(pl.String):
        return column.null_count() < len(column)
    return bool(column.drop_nulls().explode().str.contains(r"\S").any())


def _in_order(items: pl.DataFrame | None, source: str, name: str, path: Path) -> pl.DataFrame:
    """Adds the rows of a `.npy` file, one an item."""
    try:
        numbers = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError):
        raise DataError(f"Expected an array of numbers in {path.name}, found something else or a part of one.") from None
    if not isinstance(numbers, np.ndarray) or numbers.ndim != 2 or numbers.dtype.kind not in "fiu" or not numbers.shape[1]:
        kind = f"{numbers.ndim} dimensions of {numbers.dtype}" if isinstance(numbers, np.ndarray) else "several arrays"
        raise DataError(f"Expected rows of numbers (2 dimensions) in {path.name}, found {kind}.")
    if items is None:
        raise DataError(
            f"Expected an items file, whose order the rows of {path.name} have, found none. Use Parquet with ids."
        )
    if len(numbers) != items.height:
        raise DataError(f"Expected {items.height} rows in {path.name}, one a row of {source}, found {len(numbers)}.")
    if name in items.columns:
        raise DataError(f"Expected {name} of the items once, found it in {source} and {path.name}. Leave one out.")
    rows = np.asarray(numbers, dtype=np.float32)
    bad = ~np.isfinite(rows).all(axis=1)
    if bad.any():
        raise DataError(
            f"Expected {name} vectors of finite numbers in {path.name}, found {int(bad.sum())} rows with others; "
            f"first at row {int(bad.argmax()) + 1}. Mend them, or give a Parquet file without these items."
        )
    return items.with_columns(pl.Series(name, rows, dtype=pl.Array(pl.Float32, rows.shape[1])))
