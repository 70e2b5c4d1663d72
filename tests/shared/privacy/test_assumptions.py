"""A claim whose assumption fails protects nothing and names it; a stated limit leaves every claim standing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.config import RunConfig
from shared.privacy.assumptions import assumptions, failed
from shared.privacy.claims import claims, not_kept, warnings
from shared.privacy.plan import PrivacyPlan
from shared.privacy.supported_claims import ADVERSARIES
from tests.plans import central_plan, distributed_plan, plain_plan, silo_plan

CATALOG = "The catalog and its texts exist independently of these users (declared)"
HIDDEN = "Single updates are hidden from the server by secure aggregation"
LIMITED = "The owner of every device set a limit in its ledger (a plan cannot know)"
SECRET = "Noise and sampling come from a cryptographic source"

UNDECLARED = RunConfig()
PLANS = {
    "silo": silo_plan(adversary="server"),
    "turns in silos": silo_plan(mechanism="dp-ftrl-silo", min_separation=4, adversary="server"),
    "central": central_plan(),
    "central, sampled": central_plan(sampling_rate=0.2),
    "turns": central_plan(mechanism="dp-ftrl-central", min_separation=3),
    "shares": distributed_plan(),
    "shares, outsider": distributed_plan(adversary="outsider"),
}
# Without any change: whose line rests on something that is not there.
FAILED = {
    "silo": {"active-server": (LIMITED,)},
    "turns in silos": {"active-server": (LIMITED,)},
    "shares": {"server": (HIDDEN,), "active-server": (HIDDEN,)},
    "shares, outsider": {"server": (HIDDEN,), "active-server": (HIDDEN,)},
}


def _protected(plan: PrivacyPlan) -> dict[str, bool]:
    return {claim.adversary: claim.protected for claim in claims(plan, plan.events())}


@pytest.mark.parametrize("name", PLANS)
def test_each_line_names_the_assumptions_that_it_rests_on_and_that_fail(name: str) -> None:
    plan = PLANS[name]
    for claim in claims(plan, plan.events()):
        expected = FAILED.get(name, {}).get(claim.adversary, ())
        assert claim.failed_assumptions == expected
        if expected:
            assert not claim.protected
            if claim.epsilon is not None:
                assert f"because this does not hold: {expected[0]}." in claim.statement


@pytest.mark.parametrize("name", PLANS)
def test_a_catalog_that_is_not_public_voids_every_claim_and_every_claim_names_it(name: str) -> None:
    plan = PLANS[name]
    assert any(_protected(plan).values())  # the negative control
    made_of_data = replace(plan, public_catalog=False)
    found = claims(made_of_data, made_of_data.events())
    for claim in found:
        assert not claim.protected
        if claim.adversary != "own-device":
            assert CATALOG in claim.failed_assumptions
        if claim.epsilon is not None:
            assert claim.statement.startswith(f"Not protected in this run, because this does not hold: {CATALOG}")
    own = next(claim for claim in found if claim.adversary == plan.adversary)
    said = not_kept(made_of_data, found)
    assert said is not None
    assert said.startswith(f"NOT PROTECTED against {own.who}, contrary to the plan, because this does not hold: {CATALOG}")


def test_only_a_private_run_can_fail_to_keep_what_it_was_planned_for() -> None:
    for plan in (plain_plan(public_catalog=False), silo_plan(reproducible=True, public_catalog=False)):
        assert not_kept(plan, claims(plan, plan.events())) is None
    served = {name: not_kept(plan, claims(plan, plan.events())) is None for name, plan in PLANS.items()}
    assert served == {name: name != "shares" for name in PLANS}


@given(
    name=st.sampled_from(sorted(PLANS)),
    public=st.booleans(),
    reproducible=st.booleans(),
    delta=st.sampled_from([1e-5, 5e-3]),
)
def test_no_line_is_protected_while_an_assumption_of_the_same_report_voids_it(
    name: str, public: bool, reproducible: bool, delta: float
) -> None:
    plan = replace(PLANS[name], public_catalog=public, reproducible=reproducible, delta=delta)
    listed = assumptions(plan, UNDECLARED)
    protected = _protected(plan)
    for adversary in ADVERSARIES:
        missing = {found.text for found in listed if not found.holds and adversary in found.voids}
        assert missing == set(failed(plan, adversary))
        if missing:
            assert not protected[adversary]


def test_a_stated_limit_qualifies_every_claim_and_voids_none() -> None:
    """Constants that are counted, floats in silos, reply times, a large delta: what is claimed of the released numbers
    stays true."""
    plan = silo_plan(adversary="server", delta=5e-4)
    limits = [found for found in assumptions(plan, UNDECLARED) if not found.holds and not found.voids]
    assert len(limits) == 4
    assert not_kept(plan, claims(plan, plan.events())) is None
    declared = UNDECLARED.with_values({"privacy.population": 943, "privacy.reply_bucket_seconds": 60.0})
    assert all(found.holds for found in assumptions(central_plan(), declared) if not found.voids)


def test_a_number_of_users_that_is_rounded_and_not_declared_is_a_stated_limit() -> None:
    assert _holds(UNDECLARED, "The number of users is declared") is False
    assert _holds(UNDECLARED.with_values({"privacy.population": 900}), "The number of users is declared") is True


def test_silos_that_are_made_of_the_values_of_an_attribute_are_a_stated_limit() -> None:
    by_attribute = UNDECLARED.with_values({"federation.sizes": "attribute", "federation.attribute": "shop"})
    silos = "Silos are known before their users"
    assert _holds(by_attribute.with_values({"federation.clients": 0}), silos) is False
    assert _holds(by_attribute.with_values({"federation.clients": 4}), silos) is True
    assert _holds(UNDECLARED, silos) is None  # the negative control


def _holds(config: RunConfig, begin: str) -> bool | None:
    """Whether the assumption that begins so holds; None where it is not made. It voids no claim."""
    found = [row for row in assumptions(silo_plan(), config) if row.text.startswith(begin)]
    assert all(row.voids == () for row in found)
    return found[0].holds if found else None


def test_a_seed_that_gives_the_noise_away_is_an_assumption_that_fails() -> None:
    listed = assumptions(silo_plan(reproducible=True), UNDECLARED)
    texts = {found.text for found in listed if not found.holds and "server" in found.voids}
    assert texts == {SECRET}


def test_a_bound_above_twenty_and_a_handful_of_users_are_warned_of() -> None:
    large = central_plan(noise_multiplier=0.25, delta=1e-4)
    found = claims(large, large.events())
    assert found[0].epsilon is not None
    assert found[0].epsilon > 20
    assert found[0].protected
    assert not found[0].is_meaningful
    (said,) = warnings(large, found)
    assert said.startswith("No meaningful protection: epsilon ")
    assert "outsider with every released adapter; clients colluding" in said
    assert found[0].statement.startswith("No meaningful protection: epsilon ")
    assert found[0].statement.endswith(" The server adds the noise to the exact sum before anything is released.")
    assert found[0].verdict == "no meaningful protection"
    few = silo_plan(population=3, delta=0.01)
    (said,) = warnings(few, claims(few, few.events()))
    assert said.startswith("A population of 3 is small: the bound may fail with probability delta=0.01")
    small = central_plan()
    assert warnings(small, claims(small, small.events())) == []  # the negative control
