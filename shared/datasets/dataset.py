"""What every reader's tables become and every writer starts from: the one canonical form of a data set.

Here live `Dataset` and its assembly: rows validated, catalog built, files beside joined. Here never live formats.

Canonical means that reading, writing in any format and reading again gives the same: an empty attribute is a
missing one, a column without any value is no column, and what a format has no field for lies beside it in
`modalities.parquet` and `users.parquet`, which are joined to whatever format they lie beside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from shared.catalog import ItemCatalog, build_catalog
from shared.datasets import modalities
from shared.datasets.reading import RawTables
from shared.interactions import Interactions, looks_positional
from shared.typed_columns import as_ids


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


def assembled(name: str, tables: RawTables, folder: Path, vectors: Mapping[str, str]) -> Dataset:
    """Validates rows, joins what lies beside, builds the catalog, adds up the counts of repairs.

    Args:
        name: Of the data set. (public)
        tables: What a reader found; its user attributes are used as they are. (private)
        folder: Where `modalities.parquet` and the files of `vectors` may lie. (public)
        vectors: Vector name to file name, as of `data.vectors`. (public)

    Raises:
        DataError: If any of it cannot be used.
    """
    interactions = Interactions.validated(
        tables.interactions,
        source=tables.source,
        positional=bool(tables.positional),
        lines=tables.lines,
    )
    if tables.positional is None and looks_positional(interactions.frame):
        interactions = Interactions(interactions.frame, True, interactions.repairs)
    met = interactions.frame["item"].unique()
    items, unmatched = modalities.joined(tables.items, tables.items_source, met, folder, vectors)
    catalog, repairs = build_catalog(items, met, source=tables.items_source or modalities.BESIDE)
    known = [column.name for column in catalog.modalities if column.null_count() < len(column)]
    catalog = ItemCatalog(catalog.ids, catalog.texts, catalog.modalities.select(known) if known else pl.DataFrame())
    interactions = interactions.with_repairs(tables.repairs).with_repairs(repairs).with_repairs(unmatched)
    return Dataset(name, interactions, catalog, _attributes(tables.users))


def _attributes(users: pl.DataFrame | None) -> pl.DataFrame | None:
    """One row a user, strings without blanks around them, null where empty."""
    if users is None:
        return None
    columns = [as_ids(users["user"])]
    for name in users.columns:
        if name != "user":
            columns.append(users[name].cast(pl.String).str.strip_chars().replace("", None))
    return pl.DataFrame(columns).drop_nulls("user").unique("user", keep="first", maintain_order=True)
