"""One budget for training, prior and metrics: their noise follows epsilon, and a refusal never contradicts itself."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from shared.config import RunConfig
from shared.errors import ConfigError, EpsilonOutOfReach
from shared.privacy.calibration import plan_of
from shared.privacy.plan import PrivacyPlan

MECHANISMS: dict[str, dict[str, Any]] = {
    "dp-sgd": {"federation.clients": 4},
    "window": {"federation.clients": 4, "privacy.unit": "window"},
    "central": {"federation.clients": 0, "privacy.mechanism": "central"},
    "distributed": {"federation.clients": 0},
    "best round": {"evaluation.released_round": "best-noised", "federation.rounds": 12},
}
PRIOR, METRICS = "privacy.popularity_noise_multiplier", "privacy.evaluation_noise_multiplier"


def _plan(name: str, epsilon: float, **changes: Any) -> PrivacyPlan:
    values = {
        "federation.clients": 4,
        "federation.rounds": 10,
        "statistics.releases": "none",
        **MECHANISMS[name],
        "privacy.epsilon": epsilon,
        **changes,
    }
    return plan_of(RunConfig.from_mapping(values), num_users=3000)


@pytest.mark.parametrize("name", MECHANISMS)
def test_every_epsilon_down_to_a_tenth_works_with_the_defaults_and_most_of_it_is_left_for_training(name: str) -> None:
    before = (0.0, 0.0)
    for epsilon in (8.0, 2.0, 1.0, 0.1):
        plan = _plan(name, epsilon)
        assert plan.epsilon_after(plan.rounds) <= epsilon
        assert plan.epsilon_after(0) < 0.75 * epsilon
        now = (plan.noise_of("popularity"), plan.noise_of("metrics"))
        assert now > before
        before = now


@pytest.mark.parametrize("name", ["dp-sgd", "central", "distributed"])
def test_at_epsilon_eight_the_noise_of_prior_and_metrics_is_three_and_five(name: str) -> None:
    plan = _plan(name, 8.0)
    assert (plan.noise_of("popularity"), plan.noise_of("metrics")) == (3.0, 5.0)
    assert _plan(name, 8.0, **{PRIOR: 3.0, METRICS: 5.0}) == plan


def test_a_number_is_taken_as_it_is_and_zero_releases_nothing() -> None:
    plan = _plan("dp-sgd", 8.0, **{PRIOR: 2.5, METRICS: 0.0})
    assert (plan.noise_of("popularity"), plan.noise_of("metrics"), plan.evaluations) == (2.5, 0.0, 0)
    for wrong, message in (("some", "to be a number"), (-1.0, ">= 0.0"), (float("nan"), "to be finite")):
        with pytest.raises(ConfigError, match=f"Expected {PRIOR} {message}, got {PRIOR}={wrong}"):
            _plan("dp-sgd", 8.0, **{PRIOR: wrong})


def _cost(*noise_multipliers: float, delta: float) -> float:
    """The epsilon of full Gaussian releases: Balle and Wang 2018, theorem 8, solved here without the accountant."""
    gain = math.sqrt(sum(1 / noise**2 for noise in noise_multipliers))

    def excess(epsilon: float) -> float:
        tail = norm.cdf(gain / 2 - epsilon / gain) - math.exp(epsilon) * norm.cdf(-gain / 2 - epsilon / gain)
        return float(tail) - delta

    return float(brentq(excess, 1e-9, 50.0))


@pytest.mark.parametrize("name", ["dp-sgd", "central"])
def test_releases_beside_training_that_cost_all_of_epsilon_are_refused_by_their_own_names(name: str) -> None:
    given_ones = {PRIOR: 2.0, METRICS: 4.0}
    cost = _cost(2.0, 4.0, delta=_plan(name, 8.0).delta)
    for epsilon in (0.5 * cost, 0.97 * cost):
        with pytest.raises(
            EpsilonOutOfReach, match=r"Expected releases beside training to cost less than privacy\.epsilon="
        ):
            _plan(name, epsilon, **given_ones)
    assert _plan(name, 1.05 * cost, **given_ones).noise_multiplier > 2.0


@settings(max_examples=30)
@given(epsilon=st.floats(0.2, 1.6), prior=st.sampled_from([2.0, 3.0, "auto"]), metrics=st.sampled_from([4.0, 5.0, "auto"]))
def test_a_refusal_names_the_settings_what_they_cost_and_values_that_do(epsilon: float, prior: Any, metrics: Any) -> None:
    try:
        plan = _plan("central", epsilon, **{PRIOR: prior, METRICS: metrics})
    except EpsilonOutOfReach as error:
        text = str(error)
    else:
        assert plan.epsilon_after(plan.rounds, released={"popularity": 1, "metrics": 1}) <= epsilon
        return
    given_ones = {name for name, value in ((PRIOR, prior), (METRICS, metrics)) if value != "auto"}
    if "Expected a noise multiplier up to 10000" in text:  # hardly anything is left, and no noise is enough
        assert all(isinstance(noise, float) for noise in (prior, metrics))
        assert 0.97 * epsilon < _cost(prior, metrics, delta=1e-5) < epsilon
        return
    found = float(re.findall(r"got epsilon=([\d.]+)", text)[0])
    assert found >= epsilon  # rounded up: never "less than 1, got 1"
    advised = dict(re.findall(r"(privacy\.\w+)=([\d.]+)", text.partition("Use ")[2].partition(" (which")[0]))
    assert set(advised) == given_ones
    plan = _plan("central", epsilon, **{PRIOR: prior, METRICS: metrics, **advised})
    assert plan.epsilon_after(plan.rounds, released={"popularity": 1, "metrics": 1}) <= epsilon
