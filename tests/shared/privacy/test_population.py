"""The size of a population as a public constant: what is rounded, what is declared, what no plan holds."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.config import RunConfig
from shared.errors import ConfigError
from shared.privacy.calibration import plan_of
from shared.privacy.plan import PrivacyPlan
from shared.privacy.population import PublicSize, advice, largest_rounded_to, rounded

MECHANISMS = (
    {},
    {"privacy.mechanism": "dp-ftrl-silo"},
    {"federation.clients": 0},
    {"federation.clients": 0, "privacy.expected_cohort": 100, "privacy.cohort_cap": 150},
    {"federation.clients": 0, "privacy.clipping": "adaptive"},
    {"federation.clients": 0, "privacy.mechanism": "dp-ftrl-central", "privacy.expected_cohort": 100},
    {"federation.clients": 0, "privacy.mechanism": "distributed", "privacy.expected_cohort": 400},
)


def _plan(found: int, **changes: Any) -> PrivacyPlan:
    config = RunConfig.from_mapping({"federation.rounds": 20, "statistics.releases": "none", **changes})
    return plan_of(config, num_users=found, num_clients=config.federation.clients or found)


@pytest.mark.parametrize(
    ("found", "public"), [(1, 1), (9, 9), (57, 57), (99, 99), (100, 100), (109, 100), (943, 940), (3000, 3000), (8442, 8400)]
)
def test_a_population_is_rounded_down_to_two_significant_digits(found: int, public: int) -> None:
    assert rounded(found) == public


@given(st.integers(1, 10**9))
def test_rounding_changes_nothing_twice_and_what_it_may_stand_for_rounds_to_the_same(found: int) -> None:
    public = rounded(found)
    assert rounded(public) == public <= found <= largest_rounded_to(public) <= 1.1 * public
    assert rounded(largest_rounded_to(public)) == public != rounded(largest_rounded_to(public) + 1)
    assert largest_rounded_to(found) == largest_rounded_to(public)
    size = PublicSize.of(found, found)
    assert PublicSize.of(size.users, size.clients) == size == PublicSize(public, public)


@pytest.mark.parametrize("changes", MECHANISMS)
def test_two_populations_that_differ_by_one_user_have_equal_plans(changes: dict[str, Any]) -> None:
    assert asdict(_plan(943, **changes)) == asdict(_plan(944, **changes)) == asdict(_plan(940, **changes))
    declared = {**changes, "privacy.population": 1000}
    assert asdict(_plan(949, **declared)) == asdict(_plan(950, **declared)) == asdict(_plan(1000, **changes))


@pytest.mark.parametrize("changes", MECHANISMS)
def test_a_plan_has_room_for_every_client_that_the_public_number_may_stand_for(changes: dict[str, Any]) -> None:
    plan = _plan(949, **changes)
    plan.verify_clients(949 if plan.clips_whole_updates else 4)
    with pytest.raises(ConfigError, match=r"Expected at most \d+ clients for a population of 940 .*, got more\.") as caught:
        plan.verify_clients(plan.most_clients + 1)
    assert str(plan.most_clients + 1) not in str(caught.value)


def test_a_capped_cohort_is_accounted_for_the_most_clients_that_there_may_be() -> None:
    capped = {"federation.clients": 0, "privacy.expected_cohort": 100, "privacy.cohort_cap": 130}
    assert [_plan(found, **capped).round_event().population for found in (940, 943, 949, 950)] == [949, 949, 949, 959]


def test_every_sum_of_integers_has_room_for_all_that_may_answer() -> None:
    plan = _plan(949, **{"federation.clients": 0})
    encodings = (
        plan.update_encoding(100, l2_clip_norm=0.1),
        plan.release_encoding(plan.release("popularity"), 10),
        plan.release_encoding(plan.release("metrics"), 3),
    )
    assert all(encoding.num_summands >= 2 * 940 for encoding in encodings)


def test_survivors_of_noise_in_shares_are_no_more_than_there_are_clients() -> None:
    for found in (100, 109, 943, 949):
        plan = _plan(found, **{"federation.clients": 0, "privacy.mechanism": "distributed"})
        assert plan.minimum_survivors <= found


def test_a_number_that_tells_or_lies_is_said_to_the_person_at_the_data_alone() -> None:
    assert "exact number is in the plan" in str(advice(57, declared=0))
    assert advice(100, declared=0) is None and advice(57, declared=60) is None
    assert advice(1000, declared=500) is None and advice(1000, declared=2000) is None
    assert "more than a factor 2 away from the 1,000 users found" in str(advice(1000, declared=499))
    assert "more than a factor 2" in str(advice(1000, declared=2001))
