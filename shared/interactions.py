"""Where data enters: the one validated table of interactions.

Here lives `Interactions` and every check on its rows. Here never live file formats (`shared/datasets/`),
item texts (`shared/catalog.py`) or the choice of what is trained on (`shared/splitting.py`).

One place, because a check that two readers repeat is a check that a third one forgets. A reader hands
over columns as it found them, strings included; casting them is validation, so it happens here, where
the row number of a violation is still known. Messages count violations and locate the first one; they
never quote it, since a row is somebody's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import polars as pl

from shared.errors import DataError
from shared.lines import Lines, place

REQUIRED_COLUMNS: Final = ("user", "item", "timestamp")
EXACT_DUPLICATES: Final = "exact duplicates dropped"
_BELOW_A_HEADER: Final = Lines()


@dataclass(frozen=True)
class Interactions:
    """The validated interactions of a population. (private)

    Attributes:
        frame: One row an interaction, in file order: `user` String, `item` String, `timestamp` Int64
            (seconds since 1970, or a position where `positional`), and where any row has one `value`
            Float64 (a rating, a count; null where missing). No user, item or timestamp is null or
            empty, no timestamp negative, no two rows equal. (private)
        positional: Whether `timestamp` is a position in the user's own history. Positions of two users
            cannot be compared, so there is no global temporal split.
        repairs: What was repaired, in words, to how many rows or items it happened.
    """

    frame: pl.DataFrame
    positional: bool = False
    repairs: dict[str, int] = field(default_factory=dict)

    @classmethod
    def validated(
        cls,
        frame: pl.DataFrame,
        *,
        source: str,
        positional: bool = False,
        lines: Lines | None = _BELOW_A_HEADER,
    ) -> Interactions:
        """Checks and casts a raw table; the only way an `Interactions` comes to be from outside.

        Args:
            frame: Columns `user`, `item`, `timestamp` and optionally `value`, of any type that can be
                read as such: numbers as strings, ids as integers, times as datetimes. Further columns
                are left out. (private)
            source: Name of the file, for messages. (public)
            positional: Whether `timestamp` is a position instead of a time.
            lines: Lines of the rows, for messages; None where the file has rows but no lines (Parquet).

        Returns:
            The table without exact duplicates, which are counted in `repairs`. Fractions of a second
            are cut off.

        Raises:
            DataError: If a column is missing, the table is empty, a user or item id is empty, a
                timestamp is not a number >= 0, or a value is not a number.
        """
        missing = [name for name in REQUIRED_COLUMNS if name not in frame.columns]
        if missing:
            raise DataError(
                f"Expected columns {', '.join(REQUIRED_COLUMNS)} in {source}, found no {', '.join(missing)}. "
                "Name them with a column map."
            )
        if frame.is_empty():
            raise DataError(f"Expected at least one interaction in {source}, found 0. Is it the right file?")
        columns = [
            _ids(frame["user"], "user", source, lines),
            _ids(frame["item"], "item", source, lines),
            _times(frame["timestamp"], source, lines),
        ]
        if "value" in frame.columns:
            columns.append(_values(frame["value"], source, lines))
            if columns[-1].null_count() == frame.height:
                columns.pop()
        unique = _distinct(pl.DataFrame(columns))
        dropped = frame.height - unique.height
        return cls(unique, positional, {EXACT_DUPLICATES: dropped} if dropped else {})

    @property
    def num_interactions(self) -> int:
        """Number of rows, >= 1."""
        return self.frame.height

    @property
    def num_users(self) -> int:
        """Number of distinct users, >= 1."""
        return int(self.frame["user"].n_unique())

    def with_repairs(self, repairs: Mapping[str, int]) -> Interactions:
        """Adds counts of repairs made elsewhere (the catalog's, for instance); zero counts are left out."""
        merged = dict(self.repairs)
        for name, count in repairs.items():
            if count:
                merged[name] = merged.get(name, 0) + count
        return replace(self, repairs=merged)


def looks_positional(frame: pl.DataFrame) -> bool:
    """Says whether timestamps are positions: consecutive integers from 0 or 1 in every user's history.

    A column called `timestamp` may hold positions, and a global temporal split on them would be
    nonsense that nobody notices. Real times never look like this for every one of several users.

    Args:
        frame: Columns `user` and `timestamp`, the latter of an integer type. (private)

    Returns:
        True only if it holds for every user, there are at least two of them, and at least one has
        three interactions or more.
    """
    # Positions count from 0 or 1 and are fewer than rows; most times are told from them without looking at users.
    low, high = frame["timestamp"].min(), frame["timestamp"].max()
    if low not in (0, 1) or not isinstance(high, int) or high > frame.height:
        return False
    users = frame.group_by("user").agg(
        pl.col("timestamp").min().alias("low"),
        pl.col("timestamp").max().alias("high"),
        pl.col("timestamp").n_unique().alias("distinct"),
        pl.len().alias("count"),
    )
    if users.height < 2 or int(users["count"].cast(pl.Int64).max() or 0) < 3:  # type: ignore[arg-type]
        return False
    consecutive = (
        (pl.col("distinct") == pl.col("count"))
        & (pl.col("high") - pl.col("low") == pl.col("count").cast(pl.Int64) - 1)
        & pl.col("low").is_in([0, 1])
    )
    return bool(users.select(consecutive.all()).item())


def as_ids(column: pl.Series) -> pl.Series:
    """Reads a column of any type as ids, so that one item is spelled alike in every file.

    Integers in a float column lose the `.0`; blanks around strings go; an empty id becomes null.
    """
    if column.dtype.is_float() and bool((column.drop_nulls() % 1 == 0).all()):
        column = column.cast(pl.Int64)
    ids = column.cast(pl.String)
    # Most files have neither; 25 million ids are then not copied.
    if ids.str.contains(r"^\s|\s$").any():
        ids = ids.str.strip_chars()
    return ids.replace("", None) if (ids == "").any() else ids


def _ids(column: pl.Series, name: str, source: str, lines: Lines | None) -> pl.Series:
    """Reads a column as ids, none of them empty."""
    ids = as_ids(column).alias(name)
    _refuse(ids.is_null(), f"{name} ids that are not empty", source, lines)
    return ids


def _times(column: pl.Series, source: str, lines: Lines | None) -> pl.Series:
    """Reads a column as whole seconds (or positions) >= 0."""
    if column.dtype in (pl.Date, pl.Datetime):
        seconds = column.cast(pl.Datetime("us")).dt.epoch("s")
    elif column.dtype == pl.String:
        stripped = column.str.strip_chars()
        whole = stripped.cast(pl.Int64, strict=False)
        seconds = whole.fill_null(_floor(stripped.cast(pl.Float64, strict=False)))
    elif column.dtype.is_float():
        seconds = _floor(column)
    else:
        seconds = column.cast(pl.Int64, strict=False)
    bad = (seconds.is_null() | (seconds < 0)).fill_null(True)
    _refuse(bad, "timestamps that are numbers >= 0", source, lines)
    return seconds.cast(pl.Int64).alias("timestamp")


def _floor(column: pl.Series) -> pl.Series:
    """Rounds down; what is not a finite number becomes null."""
    return column.cast(pl.Float64).floor().cast(pl.Int64, strict=False)


def _values(column: pl.Series, source: str, lines: Lines | None) -> pl.Series:
    """Reads a column as numbers; empty cells stay null."""
    if column.dtype == pl.String:
        column = column.str.strip_chars().replace("", None)
    values = column.cast(pl.Float64, strict=False)
    bad = values.is_null() & column.is_not_null() | ~values.is_finite().fill_null(True)
    _refuse(bad, "values that are finite numbers or empty", source, lines)
    return values.alias("value")


def _distinct(table: pl.DataFrame) -> pl.DataFrame:
    """Leaves out rows that equal an earlier one; the order stays.

    Only rows whose 64-bit hash occurs twice are compared, since comparing all columns of 25 million rows takes
    several times the memory of the table.
    """
    hashes = table.hash_rows()
    ordered = np.sort(hashes.to_numpy())
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered
    if not len(repeated):
        return table
    suspects = hashes.is_in(pl.Series(repeated, dtype=pl.UInt64).implode())
    index = "row in the table"
    first = table.with_row_index(index).filter(suspects).unique(table.columns, keep="first", maintain_order=True)[index]
    keep = (~suspects).to_numpy().copy()
    keep[first.to_numpy()] = True
    return table.filter(pl.Series(keep))


def _refuse(bad: pl.Series, expected: str, source: str, lines: Lines | None) -> None:
    """Raises where any row is bad, with their number and the place of the first one."""
    count = int(bad.sum())
    if count:
        row = int(bad.arg_max() or 0)
        plural = "violation" if count == 1 else "violations"
        raise DataError(f"Expected {expected} in {source}, found {count} {plural}; first at {place(row, lines)}.")
