"""`Statistic`: what the server makes of a noised sum; what all of them learn together; and the sum itself.

A statistic is a class with a name and one method, in a file of its own beside this one. It sees released values and public
facts alone, so what it learns costs no privacy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from server.denoising import Denoised
from shared.model.recommender import Recommender

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Total:
    """The noised sum of a statistic and the standard deviation of the noise in each value. (public)"""

    values: Floats
    noise_stddev: float

    def with_another(self, other: Total) -> Total:
        """The average of two releases of one statistic, by the precision of their noise; an exact one stands alone."""
        if not other.noise_stddev or not self.noise_stddev:
            return self if not self.noise_stddev else other
        own, others = self.noise_stddev**-2, other.noise_stddev**-2
        values = (own * self.values + others * other.values) / (own + others)
        return Total(values, (own + others) ** -0.5)

    def plus(self, later: Total) -> Total:
        """The sum over other interactions added to this one; the variances of the noise add up."""
        return Total(self.values + later.values, math.hypot(self.noise_stddev, later.noise_stddev))


@dataclass(frozen=True, eq=False)
class Basis:
    """What learning rests on beside the sums. (public)

    Attributes:
        recommender: Its texts.
        content: (I, D1), directions of the texts, between which transitions are counted.
        head: (H,) the items whose pairs were counted, by the prior of that time.
        factor_dimensions: D2, directions of the pairs' factors.
        keeps_directions: Whether these stay what they were, because transitions were counted between them.
    """

    recommender: Recommender
    content: Floats
    head: NDArray[np.int64]
    factor_dimensions: int
    keeps_directions: bool


@dataclass(frozen=True, eq=False)
class Learned:
    """What the sums so far say. (public)

    Attributes:
        log_prior: (I,) float32.
        counts: (I,), how often items are used, raised above the noise.
        factors: (I, r) of the pairs, and their signal.
        directions: (I, D2) of the factors.
        transition: (D, D), and its signal.
    """

    log_prior: NDArray[np.float32]
    counts: Floats
    factors: Denoised
    directions: NDArray[np.float32]
    transition: Denoised


class Statistic(Protocol):
    """What the server learns from one kind of release."""

    @property
    def name(self) -> str:
        """The release (`shared/privacy/releases.py`)."""
        ...

    def learn(self, total: Total, learned: Learned, basis: Basis) -> Learned:
        """What is known with the sum, from what was known without it.

        Args:
            total: The noised sum. (public)
            learned: What statistics before this one say. (public)
            basis: Everything else.
        """
        ...
