"""What private statistics leave in the model: factors of items, and a map from item to item. Released values, hence public.

    pairs        factors (I, r):     score = (sum of the last items' factors, the newer the heavier) . factors
    transitions  transition (D, D):  score = f W y, from the direction f of the last items to the next one's y; an item's
                 directions are those of its text and those of its factors at the time that transitions were counted
    weights      how text similarity, prior, pairs, transitions and the adapter's scores are added up

They are scores of their own beside the transformer's, so that an adapter learns what they do not say. All of it travels in
one flat vector at the end of `RecommenderState`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from shared.config import ModelSection
from shared.errors import CheckpointError

AnyFloat = TypeVar("AnyFloat", np.float32, np.float64)
# The texts' share of the kernel under which items are alike.
TEXT_SHARE = 0.4
# Where a released adapter's folder holds them.
FILE = "statistics.safetensors"
# What the scores of pairs are summed over: so many last items, each further back counting so much less.
PAIR_ITEMS, PAIR_DECAY = 10, 0.8
# The same for the direction of the last items, and how many latest transitions of a history count. Few items, because what
# is near without an order is said by the pairs already.
TRANSITION_ITEMS, TRANSITION_DECAY, LONGEST_TRANSITIONS = 2, 0.6, 50
# The most factors of an item.
RANK_OF_PAIRS = 128
# text similarity, prior, pairs, transitions, adapter
NUM_WEIGHTS = 5
# What a score is divided by before it is weighed, so that weights and their steps are of one size: a cosine of centered
# texts varies by about so much over a catalog; statistics come scaled, and a log probability varies by about 1.
PART_UNITS = np.array([0.2, 1.0, 1.0, 1.0, 1.0])
# Weights in these units before any is learned: of text similarity, prior, pairs, transitions and adapter. How far each may
# be wrong is their standard deviation: where little is known, little changes.
DEFAULT_WEIGHTS = np.array([0.4, 0.9, 0.4, 0.4, 1.0])
WEIGHT_SPREAD = np.array([0.4, 0.4, 0.3, 0.4, 0.5])
# The second derivative of a user's loss in each, as on the sets at hand: how much a score varies among likely items.
CURVATURE = np.array([0.5, 0.6, 4.0, 1.0, 0.5])


@dataclass(frozen=True, eq=False)
class Statistics:
    """The values of one state.

    Attributes:
        weights: (5,) float32, of text similarity, log prior, pairs, transitions and adapter.
        factors: (I, r) float32, items' factors; r = 0 without pairs.
        directions: (I, D2) float32, the last D2 of an item's D directions, before them are those of its text; D2 = 0 without
            pairs.
        transition: (D, D) float32; (0, 0) without transitions.
    """

    weights: NDArray[np.float32]
    factors: NDArray[np.float32]
    directions: NDArray[np.float32]
    transition: NDArray[np.float32]

    def to_vector(self) -> NDArray[np.float32]:
        """One array, float32: how long each part is, then the parts."""
        header = np.array([self.factors.shape[1], self.directions.shape[1], len(self.transition)], dtype=np.float32)
        parts = [header, self.weights, self.factors.ravel(), self.directions.ravel(), self.transition.ravel()]
        return np.concatenate(parts).astype(np.float32)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[np.float32]]) -> Statistics:
        """The values of a file, by name.

        Raises:
            CheckpointError: If they are not those of this version.
        """
        names = [field.name for field in fields(cls)]
        if set(tensors) != set(names):
            raise CheckpointError(
                f"Expected {', '.join(names)} in {FILE}, got {', '.join(sorted(tensors)) or 'nothing'}. It was written by "
                "another version; run it again."
            )
        return cls(**tensors)

    @classmethod
    def from_vector(cls, vector: NDArray[np.float32], *, num_items: int) -> Statistics | None:
        """The inverse of `to_vector`; None for an empty vector.

        Raises:
            CheckpointError: If the lengths do not add up.
        """
        if not len(vector):
            return None
        rank, own, dimensions = (int(value) for value in vector[:3]) if len(vector) > 3 else (-1, -1, -1)
        sizes = [3, NUM_WEIGHTS, num_items * rank, num_items * own, dimensions**2]
        if min(rank, own, dimensions) < 0 or len(vector) != sum(sizes):
            raise CheckpointError(
                f"Expected the statistics of a state for {num_items} items, got {len(vector)} values that are none. It "
                "belongs to another catalog, or is damaged."
            )
        _, weights, factors, directions, transition = np.split(vector, np.cumsum(sizes)[:-1])
        square = transition.reshape(dimensions, dimensions)
        return cls(weights, factors.reshape(num_items, rank), directions.reshape(num_items, own), square)


def text_regression(
    texts: NDArray[np.float64], factors: NDArray[np.float64], others: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Factors of other items from those of some, by the similarity of their texts.

    The posterior mean of a Gaussian process whose kernel is TEXT_SHARE times the similarity and the rest an item's own.

    Args:
        texts: (H, D) directions, rows of norm 1 or 0. (public)
        factors: (H, r). (public)
        others: (n, D) directions. (public)

    Returns:
        (n, r).
    """
    kernel = TEXT_SHARE * (texts @ texts.T) + (1.0 - TEXT_SHARE) * np.eye(len(texts))
    found: NDArray[np.float64] = TEXT_SHARE * (others @ (texts.T @ np.linalg.solve(kernel, factors)))
    return found


def added_up(parts: NDArray[AnyFloat], weights: NDArray[AnyFloat]) -> NDArray[AnyFloat]:
    """Scores from their parts, (K, ...) and (K,) -> (...).

    One part after the other and not as a matrix product, so that a score depends on its own parts alone, bit by bit.
    """
    total: NDArray[AnyFloat] = np.zeros_like(parts[0])
    with np.errstate(over="ignore", invalid="ignore"):  # of a model that diverged; who uses the scores looks at them
        for weight, part in zip(weights, parts, strict=True):
            total += weight * part
    return total


def untrained_weights(config: ModelSection) -> NDArray[np.float64]:
    """The weights of the untrained recommender, (5,): text similarity and prior alone."""
    return np.array([config.text_similarity_weight, config.popularity_weight, 0.0, 0.0, 0.0])
