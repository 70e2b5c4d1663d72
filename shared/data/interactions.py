"""Where data enters: the one validated table of interactions.

Here lives `Interactions` and every check on its rows. Here never live file formats (`shared/data/readers/`),
item texts (`shared/data/catalog.py`) or the choice of what is trained on (`shared/data/splitting.py`).

One place, because a check that two readers repeat is a check that a third one forgets. A reader hands
over columns as it found them, strings included; casting them is validation, so it happens here, where
the row number of a violation is still known. Messages count violations and locate the first one; they
never quote it, since a row is somebody's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import numpy as np
import polars as pl

from shared.data.lines import Lines, Rows
from shared.data.row_checks import BadRows, RowChecks
from shared.data.times import READ, as_seconds, whole_numbers
from shared.data.typed_columns import Use, as_ids, as_numbers, as_texts, is_text, require_type
from shared.errors import DataError

Order = Literal["time", "file"]

REQUIRED_COLUMNS: Final = ("user", "item", "timestamp")
EXACT_DUPLICATES: Final = "exact duplicates dropped"
BAD_IDS: Final = "rows whose {name} id is empty or cannot be read (left out)"
BAD_TIMES: Final = "rows whose time cannot be read (left out)"
BAD_VALUES: Final = "rows whose value is no number (left out)"
BY_FILE: Final = "Where each user's rows stand in the order in which they happened, say so: data.order=file (--order file)."
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
        lines: Lines | Rows | None = _BELOW_A_HEADER,
        order: Order = "time",
        bad_rows: BadRows = "refuse",
    ) -> Interactions:
        """Checks and casts a raw table; the only way an `Interactions` comes to be from outside.

        Args:
            frame: Columns `user`, `item`, `timestamp` and optionally `value`, of any type that can be
                read as such: numbers as strings, ids as integers, times as datetimes or as texts in the usual
                notations. Further columns are left out. (private)
            source: Name of the file, for messages. (public)
            positional: Whether `timestamp` is a position instead of a time.
            lines: Lines of the rows, for messages; None where the file has rows but no lines (Parquet).
            order: `file` says that the rows of each user stand in the order in which they happened; their positions
                then take the place of `timestamp`, which need not be there.
            bad_rows: `drop` leaves rows out whose ids, time or value cannot be read, and counts them in `repairs`.

        Returns:
            The table without exact duplicates, which are counted in `repairs`. Fractions of a second
            are cut off.

        Raises:
            DataError: If a column is missing or of a type that cannot be read so, the table is empty, a user or item id is
                empty, a timestamp is no time from 1970 on, or a value is not a number; with `drop`, if that is so of more
                than half of the rows.
        """
        required = REQUIRED_COLUMNS if order == "time" else REQUIRED_COLUMNS[:2]
        missing = [name for name in required if name not in frame.columns]
        if missing:
            raise DataError(
                f"Expected columns {', '.join(required)} in {source}, found no {', '.join(missing)}. "
                f"Name them with a column map.{f' {BY_FILE}' * (missing == ['timestamp'])}"
            )
        if frame.is_empty():
            raise DataError(f"Expected at least one interaction in {source}, found 0. Is it the right file?")
        uses: dict[str, Use] = {"user": "ids", "item": "ids"}
        if order == "time":
            uses["timestamp"] = "positions" if positional else "times"
        if "value" in frame.columns:
            uses["value"] = "numbers"
        for name, use in uses.items():
            require_type(frame.schema[name], use, column=name, source=source)
        checks = RowChecks(frame.height, source=source, lines=lines, bad_rows=bad_rows)
        columns = [_ids(frame["user"], "user", checks), _ids(frame["item"], "item", checks)]
        finer: dict[str, int] = {}
        if order == "time":
            times, finer = _times(frame["timestamp"], source, checks, positional=positional)
            columns.append(times)
        if "value" in frame.columns:
            columns.append(_values(frame["value"], checks))
            if columns[-1].null_count() == frame.height:
                columns.pop()
        table = checks.keep(pl.DataFrame(columns))
        if order == "file":
            table = _in_file_order(table)
        unique = _distinct(table)
        repairs = {**checks.repairs, **finer, EXACT_DUPLICATES: table.height - unique.height}
        return cls(unique, positional or order == "file").with_repairs(repairs)

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


def _ids(column: pl.Series, name: str, checks: RowChecks) -> pl.Series:
    """Reads a column as ids, none of them empty."""
    ids = as_ids(column).alias(name)
    expected, advice = f"{name} ids that are not empty", ""
    if column.dtype == pl.Binary:
        expected, advice = f"{expected} and UTF-8", "Write them as text."
    elif column.dtype.is_float():
        expected, advice = f"{expected} and that a float holds exactly", "Write them as whole numbers or text."
    checks.require(ids.is_not_null(), expected, dropped=BAD_IDS.format(name=name), advice=advice)
    return ids


def _times(column: pl.Series, source: str, checks: RowChecks, *, positional: bool) -> tuple[pl.Series, dict[str, int]]:
    """Reads a column as whole seconds (or positions) >= 0."""
    finer: dict[str, int] = {}
    if positional:
        numbers = whole_numbers(column if column.dtype.is_numeric() else as_texts(column))
        checks.require(numbers >= 0, "positions that are numbers >= 0", dropped=BAD_TIMES)
    else:
        numbers, finer = as_seconds(column, source=source)
        checks.require(numbers >= 0, "timestamps from 1970 on", dropped=BAD_TIMES, advice=READ)
    return numbers.alias("timestamp"), finer


def _values(column: pl.Series, checks: RowChecks) -> pl.Series:
    """Reads a column as numbers; empty cells stay null."""
    values = as_numbers(column)
    good = values.is_finite().fill_null(False) | column.is_null()
    if is_text(column.dtype):
        good |= (as_texts(column).str.strip_chars() == "").fill_null(False)
    checks.require(good, "values that are finite numbers or empty", dropped=BAD_VALUES)
    return values.alias("value")


def _in_file_order(table: pl.DataFrame) -> pl.DataFrame:
    """Each row's position among the rows of its user, from 0, as `timestamp`."""
    position = pl.int_range(pl.len(), dtype=pl.Int64).over("user").alias("timestamp")
    return table.with_columns(position).select("user", "item", "timestamp", pl.exclude("user", "item", "timestamp"))


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
