"""Hugging Face `datasets` on disk, as `save_to_disk` writes them: folders of Arrow streams.

A `DatasetDict` with the splits `interactions`, `items`, `users` holds all that a data set has, with the usual column names
or a column map, and is what Tacit writes. A single `Dataset`, or a dictionary with one split, is a table of interactions.

Here lives the layout. Nothing of the library is needed: polars reads and writes the streams.

Source: Hugging Face `datasets`, `Dataset.save_to_disk`, `DatasetDict.save_to_disk`, `Features.to_dict`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import polars as pl

from shared.data.interactions import Order
from shared.data.readers import tabular
from shared.data.readers.dataset import Dataset
from shared.data.readers.reading import RawTables
from shared.data.readers.tables import STATE, open_arrow, read_json
from shared.data.readers.writing import Written, item_table
from shared.errors import DataError
from shared.files import write_json

SPLITS: Final = "dataset_dict.json"
INFO: Final = "dataset_info.json"
SHARD_ROWS: Final = 5_000_000


def find(path: Path) -> Path | None:
    """Gives the folder, or None where it is none that `save_to_disk` wrote."""
    folder = path.parent if path.name in (SPLITS, STATE, INFO) else path
    return folder if (folder / SPLITS).is_file() or (folder / STATE).is_file() else None


def read(folder: Path, mapping: Mapping[str, str], order: Order = "time") -> RawTables:
    """Reads a data set.

    Args:
        folder: As `find` gave it.
        mapping: What `parse_columns` gave. (public)
        order: As of `Interactions.validated`.

    Raises:
        DataError: If a file is missing or damaged, a column absent, or no split is the interactions.
    """
    if not (folder / SPLITS).is_file():
        return tabular.read_tables(open_arrow(folder), None, mapping, order)
    found = read_json(folder / SPLITS).get("splits")
    splits = [name for name in found if isinstance(name, str) and Path(name).name == name] if isinstance(found, list) else []
    rest = [name for name in splits if name not in tabular.NOT_INTERACTIONS]
    main = "interactions" if "interactions" in rest else rest[0] if len(rest) == 1 else None
    if main is None:
        raise DataError(
            f"Expected a split interactions, or one split, in {folder.name}, found {len(rest)}. Name the folder of one."
        )
    items = open_arrow(folder / "items") if "items" in splits else None
    tables = tabular.read_tables(open_arrow(folder / main), items, mapping, order)
    if "users" not in splits:
        return tables
    users = open_arrow(folder / "users")
    return RawTables(
        **{
            **vars(tables),
            "users": tabular.read_users(users, mapping, {}),
            "users_source": "users",
            "roles": {**tables.roles, "users": {"user": "user"}},
        }
    )


def write(dataset: Dataset, folder: Path, name: str) -> Written:
    """Writes a `DatasetDict` with all that there is."""
    splits = {"interactions": tabular.rows_to_write(dataset), "items": item_table(dataset.catalog, bare=False)}
    if dataset.user_attributes is not None:
        splits["users"] = dataset.user_attributes
    for split, table in splits.items():
        (folder / split).mkdir()
        _write_split(folder / split, split, table)
    write_json(folder / SPLITS, {"splits": list(splits)})
    return Written(frozenset(dataset.catalog.modalities.columns), users=True)


def _write_split(folder: Path, split: str, table: pl.DataFrame) -> None:
    """Writes the shards of one split, and the two files that describe them."""
    shards = list(table.iter_slices(SHARD_ROWS)) or [table]
    names = [f"data-{number:05d}-of-{len(shards):05d}.arrow" for number in range(len(shards))]
    for file, shard in zip(names, shards, strict=True):
        # The oldest level has no string views, which the library's schemas do not know.
        with (folder / file).open("wb") as written:
            shard.write_ipc_stream(written, compat_level=pl.CompatLevel.oldest())
    features = {name: _feature(dtype) for name, dtype in table.schema.items()}
    write_json(folder / INFO, {"citation": "", "description": "", "features": features, "homepage": "", "license": ""})
    state: dict[str, Any] = {
        "_data_files": [{"filename": file} for file in names],
        "_fingerprint": hashlib.sha256(repr(table.schema).encode() + str(table.height).encode()).hexdigest()[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": split,
    }
    write_json(folder / STATE, state)


def _feature(dtype: pl.DataType) -> dict[str, Any]:
    """A type as the library's `Features` name it."""
    if isinstance(dtype, pl.Array):
        return {"feature": _feature(dtype.inner), "length": dtype.size, "_type": "List"}  # type: ignore[arg-type]
    if isinstance(dtype, pl.List):
        return {"feature": _feature(dtype.inner), "_type": "LargeList"}  # type: ignore[arg-type]
    names = {pl.String: "large_string", pl.Int64: "int64", pl.Float64: "float64", pl.Float32: "float32"}
    return {"dtype": names[type(dtype)], "_type": "Value"}
