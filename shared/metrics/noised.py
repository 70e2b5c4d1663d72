"""Released metrics: from noised sums of bounded contributions to means, withheld where a count is too small.

A user contributes (HR, NDCG, 1), each in [0, 1], divided by `USER_L2_NORM`, so that the vector's L2 norm is at most 1
(`client/statistics/metrics.py`). What never lives here: the noise and its account (`shared/privacy/plan.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# What a user's three numbers in [0, 1] are divided by.
USER_L2_NORM = 3.0**0.5
NUM_VALUES = 3
# Metrics of fewer users than this are not released, whatever the noise.
SMALLEST_COUNT = 20
# A count must stand so many standard deviations of the noise above zero before anything is divided by it.
_SMALLEST_SIGNAL = 5.0


@dataclass(frozen=True)
class NoisedMetrics:
    """Metrics that may be released.

    Attributes:
        hr: Hit rate in [0, 1]; None where withheld.
        ndcg: In [0, 1]; None where withheld.
        users: Noised count of users with a target; None where withheld.
        noise_half_width: Half the 95 % interval of HR, and at most of NDCG, that is due to the noise alone.
    """

    hr: float | None
    ndcg: float | None
    users: float | None
    noise_half_width: float | None


def noised_metrics(sums: NDArray[np.float64], *, noise_stddev: float) -> NoisedMetrics:
    """Means from noised sums: post-processing of a released value, which costs nothing.

    Args:
        sums: Shape (3,), a noised total of bounded contributions. (public)
        noise_stddev: Standard deviation of the noise in each of the three. (public)
    """
    hr, ndcg, users = (float(value) * USER_L2_NORM for value in sums)
    stddev = noise_stddev * USER_L2_NORM
    if not users >= max(SMALLEST_COUNT, _SMALLEST_SIGNAL * stddev):
        return NoisedMetrics(None, None, None, None)
    rate = min(max(hr / users, 0.0), 1.0)
    return NoisedMetrics(
        hr=rate,
        ndcg=min(max(ndcg / users, 0.0), 1.0),
        users=users,
        # Numerator and denominator are noised alike, which a ratio r feels as sqrt(1 + r^2); NDCG is at most HR.
        noise_half_width=1.96 * stddev / users * math.sqrt(1.0 + rate**2),
    )
