"""The one-shot estimate on ideal Gaussian mechanisms, from readings that are drawn here."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.audit.one_shot import LARGEST_MU, Standout, one_shot
from shared.audit.tradeoff import epsilon_of, mu_of

DELTA = 1e-5


def _read(rng: np.random.Generator, *, noise: float, canaries: int, samples: int, factor: float, actual: float) -> Standout:
    """One release of claimed noise `noise`: canaries add `factor`, the noise is `actual` times the claimed one."""
    seen = rng.normal(size=canaries, scale=noise * actual) + factor
    unused = rng.normal(size=samples, scale=actual)
    return Standout(float(seen.mean()), noise / math.sqrt(canaries), noise, math.sqrt(float(np.mean(unused**2))), samples)


def _estimates(rng: np.random.Generator, *, releases: int, factor: float = 1.0, actual: float = 1.0) -> NDArray[np.float64]:
    """(200, 3): epsilon and its interval, of releases that cost 8 together."""
    noise = math.sqrt(releases) / mu_of(8.0, DELTA)
    found = []
    for _ in range(200):
        read = [_read(rng, noise=noise, canaries=1000, samples=3000, factor=factor, actual=actual) for _ in range(releases)]
        estimate = one_shot(read, delta=DELTA)
        assert estimate is not None
        found.append((estimate.epsilon, estimate.low, estimate.high))
    return np.array(found)


@pytest.mark.parametrize("releases", [1, 6])
def test_guarantee_the_estimate_of_releases_as_claimed_lies_within_a_half_of_8_in_95_percent(releases: int) -> None:
    """200 repetitions with 1,000 canaries that are in: fewer than 182 within would have probability 1 % at 95 %.

    The interval covers: more than 22 misses of 200 would have probability below 0.1 % at 5 %.
    """
    found = _estimates(np.random.default_rng(releases), releases=releases)
    assert (abs(found[:, 0] - 8.0) <= 0.5).sum() >= 182
    assert ((found[:, 1] > 8.0) | (found[:, 2] < 8.0)).sum() <= 22


@pytest.mark.parametrize(("what", "factor", "actual"), [("counted twice", 2.0, 1.0), ("half the noise", 1.0, 0.5)])
def test_power_double_counting_and_halved_noise_are_above_the_claim(what: str, factor: float, actual: float) -> None:
    """The negative controls of the test above: a low end above 8, 200 of 200."""
    found = _estimates(np.random.default_rng(1), releases=1, factor=factor, actual=actual)
    assert (found[:, 1] > 8.0).all(), what


def test_a_sum_without_noise_has_the_largest_estimate_and_one_without_canaries_the_smallest() -> None:
    loud = one_shot([Standout(1.0, 0.1, 1.0, 0.0, 50)], delta=DELTA)
    assert loud is not None and loud.low == epsilon_of(LARGEST_MU, DELTA) > 100.0
    silent = one_shot([Standout(0.01, 0.1, 1.0, 1.0, 50)], delta=DELTA)
    assert silent is not None and silent.epsilon == silent.low == 0.0 < silent.high
    nothing = one_shot([Standout(0.0, 0.1, 1.0, 0.0, 50)], delta=DELTA)
    assert nothing is not None and nothing.epsilon == 0.0


def test_a_release_with_too_few_directions_to_measure_its_noise_says_nothing() -> None:
    assert one_shot([Standout(1.0, 0.1, 1.0, 1.0, 2)], delta=DELTA) is None
    assert one_shot([], delta=DELTA) is None


def test_a_release_that_shows_little_does_not_raise_the_estimate() -> None:
    """200 repetitions: the mean over releases of which one has two canaries alone stays within 0.3 of 8."""
    rng = np.random.default_rng(5)
    noise, found = math.sqrt(2.0) / mu_of(8.0, DELTA), []
    for _ in range(200):
        sure = _read(rng, noise=noise, canaries=1000, samples=3000, factor=1.0, actual=1.0)
        unsure = _read(rng, noise=noise, canaries=2, samples=3000, factor=1.0, actual=1.0)
        estimate = one_shot([sure, unsure], delta=DELTA)
        assert estimate is not None
        found.append(estimate.mu)
    assert np.mean(found) == pytest.approx(mu_of(8.0, DELTA), abs=0.1)
