"""The device's ledger: what is reserved counts whatever happens next, limits hold, and a bad file is never replaced."""

from __future__ import annotations

import gc
import json
import math
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from scipy.optimize import brentq
from scipy.stats import norm

from shared.errors import BudgetExceeded, ConfigError, PolicyRefused, PrivacyError, TacitError
from shared.privacy import accounting
from shared.privacy.events import Event
from shared.privacy.in_flight import InFlight, ranges
from shared.privacy.ledger import EVERYONE, Binding, Ledger, Policy, Request, Spending

ROOT = Path(__file__).parent.parent.parent
DIGEST = "0123456789abcdef" * 4
BINDING = Binding(DIGEST, "user", "add-or-remove-one", 1e-5)
REQUEST = Request(unit="user", l2_clip_norm=0.1, noise_multiplier=1.5, rounds=10, delta=1e-5)
EVENT = Event(1.5, 0.25, 4)
OTHER = Event(3.0, 1.0, 1)

PREAMBLE = """
import os, sys
from pathlib import Path
from shared.errors import PrivacyError
from shared.privacy.events import Event
from shared.privacy.ledger import Binding, Ledger, Policy
PATH, EVENT = Path(sys.argv[1]), Event(1.5, 0.25, 4)
BINDING = Binding("0123456789abcdef" * 4, "user", "add-or-remove-one", 1e-5)
def reserve(ledger, owner="a", event=EVENT, round_number=1):
    return ledger.reserve(owner, [event], run="r", purpose="train", round_number=round_number)
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
"""


def _start(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + code, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def _python(code: str, *arguments: object, status: int = 0) -> str:
    process = _start(code, *arguments)
    out, error = process.communicate(timeout=300)
    assert process.returncode == status, error
    return out


def _reserve(ledger: Ledger, *events: Event, owner: str = "a", **other: Any) -> list[int]:
    return ledger.reserve(owner, events or [EVENT], **{"run": "r", "purpose": "train", "round_number": 1, **other})


def _reserve_all(ledger: Ledger, *clients: Sequence[Spending], **other: Any) -> list[list[int] | TacitError]:
    return ledger.reserve_all(clients, **{"run": "r", "purpose": "train", "round_number": 1, **other})


def _identifiers(outcomes: Sequence[list[int] | TacitError]) -> list[int]:
    return [identifier for outcome in outcomes if isinstance(outcome, list) for identifier in outcome]


def _said(outcomes: Sequence[list[int] | TacitError]) -> list[Any]:
    return [outcome if isinstance(outcome, list) else (type(outcome), str(outcome)) for outcome in outcomes]


def _gaussian_epsilon(events: list[Event], delta: float) -> float:
    """Oracle: releases with everybody in them are one Gaussian mechanism (Balle and Wang 2018, Theorem 8)."""
    mu = math.sqrt(sum(event.steps / event.noise_multiplier**2 for event in events))
    if mu == 0:
        return 0.0

    def excess(epsilon: float) -> float:
        return float(norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)) - delta

    return float(brentq(excess, 0.0, 100.0)) if excess(0.0) > 0 else 0.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    ledger = Ledger(path, binding=BINDING)
    yield ledger
    ledger.close()


# What counts.


def test_reserved_counts_sent_counts_freed_does_not(ledger: Ledger) -> None:
    assert ledger.spent("a") == []
    first = _reserve(ledger, EVENT, OTHER)
    assert ledger.spent("a") == [EVENT, OTHER]
    ledger.freed(first[1:])
    assert ledger.spent("a") == [EVENT]
    ledger.sent(first[:1])
    assert ledger.spent("a") == [EVENT]


def test_what_was_sent_can_never_be_given_back(ledger: Ledger, path: Path) -> None:
    identifiers = _reserve(ledger)
    ledger.sent(identifiers)
    with pytest.raises(PrivacyError, match=r"Expected events that this process reserved and did not send, got others"):
        ledger.freed(identifiers)
    assert ledger.spent("a") == [EVENT]


def test_what_another_object_sent_can_never_be_given_back(ledger: Ledger, path: Path) -> None:
    identifiers = _reserve(ledger)
    Ledger(path, binding=BINDING).sent(identifiers)
    with pytest.raises(PrivacyError, match=r"Expected reserved events to become 'freed', got one that was .*or sent before"):
        ledger.freed(identifiers)
    assert ledger.spent("a") == [EVENT]


def test_only_who_reserved_an_event_can_give_it_back(ledger: Ledger, path: Path) -> None:
    identifiers = _reserve(ledger)
    another = Ledger(path, binding=BINDING)
    own = _reserve(another)
    with pytest.raises(PrivacyError, match=r"Expected events that this process reserved.*They stay spent"):
        another.freed([*own, *identifiers])
    assert ledger.spent("a") == [EVENT, EVENT]
    another.freed(own)
    assert ledger.spent("a") == [EVENT]
    ledger.freed(identifiers)
    assert ledger.spent("a") == []


def test_nothing_is_marked_when_one_of_several_events_cannot_be(ledger: Ledger) -> None:
    first, second = _reserve(ledger, EVENT, OTHER)
    with pytest.raises(PrivacyError, match=r"got one that was never reserved.*Nothing was released"):
        ledger.sent([first, 4711])
    ledger.freed([first])
    with pytest.raises(PrivacyError, match=r"Expected reserved events to become 'sent', got one that .*was given back"):
        ledger.sent([second, first])
    ledger.freed([second])  # was not marked as sent
    assert ledger.spent("a") == []


def test_owners_are_kept_apart_and_the_largest_spending_is_over_all_of_them(ledger: Ledger) -> None:
    for owner, events in {"a": [EVENT], "b": [EVENT, OTHER, EVENT], "c": [EVENT], "d": [OTHER]}.items():
        last = _reserve(ledger, *events, owner=owner)
    ledger.freed(last)
    assert ledger.owners() == ["a", "b", "c", "d"]
    assert [len(ledger.spent(owner)) for owner in "abcd"] == [1, 3, 1, 0]
    assert ledger.spent("e") == []
    assert ledger.largest_spending() == [[EVENT], [replace(EVENT, steps=8), OTHER]]
    assert [(account.owner, account.entries) for account in ledger.accounts()] == [("a", 1), ("b", 3), ("c", 1)]


def test_what_many_owners_spent_is_said_of_each_of_them_and_takes_the_memory_of_some(ledger: Ledger) -> None:
    """Twenty thousand owners, of some nothing that counts, some with faults; a part is four thousand of them."""
    events = {number: [[EVENT], [EVENT, EVENT, OTHER], [OTHER]][number % 3] for number in range(20_000)}
    outcomes = _reserve_all(ledger, *[[Spending(f"client-{number}", found)] for number, found in events.items()])
    freed = range(5, 20_000, 1000)
    ledger.freed(_identifiers([outcomes[number] for number in freed]))
    ledger.record_faults([(f"client-{number}", "missing") for number in (0, 4_099, 19_999, 19_999)], run="r", round_number=1)
    assert ledger.number_of_owners() == len(ledger.owners()) == 20_000
    added = [[EVENT], [replace(EVENT, steps=8), OTHER], [OTHER]]
    assert ledger.largest_spending() == sorted(added)
    accounts = {account.owner: account for account in ledger.accounts()}
    assert list(accounts) == sorted(f"client-{number}" for number in events if number not in freed)
    for number, found in events.items():
        if number not in freed:
            account = accounts[f"client-{number}"]
            assert (account.spent, account.entries) == (added[number % 3], len(found))
            assert account.faults == {0: 1, 4_099: 1, 19_999: 2}.get(number, 0)
    peaks = [_peak(lambda look=look: sum(1 for _ in look())) for look in (ledger.largest_spending, ledger.accounts)]
    assert max(peaks) < _peak(lambda: list(ledger.accounts())) / 2


def _peak(call: Any) -> int:
    gc.collect()
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "event",
    [
        Event(0.1 + 0.2, 1 / 3, 7, "gaussian", "truncated-poisson", "server", 6040, 120),
        Event(2.0, 1.0, 1, "skellam", "poisson", "server", 0, 0, 1234.5),
        Event(2.0, 0.5, 1, "gaussian", "fixed-size", "device", 100, 50),
    ],
)
def test_every_field_of_an_event_is_kept_exactly(ledger: Ledger, event: Event) -> None:
    _reserve(ledger, event)
    assert ledger.spent("a") == [event]
    assert ledger.largest_spending() == [[event]]
    assert ledger.export()["events"][0]["event"] == asdict(event)


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (Event(0.0), "noise_multiplier > 0 and finite, got noise_multiplier=0.0"),
        (Event(math.nan), "noise_multiplier > 0 and finite, got noise_multiplier=nan"),
        (Event(math.inf), "noise_multiplier > 0 and finite, got noise_multiplier=inf"),
        (Event(1.0, 0.0), "0 < sampling_rate <= 1, got sampling_rate=0.0"),
        (Event(1.0, 1.0, 0), "1 <= steps < 2**32, got steps=0"),
        (Event(1.0, 1.0, 2**70), "1 <= steps < 2**32, got steps="),
    ],
)
def test_an_event_without_meaning_is_refused(ledger: Ledger, event: Event, message: str) -> None:
    with pytest.raises(PrivacyError) as caught:
        _reserve(ledger, EVENT, event)
    assert f"Expected an event with {message}" in str(caught.value)
    assert ledger.spent("a") == []


def test_participations_are_the_rounds_of_training_that_were_not_given_back(ledger: Ledger) -> None:
    for round_number in (7, 2, 2, 5):
        last = _reserve(ledger, round_number=round_number)
    ledger.freed(last)
    _reserve(ledger, round_number=9, run="another")
    _reserve(ledger, round_number=0, purpose="popularity")
    _reserve(ledger, round_number=3, owner="b")
    assert ledger.participations("a", run="r") == [2, 7]


# What a ledger is about.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": "f" * 64}, "about dataset=ffffffffffff..., got dataset=0123456789ab.... No data was read"),
        ({"unit": "window"}, "about unit=window, got unit=user. No data"),
        ({"relation": "zero-out"}, "about relation=zero-out, got relation=add-or-remove-one. No data"),
        ({"delta": 1e-6}, "about delta=1e-06, got delta=1e-05. No data"),
    ],
)
def test_a_ledger_about_something_else_is_refused(ledger: Ledger, path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(PrivacyError) as caught:
        Ledger(path, binding=replace(BINDING, **change))
    assert message in str(caught.value)
    assert DIGEST not in str(caught.value)
    assert ledger.binding == BINDING


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": ""}, r"Expected dataset to name the data, got dataset=''\."),
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


def test_a_ledger_that_does_not_exist_is_not_made_by_looking_at_it(path: Path) -> None:
    ledger = Ledger(path)
    with pytest.raises(
        PrivacyError, match=r"There is no privacy ledger ledger\.sqlite\. No data was read\. The first private run"
    ):
        ledger.owners()
    assert list(path.parent.iterdir()) == []


def test_limits_may_be_set_before_the_first_run_which_binds_the_ledger(path: Path) -> None:
    owner = Ledger(path)
    owner.set_policy(Policy(rounds_at_most=5))
    assert owner.binding is None
    run = Ledger(path, binding=BINDING)
    assert owner.binding == BINDING
    with pytest.raises(PolicyRefused, match="Expected rounds <= 5"):
        _reserve(run, request=REQUEST)


def test_a_ledger_that_was_opened_to_look_at_it_reserves_nothing(ledger: Ledger, path: Path) -> None:
    with pytest.raises(PrivacyError, match=r"Expected a ledger that was opened with a binding.*No data was read"):
        _reserve(Ledger(path))
    with pytest.raises(PrivacyError, match=r"an owner other than '\*'"):
        _reserve(ledger, owner=EVERYONE)
    assert ledger.owners() == []


def test_a_plan_about_another_unit_or_delta_than_the_ledger_is_refused(ledger: Ledger) -> None:
    with pytest.raises(PrivacyError, match=r"Expected a plan about unit=user, as the ledger is, got unit=window\. No data"):
        _reserve(ledger, request=replace(REQUEST, unit="window"))
    with pytest.raises(PrivacyError, match=r"Expected a plan about delta=1e-05, as the ledger is, got delta=0\.1\. No data"):
        _reserve(ledger, request=replace(REQUEST, delta=0.1))


# What the owner of the device allows.


@pytest.mark.parametrize(
    ("policy", "allowed", "asked"),
    [
        (Policy(unit="window"), "unit=window", "unit=user"),
        (Policy(l2_clip_norm_at_most=0.05), "l2_clip_norm <= 0.05", "l2_clip_norm=0.1"),
        (Policy(noise_multiplier_at_least=1.6), "noise_multiplier >= 1.6", "noise_multiplier=1.5"),
        (Policy(rounds_at_most=9), "rounds <= 9", "rounds=10"),
        (Policy(delta_at_most=9e-6), "delta <= 9e-06", "delta=1e-05"),
    ],
)
def test_a_plan_that_asks_for_more_than_the_owner_allows_is_refused(
    ledger: Ledger, policy: Policy, allowed: str, asked: str
) -> None:
    ledger.set_policy(policy)
    with pytest.raises(PolicyRefused) as caught:
        _reserve(ledger, request=REQUEST)
    assert str(caught.value).startswith(
        f"Expected {allowed}, which the owner of this device allows, got {asked}. No data was read. Change the plan, or "
        "let the owner run `tacit node budget set-limit --"
    )
    with pytest.raises(
        PolicyRefused, match=r"Expected the plan to say what the owner of this device limits .*, got nothing"
    ):
        _reserve(ledger)
    assert ledger.spent("a") == []


def test_a_plan_within_all_limits_is_let_through(ledger: Ledger) -> None:
    ledger.set_policy(Policy(100.0, "user", 0.1, 1.5, 10, 1e-5))
    _reserve(ledger, request=REQUEST)
    assert ledger.spent("a") == [EVENT]


@pytest.mark.parametrize("field", ["l2_clip_norm", "noise_multiplier", "rounds"])
def test_a_number_that_is_none_never_keeps_a_limit(ledger: Ledger, field: str) -> None:
    ledger.set_policy(Policy(l2_clip_norm_at_most=1.0, noise_multiplier_at_least=0.1, rounds_at_most=100))
    with pytest.raises(PolicyRefused, match=f"Expected {field} .*got {field}=nan"):
        _reserve(ledger, request=replace(REQUEST, **{field: math.nan}))


def test_the_policy_holds_where_a_plan_adds_no_noise_and_has_no_events(ledger: Ledger) -> None:
    ledger.set_policy(Policy(noise_multiplier_at_least=1.0))
    with pytest.raises(PolicyRefused, match=r"Expected noise_multiplier >= 1, .*got noise_multiplier=0\."):
        ledger.reserve("a", [], run="r", purpose="train", round_number=1, request=replace(REQUEST, noise_multiplier=0.0))


def test_limits_of_an_owner_come_before_those_of_everyone(ledger: Ledger, path: Path) -> None:
    assert ledger.policy("a") == Policy()
    ledger.set_policy(Policy(rounds_at_most=5))
    ledger.set_policy(Policy(rounds_at_most=20), "a")
    again = Ledger(path)
    assert again.policies() == {"*": Policy(rounds_at_most=5), "a": Policy(rounds_at_most=20)}
    assert (again.policy("a"), again.policy("b")) == (Policy(rounds_at_most=20), Policy(rounds_at_most=5))
    _reserve(ledger, request=REQUEST)
    with pytest.raises(PolicyRefused, match="Expected rounds <= 5"):
        _reserve(ledger, request=REQUEST, owner="b")
    again.set_policy(None, "a")
    assert ledger.policy("a") == Policy(rounds_at_most=5)


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
    ],
)
def test_a_policy_out_of_range_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Policy(**change)


# The budget.


def test_a_request_beyond_the_limit_is_refused_with_spent_requested_and_limit(ledger: Ledger) -> None:
    event = Event(4.0, 1.0, 1)
    one, three, four = (_gaussian_epsilon([event] * count, 1e-5) for count in (1, 3, 4))
    ledger.set_policy(Policy(epsilon=(three + four) / 2))
    for _ in range(3):
        _reserve(ledger, event)
    with pytest.raises(BudgetExceeded) as caught:
        _reserve(ledger, event)
    message = str(caught.value)
    assert message.startswith("Expected epsilon <= limit for all events together, got epsilon=")
    assert message.endswith(
        "No data was read. The owner of this device can raise the limit with `tacit node budget set-limit --epsilon`."
    )
    said = {name: float(value) for name, value in re.findall(r"(\w+)=(\d+\.\d\d)\b", message)}
    expected = {"epsilon": four, "limit": (three + four) / 2, "spent": three, "requested": one}
    assert said == pytest.approx(expected, abs=0.03)
    assert ledger.spent("a") == [event] * 3


def test_the_budget_counts_other_runs_other_purposes_and_other_processes(ledger: Ledger, path: Path) -> None:
    ledger.set_policy(Policy(epsilon=_gaussian_epsilon([OTHER] * 3, 1e-5) + 0.05))
    _reserve(ledger, OTHER, run="first")
    _reserve(Ledger(path, binding=BINDING), OTHER, run="second", purpose="popularity")
    _python("reserve(Ledger(PATH, binding=BINDING), event=Event(3.0))", path)
    for run in ("first", "third"):
        with pytest.raises(BudgetExceeded, match="Expected epsilon <= limit"):
            _reserve(ledger, OTHER, run=run)
    _reserve(ledger, OTHER, owner="b")


def test_the_budget_counts_as_if_everybody_knew_when_the_device_took_part(ledger: Ledger) -> None:
    """Sampling by the server is worth nothing to the device's own limit; sampling by the device is."""
    limit = 2.5
    by_server = Event(1.5, 0.01, 1, sampled_by="server")
    assert accounting.epsilon([by_server], delta=1e-5) < limit < _gaussian_epsilon([Event(1.5)], 1e-5)
    ledger.set_policy(Policy(epsilon=limit))
    with pytest.raises(BudgetExceeded, match=r"requested=2\.7\d\. No data"):
        _reserve(ledger, by_server)
    _reserve(ledger, replace(by_server, sampled_by="device"))


def test_what_was_given_back_may_be_spent_again(ledger: Ledger) -> None:
    ledger.set_policy(Policy(epsilon=_gaussian_epsilon([OTHER], 1e-5) + 0.05))
    for _ in range(3):
        identifiers = _reserve(ledger, OTHER)
        ledger.freed(identifiers)
    ledger.sent(_reserve(ledger, OTHER))
    with pytest.raises(BudgetExceeded, match="Expected epsilon <= limit"):
        _reserve(ledger, OTHER)


def test_a_lowered_limit_holds_at_once_for_what_was_found_to_fit(ledger: Ledger, path: Path) -> None:
    plan = [replace(OTHER, steps=10)]
    ledger.set_policy(Policy(epsilon=_gaussian_epsilon(plan, 1e-5) + 0.1))
    _reserve(ledger, OTHER, planned=plan)
    Ledger(path).set_policy(Policy(epsilon=_gaussian_epsilon([OTHER], 1e-5) + 0.05))
    with pytest.raises(BudgetExceeded, match="Expected epsilon <= limit"):
        _reserve(ledger, OTHER, planned=plan)


def _number_of_epsilons(call: Any) -> int:
    """How often the accountant is asked while something is called; looks on, changes nothing."""
    count = 0

    def look(frame: Any, what: str, _: Any) -> None:
        nonlocal count
        count += what == "call" and frame.f_code is accounting.epsilon.__code__

    sys.setprofile(look)
    try:
        call()
    finally:
        sys.setprofile(None)
    return count


def test_a_run_that_fits_as_a_whole_asks_the_accountant_once(ledger: Ledger, path: Path) -> None:
    popularity, plan = Event(10.0), [Event(10.0), replace(OTHER, steps=6)]
    ledger.set_policy(Policy(epsilon=20.0))
    _reserve(ledger, OTHER, run="before", owner="a")
    first = _number_of_epsilons(lambda: _reserve(ledger, popularity, purpose="popularity", round_number=0, planned=plan))
    rest = [
        _number_of_epsilons(lambda number=number: _reserve(ledger, OTHER, round_number=number, planned=plan))
        for number in range(1, 7)
    ]
    assert (first, rest) == (1, [0] * 6)
    beyond = _number_of_epsilons(lambda: _reserve(ledger, OTHER, round_number=7, planned=plan))
    assert beyond == 1
    # A process that takes over counts what the run spent already as part of the plan, not on top of it.
    tight = Ledger(path, binding=BINDING)
    tight.set_policy(Policy(epsilon=_gaussian_epsilon([popularity, replace(OTHER, steps=9)], 1e-5) + 0.1))
    assert _number_of_epsilons(lambda: _reserve(tight, OTHER, round_number=8, planned=plan)) == 1


def test_a_plan_decides_nothing_about_what_fits(ledger: Ledger) -> None:
    """A plan that does not fit does not stop its first rounds; one that is too small does not let more through."""
    ledger.set_policy(Policy(epsilon=_gaussian_epsilon([OTHER] * 2, 1e-5) + 0.05))
    _reserve(ledger, OTHER, planned=[replace(OTHER, steps=1000)])
    _reserve(ledger, OTHER, planned=[replace(OTHER, steps=1)])
    for planned in ([], [replace(OTHER, steps=1)], [replace(OTHER, steps=1000)]):
        with pytest.raises(BudgetExceeded, match="Expected epsilon <= limit"):
            _reserve(ledger, OTHER, planned=planned)


def test_processes_that_reserve_at_once_never_exceed_the_limit_together(ledger: Ledger, path: Path) -> None:
    """The limit is between 7 and 8 events; four processes each want as many as they can get."""
    event = Event(8.0)
    limit = (_gaussian_epsilon([event] * 7, 1e-5) + _gaussian_epsilon([event] * 8, 1e-5)) / 2
    ledger.set_policy(Policy(epsilon=limit))
    code = (
        "from shared.errors import BudgetExceeded\n"
        "ledger = Ledger(PATH, binding=BINDING)\n"
        "import dp_accounting.pld\n"  # takes a second, and would serialize the processes
        "say('ready'); sys.stdin.readline()\n"
        "try:\n"
        "    while True: reserve(ledger, event=Event(8.0)); say('reserved')\n"
        "except BudgetExceeded as error: say('refused', error)\n"
    )
    running = [_start(code, path) for _ in range(4)]
    for process in running:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=300) for process in running]
    assert [error for _, error in said] == [""] * 4
    assert sum(out.count("reserved\n") for out, _ in said) == 7
    assert all("refused Expected epsilon <= limit" in out for out, _ in said)
    assert ledger.spent("a") == [event] * 7


# Many clients in one transaction.

_ACCOUNTS = {
    "a": ["a"],
    "b": ["b"],
    "c": ["c/group-0-of-2", "c/group-1-of-2"],
    "d": ["d/group-0-of-3", "d/group-2-of-3"],
    "e'\u00e9\\": ["e'\u00e9\\"],
}
_KNOWN = (Event(3.0), Event(5.0, steps=2), Event(7.0, 0.1, sampled_by="server"))


@st.composite
def _client(draw: st.DrawFn) -> list[Spending]:
    """Mostly what a client may ask, and now and then what none may."""
    owners = draw(st.sampled_from([*_ACCOUNTS.values(), ["c"], ["d/group-0-of-2"], ["*"], ["a", "a"], ["a", "b"], []]))
    events = draw(st.lists(st.sampled_from([*_KNOWN, *_KNOWN, Event(0.0)]), max_size=2))
    return [Spending(owner, events, draw(st.sampled_from([(), (replace(_KNOWN[0], steps=5),)]))) for owner in owners]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    batches=st.lists(
        st.tuples(
            st.lists(_client(), max_size=8),
            st.sampled_from("rs"),
            st.integers(1, 5),
            st.sampled_from([0, 0, 2]),
            st.booleans(),
        ),
        min_size=1,
        max_size=3,
    ),
    limits=st.dictionaries(
        st.sampled_from(["*", "a", "c", "d/group-2-of-3"]),
        st.builds(
            Policy, epsilon=st.sampled_from([None, 1.0, 1.5, 2.0, 4.0]), rounds_at_most=st.sampled_from([None, None, 5])
        ),
    ),
)
def test_many_clients_at_once_are_reserved_like_one_after_another(batches: Any, limits: dict[str, Policy]) -> None:
    """Same rows, same refusals, same order, whoever else is in the batch and however often."""
    with tempfile.TemporaryDirectory() as name:
        together, alone = (Ledger(Path(name) / side, binding=BINDING) for side in ("together", "alone"))
        for owner, policy in limits.items():
            together.set_policy(policy, owner)
            alone.set_policy(policy, owner)
        for clients, run, round_number, min_separation, says in batches:
            asked = {
                "run": run,
                "round_number": round_number,
                "min_separation": min_separation,
                "request": REQUEST if says else None,
            }
            outcomes = _reserve_all(together, *clients, **asked)
            assert _said(outcomes) == _said([_reserve_all(alone, client, **asked)[0] for client in clients])
            for ledger in (together, alone):
                ledger.freed(_identifiers(outcomes)[::3])
        rows = [[{**entry, "recorded_at": ""} for entry in ledger.export()["events"]] for ledger in (together, alone)]
        assert rows[0] == rows[1]
        assert together.largest_spending() == alone.largest_spending()
        together.close(), alone.close()


def test_a_client_over_its_limit_disturbs_nobody_else(ledger: Ledger) -> None:
    ledger.set_policy(Policy(epsilon=_gaussian_epsilon([OTHER] * 2, 1e-5) + 0.05))
    ledger.set_policy(Policy(rounds_at_most=5), "f")
    _reserve(ledger, OTHER, OTHER, owner="b")
    _reserve(ledger, OTHER, owner="c", round_number=4)
    clients = [[Spending(owner, [OTHER])] for owner in "abcdef*"]
    clients[4] = [Spending("e", [Event(0.0)])]
    outcomes = _reserve_all(ledger, *clients, request=REQUEST, round_number=5, min_separation=2)
    assert [type(outcome) for outcome in outcomes] == [
        list, BudgetExceeded, PolicyRefused, list, PrivacyError, PolicyRefused, PrivacyError
    ]  # fmt: skip
    expected = [
        "[4]", "Expected epsilon <= limit for all events", "Expected at least 2 rounds between two", "[5]",
        "Expected an event with noise_multiplier > 0", "Expected rounds <= 5", "Expected an owner other than '*'",
    ]  # fmt: skip
    assert all(str(outcome).startswith(words) for outcome, words in zip(outcomes, expected, strict=True))
    assert [len(ledger.spent(owner)) for owner in "abcdef"] == [1, 2, 1, 1, 0, 0]
    ledger.freed([4, 5])


def test_clients_who_spent_the_same_are_each_held_to_their_own_limit(ledger: Ledger) -> None:
    low, high = (_gaussian_epsilon([OTHER] * count, 1e-5) + 0.05 for count in (1, 2))
    for owner, limit in {"a": high, "b": low, "c": high, "d": low}.items():
        ledger.set_policy(Policy(epsilon=limit), owner)
    outcomes = _reserve_all(ledger, *[[Spending(owner, [OTHER, OTHER])] for owner in "abcde"])
    assert [type(outcome) for outcome in outcomes] == [list, BudgetExceeded, list, BudgetExceeded, list]


def test_a_client_in_groups_is_reserved_whole_or_not_at_all(ledger: Ledger) -> None:
    """The limit of the client holds for each of its groups; one that has spent more refuses for all."""
    ledger.set_policy(Policy(epsilon=_gaussian_epsilon([OTHER] * 2, 1e-5) + 0.05), "b")
    groups = {client: [f"{client}/group-{group}-of-3" for group in range(3)] for client in "abc"}
    _reserve(ledger, OTHER, OTHER, owner=groups["b"][1])
    outcomes = _reserve_all(ledger, *[[Spending(owner, [OTHER, EVENT]) for owner in groups[client]] for client in "abc"])
    assert outcomes[0] == [3, 4, 5, 6, 7, 8]
    assert isinstance(outcomes[1], BudgetExceeded)
    assert outcomes[2] == [9, 10, 11, 12, 13, 14]
    assert [len(ledger.spent(owner)) for client in "abc" for owner in groups[client]] == [2, 2, 2, 0, 2, 0, 2, 2, 2]
    ledger.sent(_identifiers(outcomes))


def test_a_client_that_is_asked_twice_at_once_spends_twice(ledger: Ledger) -> None:
    ledger.set_policy(Policy(epsilon=_gaussian_epsilon([OTHER] * 2, 1e-5) + 0.05))
    outcomes = _reserve_all(ledger, *[[Spending("a", [OTHER])]] * 3, [Spending("b", [OTHER])])
    assert _said(outcomes)[:2] == [[1], [2]]
    assert isinstance(outcomes[2], BudgetExceeded)
    assert outcomes[3] == [3]
    assert isinstance(_reserve_all(ledger, *[[Spending("c", [])]] * 2, [Spending("c/group-0-of-2", [OTHER])])[2], list)
    again = _reserve_all(ledger, [Spending("d", [OTHER])], [Spending("d/group-0-of-2", [OTHER])])
    assert "found other accounts of theirs" in str(again[1])


@pytest.mark.parametrize(
    ("there", "asked", "kind"),
    [
        (["client-3"], "client-3", None),
        (["client-3/group-0-of-8", "client-3/group-7-of-8"], "client-3/group-4-of-8", None),
        (["client-30", "client-3-b", "client-3x/group-0-of-2", "client-2/group-0-of-2"], "client-3", None),
        (["client-30", "client-3.", "client-31/group-0-of-2"], "client-3/group-0-of-8", None),
        (["client-3/part"], "client-3/part", None),
        (["client-3/group-0-of-8"], "client-3", "one account"),
        (["client-3"], "client-3/group-0-of-8", "groups of this kind"),
        (["client-3/group-0-of-8"], "client-3/group-0-of-4", "groups of this kind"),
        (["client-3/group-0-of-8"], "client-3/group-0-of-18", "groups of this kind"),
        (["client-3/group-0-of-18"], "client-3/group-0-of-8", "groups of this kind"),
        (["client-3/part"], "client-3/another", "groups of this kind"),
    ],
)
def test_users_get_no_second_account_beside_the_one_that_they_have(
    ledger: Ledger, there: list[str], asked: str, kind: str | None
) -> None:
    """Neither would say what they spent. An account that was given back counts: what is in doubt is refused."""
    for owner in there:
        ledger.freed(_reserve(ledger, owner=owner))
    before = ledger.owners()
    outcome, other = _reserve_all(ledger, [Spending(asked, [EVENT])], [Spending("z", [EVENT])])
    assert isinstance(other, list)
    if kind is None:
        assert isinstance(outcome, list)
        return
    assert str(outcome) == (
        f"Expected a ledger that accounts for this client's users in {kind}, found other accounts of theirs. No data was "
        "read; name another ledger file, or use the earlier run's settings."
    )
    assert ledger.owners() == [*before, "z"]
    with pytest.raises(PrivacyError, match="found other accounts of theirs"):
        _reserve(ledger, owner=asked)


@pytest.mark.parametrize(
    "owners", [[], ["a", "a"], ["a", "b"], ["a", "a/group-0-of-2"], ["a/group-0-of-2", "a/group-0-of-3"]]
)
def test_accounts_that_do_not_belong_together_are_refused(ledger: Ledger, owners: list[str]) -> None:
    (outcome,) = _reserve_all(ledger, [Spending(owner, [EVENT]) for owner in owners])
    assert isinstance(outcome, PrivacyError)
    assert str(outcome) == (
        "Expected one or more accounts of one client, all different and divided in the same way, got another list of "
        f"{len(owners)}. No data was read. Reserve for each client by itself, and name each account once."
    )
    assert ledger.owners() == []


def _statements(path: Path, call: Any) -> list[str]:
    """What is asked of the file while something is called; looks on, changes nothing."""
    (connection,) = _open_connections(path)
    said: list[str] = []
    connection.set_trace_callback(said.append)
    try:
        call()
    finally:
        connection.set_trace_callback(None)
    return said


def test_more_clients_than_one_statement_looks_at_are_still_one_transaction(ledger: Ledger, path: Path) -> None:
    """With clients over their limit at both ends, and the first of all a second time at the end."""
    ledger.set_policy(Policy(epsilon=_gaussian_epsilon([OTHER] * 2, 1e-5) + 0.05))
    full = [1, 8_999]
    for client in full:
        _reserve(ledger, OTHER, OTHER, owner=f"client-{client}")
    clients = [[Spending(f"client-{client}", [OTHER])] for client in [*range(9_000), 0]]
    outcomes: list[Any] = []
    statements = _statements(path, lambda: outcomes.extend(_reserve_all(ledger, *clients)))
    assert [place for place, outcome in enumerate(outcomes) if isinstance(outcome, BudgetExceeded)] == full
    assert _identifiers(outcomes) == list(range(5, 5 + 8_999))
    assert ledger.spent("client-0") == [OTHER, OTHER]
    assert sum(statement.startswith("BEGIN") for statement in statements) == 1
    assert statements.count("COMMIT") == 1
    assert statements[0] == "PRAGMA synchronous = FULL"
    assert len(statements) < 30


def test_no_statement_of_a_reservation_reads_all_that_others_spent(ledger: Ledger, path: Path) -> None:
    """Else a file with many owners would make each of them slower: SQLite says how it would find the rows."""
    ledger.set_policy(Policy(epsilon=20.0))
    outcomes: list[Any] = []

    def message() -> None:
        outcomes.extend(
            _reserve_all(ledger, [Spending("a", [EVENT])], [Spending("b/group-0-of-2", [EVENT])], min_separation=1)
        )
        ledger.sent(outcomes[0])
        ledger.freed(outcomes[1])

    statements = [words for words in _statements(path, message) if words.lstrip().startswith(("SELECT", "INSERT", "UPDATE"))]
    with sqlite3.connect(path) as connection:
        plans = [[row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {words}")] for words in statements]
    connection.close()
    steps = [step for plan in plans for step in plan]
    assert len(statements) == 8
    assert sum(step.startswith("SEARCH events USING") for step in steps) >= 6
    newest = [plan for words, plan in zip(statements, plans, strict=True) if "ORDER BY id DESC LIMIT 1" in words]
    assert [step for step in steps if step.startswith("SCAN events")] == newest[0]


def test_what_concerns_the_file_is_an_error_for_all_and_nothing_is_recorded(path: Path) -> None:
    ledger = Ledger(path, binding=BINDING, timeout_seconds=0.05)
    clients = [[Spending(f"client-{client}", [EVENT, OTHER])] for client in range(50)]
    with pytest.raises(PrivacyError, match=r"Expected a ledger that was opened with a binding, got one without\. No data"):
        _reserve_all(Ledger(path), *clients)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(PrivacyError, match=r"could not be written \(database is locked\)\. No data was read"):
        _reserve_all(ledger, *clients)
    holder.execute("ROLLBACK")
    holder.execute(
        "CREATE TRIGGER full BEFORE INSERT ON events WHEN NEW.owner = 'client-49' AND NEW.noise_multiplier = 3.0 "
        "BEGIN SELECT RAISE(ABORT, 'no space'); END"
    )
    with pytest.raises(PrivacyError, match=r"could not be written \(no space\)\. No data was read"):
        _reserve_all(ledger, *clients)
    assert ledger.owners() == []
    with pytest.raises(PrivacyError, match=r"Expected events that this process reserved"):
        ledger.freed([1])
    holder.execute("DROP TRIGGER full")
    holder.close()
    _reserve(ledger, owner="ahead")
    _set_newest(path, datetime.now(UTC) + timedelta(hours=30))
    with pytest.raises(PrivacyError, match=r"at most 24 hours behind its ledger's newest entry, got 30 hours"):
        _reserve_all(ledger, *clients)
    assert ledger.owners() == ["ahead"]
    ledger.close()


def test_what_could_not_be_committed_is_not_there_to_be_given_back(ledger: Ledger, path: Path) -> None:
    """Another process gets the same identifiers. The commit fails as a constraint that is looked at only then."""
    (connection,) = _open_connections(path)
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("CREATE TABLE late (event INTEGER REFERENCES events (id) DEFERRABLE INITIALLY DEFERRED)")
    connection.execute("CREATE TRIGGER late AFTER INSERT ON events BEGIN INSERT INTO late VALUES (-1); END")
    with pytest.raises(PrivacyError, match=r"could not be written \(FOREIGN KEY constraint failed\)\. No data was read"):
        _reserve_all(ledger, [Spending("a", [EVENT])], [Spending("b", [EVENT])])
    assert ledger.owners() == []
    connection.execute("DROP TRIGGER late")
    assert _reserve(Ledger(path, binding=BINDING), owner="c") == [1]
    with pytest.raises(PrivacyError, match="Expected events that this process reserved and did not send, got others"):
        ledger.freed([1])


def test_a_hundred_thousand_events_are_sent_and_given_back_in_one_transaction_each(ledger: Ledger, path: Path) -> None:
    """Consecutive ones, every other one, and never all but one."""
    identifiers = _identifiers(
        _reserve_all(ledger, *[[Spending(f"client-{number}", [EVENT] * 100)] for number in range(1_000)])
    )
    assert identifiers == list(range(1, 100_001))
    first, rest = identifiers[:50_000], identifiers[50_000:]
    statements = _statements(path, lambda: ledger.sent(first[::-1]))
    assert sum(words.startswith("UPDATE") for words in statements) == 1
    with pytest.raises(PrivacyError, match="Expected events that this process reserved and did not send, got others"):
        ledger.freed([*rest, first[7]])
    with pytest.raises(PrivacyError, match="Expected reserved events to become 'sent', got one that was never reserved"):
        ledger.sent([*rest, 100_001])
    with pytest.raises(PrivacyError, match=r"Expected reserved events to become 'freed', got one that .* was given back"):
        ledger.freed([*rest, rest[7]])
    assert _states(path) == {"sent": 50_000, "reserved": 50_000}
    statements = _statements(path, lambda: ledger.freed(rest[::2]))
    assert statements.count("COMMIT") == 1
    with pytest.raises(PrivacyError, match=r"Expected reserved events to become 'sent', got one that .* was given back"):
        ledger.sent(rest)
    ledger.sent(rest[1::2])
    ledger.sent(identifiers[:10])
    assert _states(path) == {"sent": 75_000, "freed": 25_000}
    assert len(ledger.spent("client-3")) == 100
    assert len(ledger.spent("client-703")) == 50


def _states(path: Path) -> dict[str, int]:
    with sqlite3.connect(path) as connection:
        states = dict(connection.execute("SELECT state, COUNT(*) FROM events GROUP BY state"))
    connection.close()
    return states


@given(changes=st.lists(st.tuples(st.booleans(), st.integers(0, 30), st.integers(0, 8)), max_size=30))
def test_events_in_flight_are_a_set_whatever_comes_and_goes(changes: list[tuple[bool, int, int]]) -> None:
    flight, model = InFlight(), set()
    for comes, start, length in changes:
        if comes:
            flight.add(start, start + length)
            model |= set(range(start, start + length))
        elif length:
            flight.remove(start, start + length)
            model -= set(range(start, start + length))
        for first in range(40):
            for stop in range(first + 1, 40):
                assert flight.holds(first, stop) == model.issuperset(range(first, stop))
    assert [number for start, stop in ranges(sorted(model, key=hash)) for number in range(start, stop)] == sorted(model)


def test_events_in_flight_take_no_memory_of_their_own(ledger: Ledger) -> None:
    """A set of forty thousand numbers takes three megabytes."""
    clients = [[Spending(f"client-{number}", [EVENT] * 100)] for number in range(200)]
    _reserve_all(ledger, *clients)
    gc.collect()
    tracemalloc.start()
    try:
        for _ in range(2):
            _reserve_all(ledger, *clients)
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 100_000
    ledger.freed(range(1, 60_001))


# Separation and time.


@pytest.mark.parametrize(
    ("round_number", "allowed"),
    [(2, True), (3, False), (5, False), (7, False), (8, False), (10, False), (12, False), (13, True)],
)
def test_rounds_of_a_run_that_are_closer_than_the_separation_are_refused(
    ledger: Ledger, round_number: int, allowed: bool
) -> None:
    _reserve(ledger, round_number=5)
    _reserve(ledger, round_number=10)
    if allowed:
        _reserve(ledger, round_number=round_number, min_separation=3)
    else:
        with pytest.raises(
            PolicyRefused, match=r"Expected at least 3 rounds between two participations in one run, got [0-2] "
        ):
            _reserve(ledger, round_number=round_number, min_separation=3)
    assert len(ledger.spent("a")) == 2 + allowed


def test_the_separation_is_about_one_run_one_owner_and_what_was_not_given_back(ledger: Ledger) -> None:
    ledger.freed(_reserve(ledger, round_number=5))
    _reserve(ledger, round_number=5, purpose="evaluation")
    _reserve(ledger, round_number=5, run="another", min_separation=3)
    _reserve(ledger, round_number=5, owner="b", min_separation=3)
    _reserve(ledger, round_number=5, min_separation=3)
    with pytest.raises(PolicyRefused, match=r"got 0 to round_number=5\. No data was read\. Ask this device again"):
        _reserve(ledger, round_number=5, min_separation=3)
    _reserve(ledger, round_number=5)


def _set_newest(path: Path, time: datetime) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(
            "UPDATE events SET recorded_at = ? WHERE id = (SELECT MAX(id) FROM events)",
            (time.isoformat(timespec="microseconds"),),
        )
    connection.close()


def test_a_clock_that_went_backwards_by_more_than_a_day_is_refused(ledger: Ledger, path: Path) -> None:
    _reserve(ledger)
    _set_newest(path, datetime.now(UTC) + timedelta(hours=30))
    with pytest.raises(
        PrivacyError, match=r"at most 24 hours behind its ledger's newest entry, got 30 hours\. No data.*Set the clock"
    ):
        _reserve(ledger)
    assert len(ledger.spent("a")) == 1


def test_a_clock_that_went_back_a_little_records_the_newest_time_again(ledger: Ledger, path: Path) -> None:
    before = datetime.now(UTC)
    _reserve(ledger)
    assert before <= datetime.fromisoformat(ledger.export()["events"][0]["recorded_at"]) <= datetime.now(UTC)
    ahead = datetime.now(UTC) + timedelta(hours=3)
    _set_newest(path, ahead)
    _reserve(ledger)
    _reserve(ledger)
    assert [datetime.fromisoformat(entry["recorded_at"]) for entry in ledger.export()["events"]] == [ahead] * 3


# Killed processes.

_STEP_BY_STEP = """
import signal, sqlite3
left, connect = 0, sqlite3.connect
def trace(statement):
    global left
    left -= 1
    if left == 0: os.kill(os.getpid(), signal.SIGKILL)
def watched(*arguments, **options):
    connection = connect(*arguments, **options)
    connection.set_trace_callback(trace)
    return connection
sqlite3.connect = watched
def work():
    ledger = Ledger(Path("ledger.sqlite"), binding=BINDING)
    say("open")
    identifiers = reserve(ledger)
    say("reserved")
    say("read")
    ledger.sent(identifiers)
    say("sent")
    ledger.close()
    say("closed")
for number in range(1, 200):
    folder = PATH / str(number)
    folder.mkdir()
    child = os.fork()
    if not child:
        os.chdir(folder)
        os.dup2(os.open("said", os.O_CREAT | os.O_WRONLY), 1)
        left = number
        work()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    say(number, status)
    if status != -signal.SIGKILL: break
"""


def test_a_process_killed_at_any_statement_never_leaves_an_event_uncounted(tmp_path: Path) -> None:
    """Processes kill themselves before their first, second, ... SQL statement, from making the file to closing it."""
    code = (
        "def reserve(ledger):\n"
        "    return ledger.reserve('a', [EVENT, Event(3.0)], run='r', purpose='train', round_number=1)\n"
    )
    ends = [int(line.split()[1]) for line in _python(code + _STEP_BY_STEP, tmp_path).splitlines()]
    assert set(ends[:-1]) == {-signal.SIGKILL}
    assert ends[-1] == 0
    seen = []
    for number in range(1, len(ends) + 1):
        said = (tmp_path / str(number) / "said").read_text().split()
        # Checks the file, and makes it where it is not there yet.
        ledger = Ledger(tmp_path / str(number) / "ledger.sqlite", binding=BINDING)
        spent = ledger.spent("a")
        assert spent == [EVENT, Event(3.0)] or ("reserved" not in said and spent == []), said
        states = {entry["state"] for entry in ledger.export()["events"]}
        assert states <= ({"sent"} if "sent" in said else {"reserved", "sent"})
        with pytest.raises(PrivacyError, match="Expected events that this process reserved"):
            ledger.freed([1])
        _reserve(ledger, OTHER)
        assert ledger.spent("a") == [*spent, OTHER]
        ledger.close()
        seen.append((len(said), len(spent)))
    # Killed before it was open, while it reserved, between reading and sent, and after all.
    assert {(0, 0), (1, 0), (3, 2), (5, 2)} <= set(seen)


def test_a_process_killed_at_any_statement_of_a_batch_leaves_all_of_it_or_nothing(tmp_path: Path) -> None:
    """A client with two groups, one that is refused, one with two events, and one that is asked twice."""
    code = (
        "from shared.privacy.ledger import Spending\n"
        "def reserve(ledger):\n"
        "    ledger.set_policy(Policy(rounds_at_most=1), 'b')\n"
        "    clients = [['a/group-0-of-2', 'a/group-1-of-2'], ['b'], ['c'], ['d'], ['c']]\n"
        "    spendings = [[Spending(owner, [EVENT, Event(3.0)]) for owner in client] for client in clients]\n"
        "    say('asked')\n"
        "    outcomes = ledger.reserve_all(spendings, run='r', purpose='train', round_number=1, min_separation=0)\n"
        "    return [number for outcome in outcomes if isinstance(outcome, list) for number in outcome]\n"
    )
    ends = [int(line.split()[1]) for line in _python(code + _STEP_BY_STEP, tmp_path).splitlines()]
    assert set(ends[:-1]) == {-signal.SIGKILL}
    assert ends[-1] == 0
    seen = []
    for number in range(1, len(ends) + 1):
        said = (tmp_path / str(number) / "said").read_text().split()
        ledger = Ledger(tmp_path / str(number) / "ledger.sqlite", binding=BINDING)
        spent = {owner: len(ledger.spent(owner)) for owner in ledger.owners()}
        assert spent == {"a/group-0-of-2": 2, "a/group-1-of-2": 2, "c": 4, "d": 2} or (
            "reserved" not in said and spent == {}
        ), said
        states = {entry["state"] for entry in ledger.export()["events"]}
        assert len(states) <= 1
        assert states <= ({"sent"} if "sent" in said else {"reserved", "sent"})
        with pytest.raises(PrivacyError, match="Expected events that this process reserved"):
            ledger.freed([1])
        ledger.close()
        seen.append((len(said), len(spent)))
    # Killed in the midst of the batch (at eight statements or more), between reading and sent, and after all.
    assert seen.count((2, 0)) >= 8
    assert {(4, 4), (6, 4)} <= set(seen)


@pytest.mark.parametrize("milliseconds", [0, 3, 11, 30, 70, 150])
def test_a_process_killed_at_any_moment_never_takes_back_what_it_was_told_is_reserved(path: Path, milliseconds: int) -> None:
    code = (
        "ledger = Ledger(PATH, binding=BINDING); say('ready'); sys.stdin.readline()\n"
        "for number in range(100000):\n"
        "    identifiers = reserve(ledger, round_number=number); say('reserved')\n"
        "    if number % 3: ledger.sent(identifiers)\n"
    )
    process = _start(code, path)
    assert process.stdout is not None and process.stdin is not None
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("go\n")
    process.stdin.flush()
    threading.Event().wait(milliseconds / 1000)
    process.kill()
    promised = process.communicate(timeout=300)[0].count("reserved\n")
    assert promised <= len(Ledger(path, binding=BINDING).spent("a")) <= promised + 1


@pytest.mark.parametrize("milliseconds", [5, 40, 90])
def test_a_process_killed_at_any_moment_of_a_batch_leaves_all_of_it_or_nothing(path: Path, milliseconds: int) -> None:
    """Mostly while SQLite writes: three thousand clients take longer than all the rest."""
    code = (
        "from shared.privacy.ledger import Spending\n"
        "clients = [[Spending(f'client-{number}', [EVENT])] for number in range(3000)]\n"
        "ledger = Ledger(PATH, binding=BINDING); say('ready'); sys.stdin.readline()\n"
        "for number in range(1000):\n"
        "    ledger.reserve_all(clients, run='r', purpose='train', round_number=number); say('reserved')\n"
    )
    process = _start(code, path)
    assert process.stdout is not None and process.stdin is not None
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("go\n")
    process.stdin.flush()
    threading.Event().wait(milliseconds / 1000)
    process.kill()
    promised = process.communicate(timeout=300)[0].count("reserved\n")
    Ledger(path, binding=BINDING).close()
    batches, rest = divmod(_states(path).get("reserved", 0), 3000)
    assert rest == 0
    assert promised <= batches <= promised + 1


def test_many_processes_may_make_and_write_one_ledger_at_once(path: Path) -> None:
    code = (
        "sys.stdin.readline(); ledger = Ledger(PATH, binding=BINDING)\n"
        "for number in range(10): ledger.sent(reserve(ledger, sys.argv[2], round_number=number))\n"
    )
    running = [_start(code, path, f"owner-{number}") for number in range(4)]
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate(timeout=300)[1] for process in running] == [""] * 4
    ledger = Ledger(path)
    assert [len(ledger.spent(owner)) for owner in ledger.owners()] == [10] * 4


def test_a_fork_leaves_both_processes_a_ledger_of_their_own(path: Path) -> None:
    """The child may not use the parent's connection, and may not give back what the parent reserved."""
    code = (
        "import gc, sqlite3\n"
        "ledger = Ledger(PATH, binding=BINDING); identifiers = reserve(ledger, round_number=0)\n"
        "child = os.fork()\n"
        "for found in gc.get_objects():\n"
        "    if type(found) is sqlite3.Connection: say('open')\n"
        "if not child:\n"
        "    try: ledger.freed(identifiers)\n"
        "    except PrivacyError as error: say(error)\n"
        "for number in range(1, 30): reserve(ledger, 'a' if child else 'b', round_number=number)\n"
        "if child: assert os.waitpid(child, 0)[1] == 0; ledger.freed(identifiers)\n"
        "else: os._exit(0)\n"
    )
    (said,) = _python(code, path).splitlines()
    assert said.startswith("Expected events that this process reserved and did not send, got others")
    ledger = Ledger(path)
    assert [len(ledger.spent(owner)) for owner in "ab"] == [29, 29]


def test_threads_of_one_process_take_turns(ledger: Ledger) -> None:
    def work(owner: str) -> None:
        for number in range(10):
            ledger.sent(_reserve(ledger, owner=owner, round_number=number))

    threads = [threading.Thread(target=work, args=(f"owner-{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(ledger.spent(owner)) for owner in ledger.owners()] == [10] * 4


def _open_connections(path: Path) -> list[sqlite3.Connection]:
    found = []
    for connection in gc.get_objects():
        with suppress(sqlite3.ProgrammingError):  # it is closed
            if type(connection) is sqlite3.Connection and connection.execute("PRAGMA database_list").fetchone()[2] == str(
                path
            ):
                found.append(connection)
    return found


def test_reservations_and_limits_are_synced_to_the_disk(tmp_path: Path) -> None:
    """`kill -9` cannot show it, because the kernel keeps what a dead process wrote: the setting is looked at instead."""
    path = tmp_path / "synced.sqlite"
    ledger = Ledger(path, binding=BINDING)
    (connection,) = _open_connections(path)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    synchronous = {}
    for name, call in {
        "reserve": lambda: _reserve(ledger),
        "sent": lambda: ledger.sent([1]),
        "reserve again": lambda: _reserve(ledger),
        "freed": lambda: ledger.freed([2]),
        "reserve_all": lambda: _reserve_all(ledger, [Spending("a", [EVENT])], [Spending("b", [EVENT])]),
        "record_faults": lambda: ledger.record_faults([("a", "missing")], run="r", round_number=1),
        "set_policy": lambda: ledger.set_policy(Policy()),
    }.items():
        call()
        synchronous[name] = connection.execute("PRAGMA synchronous").fetchone()[0]
    full, normal = 2, 1  # normal: a power cut may turn sent or freed events into reserved ones, which count
    assert synchronous == {
        "reserve": full, "sent": normal, "reserve again": full, "freed": normal, "reserve_all": full,
        "record_faults": normal, "set_policy": full,
    }  # fmt: skip
    ledger.close()


# Bad files, disks and folders.


def _refused(path: Path, message: str) -> None:
    """Refuses to open, and leaves everything in the folder as it was."""
    before = {found: found.read_bytes() for found in path.parent.iterdir() if found.is_file()}
    for binding in (BINDING, None):
        with pytest.raises(PrivacyError, match=message):
            Ledger(path, binding=binding)
    after = {found: found.read_bytes() for found in path.parent.iterdir() if found.is_file()}
    assert {found: content for found, content in after.items() if not found.name.endswith(("-wal", "-shm"))} == before


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"this is no database, but it is long enough to be looked at" * 20, "file is not a database"),
        (b"\x00" * 5000, "file is not a database"),
        (b"", "the file is empty"),
    ],
)
def test_a_file_that_is_no_database_is_refused_and_not_replaced(path: Path, content: bytes, reason: str) -> None:
    path.write_bytes(content)
    _refused(
        path,
        rf"The privacy ledger ledger\.sqlite cannot be used \({reason}\)\. No data was read\. Restore it from a copy; a "
        "ledger is never replaced silently",
    )


def _full_ledger(path: Path) -> bytearray:
    ledger = Ledger(path, binding=BINDING)
    for number in range(200):
        _reserve(ledger, round_number=number)
    ledger.close()
    return bytearray(path.read_bytes())


@pytest.mark.parametrize("damage", ["overwritten", "truncated", "zeroed"])
def test_a_damaged_file_is_refused_and_not_replaced(path: Path, damage: str) -> None:
    content = _full_ledger(path)
    half = len(content) // 8192 * 4096
    if damage == "truncated":
        del content[half:]
    else:
        content[half : half + 4096] = (b"\xa5" if damage == "overwritten" else b"\x00") * 4096
    path.write_bytes(content)
    _refused(path, r"The privacy ledger ledger\.sqlite cannot be used \(.+\)\. No data was read\. Restore it from a copy")


def test_an_index_that_has_lost_entries_is_an_error_and_not_a_smaller_spending(path: Path) -> None:
    _full_ledger(path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = sql || ' WHERE id > 100' WHERE name = 'events_by_owner'")
    connection.close()
    with sqlite3.connect(path) as connection:  # writes the index anew, with half of the entries, and hides that
        connection.execute("REINDEX")
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "UPDATE sqlite_master SET sql = replace(sql, ' WHERE id > 100', '') WHERE name = 'events_by_owner'"
        )
    connection.close()
    with sqlite3.connect(path) as connection:
        seen = "SELECT COUNT(*) FROM events INDEXED BY events_by_owner WHERE owner = 'a'"
        assert connection.execute(seen).fetchone() == (100,)  # of 200
    connection.close()
    _refused(path, r"cannot be used \(row 1 missing from index events_by_owner\)\. No data was read\. Restore")


def test_a_database_of_something_else_is_refused(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE events (name TEXT)")
    connection.close()
    _refused(path, r"cannot be used \(it is a database of something else\)\. No data was read\. Name the file of a ledger")


def test_a_ledger_of_a_newer_version_is_refused(ledger: Ledger, path: Path) -> None:
    ledger.close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 7")
    connection.close()
    _refused(
        path, r"cannot be used \(its schema has version 7, this software knows 1\)\. No data.*Use the version that wrote it"
    )


def test_a_path_that_cannot_be_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PrivacyError, match=r"The privacy ledger .* cannot be used \(.*\)\. No data was read"):
        Ledger(tmp_path, binding=BINDING)
    with pytest.raises(PrivacyError, match=r"cannot be used \(File exists\)\. No data was read"):
        Ledger(tmp_path / "file" / "ledger.sqlite", binding=BINDING)


def test_the_log_of_a_lost_ledger_is_not_swallowed_by_a_new_one(path: Path) -> None:
    ledger = Ledger(path, binding=BINDING)
    _reserve(ledger)
    path.rename(path.with_name("moved"))
    with pytest.raises(
        PrivacyError, match=r"ledger\.sqlite is missing, but its ledger\.sqlite-wal is there\. No data was read"
    ):
        Ledger(path, binding=BINDING)
    assert not path.exists()
    path.with_name("moved").rename(path)
    assert Ledger(path).spent("a") == [EVENT]


def test_a_ledger_that_is_replaced_while_it_is_open_is_refused(ledger: Ledger, path: Path, tmp_path: Path) -> None:
    Ledger(tmp_path / "another", binding=replace(BINDING, dataset="something else")).close()
    (tmp_path / "another").replace(path)
    with pytest.raises(PrivacyError, match=r"ledger\.sqlite was replaced while it was in use\. No data was read"):
        _reserve(ledger)
    ledger.close()
    with pytest.raises(PrivacyError, match=r"ledger\.sqlite was replaced while it was in use\. No data was read"):
        _reserve(ledger)


def test_a_locked_ledger_refuses_to_reserve(path: Path) -> None:
    ledger = Ledger(path, binding=BINDING, timeout_seconds=0.05)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(PrivacyError) as caught:
        _reserve(ledger)
    assert str(caught.value) == (
        "The privacy ledger ledger.sqlite could not be written (database is locked). No data was read. Another process is "
        "writing to it: let it finish, then repeat."
    )
    assert ledger.spent("a") == []
    holder.execute("ROLLBACK")
    holder.close()
    _reserve(ledger)
    assert ledger.spent("a") == [EVENT]


def test_a_full_database_refuses_to_reserve(path: Path) -> None:
    """SQLite's own limit on pages gives the error of a full disk."""
    ledger = Ledger(path, binding=BINDING)
    for connection in _open_connections(path):
        connection.execute("PRAGMA max_page_count = 1")  # is raised to what is in use
    message = r"could not be written \(database or disk is full\)\. No data was read\. Free disk space"
    with pytest.raises(PrivacyError, match=message):
        for _ in range(1000):
            _reserve(ledger, *[EVENT] * 20)
    assert len(ledger.spent("a")) % 20 == 0


def test_a_full_disk_refuses_to_reserve(path: Path) -> None:
    """The limit on file sizes makes the kernel refuse the write, as a full disk does."""
    code = (
        "import resource, signal\n"
        "ledger, done = Ledger(PATH, binding=BINDING), 0\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (80_000, 80_000))\n"
        "try:\n"
        "    for done in range(1000): reserve(ledger)\n"
        "except PrivacyError as error: say(done, error); os._exit(0)\n"
    )
    done, message = _python(code, path).split(" ", 1)
    assert message == (
        "The privacy ledger ledger.sqlite could not be written (disk I/O error). No data was read. Free disk space or mend "
        "the disk, then repeat.\n"
    )
    assert len(Ledger(path).spent("a")) == int(done) > 0


@pytest.mark.parametrize("what", ["file", "folder", "new"])
def test_a_ledger_that_may_not_be_written_refuses_to_reserve(what: str) -> None:
    """As an ordinary user, because permissions do not hold for root."""
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to other users
        folder = Path(name) / "folder"
        folder.mkdir()
        path = folder / "ledger.sqlite"
        if what != "new":
            Ledger(path, binding=BINDING).close()
            path.chmod(0o666 if what == "folder" else 0o444)
        Path(name).chmod(0o755)
        folder.chmod(0o777 if what == "file" else 0o555)
        code = (
            "import shared.privacy.accounting\n"
            "if os.geteuid() == 0: os.setresuid(65534, 65534, 65534)\n"
            "try: reserve(Ledger(PATH, binding=BINDING)); say('reserved')\n"
            "except PrivacyError as error: say(error)\n"
        )
        message = _python(code, path)
        folder.chmod(0o755)
        assert message.startswith("The privacy ledger ledger.sqlite c")
        assert ". No data was read. Make the f" in message
        if what != "new":
            assert Ledger(path).spent("a") == []


def test_a_ledger_of_the_first_version_is_taken_over_with_all_that_was_spent(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.executescript(
            """
            CREATE TABLE events (id INTEGER PRIMARY KEY, owner TEXT NOT NULL, run TEXT NOT NULL, purpose TEXT NOT NULL,
                round_number INTEGER NOT NULL, noise_multiplier REAL NOT NULL, sampling_rate REAL NOT NULL,
                steps INTEGER NOT NULL, state TEXT NOT NULL CHECK (state IN ('reserved', 'sent', 'freed')),
                recorded_at TEXT NOT NULL DEFAULT (datetime('now')));
            CREATE INDEX events_by_owner ON events (owner, state);
            INSERT INTO events
                (owner, run, purpose, round_number, noise_multiplier, sampling_rate, steps, state, recorded_at)
            VALUES ('a', 'r', 'train', 1, 1.5, 0.25, 4, 'sent', '2025-01-02 03:04:05'),
                ('a', 'r', 'train', 2, 1.5, 0.25, 4, 'freed', '2025-01-02 03:04:06'),
                ('a', 'r', 'train', 3, 3.0, 1.0, 1, 'reserved', '2025-01-02 03:04:07');
            """
        )
    connection.close()
    looking = Ledger(path)
    assert looking.spent("a") == [EVENT, OTHER]
    assert looking.binding is None
    with pytest.raises(PrivacyError, match="about unit=window, got unit=user"):  # it was about users
        Ledger(path, binding=replace(BINDING, unit="window"))
    ledger = Ledger(path, binding=BINDING)
    _reserve(ledger, OTHER)
    entries = ledger.export()["events"]
    assert [entry["state"] for entry in entries] == ["sent", "freed", "reserved", "reserved"]
    assert entries[0]["recorded_at"] == "2025-01-02T03:04:05.000000+00:00"
    assert entries[0]["software"] == "unknown"


# Faults and the export.


def test_faults_are_counted_and_stay_on_the_device(ledger: Ledger) -> None:
    for kind in ("non-finite", "missing"):
        ledger.record_fault("a", run="r", round_number=1, kind=kind)
    assert (ledger.faults("a"), ledger.faults("b")) == (2, 0)
    _reserve(ledger)
    assert "fault" not in json.dumps(ledger.export())
    assert "non-finite" not in json.dumps(ledger.export())


def test_faults_of_many_clients_are_counted_in_one_transaction(ledger: Ledger, path: Path) -> None:
    faults = [(f"client-{number % 7}", "non-finite") for number in range(100)]
    statements = _statements(path, lambda: ledger.record_faults(faults, run="r", round_number=1))
    assert statements.count("COMMIT") == 1
    ledger.record_faults([], run="r", round_number=1)
    assert (ledger.faults("client-0"), ledger.faults("client-6"), ledger.faults()) == (15, 14, 100)


def test_a_fault_that_cannot_be_recorded_shows_to_nobody(path: Path) -> None:
    """A refusal would tell others that the update was faulty."""
    ledger = Ledger(path, binding=BINDING, timeout_seconds=0.05)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    ledger.record_fault("a", run="r", round_number=1, kind="non-finite")
    ledger.record_faults([("a", "non-finite"), ("b", "missing")], run="r", round_number=1)
    holder.execute("ROLLBACK")
    holder.close()
    assert ledger.faults() == 0


def test_the_export_says_everything_but_faults_as_json(ledger: Ledger) -> None:
    by_server = Event(2.0, 0.1, 1, sampled_by="server")
    ledger.set_policy(Policy(epsilon=5.0))
    ledger.set_policy(Policy(rounds_at_most=12), "b")
    ledger.sent(_reserve(ledger, by_server))
    ledger.freed(_reserve(ledger, OTHER))
    _reserve(ledger, OTHER, owner="b", request=REQUEST)
    export = json.loads(json.dumps(ledger.export(), allow_nan=False))
    assert export["schema"] == {"name": "tacit-privacy-ledger", "version": 1}
    assert export["binding"] == asdict(BINDING)
    assert export["policies"] == {"*": asdict(Policy(epsilon=5.0)), "b": asdict(Policy(rounds_at_most=12))}
    assert [(entry["owner"], entry["state"]) for entry in export["events"]] == [
        ("a", "sent"),
        ("a", "freed"),
        ("b", "reserved"),
    ]
    assert export["events"][0]["software"].startswith("tacit ")
    known = {owner: epsilons["known_participation"] for owner, epsilons in export["epsilons"].items()}
    expected = {"a": _gaussian_epsilon([Event(2.0)], 1e-5), "b": _gaussian_epsilon([OTHER], 1e-5)}
    assert known == pytest.approx(expected, abs=0.02)
    assert export["epsilons"]["a"]["as_recorded"] < known["a"] / 2
    only = ledger.export("a")
    assert set(only["epsilons"]) == {entry["owner"] for entry in only["events"]} == {"a"}
    assert set(only["policies"]) == {"*"}


# Against a model.


class LedgerAgainstModel(RuleBasedStateMachine):
    """Random reservations, deliveries, crashes and limits against a dictionary.

    All releases have everybody in them, so that the oracle for an epsilon is a formula. A decision within 0.03 of the limit
    is not looked at, because the accountant rounds upwards.
    """

    EVENTS = (Event(3.0), Event(5.0, steps=2), Event(7.0, 0.1, sampled_by="server"))

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "ledger.sqlite"
        self.ledger = Ledger(self.path, binding=BINDING)
        self.model: dict[int, tuple[str, Event, str]] = {}  # identifier -> owner, event, state
        self.mine: list[int] = []
        self.limits: dict[str, float | None] = {}

    def counted(self, owner: str) -> list[Event]:
        return [event for of, event, state in self.model.values() if of == owner and state != "freed"]

    @rule(
        owner=st.sampled_from("ab"),
        chosen=st.lists(st.sampled_from(EVENTS), max_size=3),
        planned=st.lists(st.sampled_from(EVENTS), max_size=20),
        run=st.sampled_from("rs"),
    )
    def reserve(self, owner: str, chosen: list[Event], planned: list[Event], run: str) -> None:
        limit = self.limits.get(owner, self.limits.get(EVERYONE))
        together = _gaussian_epsilon([*self.counted(owner), *chosen], 1e-5)
        try:
            identifiers = self.ledger.reserve(owner, chosen, run=run, purpose="train", round_number=1, planned=planned)
        except BudgetExceeded:
            assert limit is not None and together > limit - 0.03
            return
        assert limit is None or together < limit + 0.03
        self.model |= {number: (owner, event, "reserved") for number, event in zip(identifiers, chosen, strict=True)}
        self.mine += identifiers

    @rule(clients=st.lists(st.tuples(st.sampled_from("ab"), st.lists(st.sampled_from(EVENTS), max_size=2)), max_size=6))
    def reserve_all(self, clients: list[tuple[str, list[Event]]]) -> None:
        asked = [[Spending(owner, chosen)] for owner, chosen in clients]
        outcomes = self.ledger.reserve_all(asked, run="r", purpose="train", round_number=1)
        for (owner, chosen), outcome in zip(clients, outcomes, strict=True):
            limit = self.limits.get(owner, self.limits.get(EVERYONE))
            together = _gaussian_epsilon([*self.counted(owner), *chosen], 1e-5)
            if isinstance(outcome, TacitError):
                assert isinstance(outcome, BudgetExceeded) and limit is not None and together > limit - 0.03
                continue
            assert limit is None or together < limit + 0.03
            self.model |= {number: (owner, event, "reserved") for number, event in zip(outcome, chosen, strict=True)}
            self.mine += outcome

    @precondition(lambda self: self.mine)
    @rule(data=st.data(), state=st.sampled_from(["sent", "freed"]))
    def settle(self, data: st.DataObject, state: str) -> None:
        identifier = self.mine.pop(data.draw(st.integers(0, len(self.mine) - 1)))
        getattr(self.ledger, state)([identifier])
        self.model[identifier] = (*self.model[identifier][:2], state)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def free_what_is_not_ones_own(self, data: st.DataObject) -> None:
        identifier = data.draw(st.sampled_from(sorted(self.model)))
        if identifier not in self.mine:
            with pytest.raises(PrivacyError, match="Expected events that this process reserved and did not send"):
                self.ledger.freed([identifier])

    @rule()
    def crash(self) -> None:
        self.ledger.close()
        self.ledger = Ledger(self.path, binding=BINDING)
        self.mine = []

    @rule(owner=st.sampled_from("ab*"), epsilon=st.sampled_from([None, 0.5, 1.0, 1.5, 2.0, 3.0]))
    def limit(self, owner: str, epsilon: float | None) -> None:
        Ledger(self.path).set_policy(Policy(epsilon=epsilon), owner)
        self.limits[owner] = epsilon

    @invariant()
    def the_ledger_says_what_the_model_says(self) -> None:
        for owner in "ab":
            assert self.ledger.spent(owner) == self.counted(owner)

    def teardown(self) -> None:
        self.ledger.close()
        self.folder.cleanup()


LedgerAgainstModel.TestCase.settings = settings(
    max_examples=30, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
test_the_ledger_agrees_with_a_dictionary_whatever_happens = LedgerAgainstModel.TestCase
