"""Weights of the scores in the units of the scores, and as they are kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from server.statistics.statistic import Floats
from shared.config import ModelSection
from shared.model.statistics import NUM_WEIGHTS, PART_UNITS, Statistics, untrained_weights


@dataclass(frozen=True, eq=False)
class Weighing:
    """Weights in the units of the scores before any is learned, and how far each may be wrong."""

    defaults: Floats
    spread: Floats

    @classmethod
    def unknown(cls) -> Weighing:
        """Before anything was released."""
        return cls(np.zeros(NUM_WEIGHTS), np.zeros(NUM_WEIGHTS))


def learned_weights(statistics: Statistics | None, untrained: ModelSection) -> Floats:
    """The weights of a released state as they were learned, (5,); NaN for what was left out or never learned.

    In the units of the scores.

    Args:
        statistics: Of the released state. (public)
        untrained: The weights of the untrained recommender, which no run learned.
    """
    if statistics is None or np.array_equal(statistics.weights, untrained_weights(untrained).astype(np.float32)):
        return np.full(NUM_WEIGHTS, np.nan)
    weights = statistics.weights.astype(np.float64) * PART_UNITS
    return np.where(weights > 0.0, weights, np.nan)


def in_raw_units(weights: Floats) -> NDArray[np.float32]:
    """Weights as they are kept, from weights in the units of the scores."""
    raw: NDArray[np.float32] = (weights / PART_UNITS).astype(np.float32)
    return raw
