"""The items: ids, rows, texts and other modalities. Public information only.

Here lives `ItemCatalog`, which fixes which row of every item matrix is which item, and how it is made
from an items file and the interactions. Here never live counts, ratings or anything else about users.

The order of rows is that of the items file, then of the ids found only in interactions, sorted (numbers
as numbers). It never follows the order in which items occur in the interactions: that order is a
function of private data and would travel with every adapter.

A text ends with the item's categories, whatever the format said: a text encoder reads them as words, and a
catalog that is written in one format and read in another stays the same, since nothing is added twice.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shared.data.parquet import NotParquetError, parquet_metadata, read_parquet
from shared.data.typed_columns import Use, as_ids, as_labels, as_numbers, as_texts, is_text, require_type, type_name
from shared.errors import DataError
from shared.files import write_atomically

WITHOUT_TEXT: Final = "items without text (id used as text)"
ONLY_IN_INTERACTIONS: Final = "items absent from the items file (added to the catalog)"
REPEATED_ITEMS: Final = "repeated rows of the items file dropped"
UNREADABLE_PRICES: Final = "prices that are no number >= 0 (left out)"

_NEW_ITEMS: Final = "tacit-new-items"

CATEGORIES: Final = "categories"
KNOWLEDGE: Final = "knowledge"
PRICE: Final = "price"
# What a modality may be; every other column is a precomputed vector.
LABELS: Final = (CATEGORIES, KNOWLEDGE)


@dataclass(frozen=True, eq=False)
class ItemCatalog:
    """The items that can be recommended, in the order of the rows of every item matrix. (public)

    Attributes:
        ids: Item ids, distinct; row r of every (I, ...) matrix is the item `ids[r]`.
        texts: What the backbone reads about each item, never empty.
        modalities: What else is known, a row an item, any of: `categories` and `knowledge` (List[String]; the
            latter are facts such as "genre: western" that are in no text), `price` (Float64, >= 0), and precomputed
            vectors under names of their own (Array[Float32, D]). Null where it is not known of an item.
        num_new_items: How many of the last rows were added after training (`grown`).
    """

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    modalities: pl.DataFrame = field(default_factory=pl.DataFrame)
    num_new_items: int = 0

    def __post_init__(self) -> None:
        """Refuses a catalog that cannot index a matrix."""
        if not self.ids:
            raise DataError("Expected at least one item in the catalog, found 0. Is the items file empty?")
        if len(self.texts) != len(self.ids):
            raise DataError(f"Expected one text an item, got {len(self.texts)} texts, {len(self.ids)} items.")
        if len(set(self.ids)) != len(self.ids):
            repeated = len(self.ids) - len(set(self.ids))
            raise DataError(f"Expected distinct item ids in the catalog, found {repeated} repeated.")
        if self.modalities.width and self.modalities.height != len(self.ids):
            raise DataError(
                f"Expected one row of modalities an item, got {self.modalities.height} rows, {len(self.ids)} items."
            )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ItemCatalog) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def num_items(self) -> int:
        """I, the number of items, >= 1."""
        return len(self.ids)

    @cached_property
    def digest(self) -> str:
        """The sha256 over ids, texts and modalities in row order, as 64 hex digits."""
        new = [self.num_new_items] if self.num_new_items else []
        canonical = json.dumps([self.ids, self.texts, *new], ensure_ascii=False, separators=(",", ":"))
        found = hashlib.sha256(canonical.encode("utf-8", "surrogatepass"))
        for column in self.modalities.select(sorted(self.modalities.columns)):
            found.update(f"|{column.name}|{column.dtype}|".encode())
            if column.name in LABELS:
                found.update(json.dumps(column.to_list(), ensure_ascii=False).encode("utf-8", "surrogatepass"))
            else:
                found.update(column.is_null().to_numpy().tobytes())
                found.update(_numbers(column).tobytes())
        return found.hexdigest()

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Row of each item id, in [0, I)."""
        return {item: row for row, item in enumerate(self.ids)}

    @property
    def vector_names(self) -> tuple[str, ...]:
        """Names of the precomputed vectors, sorted."""
        return tuple(sorted(name for name in self.modalities.columns if name not in (*LABELS, PRICE)))

    def vectors(self, name: str) -> NDArray[np.float32]:
        """One of the precomputed vectors, (I, D) float32; rows of NaN where an item has none."""
        return _numbers(self.modalities[name])

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> ItemCatalog:
        """Some of the items, in the order of `rows`."""
        chosen = [int(row) for row in rows]
        modalities = self.modalities[chosen] if self.modalities.width else self.modalities
        return ItemCatalog(tuple(self.ids[row] for row in chosen), tuple(self.texts[row] for row in chosen), modalities)

    def grown(self, new: ItemCatalog) -> ItemCatalog:
        """Appends new items; rows of the old ones stay what they were, and so do the modalities: what this catalog does not
        have is left out, what the new items lack is missing.

        Raises:
            DataError: If an id is already in the catalog, or a vector has another size.
        """
        parts = [self.modalities]
        if self.modalities.width:
            columns = []
            for name, dtype in self.modalities.schema.items():
                if name not in new.modalities.columns:
                    columns.append(pl.Series(name, [None] * new.num_items, dtype=dtype))
                    continue
                column = new.modalities[name]
                if column.dtype != dtype:
                    raise DataError(
                        f"Expected {name} of the new items to be {type_name(dtype)}, got {type_name(column.dtype)}. Use the "
                        "same source."
                    )
                columns.append(column)
            parts.append(pl.DataFrame(columns))
        count = self.num_new_items + new.num_items
        return ItemCatalog((*self.ids, *new.ids), (*self.texts, *new.texts), pl.concat(parts), count)

    def grown_to(self, found: ItemCatalog) -> ItemCatalog:
        """This catalog with the items behind it that another one has besides; what was known of an item stays.

        Args:
            found: A later catalog of the same items and more.

        Raises:
            DataError: If an item is not there, or vectors have another size.
        """
        lacking = len(self.row_of.keys() - found.row_of.keys())
        if lacking:
            raise DataError(
                f"Expected grown data with all {self.num_items} items of the run that is continued, found {lacking} "
                "missing. Give the data that the run was made from, with what came since; an items file keeps items that "
                "nobody uses."
            )
        new = [row for row, item in enumerate(found.ids) if item not in self.row_of]
        return self.grown(found.take(new)) if new else self

    @property
    def table(self) -> pl.DataFrame:
        """One row an item: `item`, `text` and the modalities."""
        return pl.DataFrame({"item": self.ids, "text": self.texts}).hstack(self.modalities)

    def save(self, path: Path) -> None:
        """Writes `table` as Parquet, atomically; how many items are new is in the file's metadata."""
        metadata = {_NEW_ITEMS: str(self.num_new_items)}
        write_atomically(path, lambda stream: self.table.write_parquet(stream, metadata=metadata))

    @classmethod
    def load(cls, path: Path) -> ItemCatalog:
        """Reads what `save` wrote.

        Raises:
            DataError: If the file is missing, damaged, or not a catalog.
        """
        try:
            table = read_parquet(path)
        except FileNotFoundError as error:
            raise DataError(f"No item catalog at {path}.") from error
        except (OSError, NotParquetError) as error:
            raise DataError(f"The item catalog {path} is damaged or no Parquet file. Write it again.") from error
        if table.columns[:2] != ["item", "text"] or table.dtypes[:2] != [pl.String, pl.String]:
            found = ", ".join(table.columns)
            raise DataError(f"Expected columns item, text in {path}, found {found}.")
        new = int(parquet_metadata(path).get(_NEW_ITEMS, 0))
        return cls(tuple(table["item"].to_list()), tuple(table["text"].to_list()), table.drop("item", "text"), new)


def build_catalog(items: pl.DataFrame | None, interacted: pl.Series, *, source: str) -> tuple[ItemCatalog, dict[str, int]]:
    """Makes the catalog from the items file and the items met in interactions.

    Args:
        items: In file order: columns `item` and `text` (String, null or blank where there is none), and any of
            `categories` and `knowledge` (List[String]), `price` (numbers, or strings such as "$9.99"), and vectors (lists or
            arrays of numbers) under other names; None where the data set has no items file. (public)
        interacted: Item ids of the interactions, in any order, repeats allowed. (private; with an
            items file that is complete, the result does not depend on it)
        source: Name of the items file, for messages. (public)

    Returns:
        The catalog, and the counts of what was repaired: items without text, items only in the
        interactions, repeated rows, prices that say nothing.

    Raises:
        DataError: If the items file has no row, or a row without id, or vectors of unequal sizes or with NaN.
    """
    repairs: dict[str, int] = {}
    nothing = pl.DataFrame(schema={"item": pl.String, "text": pl.String})
    known = nothing if items is None else _listed(items, source, repairs)
    rows = known.unique("item", keep="first", maintain_order=True)
    number = pl.col("item").cast(pl.Int64, strict=False)
    extra = (
        interacted.unique()
        .alias("item")
        .to_frame()
        .join(rows, on="item", how="anti")
        .sort(number, "item", nulls_last=True)
        .select("item")
    )
    table = pl.concat([rows, extra], how="diagonal")
    without = table["text"].is_null()
    texts = table["text"].fill_null(table["item"])
    modalities = table.drop("item", "text")
    catalog = ItemCatalog(tuple(table["item"].to_list()), tuple(texts.to_list()), modalities)
    return catalog, {
        REPEATED_ITEMS: known.height - rows.height,
        ONLY_IN_INTERACTIONS: 0 if items is None else extra.height,
        WITHOUT_TEXT: int(without.sum()),
        **repairs,
    }


def _listed(items: pl.DataFrame, source: str, repairs: dict[str, int]) -> pl.DataFrame:
    """Cleans the items file: blanks around ids and runs of them in texts go, an empty text becomes null."""
    if items.is_empty():
        raise DataError(f"Expected at least one item in {source}, found 0. An empty catalog has nothing to recommend.")
    uses: dict[str, Use] = {"item": "ids", "text": "text", CATEGORIES: "labels", KNOWLEDGE: "labels", PRICE: "numbers"}
    for name, use in uses.items():
        if name in items.columns:
            require_type(items.schema[name], use, column=name, source=source)
    columns = [as_ids(items["item"]).alias("item"), _one_line(as_texts(items["text"]))]
    empty = columns[0].null_count()
    if empty:
        raise DataError(
            f"Expected item ids that are not empty and exact in {source}, found {empty} others. Write them as text, or "
            "leave these rows out with data.bad_rows=drop."
        )
    for name in sorted(set(items.columns) - {"item", "text"}):
        if name in LABELS:
            columns.append(_labels(items[name]))
        elif name == PRICE:
            columns.append(_prices(items[name], repairs))
        else:
            columns.append(_vectors(items[name], source))
    table = pl.DataFrame(columns)
    if CATEGORIES not in table.columns:
        return table
    words = pl.col(CATEGORIES).list.join(" ")
    ended = pl.col("text").eq(words) | pl.col("text").str.ends_with(pl.lit(". ") + words)
    text = pl.when(words.is_null() | ended.fill_null(False)).then("text")
    return table.with_columns(text.otherwise(pl.concat_str("text", words, separator=". ", ignore_nulls=True)).alias("text"))


def _one_line(texts: pl.Series) -> pl.Series:
    """Any run of white space is one blank: no format has to quote a text, and a text encoder sees no difference."""
    return texts.str.replace_all(r"\s+", " ").str.strip_chars(" ").replace("", None)


def _labels(column: pl.Series) -> pl.Series:
    """Each item's distinct labels in the order given; null where there is none."""
    rows = pl.DataFrame({"label": as_labels(column)}).with_row_index("row")
    flat = rows.explode("label")
    flat = flat.with_columns(_one_line(flat["label"])).drop_nulls("label")
    kept = flat.unique(maintain_order=True).group_by("row", maintain_order=True).agg("label")
    return rows.select("row").join(kept, on="row", how="left", maintain_order="left")["label"].alias(column.name)


def _prices(column: pl.Series, repairs: dict[str, int]) -> pl.Series:
    """Prices as numbers >= 0; a currency sign and commas between thousands are left out, a range says nothing."""
    given = column.is_not_null()
    if is_text(column.dtype):
        column = as_texts(column).str.strip_chars()
        given &= (column != "").fill_null(True)
        column = column.str.replace(r"^(US)?[$€£]\s*", "").str.replace_all(",", "")
    numbers = as_numbers(column)
    good = numbers.is_finite() & (numbers >= 0)
    unreadable = int((given & ~good.fill_null(False)).sum())
    if unreadable:
        repairs[UNREADABLE_PRICES] = unreadable
    return pl.DataFrame({PRICE: numbers}).select(pl.when(good).then(PRICE).alias(PRICE)).to_series()


def _vectors(column: pl.Series, source: str) -> pl.Series:
    """Precomputed vectors as arrays of one size; null where an item has none.

    Raises:
        DataError: If it holds something else, sizes differ, or a number is NaN or infinite.
    """
    if not isinstance(column.dtype, pl.List | pl.Array) or not column.dtype.inner.is_numeric():
        raise DataError(
            f"Expected {column.name} to hold lists of numbers in {source}, found {type_name(column.dtype)}. Leave it out."
        )
    lists = column.cast(pl.List(pl.Float32))
    sizes = lists.list.len()
    usual = sizes.drop_nulls().mode().sort(descending=True)
    size = int(usual[0]) if len(usual) else 0
    whole = lists.list.eval(pl.element().is_finite().fill_null(False)).list.all()
    bad = (lists.is_not_null() & ((sizes != size) | ~whole)).fill_null(False)
    count = int(bad.sum())
    if count or not size:
        place = f"; first at row {int(bad.arg_max() or 0) + 1}" if count else ""
        raise DataError(
            f"Expected {column.name} vectors of {max(size, 1)} finite numbers each in {source}, found {count or 'no'} "
            f"others{place}. Mend them, or leave out the vectors of these items."
        )
    return lists.cast(pl.Array(pl.Float32, size))


def _numbers(column: pl.Series) -> NDArray[np.float32]:
    """Numbers or arrays as float32, NaN where null."""
    if not isinstance(column.dtype, pl.Array):
        found: NDArray[np.float32] = column.cast(pl.Float32).fill_null(math.nan).to_numpy()
        return found
    numbers = np.full((len(column), column.dtype.size), math.nan, dtype=np.float32)
    known = column.is_not_null().to_numpy()
    numbers[known] = column.drop_nulls().explode().to_numpy().reshape(-1, column.dtype.size)
    return numbers
