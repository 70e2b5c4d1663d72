"""Whether users are drawn by independent coins of the claimed rate, from sums over the worst population.

All users of that population but one add -1 when they are drawn, and one adds 1. Under independent coins a sum of s draws of
n users at rate q, with noise of standard deviation z in each, has variance s (n q (1 - q) + z^2). Where as many are drawn
each time it has s (4 q (1 - q) + z^2), of which the first part is the one user's. So sums that vary too little refute the
coins, and a mean too far below the claimed one refutes the rate.

What never lives here: where sums come from (`simulations/audits/sampling_probe.py`).

Source:
    Box 1953, "Non-Normality and Tests on Variances": what a binomial's kurtosis changes of the chi-square distribution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class SamplingDesign:
    """What is claimed of the draws.

    Attributes:
        users: n.
        rate: q.
        steps: s, draws in a sum.
        noise_multiplier: z.
        readings: Sums.
    """

    users: int
    rate: float
    steps: int
    noise_multiplier: float
    readings: int

    @property
    def mean(self) -> float:
        """Of a sum."""
        return -self.steps * self.rate * (self.users - 2)

    @property
    def variance(self) -> float:
        """Of a sum under independent coins."""
        return self.steps * (self.users * self.rate * (1.0 - self.rate) + self.noise_multiplier**2)

    @property
    def variance_of_a_fixed_size(self) -> float:
        """Of a sum where as many are drawn each time, were the one user's draw still a coin of its own."""
        return self.steps * (4.0 * self.rate * (1.0 - self.rate) + self.noise_multiplier**2)

    @property
    def degrees(self) -> float:
        """Of freedom: of R - 1 what the kurtosis of coins leaves."""
        coin = self.rate * (1.0 - self.rate)
        excess = self.steps * self.users * coin * (1.0 - 6.0 * coin) / self.variance**2
        return (self.readings - 1) / (1.0 + excess / 2.0)


@dataclass(frozen=True)
class SamplingProbe:
    """What the sums say.

    Attributes:
        spread: Standard deviation over the claimed one.
        p_spread: Probability of sums that vary this little under independent coins.
        excess: How much more often users are drawn than claimed, as a ratio.
        p_excess: Probability of a mean this far down at the claimed rate.
    """

    spread: float
    p_spread: float
    excess: float
    p_excess: float


def sampling_probe(design: SamplingDesign, sums: Sequence[float]) -> SamplingProbe:
    """Compares sums with what is claimed of them.

    Args:
        design: The claim.
        sums: As many as the design says.
    """
    values = np.asarray(sums, dtype=np.float64)
    ratio = float(values.var(ddof=1)) / design.variance
    z = (design.mean - float(values.mean())) / math.sqrt(design.variance / design.readings)
    return SamplingProbe(
        spread=math.sqrt(ratio),
        p_spread=float(stats.chi2.cdf(ratio * design.degrees, design.degrees)),
        excess=float(values.mean()) / design.mean if design.mean else 1.0,
        p_excess=float(stats.norm.sf(z)),
    )


def power_of_sampling_probe(design: SamplingDesign, *, level: float) -> float:
    """Probability that cohorts of a fixed size are found to vary too little."""
    threshold = stats.chi2.ppf(level, design.degrees) * design.variance / design.variance_of_a_fixed_size
    return float(stats.chi2.cdf(threshold, design.readings - 1))
