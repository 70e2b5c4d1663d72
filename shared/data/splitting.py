"""What is trained on and what is held out: no future in training.

Here lives the split of interactions into the HISTORIES TABLE, the one form in which histories flow
through Tacit: one row a user, sorted by user, columns `user` String and `train`, `validation`, `test`
List[Int32] of catalog rows in time order. Every user of the table has a training history; `validation`
and `test` hold one target or none. To score the validation target the history is `train`; to score the
test target it is `train` followed by `validation` (`scoring_histories`). Here never live padding
(`shared/data/sequences.py`) or metrics.

Ties in time are drawn. Where a user's interactions share a timestamp (in MovieLens-100K nearly every
user has some), the data do not say which came last. Sorting them by item id makes the held-out item the
one with the largest id, and since ids follow popularity or release date, a model learns the id and not
the user. File order is no better in general: many published files are sorted by item within a user. So
the order among ties is a keyed hash of (seed, user, item): uniform, the same on every machine and for
every order of rows, and another one for another seed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import polars as pl

from shared.data.catalog import ItemCatalog
from shared.data.interactions import Interactions
from shared.errors import ConfigError, DataError
from shared.keyed_hash import keyed_hash, mixed

SplitMethod = Literal["leave-last-out", "global-temporal"]

HISTORY_COLUMNS: Final = ("train", "validation", "test")
HISTORIES_SCHEMA: Final = pl.Schema({"user": pl.String(), **{name: pl.List(pl.Int32()) for name in HISTORY_COLUMNS}})

MINIMUM_HISTORY: Final = 3
CUT_OFFS_PERCENT: Final = (80, 90)

TOO_SHORT: Final = "users too short to split (train only)"
NO_TRAINING: Final = "users without interactions before the first cut-off (left out)"
NO_TRAINING_ROWS: Final = "interactions of users left out"
NO_TARGET: Final = "users without interactions after the first cut-off (train only)"
NOT_TARGET: Final = "held-out interactions after a window's first (dropped)"


@dataclass(frozen=True)
class SplitResult:
    """A split and what it had to leave aside.

    Attributes:
        histories: The HISTORIES TABLE (see the module's docstring). (private)
        repairs: In words, to how many users or interactions it happened.
    """

    histories: pl.DataFrame
    repairs: dict[str, int]


def split(
    interactions: Interactions,
    catalog: ItemCatalog,
    *,
    method: SplitMethod,
    seed: int,
    cut_offs: tuple[int, int] | None = None,
) -> SplitResult:
    """Splits interactions into training histories and held-out targets.

    `leave-last-out`: a user's last interaction is the test target, the one before it the validation
    target, the rest trains. A user with fewer than three interactions is train only. A global clock is
    not kept: one user's training may be later than another's test.

    `global-temporal`: two cut-offs, declared or at the 0.8 and 0.9 quantiles of all times; equal times always fall on
    the same, later side of a cut-off. What happened before the first trains. A user's first interaction
    in [first cut-off, second) is the validation target, the first one at or after the second cut-off is
    the test target. All further interactions in these two windows are dropped and counted, from targets
    and histories alike, so that there is one target a user and split, and nothing that happened after a
    target is input to its score. A user without training interactions has no history to score from and
    is left out of the table.

    Guarantee:
        No training interaction of a user is later than the user's validation target, no validation
        target later than the test target; under `global-temporal` every training time of every user
        lies before every validation time, and that before every test time. The result depends on the
        set of rows, not on their order, and on the order among ties only through `seed`.

    Args:
        interactions: The population's data. (private)
        catalog: Holds every item of `interactions`. (public)
        method: Which split.
        seed: Keys the draw among ties. Any integer.
        cut_offs: Where validation and test begin under `global-temporal`, seconds since 1970. Declared ones make a user's
            row of the table a function of that user's rows alone; quantiles are a function of everybody's. (public)

    Returns:
        The HISTORIES TABLE and what was left aside.

    Raises:
        ConfigError: If the method is unknown, or `global-temporal` meets positions instead of times.
        DataError: If an item is not in the catalog, or no user is left with a target.
    """
    if method == "global-temporal" and interactions.positional:
        raise ConfigError(
            "Expected timestamps that are times for split='global-temporal', got positions in each history, "
            "which cannot be compared between users. Use split='leave-last-out'."
        )
    found = histories_of(interactions.frame, catalog, method=method, seed=seed, cut_offs=cut_offs)
    if not found.histories.select(pl.concat_list("validation", "test").list.len().sum()).item():
        raise _nothing_held_out(method, users=found.histories.height)
    return found


def histories_of(
    frame: pl.DataFrame, catalog: ItemCatalog, *, method: SplitMethod, seed: int, cut_offs: tuple[int, int] | None = None
) -> SplitResult:
    """The same for whoever is there: nobody, or users without a target.

    A node that refused too few interactions would show that it has few.

    Guarantee:
        As of `split`, which gives the same table. With declared cut-offs, or under `leave-last-out`, the row of a user is
        the same whoever else is in the table.

    Args:
        frame: Columns `user`, `item` and `timestamp` of an `Interactions.frame`; it may be empty. (private)
        catalog: As of `split`. (public)
        method: As of `split`.
        seed: As of `split`.
        cut_offs: As of `split`. (public)

    Raises:
        ConfigError: If the method is unknown.
        DataError: If an item is not in the catalog.
    """
    if method not in ("leave-last-out", "global-temporal"):
        raise ConfigError(f"Expected split in {{leave-last-out, global-temporal}}, got split={method!r}. Choose one.")
    if frame.is_empty():
        return SplitResult(pl.DataFrame(schema=HISTORIES_SCHEMA), {})
    ordered = _in_time_order(frame, catalog, seed)
    if method == "leave-last-out":
        return _leave_last_out(ordered)
    return _global_temporal(ordered, cut_offs or _quantiles(ordered["timestamp"]))


def scoring_histories(histories: pl.DataFrame, target: Literal["validation", "test"]) -> pl.Series:
    """Gives what a model may know when it ranks a target.

    Guarantee:
        The result holds nothing that happened after the target.

    Args:
        histories: A HISTORIES TABLE. (private)
        target: Which target is ranked.

    Returns:
        A List[Int32] series named `history`, aligned with the rows of `histories`: `train`, and for
        the test target followed by `validation`. (private)
    """
    if target == "validation":
        return histories["train"].alias("history")
    return histories.select(pl.concat_list("train", "validation").alias("history"))["history"]


def _in_time_order(frame: pl.DataFrame, catalog: ItemCatalog, seed: int) -> pl.DataFrame:
    """Sorts by (user, time, draw) and replaces item ids by catalog rows (`row`, Int32)."""
    rows = pl.DataFrame(
        {"item": catalog.ids, "row": np.arange(catalog.num_items, dtype=np.int32)},
        schema_overrides={"row": pl.Int32},
    )
    joined = frame.select("user", "item", "timestamp").join(rows, on="item", how="left")
    unknown = joined["row"].null_count()
    if unknown:
        raise DataError(
            f"Expected every item in the catalog, found {unknown} interactions with an item outside it. "
            "Use the catalog that was loaded with them."
        )
    draw = _tie_draws(joined["user"], joined["item"], seed)
    return joined.with_columns(draw).sort("user", "timestamp", "draw").select("user", "timestamp", "row")


def _nothing_held_out(method: SplitMethod, *, users: int) -> DataError:
    """The error of a split that leaves nobody with a target."""
    if method == "leave-last-out":
        return DataError(
            f"Expected at least one user with {MINIMUM_HISTORY} interactions or more, found 0 of "
            f"{users} users. There is nothing to hold out."
        )
    return DataError(
        "Expected at least one user with interactions on both sides of the first cut-off in time, "
        "found 0. Use split='leave-last-out', or other data.cut_offs."
    )


def _leave_last_out(ordered: pl.DataFrame) -> SplitResult:
    """Last interaction to test, the one before to validation."""
    users = ordered.group_by("user", maintain_order=True).agg("row")
    count = pl.col("row").list.len().cast(pl.Int64)
    held_out = pl.when(count >= MINIMUM_HISTORY).then(1).otherwise(0)
    table = users.select(
        "user",
        pl.col("row").list.slice(0, count - 2 * held_out).alias("train"),
        pl.col("row").list.slice(count - 2 * held_out, held_out).alias("validation"),
        pl.col("row").list.slice(count - held_out, held_out).alias("test"),
    )
    short = int((table["test"].list.len() == 0).sum())
    return SplitResult(_checked(table), {TOO_SHORT: short} if short else {})


def _quantiles(times: pl.Series) -> tuple[int, int]:
    """Cut-offs at quantiles of all users' times."""
    ordered = times.sort()
    first, second = (int(ordered[len(ordered) * percent // 100]) for percent in CUT_OFFS_PERCENT)
    return first, second


def _global_temporal(ordered: pl.DataFrame, cut_offs: tuple[int, int]) -> SplitResult:
    """The first interaction of each window is the target."""
    first_cut, second_cut = cut_offs
    time = pl.col("timestamp")
    middle = (time >= first_cut) & (time < second_cut)
    users = ordered.group_by("user", maintain_order=True).agg(
        pl.col("row").filter(time < first_cut).alias("train"),
        pl.col("row").filter(middle).head(1).alias("validation"),
        pl.col("row").filter(time >= second_cut).head(1).alias("test"),
        pl.len().alias("count").cast(pl.Int64),
    )
    without = pl.col("train").list.len() == 0
    left_out = users.filter(without)
    kept = users.filter(~without)
    table = kept.select("user", *HISTORY_COLUMNS)
    sizes = kept.select(pl.col(name).list.len().cast(pl.Int64) for name in HISTORY_COLUMNS)
    train_only = int(((sizes["validation"] == 0) & (sizes["test"] == 0)).sum())
    used = sum(int(sizes[name].sum()) for name in HISTORY_COLUMNS)
    repairs = {
        NO_TRAINING: left_out.height,
        NO_TRAINING_ROWS: int(left_out["count"].sum()),
        NO_TARGET: train_only,
        NOT_TARGET: int(kept["count"].sum()) - used,
    }
    return SplitResult(_checked(table), {name: count for name, count in repairs.items() if count})


def _checked(table: pl.DataFrame) -> pl.DataFrame:
    """Casts to the exact schema of the HISTORIES TABLE."""
    return table.cast(dict(HISTORIES_SCHEMA))  # type: ignore[arg-type]


def _tie_draws(users: pl.Series, items: pl.Series, seed: int) -> pl.Series:
    """A uniform 64-bit number for each (user, item), a pure function of them and the seed."""
    key = hashlib.blake2b(str(seed).encode(), digest_size=32, person=b"tacit-ties").digest()
    left = keyed_hash(users, key=key, person=b"user")
    right = keyed_hash(items, key=key, person=b"item")
    return pl.Series("draw", mixed(left + mixed(right)), dtype=pl.UInt64)
