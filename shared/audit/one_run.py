"""Lower bounds on epsilon from one run with many canaries, each put in by a fair coin, and guesses about the coins.

An auditor says of r of m canaries whether each is in; where a mechanism keeps its promise it cannot be right too often. Two
bounds need nothing else to be true: the distribution-free one follows from (epsilon, delta) alone, the one by f-DP from the
whole trade-off function of the mechanism that is claimed. A third one takes the scores for normal, which is an assumption:
it may warn and never decides.

The number of guesses is fixed before the coins are thrown, as a function of public constants (`planned_guesses`): chosen
afterwards, it would be one more thing to be lucky with.

What never lives here: where scores come from, and what a failed audit means (`gate.py`).

Source:
    Steinke, Nasr and Jagielski 2023, "Privacy Auditing with One (1) Training Run", theorem 5.2 and appendix D;
    Mahloujifar, Melis and Chaudhuri 2024, "Auditing f-Differential Privacy in One Run", theorem 3.2 and algorithm 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import bdtrc, ndtr

from shared.audit.tradeoff import GaussianTradeoff, Tradeoff, epsilon_of, mu_of
from shared.errors import ConfigError

Method = Literal["distribution-free", "f-dp"]
Floats = NDArray[np.float64]
Coins = NDArray[np.bool_]
METHODS: tuple[Method, ...] = ("distribution-free", "f-dp")

_LARGEST_EPSILON = 60.0
_LARGEST_MU = 20.0
# Shares of the canaries among which the number of guesses is chosen, and what part of the largest bound it has to keep.
_SHARES = np.geomspace(0.02, 0.9, 20)
_KEPT = 0.85
# Points of each refinement of a search; three refinements find a bound to a thousandth.
_POINTS = 32


@dataclass(frozen=True)
class Guessed:
    """What an auditor said and how often it was right.

    Attributes:
        guesses: r.
        correct: Of these.
    """

    guesses: int
    correct: int


def guess(scores: Floats, included: Coins, *, guesses: int) -> Guessed:
    """Says "in" of the r/2 highest scores and "out" of the r/2 lowest, and counts.

    Args:
        scores: (m,), the higher the likelier a canary is in.
        included: (m,), the coins.
        guesses: r, even and at most m.

    Raises:
        ConfigError: If r is odd or above m.
    """
    if not 0 <= guesses <= len(scores) or guesses % 2:
        raise ConfigError(f"Expected guesses even and at most {len(scores)}, got guesses={guesses}. Plan them anew.")
    order, half = np.argsort(scores, kind="stable"), guesses // 2
    said_in, said_out = order[len(order) - half :], order[:half]
    return Guessed(guesses, int(included[said_in].sum() + (~included[said_out]).sum()))


def p_value(epsilon: float, delta: float, *, canaries: int, guesses: int, correct: int) -> float:
    """The largest probability of at least so many right guesses under any (epsilon, delta)-DP mechanism.

    Args:
        epsilon: >= 0.
        delta: In [0, 1).
        canaries: m.
        guesses: r <= m.
        correct: Right ones among these.
    """
    if correct <= 0:
        return 1.0
    q = 1.0 / (1.0 + math.exp(-epsilon))
    pmf = stats.binom.pmf(np.arange(correct), guesses, q)
    below = np.cumsum(pmf[::-1])  # P[correct - i <= W < correct] for i = 1, 2, ...
    slope = float(np.max(below / np.arange(1, correct + 1)))
    # bdtrc(k, n, p) is P[W > k].
    return min(1.0, float(bdtrc(correct - 1, guesses, q)) + 2.0 * canaries * delta * slope)


@lru_cache(maxsize=4096)
def distribution_free(delta: float, *, canaries: int, guesses: int, correct: int, level: float) -> float:
    """The largest epsilon that is refuted whatever the mechanism is; 0 if none is.

    Guarantee:
        If the mechanism is (epsilon, delta)-DP for canaries that are put in independently by fair coins, and r was fixed
        before, the result exceeds epsilon with probability at most `level`.
    """

    def refuted(epsilon: float) -> bool:
        return p_value(epsilon, delta, canaries=canaries, guesses=guesses, correct=correct) < level

    low, high = 0.0, _LARGEST_EPSILON
    if not refuted(low):
        return 0.0
    while high - low > 1e-4:
        middle = (low + high) / 2.0
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def contradicts(
    tradeoff: Tradeoff, *, canaries: int, guesses: int, correct: int, level: float, shape: tuple[int, ...] = (1,)
) -> NDArray[np.bool_]:
    """Whether so many right guesses have a probability below `level` under mechanisms with this trade-off function.

    The event "at least `correct` guesses are right" is given probability `level`, and the least probability of every smaller
    number of right guesses that the trade-off function forces is added up: for a guess about a random canary, to be right
    while j - 1 others are is hardly likelier than to be wrong while they are. If all of it exceeds 1, the event is less
    likely.

    Args:
        tradeoff: Of one canary in or out; several at once, of a shape.
        canaries: m.
        guesses: r <= m.
        correct: c <= r.
        level: In (0, 1).
        shape: Of the trade-off functions that are asked about.
    """
    right = np.full(shape, level * correct / canaries)
    wrong = np.full(shape, level * (guesses - correct) / canaries)
    for number in range(correct - 1, -1, -1):
        needed = np.maximum(wrong, tradeoff.least_wrong(np.minimum(right, 1.0)))
        right += number / (guesses - number) * (needed - wrong)
        wrong = needed
    return np.asarray(right + wrong > guesses / canaries)


@lru_cache(maxsize=4096)
def gaussian_mu(*, canaries: int, guesses: int, correct: int, level: float) -> float:
    """The largest `mu` of a Gaussian release that is refuted; 0 if none is. As in `f_dp`."""
    if correct <= 0:
        return 0.0
    low, high = 0.0, _LARGEST_MU
    for _ in range(3):
        at = np.linspace(low, high, _POINTS)
        refuted = contradicts(
            GaussianTradeoff(at), canaries=canaries, guesses=guesses, correct=correct, level=level, shape=at.shape
        )
        if not refuted.any():
            return 0.0 if low == 0.0 else low
        last = int(np.flatnonzero(refuted)[-1])
        if last == len(at) - 1:
            return float(at[-1])
        low, high = float(at[last]), float(at[last + 1])
    return low


def f_dp(delta: float, *, canaries: int, guesses: int, correct: int, level: float) -> float:
    """The largest epsilon of a Gaussian release that is refuted; 0 if none is.

    Guarantee:
        If each canary moves a Gaussian release by at most `mu` standard deviations of the noise, and r was fixed before, the
        result exceeds the epsilon of that release with probability at most `level`.
    """
    return epsilon_of(gaussian_mu(canaries=canaries, guesses=guesses, correct=correct, level=level), delta)


def lower_bound(method: Method, delta: float, *, canaries: int, guessed: Guessed, level: float) -> float:
    """One of the two bounds that hold whatever scores look like."""
    bound = distribution_free if method == "distribution-free" else f_dp
    return bound(delta, canaries=canaries, guesses=guessed.guesses, correct=guessed.correct, level=level)


@lru_cache(maxsize=256)
def planned_guesses(method: Method, epsilon: float, delta: float, *, canaries: int, level: float) -> int:
    """The number of guesses r that an audit makes; from public constants alone.

    Few guesses are surer and many weigh more. Of the numbers that lose little where the claim is exactly true, it is the one
    with the largest bound where the noise is half of what it should be, so that this is found. The mechanism is taken to be
    a Gaussian release of that (epsilon, delta).

    Args:
        method: Which bound.
        epsilon, delta: The claim.
        canaries: m.
        level: Of the bound.
    """
    numbers = sorted({2 * max(1, round(canaries * share / 2.0)) for share in _SHARES.tolist()} - {canaries + 1})

    def expected(guesses: int, noise_scale: float) -> float:
        return expected_bound(
            method, epsilon, delta, canaries=canaries, level=level, guesses=guesses, noise_scale=noise_scale
        )

    as_claimed = {guesses: expected(guesses, 1.0) for guesses in numbers}
    kept = [guesses for guesses in numbers if as_claimed[guesses] >= _KEPT * max(as_claimed.values())]
    chosen: int = max(kept, key=lambda guesses: expected(guesses, 0.5))
    return chosen


def expected_bound(
    method: Method,
    epsilon: float,
    delta: float,
    *,
    canaries: int,
    level: float,
    guesses: int,
    noise_scale: float = 1.0,
) -> float:
    """About what the bound is where the mechanism costs exactly this epsilon: what an audit of this size can see.

    Args:
        method: Which bound.
        epsilon, delta: What the mechanism costs, with all of its noise.
        canaries: m.
        level: Of the bound.
        guesses: r.
        noise_scale: What the noise is multiplied by.
    """
    guessed = _expected(guesses, mu_of(epsilon, delta) / noise_scale, canaries)
    return lower_bound(method, delta, canaries=canaries, guessed=guessed, level=level)


def _expected(guesses: int, mu: float, canaries: int) -> Guessed:
    """How many of r guesses are right on average, rounded down, if scores are a distance `mu` apart."""
    low, high = -10.0, 10.0 + mu
    for _ in range(60):  # the threshold above which half of the guessed canaries lie
        middle = (low + high) / 2.0
        above = (ndtr(-middle) + ndtr(mu - middle)) / 2.0
        low, high = (middle, high) if above > guesses / (2.0 * canaries) else (low, middle)
    right, wrong = float(ndtr(mu - low)), float(ndtr(-low))
    return Guessed(guesses, math.floor(guesses * right / (right + wrong)))


def largest_refutable(method: Method, delta: float, *, canaries: int, guesses: int, level: float) -> float:
    """The bound where every guess is right: no claim above it can be refuted by so many."""
    return lower_bound(method, delta, canaries=canaries, guessed=Guessed(guesses, guesses), level=level)


def canaries_needed(epsilon: float, *, level: float) -> int:
    """How many canaries, all guessed right, refute (epsilon, 0) without any assumption."""
    return math.ceil(math.log(level) / -math.log1p(math.exp(-epsilon)))


@dataclass(frozen=True)
class Parametric:
    """What the scores say if they are normal, with one variance, in and out alike. An estimate: it warns, it never gates.

    Attributes:
        mu: Distance of the means in standard deviations.
        mu_low: One-sided lower bound on it.
        epsilon: Of `mu_low`.
    """

    mu: float
    mu_low: float
    epsilon: float


def parametric(scores: Floats, included: Coins, *, delta: float, level: float) -> Parametric:
    """The parametric lower bound, by the noncentral t distribution.

    Args:
        scores: (m,).
        included: (m,), the coins.
        delta: Of the bound.
        level: Probability that `mu_low` is too large, if scores are normal.
    """
    from scipy.optimize import brentq

    inside, outside = scores[included], scores[~included]
    dof = len(scores) - 2
    if min(len(inside), len(outside)) < 2:
        return Parametric(0.0, 0.0, 0.0)
    spread = math.sqrt((inside.var() * len(inside) + outside.var() * len(outside)) / dof)
    distance = float(inside.mean() - outside.mean())
    if not spread > 0.0:
        mu = _LARGEST_MU if distance > 0.0 else 0.0
        return Parametric(mu, mu, epsilon_of(mu, delta))
    mu, weight = distance / spread, math.sqrt(len(inside) * len(outside) / len(scores))
    if mu * weight > 1e3:  # far beyond what the distribution's series can do
        low = mu * (1.0 - stats.norm.isf(level) / math.sqrt(2.0 * dof))
        return Parametric(mu, low, epsilon_of(min(low, _LARGEST_MU), delta))

    def too_large(center: float) -> float:
        return float(stats.nct.sf(mu * weight, dof, center)) - level

    low = 0.0
    if too_large(0.0) < 0.0:
        low = float(brentq(too_large, 0.0, mu * weight + 10.0, xtol=1e-6)) / weight
    return Parametric(mu, low, epsilon_of(min(low, _LARGEST_MU), delta))
