"""Local metrics as sums and counts: exact ones for a research record, bounded ones for what is released with noise."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from client.popularity import within_catalog
from shared.config import RunConfig
from shared.metrics import EvaluationSums, evaluate_scores, user_keys
from shared.metrics.noised import USER_L2_NORM
from shared.protocol import Target
from shared.recommender import Recommender
from shared.splitting import scoring_histories


def evaluate(histories: pl.DataFrame, recommender: Recommender, config: RunConfig, *, target: Target) -> EvaluationSums:
    """Ranks the whole catalog for every user who has a held-out target.

    Args:
        histories: Columns user, train, validation, test (lists of catalog rows). (private)
        recommender: With the state to judge already loaded.
        config: List length, batch size, bootstrap replicates.
        target: `validation` (the history is train) or `test` (train + validation).

    Returns:
        Sums over this client's users; exact, hence (private).
    """
    settings = config.evaluation
    # Users with histories of like length are scored together, so that little is computed on padding.
    chosen = histories.filter(pl.col(target).list.len() > 0).sort(pl.col("train").list.len())
    total = EvaluationSums.zero(num_items=recommender.num_items, num_replicates=settings.bootstrap_replicates, k=settings.k)
    for batch in chosen.iter_slices(settings.batch_size):
        known = [row.to_numpy() for row in scoring_histories(batch, target)]
        total = total + evaluate_scores(
            recommender.score(known),
            known,
            [row.to_numpy() for row in batch[target]],
            user_keys=user_keys(batch["user"]),
            k=settings.k,
            num_replicates=settings.bootstrap_replicates,
            bootstrap_seed=config.run.seed,
        )
    return total


def bounded_metrics(
    histories: pl.DataFrame, recommender: Recommender, config: RunConfig, *, target: Target
) -> NDArray[np.float64]:
    """Sums of HR, NDCG and users with a target, each user's contribution bounded: what noised metrics are made of.

    Guarantee:
        Adding or removing one user moves the result by at most 1 in L2 norm; one whose items the catalog does not have
        counts as nothing.

    Args:
        histories: A HISTORIES TABLE. (private)
        recommender: With the state to judge already loaded.
        config: List length, batch size.
        target: `validation` or `test`.

    Returns:
        Shape (3,), float64: HR, NDCG and count, each over USER_L2_NORM; exact. (private)
    """
    for column in ("train", "validation", "test"):
        histories = histories.filter(within_catalog(histories[column], num_items=recommender.num_items))
    settings = config.evaluation.model_copy(update={"bootstrap_replicates": 0})
    sums = evaluate(histories, recommender, config.model_copy(update={"evaluation": settings}), target=target)
    hr, ndcg = (sums.sums[sums.names.index(f"{name}@{config.evaluation.k}")] for name in ("hr", "ndcg"))
    return np.array([hr, ndcg, sums.num_users], dtype=np.float64) / USER_L2_NORM
