"""Releases beside training: which a plan has, how often, and that each of them is accounted."""

from __future__ import annotations

import math

import pytest

from shared.config import RunConfig
from shared.errors import ConfigError
from shared.privacy.calibration import plan_of
from shared.privacy.events import Event
from shared.privacy.releases import BLENDING_STEPS, L2_BOUND, is_sparse, purposes, release_names, release_of
from tests.plans import central_plan, distributed_plan, plain_plan, silo_plan

ALL = {
    "statistics": "popularity,pairs,transitions,refinement,blending,selection",
    "popularity_noise_multiplier": 2.0,
    "pairs_noise_multiplier": 3.0,
    "transitions_noise_multiplier": 4.0,
    "refinement_noise_multiplier": 5.0,
    "blending_noise_multiplier": 6.0,
    "selection_noise_multiplier": 7.0,
    "evaluation_noise_multiplier": 8.0,
}
ONCE = dict.fromkeys(release_names(), 1)
PLANNED = {**ONCE, "blending": BLENDING_STEPS}


def test_metrics_are_one_release_and_so_is_a_refinement_whatever_they_are_about() -> None:
    assert {purpose: release_of(purpose) for purpose in purposes()} == {
        "popularity": "popularity", "pairs": "pairs", "transitions": "transitions", "refine-popularity": "refinement",
        "refine-pairs": "refinement", "refine-transitions": "refinement", "blending": "blending",
        "selection": "selection", "validation": "metrics", "test": "metrics",
    }  # fmt: skip


@pytest.mark.parametrize("make", [silo_plan, central_plan, distributed_plan, plain_plan])
def test_a_plan_has_the_releases_that_it_names_in_the_order_of_a_run(make: object) -> None:
    plan = make(**ALL)  # type: ignore[operator]
    expected = [name for name in release_names() if name != "metrics" or plan.evaluations]
    assert [one.name for one in plan.releases] == expected
    assert {one.name: one.times for one in plan.releases} == {name: PLANNED[name] for name in expected}
    assert [plan.release(name) for name in expected] == list(plan.releases)


@pytest.mark.parametrize("name", release_names())
@pytest.mark.parametrize("make", [silo_plan, central_plan, distributed_plan])
def test_every_release_is_accounted_as_often_as_it_is_made(name: str, make: object) -> None:
    plan = make(**ALL)  # type: ignore[operator]
    (event,) = plan.release_events(name)
    assert event.noise_multiplier == 2.0 + release_names().index(name)
    for times in (0, 1, 3):
        events = plan.events(rounds=0, released={**ONCE, name: times})
        assert sum(found.steps for found in events if found.noise_multiplier == event.noise_multiplier) == times
        assert len(events) == len(release_names()) - 1 + times
    planned = plan.events(rounds=0)
    assert sum(found.steps for found in planned if found.noise_multiplier == event.noise_multiplier) == PLANNED[name]
    assert plan.epsilon_after(0, released={**ONCE, name: 2}) > plan.epsilon_after(0, released=ONCE)


def test_a_release_without_noise_is_none_under_privacy_and_exact_without() -> None:
    for name, setting in zip(release_names(), list(ALL)[1:], strict=True):
        assert silo_plan(**{**ALL, setting: 0.0}).release(name) is None
        assert silo_plan(**{**ALL, setting: 0.0}).release_events(name) == ()
    exact = plain_plan(**{**ALL, **dict.fromkeys(list(ALL)[1:], 0.0)})
    assert [one.name for one in exact.releases] == list(release_names()[:-1])
    assert exact.events() == []


@pytest.mark.parametrize("name", release_names())
def test_the_noise_of_a_release_is_its_multiplier_times_the_bound_on_a_contribution(name: str) -> None:
    silo, central, shares = silo_plan(**ALL), central_plan(**ALL), distributed_plan(**ALL)
    multiplier = 2.0 + release_names().index(name)
    assert silo.release_stddev(silo.release(name)) == multiplier * L2_BOUND == multiplier
    assert central.release_stddev(central.release(name)) == 0.0  # the server adds it to the sum
    for plan in (central, shares):
        encoding = plan.release_encoding(plan.release(name), 100, sparse=is_sparse(name))
        assert (encoding.l2_bound, encoding.noise_multiplier, encoding.num_summands) == (1.0, multiplier, plan.most_clients)
        assert encoding.rotated == (name != "pairs")
        assert encoding.noise_stddev == pytest.approx(multiplier, rel=2e-3)


@pytest.mark.parametrize("clients", [0, 4])
@pytest.mark.parametrize("rounds", [0, 5])
@pytest.mark.parametrize("epsilon", [1.0, 8.0])
def test_a_run_with_all_statistics_spends_all_of_epsilon_and_no_more(epsilon: float, rounds: int, clients: int) -> None:
    config = RunConfig.from_mapping({"federation.rounds": rounds, "federation.clients": clients, "privacy.epsilon": epsilon})
    plan = plan_of(config, num_users=50_000)
    assert [one.name for one in plan.releases] == list(release_names())
    assert 0.97 * epsilon < plan.epsilon_after(rounds) <= epsilon
    assert all(one.noise_multiplier > 0 for one in plan.releases)


def test_without_privacy_statistics_are_exact_and_cost_nothing() -> None:
    config = RunConfig.from_mapping({"privacy.epsilon": math.inf, "privacy.delta": 0.0})
    plan = plan_of(config, num_users=2000)
    assert [one.name for one in plan.releases] == ["popularity", "pairs", "transitions", "blending", "selection"]
    assert {one.noise_multiplier for one in plan.releases} == {0.0}


def test_few_users_release_no_statistics_beside_the_prior_and_its_weight() -> None:
    plan = plan_of(RunConfig.from_mapping({}), num_users=100)
    assert [one.name for one in plan.releases] == ["popularity", "blending", "metrics"]


def test_an_unknown_statistic_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Expected statistics\.releases to be names of .* Leave out triples\."):
        RunConfig.from_mapping({"statistics.releases": "pairs,triples"})
    assert RunConfig.from_mapping({"statistics.releases": " selection, pairs "}).statistics.names() == ("pairs", "selection")


def test_a_full_release_under_shares_is_accounted_as_skellam() -> None:
    (event,) = distributed_plan(**ALL).release_events("pairs")
    assert event == Event(3.0, mechanism="skellam", l2_sensitivity=1000)
