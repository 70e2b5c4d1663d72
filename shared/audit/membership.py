"""Rates of an attack that tells members from others: area under the curve, and members found at a low rate of false alarms.

A rate of false alarms that would be fewer than ten of the non-members is "not measurable" and is not given. What never lives
here: scores.

Source:
    Carlini et al. 2022, "Membership Inference Attacks From First Principles" (why low rates); Newcombe 2006, "Confidence
    Intervals for an Effect Size Measure Based on the Mann-Whitney Statistic", part 2, method 5 (the interval of the area);
    Clopper and Pearson 1934.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

# A rate of false alarms is measured by at least so many false alarms.
FEWEST_FALSE_ALARMS = 10


@dataclass(frozen=True)
class Rate:
    """A measured rate with its 95 % interval."""

    value: float
    low: float
    high: float


def area(members: NDArray[np.float64], others: NDArray[np.float64]) -> Rate:
    """The probability that a member scores higher than another, ties counted half; chance is 0.5.

    Args:
        members: (n,), n >= 1.
        others: (k,), k >= 1.
    """
    ranks = stats.rankdata(np.concatenate([members, others]))
    n, k = len(members), len(others)
    found = float((ranks[:n].sum() - n * (n + 1) / 2.0) / (n * k))
    return Rate(found, _end(found, n, k, upper=False), _end(found, n, k, upper=True))


def members_found(members: NDArray[np.float64], others: NDArray[np.float64], *, false_alarms: float) -> Rate | None:
    """The share of members above the score that so many of the others exceed.

    Args:
        members: (n,), n >= 1.
        others: (k,).
        false_alarms: Rate in (0, 1).

    Returns:
        With a Clopper-Pearson interval for the members, the threshold taken as it is; None where it is not measurable.
    """
    allowed = math.floor(false_alarms * len(others) + 1e-9)
    if allowed < FEWEST_FALSE_ALARMS:
        return None
    threshold = np.sort(others)[len(others) - allowed - 1]
    found, n = int((members > threshold).sum()), len(members)
    return Rate(found / n, *clopper_pearson(found, n))


def clopper_pearson(successes: int, trials: int, *, level: float = 0.05) -> tuple[float, float]:
    """The exact interval of a probability."""
    low = 0.0 if successes == 0 else float(stats.beta.ppf(level / 2.0, successes, trials - successes + 1))
    high = 1.0 if successes == trials else float(stats.beta.isf(level / 2.0, successes + 1, trials - successes))
    return low, high


def _end(found: float, n: int, k: int, *, upper: bool) -> float:
    """Where the true area would lie 1.96 of its own standard errors from what was found."""
    from scipy.optimize import brentq

    z, mean = 1.959963984540054, (n + k) / 2.0 - 1.0
    sign = 1.0 if upper else -1.0

    def off(true: float) -> float:
        variance = true * (1.0 - true) * (1.0 + mean * (1.0 - true) / (2.0 - true) + mean * true / (1.0 + true)) / (n * k)
        return (true - found) - sign * z * math.sqrt(max(variance, 0.0))

    low, high = (found, 1.0) if upper else (0.0, found)
    if off(low) * off(high) > 0.0 or low == high:
        return 1.0 if upper else 0.0
    inner_low, inner_high = (low + 1e-12, high) if upper else (low, high - 1e-12)
    if off(inner_low) * off(inner_high) > 0.0:
        return 1.0 if upper else 0.0
    return float(brentq(off, inner_low, inner_high))
