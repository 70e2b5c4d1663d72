"""The noise itself, on directions of a released sum that no user and no canary touched: how large, and drawn how often.

What is left of a sum when all that was put in is taken away has to be noise of the size that is claimed. Less of it breaks
the promise; more of it means that something else is in the sum, so that no other number of the audit can be trusted. Noise
that two releases share can be taken away by whoever sees both.

What never lives here: which directions are unused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

# Of the claimed standard deviation: rounding to integers and float32 are below, and no user is hidden in more.
MORE_IS_UNEXPLAINED = 1.05


@dataclass(frozen=True)
class NoiseProbe:
    """How large the noise is.

    Attributes:
        samples: Directions that were read.
        ratio: Standard deviation over the claimed one.
        low, high: 95 % interval of the ratio.
        p_less: Probability of readings this small under the claimed noise.
        p_more: Probability of readings this large under `MORE_IS_UNEXPLAINED` times the claimed noise.
    """

    samples: int
    ratio: float
    low: float
    high: float
    p_less: float
    p_more: float


def noise_probe(readings: NDArray[np.float64]) -> NoiseProbe:
    """Compares readings on unused directions with the noise that is claimed.

    Args:
        readings: (n,), n >= 1, over the claimed standard deviation.
    """
    samples, total = len(readings), float(np.dot(readings, readings))
    low, high = (math.sqrt(total / float(stats.chi2.isf(tail, samples))) for tail in (0.025, 0.975))
    return NoiseProbe(
        samples=samples,
        ratio=math.sqrt(total / samples),
        low=low,
        high=high,
        p_less=float(stats.chi2.cdf(total, samples)),
        p_more=float(stats.chi2.sf(total / MORE_IS_UNEXPLAINED**2, samples)),
    )


def power_of_noise_probe(samples: int, *, ratio: float, level: float) -> float:
    """Probability that noise of `ratio` times the claimed standard deviation is found too small."""
    if samples < 1:
        return 0.0
    if ratio <= 0.0:
        return 1.0
    return float(stats.chi2.cdf(stats.chi2.ppf(level, samples) / ratio**2, samples))


@dataclass(frozen=True)
class SharedNoise:
    """Whether two releases share noise.

    Attributes:
        samples: Directions that were read in both.
        correlation: Of the readings.
        p_value: Probability of a correlation this far from 0 where noises are independent.
    """

    samples: int
    correlation: float
    p_value: float


def shared_noise(first: NDArray[np.float64], second: NDArray[np.float64]) -> SharedNoise:
    """Correlates the readings of two releases on the same unused directions.

    Args:
        first, second: (n,), n >= 4, each with noise of mean 0.
    """
    samples = len(first)
    size = math.sqrt(float(np.dot(first, first)) * float(np.dot(second, second)))
    correlation = float(np.dot(first, second)) / size if size > 0.0 else 0.0
    inner = min(abs(correlation), 1.0 - 1e-15)
    # Without a mean that is estimated, t has n - 1 degrees of freedom.
    t = inner * math.sqrt((samples - 1) / (1.0 - inner**2))
    return SharedNoise(samples, correlation, 2.0 * float(stats.t.sf(t, samples - 1)))
