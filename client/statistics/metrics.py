"""Local metrics as sums and counts: exact ones for a research record, bounded ones for what is released with noise."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl
from numpy.typing import NDArray

from client.batch import ClientBatch
from client.statistics.popularity import within_catalog
from client.statistics.statistic import Asked
from client.store.data import ClientRows
from shared.config import RunConfig
from shared.data.splitting import scoring_histories
from shared.metrics import EvaluationSums, evaluate_clients, user_keys, users_at_once
from shared.metrics.noised import USER_L2_NORM
from shared.model.recommender import Recommender
from shared.protocol.messages import Target


def evaluate(
    rows: ClientRows,
    recommender: Recommender,
    config: RunConfig,
    *,
    target: Target,
    num_clients: int,
    counts_items: bool = True,
) -> NDArray[np.float64]:
    """Ranks the whole catalog for every user who has a held-out target.

    Args:
        rows: A HISTORIES TABLE and whose each user is. (private)
        recommender: With the state to judge already loaded.
        config: List length, batch size, bootstrap replicates.
        target: `validation` (the history is train) or `test` (train + validation).
        num_clients: N.
        counts_items: Without, a vector ends before the counts of items, and does not grow with the catalog. (public)

    Returns:
        (N, V) float64, each client's `EvaluationSums` as a vector; exact, hence (private).
    """
    settings, num_items = config.evaluation, recommender.num_items
    replicates, at_once = settings.bootstrap_replicates, users_at_once(num_items, settings.batch_size)
    size = EvaluationSums.vector_size(num_items, replicates, k=settings.k, counts_items=counts_items)
    total = np.zeros((num_clients, size))
    for batch, known in users_with_target(rows, recommender, target=target, at_once=at_once):
        clients, found = evaluate_clients(
            recommender.score(known, at_once=at_once),
            known,
            [row.to_numpy() for row in batch[target]],
            clients=batch["client"].to_numpy(),
            user_keys=user_keys(batch["user"]),
            k=settings.k,
            num_replicates=replicates,
            counts_items=counts_items,
        )
        total[clients] += found
    return total


def users_with_target(
    rows: ClientRows, recommender: Recommender, *, target: Target, at_once: int
) -> Iterator[tuple[pl.DataFrame, list[NDArray[np.int32]]]]:
    """The users who have a held-out target, as many at a time as can be scored.

    Args:
        rows: A HISTORIES TABLE and whose each user is. (private)
        recommender: That will score them.
        target: `validation` or `test`.
        at_once: Most users at a time, and in one pass. (public)

    Yields:
        Rows of the table with a column `client`, and what may be known of each user. Users with histories of like length
        come together, in whole passes.
    """
    table = rows.histories.with_columns(pl.Series("client", rows.client, dtype=pl.Int64))
    chosen = table.filter(pl.col(target).list.len() > 0)
    known = scoring_histories(chosen, target)
    shapes = recommender.scoring_shapes(at_once)
    lengths = np.minimum(known.list.len().to_numpy().astype(np.int64), shapes.longest)
    for users in shapes.batches(lengths, at_once):
        own = known[users]
        ends = np.cumsum(own.list.len().to_numpy().astype(np.int64))
        yield chosen[users], np.split(own.explode(empty_as_null=False).to_numpy(), ends[:-1])


def bounded_metrics(
    rows: ClientRows, recommender: Recommender, config: RunConfig, *, target: Target, num_clients: int
) -> NDArray[np.float64]:
    """Sums of HR, NDCG and users with a target, each user's contribution bounded: what noised metrics are made of.

    Guarantee:
        Adding or removing one user moves its client's row by at most 1 in L2 norm; one whose items the catalog does not
        have counts as nothing. What a user adds depends on that user alone (`shared/model/passes.py`).

    Args:
        rows: A HISTORIES TABLE and whose each user is. (private)
        recommender: With the state to judge already loaded.
        config: List length, batch size.
        target: `validation` or `test`.
        num_clients: N.

    Returns:
        Shape (N, 3), float64: HR, NDCG and count, each over USER_L2_NORM; exact. (private)
    """
    within = rows_within_catalog(rows, num_items=recommender.num_items)
    settings = config.evaluation.model_copy(update={"bootstrap_replicates": 0})
    config = config.model_copy(update={"evaluation": settings})
    sums = evaluate(within, recommender, config, target=target, num_clients=num_clients, counts_items=False)
    columns = [EvaluationSums.vector_place(name, k=settings.k) for name in (f"hr@{settings.k}", f"ndcg@{settings.k}")]
    return np.hstack([sums[:, columns], sums[:, :1]]) / USER_L2_NORM


def rows_within_catalog(rows: ClientRows, *, num_items: int) -> ClientRows:
    """The users whose items the catalog has, all of them; others count as nothing."""
    known = np.ones(len(rows.client), dtype=bool)
    for column in ("train", "validation", "test"):
        known &= within_catalog(rows.histories[column], num_items=num_items).to_numpy()
    counted = None if rows.counted is None else rows.counted[known]
    return ClientRows(histories=rows.histories.filter(pl.Series(known)), client=rows.client[known], counted=counted)


class Metrics:
    """HR and NDCG of a state on the held-out interactions that the request names."""

    name = "metrics"

    def vectors(self, asked: Asked, batch: ClientBatch, rows: ClientRows) -> NDArray[np.float64]:
        """As `Statistic.vectors`; (N, 3)."""
        target: Target = "test" if asked.task.purpose == "test" else "validation"
        return bounded_metrics(rows, asked.recommender, asked.config, target=target, num_clients=len(batch))
