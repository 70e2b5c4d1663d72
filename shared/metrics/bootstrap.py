"""The Poisson bootstrap: how certain a mean over users is, from sums alone.

What lives here: user keys, bootstrap weights, and intervals and p-values from replicates. What never does:
any metric. Why this way: an interval needs the spread over users, and users are spread over clients. The
Poisson bootstrap can be summed: in replicate b user u counts w(u, b) ~ Poisson(1) times, and w is a pure
function of (seed, user, b), so that clients need not talk to each other, batches may be of any size and in
any order, and two models are resampled alike, which makes the interval of their difference a paired one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import polars as pl

# Share of bootstrap replicates inside an interval.
CONFIDENCE = 0.95
# Users whose weights are drawn at once: bounds memory at R x WEIGHT_BLOCK floats.
WEIGHT_BLOCK = 4096
# P(X <= x) for X ~ Poisson(1), x = 0 .. 17; the next term is below the spacing of float64.
_POISSON_CDF = np.cumsum([math.exp(-1) / math.factorial(x) for x in range(18)])


def user_keys(users: Sequence[str] | pl.Series) -> NDArray[np.uint64]:
    """Turns user ids into the 64-bit keys that bootstrap weights are drawn from.

    BLAKE2b, because the key must be the same in every process and every version of every library.

    Args:
        users: B user ids. (private)

    Returns:
        Keys, shape (B,), uint64. (private: a key names its user to whoever can guess the id)
    """
    digests = b"".join(blake2b(str(user).encode(), digest_size=8).digest() for user in users)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def bootstrap_weights(keys: NDArray[np.uint64], *, num_replicates: int, bootstrap_seed: int) -> NDArray[np.float64]:
    """Draws how often each user counts in each replicate: Poisson(1), a pure function of its arguments.

    Args:
        keys: User keys, shape (B,), uint64. (private)
        num_replicates: Bootstrap replicates R >= 0. (public)
        bootstrap_seed: Any integer; the same seed gives the same weights. (public)

    Returns:
        Weights, shape (R, B), float64, whole numbers >= 0.

    Source:
        Chamandy et al. 2012, "Estimating Uncertainty for Massive Data Streams", section 3 (Poisson
        bootstrap with seeded weights); Steele et al. 2014, "Fast Splittable Pseudorandom Number
        Generators", figure 14 (the mixing function of SplitMix64).
    """
    # Counters of a stream: seed mixed first, so that neighboring seeds share no replicate.
    seed = _mix(np.full(num_replicates, bootstrap_seed % 2**64, dtype=np.uint64))
    replicates = _mix(np.add(seed, np.arange(num_replicates, dtype=np.uint64), dtype=np.uint64))
    bits = _mix(keys[None, :] ^ replicates[:, None])
    uniform = (bits >> np.uint64(11)) * 2.0**-53
    return np.searchsorted(_POISSON_CDF, uniform, side="right").astype(np.float64)


def resample(
    values: NDArray[np.float64], keys: NDArray[np.uint64], *, num_replicates: int, bootstrap_seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums per-user values under bootstrap weights.

    Args:
        values: Shape (B, M), float64. (private)
        keys: User keys, shape (B,), uint64. (private)
        num_replicates: Bootstrap replicates R >= 0. (public)
        bootstrap_seed: Any integer. (public)

    Returns:
        Weighted sums, shape (R, M), and sums of the weights, shape (R,), both float64.
    """
    sums = np.zeros((num_replicates, values.shape[1]))
    counts = np.zeros(num_replicates)
    for start in range(0, len(keys), WEIGHT_BLOCK):
        block = slice(start, start + WEIGHT_BLOCK)
        weights = bootstrap_weights(keys[block], num_replicates=num_replicates, bootstrap_seed=bootstrap_seed)
        sums += weights @ values[block]
        counts += weights.sum(axis=1)
    return sums, counts


def percentile_interval(replicates: NDArray[np.float64]) -> tuple[float | None, float | None]:
    """Gives the 95 % percentile interval of a statistic from its replicates.

    Quantiles lie at j / (R + 1), so that few replicates do not make the interval narrower.

    Args:
        replicates: The statistic in each replicate, shape (R,), float64.

    Returns:
        Lower and upper end; None without replicates.

    Source:
        Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 13.3; Davison and Hinkley
        1997, "Bootstrap Methods and their Application", section 5.2 (the quantiles).
    """
    if len(replicates) == 0:
        return None, None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(replicates, [tail, 1 - tail], method="weibull")
    return float(low), float(high)


def two_sided_p_value(replicates: NDArray[np.float64]) -> float:
    """Tests whether a difference is 0, from its replicates d*; both tails count.

    p = 2 min(P(d* <= 0), P(d* >= 0)), each probability as (1 + count) / (R + 1), at most 1. p is small
    exactly when an interval of the corresponding confidence excludes 0, whichever sign the difference
    has. It is 1 when all replicates are 0, and never below 2 / (R + 1).

    Args:
        replicates: The difference in each replicate, shape (R,), float64, R >= 1.

    Returns:
        The p-value, in (0, 1].

    Source:
        Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 15.4 (tests from intervals);
        Davison and Hinkley 1997, "Bootstrap Methods and their Application", section 4.2 (the added one).
    """
    tails = (np.count_nonzero(replicates <= 0), np.count_nonzero(replicates >= 0))
    return float(min(1.0, 2 * (1 + min(tails)) / (1 + len(replicates))))


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scrambles 64-bit words so that counters become independent-looking bits (SplitMix64)."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
