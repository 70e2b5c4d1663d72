"""How large each release of a run is, and what the selection compares: from public facts alone, equal on both sides."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shared.config import ModelSection, RunConfig
from shared.model.statistics import NUM_WEIGHTS, untrained_weights
from shared.privacy.plan import PrivacyPlan
from shared.privacy.releases import Purpose, ReleaseName, is_sparse, kind_of, purposes, release_of, statistic_of
from shared.secagg.encoding import SMALLEST_BITS

if TYPE_CHECKING:
    from shared.model.recommender import Recommender


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
    def num_pairs(self) -> int:
        """Pairs of items of the head."""
        return pairs_size(self.head)

    @property
    def num_transitions(self) -> int:
        """Entries of the moments between directions, D x D."""
        return self.dimensions**2

    @property
    def num_derivatives(self) -> int:
        """Gradient and upper triangle of the Hessian in the weights."""
        return NUM_WEIGHTS * (NUM_WEIGHTS + 3) // 2

    @property
    def num_compared(self) -> int:
        """Candidates beside the untrained recommender."""
        return len(self.candidates) - 1

    @property
    def sizes(self) -> dict[Purpose, int]:
        """Values of one contribution to each purpose."""
        return {purpose: self.size_of(purpose) for purpose in purposes()}

    def size_of(self, purpose: Purpose) -> int:
        """Values of one contribution to a purpose."""
        return kind_of(statistic_of(purpose)).size(self)

    def message_bytes(self, plan: PrivacyPlan) -> dict[ReleaseName, int]:
        """Bytes of one client's contribution to each release of a plan; of a refinement, the most that it may be."""
        found: dict[ReleaseName, int] = {}
        for purpose, taken in self.contribution_bytes(plan).items():
            found[release_of(purpose)] = max(taken, found.get(release_of(purpose), 0))
        return found

    def contribution_bytes(self, plan: PrivacyPlan) -> dict[Purpose, int]:
        """Bytes of one client's contribution to each purpose that a plan has a release for."""
        found: dict[Purpose, int] = {}
        for purpose, size in self.sizes.items():
            release = plan.release(release_of(purpose))
            if release is None:
                continue
            found[purpose] = 4 * size  # float32
            if plan.clips_whole_updates:
                found[purpose] = plan.release_encoding(release, size, sparse=is_sparse(purpose)).packed_bytes
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


# Head of the pairs: so many items, times the square root of the users to one standard deviation of the noise. Rarer items
# have pairs below the noise, and each more item adds to it.
_SMALLEST_HEAD, _HEAD_SCALE, _LARGEST_HEAD = 100, 14.0, 2000
# Directions of the transitions, by the users to one standard deviation of the noise: a map between D directions has noise
# of norm 2 sqrt(D) standard deviations, and what it says grows with the users. Test NDCG@10 with 64, 128 and 256 directions
# on synthetic populations, one run each: 3,000 users and 600 items at 671 users to one: .113, .107; at 1,256: .132, .156,
# .073; at 4,173: -, .187, .185; 10,000 users and 3,000 items at 4,187: .061, .093, .096; at 13,909: .074, .113, .132;
# 100,000 at 19,762: .082, .121, .140. Catalogs of more items need more directions. Exact sums count as with a little less
# noise than at epsilon 8 (.65 to .8), because which users there are is chance as well.
_NOISE_OF_USERS = 0.6
_DIMENSIONS = ((8000.0, 256), (800.0, 128), (150.0, 64), (0.0, 32))


def _head(plan: PrivacyPlan, upload_bytes: int) -> int:
    """Items whose pairs are counted: as many as rise above the noise, and fit one client's message.

    Without noise the limit of a message does not hold: a head of 2,000 is 8 MB, and .005 of NDCG@10 more on ml-100k than the
    707 items of 1 MB.
    """
    if not plan.adds_noise:
        return _LARGEST_HEAD
    release, bits = plan.release("pairs"), 32
    if release is not None and plan.clips_whole_updates:
        largest = min(8 * upload_bytes // SMALLEST_BITS, pairs_size(_LARGEST_HEAD))
        bits = plan.release_encoding(release, largest, sparse=True).bits  # a larger vector takes finer steps
    pairs = 8 * upload_bytes // bits
    fits = min(_LARGEST_HEAD, (1 + math.isqrt(1 + 8 * pairs)) // 2)
    noise = _noise(plan, "pairs")
    if not noise:  # of the pairs alone
        return fits
    return min(fits, max(_SMALLEST_HEAD, round(_HEAD_SCALE * math.sqrt(plan.population / noise))))


def _dimensions(plan: PrivacyPlan) -> int:
    noise = max(_noise(plan, "transitions"), _NOISE_OF_USERS)
    users = plan.population / noise
    return next(dimensions for least, dimensions in _DIMENSIONS if users >= least)


def _noise(plan: PrivacyPlan, name: ReleaseName) -> float:
    """Standard deviation of the noise in the sum of a statistic, once it is refined too."""
    multipliers = [one.noise_multiplier for one in plan.releases if one.name in (name, "refinement")]
    if not plan.adds_noise or not multipliers:
        return 0.0
    adders = plan.num_clients if plan.adds_noise_locally else 1
    return math.sqrt(adders / sum(multiplier**-2 for multiplier in multipliers))
