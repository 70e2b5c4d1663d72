"""What the releases beside training make of the server's state; the sums that come here are noised already.

A statistic may be released twice, as a pilot and as a refinement: the two are averaged by the precision of their noise. All
that is learned from the sums follows from them and from public facts, so it is worked out anew after each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from server.denoising import Denoised, Step, blended
from server.statistics.pairs import Pairs
from server.statistics.popularity import Popularity
from server.statistics.statistic import Basis, Floats, Learned, Statistic, Total
from server.statistics.transitions import Transitions
from server.statistics.weighing import Weighing, in_raw_units
from shared.config import RunConfig
from shared.model.recommender import Recommender
from shared.model.state import RecommenderState
from shared.model.statistics import (
    CURVATURE,
    DEFAULT_WEIGHTS,
    NUM_WEIGHTS,
    PART_UNITS,
    WEIGHT_SPREAD,
    Statistics,
    untrained_weights,
)
from shared.privacy.plan import PrivacyPlan
from shared.privacy.releases import Purpose
from shared.privacy.shapes import StatisticShapes

# Released before training, in this order: the head of the pairs is taken from the popularity, and transitions are between
# directions of texts and of the pairs' factors.
STATISTICS: tuple[Callable[[], Statistic], ...] = (Popularity, Pairs, Transitions)
_PAIRS, _TRANSITIONS = 2, 3  # places among the weights
# A statistic that promises less, in twice the log likelihood a user, is not worth the rest of the budget; the prior is.
_LEAST_PROMISE = 0.005
# What pairs promise counts so much more than what transitions promise: at equal likelihood they rank better. Pilots promise
# .01 and .01 to .02 on Amazon Scientific, where pairs rank better, .07 and .9 on the embedded data, where transitions do.
_PAIRS_PROMISE = 4.0
# How much better all statistics are than a part of them or none, over populations: mean and standard deviation in NDCG; and
# the variance of such a difference over users. What cannot be told apart from noise is decided by this.
_LEAD, _LEAD_SPREAD, _VARIANCE_OF_USERS = 0.005, 0.01, 0.01


@dataclass(frozen=True, eq=False)
class StatisticUpdates:
    """Turns noised sums into a state. (public arguments throughout)

    Attributes:
        config: The run.
        plan: The population, a public constant.
        recommender: Its texts.
        shapes: Sizes of the statistics.
        learned_before: (5,) weights that a run which is continued learned, NaN for none: the mean of the prior here.
        statistics: What learns from the sums, in the order of a run.
    """

    config: RunConfig
    plan: PrivacyPlan
    recommender: Recommender
    shapes: StatisticShapes
    learned_before: Floats = field(default_factory=lambda: np.full(NUM_WEIGHTS, np.nan))
    statistics: tuple[Statistic, ...] = field(default_factory=lambda: tuple(make() for make in STATISTICS))

    def learned(
        self, state: RecommenderState, totals: Mapping[str, Total], head: NDArray[np.int64]
    ) -> tuple[RecommenderState, Weighing]:
        """The state with all that the sums say, its weights at their defaults.

        Args:
            state: Adapter and residual stay.
            totals: What was released, by statistic.
            head: (H,) the items whose pairs were counted, by the prior of that time.
        """
        basis = self._basis(state, head)
        learned = self._nothing(state, basis)
        for one in self.statistics:
            if one.name in totals:
                learned = one.learn(totals[one.name], learned, basis)
        state = replace(state, log_prior=learned.log_prior)
        weighing = self._weighing(learned.factors.signal, learned.transition.signal)
        if not set(self.plan.statistics) - {"popularity"}:  # the recommender's own weights
            return state, weighing
        weights = in_raw_units(weighing.defaults)
        statistics = Statistics(weights, learned.factors.values, learned.directions, learned.transition.values)
        return replace(state, statistics=statistics.to_vector()), weighing

    def step(self, state: RecommenderState, total: Total, weighing: Weighing) -> Step:
        """One Newton step from the state's weights."""
        return blended(
            total.values,
            noise_stddev=total.noise_stddev,
            users=self.plan.population,
            weights=self._statistics(state).weights * PART_UNITS,
            defaults=weighing.defaults,
            spread=weighing.spread,
            curvature=CURVATURE,
        )

    def with_weights(self, state: RecommenderState, weights: Floats) -> RecommenderState:
        """The state with such weights, in the units of the scores; none counts against what its score says."""
        raw = in_raw_units(np.maximum(weights, 0.0))
        return replace(state, statistics=replace(self._statistics(state), weights=raw).to_vector())

    def most_promising(self, step: Step) -> Purpose:
        """Which statistic is refined."""
        of_pairs, of_transitions = _PAIRS_PROMISE * step.promise[_PAIRS], step.promise[_TRANSITIONS]
        if max(of_pairs, of_transitions) <= _LEAST_PROMISE:
            return "refine-popularity"
        return "refine-pairs" if of_pairs >= of_transitions else "refine-transitions"

    def with_selected(self, state: RecommenderState, total: Total) -> tuple[RecommenderState, int]:
        """The state of the best candidate, and its number: 0 is the untrained one."""
        statistics = self._statistics(state)
        whole = [number for number, name in enumerate(self.shapes.candidates[1:]) if name in ("statistics", "trained")]
        gains, stddev = gain_of(total, self.plan.population)
        best, part = max(whole, key=gains.__getitem__), int(np.argmax(gains))
        # Where the posterior mean of the lead is below 0.
        variance = 2.0 * stddev**2 + _VARIANCE_OF_USERS / self.plan.population
        if gains[part] > gains[best] + _LEAD * variance / _LEAD_SPREAD**2:
            best = part
        alone = stddev**2 + _VARIANCE_OF_USERS / self.plan.population  # the untrained one's gain is 0, without noise
        chosen = 1 + best if gains[best] > -_LEAD * alone / _LEAD_SPREAD**2 else 0
        weights = self.shapes.weights_of_candidates(statistics.weights, self.config.model)[chosen]
        return replace(state, statistics=replace(statistics, weights=weights).to_vector()), chosen

    def _basis(self, state: RecommenderState, head: NDArray[np.int64]) -> Basis:
        content = self.recommender.attached.model.content[:, : self.shapes.text_dimensions].double().cpu().numpy()
        # Where there are directions of factors, they stay what they were when transitions were counted.
        kept = bool(self._statistics(state).directions.any())
        return Basis(self.recommender, content, head, self.shapes.factor_dimensions, kept)

    def _nothing(self, state: RecommenderState, basis: Basis) -> Learned:
        """What is known before any sum: nothing was counted, exactly."""
        items = self.recommender.num_items
        factors = Denoised(np.zeros((items, 0), dtype=np.float32), 0.0)
        empty = Denoised(np.zeros((0, 0), dtype=np.float32), 0.0)
        directions = np.zeros((items, basis.factor_dimensions), dtype=np.float32)
        if basis.keeps_directions:
            directions = self._statistics(state).directions
        zero = Total(np.zeros(items), 0.0)
        return Popularity().learn(zero, Learned(state.log_prior, zero.values, factors, directions, empty), basis)

    def _weighing(self, of_pairs: float, of_transitions: float) -> Weighing:
        """Defaults for scores of such a signal: the less a release says, the less it counts, and the surer that is."""
        if not (of_pairs or of_transitions):  # the untrained recommender, whose weights are set
            defaults = untrained_weights(self.config.model) * PART_UNITS
            return Weighing(defaults, WEIGHT_SPREAD * self._says(0.0, 0.0))
        says = self._says(of_pairs, of_transitions)
        defaults = np.where(np.isnan(self.learned_before) | (says <= 0.0), DEFAULT_WEIGHTS * says, self.learned_before)
        return Weighing(defaults, WEIGHT_SPREAD * np.minimum(2.0 * says, 1.0))

    def _says(self, of_pairs: float, of_transitions: float) -> Floats:
        says = np.ones(NUM_WEIGHTS)
        says[[_PAIRS, _TRANSITIONS, -1]] = of_pairs, of_transitions, float(self.plan.rounds > 0)
        return says

    def _statistics(self, state: RecommenderState) -> Statistics:
        found = Statistics.from_vector(state.statistics, num_items=self.recommender.num_items)
        return found or self._none

    @cached_property
    def _none(self) -> Statistics:
        empty = np.zeros((self.recommender.num_items, 0), dtype=np.float32)
        weights = untrained_weights(self.config.model).astype(np.float32)
        return Statistics(weights, empty, empty, np.zeros((0, 0), np.float32))


def gain_of(total: Total, population: int) -> tuple[list[float], float]:
    """Mean gains of the candidates a user, and the standard deviation of the noise in each."""
    each = math.sqrt(len(total.values)) / population
    return (total.values * each).tolist(), total.noise_stddev * each
