"""Skellam noise beside rounded Gaussian noise: the steps of the proof by sums over the integers, which share no code."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special

from shared.privacy import renyi
from shared.privacy.accounting import delta, epsilon, group_epsilon, rdp_epsilon
from shared.privacy.events import Event
from shared.privacy.skellam import distance

Floats = NDArray[np.float64]


def _logs(stddev: float, reach: float = 16.0) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Whole numbers >= 0, and the logarithms of Skellam's probabilities and of a rounded normal variable's there."""
    numbers = np.arange(int(reach * stddev) + 1)
    cells = special.ndtr((0.5 - numbers) / stddev) - special.ndtr(-(0.5 + numbers) / stddev)
    return numbers, np.log(special.ive(numbers, stddev**2)), np.log(cells)


def _both_signs(values: Floats) -> Floats:
    """Weights of whole numbers >= 0, for sums over all of them."""
    return values * np.where(np.arange(len(values)) == 0, 1.0, 2.0)


@pytest.mark.parametrize("stddev", [200.0, 313.7, 2000.0])
def test_log_ratios_are_within_the_bounds_of_the_proof(stddev: float) -> None:
    numbers, skellam, rounded = _logs(stddev)
    ratio = skellam - rounded
    found, u, variance = ratio - ratio[0], numbers / stddev, stddev**2
    assert (found <= u**4 / (24.0 * variance) + 1e-11).all()
    assert (found >= -(13.0 / 24.0 * u**2 + u / (2.0 * stddev)) / variance - 1e-11).all()
    # The upper bound is no other than the true one where it matters.
    assert found[-1] > 0.9 * u[-1] ** 4 / (24.0 * variance)


@pytest.mark.parametrize("stddev", [200.0, 1000.0])
@pytest.mark.parametrize("tilt", [-0.02, -0.01, 0.0, 0.01, 0.02])
def test_the_variance_of_log_ratios_is_below_one_over_the_squared_variance(stddev: float, tilt: float) -> None:
    _, skellam, rounded = _logs(stddev)
    ratio = skellam - rounded
    law = _both_signs(np.exp(rounded + tilt * stddev**2 * (ratio - ratio[0])))
    law /= law.sum()
    assert (law * (ratio - law @ ratio) ** 2).sum() <= stddev**-4.0


@pytest.mark.parametrize("multiplier", [0.6, 1.0, 4.0])
@pytest.mark.parametrize("log_beta", [-10.0, -40.0])
def test_the_distance_is_never_below_what_exact_moments_give_and_not_far_above(multiplier: float, log_beta: float) -> None:
    """The sharpest Chernoff bound over all coordinates that a contribution of 1,000 steps may have, either way round."""
    coordinates, stddev = math.floor((1000 / 80) ** 4), 1000 * multiplier
    _, skellam, rounded = _logs(stddev)
    needed = []
    for law, ratio in ((skellam, skellam - rounded), (rounded, rounded - skellam)):
        weights = _both_signs(np.exp(law))
        tilts = np.geomspace(1.0, 0.02 * stddev**2, 200)
        needed.append(min((coordinates * np.log1p(weights @ np.expm1(tilt * ratio)) - log_beta) / tilt for tilt in tilts))
    event = Event(multiplier, mechanism="skellam", l2_sensitivity=1000)
    assert max(needed) <= distance([event], log_beta=log_beta) <= 12.0 * max(needed)


def test_the_distance_is_infinite_where_the_proof_says_nothing() -> None:
    fine = Event(1.0, mechanism="skellam", l2_sensitivity=1000)
    assert math.isfinite(distance([fine], log_beta=-80.0))
    assert distance([fine], log_beta=-84.0) == math.inf
    assert distance([replace(fine, l2_sensitivity=999.0)], log_beta=-20.0) == math.inf
    assert distance([replace(fine, noise_multiplier=0.19)], log_beta=-20.0) == math.inf
    assert distance([fine, replace(fine, noise_multiplier=0.19)], log_beta=-20.0) == math.inf
    assert distance([replace(fine, mechanism="gaussian", l2_sensitivity=0.0)], log_beta=-20.0) == 0.0


def test_the_distance_grows_with_every_release_and_shrinks_with_noise() -> None:
    fine = Event(4.0, mechanism="skellam", l2_sensitivity=10_000)
    one = distance([fine], log_beta=-30.0)
    assert distance([replace(fine, steps=4)], log_beta=-30.0) == pytest.approx(2.0 * one, rel=1e-2)
    assert distance([fine] * 4, log_beta=-30.0) == distance([replace(fine, steps=4)], log_beta=-30.0)
    assert distance([replace(fine, noise_multiplier=8.0)], log_beta=-30.0) == pytest.approx(one / 4.0, rel=1e-2)


def _exact_delta(stddev: float, shift: int, at: float) -> float:
    """Of one coordinate: the hockey-stick divergence of shifted Skellam noise, summed over the integers."""
    numbers = np.arange(-int(16 * stddev), int(16 * stddev) + shift + 1)
    first = np.log(special.ive(np.abs(numbers), stddev**2))
    second = np.log(special.ive(np.abs(numbers - shift), stddev**2))
    return float(np.maximum(-np.expm1(at + second - first), 0.0) @ np.exp(first))


@pytest.mark.parametrize("multiplier", [0.6, 1.0, 3.0])
def test_delta_is_never_below_exact_sums_and_close_to_them(multiplier: float) -> None:
    event = Event(multiplier, mechanism="skellam", l2_sensitivity=1000)
    for at in (0.5, 2.0, 5.0):
        exact = _exact_delta(1000 * multiplier, 1000, at)
        if exact > 1e-12:
            assert exact <= delta([event], epsilon=at) <= 1.1 * exact


@pytest.mark.parametrize("steps", [1, 8])
@pytest.mark.parametrize("multiplier", [0.8, 2.0, 10.0])
def test_epsilon_is_the_gaussians_at_a_smaller_delta_and_twice_the_distance(multiplier: float, steps: int) -> None:
    """The composition of the theorem, written once more."""
    event = Event(multiplier, steps=steps, mechanism="skellam", l2_sensitivity=1000)
    looser = rdp_epsilon([event], delta=1e-5)
    eta = distance([event], log_beta=math.log(1e-3 * 1e-5 / 2.0) - looser)
    gaussian = epsilon([Event(multiplier, steps=steps)], delta=0.999e-5 * math.exp(-eta))
    found = epsilon([event], delta=1e-5)
    assert found == pytest.approx(gaussian + 2.0 * eta, rel=1e-6)
    assert epsilon([Event(multiplier, steps=steps)], delta=1e-5) + 2.0 * eta <= found < 0.95 * looser
    assert group_epsilon([event], delta=1e-5, size=2) >= group_epsilon([Event(multiplier, steps=steps)], delta=1e-5, size=2)


def test_delta_is_what_the_theorem_says() -> None:
    event = Event(2.0, steps=8, mechanism="skellam", l2_sensitivity=1000)
    holds = renyi.to_delta(renyi.curve([event], "add-or-remove-one"), epsilon=4.0)
    eta = distance([event], log_beta=math.log(1e-3 * holds / 2.0) - 4.0)
    gaussian = delta([Event(2.0, steps=8)], epsilon=4.0 - 2.0 * eta)
    assert delta([event], epsilon=4.0) == pytest.approx(math.exp(eta) * gaussian + 1e-3 * holds, rel=1e-9)
