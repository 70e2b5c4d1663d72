"""CSV, TSV and Parquet with a column map.

Here lives finding the files, recognizing the columns, and the column map of the user: one string,
"user=reviewer,item=asin,timestamp=unixReviewTime,text=title", because configuration keys are scalars.
Without a map the usual names are recognized (`RECOGNIZED`), so most files need none. Beside the
interactions an items file (`items.tsv`, `items.csv`, `items.parquet`) gives texts, and a users file
(`users.*`) attributes; a text column among the interactions does as well.

A column called `t` or `position` holds positions, not times. TSV fields are taken as they are; CSV
fields may be quoted.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import polars as pl

from shared.datasets.reading import RawTables, describe_columns, read_bytes, read_delimited
from shared.errors import ConfigError, DataError
from shared.interactions import as_ids

SUFFIXES: Final = (".tsv", ".csv", ".parquet")
INTERACTION_STEMS: Final = ("interactions", "ratings", "reviews", "events", "train")

# Names are compared in lower case without underscores, in this order of preference.
RECOGNIZED: Final[Mapping[str, tuple[str, ...]]] = {
    "user": ("user", "userid", "uid", "reviewerid", "customerid", "visitorid", "accountid"),
    "item": ("item", "itemid", "iid", "asin", "parentasin", "movieid", "productid", "articleid", "sku"),
    "timestamp": ("timestamp", "time", "ts", "unixreviewtime", "unixtime", "datetime", "date", "eventtime"),
    "position": ("t", "position", "pos", "step"),
    "value": ("value", "rating", "overall", "score", "stars"),
    "text": ("text", "itemtext", "title", "itemtitle", "itemname", "productname", "name", "description"),
}


def parse_columns(columns: str) -> dict[str, str]:
    """Reads a column map "user=a,item=b"; an empty string is an empty map.

    Raises:
        ConfigError: If a part is not `key=name`, a key is unknown or given twice, or both `timestamp`
            and `position` are named.
    """
    mapping: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in columns.split(","))):
        key, equals, name = (piece.strip() for piece in part.partition("="))
        if not equals or not key or not name:
            raise ConfigError(f"Expected data.columns of the form 'user=...,item=...,timestamp=...', got the part {part!r}.")
        if key not in RECOGNIZED:
            close = difflib.get_close_matches(key, RECOGNIZED, n=1)
            hint = f"Did you mean '{close[0]}'?" if close else f"Known are {', '.join(RECOGNIZED)}."
            raise ConfigError(f"Unknown key '{key}' in data.columns. {hint}")
        if key in mapping:
            raise ConfigError(f"Expected each key of data.columns once, got '{key}' twice. Keep one.")
        mapping[key] = name
    if {"timestamp", "position"} <= mapping.keys():
        raise ConfigError("Expected timestamp or position in data.columns, got both. Keep one.")
    return mapping


def find(path: Path) -> Path | None:
    """Gives the file of interactions at a path, or None where there is none.

    Raises:
        DataError: If a folder holds several candidates.
    """
    if not path.is_dir():
        return path if path.suffix.lower() in SUFFIXES else None
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
    for stem in INTERACTION_STEMS:
        named = [file for file in files if file.stem.lower() == stem]
        if named:
            return named[0]
    rest = [file for file in files if file.stem.lower() not in ("items", "users")]
    if len(rest) > 1:
        raise DataError(f"Expected one file of interactions in {path}, found {len(rest)}. Name the file itself.")
    return rest[0] if rest else None


def read(path: Path, mapping: Mapping[str, str]) -> RawTables:
    """Reads the data set around one file of interactions.

    Args:
        path: The file of interactions.
        mapping: What `parse_columns` gave. (public)

    Raises:
        DataError: If a file cannot be read or lacks a column.
    """
    table = read_table(path)
    columns = _resolve(path, table.columns, mapping)
    names = {columns["user"]: "user", columns["item"]: "item"}
    positional = "timestamp" not in columns
    names[columns["position" if positional else "timestamp"]] = "timestamp"
    if "value" in columns:
        names[columns["value"]] = "value"
    items_path, users_path = _beside(path, "items"), _beside(path, "users")
    items = None
    if items_path is not None:
        items = _read_items(items_path, mapping)
    elif "text" in columns:
        items = _texts_of_rows(as_ids(table[columns["item"]]), table[columns["text"]].cast(pl.String))
    elif "text" in mapping:
        raise DataError(_absent(path, table.columns, mapping["text"]))
    return RawTables(
        interactions=table.select(pl.col(old).alias(new) for old, new in names.items()),
        source=path.name,
        items=items,
        items_source=path.name if items_path is None else items_path.name,
        users=None if users_path is None else _read_users(users_path, mapping),
        first_line=None if path.suffix.lower() == ".parquet" else 2,
        positional=True if positional else None,
    )


def _texts_of_rows(items: pl.Series, texts: pl.Series) -> pl.DataFrame:
    """One text an item from a column of the interactions: the smallest, whatever the order of rows."""
    number = pl.col("item").cast(pl.Int64, strict=False)
    table = pl.DataFrame({"item": items, "text": texts}).drop_nulls("item")
    return table.group_by("item").agg(pl.col("text").min()).sort(number, "item", nulls_last=True)


def read_table(path: Path) -> pl.DataFrame:
    """Reads CSV and TSV as strings, Parquet as it is typed.

    Raises:
        DataError: If the file cannot be read.
    """
    if path.suffix.lower() == ".parquet":
        data = read_bytes(path)
        try:
            return pl.read_parquet(data)
        except pl.exceptions.PolarsError:
            raise DataError(f"Expected a Parquet file at {path.name}, found something else or a part of one.") from None
    if path.suffix.lower() == ".tsv":
        return read_delimited(path, separator="\t")
    return read_delimited(path, separator=_separator(path), quote='"')


def _separator(path: Path) -> str:
    """Whichever of the usual separators splits the header most, the comma where none does."""
    header = read_bytes(path).split(b"\n", 1)[0]
    return max((",", ";", "\t", "|"), key=lambda separator: header.count(separator.encode()))


def _key(name: str) -> str:
    """A column name as it is compared."""
    return name.strip().lower().replace("_", "").replace("-", "").replace(" ", "")


def _recognize(found: Sequence[str], role: str) -> str | None:
    """The column that plays a role, by its name."""
    by_key = {_key(name): name for name in reversed(found)}
    return next((by_key[name] for name in RECOGNIZED[role] if name in by_key), None)


def _resolve(path: Path, found: Sequence[str], mapping: Mapping[str, str]) -> dict[str, str]:
    """Which column plays which role among the interactions: the map first, then recognized names."""
    columns: dict[str, str] = {}
    for role in RECOGNIZED:
        if role in mapping:
            if mapping[role] in found:
                columns[role] = mapping[role]
            elif role != "text":
                raise DataError(_absent(path, found, mapping[role]))
        elif name := _recognize([name for name in found if name not in mapping.values()], role):
            columns[role] = name
    if "timestamp" in mapping or ("timestamp" in columns and "position" not in mapping):
        columns.pop("position", None)
    else:
        columns.pop("timestamp", None)
    missing = [role for role in ("user", "item") if role not in columns]
    if "timestamp" not in columns and "position" not in columns:
        missing.append("timestamp")
    if missing:
        raise DataError(
            f"Expected columns for user, item and timestamp in {path.name}, found none for "
            f"{', '.join(missing)} among {describe_columns(found)}. "
            "Name them: data.columns = 'user=...,item=...,timestamp=...'."
        )
    return columns


def _absent(path: Path, found: Sequence[str], name: str) -> str:
    """The message for a mapped column that is not there."""
    return f"Expected column {name} in {path.name}, found {describe_columns(found)}. Correct data.columns."


def _beside(path: Path, stem: str) -> Path | None:
    """The file of that stem in the same folder."""
    candidates = (path.with_name(stem + suffix) for suffix in SUFFIXES)
    return next((file for file in candidates if file != path and file.exists()), None)


def _read_items(path: Path, mapping: Mapping[str, str]) -> pl.DataFrame:
    """Reads the items file; its text is null where it has no column for it."""
    table = read_table(path)
    item = mapping["item"] if mapping.get("item") in table.columns else _recognize(table.columns, "item")
    if item is None:
        raise DataError(
            f"Expected a column for item in {path.name}, found {describe_columns(table.columns)}. "
            "Name it as in the interactions."
        )
    text = mapping.get("text")
    if text is not None and text not in table.columns:
        raise DataError(_absent(path, table.columns, text))
    text = text or _recognize([name for name in table.columns if name != item], "text")
    value = pl.lit(None, pl.String) if text is None else pl.col(text).cast(pl.String)
    return table.select(pl.col(item).alias("item"), value.alias("text"))


def _read_users(path: Path, mapping: Mapping[str, str]) -> pl.DataFrame:
    """Reads the users file."""
    table = read_table(path)
    user = mapping["user"] if mapping.get("user") in table.columns else _recognize(table.columns, "user")
    if user is None:
        raise DataError(
            f"Expected a column for user in {path.name}, found {describe_columns(table.columns)}. "
            "Name it as in the interactions."
        )
    return table.rename({user: "user"})
