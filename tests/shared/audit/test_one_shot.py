"""The one-shot estimate on ideal Gaussian mechanisms."""

from __future__ import annotations

import numpy as np
import pytest

from shared.audit.one_shot import one_shot
from shared.audit.tradeoff import epsilon_of, mu_of

DELTA = 1e-5


def _estimates(rng: np.random.Generator, *, seen: int, unseen: int, factor: float, noise: float = 1.0) -> np.ndarray:
    """(200, 3): epsilon and its interval, of a release whose claim is 8."""
    mu = mu_of(8.0, DELTA)
    found = []
    for _ in range(200):
        estimate = one_shot(
            rng.normal(size=seen, scale=noise) + factor * mu, rng.normal(size=unseen, scale=noise), delta=DELTA
        )
        assert estimate is not None
        found.append((estimate.epsilon, estimate.low, estimate.high))
    return np.array(found)


def test_guarantee_the_estimate_of_a_release_as_claimed_lies_within_a_half_of_8_in_95_percent() -> None:
    """200 repetitions with 1,000 canaries: fewer than 180 within would have probability below 0.2 % at 95 %.

    The interval covers: more than 22 misses of 200 would have probability below 0.1 % at 5 %.
    """
    found = _estimates(np.random.default_rng(0), seen=1000, unseen=5000, factor=1.0)
    assert (abs(found[:, 0] - 8.0) <= 0.5).sum() >= 185
    assert ((found[:, 1] > 8.0) | (found[:, 2] < 8.0)).sum() <= 22


@pytest.mark.parametrize(("what", "factor", "noise"), [("counted twice", 2.0, 1.0), ("half the noise", 1.0, 0.5)])
def test_power_double_counting_and_halved_noise_are_above_the_claim_each_time(
    what: str, factor: float, noise: float
) -> None:
    """The negative controls of the test above: a low end above 8, 200 of 200."""
    found = _estimates(np.random.default_rng(1), seen=1000, unseen=5000, factor=factor, noise=noise)
    assert (found[:, 1] > 8.0).all(), what


def test_a_sum_without_noise_has_the_largest_estimate_and_one_without_canaries_the_smallest() -> None:
    loud = one_shot(np.ones(10), np.zeros(20), delta=DELTA)
    assert loud is not None and loud.low > 100.0 and loud.noise_stddev == 0.0
    rng = np.random.default_rng(2)
    silent = one_shot(rng.normal(size=50), rng.normal(size=50), delta=DELTA)
    assert silent is not None and silent.low == 0.0
    nothing = one_shot(np.zeros(10), np.zeros(10), delta=DELTA)
    assert nothing is not None and nothing.high == 0.0


def test_too_few_directions_say_nothing() -> None:
    assert one_shot(np.ones(2), np.zeros(20), delta=DELTA) is None
    assert one_shot(np.ones(20), np.zeros(2), delta=DELTA) is None


def test_a_spread_that_being_in_changes_is_told() -> None:
    rng = np.random.default_rng(3)
    found = one_shot(1.0 + 2.0 * rng.normal(size=2000), rng.normal(size=2000), delta=DELTA)
    assert found is not None and found.spread_ratio == pytest.approx(2.0, rel=0.1)
    assert found.epsilon == pytest.approx(epsilon_of(found.mu, DELTA))
