"""How near Skellam noise is to a rounded Gaussian of the same variance, so that a Gaussian's bounds hold for it.

Integer noise in shares has to be Skellam, the one that is closed under sums. Renyi bounds on it cost 7 to 9 % more noise
than the best bound on Gaussian noise, because they pass through moments. What is proven here instead: all Skellam noise of a
run together, over all coordinates of all releases, is within a factor exp(eta) of rounded Gaussian noise, but for a
probability beta. Rounded Gaussian noise on integers is the Gaussian mechanism and rounding after it. With what the Gaussian
mechanism proves, epsilon' at delta', Skellam noise is

    (epsilon' + 2 eta, exp(eta) delta' + beta (1 + exp(epsilon' + eta)))-DP,

whatever was sampled, composed or adapted, and for groups: the noise is exchanged as a whole, before anything is computed.
eta is some thousandths at a noise multiplier of 1 and below 1e-4 at 5.

Proof. Let x be the variance, p(k) = exp(-x) I_k(x) Skellam's probabilities, g(k) those of a normal variable of variance x
rounded to whole numbers, L = log(p / g), D(k) = L(k) - L(0), u = k / sqrt(x).

1.  Amos bounds I_j(x) / I_{j-1}(x): with a = j - 1/2 it is at most x / (a + sqrt(a^2 + x^2)) = exp(-asinh(a / x)), and at
    least that with (a + 1)^2 under the root, which is less by a factor of at most exp(j / x^2). With t - t^3 / 6 <= asinh(t)
    <= t, sums over j = 1 .. k give  -k^2 / 2x - k (k + 1) / 2x^2  <=  log p(k) - log p(0)  <=  -k^2 / 2x + k^4 / 24x^3.
2.  g(k) is the normal density's integral over a cell. Relative to the cell at 0 it is exp(-k^2 / 2x) times the mean of
    exp(-k t / x) over a symmetric unimodal law on [-1/2, 1/2], which is between 1 and exp(k^2 / 24x^2).
3.  So  -(13/24 u^2 + |u| / 2 sqrt(x)) / x  <=  D(k)  <=  u^4 / 24x.
4.  Let |u| <= 16; beyond is less than 2^-180 of either law (Chernoff). On these k let a(s) = log sum g exp(s L): convex,
    a(0) and a(1) are logarithms of probabilities, and a'' is the variance of D under a law proportional to g exp(s D). For
    |s| <= x / 50 and x >= 200^2 that variance is at most 1 / x^2: bounded by the mean of the square of the larger bound
    in 3, under the normal density with the larger of the factors exp(|s| D), it is .97 / x^2 by numerical integration, the
    half cell that rounding adds and the law's normalization included. Newton's interpolation at 0 and 1 says
    a(1 + s), a(-s) <= s (s + 1) / 2x^2 + s 2^-178 for 0 <= s <= x / 50.
5.  Coordinates are independent. Over all of them, by Chernoff, the sum of L under p, and that of -L under g, exceeds
        eta = (s + 1) / 2 * sum of 1 / x^2 + log(1 / beta) / s
    with probability at most beta, for any s up to the smallest x / 50. Whatever has probability P under one law then has at
    most exp(eta) P + beta under the other; for fewer than 2^58 coordinates, all that was left out adds 2^-120 to either.

The encoding makes steps so fine that a release of d coordinates and sensitivity s has d <= (s / FINENESS)^4. Its noise has
x = (z s)^2, so that its sum of 1 / x^2 is at most FINENESS^-4 / z^4: the noise multiplier z says all that is needed.

What never lives here: which bound is quoted (`accounting.py`), and the noise (`shared/randomness.py`).

Source:
    Amos 1974, "Computation of Modified Bessel Functions and Their Ratios", eq. 9 and 11; Agarwal, Kairouz and Liu 2021, "The
    Skellam Mechanism for Differentially Private Federated Learning", for the mechanism. The comparison is our own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from shared.privacy.events import Event
from shared.secagg.encoding import FINENESS, MIN_SENSITIVITY

# The proof's own numbers: the least standard deviation in steps, and the largest s over a variance.
_LEAST_STDDEV = 200.0
_LARGEST_TILT = 1.0 / 50.0
# Beyond, nothing is gained that a float would show.
_MOST_NOISE, _MOST_STEPS = 1e9, 1e9
# What the proof leaves out: the tails of all coordinates together.
_LEFT_OUT = 2.0**-120


def distance(events: Sequence[Event], *, log_beta: float) -> float:
    """eta: all Skellam noise of these events is within exp(eta) of rounded Gaussian noise, but for a probability beta.

    Args:
        events: What is released; only those with Skellam noise count.
        log_beta: The logarithm of beta. (public)

    Returns:
        eta >= 0; infinite where the noise of a release is too coarse for the proof, or beta below 2^-119.
    """
    noisy = [event for event in events if event.mechanism == "skellam"]
    if not noisy:
        return 0.0
    if min(event.l2_sensitivity for event in noisy) < MIN_SENSITIVITY or log_beta <= math.log(2.0 * _LEFT_OUT):
        return math.inf  # such steps are none of the encoding's
    log_beta = math.log(math.exp(log_beta) - _LEFT_OUT)
    multipliers = [min(event.noise_multiplier, _MOST_NOISE) for event in noisy]
    least = min(own * min(event.l2_sensitivity, _MOST_STEPS) for own, event in zip(multipliers, noisy, strict=True))
    if least < _LEAST_STDDEV:
        return math.inf
    spread = math.fsum(event.steps * (FINENESS * own) ** -4.0 for own, event in zip(multipliers, noisy, strict=True))
    tilt = min(_LARGEST_TILT * least**2, math.sqrt(-2.0 * log_beta / spread))
    return (tilt + 1.0) / 2.0 * spread - log_beta / tilt + _LEFT_OUT
