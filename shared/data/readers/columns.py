"""Which column of a file plays which role: by the user's column map, or by the usual names.

Here lives the choice among the columns that a file has. Here never lives the list of names, or the reading of a map
(`shared/data/column_names.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import polars as pl

from shared.data.column_names import RECOGNIZED, normalized, recognize
from shared.data.interactions import BY_FILE, Order
from shared.data.readers.tables import Table
from shared.data.typed_columns import Use, accepts, is_list, is_text, require_type
from shared.errors import ConfigError, DataError

USES: Final[Mapping[str, Use]] = {
    "user": "ids",
    "item": "ids",
    "timestamp": "times",
    "position": "positions",
    "value": "numbers",
    "text": "text",
    "categories": "labels",
    "price": "numbers",
}
OF_INTERACTIONS: Final = ("user", "item", "timestamp", "position", "value")
# Beside a user, a column "text" or "title" is more often what that user wrote than what the item is.
TEXT_OF_ROWS: Final = ("itemtext", "itemtitle", "itemname", "producttitle", "productname", "movietitle")


def of_interactions(
    table: Table, mapping: Mapping[str, str], *, order: Order = "time", items: Table | None = None
) -> dict[str, str]:
    """Role to column among the interactions: the map first, then recognized names.

    Args:
        table: The interactions. (private)
        mapping: What `parse_columns` gave. (public)
        order: As of `Interactions.validated`; `file` needs no column of times.
        items: The items file; of several columns of item ids, that which it has too is taken.

    Raises:
        ConfigError: If the map names a column of times that the order of the file stands for.
        DataError: If a mapped column is absent, none is found for user, item or time, or one is of a type that cannot be
            read so.
    """
    found = list(table.schema)
    columns: dict[str, str] = {}
    if order == "file" and (timed := {"timestamp", "position"} & mapping.keys()):
        raise ConfigError(f"Expected no {timed.pop()} in data.columns with data.order=file, got one. Leave one of them out.")
    shared_ids = [] if items is None else [name for name in RECOGNIZED["item"] if recognize(list(items.schema), [name])]
    for role in OF_INTERACTIONS if order == "time" else ("user", "item", "value"):
        if role in mapping:
            if mapping[role] not in found:
                raise absent(table, mapping[role])
            columns[role] = mapping[role]
        else:
            free, names = [name for name in found if name not in mapping.values()], RECOGNIZED[role]
            if name := recognize(free, [*(shared_ids if role == "item" else []), *names]):
                columns[role] = name
    if "timestamp" in mapping or ("timestamp" in columns and "position" not in mapping):
        columns.pop("position", None)
    else:
        columns.pop("timestamp", None)
    missing = [role for role in ("user", "item") if role not in columns]
    if order == "time" and "timestamp" not in columns and "position" not in columns:
        missing.append("timestamp")
    if missing:
        raise DataError(
            f"Expected columns for user, item and timestamp in {table.name}, found none for "
            f"{', '.join(missing)} among {described(table)}. "
            "Name them: data.columns = 'user=...,item=...,timestamp=...'."
            f"{f' {BY_FILE}' if missing == ['timestamp'] else ''}"
        )
    for role, name in columns.items():
        dtype = table.schema[name]
        # Lists of all but users are unrolled.
        single = dtype.inner if is_list(dtype) and role != "user" else dtype  # type: ignore[attr-defined]
        if not accepts(USES[role], single):
            require_type(dtype, USES[role], column=name, source=table.name)
    return columns


def of_items(table: Table, mapping: Mapping[str, str]) -> dict[str, str]:
    """Role to column among the items: `item`, and where there are such `text`, `categories`, `price`.

    Raises:
        DataError: If a mapped column is absent, or none is found for the item.
    """
    columns = {"item": owner(table, "item", mapping)}
    for role in ("text", "categories", "price"):
        if role in mapping:
            if mapping[role] not in table.schema:
                raise absent(table, mapping[role])
            columns[role] = mapping[role]
            require_type(table.schema[mapping[role]], USES[role], column=mapping[role], source=table.name)
            continue
        free = [name for name, dtype in table.schema.items() if name not in columns.values() and _may_be(role, dtype)]
        if name := recognize(free, RECOGNIZED[role]):
            columns[role] = name
            require_type(table.schema[name], USES[role], column=name, source=table.name)
    return columns


def owner(table: Table, role: str, mapping: Mapping[str, str]) -> str:
    """The column of ids in an items or users file.

    Raises:
        DataError: If there is none.
    """
    found = list(table.schema)
    name = mapping[role] if mapping.get(role) in found else recognize(found, RECOGNIZED[role])
    if name is None:
        raise DataError(
            f"Expected a column for {role} in {table.name}, found {described(table)}. Name it as in the interactions."
        )
    require_type(table.schema[name], "ids", column=name, source=table.name)
    return name


def absent(table: Table, name: str) -> DataError:
    """The error of a mapped column that is not there."""
    return DataError(f"Expected column {name} in {table.name}, found {described(table)}. Correct data.columns.")


def described(table: Table) -> str:
    """The columns of a table for a message: all names of a typed file, and of a text file those that are usual names.

    A text file may have no header; its first line is then somebody's, and looks like names as often as not.
    """
    found = list(table.schema)
    if table.first_line is None:
        return ", ".join(found[:20]) + (", ..." if len(found) > 20 else "")
    usual = {key for names in RECOGNIZED.values() for key in names} | set(TEXT_OF_ROWS)
    named = [name for name in found if normalized(name) in usual]
    others = len(found) - len(named)
    return ", ".join([*named, *([f"{others} {'other' if named else 'unusual'} names"] if others else [])])


def _may_be(role: str, dtype: pl.DataType) -> bool:
    """Whether a column of that type can be meant by a usual name: a vector called "genre" is no category."""
    if role == "categories":
        return is_text(dtype) or (is_list(dtype) and is_text(dtype.inner))  # type: ignore[attr-defined]
    return not dtype.is_nested()
