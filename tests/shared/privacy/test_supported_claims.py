"""The matrix unit x mechanism x secure aggregation x adversary: what is accepted, literally, and why the rest is refused."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from shared.config import RunConfig
from shared.errors import UnsupportedMechanism
from shared.privacy.calibration import plan_of
from shared.privacy.claims import claims
from shared.privacy.mechanism import Mechanism
from shared.privacy.supported_claims import check, strongest_adversary, why_refused

UNITS = ("user", "window", "interaction")
MECHANISMS = ("dp-sgd", "dp-ftrl-silo", "central", "dp-ftrl-central", "distributed")
AGGREGATIONS = ("none", "stand-in", "masked")
ADVERSARIES = ("outsider", "server", "active-server", "colluding-clients")

# Everything that may be claimed; what is not here is refused.
ACCEPTED = {
    ("user", "dp-sgd", "none", "outsider"),
    ("user", "dp-sgd", "none", "server"),
    ("user", "dp-sgd", "none", "active-server"),
    ("user", "dp-sgd", "none", "colluding-clients"),
    ("window", "dp-sgd", "none", "outsider"),
    ("window", "dp-sgd", "none", "server"),
    ("window", "dp-sgd", "none", "active-server"),
    ("window", "dp-sgd", "none", "colluding-clients"),
    ("user", "dp-ftrl-silo", "none", "outsider"),
    ("user", "dp-ftrl-silo", "none", "server"),
    ("user", "dp-ftrl-silo", "none", "active-server"),
    ("user", "dp-ftrl-silo", "none", "colluding-clients"),
    ("user", "central", "none", "outsider"),
    ("user", "central", "none", "colluding-clients"),
    ("user", "dp-ftrl-central", "none", "outsider"),
    ("user", "dp-ftrl-central", "none", "colluding-clients"),
    ("user", "distributed", "stand-in", "outsider"),
    ("user", "distributed", "stand-in", "server"),
    ("user", "distributed", "stand-in", "colluding-clients"),
    ("user", "distributed", "masked", "outsider"),
    ("user", "distributed", "masked", "server"),
    ("user", "distributed", "masked", "colluding-clients"),
}
EVERY = list(itertools.product(UNITS, MECHANISMS, AGGREGATIONS, ADVERSARIES))


def _named(combination: tuple[str, str, str, str]) -> dict[str, Any]:
    named = dict(zip(("unit", "mechanism", "secure_aggregation", "adversary"), combination, strict=True))
    return {**named, "mechanism": Mechanism.named(named["mechanism"])}


def _config(combination: tuple[str, str, str, str]) -> RunConfig:
    unit, mechanism, aggregation, adversary = combination
    return RunConfig.from_mapping(
        {
            "privacy.unit": unit, "privacy.mechanism": mechanism,
            "secure_aggregation.enabled": aggregation != "none",
            "secure_aggregation.simulate": "full" if aggregation == "masked" else "sum",
            "privacy.adversary": adversary, "privacy.delta": 1e-3, "federation.rounds": 1, "training.local_steps": 1,
            "federation.clients": 2 if mechanism in ("dp-sgd", "dp-ftrl-silo") else 0,
        }
    )  # fmt: skip


@pytest.mark.parametrize("combination", [c for c in EVERY if c in ACCEPTED], ids="+".join)
def test_a_combination_in_the_table_is_accepted_and_has_a_plan_with_a_finite_claim(
    combination: tuple[str, str, str, str],
) -> None:
    check(**_named(combination))
    plan = plan_of(_config(combination), num_users=90)
    assert (plan.unit, plan.mechanism, plan.secure_aggregation, plan.adversary) == combination
    (claim,) = [claim for claim in claims(plan, plan.events()) if claim.adversary == combination[3]]
    assert claim.epsilon is not None
    assert 7.9 < claim.epsilon <= 8.0


# What to use instead, by what is wrong first.
INSTEAD: dict[str, Any] = {
    "interaction": "Use unit=user, or unit=window.",
    "window": "Use mechanism=dp-sgd, or unit=user.",
    "a silo behind secure aggregation": "Leave secure aggregation out.",
    "shares in the open": "Set secure_aggregation.enabled=true, or use mechanism=dp-sgd in silos.",
    "central behind secure aggregation": "Leave secure aggregation out, or use mechanism=distributed.",
    "central against the server": "Use adversary=outsider or colluding-clients, or mechanism=distributed.",
    "shares against an active server": "Use adversary=server, or silos.",
}


def _what_is_wrong(unit: str, mechanism: str, aggregation: str, adversary: str) -> str:
    """By the design's words, not by the code's order."""
    if unit == "interaction":
        return "interaction"
    if unit == "window" and mechanism != "dp-sgd":
        return "window"
    if mechanism == "distributed":
        return "shares in the open" if aggregation == "none" else "shares against an active server"
    if mechanism.startswith("dp-sgd") or mechanism.endswith("silo"):
        return "a silo behind secure aggregation"
    return "central against the server" if aggregation == "none" else "central behind secure aggregation"


@pytest.mark.parametrize("combination", [c for c in EVERY if c not in ACCEPTED], ids="+".join)
def test_a_combination_that_is_not_in_the_table_is_refused_with_a_reason_that_says_what_to_use_instead(
    combination: tuple[str, str, str, str],
) -> None:
    reason = why_refused(**_named(combination))
    assert reason is not None
    assert reason.endswith(INSTEAD[_what_is_wrong(*combination)])
    unit, mechanism, aggregation, adversary = combination
    message = (
        f"Expected a combination that can be claimed, got privacy.unit={unit}, privacy.mechanism={mechanism}, "
        f"secure aggregation {aggregation}, privacy.adversary={adversary}"
    )
    with pytest.raises(UnsupportedMechanism, match=message) as refused:
        check(**_named(combination))
    assert str(refused.value).endswith(reason)
    if (mechanism == "distributed") == (aggregation != "none"):  # no configuration asks for others
        with pytest.raises(UnsupportedMechanism, match=message):
            plan_of(_config(combination), num_users=90)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_what_is_recommended_instead_is_itself_accepted(mechanism: str) -> None:
    aggregation = "stand-in" if mechanism == "distributed" else "none"
    assert ("user", mechanism, aggregation, strongest_adversary(Mechanism.named(mechanism), aggregation)) in ACCEPTED


def test_auto_means_the_server_for_silos_and_masked_shares_and_an_outsider_where_a_server_sees_through() -> None:
    """Noise in shares that are added up in the open is promised to nobody who sees them."""
    found = {name: strongest_adversary(Mechanism.named(name), "none") for name in MECHANISMS[:-1]}
    assert found == {"dp-sgd": "server", "dp-ftrl-silo": "server", "central": "outsider", "dp-ftrl-central": "outsider"}
    assert strongest_adversary(Mechanism.DISTRIBUTED, "masked") == "server"
    assert strongest_adversary(Mechanism.DISTRIBUTED, "stand-in") == "outsider"
