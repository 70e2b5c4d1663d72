"""How the weights of the scores should move: one Newton step's worth of sums over users' validation items.

For a user with a validation item t the loss is -log softmax(w . s)[t] over the items not yet seen, where s are the scores
that the recommender adds up (text, prior, pairs, transitions, adapter). Its gradient and its Hessian in w are five and
fifteen numbers: little to pay for, and with the second order known one step goes where many gradient steps would.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from client.batch import ClientBatch
from client.statistics.metrics import rows_within_catalog, users_with_target
from client.statistics.statistic import Asked
from client.store.data import ClientRows
from shared.config import RunConfig
from shared.metrics import users_at_once
from shared.model.recommender import Recommender
from shared.model.statistics import NUM_WEIGHTS, PART_UNITS
from shared.privacy.releases import BLENDING_BOUND, HESSIAN_SCALE

_UPPER = np.triu_indices(NUM_WEIGHTS)


def blending_vectors(
    rows: ClientRows, recommender: Recommender, config: RunConfig, *, num_clients: int
) -> NDArray[np.float64]:
    """Each client's sum over users of (gradient of the log-likelihood, HESSIAN_SCALE x Hessian of the loss), clipped.

    Guarantee:
        A user's vector is clipped to L2 norm `BLENDING_BOUND` and divided by it, so adding or removing one user moves its
        client's row by at most 1 in L2 norm, up to the rounding of floats. It depends on that user alone.

    Args:
        rows: A HISTORIES TABLE and whose each user is. (private)
        recommender: With the state whose weights are to move loaded. (public)
        config: Users scored at once. (public)
        num_clients: N.

    Returns:
        (N, K (K + 3) / 2) float64 for K scores: gradient, then the Hessian's upper triangle, in weights times `PART_UNITS`.
    """
    rows = rows_within_catalog(rows, num_items=recommender.num_items)
    weights = np.array(recommender.attached.model.weights)
    total = np.zeros((num_clients, NUM_WEIGHTS * (NUM_WEIGHTS + 3) // 2))
    at_once = users_at_once(NUM_WEIGHTS * recommender.num_items, config.evaluation.batch_size)
    for batch, known in users_with_target(rows, recommender, target="validation", at_once=at_once):
        targets = batch["validation"].list.first().to_list()
        parts = recommender.score_parts(known, at_once=at_once)
        for user, client in enumerate(batch["client"].to_list()):
            total[client] += _clipped(_step(parts[:, user], known[user], targets[user], weights))
    return total


def _step(
    parts: NDArray[np.float32], known: NDArray[np.int32], target: int, weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Gradient and Hessian of one user, (K (K + 3) / 2,), from the parts (K, I) and the weights that these have.

    One user at a time: how sums over a batch are rounded may depend on how large it is, and on a user's place in it.
    """
    own = parts.astype(np.float64)
    weighted = np.empty((NUM_WEIGHTS + 1, own.shape[1]))
    scores = np.einsum("k,ki->i", weights, own)
    of_target = scores[target]
    scores[known] = -np.inf
    scores[target] = of_target  # an item that is used again is one that can be recommended
    scores -= scores.max()
    probability = np.exp(scores, out=weighted[-1])
    probability /= probability.sum()
    np.multiply(own, probability, out=weighted[:-1])
    moments = weighted @ own.T
    mean = moments[-1]
    hessian = (moments[:-1] - np.outer(mean, mean)) / np.outer(PART_UNITS, PART_UNITS)
    return np.concatenate([(own[:, target] - mean) / PART_UNITS, HESSIAN_SCALE * hessian[_UPPER]])


def _clipped(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of L2 norm <= 1; one that is not finite counts as nothing."""
    if not np.isfinite(vector).all():
        return np.zeros_like(vector)
    clipped: NDArray[np.float64] = vector / max(float(np.linalg.norm(vector)), BLENDING_BOUND)
    return clipped


class Blending:
    """How the weights of the scores should move."""

    name = "blending"

    def vectors(self, asked: Asked, batch: ClientBatch, rows: ClientRows) -> NDArray[np.float64]:
        """As `Statistic.vectors`; (N, K (K + 3) / 2)."""
        return blending_vectors(rows, asked.recommender, asked.config, num_clients=len(batch))
