"""The items: ids, rows and texts. Public information only.

Here lives `ItemCatalog`, which fixes which row of every item matrix is which item, and how it is made
from an items file and the interactions. Here never live counts, ratings or anything else about users.

The order of rows is that of the items file, then of the ids found only in interactions, sorted (numbers
as numbers). It never follows the order in which items occur in the interactions: that order is a
function of private data and would travel with every adapter.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import polars as pl

from shared.errors import DataError
from shared.files import write_atomically
from shared.interactions import as_ids

WITHOUT_TEXT: Final = "items without text (id used as text)"
ONLY_IN_INTERACTIONS: Final = "items absent from the items file (added to the catalog)"
REPEATED_ITEMS: Final = "repeated rows of the items file dropped"


@dataclass(frozen=True)
class ItemCatalog:
    """The items that can be recommended, in the order of the rows of every item matrix. (public)

    Attributes:
        ids: Item ids, distinct; row r of every (I, ...) matrix is the item `ids[r]`.
        texts: What the backbone reads about each item, never empty.
    """

    ids: tuple[str, ...]
    texts: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuses a catalog that cannot index a matrix."""
        if not self.ids:
            raise DataError("Expected at least one item in the catalog, found 0. Is the items file empty?")
        if len(self.texts) != len(self.ids):
            raise DataError(f"Expected one text an item, got {len(self.texts)} texts, {len(self.ids)} items.")
        if len(set(self.ids)) != len(self.ids):
            repeated = len(self.ids) - len(set(self.ids))
            raise DataError(f"Expected distinct item ids in the catalog, found {repeated} repeated.")

    @property
    def num_items(self) -> int:
        """I, the number of items, >= 1."""
        return len(self.ids)

    @cached_property
    def digest(self) -> str:
        """The sha256 over ids and texts in row order, as 64 hex digits."""
        canonical = json.dumps([self.ids, self.texts], ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Row of each item id, in [0, I)."""
        return {item: row for row, item in enumerate(self.ids)}

    def grown(self, ids: Sequence[str], texts: Sequence[str]) -> ItemCatalog:
        """Appends new items; rows of the old ones stay what they were.

        Raises:
            DataError: If an id is already in the catalog, or there is not one text an id.
        """
        return ItemCatalog((*self.ids, *ids), (*self.texts, *texts))

    def save(self, path: Path) -> None:
        """Writes the catalog as Parquet (`item`, `text`), atomically."""
        table = pl.DataFrame({"item": self.ids, "text": self.texts})
        write_atomically(path, table.write_parquet)

    @classmethod
    def load(cls, path: Path) -> ItemCatalog:
        """Reads what `save` wrote.

        Raises:
            DataError: If the file is missing, damaged, or not a catalog.
        """
        try:
            table = pl.read_parquet(path)
        except FileNotFoundError as error:
            raise DataError(f"No item catalog at {path}.") from error
        except (OSError, pl.exceptions.PolarsError) as error:
            raise DataError(f"The item catalog {path} is damaged or no Parquet file. Write it again.") from error
        if table.columns != ["item", "text"] or table.dtypes != [pl.String, pl.String]:
            found = ", ".join(table.columns)
            raise DataError(f"Expected columns item, text in {path}, found {found}.")
        return cls(tuple(table["item"].to_list()), tuple(table["text"].to_list()))


def build_catalog(items: pl.DataFrame | None, interacted: pl.Series, *, source: str) -> tuple[ItemCatalog, dict[str, int]]:
    """Makes the catalog from the items file and the items met in interactions.

    Args:
        items: Columns `item` and `text` (String, null or blank where there is none) in file order, or
            None where the data set has no items file. (public)
        interacted: Item ids of the interactions, in any order, repeats allowed. (private; with an
            items file that is complete, the result does not depend on it)
        source: Name of the items file, for messages. (public)

    Returns:
        The catalog, and the counts of what was repaired: items without text, items only in the
        interactions, repeated rows.

    Raises:
        DataError: If the items file has no row, or a row without id.
    """
    known = pl.DataFrame(schema={"item": pl.String, "text": pl.String}) if items is None else _listed(items, source)
    rows = known.unique("item", keep="first", maintain_order=True)
    number = pl.col("item").cast(pl.Int64, strict=False)
    extra = (
        interacted.unique()
        .alias("item")
        .to_frame()
        .join(rows, on="item", how="anti")
        .sort(number, "item", nulls_last=True)
        .select("item", pl.lit(None, pl.String).alias("text"))
    )
    table = pl.concat([rows, extra])
    without = table["text"].is_null()
    texts = table["text"].fill_null(table["item"])
    catalog = ItemCatalog(tuple(table["item"].to_list()), tuple(texts.to_list()))
    return catalog, {
        REPEATED_ITEMS: known.height - rows.height,
        ONLY_IN_INTERACTIONS: 0 if items is None else extra.height,
        WITHOUT_TEXT: int(without.sum()),
    }


def _listed(items: pl.DataFrame, source: str) -> pl.DataFrame:
    """Cleans the items file: blanks around ids and texts go, an empty text becomes null."""
    if items.is_empty():
        raise DataError(f"Expected at least one item in {source}, found 0. An empty catalog has nothing to recommend.")
    texts = items["text"].cast(pl.String).str.strip_chars().replace("", None)
    cleaned = pl.DataFrame({"item": as_ids(items["item"]), "text": texts})
    empty = cleaned["item"].null_count()
    if empty:
        raise DataError(f"Expected item ids that are not empty in {source}, found {empty} empty.")
    return cleaned
