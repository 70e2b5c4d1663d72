"""Noise in shares: each answer adds one, so a release tells how many answered. What that costs, and that no claim says less.

The oracles are explicit pairs of neighboring populations whose privacy loss is integrated numerically; they share no code
with the accountant. An oracle's epsilon is what an adversary really has, so a claim below it is false.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import optimize, stats

from shared.config import RunConfig
from shared.privacy.accounting import epsilon
from shared.privacy.calibration import plan_of
from shared.privacy.claims import Claim, claims
from shared.privacy.events import Event
from shared.privacy.plan import PrivacyPlan
from tests.plans import distributed_plan

ALONE = {"popularity_noise_multiplier": 0.0, "evaluation_noise_multiplier": 0.0, "evaluations": 0}


def _smallest_epsilon(delta_at: Callable[[float], float], delta: float) -> float:
    return float(optimize.brentq(lambda eps: delta_at(eps) - delta, 0.0, 100.0))


def _outsider(plan: PrivacyPlan) -> Claim:
    return claims(plan, plan.events())[0]


def test_the_variance_of_a_release_counts_the_answers() -> None:
    plan = distributed_plan(minimum_survivors=100)
    encoding = plan.update_encoding(4096, l2_clip_norm=0.5)
    released = [plan.released_stddev(encoding, answers=answers) for answers in (99, 100)]
    assert released[1] ** 2 / released[0] ** 2 == pytest.approx(100 / 99, rel=1e-12)


def test_adding_a_client_costs_more_than_its_update_because_its_share_of_the_noise_is_seen() -> None:
    """200 clients or 199, all asked in each of 100 rounds, all updates zero: 4,096 values a round differ in variance alone.

    The likelihood ratio of the two is monotone in the sum of squares, a scaled chi-square, so its loss is exact.
    """
    values, ratio, delta = 100 * 4096, 199 / 200, 1e-4

    def delta_at(eps: float) -> float:
        threshold = (eps - values / 2 * math.log(ratio)) / (0.5 / ratio - 0.5)
        with_client = stats.chi2.sf(threshold, values)
        return float(with_client - math.exp(eps + stats.chi2.logsf(threshold / ratio, values)))

    truth = _smallest_epsilon(delta_at, delta)
    assert truth > 10.0
    settings = {
        "federation.clients": 0, "federation.rounds": 100, "statistics.releases": "none",
        "privacy.mechanism": "distributed", "privacy.adversary": "outsider",
        "privacy.epsilon": 2.0, "privacy.delta": delta,
        "privacy.popularity_noise_multiplier": 0.0, "privacy.evaluation_noise_multiplier": 0.0,
    }  # fmt: skip
    plan = plan_of(RunConfig.from_mapping(settings), num_users=200)
    found = claims(plan, plan.events())
    outsider = found[0]
    # What is claimed is far below that, so it must not be claimed of a client that comes or goes, to any adversary.
    assert outsider.epsilon is not None
    assert outsider.epsilon <= 2.0
    assert {claim.relation for claim in found} == {"zero-out"} == {plan.relation}
    # A user whose data are taken out leaves the share of noise where it is: 100 shifts by the bound, in Gaussian terms.
    multiplier = plan.noise_multiplier / math.sqrt(100)

    def shifted(eps: float) -> float:
        a, b = 1 / (2 * multiplier), eps * multiplier
        return float(stats.norm.cdf(a - b) - math.exp(eps + stats.norm.logcdf(-a - b)))

    assert 1.8 < _smallest_epsilon(shifted, delta) <= outsider.epsilon


CLIENTS, RATE, DELTA, MULTIPLIER = 1000, 0.1, 1e-5, 0.6
GRID = np.linspace(-12.0, 12.0, 24_001)


def _one_round(others: float, own: float) -> float:
    """Epsilon of one round whose cohort size K is read off the variance, which a long release makes exact.

    A user contributes `own` or, without data, 0; every other client contributes `others`; all over the bound. Given K the
    user is in with probability K / 1,000, and the noise has K shares of a hundredth.
    """
    sizes = np.arange(40, 161)
    chance = stats.binom.pmf(sizes, CLIENTS, RATE)[:, None]
    spread = MULTIPLIER * np.sqrt(sizes / (RATE * CLIENTS))[:, None]
    taken = sizes[:, None] / CLIENTS

    def density(contribution: float) -> NDArray[np.float64]:
        # Where the user is in, another client is not: relative to all others' sum.
        inside = stats.norm.pdf(GRID[None], contribution - others, spread)
        return np.asarray(chance * ((1 - taken) * stats.norm.pdf(GRID[None], 0.0, spread) + taken * inside))

    with_data, without = density(own), density(0.0)
    step = GRID[1] - GRID[0]

    def delta_at(eps: float) -> float:
        return max(
            float(np.maximum(a - math.exp(eps) * b, 0.0).sum() * step)
            for a, b in ((with_data, without), (without, with_data))
        )

    return _smallest_epsilon(delta_at, DELTA)


def test_sampling_hides_nobody_where_the_noise_comes_in_shares() -> None:
    """1,000 clients, a hundred expected, one round: the amplified bound is below an explicit pair, and no claim is."""
    truth = max(_one_round(others, own) for others, own in product((-1.0, 0.0, 1.0), (-1.0, 1.0)))
    amplified = epsilon([Event(MULTIPLIER, RATE)], delta=DELTA, relation="zero-out")
    assert amplified + 1.0 < truth
    plan = distributed_plan(
        population=CLIENTS, num_clients=CLIENTS, rounds=1, sampling_rate=RATE, noise_multiplier=MULTIPLIER, delta=DELTA,
        minimum_survivors=100, **ALONE,
    )  # fmt: skip
    for adversary in ("outsider", "server", "colluding-clients"):
        bound = plan.epsilon_against(adversary, plan.events())  # type: ignore[arg-type]
        assert bound is not None
        assert truth <= bound
    # The negative control: where the others contribute nothing, the amplified bound is about right.
    assert _one_round(0.0, 1.0) == pytest.approx(amplified, abs=0.15)


def test_no_setting_of_shares_amplifies_any_bound() -> None:
    everybody = distributed_plan(sampling_rate=1.0)
    for rate, survivors in ((0.01, 1), (0.1, 5), (0.9, 80)):
        sampled = replace(everybody, sampling_rate=rate)
        assert sampled.events() == everybody.events()
        fewer = replace(sampled, minimum_survivors=survivors)
        assert _outsider(fewer).epsilon == _outsider(everybody).epsilon
