"""The usual names of columns, and the map that says them for a file with other names.

A map is one string, "user=reviewer,item=asin,timestamp=unixReviewTime,text=title", because configuration keys are
scalars. Without a map the usual names are recognized (`RECOGNIZED`), so most files need none.

Here never lives a file: which of its columns is taken, and whether its type will do.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Final

from shared.errors import ConfigError
from shared.listing import split_list

# Names are compared in lower case without underscores, in this order of preference.
RECOGNIZED: Final[Mapping[str, tuple[str, ...]]] = {
    "user": ("user", "userid", "uid", "reviewerid", "customerid", "visitorid", "accountid"),
    "item": ("item", "itemid", "iid", "parentasin", "asin", "movieid", "productid", "articleid", "sku"),
    "timestamp": ("timestamp", "time", "ts", "unixreviewtime", "unixtime", "datetime", "date", "eventtime"),
    "position": ("t", "position", "pos", "step"),
    "value": ("value", "rating", "overall", "score", "stars"),
    "text": ("text", "itemtext", "title", "itemtitle", "itemname", "productname", "name", "description"),
    "categories": ("categories", "category", "genres", "genre"),
    "price": ("price",),
}


def parse_columns(columns: str, *, name: str = "data.columns") -> dict[str, str]:
    """Reads a column map "user=a,item=b"; an empty string is an empty map.

    Args:
        columns: The map.
        name: What the map is called in an error.

    Raises:
        ConfigError: If a part is not `key=name`, a key is unknown or given twice, or both `timestamp`
            and `position` are named.
    """
    mapping: dict[str, str] = {}
    for part in split_list(columns, name=name):
        key, equals, column = (piece.strip() for piece in part.partition("="))
        if not equals or not key or not column:
            raise ConfigError(f"Expected {name} of the form 'user=...,item=...,timestamp=...', got the part {part!r}.")
        if key not in RECOGNIZED:
            close = difflib.get_close_matches(key, RECOGNIZED, n=1)
            hint = f"Did you mean '{close[0]}'?" if close else f"Known are {', '.join(RECOGNIZED)}."
            raise ConfigError(f"Unknown key '{key}' in {name}. {hint}")
        if key in mapping:
            raise ConfigError(f"Expected each key of {name} once, got '{key}' twice. Keep one.")
        mapping[key] = column
    if {"timestamp", "position"} <= mapping.keys():
        raise ConfigError(f"Expected timestamp or position in {name}, got both. Keep one.")
    return mapping


def recognize(found: Sequence[str], names: Sequence[str]) -> str | None:
    """The first of `names` that is among the columns found, as it is spelled there."""
    by_key = {normalized(name): name for name in reversed(found)}
    return next((by_key[name] for name in names if name in by_key), None)


def normalized(name: str) -> str:
    """A column name as it is compared."""
    return name.strip().lower().replace("_", "").replace("-", "").replace(" ", "")
