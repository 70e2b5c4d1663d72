"""Noise in shares: each answer adds one, so a release tells how many answered. What that costs, and that no claim says less.

The oracles are explicit pairs of neighboring populations whose privacy loss is integrated numerically; they share no code
with the accountant. An oracle's epsilon is what an adversary really has, so a claim below it is false.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import optimize, stats

from shared.config import RunConfig
from shared.config.defaults import fitted
from shared.errors import ConfigError
from shared.privacy.accounting import epsilon
from shared.privacy.calibration import plan_of
from shared.privacy.claims import Claim, claims
from shared.privacy.events import Event
from shared.privacy.plan import PrivacyPlan
from shared.privacy.shares import why_not_in_shares
from shared.privacy.statement import statement_of
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


DEVICES: dict[str, Any] = {"federation.clients": 0, "data.public_catalog": True}


def _devices(num_clients: int = 940, **changes: Any) -> RunConfig:
    settings = {**DEVICES, **{name.replace("__", "."): value for name, value in changes.items()}}
    return fitted(RunConfig.from_mapping(settings), num_users=num_clients, num_clients=num_clients)


def test_noise_comes_in_shares_wherever_every_user_is_a_client() -> None:
    for clients in (3, 40, 940, 10_000):
        config = _devices(clients)
        assert config.privacy.mechanism == config.mechanism == "distributed"
        plan = plan_of(config, num_users=clients)
        assert (plan.adversary, plan.secure_aggregation) == ("outsider", "stand-in")
        assert not any("trusted" in text for text in statement_of(plan, plan.events(), config=config).warnings)
    assert _devices(privacy__mechanism="central").mechanism == "central"  # who asks for another one gets it
    assert _devices(privacy__epsilon=math.inf).privacy.mechanism == "auto"
    assert _devices(federation__clients=4).mechanism == "dp-sgd"


# Why noise cannot come in shares, by what the reason says.
IMPOSSIBLE: dict[str, tuple[int, dict[str, Any]]] = {
    "got num_clients=2.": (2, {}),
    "got num_clients=12000.": (12_000, {}),
    "secure_aggregation.enabled=false switches": (940, {"secure_aggregation__enabled": False}),
    "What privacy.cohort_cap costs": (940, {"privacy__expected_cohort": 100, "privacy__cohort_cap": 150}),
    "Expect a larger cohort": (940, {"privacy__expected_cohort": 40}),
    "An active server could open both secrets": (
        940, {"secure_aggregation__corrupt_fraction": 0.6, "secure_aggregation__dropout_fraction": 0.3},
    ),
}  # fmt: skip


@pytest.mark.parametrize("reason", IMPOSSIBLE)
def test_the_server_adds_the_noise_only_where_shares_are_impossible_and_the_statement_says_why(reason: str) -> None:
    clients, changes = IMPOSSIBLE[reason]
    config = _devices(clients, **changes)
    assert config.privacy.mechanism == "central"
    assert _devices(clients, **changes) == fitted(config, num_users=clients, num_clients=clients)
    plan = plan_of(config, num_users=clients)
    (said,) = [text for text in statement_of(plan, plan.events(), config=config).warnings if "trusted" in text]
    assert said.startswith("The server adds the noise and has to be trusted, because noise cannot come in shares. ")
    assert reason.lower() in said.lower()


def test_a_server_that_was_chosen_to_add_the_noise_is_not_explained_away() -> None:
    config = _devices(privacy__mechanism="central")
    assert why_not_in_shares(config, num_clients=940) is None
    plan = plan_of(config, num_users=940)
    assert not any("trusted" in text for text in statement_of(plan, plan.events(), config=config).warnings)


def test_masks_that_are_asked_for_are_never_left_out() -> None:
    config = _devices(12_000, secure_aggregation__simulate="full")
    assert config.mechanism == "distributed"
    with pytest.raises(ConfigError, match="got num_clients=12000"):
        plan_of(config, num_users=12_000)


@pytest.mark.parametrize("changes", [{}, {"privacy.expected_cohort": 200}, {"privacy.colluding_clients": 90}])
def test_a_simulation_in_the_open_takes_the_shares_of_a_deployment(changes: dict[str, Any]) -> None:
    settings = {**DEVICES, "federation.rounds": 2, "privacy.mechanism": "distributed", **changes}
    plans = [
        plan_of(RunConfig.from_mapping({**settings, "secure_aggregation.simulate": how}), num_users=940)
        for how in ("sum", "full")
    ]
    found = [replace(plan, secure_aggregation="", adversary="", smallest_active_sum=0) for plan in plans]
    assert found[0] == found[1]
    # Silent clients up to the assumed part, and as many that collude, still leave the noise of the plan.
    assert plans[0].minimum_survivors - plans[0].colluding_clients == pytest.approx(1 / plans[0].noise_share)
    assert plans[0].minimum_survivors <= 0.95 * plans[0].expected_cohort


def test_many_more_clients_than_a_secure_sum_holds_may_add_shares_in_the_open_where_that_is_asked_for() -> None:
    plan = plan_of(_devices(12_000, privacy__mechanism="distributed"), num_users=12_000)
    assert (plan.minimum_survivors, plan.colluding_clients) == (11_400, 600)
