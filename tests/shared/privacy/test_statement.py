"""The statement: composed of a plan and its events, equal to what accountant and oracle find, and whole or refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError
from scipy import optimize, stats

from shared.config import RunConfig
from shared.privacy import accounting
from shared.privacy.claims import WHO
from shared.privacy.events import Event
from shared.privacy.plan import PrivacyPlan
from shared.privacy.statement import Statement, statement_of
from tests.plans import central_plan, distributed_plan, plain_plan, silo_plan

CONFIG = RunConfig.from_mapping({"data.public_catalog": True})
PLANS: dict[str, PrivacyPlan] = {
    "silo": silo_plan(adversary="server"),
    "window": silo_plan(adversary="server", unit="window", windows_per_user=5),
    "turns in silos": silo_plan(adversary="server", mechanism="dp-ftrl-silo", min_separation=4, sampling_rate=1.0),
    "central": central_plan(),
    "central, sampled": central_plan(sampling_rate=0.2),
    "central, turns": central_plan(mechanism="dp-ftrl-central", min_separation=3),
    "shares": distributed_plan(),
    "shares, colluders": distributed_plan(colluding_clients=5),
    "shares, masked": distributed_plan(colluding_clients=5, secure_aggregation="masked", smallest_active_sum=16),
    "catalog of the data": silo_plan(adversary="server", public_catalog=False),
    "weak": central_plan(noise_multiplier=0.25),
    "seeded": silo_plan(reproducible=True),
    "plain": plain_plan(),
}


def _statement(plan: PrivacyPlan, **more: Any) -> Statement:
    return statement_of(plan, plan.events(), config=CONFIG, **more)


def _gaussian_epsilon(multiplier: float, delta: float) -> float:
    """Balle and Wang 2018, Theorem 8, solved for epsilon."""

    def excess(eps: float) -> float:
        a, b = 1 / (2 * multiplier), eps * multiplier
        return float(stats.norm.cdf(a - b)) - math.exp(eps + stats.norm.logcdf(-a - b)) - delta

    return float(optimize.brentq(excess, 0.0, 5000.0))


def test_the_epsilons_of_full_releases_are_those_of_one_gaussian() -> None:
    """The oracle shares no code: releases of full participation compose to one Gaussian of the summed precisions."""
    statement = _statement(PLANS["central"])
    precision = 1 / 3.0**2 + 3 / 1.25**2 + 1 / 5.0**2  # popularity, three rounds, metrics
    exact, group = _gaussian_epsilon(precision**-0.5, 1e-4), _gaussian_epsilon(precision**-0.5 / 2, 1e-4)
    found = {claim.adversary: claim.epsilon for claim in statement.claims}
    for bound in (
        statement.epsilon,
        found["outsider"],
        found["colluding-clients"],
        statement.per_client.known_participation,
    ):
        assert bound is not None and exact <= bound <= exact + 0.01
    assert statement.group.epsilon is not None and group <= statement.group.epsilon <= group + 0.02
    assert (found["server"], found["active-server"], found["own-device"]) == (None, None, None)


@pytest.mark.parametrize("name", PLANS)
def test_no_claim_changes_by_being_stated(name: str) -> None:
    """Epsilon and protection of each adversary, from the accountant and a table of who is shut out."""
    plan = PLANS[name]
    statement = _statement(plan)
    by_mechanism = {
        "dp-sgd": ["outsider", "server", "colluding-clients"],
        "dp-ftrl-silo": ["outsider", "server", "colluding-clients"],
        "central": ["outsider", "colluding-clients"],
        "dp-ftrl-central": ["outsider", "colluding-clients"],
        "distributed": ["outsider", "colluding-clients"],
    }
    claims_something = plan.is_private and plan.public_catalog
    shut_out = by_mechanism[plan.mechanism] if claims_something else []
    if plan.masks_contributions:
        shut_out = ["outsider", "server", "colluding-clients"]
    assert [claim.adversary for claim in statement.claims if claim.protected] == shut_out
    for claim in statement.claims[:-1]:
        seen = plan.seen_by(claim.adversary, plan.events()) if plan.is_private else None  # type: ignore[arg-type]
        bound = None if seen is None else accounting.epsilon(seen, delta=plan.delta, relation=plan.relation)
        assert claim.epsilon == bound
    own = [claim.epsilon for claim in statement.claims if claim.adversary == plan.adversary]
    assert statement.epsilon == statement.epsilon_of_this_run == (own[0] if own else None)


@pytest.mark.parametrize("name", PLANS)
def test_a_statement_names_all_that_a_reader_needs(name: str) -> None:
    plan, statement = PLANS[name], _statement(PLANS[name])
    assert [claim.adversary for claim in statement.claims] == list(WHO)
    assert (statement.unit, statement.neighboring_relation, statement.delta) == (plan.unit, plan.relation, plan.delta)
    assert statement.is_private is (name not in ("seeded", "plain"))
    assert (statement.why_not is None) is statement.is_private
    assert statement.assumptions and statement.sent and statement.not_protected
    assert {one.name for one in statement.releases} == {one.name for one in plan.releases}
    assert [Event(**vars(event)) for event in statement.events] == plan.events()
    assert (statement.not_kept is None) is (name not in ("shares", "shares, colluders", "catalog of the data"))
    assert statement.headline.startswith("Against " if statement.is_private else "NOT PRIVATE: ")


def test_a_statement_covers_the_runs_before_and_says_what_this_one_costs_alone() -> None:
    plan = PLANS["central"]
    alone, both = _statement(plan), _statement(plan, earlier=plan.events())
    assert both.epsilon_of_this_run == alone.epsilon
    assert both.epsilon is not None and alone.epsilon is not None
    assert alone.epsilon < both.epsilon < 2 * alone.epsilon
    assert all(claim.epsilon is None or claim.epsilon >= both.epsilon for claim in both.claims)


def test_a_continued_run_counts_on_no_honest_clients_of_cohorts_that_an_earlier_run_had() -> None:
    plan = PLANS["shares, masked"]
    found = [_statement(plan, earlier=earlier) for earlier in ([], plan.events()[:1])]
    assert [one.mechanism.smallest_active_sum for one in found] == [16, 0]
    assert "none of fewer than 16 honest clients" in found[0].claims[2].reason
    assert "one client's own share" in found[1].claims[2].reason


def test_a_continued_run_says_no_number_of_colluders_that_earlier_noise_was_not_made_for() -> None:
    plan = PLANS["shares, colluders"]
    whose = [_statement(plan, earlier=earlier).claims[3].who for earlier in ([], plan.events())]
    assert whose == [
        "up to 5 colluding clients",
        "colluding clients, in each run up to those that its noise is made for (here 5)",
    ]


@pytest.mark.parametrize("name", PLANS)
def test_a_statement_survives_json(name: str) -> None:
    statement = _statement(PLANS[name], message_bytes={"popularity": 400})
    text = json.dumps(statement.model_dump(mode="json"), allow_nan=False)
    assert Statement.model_validate_json(text) == statement


def _claim_everybody(held: dict[str, Any]) -> None:
    held["claims"][4]["protected"] = True


def _claim_despite_an_assumption(held: dict[str, Any]) -> None:
    held["assumptions"][3]["holds"] = False


def _no_privacy(held: dict[str, Any]) -> None:
    held["is_private"] = False


def _another_type(held: dict[str, Any]) -> None:
    held["is_private"] = "yes"


def _unknown_key(held: dict[str, Any]) -> None:
    held["events"][0]["price"] = 1


def _no_noise(held: dict[str, Any]) -> None:
    held["events"][0]["noise_multiplier"] = 0.0


def _nobody(held: dict[str, Any]) -> None:
    held["claims"] = []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_claim_everybody, "protected without a bound"),
        (_claim_despite_an_assumption, "protected on an assumption that fails"),
        (_no_privacy, "a run without privacy has a claim"),
        (_another_type, "valid boolean"),
        (_unknown_key, "Unexpected keyword argument"),
        (_no_noise, "an event has no noise"),
        (_nobody, "no claim against the run's own adversary"),
    ],
)
def test_a_statement_that_contradicts_itself_is_refused(damage: Any, message: str) -> None:
    held = _statement(PLANS["silo"]).model_dump(mode="json")
    Statement.model_validate_json(json.dumps(held))  # the negative control
    damage(held)
    with pytest.raises(ValidationError, match=message):
        Statement.model_validate_json(json.dumps(held))


def test_a_statement_without_privacy_holds_no_epsilon() -> None:
    for name in ("seeded", "plain"):
        statement = _statement(PLANS[name])
        bounds = (statement.epsilon, statement.epsilon_of_this_run, statement.rdp_cross_check, statement.group.epsilon,
                  statement.per_client.with_amplification, statement.per_client.known_participation)  # fmt: skip
        assert bounds == (None,) * 6
        assert all(claim.epsilon is None and claim.statement for claim in statement.claims)


def test_a_bound_that_is_infinite_is_null_and_not_protected() -> None:
    statement = _statement(replace(PLANS["silo"], noise_multiplier=1e-12))
    assert statement.epsilon is None
    assert statement.not_kept is not None
