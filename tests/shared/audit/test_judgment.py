"""What follows from evidence that is written down here."""

from __future__ import annotations

import math
from typing import Any

import pytest

from shared.audit.document import CanaryClass, Evidence, Independence, Results
from shared.audit.judgment import claimed_against, results_of, views_of
from shared.privacy.statement import RecordedEvent, Statement
from tests.audits import evidence_about, statement_about
from tests.plans import central_plan, plain_plan


@pytest.fixture(scope="module")
def statement() -> Statement:
    return statement_about()


def _judged(statement: Statement, **changes: Any) -> Results:
    return results_of(statement, evidence_about(statement, **changes))


def test_each_claim_is_held_against_what_its_adversary_sees(statement: Statement) -> None:
    sums = ("outsider", "colluding-clients")
    assert views_of(statement) == {"sums": sums, "replies": ("server",)}
    central = statement_about(central_plan(rounds=0))
    assert views_of(central) == {"sums": sums}
    assert views_of(statement_about(plain_plan())) == {}


def test_an_ideal_run_passes_and_its_estimates_are_near_its_claim(statement: Statement) -> None:
    results = _judged(statement)
    assert (results.verdict, results.failures, results.warnings) == ("passed", (), ())
    claim = claimed_against(statement, ("server",))
    for estimate in results.estimates:
        assert estimate.epsilon == pytest.approx(claim, rel=0.2) and estimate.low < claim == estimate.claimed
    assert (results.level, results.probe_level) == pytest.approx((0.025 / (2 * 2), 0.025 / (2 * 4 + 1)))
    assert all(bound.epsilon < bound.alone < bound.claimed for bound in results.bounds)
    assert all(row.area is not None and row.area.low > 0.6 for row in results.rates)
    assert all(row.found["0.001"] is None for row in results.rates)  # 200 canaries that are out are too few


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"noise": 0.5}, "less noise than claimed"),
        ({"noise": 1.2}, "more in the sum than is known"),
        ({"power": 2.0}, "a user counts more than once"),
        ({"power": 2.0}, "a long history is not bounded"),
        ({"beside": ("fields.loss",)}, "all replies, in the replies: a reply holds something beside the contribution"),
        ({"uncharged": ("popularity of round 0",)}, "a client's ledger does not hold the release"),
        (
            {"independence": (Independence(view="sums", between="replies to one request", products=9, z=8.0),)},
            "replies to one request, in the sums: noise is used twice",
        ),
    ],
)
def test_what_is_wrong_fails_the_audit_and_is_said(statement: Statement, changes: dict[str, Any], said: str) -> None:
    results = _judged(statement, **changes)
    assert results.verdict == "failed"
    assert any(said in failure for failure in results.failures), results.failures


def test_a_lower_bound_above_its_claim_fails_the_audit() -> None:
    """At a claim of 2.4 half the noise is found by guesses alone."""
    statement = statement_about(noise_multiplier=1.5)
    results = results_of(statement, evidence_about(statement, canaries=1500, noise=0.5))
    exceeded = [bound for bound in results.bounds if bound.exceeded]
    assert {bound.method for bound in exceeded} >= {"f-dp"} and all(bound.epsilon > bound.claimed for bound in exceeded)
    assert any("The f-dp lower bound is epsilon" in failure for failure in results.failures)


def test_events_that_guesses_refute_fail_the_audit() -> None:
    """The claim is met, the events are not: a run of two releases of which the statement holds one more than its noise."""
    statement = statement_about(noise_multiplier=1.5)
    loud = statement.model_copy(update={"events": (RecordedEvent(noise_multiplier=9.0),)})
    results = results_of(loud, evidence_about(statement, canaries=1500))
    refuted = [bound for bound in results.bounds if bound.refuted]
    assert refuted and all(bound.method == "f-dp" and bound.epsilon < bound.claimed for bound in refuted)
    assert any("more than their trade-off function allows" in failure for failure in results.failures)
    assert not any(bound.refuted for bound in results_of(statement, evidence_about(statement, canaries=1500)).bounds)


def test_estimates_warn_and_decide_nothing(statement: Statement) -> None:
    evidence = evidence_about(statement, power=2.0)
    quiet = tuple(one.model_copy(update={"short": None, "long": None}) for one in evidence.releases)
    results = results_of(statement, evidence.model_copy(update={"releases": quiet}))
    assert any("parametric estimate is at least" in warning for warning in results.warnings)
    assert not any("estimate" in failure for failure in results.failures)


def test_a_run_that_claims_nothing_always_fails() -> None:
    empty = Evidence(attacks=(), releases=(), independence=(), beside=(), uncharged=())
    results = results_of(statement_about(plain_plan()), empty)
    assert results.verdict == "failed" and results.failures[0].startswith("Nothing is claimed: privacy is off")


def test_a_release_with_few_unused_directions_is_not_tested_for_its_noise_and_counts_with_the_claimed_one(
    statement: Statement,
) -> None:
    evidence = evidence_about(statement)
    few = tuple(one.model_copy(update={"samples": 5, "total": 0.01}) for one in evidence.releases)
    results = results_of(statement, evidence.model_copy(update={"releases": few}))
    assert results.verdict == "passed"
    (shot,) = [one for one in results.estimates if one.method == "one-shot" and one.view == "replies"]
    assert math.isfinite(shot.epsilon) and shot.epsilon == pytest.approx(shot.claimed, rel=0.05)


def test_a_release_that_canaries_tell_nothing_about_counts_with_its_claim_and_is_named(statement: Statement) -> None:
    evidence = evidence_about(statement)
    silent = CanaryClass(factor=9.0, error=4.0, norm=0.4)
    releases = tuple(one.model_copy(update={"short": silent, "long": None}) for one in evidence.releases)
    results = results_of(statement, evidence.model_copy(update={"releases": releases}))
    (shot,) = [one for one in results.estimates if one.method == "one-shot" and one.view == "replies"]
    assert shot.assumed == ("popularity",) and shot.epsilon == pytest.approx(shot.claimed, rel=0.05)


def test_power_says_what_an_audit_of_this_size_can_refute(statement: Statement) -> None:
    for row in _judged(statement).power:
        assert 0.0 < row.at_the_claim < row.at_half_the_noise <= row.largest + 1e-6
        assert row.at_the_claim < row.claimed
