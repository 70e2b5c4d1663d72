"""How the weights of the scores should move: one Newton step's worth of sums over users' validation items.

For a user with a validation item t the loss is -log softmax(w . s)[t] over the items not yet seen, where s are the scores
that the recommender adds up (text, prior, pairs, transitions, adapter). Its gradient and its Hessian in w are five and
fifteen numbers: little to pay for, and with the second order known one step goes where many gradient steps would.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from client.evaluation import rows_within_catalog
from client.store import ClientRows
from shared.config import RunConfig
from shared.metrics import users_at_once
from shared.privacy.releases import BLENDING_BOUND, HESSIAN_SCALE
from shared.recommender import Recommender
from shared.splitting import scoring_histories
from shared.statistics import NUM_WEIGHTS, PART_UNITS


def blending_vectors(
    rows: ClientRows, recommender: Recommender, config: RunConfig, *, num_clients: int
) -> NDArray[np.float64]:
    """Each client's sum over users of (gradient of the log-likelihood, HESSIAN_SCALE x Hessian of the loss), clipped.

    Guarantee:
        A user's vector is clipped to L2 norm `BLENDING_BOUND` and divided by it, so adding or removing one user moves its
        client's row by at most 1 in L2 norm, up to the rounding of floats.

    Args:
        rows: A HISTORIES TABLE and whose each user is. (private)
        recommender: With the state whose weights are to move loaded. (public)
        config: Users scored at once. (public)
        num_clients: N.

    Returns:
        (N, K (K + 3) / 2) float64 for K scores: gradient, then the Hessian's upper triangle, in weights times `PART_UNITS`.
    """
    rows = rows_within_catalog(rows, num_items=recommender.num_items)
    weights = (np.array(recommender.attached.model.weights) * PART_UNITS).astype(np.float32)
    total = np.zeros((num_clients, NUM_WEIGHTS * (NUM_WEIGHTS + 3) // 2))
    table = rows.histories.with_columns(pl.Series("client", rows.client, dtype=pl.Int64))
    chosen = table.filter(pl.col("validation").list.len() > 0).sort(pl.col("train").list.len())
    at_once = max(1, users_at_once(recommender.num_items, config.evaluation.batch_size) // NUM_WEIGHTS)
    for batch in chosen.iter_slices(at_once):
        known = [row.to_numpy() for row in scoring_histories(batch, "validation")]
        targets = batch["validation"].list.first().to_numpy().astype(np.int64)
        parts = recommender.score_parts(known) / PART_UNITS.astype(np.float32)[:, None, None]
        np.add.at(total, batch["client"].to_numpy(), _clipped(_steps(parts, known, targets, weights)))
    return total


def _steps(
    parts: NDArray[np.float32], known: list[NDArray[np.int32]], targets: NDArray[np.int64], weights: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Gradient and Hessian of each user, (B, K (K + 3) / 2); parts and weights both in `PART_UNITS`."""
    users = np.arange(len(targets))
    scores = np.tensordot(weights, parts, axes=1).astype(np.float64)
    of_targets = scores[users, targets]
    for row, items in zip(scores, known, strict=True):
        row[items] = -np.inf
    scores[users, targets] = of_targets  # an item that is used again is one that can be recommended
    scores -= scores.max(axis=1, keepdims=True)
    probability = np.exp(scores)
    probability /= probability.sum(axis=1, keepdims=True)
    mean, moments = np.empty((len(users), NUM_WEIGHTS)), np.empty((len(users), NUM_WEIGHTS, NUM_WEIGHTS))
    for user in users:  # a matrix product each: a third of the time of sums over the whole batch
        own = parts[:, user].astype(np.float64)
        np.matmul(own, probability[user], out=mean[user])
        np.matmul(own * probability[user], own.T, out=moments[user])
    gradient = parts[:, users, targets].T - mean
    first, second = np.triu_indices(NUM_WEIGHTS)
    hessian = moments[:, first, second] - mean[:, first] * mean[:, second]
    return np.hstack([gradient, HESSIAN_SCALE * hessian])


def _clipped(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of L2 norm <= 1; one that is not finite counts as nothing."""
    vectors = np.where(np.isfinite(vectors).all(axis=1, keepdims=True), vectors, 0.0)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    clipped: NDArray[np.float64] = vectors / np.maximum(norms, BLENDING_BOUND)
    return clipped
