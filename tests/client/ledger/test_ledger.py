"""The device's ledger: what is reserved counts whatever happens next, and what it tells its owner."""

from __future__ import annotations

import gc
import json
import math
import sqlite3
import tempfile
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from client.ledger.ledger import EVERYONE, Ledger, Policy, Spending
from shared.errors import BudgetExceeded, PolicyRefused, PrivacyError, TacitError
from shared.privacy.events import Event
from tests.ledgers import (
    BINDING,
    EVENT,
    OTHER,
    REQUEST,
    gaussian_epsilon,
    identifiers_of,
    reserve,
    reserve_all,
    statements_of,
)


def test_reserved_counts_sent_counts_freed_does_not(ledger: Ledger) -> None:
    assert ledger.spent("a") == []
    first = reserve(ledger, EVENT, OTHER)
    assert ledger.spent("a") == [EVENT, OTHER]
    ledger.freed(first[1:])
    assert ledger.spent("a") == [EVENT]
    ledger.sent(first[:1])
    assert ledger.spent("a") == [EVENT]


def test_what_was_sent_can_never_be_given_back(ledger: Ledger, path: Path) -> None:
    identifiers = reserve(ledger)
    ledger.sent(identifiers)
    with pytest.raises(PrivacyError, match=r"Expected events that this process reserved and did not send, got others"):
        ledger.freed(identifiers)
    assert ledger.spent("a") == [EVENT]


def test_what_another_object_sent_can_never_be_given_back(ledger: Ledger, path: Path) -> None:
    identifiers = reserve(ledger)
    Ledger(path, binding=BINDING).sent(identifiers)
    with pytest.raises(PrivacyError, match=r"Expected reserved events to become 'freed', got one that was .*or sent before"):
        ledger.freed(identifiers)
    assert ledger.spent("a") == [EVENT]


def test_only_who_reserved_an_event_can_give_it_back(ledger: Ledger, path: Path) -> None:
    identifiers = reserve(ledger)
    another = Ledger(path, binding=BINDING)
    own = reserve(another)
    with pytest.raises(PrivacyError, match=r"Expected events that this process reserved.*They stay spent"):
        another.freed([*own, *identifiers])
    assert ledger.spent("a") == [EVENT, EVENT]
    another.freed(own)
    assert ledger.spent("a") == [EVENT]
    ledger.freed(identifiers)
    assert ledger.spent("a") == []


def test_nothing_is_marked_when_one_of_several_events_cannot_be(ledger: Ledger) -> None:
    first, second = reserve(ledger, EVENT, OTHER)
    with pytest.raises(PrivacyError, match=r"got one that was never reserved.*Nothing was released"):
        ledger.sent([first, 4711])
    ledger.freed([first])
    with pytest.raises(PrivacyError, match=r"Expected reserved events to become 'sent', got one that .*was given back"):
        ledger.sent([second, first])
    ledger.freed([second])  # was not marked as sent
    assert ledger.spent("a") == []


def test_owners_are_kept_apart_and_the_largest_spending_is_over_all_of_them(ledger: Ledger) -> None:
    for owner, events in {"a": [EVENT], "b": [EVENT, OTHER, EVENT], "c": [EVENT], "d": [OTHER]}.items():
        last = reserve(ledger, *events, owner=owner)
    ledger.freed(last)
    assert ledger.owners() == ["a", "b", "c", "d"]
    assert [len(ledger.spent(owner)) for owner in "abcd"] == [1, 3, 1, 0]
    assert ledger.spent("e") == []
    assert ledger.largest_spending() == [[EVENT], [replace(EVENT, steps=8), OTHER]]
    assert [(account.owner, account.entries) for account in ledger.accounts()] == [("a", 1), ("b", 3), ("c", 1)]


def test_what_many_owners_spent_is_said_of_each_of_them_and_takes_the_memory_of_some(ledger: Ledger) -> None:
    """Twenty thousand owners, of some nothing that counts, some with faults; a part is four thousand of them."""
    events = {number: [[EVENT], [EVENT, EVENT, OTHER], [OTHER]][number % 3] for number in range(20_000)}
    outcomes = reserve_all(ledger, *[[Spending(f"client-{number}", found)] for number, found in events.items()])
    freed = range(5, 20_000, 1000)
    ledger.freed(identifiers_of([outcomes[number] for number in freed]))
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
    reserve(ledger, event)
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
        reserve(ledger, EVENT, event)
    assert f"Expected an event with {message}" in str(caught.value)
    assert ledger.spent("a") == []


def test_participations_are_the_rounds_of_training_that_were_not_given_back(ledger: Ledger) -> None:
    for round_number in (7, 2, 2, 5):
        last = reserve(ledger, round_number=round_number)
    ledger.freed(last)
    reserve(ledger, round_number=9, run="another")
    reserve(ledger, round_number=0, purpose="popularity")
    reserve(ledger, round_number=3, owner="b")
    assert ledger.participations("a", run="r") == [2, 7]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data_name": "songs"}, "Expected the privacy ledger of the data that this device names, got one that is bound to"),
        ({"unit": "window"}, "Expected a plan with the unit of the privacy ledger, got another unit. No data was read."),
        ({"relation": "zero-out"}, "Expected a plan with the relation of the privacy ledger, got another relation."),
        ({"delta": 1e-6}, "Expected a plan with the delta of the privacy ledger, got another delta. No data was read."),
    ],
)
def test_a_ledger_about_something_else_is_refused(ledger: Ledger, path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(PrivacyError) as caught:
        Ledger(path, binding=replace(BINDING, **change))
    assert str(caught.value).startswith(message)
    # The refusal travels to the server: it holds neither the owner's name for the data nor a number of another run.
    assert not any(value in str(caught.value) for value in ("movies", "songs", "1e-0", "add-or-remove", "zero-out"))
    assert ledger.binding == BINDING


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
        reserve(run, request=REQUEST)


def test_a_ledger_that_was_opened_to_look_at_it_reserves_nothing(ledger: Ledger, path: Path) -> None:
    with pytest.raises(PrivacyError, match=r"Expected a ledger that was opened with a binding.*No data was read"):
        reserve(Ledger(path))
    with pytest.raises(PrivacyError, match=r"an owner other than '\*'"):
        reserve(ledger, owner=EVERYONE)
    assert ledger.owners() == []


def test_limits_of_an_owner_come_before_those_of_everyone(ledger: Ledger, path: Path) -> None:
    assert ledger.policy("a") == Policy()
    ledger.set_policy(Policy(rounds_at_most=5))
    ledger.set_policy(Policy(rounds_at_most=20), "a")
    again = Ledger(path)
    assert again.policies() == {"*": Policy(rounds_at_most=5), "a": Policy(rounds_at_most=20)}
    assert (again.policy("a"), again.policy("b")) == (Policy(rounds_at_most=20), Policy(rounds_at_most=5))
    reserve(ledger, request=REQUEST)
    with pytest.raises(PolicyRefused, match="Expected rounds <= 5"):
        reserve(ledger, request=REQUEST, owner="b")
    again.set_policy(None, "a")
    assert ledger.policy("a") == Policy(rounds_at_most=5)


def test_faults_are_counted_and_stay_on_the_device(ledger: Ledger) -> None:
    for kind in ("non-finite", "missing"):
        ledger.record_fault("a", run="r", round_number=1, kind=kind)
    assert (ledger.faults("a"), ledger.faults("b")) == (2, 0)
    ledger.record_fault("b", run="r", round_number=1, kind="missing")
    reserve(ledger)
    # The export goes to others, so it is the same whatever failed here: word by word, under every name that it might have.
    clean = Ledger(ledger.path.with_name("clean.sqlite"), binding=BINDING)
    reserve(clean)
    for owner in (None, "a", "b"):
        with_faults, without = ledger.export(owner), clean.export(owner)
        for entry in [*with_faults["events"], *without["events"]]:
            del entry["recorded_at"]
        assert with_faults == without
        assert "fault" not in json.dumps(with_faults) and "non-finite" not in json.dumps(with_faults)


def test_faults_of_many_clients_are_counted_in_one_transaction(ledger: Ledger, path: Path) -> None:
    faults = [(f"client-{number % 7}", "non-finite") for number in range(100)]
    statements = statements_of(path, lambda: ledger.record_faults(faults, run="r", round_number=1))
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
    ledger.sent(reserve(ledger, by_server))
    ledger.freed(reserve(ledger, OTHER))
    reserve(ledger, OTHER, owner="b", request=REQUEST)
    export = json.loads(json.dumps(ledger.export(), allow_nan=False))
    assert export["schema"] == {"name": "tacit-privacy-ledger", "version": 3}
    assert export["binding"] == asdict(BINDING)
    assert export["policies"] == {"*": asdict(Policy(epsilon=5.0)), "b": asdict(Policy(rounds_at_most=12))}
    assert [(entry["owner"], entry["state"]) for entry in export["events"]] == [
        ("a", "sent"),
        ("a", "freed"),
        ("b", "reserved"),
    ]
    assert export["events"][0]["software"].startswith("tacit ")
    known = {owner: epsilons["known_participation"] for owner, epsilons in export["epsilons"].items()}
    expected = {"a": gaussian_epsilon([Event(2.0)], 1e-5), "b": gaussian_epsilon([OTHER], 1e-5)}
    assert known == pytest.approx(expected, abs=0.02)
    assert export["epsilons"]["a"]["as_recorded"] < known["a"] / 2
    only = ledger.export("a")
    assert set(only["epsilons"]) == {entry["owner"] for entry in only["events"]} == {"a"}
    assert set(only["policies"]) == {"*"}


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
        self.model: dict[int, tuple[str, Event, str, str]] = {}  # identifier -> owner, event, state, run
        self.mine: list[int] = []
        self.limits: dict[str, float | None] = {}

    def counted(self, owner: str) -> list[Event]:
        return [event for of, event, state, _ in self.model.values() if of == owner and state != "freed"]

    def whole(self, owner: str, run: str, chosen: list[Event], planned: Sequence[Event] = ()) -> float:
        """Oracle: epsilon of other runs, and of this one as far as it went or is planned, by kind of release."""
        steps: dict[float, dict[str, int]] = {event.noise_multiplier: Counter() for event in self.EVENTS}
        for of, event, state, in_run in self.model.values():
            if of == owner and state != "freed":
                steps[event.noise_multiplier]["run" if in_run == run else "others"] += event.steps
        for what, events in {"run": chosen, "planned": planned}.items():
            for event in events:
                steps[event.noise_multiplier][what] += event.steps
        found = {noise: of["others"] + max(of["run"], of["planned"]) for noise, of in steps.items()}
        return gaussian_epsilon([Event(noise, 1.0, count) for noise, count in found.items() if count], 1e-5)

    @rule(
        owner=st.sampled_from("ab"),
        chosen=st.lists(st.sampled_from(EVENTS), max_size=3),
        planned=st.lists(st.sampled_from(EVENTS), max_size=20),
        run=st.sampled_from("rs"),
    )
    def reserve(self, owner: str, chosen: list[Event], planned: list[Event], run: str) -> None:
        limit = self.limits.get(owner, self.limits.get(EVERYONE))
        whole = self.whole(owner, run, chosen, planned)
        try:
            identifiers = self.ledger.reserve(
                owner, chosen, run=run, purpose="train", round_number=1, planned=planned, request=REQUEST
            )
        except BudgetExceeded:
            assert limit is not None and whole > limit - 0.03
            return
        assert limit is None or whole < limit + 0.03
        self.model |= {number: (owner, event, "reserved", run) for number, event in zip(identifiers, chosen, strict=True)}
        self.mine += identifiers

    @rule(clients=st.lists(st.tuples(st.sampled_from("ab"), st.lists(st.sampled_from(EVENTS), max_size=2)), max_size=6))
    def reserve_all(self, clients: list[tuple[str, list[Event]]]) -> None:
        asked = [[Spending(owner, chosen)] for owner, chosen in clients]
        outcomes = self.ledger.reserve_all(asked, run="r", purpose="train", round_number=1, request=REQUEST)
        for (owner, chosen), outcome in zip(clients, outcomes, strict=True):
            limit = self.limits.get(owner, self.limits.get(EVERYONE))
            whole = self.whole(owner, "r", chosen)
            if isinstance(outcome, TacitError):
                assert isinstance(outcome, BudgetExceeded) and limit is not None and whole > limit - 0.03
                continue
            assert limit is None or whole < limit + 0.03
            self.model |= {number: (owner, event, "reserved", "r") for number, event in zip(outcome, chosen, strict=True)}
            self.mine += outcome

    @precondition(lambda self: self.mine)
    @rule(data=st.data(), state=st.sampled_from(["sent", "freed"]))
    def settle(self, data: st.DataObject, state: str) -> None:
        identifier = self.mine.pop(data.draw(st.integers(0, len(self.mine) - 1)))
        getattr(self.ledger, state)([identifier])
        owner, event, _, run = self.model[identifier]
        self.model[identifier] = (owner, event, state, run)

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
