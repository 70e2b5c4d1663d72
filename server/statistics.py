"""What each release beside training makes of the server's state; the sums that come here are noised already."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from server.aggregation import popularity_prior
from server.denoising import blended, pair_factors, transition
from shared.config import RunConfig
from shared.privacy.plan import PrivacyPlan
from shared.privacy.releases import ReleaseName
from shared.recommender import Recommender
from shared.statistics import (
    BLENDING_BOUND,
    DEFAULT_WEIGHTS,
    HESSIAN_SCALE,
    PART_UNITS,
    WEIGHT_SPREAD,
    Statistics,
    StatisticShapes,
)
from shared.update import RecommenderState

# Released before training, in this order: the head of the pairs is taken from the popularity.
BEFORE_TRAINING: tuple[ReleaseName, ...] = ("popularity", "pairs", "transitions")
# A candidate replaces the untrained recommender where its noised gain exceeds minus so many standard deviations: statistics
# nearly always help, and noise alone must not take them away.
_DOUBT = 2.0


@dataclass(frozen=True, eq=False)
class StatisticUpdates:
    """Turns noised sums into a state. (public arguments throughout)

    Attributes:
        config: The run.
        plan: The population, a public constant.
        recommender: Its texts.
        shapes: Sizes of the statistics.
    """

    config: RunConfig
    plan: PrivacyPlan
    recommender: Recommender
    shapes: StatisticShapes

    def prior(self, total: NDArray[np.float64], *, noise_stddev: float) -> tuple[NDArray[np.float32], float]:
        """The log prior, and the sum of the counts that it was made of: what turns it back into counts."""
        prior = popularity_prior(total, noise_stddev=noise_stddev)
        return prior, float(np.maximum(total, max(noise_stddev, 0.05)).sum())

    def with_pairs(
        self, state: RecommenderState, total: NDArray[np.float64], *, noise_stddev: float, mass: float
    ) -> RecommenderState:
        """The state with factors of the items."""
        texts = self.recommender.attached.model.centered_texts.double().cpu().numpy()
        head = self.shapes.head_of(state.log_prior)
        found = pair_factors(total, noise_stddev=noise_stddev, head=head, popularity=_counts(state, mass), texts=texts)
        before = self._statistics(state)
        weights = before.weights.copy()
        weights[2] *= np.sqrt(found.signal)
        signs = np.ones(found.factors.shape[1], dtype=np.float32)
        return _with(state, replace(before, factors=found.factors, signs=signs, weights=weights))

    def with_transitions(
        self, state: RecommenderState, total: NDArray[np.float64], *, noise_stddev: float, mass: float
    ) -> RecommenderState:
        """The state with the map between texts."""
        content = self.recommender.attached.model.content.double().cpu().numpy()
        learned = transition(total, noise_stddev=noise_stddev, content=content, popularity=_counts(state, mass))
        return _with(state, replace(self._statistics(state), transition=learned))

    def with_weights(
        self, state: RecommenderState, total: NDArray[np.float64], *, noise_stddev: float, defaults: NDArray[np.float32]
    ) -> RecommenderState:
        """The state with the weights after a step.

        Args:
            state: Where the step starts.
            total: Noised.
            noise_stddev: Of the noise.
            defaults: The weights before the first step.
        """
        before = self._statistics(state)
        moved = blended(
            total,
            noise_stddev=noise_stddev,
            users=self.plan.population,
            weights=before.weights * PART_UNITS,
            defaults=defaults * PART_UNITS,
            spread=WEIGHT_SPREAD,
            bound=BLENDING_BOUND,
            hessian_scale=HESSIAN_SCALE,
        )
        return _with(state, replace(before, weights=(np.maximum(moved, 0.0) / PART_UNITS).astype(np.float32)))

    def with_selected(
        self, state: RecommenderState, total: NDArray[np.float64], *, noise_stddev: float
    ) -> tuple[RecommenderState, int]:
        """The state of the best candidate, and its number: 0 is the untrained one."""
        statistics = self._statistics(state)
        doubt = -_DOUBT * noise_stddev
        best = int(np.argmax(total))
        chosen = 1 + best if total[best] > doubt else 0
        weights = self.shapes.weights_of_candidates(statistics.weights, self.config.model)[chosen]
        return _with(state, replace(statistics, weights=weights)), chosen

    def default_weights(self) -> NDArray[np.float32]:
        """The weights before any is learned."""
        weights: NDArray[np.float32] = (DEFAULT_WEIGHTS / PART_UNITS).astype(np.float32)
        return weights

    def _statistics(self, state: RecommenderState) -> Statistics:
        num_items = self.recommender.num_items
        empty = Statistics(
            self.default_weights(),
            np.zeros((num_items, 0), dtype=np.float32),
            np.zeros(0, dtype=np.float32),
            np.zeros((0, 0), dtype=np.float32),
        )
        return Statistics.from_vector(state.statistics, num_items=num_items) or empty


def _with(state: RecommenderState, statistics: Statistics) -> RecommenderState:
    return replace(state, statistics=statistics.to_vector())


def _counts(state: RecommenderState, mass: float) -> NDArray[np.float64]:
    counts: NDArray[np.float64] = np.exp(state.log_prior.astype(np.float64)) * mass
    return counts
