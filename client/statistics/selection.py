"""Which recommender is released: how much better each candidate ranks users' validation items than the untrained one."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from client.batch import ClientBatch
from client.statistics.metrics import rows_within_catalog, users_with_target
from client.statistics.statistic import Asked
from client.store.data import ClientRows
from shared.config import RunConfig
from shared.metrics import ranking, users_at_once
from shared.model.recommender import Recommender
from shared.model.statistics import NUM_WEIGHTS, added_up
from shared.privacy.shapes import StatisticShapes


def gain_vectors(
    rows: ClientRows, recommender: Recommender, config: RunConfig, shapes: StatisticShapes, *, num_clients: int
) -> NDArray[np.float64]:
    """Each client's sum over users of NDCG of every candidate minus that of the untrained recommender.

    Guarantee:
        A user's differences lie in [-1, 1] and are divided by the square root of their number, so adding or removing one
        user moves its client's row by at most 1 in L2 norm. They depend on that user alone (`shared/model/passes.py`).

    Args:
        rows: A HISTORIES TABLE and whose each user is. (private)
        recommender: With the state whose candidates are compared loaded. (public)
        config: List length, users scored at once. (public)
        shapes: What is compared. (public)
        num_clients: N.

    Returns:
        (N, candidates - 1) float64.
    """
    rows = rows_within_catalog(rows, num_items=recommender.num_items)
    model, k = recommender.attached.model, config.evaluation.k
    compared = shapes.weights_of_candidates(np.array(model.weights, dtype=np.float32), config.model)
    total = np.zeros((num_clients, len(compared) - 1))
    at_once = users_at_once(NUM_WEIGHTS * recommender.num_items, config.evaluation.batch_size)
    for batch, known in users_with_target(rows, recommender, target="validation", at_once=at_once):
        targets = batch["validation"].list.first().to_numpy().astype(np.int64)
        parts = recommender.score_parts(known, at_once=at_once)
        untrained, *others = (_ndcg(added_up(parts, weights), known, targets, k=k) for weights in compared)
        gains = np.stack([other - untrained for other in others], axis=1) / math.sqrt(len(others))
        np.add.at(total, batch["client"].to_numpy(), gains)
    return total


def _ndcg(
    scores: NDArray[np.float32], known: list[NDArray[np.int32]], targets: NDArray[np.int64], *, k: int
) -> NDArray[np.float64]:
    """NDCG@k of one target a user, (B,) in [0, 1]; a score that is no number ranks last."""
    keys = ranking.pair_keys(list(targets[:, np.newaxis]), scores.shape[1])
    candidates = ranking.mask_seen(np.where(np.isnan(scores), -np.inf, scores), known, keys)
    return ranking.ndcg(ranking.rank_targets(candidates, keys), k)


class Selection:
    """How much better each candidate ranks than the untrained recommender."""

    name = "selection"

    def vectors(self, asked: Asked, batch: ClientBatch, rows: ClientRows) -> NDArray[np.float64]:
        """As `Statistic.vectors`; (N, candidates - 1)."""
        return gain_vectors(rows, asked.recommender, asked.config, asked.shapes, num_clients=len(batch))
