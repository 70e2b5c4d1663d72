"""What the writers of all formats share: the items as a table, refusals, JSON lines.

Here live the checks that a format can spell what it shall hold. Here never live layouts. A writer never drops a row:
what its format cannot spell, it refuses with counts, and what its format has no field for, it leaves to `convert.py`,
which puts it into files beside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from shared.data.catalog import CATEGORIES, ItemCatalog
from shared.data.readers.dataset import Dataset
from shared.errors import DataError

# The last second of the year 9999, beyond which no calendar format has a name.
LAST_TIME: Final = 253_402_300_799
CONTROL: Final = r"[\x00-\x1f\x7f]"
_ROWS: Final = 1 << 19


@dataclass(frozen=True)
class Written:
    """What the files of a format hold, so that the rest can be put beside.

    Attributes:
        modalities: Names of the catalog's modalities.
        users: Whether they hold the user attributes.
    """

    modalities: frozenset[str] = frozenset()
    users: bool = False


def item_table(catalog: ItemCatalog, *, bare: bool) -> pl.DataFrame:
    """The catalog as `build_catalog` takes it again: a text that only repeats the id is null.

    Args:
        catalog: The items. (public)
        bare: Leave out the categories at the end of each text, for a format that has a field for them. A text from
            which reading could not make the same one again stays whole.
    """
    table = catalog.table
    if CATEGORIES not in table.columns:
        return table.with_columns(pl.when(pl.col("text") != pl.col("item")).then("text").alias("text"))
    text, words = pl.col("text"), pl.col(CATEGORIES).list.join(" ")
    ending = pl.lit(". ") + words
    head = text.str.strip_suffix(ending)
    same = (head == "") | (head != head.str.strip_chars(" ")) | (head == words) | head.str.ends_with(ending)
    short = pl.when(text == words).then(None).when(text.str.ends_with(ending) & ~same).then(head).otherwise(text)
    without = pl.when(text != pl.col("item")).then(text)
    return table.with_columns(pl.when(words.is_null()).then(without).otherwise(short if bare else text).alias("text"))


def refuse_ids(dataset: Dataset, format: str, *, users: str = CONTROL, items: str = CONTROL, what: str) -> None:
    """Refuses ids that a format cannot spell.

    Args:
        dataset: What shall be written. (private)
        format: Its name, for the message.
        users: Regular expression of what no user id may have.
        items: The same for item ids.
        what: What that is, in words.

    Raises:
        DataError: With the number of ids at fault.
    """
    ids = {"user": (dataset.interactions.frame["user"].unique(), users), "item": (pl.Series(dataset.catalog.ids), items)}
    for name, (column, pattern) in ids.items():
        bad = int(column.str.contains(pattern).sum())
        if bad:
            raise DataError(
                f"Expected {name} ids without {what} for {format} files, found {bad} of {len(column)} with some. "
                "Convert to another format (parquet holds everything)."
            )


def refuse_texts(items: pl.DataFrame, format: str) -> None:
    """Refuses texts with the one character that no text file may have.

    Raises:
        DataError: With their number.
    """
    bad = int(items["text"].str.contains("\0", literal=True).sum())
    if bad:
        raise DataError(
            f"Expected texts without NUL characters for {format} files, found {bad} of {items.height} with some. "
            "Convert to another format (parquet holds everything)."
        )


def refuse_times(dataset: Dataset, format: str, latest: int = LAST_TIME) -> None:
    """Refuses times after the last that a format can spell.

    Raises:
        DataError: With their number.
    """
    times = dataset.interactions.frame["timestamp"]
    bad = int((times > latest).sum())
    if bad:
        raise DataError(
            f"Expected times before the year 10000 for {format} files, found {bad} of {len(times)} later. "
            "Are they milliseconds? Convert to another format (parquet holds everything)."
        )


def spells(labels: pl.Series, pattern: str) -> bool:
    """Whether no label of a List(String) column matches a pattern."""
    return not labels.drop_nulls().explode().str.contains(pattern).any()


def write_json_lines(path: Path, frame: pl.DataFrame, fields: Mapping[str, pl.Expr]) -> None:
    """Writes a JSON object a row, some rows at a time.

    Args:
        path: The file to write.
        frame: The rows.
        fields: Name of each field, in order, and what is in it; null is written as null.
    """
    with path.open("wb") as stream:
        for rows in frame.iter_slices(_ROWS):
            rows.select(value.alias(name) for name, value in fields.items()).write_ndjson(stream)


def write_rows(path: Path, frame: pl.DataFrame, *, separator: str = ",", header: bool = True) -> None:
    """Writes delimited fields; those that need quotation marks get them only where the separator is a comma."""
    with path.open("wb") as stream:  # A path is expanded where it begins with "~".
        frame.write_csv(
            stream,
            separator=separator,
            include_header=header,
            line_terminator="\n",
            quote_style="necessary" if separator == "," else "never",
        )
