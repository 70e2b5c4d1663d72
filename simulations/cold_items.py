"""New items: held out before anything is trained, scored afterwards from their modalities alone.

A share of the catalog, drawn by the seed whatever anybody did with it, is taken out of catalog and interactions before the
split. After the run the released recommender is grown by these items (`shared/model/growth.py`), and for every user who met
one of them, the last such item is ranked: among the new items alone, which says how well texts and other modalities place
what nobody has met, and among all, which says whether a new item can surface at all. The history is what the user did with
known items strictly before. The model may have been trained on what the same user did later; it never met the item.

The numbers are exact and belong to the research record. What never lives here: growing a model, metrics.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shared.config import RunConfig
from shared.data.catalog import ItemCatalog
from shared.data.interactions import Interactions
from shared.errors import ConfigError, DataError
from shared.metrics import EvaluationSums, evaluate_scores, summarize, user_keys, users_at_once
from shared.randomness import derive

if TYPE_CHECKING:
    from shared.data.readers import Dataset
    from shared.model.recommender import Recommender

INTERACTIONS_WITH_NEW_ITEMS = "interactions with items held out as new"


@dataclass(frozen=True, eq=False)
class ColdItems:
    """What was held out.

    Attributes:
        catalog: The new items, C of them. (public)
        targets: One row a user who met one: `user`, `history` (List[Int64], rows of the known catalog in time order, at
            least one) and `target` (Int64, row of `catalog`). (private)
    """

    catalog: ItemCatalog
    targets: pl.DataFrame


def hold_out(dataset: Dataset, *, share: float, seed: int) -> tuple[Dataset, ColdItems]:
    """Takes a share of the items out of a data set.

    Guarantee:
        Which items are new depends on the catalog and the seed alone; no interaction with a new item stays.

    Args:
        dataset: All of it. (private)
        share: Of the items, in (0, 1). (public)
        seed: Draws them. (public)

    Returns:
        The data set without them, and what was held out.

    Raises:
        ConfigError: If the share makes no new item, or leaves none.
        DataError: If nobody met a new item after a known one, or no interaction is left.
    """
    catalog = dataset.catalog
    count = round(share * catalog.num_items)
    if not 0 < count < catalog.num_items:
        raise ConfigError(
            f"Expected evaluation.cold_items to hold out between 1 and {catalog.num_items - 1} items, got {count} of "
            f"{catalog.num_items}. Use a larger share, or 0 for none."
        )
    drawn = derive(seed, "cold items").permutation(catalog.num_items)
    new, known = catalog.take(np.sort(drawn[:count])), catalog.take(np.sort(drawn[count:]))
    frame = dataset.interactions.frame
    is_new = pl.col("item").is_in(pl.Series(new.ids).implode())
    kept = frame.filter(~is_new)
    if kept.is_empty():
        raise DataError("Expected interactions with known items, found none. Use a smaller evaluation.cold_items.")
    repairs = {INTERACTIONS_WITH_NEW_ITEMS: frame.height - kept.height}
    interactions = Interactions(kept, dataset.interactions.positional, dataset.interactions.repairs).with_repairs(repairs)
    # The best that was achievable was so with all items.
    rest = replace(dataset, interactions=interactions, catalog=known, ceiling=None)
    return rest, ColdItems(new, _targets(frame, known, new))


def _targets(frame: pl.DataFrame, known: ItemCatalog, new: ItemCatalog) -> pl.DataFrame:
    """Each user's last new item, and what was met before it."""
    rows = pl.concat(
        [pl.DataFrame({"item": part.ids, "row": np.arange(part.num_items)}) for part in (known, new)]
    ).with_columns(pl.Series("new", [False] * known.num_items + [True] * new.num_items))
    met = frame.join(rows, on="item", how="left", maintain_order="left").sort("user", "timestamp", maintain_order=True)
    # Of ties the one that stands first in the catalog, which says nothing about anybody.
    last = met.filter("new").sort("user", "timestamp", "row", descending=[False, True, False])
    last = last.unique("user", keep="first", maintain_order=True).select("user", "timestamp", target="row")
    before = met.filter(~pl.col("new")).join(last, on="user", suffix="_target")
    before = before.filter(pl.col("timestamp") < pl.col("timestamp_target"))
    histories = before.group_by("user", maintain_order=True).agg(history=pl.col("row"))
    targets = last.join(histories, on="user", maintain_order="left").select("user", "history", "target")
    if targets.is_empty():
        raise DataError(
            "Expected users who met a new item after a known one, found none. Use a larger evaluation.cold_items, or longer "
            "histories."
        )
    return targets


def evaluate_cold_items(recommender: Recommender, config: RunConfig, known: ItemCatalog, cold: ColdItems) -> dict[str, Any]:
    """Ranks each user's new item.

    Args:
        recommender: As released, for the known items. (public)
        config: List length, replicates, seed. (public)
        known: Its catalog. (public)
        cold: New items and targets. (private)

    Returns:
        Only JSON types: `items`, `known_items`, `users`, `k`; `among_new`, `among_new_untrained` (text and other modalities,
        nothing trained) and `among_all`, each name -> {"mean", "low", "high"}; `random`, name -> expected value of a random
        order of the new items. Exact. (private)
    """
    from shared.model.growth import grown

    larger = grown(recommender, config, known.grown(cold.catalog))
    untrained = grown(_untrained(recommender, config, known), config, known.grown(cold.catalog))
    k, count = config.evaluation.k, cold.catalog.num_items
    discounts = 1.0 / np.log2(np.arange(2, min(k, count) + 2))
    return {
        "items": count,
        "known_items": known.num_items,
        "users": cold.targets.height,
        "k": k,
        "among_new": _judged(larger, config, cold, among_all=False),
        "among_new_untrained": _judged(untrained, config, cold, among_all=False),
        "among_all": _judged(larger, config, cold, among_all=True),
        "random": {f"hr@{k}": min(k, count) / count, f"ndcg@{k}": float(discounts.sum()) / count},
    }


def _untrained(recommender: Recommender, config: RunConfig, known: ItemCatalog) -> Recommender:
    from shared.model.recommender import build

    fresh = build(config, known)
    fresh.attached.model.set_log_prior(recommender.attached.model.log_prior.cpu().numpy())
    return fresh


def _judged(recommender: Recommender, config: RunConfig, cold: ColdItems, *, among_all: bool) -> dict[str, Any]:
    """Metrics of the new items' ranks."""
    settings, count = config.evaluation, cold.catalog.num_items
    known = recommender.num_items - count
    parts: list[EvaluationSums] = []
    for batch in cold.targets.iter_slices(users_at_once(recommender.num_items, settings.batch_size)):
        histories = [history.to_numpy() for history in batch["history"]]
        scores = recommender.score(histories)
        targets = batch["target"].to_numpy()
        seen: list[NDArray[np.int64]] = histories if among_all else [np.empty(0, dtype=np.int64)] * len(histories)
        parts.append(
            evaluate_scores(
                scores if among_all else scores[:, known:],
                seen,
                [np.array([target + known if among_all else target]) for target in targets],
                user_keys=user_keys(batch["user"]),
                k=settings.k,
                num_replicates=settings.bootstrap_replicates,
            )
        )
    sums = sum(parts[1:], start=parts[0])
    names = (f"hr@{settings.k}", f"ndcg@{settings.k}")
    summary = summarize(sums, item_popularity=np.ones(len(sums.item_counts)))
    return {name: summary[name] for name in names}
