"""Local metrics as sums and counts: what a client says about quality, and only in a research run."""

from __future__ import annotations

import polars as pl

from shared.config import RunConfig
from shared.metrics import EvaluationSums, evaluate_scores, user_keys
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
