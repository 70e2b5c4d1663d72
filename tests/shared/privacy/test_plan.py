"""The plan: where delta comes from, what is calibrated, and what is (not) claimed."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.config import RunConfig
from shared.errors import ConfigError, UnsupportedMechanism
from shared.privacy.assumptions import assumptions
from shared.privacy.calibration import plan_of
from shared.privacy.claims import claims
from shared.privacy.events import Event
from shared.privacy.plan import PrivacyPlan
from shared.privacy.population import default_delta
from tests.plans import central_plan, silo_plan

BASE = {
    "data.public_catalog": True,
    "federation.rounds": 5,
    "statistics.releases": "none",
    "training.local_steps": 2,
    "training.sampling_rate": 0.2,
    "privacy.epsilon": 4.0,
}


def _plan(num_users: int = 943, **changes: Any) -> PrivacyPlan:
    values = {**BASE, **{key.replace("__", "."): value for key, value in changes.items()}}
    return plan_of(RunConfig.from_mapping(values), num_users=num_users)


@pytest.mark.parametrize(
    ("num_users", "expected"),
    [(1, 0.1), (10, 1e-2), (99, 1e-3), (100, 1e-3), (940, 1e-4), (1000, 1e-4), (6000, 1e-5)],
)
def test_default_delta_is_one_tenth_of_one_over_the_population_rounded_down(num_users: int, expected: float) -> None:
    assert default_delta(num_users) == pytest.approx(expected, rel=1e-12)
    assert _plan(num_users).delta == default_delta(num_users)


@given(st.integers(1, 10**9))
def test_default_delta_is_a_power_of_ten_and_at_most_one_tenth_of_one_over_the_population(
    num_users: int,
) -> None:
    delta = default_delta(num_users)
    assert 0.01 / num_users < delta <= 0.1 / num_users * (1 + 1e-9)
    assert math.log10(delta) == pytest.approx(round(math.log10(delta)), abs=1e-9)


@pytest.mark.parametrize(("windows", "expected"), [(1, 1e-4), (10, 1e-5), (200, 1e-7)])
def test_the_delta_of_windows_follows_from_a_public_bound_on_their_number(windows: int, expected: float) -> None:
    plan = _plan(943, privacy__unit="window", privacy__windows_per_user=windows)
    assert plan.num_units == 940 * windows
    assert plan.delta == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ConfigError, match=r"Expected delta < 1/\S*population.*Use at most"):
        _plan(943, privacy__unit="window", privacy__windows_per_user=windows, privacy__delta=1.1 / (940 * windows))
    # A user is one unit, whatever the bound on windows.
    assert _plan(943, privacy__windows_per_user=windows).delta == pytest.approx(1e-4, rel=1e-12)


@pytest.mark.parametrize("delta", [0.01, 0.5])
def test_delta_of_one_over_the_population_or_more_is_refused(delta: float) -> None:
    message = rf"Expected delta < 1/population, got delta={delta:g}, population=100 \(public\)\. Use at most 0\.001"
    with pytest.raises(ConfigError, match=message):
        _plan(100, privacy__delta=delta)
    assert _plan(100, privacy__delta=0.0099).delta == 0.0099


def test_the_whole_run_stays_within_the_epsilon_asked_for() -> None:
    plan = _plan()
    spent = [plan.epsilon_after(rounds, released={"popularity": 1, "metrics": 1}) for rounds in range(6)]
    assert spent == sorted(spent)
    assert 0 < spent[0] < spent[1]  # the popularity prior alone costs something
    assert 3.98 <= spent[-1] <= 4.0
    assert plan.epsilon_after(6, released={"popularity": 1, "metrics": 1}) > 4.0
    assert plan.round_event() == Event(plan.noise_multiplier, 0.2, 2)
    assert plan.noise_stddev == plan.noise_multiplier * plan.l2_clip_norm > 0


def test_without_the_popularity_prior_there_is_no_event_and_less_noise() -> None:
    without = _plan(privacy__popularity_noise_multiplier=0.0, privacy__evaluation_noise_multiplier=0.0)
    assert without.release_events("popularity") == ()
    assert without.release_events("metrics") == ()
    assert without.epsilon_after(0) == 0.0
    assert without.noise_multiplier < _plan().noise_multiplier
    assert _plan().release_events("popularity") == (Event(_plan().noise_of("popularity"), 1.0, 1),)


def test_infinite_epsilon_means_no_noise_no_bound_and_no_claim() -> None:
    plan = _plan(privacy__epsilon=math.inf)
    assert not plan.adds_noise
    assert not plan.is_private
    assert (plan.noise_multiplier, plan.noise_stddev, plan.noise_of("popularity")) == (0.0, 0.0, 0.0)
    assert math.isinf(plan.l2_clip_norm)
    assert plan.delta == 0.0
    assert math.isinf(plan.epsilon_after(5))
    assert plan.events() == []
    assert plan.release_events("popularity") == ()
    assert "privacy is off (epsilon = inf)" in str(plan.why_not_private())
    assert not any(claim.protected for claim in claims(plan, plan.events()))


def test_a_reproducible_run_says_that_it_is_not_private() -> None:
    plan = _plan(run__reproducible=True)
    assert plan.adds_noise
    assert not plan.is_private
    assert str(plan.why_not_private()).startswith("not private: noise and sampling are derived from the seed")
    for claim in claims(plan, plan.events()):
        assert claim.epsilon is None
        assert not claim.protected
        assert "e^" not in claim.statement
    assert not {found.text: found for found in assumptions(plan, RunConfig())}[
        "Noise and sampling come from a cryptographic source"
    ].holds


def test_a_claim_names_adversary_unit_relation_scope_epsilon_and_delta() -> None:
    plan = _plan()
    found = {claim.adversary: claim for claim in claims(plan, plan.events())}
    own = found.pop("own-device")
    assert (own.epsilon, own.protected) == (None, False)
    assert set(found) == {"outsider", "server", "active-server", "colluding-clients"}
    for name, claim in found.items():
        assert claim.unit == "user"
        assert claim.relation == ("add-or-remove-one" if name == "outsider" else "zero-out")
        assert claim.scope.startswith("every adapter of the run")
        assert claim.epsilon == pytest.approx(4.0, abs=0.02)
        assert (claim.delta, claim.protected) == (1e-4, name != "active-server")
        if not claim.protected:
            continue
        assert "by at most a factor of 54.6 (e^4.00), plus 0.0001." in claim.statement
        assert "A guess about that user improves from 1 % to at most 36 %." in claim.statement


def test_dropping_small_cohorts_of_a_central_run_is_refused_because_the_plain_rate_would_be_too_low() -> None:
    central = {"federation__clients": 0, "privacy__mechanism": "central", "federation__minimum_clients": 20}
    with pytest.raises(UnsupportedMechanism, match=r"Expected federation\.minimum_clients = 0 for a sampled cohort"):
        _plan(100, **central, privacy__expected_cohort=20)
    assert _plan(100, **central).minimum_survivors == 20  # all take part


_MASKED = {"federation__clients": 0, "privacy__mechanism": "distributed", "secure_aggregation__simulate": "full"}


def test_secure_sums_are_calibrated_to_those_who_are_left_when_as_many_drop_out_as_assumed() -> None:
    masked = _plan(100, **_MASKED, secure_aggregation__dropout_fraction=0.1)
    # Five in a hundred are assumed to tell the server their shares of the noise.
    assert (masked.minimum_survivors, masked.colluding_clients) == (90, 5)
    assert masked.noise_share == pytest.approx(1 / 85)
    assert _plan(100, **_MASKED, privacy__colluding_clients=20).colluding_clients == 20
    assert _plan(100, **_MASKED, federation__minimum_clients=70).minimum_survivors == 70


def test_all_clients_may_collude_in_part_when_all_are_asked_for_statistics_whatever_a_rounds_cohort() -> None:
    masked = _plan(1000, **_MASKED, privacy__expected_cohort=200)
    assert masked.colluding_clients == 50
    with pytest.raises(ConfigError, match=r"Expected privacy\.colluding_clients < survivors"):
        _plan(1000, **_MASKED, privacy__expected_cohort=60)


@pytest.mark.parametrize(
    ("users", "changes", "message"),
    [
        (2, {}, "Expected num_clients in [3, 10000], got num_clients=2"),
        (12_000, {}, "Expected num_clients in [3, 10000], got num_clients=12000"),
        (100, {"federation__minimum_clients": 1}, "colluding_clients=5, survivors=1"),
        (100, {"secure_aggregation__corrupt_fraction": 0.6, "secure_aggregation__dropout_fraction": 0.5}, "assume fewer"),
        (100, {"secure_aggregation__corrupt_fraction": 0.5, "secure_aggregation__dropout_fraction": 0.3}, "active server"),
    ],
)
def test_a_plan_whose_sums_cannot_be_secure_is_refused_before_anybody_is_asked(
    users: int, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        _plan(users, **_MASKED, **changes)
    assert message in str(refused.value)


def test_an_encoding_that_cannot_carry_the_noise_is_refused_before_anybody_is_asked() -> None:
    central_plan(noise_multiplier=2.0).verify_encodings(size=131_072, sizes={"popularity": 1000, "metrics": 3})
    for size, multiplier in ((131_072, 80.0), (3, 1e-6)):
        with pytest.raises(ConfigError, match="Expected a noise multiplier of a size that integers can carry"):
            central_plan(noise_multiplier=multiplier).verify_encodings(size=size, sizes={"popularity": 1000, "metrics": 3})


def test_a_round_that_is_asked_for_again_is_a_turn_more_for_the_same_users_under_dp_ftrl() -> None:
    """20 rounds of one step in turns of 20: once each; the first round asked five times makes it five for its users."""
    plan = _plan(
        federation__rounds=20, training__local_steps=1, privacy__mechanism="dp-ftrl-silo", privacy__min_separation=20
    )
    assert plan.participations(20) == 1
    assert plan.participations(24, repeated=4) == 5
    assert plan.epsilon_after(24, repeated=4) > 1.5 * plan.epsilon_after(20)
    assert _plan().participations(7, repeated=2) == 7  # sampled or full rounds simply count


@pytest.mark.parametrize(("rounds", "separation"), [(7, 3), (20, 20), (21, 20), (5, 2), (3, 3)])
def test_turns_that_do_not_divide_the_run_cost_the_user_whose_turn_comes_once_more(rounds: int, separation: int) -> None:
    """The oracle counts the turns of every group; the largest is what a claim about any user has to cover."""
    plan = central_plan(mechanism="dp-ftrl-central", min_separation=separation, rounds=rounds)
    turns = [sum(step % separation == group for step in range(rounds)) for group in range(separation)]
    assert plan.participations(rounds) == max(turns)
    assert sum(
        event.steps for event in plan.events() if event.noise_multiplier == plan.round_event().noise_multiplier
    ) == max(turns)
    # Inside a silo turns go by local steps.
    silo = silo_plan(mechanism="dp-ftrl-silo", min_separation=separation, rounds=rounds, steps_per_round=4)
    assert silo.participations(rounds) == max(
        sum(step % separation == group for step in range(4 * rounds)) for group in range(separation)
    )


def test_choosing_the_best_round_plans_a_release_for_every_validation() -> None:
    best = _plan(federation__rounds=7, evaluation__released_round="best-noised", evaluation__every_rounds=3)
    assert best.evaluations == 1 + len([3, 6, 7])
    released = [event for event in best.events() if event.noise_multiplier == best.noise_of("metrics")]
    assert sum(event.steps for event in released) == 4
    # What all of them cost is within what was asked for, and training has less noise where there is one release only.
    assert best.epsilon_after(7, released={"popularity": 1, "metrics": 4}) <= 4.0
    last = _plan(federation__rounds=7)
    assert last.evaluations == 1
    assert last.noise_multiplier < best.noise_multiplier


def test_a_cohort_that_is_cut_at_a_cap_is_accounted_as_cut() -> None:
    sampled = {"federation__clients": 0, "privacy__mechanism": "central", "privacy__expected_cohort": 20}
    free, capped = _plan(900, **sampled), _plan(900, **sampled, privacy__cohort_cap=30)
    event = capped.round_event()
    assert (event.sampling, event.sample_cap, event.sampling_rate) == ("truncated-poisson", 30, free.sampling_rate)
    # The cut displaces another client's contribution, so the same noise costs more.
    assert capped.noise_multiplier > free.noise_multiplier
    same_noise = replace(capped, noise_multiplier=free.noise_multiplier)
    assert same_noise.epsilon_after(5, released={"popularity": 1, "metrics": 1}) > 4.0


def test_dp_ftrl_is_planned_for_turns_that_fit_into_the_run() -> None:
    ftrl = {"privacy__mechanism": "dp-ftrl-silo", "federation__rounds": 3, "training__local_steps": 2}
    assert _plan(**ftrl, training__sampling_rate=0.05).min_separation == 6
    with pytest.raises(ConfigError, match=r"Expected DP-FTRL's separation <= steps of the run, got min_separation=7"):
        _plan(**ftrl, privacy__min_separation=7)
    both = {"privacy__expected_cohort": 10, "privacy__min_separation": 3}
    with pytest.raises(ConfigError, match=r"Expected privacy\.expected_cohort or privacy\.min_separation"):
        _plan(100, federation__clients=0, privacy__mechanism="dp-ftrl-central", **both)


def test_a_cap_on_the_cohort_sizes_the_ring_of_updates_and_of_nothing_else() -> None:
    plan = central_plan(cohort_cap=5, sampling_rate=0.02)
    assert plan.update_encoding(10, l2_clip_norm=0.5).num_summands == 5
    assert (
        plan.release_encoding(plan.release("popularity"), 10).num_summands
        == plan.release_encoding(plan.release("metrics"), 3).num_summands
        == 109
    )


def test_an_owner_limits_the_least_noise_of_all_releases() -> None:
    plan = _plan(privacy__popularity_noise_multiplier=1.5, privacy__epsilon=3.0)
    assert plan.smallest_noise_multiplier == min(1.5, 5.0, plan.noise_multiplier)
    turns = _plan(privacy__mechanism="dp-ftrl-silo", federation__rounds=20, privacy__popularity_noise_multiplier=0.0)
    # The columns of the correlated noise are longer than 1, so one participation has less noise than the multiplier says.
    assert turns.smallest_noise_multiplier == turns.round_event().noise_multiplier < turns.noise_multiplier


def test_choosing_the_best_round_needs_noised_validations() -> None:
    with pytest.raises(ConfigError, match=r"Expected evaluation\.released_round=last without privacy"):
        _plan(privacy__epsilon=math.inf, evaluation__released_round="best-noised")
