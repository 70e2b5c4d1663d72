"""Many clients in one transaction: each judged as if asked alone; separation, names and times."""

from __future__ import annotations

import sqlite3
import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.ledger.ledger import Ledger, Policy, Spending
from shared.errors import BudgetExceeded, PolicyRefused, PrivacyError
from shared.privacy.events import Event
from tests.ledgers import (
    BINDING,
    EVENT,
    OTHER,
    REQUEST,
    gaussian_epsilon,
    identifiers_of,
    open_connections,
    reserve,
    reserve_all,
    said_of,
    statements_of,
    states_of,
)

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
            outcomes = reserve_all(together, *clients, **asked)
            assert said_of(outcomes) == said_of([reserve_all(alone, client, **asked)[0] for client in clients])
            for ledger in (together, alone):
                ledger.freed(identifiers_of(outcomes)[::3])
        rows = [[{**entry, "recorded_at": ""} for entry in ledger.export()["events"]] for ledger in (together, alone)]
        assert rows[0] == rows[1]
        assert together.largest_spending() == alone.largest_spending()
        together.close(), alone.close()


def test_a_client_over_its_limit_disturbs_nobody_else(ledger: Ledger) -> None:
    ledger.set_policy(Policy(epsilon=gaussian_epsilon([OTHER] * 2, 1e-5) + 0.05))
    ledger.set_policy(Policy(rounds_at_most=5), "f")
    reserve(ledger, OTHER, OTHER, owner="b")
    reserve(ledger, OTHER, owner="c", round_number=4)
    clients = [[Spending(owner, [OTHER])] for owner in "abcdef*"]
    clients[4] = [Spending("e", [Event(0.0)])]
    outcomes = reserve_all(ledger, *clients, request=REQUEST, round_number=5, min_separation=2)
    assert [type(outcome) for outcome in outcomes] == [
        list, BudgetExceeded, PolicyRefused, list, PrivacyError, PolicyRefused, PrivacyError
    ]  # fmt: skip
    expected = [
        "[4]", "Expected a plan that fits what the owner", "Expected at least 2 rounds between two", "[5]",
        "Expected an event with noise_multiplier > 0", "Expected rounds <= 5", "Expected an owner other than '*'",
    ]  # fmt: skip
    assert all(str(outcome).startswith(words) for outcome, words in zip(outcomes, expected, strict=True))
    assert [len(ledger.spent(owner)) for owner in "abcdef"] == [1, 2, 1, 1, 0, 0]
    ledger.freed([4, 5])


def test_clients_who_spent_the_same_are_each_held_to_their_own_limit(ledger: Ledger) -> None:
    low, high = (gaussian_epsilon([OTHER] * count, 1e-5) + 0.05 for count in (1, 2))
    for owner, limit in {"a": high, "b": low, "c": high, "d": low}.items():
        ledger.set_policy(Policy(epsilon=limit), owner)
    outcomes = reserve_all(ledger, *[[Spending(owner, [OTHER, OTHER])] for owner in "abcde"])
    assert [type(outcome) for outcome in outcomes] == [list, BudgetExceeded, list, BudgetExceeded, list]


def test_a_client_in_groups_is_reserved_whole_or_not_at_all(ledger: Ledger) -> None:
    """The limit of the client holds for each of its groups; one that has spent more refuses for all."""
    ledger.set_policy(Policy(epsilon=gaussian_epsilon([OTHER] * 2, 1e-5) + 0.05), "b")
    groups = {client: [f"{client}/group-{group}-of-3" for group in range(3)] for client in "abc"}
    reserve(ledger, OTHER, OTHER, owner=groups["b"][1])
    outcomes = reserve_all(ledger, *[[Spending(owner, [OTHER, EVENT]) for owner in groups[client]] for client in "abc"])
    assert outcomes[0] == [3, 4, 5, 6, 7, 8]
    assert isinstance(outcomes[1], BudgetExceeded)
    assert outcomes[2] == [9, 10, 11, 12, 13, 14]
    assert [len(ledger.spent(owner)) for client in "abc" for owner in groups[client]] == [2, 2, 2, 0, 2, 0, 2, 2, 2]
    ledger.sent(identifiers_of(outcomes))


def test_a_client_that_is_asked_twice_at_once_spends_twice(ledger: Ledger) -> None:
    ledger.set_policy(Policy(epsilon=gaussian_epsilon([OTHER] * 2, 1e-5) + 0.05))
    outcomes = reserve_all(ledger, *[[Spending("a", [OTHER])]] * 3, [Spending("b", [OTHER])])
    assert said_of(outcomes)[:2] == [[1], [2]]
    assert isinstance(outcomes[2], BudgetExceeded)
    assert outcomes[3] == [3]
    assert isinstance(reserve_all(ledger, *[[Spending("c", [])]] * 2, [Spending("c/group-0-of-2", [OTHER])])[2], list)
    again = reserve_all(ledger, [Spending("d", [OTHER])], [Spending("d/group-0-of-2", [OTHER])])
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
        ledger.freed(reserve(ledger, owner=owner))
    before = ledger.owners()
    outcome, other = reserve_all(ledger, [Spending(asked, [EVENT])], [Spending("z", [EVENT])])
    assert isinstance(other, list)
    if kind is None:
        assert isinstance(outcome, list)
        return
    assert str(outcome) == (
        f"Expected a ledger that accounts for this client's users in {kind}, found other accounts of theirs. No data was "
        "read. A new ledger would forget what these users spent: use the mechanism and the separation of the earlier runs."
    )
    assert ledger.owners() == [*before, "z"]
    with pytest.raises(PrivacyError, match="found other accounts of theirs"):
        reserve(ledger, owner=asked)


USER, SHOP, TOWN = "user-0123456789abcdef", "value-00000001-0123456789abcdef", "value-00000002-0123456789abcdef"


def test_clients_of_two_kinds_in_one_transaction_are_judged_one_after_the_other(ledger: Ledger) -> None:
    clients = [[Spending(owner, [EVENT])] for owner in ("a", SHOP, TOWN, USER, "client-3", SHOP[:-1] + "0")]
    outcomes = reserve_all(ledger, *clients)
    assert [type(outcome) for outcome in outcomes] == [list, list, PrivacyError, PrivacyError, PrivacyError, list]
    assert str(outcomes[2]).startswith("Expected a ledger whose accounts are of the same kind")
    assert ledger.kinds() == {SHOP[:14]}


@pytest.mark.parametrize(
    ("limited", "charged"),
    [(limited, charged) for limited in ("client-3", USER, SHOP, TOWN) for charged in ("client-4", USER, SHOP, TOWN)],
)
def test_limits_of_another_kind_of_account_refuse_until_they_are_taken_away(
    ledger: Ledger, limited: str, charged: str
) -> None:
    """They guard nobody. Limits for everyone, and for another account of the kind, are none of that."""
    ledger.set_policy(Policy(epsilon=20.0))
    ledger.set_policy(Policy(epsilon=20.0), limited)
    if limited[:14] == charged[:14] or (limited, charged) == ("client-3", "client-4"):
        reserve(ledger, owner=charged)
        return
    with pytest.raises(PrivacyError, match="Expected limits of everyone or of accounts of the same kind as those") as caught:
        reserve(ledger, owner=charged)
    assert "0123456789abcdef" not in str(caught.value)
    assert ledger.owners() == []
    ledger.set_policy(None, limited)
    reserve(ledger, owner=charged)


@pytest.mark.parametrize(
    "owners", [[], ["a", "a"], ["a", "b"], ["a", "a/group-0-of-2"], ["a/group-0-of-2", "a/group-0-of-3"]]
)
def test_accounts_that_do_not_belong_together_are_refused(ledger: Ledger, owners: list[str]) -> None:
    (outcome,) = reserve_all(ledger, [Spending(owner, [EVENT]) for owner in owners])
    assert isinstance(outcome, PrivacyError)
    assert str(outcome) == (
        "Expected one or more accounts of one client, all different and divided in the same way, got another list of "
        f"{len(owners)}. No data was read. Reserve for each client by itself, and name each account once."
    )
    assert ledger.owners() == []


def test_more_clients_than_one_statement_looks_at_are_still_one_transaction(ledger: Ledger, path: Path) -> None:
    """With clients over their limit at both ends, and the first of all a second time at the end."""
    ledger.set_policy(Policy(epsilon=gaussian_epsilon([OTHER] * 2, 1e-5) + 0.05))
    full = [1, 8_999]
    for client in full:
        reserve(ledger, OTHER, OTHER, owner=f"client-{client}")
    clients = [[Spending(f"client-{client}", [OTHER])] for client in [*range(9_000), 0]]
    outcomes: list[Any] = []
    statements = statements_of(path, lambda: outcomes.extend(reserve_all(ledger, *clients)))
    assert [place for place, outcome in enumerate(outcomes) if isinstance(outcome, BudgetExceeded)] == full
    assert identifiers_of(outcomes) == list(range(5, 5 + 8_999))
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
            reserve_all(ledger, [Spending("a", [EVENT])], [Spending("b/group-0-of-2", [EVENT])], min_separation=1)
        )
        ledger.sent(outcomes[0])
        ledger.freed(outcomes[1])

    statements = [
        words for words in statements_of(path, message) if words.lstrip().startswith(("SELECT", "INSERT", "UPDATE"))
    ]
    with sqlite3.connect(path) as connection:
        plans = [[row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {words}")] for words in statements]
    connection.close()
    steps = [step for plan in plans for step in plan]
    assert len(statements) == 10
    assert sum(step.startswith("SEARCH events USING") for step in steps) >= 6
    newest = [plan for words, plan in zip(statements, plans, strict=True) if "MAX(id)" in words]
    assert newest == [["SEARCH events"]]  # the last one is looked up
    assert not [step for step in steps if step.startswith("SCAN events")]


def test_what_concerns_the_file_is_an_error_for_all_and_nothing_is_recorded(path: Path) -> None:
    ledger = Ledger(path, binding=BINDING, timeout_seconds=0.05)
    clients = [[Spending(f"client-{client}", [EVENT, OTHER])] for client in range(50)]
    with pytest.raises(PrivacyError, match=r"Expected a ledger that was opened with a binding, got one without\. No data"):
        reserve_all(Ledger(path), *clients)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(PrivacyError, match=r"could not be written \(database is locked\)\. No data was read"):
        reserve_all(ledger, *clients)
    holder.execute("ROLLBACK")
    holder.execute(
        "CREATE TRIGGER full BEFORE INSERT ON events WHEN NEW.owner = 'client-49' AND NEW.noise_multiplier = 3.0 "
        "BEGIN SELECT RAISE(ABORT, 'no space'); END"
    )
    with pytest.raises(PrivacyError, match=r"could not be written \(no space\)\. No data was read"):
        reserve_all(ledger, *clients)
    assert ledger.owners() == []
    with pytest.raises(PrivacyError, match=r"Expected events that this process reserved"):
        ledger.freed([1])
    holder.execute("DROP TRIGGER full")
    holder.close()
    assert len(identifiers_of(reserve_all(ledger, *clients))) == 100
    ledger.close()


def test_what_could_not_be_committed_is_not_there_to_be_given_back(ledger: Ledger, path: Path) -> None:
    """Another process gets the same identifiers. The commit fails as a constraint that is looked at only then."""
    (connection,) = open_connections(path)
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("CREATE TABLE late (event INTEGER REFERENCES events (id) DEFERRABLE INITIALLY DEFERRED)")
    connection.execute("CREATE TRIGGER late AFTER INSERT ON events BEGIN INSERT INTO late VALUES (-1); END")
    with pytest.raises(PrivacyError, match=r"could not be written \(FOREIGN KEY constraint failed\)\. No data was read"):
        reserve_all(ledger, [Spending("a", [EVENT])], [Spending("b", [EVENT])])
    assert ledger.owners() == []
    connection.execute("DROP TRIGGER late")
    assert reserve(Ledger(path, binding=BINDING), owner="c") == [1]
    with pytest.raises(PrivacyError, match="Expected events that this process reserved and did not send, got others"):
        ledger.freed([1])


def test_a_hundred_thousand_events_are_sent_and_given_back_in_one_transaction_each(ledger: Ledger, path: Path) -> None:
    """Consecutive ones, every other one, and never all but one."""
    identifiers = identifiers_of(
        reserve_all(ledger, *[[Spending(f"client-{number}", [EVENT] * 100)] for number in range(1_000)])
    )
    assert identifiers == list(range(1, 100_001))
    first, rest = identifiers[:50_000], identifiers[50_000:]
    statements = statements_of(path, lambda: ledger.sent(first[::-1]))
    assert sum(words.startswith("UPDATE") for words in statements) == 1
    with pytest.raises(PrivacyError, match="Expected events that this process reserved and did not send, got others"):
        ledger.freed([*rest, first[7]])
    with pytest.raises(PrivacyError, match="Expected reserved events to become 'sent', got one that was never reserved"):
        ledger.sent([*rest, 100_001])
    with pytest.raises(PrivacyError, match=r"Expected reserved events to become 'freed', got one that .* was given back"):
        ledger.freed([*rest, rest[7]])
    assert states_of(path) == {"sent": 50_000, "reserved": 50_000}
    statements = statements_of(path, lambda: ledger.freed(rest[::2]))
    assert statements.count("COMMIT") == 1
    with pytest.raises(PrivacyError, match=r"Expected reserved events to become 'sent', got one that .* was given back"):
        ledger.sent(rest)
    ledger.sent(rest[1::2])
    ledger.sent(identifiers[:10])
    assert states_of(path) == {"sent": 75_000, "freed": 25_000}
    assert len(ledger.spent("client-3")) == 100
    assert len(ledger.spent("client-703")) == 50


@pytest.mark.parametrize(
    ("round_number", "allowed"),
    [(2, True), (3, False), (5, False), (7, False), (8, False), (10, False), (12, False), (13, True)],
)
def test_rounds_of_a_run_that_are_closer_than_the_separation_are_refused(
    ledger: Ledger, round_number: int, allowed: bool
) -> None:
    reserve(ledger, round_number=5)
    reserve(ledger, round_number=10)
    if allowed:
        reserve(ledger, round_number=round_number, min_separation=3)
    else:
        with pytest.raises(
            PolicyRefused, match=r"Expected at least 3 rounds between two participations in one run, got [0-2] "
        ):
            reserve(ledger, round_number=round_number, min_separation=3)
    assert len(ledger.spent("a")) == 2 + allowed


def test_the_separation_is_about_one_run_one_owner_and_what_was_not_given_back(ledger: Ledger) -> None:
    ledger.freed(reserve(ledger, round_number=5))
    reserve(ledger, round_number=5, purpose="evaluation")
    reserve(ledger, round_number=5, run="another", min_separation=3)
    reserve(ledger, round_number=5, owner="b", min_separation=3)
    reserve(ledger, round_number=5, min_separation=3)
    with pytest.raises(PolicyRefused, match=r"got 0 to round_number=5\. No data was read\. Ask this device again"):
        reserve(ledger, round_number=5, min_separation=3)
    reserve(ledger, round_number=5)


@pytest.mark.parametrize("days", [-40_000, -2, 2, 400_000])
def test_an_entry_of_a_clock_that_was_wrong_blocks_nothing_and_counts_like_any_other(
    ledger: Ledger, path: Path, days: int
) -> None:
    """The order of entries is that of their numbers; a time is for people."""
    reserve(ledger, OTHER)
    wrong = (datetime.now(UTC) + timedelta(days=days)).isoformat(timespec="microseconds")
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE events SET recorded_at = ?", (wrong,))
    connection.close()
    ledger.set_policy(Policy(epsilon=gaussian_epsilon([OTHER] * 2, 1e-5) + 0.05))
    before = datetime.now(UTC)
    reserve(ledger, OTHER)
    times = [entry["recorded_at"] for entry in ledger.export()["events"]]
    assert times[0] == wrong
    assert before <= datetime.fromisoformat(times[1]) <= datetime.now(UTC)
    assert ledger.spent("a") == [OTHER, OTHER]
    with pytest.raises(BudgetExceeded, match="Expected a plan that fits"):
        reserve(ledger, OTHER)


@pytest.mark.parametrize("run", ["", "r" * 101, "a run", "r\n", "r;", "r\u00e9", "../r", "r\x00"])
def test_a_runs_name_is_bounded_and_not_repeated(ledger: Ledger, run: str) -> None:
    """A server chooses it, and the ledger keeps it in every row."""
    with pytest.raises(PolicyRefused, match=r"Expected the run's name to be 1 to 100 letters, digits") as caught:
        reserve(ledger, run=run)
    assert str(caught.value).endswith(f"got another text of {len(run)}. No data was read. Give the run another name.")
    assert ledger.owners() == []
    reserve(ledger, run="Az9._-" + "r" * 94)


@pytest.mark.parametrize("round_number", [-1, 2**31, 2**70])
def test_a_round_number_is_bounded(ledger: Ledger, round_number: int) -> None:
    with pytest.raises(PolicyRefused, match=r"Expected 0 <= round_number <= 2147483647, got another\. No data was read"):
        reserve(ledger, round_number=round_number)
    assert ledger.owners() == []
    reserve(ledger, round_number=2**31 - 1)
