"""Bounds from the privacy loss distribution (PLD) of Gaussian releases, by `dp_accounting`, on a grid fine enough.

Releases to which every unit contributes are one Gaussian release together, whose delta is known in closed form: they take no
grid. It is written here because the library's loses digits where the noise is large, and says nothing of rounding.

`dp_accounting` rounds losses upwards onto a grid, so that every width gives a valid bound and a fine one a tight bound: no
single width suits both one release and ten thousand of which each costs next to nothing. Here the grid is refined until the
error that the last refinements predict is small. What its Fourier transforms may lose to rounding, which matters for many
releases at a small delta, is added to delta.

What never lives here: checks of what callers pass, and the choice between this bound and Renyi DP (`accounting.py`). Events
come merged and validated.

Source:
    Meiser and Mohammadi 2018, "Tight on Budget?"; Koskela et al. 2020, "Computing Tight Differential Privacy Guarantees
    Using FFT"; Doroshenko et al. 2022, "Connect the Dots: Tighter Discrete Approximations of Privacy Loss Distributions";
    Choquette-Choo et al. 2024, "Privacy Amplification for Matrix Mechanisms" (several accounts: mixtures of Gaussians);
    Balle and Wang 2018, "Improving the Gaussian Mechanism", theorem 8 (the closed form).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, logsumexp, ndtr

from shared.errors import PrivacyError
from shared.privacy.events import Event, Relation

# The grid starts at this width, or wider for losses in the hundreds, and is divided by 4.
_FIRST_GRID = 0.256
_FIRST_POINTS = 20_000
# Points that one release, and all together, may take; where the next grid would need more, the last bound stands.
_MOST_POINTS = 800_000
_MOST_COMPOSED_POINTS = 5_000_000
# exp(width) has to fit into a float. Losses that need more are in the millions.
_WIDEST_GRID = 300.0
# Largest error of epsilon: absolute for usual ones, relative for small ones, where 0.01 would be all of it, and for large.
_TOLERANCE = 0.01
_SMALL_SHARE = 0.01
_SMALLEST_TOLERANCE = 1e-4
_LARGE_SHARE = 1e-4
# Largest relative error of delta.
_DELTA_TOLERANCE = 0.02
# Fourier transforms err by about 2e-16 a composed step in the sum of a tail; ten times that is added to delta.
_ROUNDING_A_STEP = 2e-15
# A float shows no cost of noise beyond this, nor the cost of a sensitivity beyond that many times the noise.
_MOST_NOISE = 1e9
_MOST_RATIO = 1e30
# Largest relative rounding of a logarithm in the closed form, with room: a few units in the last place.
_ROUNDING_OF_LOGARITHMS = 4e-15
# Losses more than so many standard deviations out (probability 1e-23) count as infinite; thresholds are sought farther out.
_TAIL, _FARTHEST = 10.0, 40.0
# No bound above this is worth a number.
_MOST_EPSILON = 1e9


def supports(event: Event, relation: Relation, *, accounts: int = 1) -> bool:
    """Whether the loss distribution of a release is known, when so many accounts of one person differ at once."""
    if event.mechanism != "gaussian":
        return False
    return accounts == 1 or (event.sampling == "poisson" and (event.sampling_rate == 1.0 or relation != "replace-one"))


def epsilon_bound(events: tuple[Event, ...], relation: Relation, *, delta: float, accounts: int = 1) -> float:
    """An upper bound on epsilon; infinite where none is known.

    Args:
        events: Merged, validated and supported; not empty.
        relation: What neighboring data sets are.
        delta: In (0, 1).
        accounts: How many units of one person differ at once.
    """
    if _is_full_release(events):
        ratio = _ratio(events[0], relation, accounts)
        return _smallest(lambda epsilon: _log_delta_of_full_release(ratio, epsilon) <= math.log(delta))
    target = delta - _rounding(events)
    if target <= 0:
        return math.inf
    if accounts * sum(event.steps * event.sampling_rate for event in events) <= target:
        return 0.0  # nobody of the person is likely to be drawn even once

    def bound(grid: float) -> float:
        composed = _composed(events, relation, accounts, grid)
        return _smallest(lambda epsilon: bool(composed.get_delta_for_epsilon(epsilon) <= target))

    def tolerance(value: float) -> float:
        return max(min(_TOLERANCE, _SMALL_SHARE * value), _LARGE_SHARE * value, _SMALLEST_TOLERANCE)

    return _refined(bound, tolerance, _grids(events, relation, accounts))


def delta_bound(events: tuple[Event, ...], relation: Relation, *, epsilon: float, accounts: int = 1) -> float:
    """An upper bound on delta at an epsilon; arguments as in `epsilon_bound`."""
    if _is_full_release(events):
        return math.exp(_log_delta_of_full_release(_ratio(events[0], relation, accounts), epsilon))

    def log_bound(grid: float) -> float:
        found = float(_composed(events, relation, accounts, grid).get_delta_for_epsilon(epsilon))
        return math.log(max(found, 0.0) + _rounding(events))

    return min(1.0, math.exp(_refined(log_bound, lambda _: _DELTA_TOLERANCE, _grids(events, relation, accounts))))


def deltas_at(events: tuple[Event, ...], relation: Relation, *, epsilons: NDArray[np.float64]) -> NDArray[np.float64]:
    """Upper bounds on delta at many epsilons, (E,), from one grid of middle width; arguments as in `epsilon_bound`.

    Raises:
        PrivacyError: If the losses are too large for a grid.
    """
    grids = _grids(events, relation, 1)
    if not grids:
        raise PrivacyError("Expected noise that some bound is known for, got too little. Nothing can be claimed of it.")
    composed = _composed(events, relation, 1, grids[min(2, len(grids) - 1)])
    found = np.asarray(composed.get_delta_for_epsilon(epsilons.tolist()), dtype=np.float64)
    return np.clip(found + _rounding(events), 0.0, 1.0)


def _is_full_release(events: tuple[Event, ...]) -> bool:
    """Whether it is one release to which every unit contributes; merged events hold at most one such."""
    return len(events) == 1 and events[0].steps == 1 and events[0].sampling_rate == 1.0 and events[0].sampling == "poisson"


def _log_delta_of_full_release(ratio: float, epsilon: float) -> float:
    """The logarithm of delta at an epsilon for a sensitivity of `ratio` times the noise, rounded upwards."""
    of_one = float(log_ndtr(ratio / 2.0 - epsilon / ratio))
    of_other = float(log_ndtr(-ratio / 2.0 - epsilon / ratio)) + epsilon
    rounding = _ROUNDING_OF_LOGARITHMS * (1.0 + abs(of_one) + abs(of_other) + 2.0 * epsilon)
    return min(0.0, of_one + rounding + math.log(-math.expm1(min(of_other - of_one, 0.0) - 2.0 * rounding)))


def _smallest(holds: Callable[[float], bool]) -> float:
    """The smallest number >= 0 for which something holds, to seven digits and rounded upwards; infinite if none does.

    `dp_accounting` has a search of its own, which is slower and beyond 700 meets exponentials that no float holds.
    """
    if holds(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while not holds(high):
        low, high = high, high * 2.0
        if high > _MOST_EPSILON:
            return math.inf
    while high - low > 1e-7 * high:
        middle = (low + high) / 2.0
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _rounding(events: tuple[Event, ...]) -> float:
    return _ROUNDING_A_STEP * sum(event.steps for event in events)


def _refined(bound: Callable[[float], float], tolerance: Callable[[float], float], grids: list[float]) -> float:
    """The best bound over finer and finer grids, until its error is small.

    The error shrinks like a power of the width, which three bounds tell: 2 where the grid is fine, less where it is wider
    than the losses. The power grows as the grid gets finer, so that what is predicted is too large rather than too small.
    """
    bounds: list[float] = []
    for grid in grids:
        bounds.append(bound(grid))
        if not math.isfinite(bounds[-1]):
            break
        if len(bounds) < 3:
            continue
        before, last = bounds[-3] - bounds[-2], bounds[-2] - bounds[-1]
        if last <= 0.0:
            break
        shrinkage = before / last
        if shrinkage <= 1.0:
            continue
        error = last / (shrinkage - 1.0)
        if error <= tolerance(bounds[-1]):
            break
        if error <= tolerance(bounds[-1]) * math.sqrt(shrinkage):
            bounds.append(bound(grid / 2.0))  # half a refinement is enough
            break
    return min(bounds, default=math.inf)


def _grids(events: tuple[Event, ...], relation: Relation, accounts: int) -> list[float]:
    """Widths to try, from wide to fine; none if losses are too large."""
    widest = composed = total = 0.0
    for event in events:
        # How far single losses spread, and how much their sum does: by the Renyi divergence of order 2, and by whether the
        # unit was drawn at all, which decides where noise is small.
        rate, ratio = event.sampling_rate, _ratio(event, relation, accounts)
        span = ratio * (ratio + 20.0)
        divergence = max(math.log1p(rate * rate * math.expm1(min(ratio * ratio, 500.0))), ratio * ratio - 500.0)
        variance = event.steps * (divergence + rate * (1.0 - rate) * ratio**4 / 4.0)
        widest = max(widest, span)
        # What self-composition spans by its Chernoff bound, whose orders are limited.
        composed = max(composed, 4.0 * span + 17.0 * math.sqrt(variance) + variance / span)
        total += variance
    finest = max(widest / _MOST_POINTS, composed / _MOST_COMPOSED_POINTS, 17.0 * math.sqrt(total) / _MOST_COMPOSED_POINTS)
    grid = max(_FIRST_GRID, widest / _FIRST_POINTS, finest)
    if not grid <= _WIDEST_GRID:
        return []
    grids: list[float] = []
    while grid >= finest and len(grids) < 12:
        grids.append(grid)
        grid /= 4.0
    return grids


def _units(event: Event, relation: Relation, accounts: int) -> int:
    """At most how many contributions of one unit lie between the sums of neighbors."""
    displaced = 2 if event.sampling == "truncated-poisson" else 1
    return accounts * max(displaced, 2 if relation == "replace-one" else 1)


def _ratio(event: Event, relation: Relation, accounts: int) -> float:
    """The sensitivity over the noise."""
    return min(_units(event, relation, accounts) / event.noise_multiplier, _MOST_RATIO)


# Composed distributions answer for other deltas; single ones for more steps, and beside other releases.
@lru_cache(maxsize=16)
def _composed(events: tuple[Event, ...], relation: Relation, accounts: int, grid: float) -> Any:
    total = None
    for event in events:
        distribution = _one_release(replace(event, steps=1), relation, accounts, grid)
        if event.steps > 1:
            distribution = distribution.self_compose(event.steps)
        total = distribution if total is None else total.compose(distribution)
    return total


@lru_cache(maxsize=64)
def _one_release(event: Event, relation: Relation, accounts: int, grid: float) -> Any:
    from dp_accounting import NeighboringRelation
    from dp_accounting.pld import privacy_loss_distribution as distributions

    neighbors = {
        "add-or-remove-one": NeighboringRelation.ADD_OR_REMOVE_ONE,
        "zero-out": NeighboringRelation.REPLACE_SPECIAL,
        "replace-one": NeighboringRelation.REPLACE_ONE,
    }[relation]
    noise = min(event.noise_multiplier, _MOST_NOISE)
    if event.sampling == "truncated-poisson":
        return distributions.from_truncated_subsampled_gaussian_mechanism(
            dataset_size=event.population,  # of the larger one of two neighbors
            sampling_probability=event.sampling_rate,
            truncated_batch_size=event.sample_cap,
            noise_multiplier=noise,
            value_discretization_interval=grid,
            neighboring_relation=neighbors,
        )
    if event.sampling_rate < 1.0 and accounts > 1:
        return _several_sampled(noise, event.sampling_rate, accounts, grid)
    return distributions.from_gaussian_mechanism(
        standard_deviation=noise / accounts,
        sampling_prob=event.sampling_rate,
        value_discretization_interval=grid,
        neighboring_relation=neighbors,
    )


def _several_sampled(noise: float, rate: float, accounts: int, grid: float) -> Any:
    """The loss distribution when each of several accounts is drawn by itself, so that none to all of them are in.

    The worst case is that their vectors point the same way: a standard normal, in units of the noise, against a mixture of
    shifted ones with binomial weights. `dp_accounting` has such mixtures, but for much noise its inversion does not end.
    """
    from dp_accounting.pld import pld_pmf, privacy_loss_distribution
    from scipy.stats import binom

    counts = np.arange(accounts + 1)[:, None]
    shifts, log_weights = counts / noise, binom.logpmf(counts, accounts, rate)

    def loss(at: NDArray[np.float64]) -> NDArray[np.float64]:
        """log(mixture / normal), which grows from log_weights[0] to infinity."""
        return np.asarray(logsumexp(log_weights + shifts * (at - shifts / 2.0), axis=0))

    def where(losses: NDArray[np.float64]) -> NDArray[np.float64]:
        low, high = np.full_like(losses, -_FARTHEST), np.full_like(losses, _FARTHEST + shifts[-1, 0])
        for _ in range(60):
            middle = (low + high) / 2.0
            below = loss(middle) < losses
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return high

    def distribution(lowest: float, highest: float, deltas_at: Callable[[Any], Any]) -> Any:
        first, last = math.floor(lowest / grid), math.ceil(highest / grid)
        # Rounding must not make a delta rise with epsilon.
        deltas = np.maximum.accumulate(np.clip(deltas_at(np.arange(first, last + 1) * grid), 0.0, 1.0)[::-1])[::-1]
        return pld_pmf.create_pmf_pessimistic_connect_dots_fixed_gap(grid, first, last, deltas)

    def deltas_of_removal(epsilons: NDArray[np.float64]) -> NDArray[np.float64]:
        at = where(epsilons)
        mixture = np.sum(np.exp(log_weights + log_ndtr(shifts - at)), axis=0)
        return np.asarray(mixture - np.exp(epsilons + log_ndtr(-at)))

    def deltas_of_addition(epsilons: NDArray[np.float64]) -> NDArray[np.float64]:
        at = where(-epsilons)
        mixture = logsumexp(log_weights + log_ndtr(at - shifts), axis=0)
        return np.asarray(ndtr(at) - np.exp(epsilons + mixture))

    lowest, highest = (float(loss(np.array([at]))[0]) for at in (-_TAIL, _TAIL + shifts[-1, 0]))
    return privacy_loss_distribution.PrivacyLossDistribution(
        distribution(lowest, highest, deltas_of_removal), distribution(-highest, -lowest, deltas_of_addition)
    )
