"""What every reader's tables become and every writer starts from: the one canonical form of a data set.

Here live `Dataset` and its assembly: rows validated, catalog built, files beside joined. Here never live formats.

Canonical means that reading, writing in any format and reading again gives the same: an empty attribute is a
missing one, a column without any value is no column, and what a format has no field for lies beside it in
`modalities.parquet` and `users.parquet`, which are joined to whatever format they lie beside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import polars as pl

from shared.data.catalog import ItemCatalog, build_catalog
from shared.data.interactions import Interactions, Order, looks_positional
from shared.data.readers import modalities
from shared.data.readers.meeting import require_meeting
from shared.data.readers.reading import RawTables
from shared.data.row_checks import BadRows
from shared.data.typed_columns import as_ids, as_texts

NAMELESS: Final = "rows of {name} whose item id is empty or cannot be read (left out)"


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
        warnings: What about the files is not wrong but likely not meant, in sentences. (private)
    """

    name: str
    interactions: Interactions
    catalog: ItemCatalog
    user_attributes: pl.DataFrame | None = None
    ceiling: dict[str, float] | None = None
    warnings: tuple[str, ...] = ()


def assembled(
    name: str,
    tables: RawTables,
    folder: Path,
    vectors: Mapping[str, str],
    *,
    order: Order = "time",
    bad_rows: BadRows = "refuse",
    whole: bool = True,
) -> Dataset:
    """Validates rows, joins what lies beside, builds the catalog, adds up the counts of repairs.

    Args:
        name: Of the data set. (public)
        tables: What a reader found; its user attributes are used as they are. (private)
        folder: Where `modalities.parquet` and the files of `vectors` may lie. (public)
        vectors: Vector name to file name, as of `data.vectors`. (public)
        order: As of `Interactions.validated`.
        bad_rows: As of `Interactions.validated`; items without id are rows too.
        whole: Whether the files were read whole; the heads of two files need not know each other.

    Raises:
        DataError: If any of it cannot be used, or a file about items or users is another data set's.
    """
    interactions = Interactions.validated(
        tables.interactions,
        source=tables.source,
        positional=bool(tables.positional),
        lines=tables.lines,
        order=order,
        bad_rows=bad_rows,
    )
    if tables.positional is None and looks_positional(interactions.frame):
        interactions = Interactions(interactions.frame, True, interactions.repairs)
    met = interactions.frame["item"].unique()
    tables, nameless = _with_ids(tables) if bad_rows == "drop" else (tables, {})
    beside = modalities.joined(tables.items, tables.items_source, met, folder, vectors)
    catalog, repairs = build_catalog(beside.items, met, source=tables.items_source or modalities.BESIDE)
    warnings = (*_meetings(tables, met, interactions, whole=whole), *(beside.warnings if whole else ()))
    known = [column.name for column in catalog.modalities if column.null_count() < len(column)]
    catalog = ItemCatalog(catalog.ids, catalog.texts, catalog.modalities.select(known) if known else pl.DataFrame())
    interactions = interactions.with_repairs(tables.repairs).with_repairs(repairs).with_repairs(beside.unmatched)
    interactions = interactions.with_repairs(nameless)
    return Dataset(name, interactions, catalog, _attributes(tables.users), warnings=warnings)


def _with_ids(tables: RawTables) -> tuple[RawTables, dict[str, int]]:
    """Leaves out rows of the items file whose id is empty or cannot be read; says how many."""
    if tables.items is None:
        return tables, {}
    good = as_ids(tables.items["item"]).is_not_null()
    left_out = len(good) - int(good.sum())
    if not left_out:
        return tables, {}
    return replace(tables, items=tables.items.filter(good)), {NAMELESS.format(name=tables.items_source): left_out}


def _meetings(tables: RawTables, met: pl.Series, interactions: Interactions, *, whole: bool) -> tuple[str, ...]:
    """Compares the files about items and users with the items and users of the interactions; gives warnings.

    Raises:
        DataError: If one knows none of them.
    """
    found = []
    if tables.items is not None:
        ids = as_ids(tables.items["item"])
        found.append(require_meeting(ids, met, name=tables.items_source, source=tables.source, what="item", whole=whole))
    if tables.users is not None:
        ids, users = as_ids(tables.users["user"]), interactions.frame["user"].unique()
        found.append(require_meeting(ids, users, name=tables.users_source, source=tables.source, what="user", whole=whole))
    return tuple(filter(None, found))


def _attributes(users: pl.DataFrame | None) -> pl.DataFrame | None:
    """One row a user, strings without blanks around them, null where empty."""
    if users is None:
        return None
    columns = [as_ids(users["user"])]
    for name in users.columns:
        if name != "user":
            columns.append(as_texts(users[name]).str.strip_chars().replace("", None))
    return pl.DataFrame(columns).drop_nulls("user").unique("user", keep="first", maintain_order=True)
