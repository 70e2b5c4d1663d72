"""What private statistics leave in the model: factors of items, and a map from item to item. Released values, hence public.

    pairs        factors (I, r):     score = (sum of the last items' factors, the newer the heavier) . factors
    transitions  transition (D, D):  score = f W y, from the direction f of the last items to the next one's y; an item's
                 directions are those of its text and those of its factors at the time that transitions were counted
    weights      how text similarity, prior, pairs, transitions and the adapter's scores are added up

They are scores of their own beside the transformer's, so that an adapter learns what they do not say. All of it travels in
one flat vector at the end of `RecommenderState`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from shared.config import ModelSection, RunConfig
from shared.errors import CheckpointError
from shared.metrics.noised import NUM_VALUES
from shared.privacy.plan import PrivacyPlan
from shared.privacy.releases import Purpose, ReleaseName, is_sparse, release_of

if TYPE_CHECKING:
    from shared.model.recommender import Recommender

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


def pairs_size(head: int) -> int:
    """How many pairs there are of so many items."""
    return head * (head - 1) // 2


@dataclass(frozen=True)
class StatisticShapes:
    """How large the statistics of a run are, from public facts alone; equal on the server and on every client.

    Attributes:
        head: H, most popular items by the noised prior whose pairs are counted.
        text_dimensions: D1, directions of texts between which transitions are counted.
        factor_dimensions: D2, directions of the pairs' factors beside them; 0 without pairs.
        num_items: I.
        candidates: What the selection compares, the untrained recommender first.
        window: Largest distance within a pair.
        pair_decay: Weight of each further step of distance.
    """

    head: int
    text_dimensions: int
    factor_dimensions: int
    num_items: int
    candidates: tuple[str, ...]
    window: int
    pair_decay: float

    @classmethod
    def of(cls, config: RunConfig, plan: PrivacyPlan, recommender: Recommender) -> StatisticShapes:
        """The shapes of a run.

        Args:
            config: Settings of the statistics. (public)
            plan: How contributions travel. (public)
            recommender: Its catalog and texts. (public)
        """
        content = recommender.attached.model.content
        return cls.expected(config, plan, num_items=recommender.num_items, dimensions=content.shape[1])

    @classmethod
    def expected(cls, config: RunConfig, plan: PrivacyPlan, *, num_items: int, dimensions: int) -> StatisticShapes:
        """The same without a recommender.

        Args:
            config: Settings of the statistics. (public)
            plan: How contributions travel. (public)
            num_items: I.
            dimensions: Text directions that the recommender has.
        """
        settings = config.statistics
        wanted = settings.dimensions or _dimensions(plan)
        of_factors = min(wanted // 2, dimensions) if plan.release("pairs") is not None else 0
        return cls(
            head=min(num_items, settings.head or _head(plan, settings.upload_bytes)),
            text_dimensions=min(dimensions, wanted - of_factors),
            factor_dimensions=of_factors,
            num_items=num_items,
            candidates=_candidates(plan),
            window=settings.window,
            pair_decay=settings.pair_decay,
        )

    @property
    def dimensions(self) -> int:
        """D, all directions between which transitions are counted."""
        return self.text_dimensions + self.factor_dimensions

    @property
    def sizes(self) -> dict[Purpose, int]:
        """Values of one contribution to each purpose."""
        pairs, transitions = pairs_size(self.head), self.dimensions**2
        return {
            "popularity": self.num_items,
            "pairs": pairs,
            "transitions": transitions,
            "refine-popularity": self.num_items,
            "refine-pairs": pairs,
            "refine-transitions": transitions,
            "blending": NUM_WEIGHTS * (NUM_WEIGHTS + 3) // 2,
            "selection": len(self.candidates) - 1,
            "validation": NUM_VALUES,
            "test": NUM_VALUES,
        }

    def message_bytes(self, plan: PrivacyPlan) -> dict[ReleaseName, int]:
        """Bytes of one client's contribution to each release of a plan; of a refinement, the most that it may be."""
        found: dict[ReleaseName, int] = {}
        for purpose, size in self.sizes.items():
            release = plan.release(release_of(purpose))
            if release is None:
                continue
            taken = 4 * size  # float32
            if plan.clips_whole_updates:
                taken = plan.release_encoding(release, size, sparse=is_sparse(purpose)).packed_bytes
            found[release.name] = max(taken, found.get(release.name, 0))
        return found

    def weights_of_candidates(self, weights: NDArray[np.float32], untrained: ModelSection) -> list[NDArray[np.float32]]:
        """The weights of each candidate.

        Args:
            weights: (5,) that were learned, or the defaults. (public)
            untrained: The weights of the untrained recommender.
        """
        learned = [weights * _PARTS_OF_CANDIDATES[name] for name in self.candidates[1:]]
        return [untrained_weights(untrained).astype(np.float32), *learned]

    def head_of(self, log_prior: NDArray[np.float32]) -> NDArray[np.int64]:
        """The head's items by the released prior, ascending; of equal ones the first."""
        return np.sort(np.argsort(-log_prior, kind="stable")[: self.head]).astype(np.int64)


# Which scores count in each candidate with learned weights: text, prior, pairs, transitions, adapter.
_PARTS_OF_CANDIDATES = {
    name: np.array(parts, dtype=np.float32)
    for name, parts in {
        "weighted": (1, 1, 0, 0, 0),
        "pairs": (1, 1, 1, 0, 0),
        "transitions": (1, 1, 0, 1, 0),
        "statistics": (1, 1, 1, 1, 0),
        "trained": (1, 1, 1, 1, 1),
    }.items()
}


def _candidates(plan: PrivacyPlan) -> tuple[str, ...]:
    """What a run can release: untrained, with learned weights, with either statistic, with both, and trained on top.

    The likelihood that the weights are learned by and the top of a list do not agree everywhere: on Amazon Scientific
    transitions make targets likelier and rank them lower. So each statistic has to show what it is worth.
    """
    found = [name for name in ("pairs", "transitions") if plan.release(name) is not None]
    own = ["weighted", *(found if len(found) > 1 else []), "statistics"] if found else []
    return ("untrained", *own, *["trained"] * (plan.rounds > 0))


def untrained_weights(config: ModelSection) -> NDArray[np.float64]:
    """The weights of the untrained recommender, (5,): text similarity and prior alone."""
    return np.array([config.text_similarity_weight, config.popularity_weight, 0.0, 0.0, 0.0])


# Head of the pairs: so many items, times the square root of the users to one standard deviation of the noise. Rarer items
# have pairs below the noise, and each more item adds to it.
_SMALLEST_HEAD, _HEAD_SCALE, _LARGEST_HEAD = 100, 14.0, 2000
# Directions of the transitions: fewer where each entry of the map has more noise.
_DIMENSIONS = ((1.2, 128), (6.0, 64), (math.inf, 32))


def _head(plan: PrivacyPlan, upload_bytes: int) -> int:
    """Items whose pairs are counted: as many as rise above the noise, and fit one client's message.

    Without noise the limit of a message does not hold: a head of 2,000 is 8 MB, and .005 of NDCG@10 more on ml-100k than the
    707 items of 1 MB.
    """
    if not plan.adds_noise:
        return _LARGEST_HEAD
    release, bits = plan.release("pairs"), 32
    if release is not None and plan.clips_whole_updates:
        bits = plan.release_encoding(release, 1, sparse=True).bits
    pairs = 8 * upload_bytes // bits
    fits = min(_LARGEST_HEAD, (1 + math.isqrt(1 + 8 * pairs)) // 2)
    noise = _noise(plan, "pairs")
    if not noise:  # of the pairs alone
        return fits
    return min(fits, max(_SMALLEST_HEAD, round(_HEAD_SCALE * math.sqrt(plan.population / noise))))


def _dimensions(plan: PrivacyPlan) -> int:
    noise = _noise(plan, "transitions")
    return next(dimensions for most, dimensions in _DIMENSIONS if noise < most)


def _noise(plan: PrivacyPlan, name: ReleaseName) -> float:
    """Standard deviation of the noise in the sum of a statistic, once it is refined too."""
    multipliers = [one.noise_multiplier for one in plan.releases if one.name in (name, "refinement")]
    if not plan.adds_noise or not multipliers:
        return 0.0
    adders = plan.num_clients if plan.adds_noise_locally else 1
    return math.sqrt(adders / sum(multiplier**-2 for multiplier in multipliers))
