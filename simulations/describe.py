"""What a data set holds and where it may leak: the content of `tacit data describe`.

Here live counts and warnings, as one dictionary that the command line prints or writes as JSON. Here
never lives repair: what is described is what `load_dataset` gave. The result is exact and therefore NOT
PRIVATE; it is for the person who holds the file.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import polars as pl

from shared.data.catalog import LABELS, ONLY_IN_INTERACTIONS, PRICE, WITHOUT_TEXT, ItemCatalog
from shared.data.readers import Dataset
from shared.data.splitting import MINIMUM_HISTORY

CORES: Final = (20, 10, 5)
ORDERED_SHARE: Final = 0.9
ORDERED_PAIRS: Final = 50


def describe(dataset: Dataset) -> dict[str, Any]:
    """Describes a data set.

    Args:
        dataset: What `load_dataset` gave. (private)

    Returns:
        Only JSON types: `name`, `users`, `items`, `interactions`, `density`; `positional`; `time`
        ({"first", "last"} in ISO 8601, UTC, or None on positions); `ties` ({"users", "interactions",
        "share", "users_with_tied_targets", "share_of_users_with_tied_targets"}); `history_length`
        ({"min", "median", "mean", "p90", "max"}); `users_too_short`; `items_without_text`;
        `items_never_interacted`; `items_only_in_interactions`; `modalities` (name to {"kind", "size", "share_of_items"},
        where the size of a vector is its dimensions, of labels how many there are); `user_attributes` (names); `repairs`;
        `ceiling`; `warnings` (sentences). Shares are in [0, 1].
    """
    frame, repairs = dataset.interactions.frame, dataset.interactions.repairs
    lengths = frame.group_by("user").len()["len"].to_numpy().astype(np.int64)
    per_item = frame.group_by("item").len()["len"].to_numpy().astype(np.int64)
    never = dataset.catalog.num_items - len(per_item)
    ties = _ties(frame)
    # A set with a known ceiling was made, not collected: nobody was selected into it.
    made = dataset.ceiling is not None
    warnings = [
        *dataset.warnings,
        *_time_warnings(dataset, ties),
        *([] if made else _selection_warnings(lengths, per_item, never)),
        *_text_warnings(dataset),
    ]
    return {
        "name": dataset.name,
        "users": len(lengths),
        "items": dataset.catalog.num_items,
        "interactions": frame.height,
        "density": frame.height / (len(lengths) * dataset.catalog.num_items),
        "positional": dataset.interactions.positional,
        "time": None if dataset.interactions.positional else _span(frame["timestamp"]),
        "ties": ties,
        "history_length": {
            "min": int(lengths.min()),
            "median": float(np.median(lengths)),
            "mean": float(lengths.mean()),
            "p90": float(np.quantile(lengths, 0.9)),
            "max": int(lengths.max()),
        },
        "users_too_short": int((lengths < MINIMUM_HISTORY).sum()),
        "items_without_text": repairs.get(WITHOUT_TEXT, 0),
        "items_never_interacted": never,
        "items_only_in_interactions": repairs.get(ONLY_IN_INTERACTIONS, 0),
        "modalities": _modalities(dataset.catalog),
        "user_attributes": _attribute_names(dataset),
        "repairs": dict(repairs),
        "ceiling": dataset.ceiling,
        "warnings": warnings,
    }


def _modalities(catalog: ItemCatalog) -> dict[str, Any]:
    """What is known of items beside their texts, of how many of them."""
    found: dict[str, Any] = {}
    for column in catalog.modalities:
        entry: dict[str, Any] = {"kind": "number"}
        if column.name in LABELS:
            entry = {"kind": "labels", "size": column.drop_nulls().explode().n_unique()}
        elif column.name != PRICE:
            entry = {"kind": "vector", "size": column.dtype.shape[0]}  # type: ignore[attr-defined]
        found[column.name] = {**entry, "share_of_items": 1 - column.null_count() / len(column)}
    return found


def _attribute_names(dataset: Dataset) -> list[str]:
    """Names of the user attributes."""
    return [] if dataset.user_attributes is None else [n for n in dataset.user_attributes.columns if n != "user"]


def _span(timestamps: pl.Series) -> dict[str, str | None]:
    """First and last time."""
    return {"first": _iso(timestamps.min()), "last": _iso(timestamps.max())}


def _iso(seconds: Any) -> str | None:
    """A time as ISO 8601; None where the calendar ends before it."""
    try:
        return datetime.fromtimestamp(int(seconds), tz=UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return None


def _ties(frame: pl.DataFrame) -> dict[str, Any]:
    """Interactions that share user and timestamp with another one."""
    groups = frame.group_by("user", "timestamp").len()
    tied = groups.filter(pl.col("len") > 1)
    last = (
        frame.select("user", "timestamp")
        .sort("user", "timestamp")
        .group_by("user", maintain_order=True)
        .agg(pl.col("timestamp").tail(MINIMUM_HISTORY))
        .filter(pl.col("timestamp").list.len() == MINIMUM_HISTORY)
    )
    at_targets = last.filter(pl.col("timestamp").list.n_unique() < MINIMUM_HISTORY).height
    interactions = int(tied["len"].sum())
    return {
        "users": tied["user"].n_unique(),
        "interactions": interactions,
        "share": interactions / frame.height,
        "users_with_tied_targets": at_targets,
        "share_of_users_with_tied_targets": at_targets / max(1, last.height),
    }


def _time_warnings(dataset: Dataset, ties: dict[str, Any]) -> list[str]:
    """Positions, ties at the targets, ties in the order of item ids."""
    frame, warnings = dataset.interactions.frame, []
    if dataset.interactions.positional:
        warnings.append(
            "Times are positions in each history: there is no global temporal split, and leave-last-out may "
            "train on what happened after another user's target."
        )
    if ties["users_with_tied_targets"]:
        warnings.append(
            f"{ties['users_with_tied_targets']} users ({ties['share_of_users_with_tied_targets']:.0%}) have "
            "ties in time among their last three interactions: which one is held out is drawn by the seed, "
            "and results vary with it."
        )
    pairs, ascending = _tied_neighbors(frame)
    if pairs >= ORDERED_PAIRS and ascending >= ORDERED_SHARE:
        warnings.append(
            f"Within ties in time the file is sorted by item id ({ascending:.0%} of neighboring pairs): a "
            "split that keeps the file's order would leak. Tacit draws the order."
        )
    return warnings


def _tied_neighbors(frame: pl.DataFrame) -> tuple[int, float]:
    """Neighbors in file order that are tied in time, and the share whose item ids ascend."""
    number = pl.col("item").cast(pl.Int64, strict=False)
    # Numbers are compared as numbers where all ids are, as rank otherwise.
    numeric = frame.select(number.is_not_null().all()).item()
    rank = (number if numeric else pl.col("item").rank("dense").cast(pl.Int64)).alias("rank")
    ordered = frame.with_columns(rank).sort("user", "timestamp", maintain_order=True)
    tied = (pl.col("user") == pl.col("user").shift()) & (pl.col("timestamp") == pl.col("timestamp").shift())
    steps = ordered.select(tied.alias("tied"), (pl.col("rank") > pl.col("rank").shift()).alias("up"))
    pairs = steps.filter("tied")["up"]
    return len(pairs), float(pairs.cast(pl.Float64).mean() or 0.0)  # type: ignore[arg-type]


def _selection_warnings(lengths: Any, per_item: Any, never: int) -> list[str]:
    """Filters and catalogs that depend on the data."""
    warnings = []
    user_core = next((core for core in CORES if lengths.min() >= core), 0)
    item_core = next((core for core in CORES if per_item.min() >= core), 0)
    if user_core or item_core:
        found = [
            f"every {who} has {core} interactions or more"
            for who, core in (("user", user_core), ("item", item_core))
            if core
        ]
        warnings.append(
            f"{' and '.join(found).capitalize()}: the data look filtered (k-core). Such a filter depends on "
            "everybody's data, the future included; fine for a benchmark, but it supports no privacy claim."
        )
    if never == 0:
        warnings.append(
            "The catalog holds exactly the items interacted with, so it may have been made from them; a "
            "catalog is public only if it exists independently of these users."
        )
    return warnings


def _text_warnings(dataset: Dataset) -> list[str]:
    """Catalog rows that the model cannot read, or that only the interactions know."""
    repairs, warnings = dataset.interactions.repairs, []
    without, only = repairs.get(WITHOUT_TEXT, 0), repairs.get(ONLY_IN_INTERACTIONS, 0)
    if without:
        warnings.append(
            f"{without} of {dataset.catalog.num_items} items have no text; their id stands in for it and says nothing."
        )
    if only:
        warnings.append(
            f"{only} items occur only in the interactions and were added to the catalog, which is then not public."
        )
    return warnings
