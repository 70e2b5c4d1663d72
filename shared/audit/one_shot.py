"""The one-shot estimate of epsilon: how far canaries that are known to be in stand out of the noise that is measured.

For one Gaussian release it is exact in expectation: a canary at the bound moves its own direction by 1/sigma standard
deviations of the noise, whatever the sum of all others is. It is an estimate with an interval, no bound that holds whatever
the mechanism is: noise is taken for normal and equal in all directions.

What never lives here: which directions are used, and how a sum is read off them.

Source:
    Andrew, Kairouz, Oh, Oprea, McMahan and Suriyakumar 2024, "One-shot Empirical Privacy Estimation for Federated Learning".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from shared.audit.tradeoff import epsilon_of

LARGEST_MU = 60.0
# On fewer directions a standard deviation says nothing.
FEWEST_SAMPLES = 3


@dataclass(frozen=True)
class Standout:
    """What one release shows.

    Attributes:
        shift: What a canary at the bound adds along its own direction, in the unit of the sum.
        shift_error: Standard error of `shift` if the noise is as claimed.
        claimed_noise: Standard deviation that is claimed, > 0.
        noise_ratio: Measured standard deviation over the claimed one.
        noise_samples: Directions it was measured on.
    """

    shift: float
    shift_error: float
    claimed_noise: float
    noise_ratio: float
    noise_samples: int


@dataclass(frozen=True)
class OneShot:
    """The estimate.

    Attributes:
        mu: How far a canary stands out, in standard deviations of the measured noise, over all releases together.
        mu_low, mu_high: Interval of `mu`.
        epsilon, low, high: The same as epsilons.
    """

    mu: float
    mu_low: float
    mu_high: float
    epsilon: float
    low: float
    high: float


def one_shot(releases: Sequence[Standout], *, delta: float, level: float = 0.05) -> OneShot | None:
    """Estimates epsilon from what releases show, composed as Gaussian ones.

    Args:
        releases: Each with noise of its own.
        delta: Of the epsilon.
        level: Probability that the interval misses, if noise is normal.

    Returns:
        The estimate; None where no release has enough directions to measure its noise on.
    """
    read = [one for one in releases if one.noise_samples >= FEWEST_SAMPLES]
    if not read:
        return None
    mus, variances = zip(*(_distance(one) for one in read), strict=True)
    mu = math.sqrt(math.fsum(value * value for value in mus))
    if not math.isfinite(mu):
        return OneShot(LARGEST_MU, LARGEST_MU, LARGEST_MU, *[epsilon_of(LARGEST_MU, delta)] * 3)
    # The estimate of a squared sum is too large by the sum of the variances, which counts where a release shows little.
    mu = math.sqrt(max(mu * mu - math.fsum(variances), 0.0))
    slopes = (value * value * variance for value, variance in zip(mus, variances, strict=True))
    error = math.sqrt(math.fsum(slopes)) / mu if mu > 0.0 else math.sqrt(math.fsum(variances))
    half = float(stats.norm.isf(level / 2.0)) * error
    low, middle, high = (min(max(value, 0.0), LARGEST_MU) for value in (mu - half, mu, mu + half))
    return OneShot(mu, mu - half, mu + half, epsilon_of(middle, delta), epsilon_of(low, delta), epsilon_of(high, delta))


def _distance(one: Standout) -> tuple[float, float]:
    """A release's own `mu`, and the variance of its error."""
    noise = one.claimed_noise * one.noise_ratio
    if not noise > 1e-9 * abs(one.shift):
        return (math.inf if one.shift > 0.0 else 0.0), 0.0
    mu = one.shift / noise
    return mu, (one.shift_error / one.claimed_noise) ** 2 + mu * mu / (2.0 * one.noise_samples)
