"""Renyi curves: the quoted bound as soon as noise is Skellam, and the cross-check where it is Gaussian.

A curve holds a bound on the Renyi divergence of one composition at every order of `ORDERS`; curves of releases add up,
whatever their mechanisms, and one minimum over the orders turns a curve into an epsilon or a delta. Orders are integers,
because the bounds on Skellam noise and on Poisson sampling hold for integers only.

What never lives here: the choice between this bound and the privacy loss distribution, and checks of what callers pass
(`accounting.py`). Events come merged and validated.

Source:
    Mironov 2017, "Renyi Differential Privacy"; Agarwal, Kairouz and Liu 2021, "The Skellam Mechanism for Differentially
    Private Federated Learning"; Mironov, Talwar and Zhang 2019, "Renyi Differential Privacy of the Sampled Gaussian
    Mechanism"; Canonne, Kamath and Steinke 2020, "The Discrete Gaussian for Differential Privacy" (to epsilon and delta).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, logsumexp

from shared.errors import UnsupportedMechanism
from shared.privacy.events import Event, Relation

# Dense where most epsilons have their best order, then 20 % apart; the largest serve epsilons near zero.
ORDERS: NDArray[np.float64] = np.array(
    [*range(2, 64), *np.unique(np.geomspace(64, 2**17, 43).round())], dtype=np.float64
)  # fmt: skip
# A bound on sampling sums over all orders below its own; beyond this one, the bound without sampling stands in.
_LARGEST_SAMPLED_ORDER = 512
_SAMPLED = ORDERS <= _LARGEST_SAMPLED_ORDER
_EVERY_SAMPLED_ORDER = np.arange(2.0, _LARGEST_SAMPLED_ORDER + 1.0)


def curve(events: Sequence[Event], relation: Relation, *, accounts: int = 1) -> NDArray[np.float64]:
    """An upper bound on the Renyi divergence of all events together, between neighbors either way round.

    Args:
        events: Merged and validated.
        relation: What neighboring data sets are.
        accounts: How many units of one person differ at once.

    Returns:
        Shape of `ORDERS`; infinite where nothing is known.

    Raises:
        UnsupportedMechanism: If no valid bound is known for an event: one drawn in samples of bounded size, or sampled
            under replace-one or for several accounts.
    """
    total = np.zeros_like(ORDERS)
    for event in events:
        total = total + event.steps * _one_release(replace(event, steps=1), _units(relation, accounts))
    return total


def why_unsupported(event: Event, relation: Relation, *, accounts: int = 1) -> str | None:
    """Why `curve` has no valid bound for an event; None where it has one."""
    if event.sampling != "poisson":
        return f"no Renyi bound is known for sampling={event.sampling!r}"
    if event.sampling_rate < 1.0 and _units(relation, accounts) > 1:
        return f"no Renyi bound is known for sampled releases under {relation} with accounts={accounts}"
    return None


def to_epsilon(bounds: NDArray[np.float64], *, delta: float) -> float:
    """The smallest epsilon that a curve proves at delta; infinite where it proves none."""
    candidates = bounds + np.log1p(-1.0 / ORDERS) - (math.log(delta) + np.log(ORDERS)) / (ORDERS - 1.0)
    return max(0.0, float(candidates.min()))


def to_delta(bounds: NDArray[np.float64], *, epsilon: float) -> float:
    """The smallest delta that a curve proves at epsilon; at most 1."""
    exponents = (ORDERS - 1.0) * (bounds - epsilon + np.log1p(-1.0 / ORDERS)) - np.log(ORDERS)
    return float(np.exp(min(0.0, exponents.min())))


def _units(relation: Relation, accounts: int) -> int:
    """How many contributions of one unit lie between the sums of neighbors."""
    return accounts * (2 if relation == "replace-one" else 1)


@lru_cache(maxsize=256)
def _one_release(event: Event, units: int) -> NDArray[np.float64]:
    # Which relation made it several units does not matter here.
    reason = why_unsupported(event, "add-or-remove-one", accounts=units)
    if reason is not None:
        raise UnsupportedMechanism(
            f"Expected a release with a Renyi bound, got mechanism={event.mechanism!r}: {reason}. Draw every unit by itself "
            "(Poisson) under add-or-remove-one or zero-out, or account the release as unsampled."
        )
    bounds = _unsampled(event, units, ORDERS)
    if event.sampling_rate < 1.0:
        sampled = _poisson_sampled(event.sampling_rate, _unsampled(event, units, _EVERY_SAMPLED_ORDER))
        # Sampling never makes a divergence larger, which rounding might.
        bounds[_SAMPLED] = np.minimum(bounds[_SAMPLED], sampled)
    bounds.setflags(write=False)
    return bounds


def _unsampled(event: Event, units: int, orders: NDArray[np.float64]) -> NDArray[np.float64]:
    """The Renyi divergence of the noise and the same noise shifted by what `units` units contribute.

    Skellam noise is shifted by a sum of `units` integer vectors, each of L2 norm at most s. An integer is at most its
    square, so that each has an L1 norm of at most s**2 in any dimension, and their sum one of units * s**2.

    Source:
        Mironov 2017 (Gaussian); Agarwal, Kairouz and Liu 2021, the bound for vectors of integers (Skellam).
    """
    precision = 1.0 / event.noise_multiplier / event.noise_multiplier
    bounds = orders * (units * units * precision / 2.0)
    if event.mechanism == "gaussian":
        return np.asarray(bounds)
    scale = event.l2_sensitivity * event.l2_sensitivity
    first = ((2.0 * orders - 1.0) * units * units + 6.0 * units) * (precision * (precision / scale) / 4.0)
    return np.asarray(bounds + np.minimum(first, 1.5 * units * precision))


def _poisson_sampled(rate: float, bounds: NDArray[np.float64]) -> NDArray[np.float64]:
    """The divergences after Poisson sampling, between neighbors either way round, from those without sampling.

    Guarantee:
        An upper bound for noise that is symmetric around zero. Let P be its law, Q the shifted one, r = Q / P and
        M = (1 - q) P + q Q. The divergence of M from P is a binomial sum over those of Q from P, which is what is computed.
        That of P from M is never larger. Mirroring exchanges P and Q, so that E_P[f(r)] is half of E_P[f(r) + r f(1 / r)];
        with g(x) = x^a - x^(1 - a), u = 1 - q + q r and v = 1 - q + q / r, the difference is half of E_P[g(u) + r g(v)].
        For r >= 1 (else exchange r and 1 / r), r g(v) = -c g(1 / v) with c = r v >= 1, and 1 / v = 1 + (u - 1) / c lies
        between 1 and u. There g is convex and g(1) = 0, so that c g(1 / v) <= g(u).

    Args:
        rate: q in (0, 1).
        bounds: Without sampling, at `_EVERY_SAMPLED_ORDER`.

    Returns:
        At `ORDERS[_SAMPLED]`.

    Source:
        Mironov, Talwar and Zhang 2019, "Renyi Differential Privacy of the Sampled Gaussian Mechanism" (the sum, and which
        of the two divergences is larger when two laws mirror each other).
    """
    gains = np.concatenate([[0.0, 0.0], (_EVERY_SAMPLED_ORDER - 1.0) * bounds])
    log_in, log_out = math.log(rate), math.log1p(-rate)
    results = []
    for order in ORDERS[_SAMPLED]:
        drawn = np.arange(order + 1.0)
        ways = gammaln(order + 1.0) - gammaln(drawn + 1.0) - gammaln(order - drawn + 1.0)
        moment = logsumexp(ways + drawn * log_in + (order - drawn) * log_out + gains[: len(drawn)])
        results.append(max(0.0, float(moment)) / (order - 1.0))
    return np.array(results)
