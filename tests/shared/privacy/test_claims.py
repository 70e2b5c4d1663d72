"""Claims: for each mechanism, who is protected, by how much against whom, and what is said of a person with two accounts."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from shared.config import RunConfig
from shared.errors import UnsupportedMechanism
from shared.privacy.accounting import epsilon
from shared.privacy.calibration import plan_of
from shared.privacy.claims import Claim, claims, curve, group_claim, promise, warnings
from shared.privacy.events import Event
from shared.privacy.plan import PrivacyPlan
from tests.plans import central_plan, distributed_plan, silo_plan

BASE = {
    "data.public_catalog": True,
    "federation.rounds": 5,
    "federation.clients": 0,
    "training.local_steps": 2,
    "privacy.epsilon": 4.0,
    "privacy.delta": 1e-3,
}
SILOS = {"federation.clients": 4}
SETTINGS: dict[str, dict[str, Any]] = {
    "dp-sgd": {**SILOS},
    "window": {**SILOS, "privacy.unit": "window", "privacy.windows_per_user": 5},
    "dp-ftrl-silo": {**SILOS, "privacy.mechanism": "dp-ftrl-silo"},
    "central": {"privacy.mechanism": "central"},
    "central, sampled": {"privacy.mechanism": "central", "privacy.expected_cohort": 20},
    "central, capped": {"privacy.expected_cohort": 20, "privacy.cohort_cap": 40},
    "dp-ftrl-central": {"privacy.mechanism": "dp-ftrl-central", "privacy.expected_cohort": 20},
    "distributed": {},
    "distributed, sampled": {
        "privacy.mechanism": "distributed",
        "privacy.expected_cohort": 20,
        "privacy.colluding_clients": 2,
        "secure_aggregation.corrupt_fraction": 0.0,
        "secure_aggregation.dropout_fraction": 0.0,
    },
}
AMPLIFIED = ("central, sampled", "central, capped")


def _plan(name: str, **changes: Any) -> PrivacyPlan:
    values = {**BASE, **SETTINGS[name], **{key.replace("__", "."): value for key, value in changes.items()}}
    return plan_of(RunConfig.from_mapping(values), num_users=100)


def _claims(plan: PrivacyPlan) -> dict[str, Claim]:
    return {claim.adversary: claim for claim in claims(plan, plan.events())}


def _gaussian_epsilon(multiplier: float, delta: float) -> float:
    """Balle and Wang 2018, "Improving the Gaussian mechanism ...", Theorem 8, solved for epsilon."""

    def excess(eps: float) -> float:
        a, b = 1 / (2 * multiplier), eps * multiplier
        return float(stats.norm.cdf(a - b)) - math.exp(eps + stats.norm.logcdf(-a - b)) - delta

    return float(optimize.brentq(excess, 0.0, 5000.0))


@pytest.mark.parametrize("name", SETTINGS)
def test_the_device_that_holds_the_histories_is_never_claimed_to_be_shut_out(name: str) -> None:
    found = _claims(_plan(name))
    assert list(found) == ["outsider", "server", "active-server", "colluding-clients", "own-device"]
    assert (found["own-device"].epsilon, found["own-device"].protected) == (None, False)
    assert found["own-device"].statement.startswith("No protection")


@pytest.mark.parametrize("name", SETTINGS)
def test_the_plans_own_adversary_meets_the_epsilon_that_was_asked_for(name: str) -> None:
    plan = _plan(name)
    bound = _claims(plan)[plan.adversary].epsilon
    assert bound is not None
    assert 3.98 < bound <= 4.0


@pytest.mark.parametrize("name", ["dp-sgd", "window", "dp-ftrl-silo"])
def test_a_silo_protects_against_everybody_but_itself_with_one_bound(name: str) -> None:
    found = _claims(_plan(name))
    del found["own-device"]
    # How often an active server is answered is up to the limits of the devices' owners, of whom a plan knows nothing.
    assert {name for name, claim in found.items() if not claim.protected} == {"active-server"}
    assert "set-limit" in found["active-server"].reason
    assert len({claim.epsilon for claim in found.values()}) == 1


@pytest.mark.parametrize("name", ["central", "central, sampled", "central, capped", "dp-ftrl-central"])
def test_a_server_that_adds_the_noise_itself_is_protected_against_by_nothing(name: str) -> None:
    found = _claims(_plan(name))
    for adversary in ("server", "active-server"):
        assert (found[adversary].epsilon, found[adversary].protected) == (None, False)
        assert found[adversary].statement.startswith("No protection. It sees every clean update")
    for adversary in ("outsider", "colluding-clients"):
        assert found[adversary].protected
        including = found[adversary].relation == "add-or-remove-one"
        changed = (
            "Including or leaving out one user's full history" if including else "Emptying one user's full history, with"
        )
        meaningful = found[adversary].is_meaningful
        assert found[adversary].statement.startswith(changed if meaningful else "No meaningful protection: epsilon ")


@pytest.mark.parametrize("name", ["distributed", "distributed, sampled"])
def test_masks_hide_single_contributions_from_a_server_that_keeps_the_protocol_and_from_no_other(name: str) -> None:
    found = _claims(replace(_plan(name), secure_aggregation="masked"))
    server, active = found["server"], found["active-server"]
    assert server.protected
    assert server.epsilon == pytest.approx(4.0, abs=0.02)
    assert server.relation == "zero-out"
    assert "under masks" in server.reason
    assert not active.protected
    limit, roster = active.failed_assumptions
    assert limit.startswith("The owner of every device set a limit in its ledger")
    assert roster.startswith("Another party than the server's operator decides who is in the roster")


@pytest.mark.parametrize("name", ["distributed", "distributed, sampled"])
def test_noise_in_shares_protects_against_the_server_only_behind_a_secure_aggregation_that_is_not_there(name: str) -> None:
    found = _claims(_plan(name))
    server, active = found["server"], found["active-server"]
    assert server.epsilon == pytest.approx(4.0, abs=0.02)
    assert not server.protected
    hidden = "Single updates are hidden from the server by secure aggregation"
    assert server.failed_assumptions == active.failed_assumptions == (hidden,)
    assert server.statement.startswith(
        f"Not protected in this run, because this does not hold: {hidden}. With it epsilon would be 4.00."
    )
    assert active.epsilon is not None
    assert active.epsilon > 2.5 * server.epsilon  # type: ignore[operator]
    assert not active.protected
    assert active.statement.startswith("Not protected in this run")
    assert found["outsider"].protected
    assert found["colluding-clients"].protected
    assert found["colluding-clients"].who == (
        "up to 2 colluding clients" if "sampled" in name else "up to 5 colluding clients"  # of 100, as secure sums assume
    )


@pytest.mark.parametrize("name", SETTINGS)
def test_the_bounds_are_in_the_order_of_what_the_adversaries_know(name: str) -> None:
    plan = _plan(name)
    found = _claims(plan)
    outsider, colluding = found["outsider"].epsilon, found["colluding-clients"].epsilon
    assert outsider is not None
    assert colluding is not None
    known = epsilon([event.with_known_participation() for event in plan.events()], delta=1e-3, relation=plan.relation)
    assert colluding == known
    assert outsider <= colluding
    if found["server"].epsilon is not None:
        assert found["server"].epsilon == known


@pytest.mark.parametrize("name", AMPLIFIED)
def test_who_knows_the_cohorts_never_shares_the_amplified_number(name: str) -> None:
    found = _claims(_plan(name, privacy__adversary="outsider"))
    outsider = found["outsider"].epsilon
    assert outsider is not None
    for adversary in ("server", "active-server", "colluding-clients"):
        other = found[adversary].epsilon
        assert other is None or other > 2 * outsider
    assert "secret" in found["outsider"].reason


def test_what_one_share_of_the_noise_is_worth_against_an_active_server_is_in_the_hundreds() -> None:
    """privacy.md: noise multiplier 5, 60 rounds, survivors less colluders 600: about 860. It holds at delta 1e-4.

    At delta 1e-5 the same is 881. The oracle is the exact formula for one Gaussian of the composed multiplier.
    """
    for delta, expected in ((1e-4, 860.0), (1e-5, 881.0)):
        plan = distributed_plan(
            population=1000, num_clients=1000, rounds=60, noise_multiplier=5.0, minimum_survivors=620, colluding_clients=20,
            popularity_noise_multiplier=0.0, evaluation_noise_multiplier=0.0, evaluations=0, delta=delta,
        )  # fmt: skip
        found = _claims(plan)["active-server"]
        assert found.epsilon == pytest.approx(expected, rel=0.02)
        exact = _gaussian_epsilon(5.0 / math.sqrt(600 * 60), delta)
        assert exact <= found.epsilon <= exact * (1 + 1e-3)  # type: ignore[operator]
        assert not found.protected


def test_the_active_servers_bound_counts_the_shares_of_the_count_and_of_the_metrics_too() -> None:
    few = distributed_plan(popularity_noise_multiplier=0.0, evaluation_noise_multiplier=0.0, evaluations=0)
    more = distributed_plan(evaluations=2)
    precision = (3 / 1.25**2, 3 / 1.25**2 + 1 / 3.0**2 + 2 / 5.0**2)
    for plan, inverse in zip((few, more), precision, strict=True):
        exact = _gaussian_epsilon(1 / math.sqrt(80 * inverse), 1e-4)
        found = _claims(plan)["active-server"].epsilon
        assert exact <= found <= exact + 0.05  # type: ignore[operator]


def test_behind_masks_an_active_server_meets_the_shares_of_the_fewest_clients_whose_sum_it_opens() -> None:
    """Oracle: one Gaussian of that part of the variance, which Skellam noise costs some hundredths more than."""
    alone = distributed_plan(
        population=1000, num_clients=1000, rounds=1, noise_multiplier=2.0, minimum_survivors=950, colluding_clients=50,
        secure_aggregation="masked", popularity_noise_multiplier=0.0, evaluation_noise_multiplier=0.0, evaluations=0,
    )  # fmt: skip
    for fewest, part in ((225, 0.25), (900, 1.0), (950, 1.0)):  # of 900; nobody's claim counts more than the plan's noise
        plan = replace(alone, smallest_active_sum=fewest)
        found = _claims(plan)
        exact = _gaussian_epsilon(2.0 * math.sqrt(part), plan.delta)
        bound = found["active-server"].epsilon
        assert bound is not None and exact <= bound <= 1.2 * exact
        assert f"none of fewer than {fewest} honest clients" in found["active-server"].reason
        assert bound >= found["server"].epsilon  # type: ignore[operator]
    one = _claims(alone)["active-server"]
    assert one.epsilon is not None and one.epsilon > 10 * bound
    assert "one client's own share" in one.reason


def test_a_plan_of_masked_sums_counts_on_what_every_cohort_of_it_promises() -> None:
    from shared.secagg.parameters import Assumptions, Neighborhoods

    plan = _plan("distributed", secure_aggregation__simulate="full")
    sizes = (plan.minimum_survivors, plan.num_clients, plan.most_clients)
    promised = [Neighborhoods.derive(size, Assumptions(0.05, 0.05)).smallest_active_sum for size in sizes]
    assert 3 <= plan.smallest_active_sum <= min(promised)
    assert _plan("distributed").smallest_active_sum == 0  # in the open nobody hides anything


def test_two_accounts_of_one_person_turn_epsilon_eight_into_about_nineteen() -> None:
    """privacy.md: 8 becomes 19 and 2 becomes 4.4, at delta 1e-5."""
    for asked, together in ((8.0, 19.0), (2.0, 4.4)):
        multiplier = optimize.brentq(lambda value, e=asked: _gaussian_epsilon(value, 1e-5) - e, 0.1, 10.0)
        plan = central_plan(
            rounds=1, noise_multiplier=multiplier, popularity_noise_multiplier=0.0, evaluation_noise_multiplier=0.0,
            evaluations=0, delta=1e-5,
        )  # fmt: skip
        assert _claims(plan)["outsider"].epsilon == pytest.approx(asked, abs=0.02)
        found = group_claim(plan, plan.events())
        exact = _gaussian_epsilon(multiplier / 2, 1e-5)
        assert exact <= found <= exact + 0.02  # type: ignore[operator]
        assert found == pytest.approx(together, rel=0.02)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_person_with_two_accounts_is_protected_less_than_one_with_one(name: str) -> None:
    plan = _plan(name)
    group = group_claim(plan, plan.events())
    assert group is not None
    assert group > 4.0
    assert group_claim(plan, plan.events(), size=1) == pytest.approx(4.0, abs=0.02)
    assert group_claim(_plan(name, run__reproducible=True), plan.events()) is None


_PRINTED = r"(?:\(e\^|would be |protection: epsilon )([\d.,]+\d)"


@given(st.floats(1e-9, 1e6))
def test_a_bound_that_is_printed_is_never_below_the_one_that_holds(bound: float) -> None:
    for missing in ((), ("that",)):
        sentence = promise(unit="user", relation="zero-out", epsilon=bound, delta=1e-5, failed=missing)
        (shown,) = re.findall(_PRINTED, sentence)
        # Below 1e-9 a bound is the accountant's rounding noise.
        assert bound - 1e-9 - 1e-15 * bound <= float(shown.replace(",", "")) <= bound + 0.01 + 1e-9


def test_a_promise_is_the_sentence_of_the_house() -> None:
    assert promise(unit="user", relation="add-or-remove-one", epsilon=7.9996, delta=1e-5) == (
        "Including or leaving out one user's full history changes the probability of any outcome by at most a factor of "
        "2,981 (e^8.00), plus 0.00001. A guess about that user improves from 1 % to at most 97 %."
    )
    assert promise(unit="user", relation="zero-out", epsilon=20.001, delta=1e-5) == (
        "No meaningful protection: epsilon 20.01 is above 20 and allows a factor of 490,100,000."
    )
    assert promise(unit="user", relation="zero-out", epsilon=None, delta=1e-5) == "No protection."


@pytest.mark.parametrize("name", SETTINGS)
def test_every_printed_claim_rounds_its_own_bound_up(name: str) -> None:
    for claim in _claims(_plan(name)).values():
        if claim.epsilon is not None:
            (shown,) = re.findall(_PRINTED, claim.statement)
            assert claim.epsilon <= float(shown) <= claim.epsilon + 0.01


@pytest.mark.parametrize("name", SETTINGS)
def test_the_odds_of_a_guess_and_the_factor_grow_by_e_to_the_bound(name: str) -> None:
    """The oracle counts odds: 1 to 99 before, times e to epsilon after. Pages and machines read both."""
    for claim in _claims(_plan(name)).values():
        if claim.epsilon is None:
            assert (claim.guess, claim.factor) == (None, None)
        else:
            before, growth = 1 / 99, math.exp(claim.epsilon)
            assert claim.guess == pytest.approx(before * growth / (1 + before * growth), rel=1e-9)
            # The factor is that of the bound as it is printed, which is rounded up.
            assert claim.factor is not None and growth <= claim.factor * (1 + 1e-12) and claim.factor <= 1.0101 * growth


@pytest.mark.parametrize("name", SETTINGS)
def test_a_claim_names_its_unit_and_relation(name: str) -> None:
    for claim in _claims(_plan(name)).values():
        assert claim.unit == ("window" if name == "window" else "user")
        # In turns by place, another client would move all behind it; with noise in shares it would add one.
        comes_and_goes = claim.adversary == "outsider" and name != "dp-ftrl-central" and "distributed" not in name
        user = "add-or-remove-one" if comes_and_goes else "zero-out"
        assert claim.relation == ("replace-one" if name == "window" else user)
        assert claim.delta == 1e-3


@pytest.mark.parametrize(("delta", "warned"), [(1.1e-3, True), (9.9e-3, True), (1e-3, False), (1e-5, False)])
def test_a_delta_above_a_tenth_of_one_over_the_population_is_warned_of(delta: float, warned: bool) -> None:
    plan = central_plan(delta=delta)  # a hundred users
    (message,) = warnings(plan, claims(plan, plan.events())[:1]) or [""]
    assert message.startswith(f"delta={delta:g} is above a tenth of 1/population (1.0e-03)" if warned else "")
    assert bool(message) is warned
    assert warnings(central_plan(delta=delta, reproducible=True), []) == []


def test_a_delta_curve_falls_and_holds_the_claim_itself() -> None:
    plan = _plan("central, sampled")
    points = curve(plan, plan.events())
    deltas, epsilons = zip(*points, strict=True)
    assert list(deltas) == sorted(deltas, reverse=True)
    assert list(epsilons) == sorted(epsilons)
    assert dict(points)[1e-3] == _claims(plan)["outsider"].epsilon
    assert curve(_plan("central", run__reproducible=True), plan.events()) == []


def test_a_sample_of_fixed_size_has_no_claim() -> None:
    plan = central_plan(num_clients=10_000, population=10_000, delta=1e-5)
    fixed = Event(1.0, 0.01, 1000, sampling="fixed-size", sampled_by="server", population=10_000, sample_cap=100)
    with pytest.raises(UnsupportedMechanism, match=r"(?i)fixed"):
        claims(plan, [fixed])


def test_a_claim_without_a_finite_bound_is_a_claim_of_nothing() -> None:
    plan = silo_plan(noise_multiplier=1e-12)
    found = {claim.adversary: claim for claim in claims(plan, plan.events())}
    assert math.isinf(plan.epsilon_against("outsider", plan.events()))
    assert found["outsider"].epsilon is None
    assert all(claim.epsilon is None or math.isfinite(claim.epsilon) for claim in found.values())
