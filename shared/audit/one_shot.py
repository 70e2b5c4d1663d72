"""The one-shot estimate of epsilon: how far canaries that are known to be in stand out from directions that nobody used.

For one Gaussian release it is exact in expectation: a canary at the bound moves its own direction by 1/sigma standard
deviations of the noise, whatever the sum of all others is. It is an estimate with an interval, no bound that holds whatever
the mechanism is: noise is taken for normal and equal in all directions, and `spread_ratio` says whether it looks so.

What never lives here: which directions are used, and how a sum is read off them.

Source:
    Andrew, Kairouz, Oh, Oprea, McMahan and Suriyakumar 2024, "One-shot Empirical Privacy Estimation for Federated Learning".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from shared.audit.tradeoff import epsilon_of

_LARGEST_MU = 60.0
# Fewer than these say nothing about a spread.
FEWEST = 3


@dataclass(frozen=True)
class OneShot:
    """The estimate.

    Attributes:
        mu: How far canaries that are in stand out, in standard deviations of the noise.
        mu_low, mu_high: Interval of `mu`.
        epsilon, low, high: The same as epsilons.
        noise_stddev: Standard deviation on directions without a canary that is in.
        spread_ratio: Standard deviation over canaries that are in, over that on the other directions; 1 if being in only
            shifts.
    """

    mu: float
    mu_low: float
    mu_high: float
    epsilon: float
    low: float
    high: float
    noise_stddev: float
    spread_ratio: float


def one_shot(seen: NDArray[np.float64], unseen: NDArray[np.float64], *, delta: float, level: float = 0.05) -> OneShot | None:
    """Estimates epsilon from readings of a noised sum along directions of length 1.

    Args:
        seen: (n,) readings along canaries that are in, what else is known to be in the sum taken away.
        unseen: (k,) readings along directions of no contribution, orthogonal to the canaries, likewise.
        delta: Of the epsilon.
        level: Probability that the interval misses, if noise is normal.

    Returns:
        The estimate; None where there are fewer than three of either.
    """
    if min(len(seen), len(unseen)) < FEWEST:
        return None
    quiet = float(unseen.std(ddof=1))
    dof = len(unseen) - 1
    ratio = float(seen.std(ddof=1)) / quiet if quiet > 0.0 else math.inf
    distance = float(seen.mean() - unseen.mean())
    if not quiet > 1e-9 * max(abs(distance), 1e-300):
        mu = _LARGEST_MU if distance > 0.0 else 0.0
        return OneShot(mu, mu, mu, epsilon_of(mu, delta), epsilon_of(mu, delta), epsilon_of(mu, delta), quiet, 1.0)
    mu = distance / quiet
    error = math.sqrt(1.0 / len(seen) + 1.0 / len(unseen) + mu**2 / (2.0 * dof))
    half = float(stats.t.isf(level / 2.0, dof)) * error
    low, middle, high = (min(max(value, 0.0), _LARGEST_MU) for value in (mu - half, mu, mu + half))
    return OneShot(
        mu=mu,
        mu_low=mu - half,
        mu_high=mu + half,
        epsilon=epsilon_of(middle, delta),
        low=epsilon_of(low, delta),
        high=epsilon_of(high, delta),
        noise_stddev=quiet,
        spread_ratio=ratio,
    )
