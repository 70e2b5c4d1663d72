"""The same recommender for a catalog that has grown: new items are scored from their modalities alone.

What was learned is kept as it is: trained and frozen LoRA tensors are copied, and those with a row or column an item get
zeros for the new ones (`item_head`, `item_embedding`). Means and directions of item vectors are those of the old catalog, so
a score of an old item is what it was. Nothing is known of how popular a new item will be, so it gets the share of an average
item: what it is expected to have. With the median, which is lower, new items hardly surface among all (on the embedded data,
60 of 600 items new, HR@10 among all .012 with the median and .034 with the mean; a random order has .017).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from shared.config import RunConfig
from shared.data.catalog import ItemCatalog
from shared.errors import CheckpointError
from shared.model.recommender import Recommender, build, copy_factors
from shared.model.statistics import text_regression

# Items whose factors say what a new item's are; a system of so many equations takes a second.
_TOLD_BY = 2000


def grown(recommender: Recommender, config: RunConfig, catalog: ItemCatalog) -> Recommender:
    """Builds the recommender for a larger catalog, with all that this one has learned.

    Guarantee:
        Scores of the old items after a history of old items are those of `recommender`, up to rounding.

    Args:
        recommender: For the catalog before; it is not changed.
        config: What it was built with. (public)
        catalog: What `ItemCatalog.grown` gave. (public)

    Raises:
        CheckpointError: If the catalog was not grown from the recommender's own.
    """
    added = catalog.num_items - recommender.num_items
    if not 0 < added <= catalog.num_new_items:
        known = catalog.num_items - catalog.num_new_items
        raise CheckpointError(
            f"Expected the recommender's own catalog of {recommender.num_items} items with new ones behind it, got {known} "
            f"and {catalog.num_new_items} new. Use ItemCatalog.grown."
        )
    larger = build(config, catalog)
    copy_factors(recommender.attached, larger.attached)
    model = larger.attached.model
    model.set_log_prior(_grown_prior(recommender.attached.model.log_prior.cpu().numpy(), added))
    statistics = recommender.attached.model.statistics
    if statistics is not None:
        texts = model.centered_texts.double().cpu().numpy()
        log_prior = recommender.attached.model.log_prior.cpu().numpy()
        factors, directions = (_grown_factors(own, texts, log_prior) for own in (statistics.factors, statistics.directions))
        model.set_statistics(replace(statistics, factors=factors, directions=directions))
    old, new = recommender.attached.residual, larger.attached.residual
    if old is not None and new is not None:
        parts = zip(old.matrices(old.vector), new.matrices(np.zeros(new.size, dtype=np.float32)), strict=True)
        new.load(np.concatenate([_padded(small, large.shape).ravel() for small, large in parts]))
    return larger


def _grown_prior(log_prior: NDArray[np.float32], num_new_items: int) -> NDArray[np.float32]:
    """The prior with the mean share of the old items for each new one.

    It is not normalized anew: a constant changes no ranking, and the old items keep their scores.
    """
    average = np.log(np.exp(log_prior.astype(np.float64)).mean())
    return np.append(log_prior, np.full(num_new_items, average)).astype(np.float32)


def _grown_factors(
    factors: NDArray[np.float32], texts: NDArray[np.float64], log_prior: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The factors of the old items, and for each new one what its text says under the kernel of the pairs.

    Args:
        factors: (I, r).
        texts: (I + new, D) directions of all items' texts.
        log_prior: (I,) of the old items, of which the most popular ones stand for all.
    """
    told = np.argsort(-log_prior, kind="stable")[:_TOLD_BY]
    new = text_regression(texts[told], factors[told].astype(np.float64), texts[len(factors) :])
    return np.concatenate([factors, new.astype(np.float32)])


def _padded(matrix: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    padded = np.zeros(shape, dtype=np.float32)
    padded[tuple(slice(size) for size in matrix.shape)] = matrix
    return padded
