"""The owner's limits: what is out of range is refused, and so is a plan that asks for more than they allow."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from client.ledger.ledger import Ledger, Policy
from shared.errors import ConfigError, PolicyRefused, PrivacyError
from shared.privacy.supported_claims import ADVERSARIES
from tests.ledgers import BINDING, EVENT, REQUEST, reserve


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data_name": ""}, r"Expected the name of the data to be 1 to 100 printable characters, got 0\."),
        ({"data_name": "m" * 101}, r"Expected the name of the data to be 1 to 100 printable characters, got 101\."),
        ({"data_name": "mo\nvies"}, r"Expected the name of the data to be 1 to 100 printable characters, got 7\."),
        ({"unit": "interaction"}, r"Expected unit to be one of user, window, got unit=interaction\."),
        (
            {"relation": "same"},
            r"Expected relation to be one of add-or-remove-one, zero-out, replace-one, got relation=same\.",
        ),
        ({"delta": 1.0}, r"Expected 0 < delta < 1, got delta=1\."),
        ({"delta": math.nan}, r"Expected 0 < delta < 1, got delta=nan\."),
    ],
)
def test_a_binding_without_meaning_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(BINDING, **change)


def test_a_plan_about_another_unit_or_delta_than_the_ledger_is_refused(ledger: Ledger) -> None:
    """The advice never lets the same users begin with an empty ledger, and quotes nothing of other runs."""
    for change in ({"unit": "window"}, {"delta": 0.1}):
        (field,) = change
        with pytest.raises(PrivacyError) as caught:
            reserve(ledger, request=replace(REQUEST, **change))
        assert str(caught.value) == (
            f"Expected a plan with the {field} of the privacy ledger, got another {field}. No data was read. One ledger "
            f"composes like with like, and a new one would forget what these users spent: use the {field} of the earlier "
            "runs, which `tacit node budget show` prints."
        )


@pytest.mark.parametrize(
    ("policy", "allowed", "asked"),
    [
        (Policy(unit="window"), "unit=window", "unit=user"),
        (Policy(l2_clip_norm_at_most=0.05), "l2_clip_norm <= 0.05", "l2_clip_norm=0.1"),
        (Policy(noise_multiplier_at_least=1.6), "noise_multiplier >= 1.6", "noise_multiplier=1.5"),
        (Policy(rounds_at_most=9), "rounds <= 9", "rounds=10"),
        (Policy(delta_at_most=9e-6), "delta <= 9e-06", "delta=1e-05"),
        (Policy(corrupt_fraction_at_least=0.1), "corrupt_fraction >= 0.1", "corrupt_fraction=0.05"),
        (Policy(dropout_fraction_at_most=0.01), "dropout_fraction <= 0.01", "dropout_fraction=0.02"),
        (
            Policy(mechanisms=("distributed", "dp-ftrl-silo")),
            "mechanism to be one of distributed, dp-ftrl-silo",
            "mechanism=dp-sgd",
        ),
    ],
)
def test_a_plan_that_asks_for_more_than_the_owner_allows_is_refused(
    ledger: Ledger, policy: Policy, allowed: str, asked: str
) -> None:
    ledger.set_policy(policy)
    with pytest.raises(PolicyRefused) as caught:
        reserve(ledger, request=replace(REQUEST, corrupt_fraction=0.05, dropout_fraction=0.02))
    assert str(caught.value).startswith(
        f"Expected {allowed}, which the owner of this device allows, got {asked}. No data was read. Change the plan, or "
        "let the owner run `tacit node budget set-limit --"
    )
    with pytest.raises(
        PolicyRefused, match=r"Expected the plan to say what the owner of this device limits .*, got nothing"
    ):
        reserve(ledger, request=None)
    assert ledger.spent("a") == []


def test_a_plan_within_all_limits_is_let_through(ledger: Ledger) -> None:
    ledger.set_policy(Policy(100.0, "user", 0.1, 1.5, 10, 1e-5, ("dp-sgd",), "active-server", 0.05, 0.02))
    reserve(ledger, request=REQUEST)  # which assumes nothing of other clients
    reserve(ledger, request=replace(REQUEST, corrupt_fraction=0.05, dropout_fraction=0.02))
    assert ledger.spent("a") == [EVENT, EVENT]


# Mechanism, secure aggregation, the adversaries against whom its noise protects as things are.
_SILO = {"outsider", "colluding-clients", "server", "active-server"}
_PROTECTS = {
    ("dp-sgd", "none"): _SILO,
    ("dp-ftrl-silo", "none"): _SILO,
    ("central", "none"): {"outsider", "colluding-clients"},
    ("dp-ftrl-central", "none"): {"outsider", "colluding-clients"},
    ("distributed", "stand-in"): {"outsider", "colluding-clients"},
    ("distributed", "masked"): {"outsider", "colluding-clients", "server"},
}


def _serves(policy: Policy, mechanism: str, aggregation: str) -> bool:
    try:
        policy.verify(replace(REQUEST, mechanism=mechanism, secure_aggregation=aggregation))
    except PolicyRefused:
        return False
    return True


@pytest.mark.parametrize(("mechanism", "aggregation"), _PROTECTS)
def test_an_owner_names_the_weakest_adversary_whom_a_plan_must_protect_against(mechanism: str, aggregation: str) -> None:
    served = {name for name in ADVERSARIES if _serves(Policy(adversary=name), mechanism, aggregation)}
    assert served == _PROTECTS[mechanism, aggregation]


@pytest.mark.parametrize(("mechanism", "aggregation"), _PROTECTS)
def test_a_limit_on_epsilon_alone_excludes_what_does_not_protect_against_the_server(
    mechanism: str, aggregation: str
) -> None:
    """An exact clipped update leaves the device there, and would count as if it were noised; unless the owner allows it."""
    local = "server" in _PROTECTS[mechanism, aggregation]
    assert _serves(Policy(epsilon=8.0), mechanism, aggregation) is local
    assert _serves(Policy(epsilon=8.0, mechanisms=(mechanism,)), mechanism, aggregation)
    assert _serves(Policy(epsilon=8.0, adversary="outsider"), mechanism, aggregation)
    # Two limits that contradict each other: both hold.
    assert _serves(Policy(epsilon=8.0, adversary="server", mechanisms=(mechanism,)), mechanism, aggregation) is local
    assert _serves(Policy(rounds_at_most=100), mechanism, aggregation)


def test_a_refused_mechanism_is_told_with_what_the_owner_would_have_to_allow(ledger: Ledger) -> None:
    request = replace(REQUEST, mechanism="central")
    ledger.set_policy(Policy(epsilon=8.0))
    with pytest.raises(PolicyRefused) as caught:
        reserve(ledger, request=request)
    assert str(caught.value) == (
        "Expected a plan that protects against adversary=server, which the owner of this device allows, got "
        "mechanism=central, which does not. No data was read. Change the plan, or let the owner run `tacit node budget "
        "set-limit --mechanism central` or `--adversary`."
    )
    assert ledger.owners() == []


@pytest.mark.parametrize("field", ["l2_clip_norm", "noise_multiplier", "rounds"])
def test_a_number_that_is_none_never_keeps_a_limit(ledger: Ledger, field: str) -> None:
    ledger.set_policy(Policy(l2_clip_norm_at_most=1.0, noise_multiplier_at_least=0.1, rounds_at_most=100))
    with pytest.raises(PolicyRefused, match=f"Expected {field} .*got {field}=nan"):
        reserve(ledger, request=replace(REQUEST, **{field: math.nan}))


def test_the_policy_holds_where_a_plan_adds_no_noise_and_has_no_events(ledger: Ledger) -> None:
    ledger.set_policy(Policy(noise_multiplier_at_least=1.0))
    with pytest.raises(PolicyRefused, match=r"Expected noise_multiplier >= 1, .*got noise_multiplier=0\."):
        ledger.reserve("a", [], run="r", purpose="train", round_number=1, request=replace(REQUEST, noise_multiplier=0.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": 0.0}, r"Expected epsilon > 0 and finite, got epsilon=0\.0\."),
        ({"epsilon": math.inf}, r"Expected epsilon > 0 and finite, got epsilon=inf\."),
        ({"unit": "person"}, r"Expected unit to be one of user, window, got unit=person\."),
        ({"l2_clip_norm_at_most": -1.0}, r"Expected l2_clip_norm_at_most > 0 and finite, got l2_clip_norm_at_most=-1\.0\."),
        ({"noise_multiplier_at_least": math.nan}, r"Expected noise_multiplier_at_least > 0 and finite, got .*=nan\."),
        ({"rounds_at_most": 0}, r"Expected rounds_at_most >= 1, got rounds_at_most=0\."),
        ({"delta_at_most": 1.0}, r"Expected 0 < delta_at_most < 1, got delta_at_most=1\.0\."),
        ({"corrupt_fraction_at_least": 1.0}, r"Expected corrupt_fraction_at_least in \[0, 1\), got"),
        ({"dropout_fraction_at_most": math.nan}, r"Expected dropout_fraction_at_most in \[0, 1\), got"),
        ({"mechanisms": ()}, r"Expected mechanisms among dp-sgd, dp-ftrl-silo, central, .*, got mechanisms=\."),
        ({"mechanisms": ("dp-sgd", "none")}, r"Expected mechanisms among dp-sgd, .*, got mechanisms=dp-sgd,none\."),
        ({"adversary": "mallory"}, r"Expected adversary to be one of outsider, server, .*, got adversary=mallory\."),
    ],
)
def test_a_policy_out_of_range_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Policy(**change)
