"""Many clients' reservations in one transaction: every check of every client, then the rows of those who passed.

On a device the many are one. A simulation asks a whole cohort, and a statement a client would cost more than all the rest:
here each statement looks at thousands of clients, and what follows from equal events, limits and spendings is computed once.
Each client is judged as if it were asked alone, after those before it.

What never lives here: the transaction and the file (`ledger.py`, `file.py`), or whether more fits (`costs.py`).
"""

from __future__ import annotations

import json
import math
import re
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from importlib import metadata
from typing import Any

from client.ledger.costs import Budget, Composition, composition
from client.ledger.limits import EVERYONE, Policy, Request
from client.ledger.rows import (
    COUNTS,
    ENDS_OF_KINDS,
    ENTRY,
    EVENT,
    POLICIES,
    RELEASE,
    client_of,
    effective,
    event_of,
    kind_of,
    kinds_of,
    policies_of,
)
from shared.errors import PolicyRefused, PrivacyError, TacitError
from shared.privacy.events import Event

# A server chooses the name of a run, and the ledger keeps it in every row.
_RUN = re.compile(r"[A-Za-z0-9._-]{1,100}")
_LARGEST_ROUND = 2**31 - 1
# Clients that one statement looks at; more would take memory and save no time.
_TOGETHER = 8192
_NO_POLICY = Policy()
_json = json.JSONEncoder(ensure_ascii=False).encode

# In each of these ?1 is a JSON array of owners, or an object by owner. CROSS JOIN has SQLite look each of them up in the
# index, where it might otherwise read all events.
_OTHER_ACCOUNTS = """
    SELECT asked.key FROM json_each(?1) AS asked WHERE EXISTS (
        SELECT 1 FROM events WHERE owner >= asked.key || '/' AND owner < asked.key || '0'  -- "0" follows "/"
        AND (asked.value = '' OR substr(owner, -length(asked.value)) != asked.value)
    ) OR asked.value != '' AND EXISTS (SELECT 1 FROM events WHERE owner = asked.key)"""
_TOO_CLOSE = f"""
    SELECT asked.value, MIN(ABS(round_number - ?3)) AS gap FROM json_each(?1) AS asked
    CROSS JOIN events ON owner = asked.value WHERE run = ?2 AND purpose = 'train' AND {COUNTS}
    GROUP BY asked.key HAVING gap < ?4"""
_SPENT = f"""
    SELECT asked.value, run = ?2, SUM(steps), {RELEASE} FROM json_each(?1) AS asked
    CROSS JOIN events ON owner = asked.value WHERE {COUNTS} GROUP BY asked.key, run = ?2, {RELEASE}"""
_COLUMNS = [name for name in (*ENTRY, *EVENT) if name != "owner"]
_INSERT = f"""
    INSERT INTO events (id, owner, {", ".join(_COLUMNS)})
    SELECT key, value, {", ".join(f"?{number}" for number in range(2, len(_COLUMNS) + 2))} FROM json_each(?1)"""


@dataclass(frozen=True, slots=True)
class Spending:
    """What one message asks of one account: of a client, or under DP-FTRL of a group of its users.

    Attributes:
        owner: Whose account: `client-3`, `client-3/group-0-of-8`, `user-` and a hash of the user's id, or `value-` and
            hashes of an attribute and of the silo's value. (as private as the id or the value where it is named by one)
        events: What this message releases. (public)
        planned: What the whole run asks of this account, these included; all of it has to fit. (public)
    """

    owner: str
    events: Sequence[Event]
    planned: Sequence[Event] = ()


@dataclass(frozen=True)
class Message:
    """What all clients of a transaction are asked; see `Ledger.reserve_all`. All of it is public.

    Raises:
        PolicyRefused: If the run's name or the round number is out of bounds; a server chooses both.
    """

    run: str
    purpose: str
    round_number: int
    request: Request | None
    min_separation: int

    def __post_init__(self) -> None:
        if not _RUN.fullmatch(self.run):
            raise PolicyRefused(
                "Expected the run's name to be 1 to 100 letters, digits, dots, hyphens and underscores, got another text of "
                f"{len(self.run)}. No data was read. Give the run another name."
            )
        if not 0 <= self.round_number <= _LARGEST_ROUND:
            raise PolicyRefused(
                f"Expected 0 <= round_number <= {_LARGEST_ROUND}, got another. No data was read. Number rounds from 1."
            )


class Reservations:
    """The reservations of one transaction.

    Args:
        connection: In a transaction beside which nobody else writes.
        budget: Limits on epsilon.
        message: What is asked.
    """

    def __init__(self, connection: sqlite3.Connection, budget: Budget, message: Message) -> None:
        self._connection, self._budget, self._message = connection, budget, message
        policies = policies_of(connection.execute(POLICIES))
        self._limits = {owner: _Limits.of(policy, message.request, budget) for owner, policy in policies.items()}
        self._no_limits = _Limits.of(_NO_POLICY, message.request, budget)
        self._kinds: dict[tuple[tuple[Event, ...], tuple[Event, ...]], _Kind] = {}
        # The order of entries is that of their identifiers. The time is for people: a clock that was wrong once, in either
        # direction, changes no spending and refuses nothing.
        time = datetime.now(UTC).isoformat(timespec="microseconds")
        self._entry = (message.run, message.purpose, message.round_number, "reserved", _software(), time)
        self._limited_kinds = kinds_of(policies)
        self._held_kinds: set[str] | None = None
        ((newest,),) = connection.execute("SELECT MAX(id) FROM events")
        self.first = self.stop = (newest or 0) + 1

    def of(self, clients: Sequence[Sequence[Spending]]) -> list[list[int] | TacitError]:
        """Reserves each client whole or not at all; says the identifiers of its events, or why there are none."""
        return [outcome for group in _groups(clients) for outcome in self._of_group(group)]

    def _of_group(self, group: Mapping[str, Sequence[Spending]]) -> list[list[int] | TacitError]:
        known = self._known(group)
        outcomes: list[list[int] | TacitError] = []
        for client, spendings in group.items():
            try:
                kinds = self._verified(client, spendings, known)
            except (PolicyRefused, PrivacyError) as error:
                # Without its frames: they hold the connection.
                outcomes.append(error.with_traceback(None))
                continue
            start = self.stop
            for spending, kind in zip(spendings, kinds, strict=True):
                self.stop = kind.put(spending.owner, self.stop)
            if self.stop > start and self._held_kinds is not None:
                self._held_kinds.add(kind_of(client))
            outcomes.append(list(range(start, self.stop)))
        for kind in self._kinds.values():
            kind.write(self._connection, self._entry)
        return outcomes

    def _verified(self, client: str, spendings: Sequence[Spending], known: _Known) -> list[_Kind]:
        """What each account spends; raises unless all of them may."""
        _verify_accounts(client, spendings)
        kinds = [self._kind(spending) for spending in spendings]
        if client in known.elsewhere:
            raise _other_accounts(spendings)
        self._verify_kind(kind_of(client))
        for spending, kind in zip(spendings, kinds, strict=True):
            owner = spending.owner
            limits = known.limits[owner]
            if limits.refusal is not None:
                raise limits.refusal
            if limits.epsilon is not None:
                kind.verify_fits(self._budget, known.spent.get(owner, ()), limits.epsilon)
            if owner in known.too_close:
                raise _too_close(self._message, known.too_close[owner])
        return kinds

    def _verify_kind(self, kind: str) -> None:
        """Raises where an account of another kind has events, or has limits, which would guard nobody."""
        if not kind:
            return
        if self._held_kinds is None:
            self._held_kinds = kinds_of(row[0] for row in self._connection.execute(ENDS_OF_KINDS))
        if self._held_kinds - {kind, ""}:
            raise _other_kind()
        if self._limited_kinds - {kind}:
            raise _limits_of_other_kind()

    def _kind(self, spending: Spending) -> _Kind:
        key = (tuple(spending.events), tuple(spending.planned))
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = _Kind(*key)
        return kind

    def _known(self, group: Mapping[str, Sequence[Spending]]) -> _Known:
        """What the file says about some thousand clients."""
        read, message = self._connection.execute, self._message
        divisions = {client: _division(spendings[0].owner) for client, spendings in group.items() if spendings}
        elsewhere = {row[0] for row in read(_OTHER_ACCOUNTS, (_json(divisions),))}
        owners = [spending.owner for spendings in group.values() for spending in spendings]
        limits = {owner: effective(self._limits, owner, none=self._no_limits) for owner in owners}
        spent: dict[str, _Spent] = {}
        if limited := [owner for owner in owners if limits[owner].epsilon is not None]:
            for row in read(_SPENT, (_json(limited), message.run)):
                spent[row[0]] = (*spent.get(row[0], ()), row[1:])
        too_close: dict[str, int] = {}
        if message.min_separation > 0:
            asked = (_json(owners), message.run, message.round_number, message.min_separation)
            too_close.update(read(_TOO_CLOSE, asked).fetchall())
        return _Known(elsewhere, limits, spent, too_close)


@dataclass(frozen=True)
class _Limits:
    """What an owner's policy means for a message: a limit on epsilon, and the refusal of what it asks besides."""

    epsilon: float | None
    refusal: TacitError | None

    @classmethod
    def of(cls, policy: Policy, request: Request | None, budget: Budget) -> _Limits:
        try:
            policy.verify(request)
            if request is not None:
                request.verify_about(budget.binding)
        except (PolicyRefused, PrivacyError) as error:
            return cls(policy.epsilon, error)
        return cls(policy.epsilon, None)


# Rows of `_SPENT` without the owner: whether the run is this one, steps, release.
_Spent = tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class _Known:
    """What the file says about some clients.

    Attributes:
        elsewhere: Clients whose users have accounts that are divided in another way: neither would say what they spent.
        limits: By owner.
        spent: By owner, where it has a limit on epsilon and spent anything.
        too_close: Rounds to the nearest participation in the run's training, of owners for whom that is not enough.
    """

    elsewhere: Collection[str]
    limits: Mapping[str, _Limits]
    spent: Mapping[str, _Spent]
    too_close: Mapping[str, int]


class _Kind:
    """Spendings of equal events and plans: what follows from these is computed once.

    Raises:
        PrivacyError: If an event has no meaning.
    """

    def __init__(self, events: tuple[Event, ...], planned: tuple[Event, ...]) -> None:
        for event in events:
            _verify_event(event)
        self._events, self._requested, self._planned = events, _composition_of(events), _composition_of(planned)
        self._refusals: dict[tuple[_Spent, float], PrivacyError | None] = {}
        # For each event its owners, by identifier.
        self._rows: list[dict[int, str]] = [{} for _ in events]

    def verify_fits(self, budget: Budget, spent: _Spent, limit: float) -> None:
        """Raises unless the events, and all that the run plans, fit beside what was spent."""
        key = (spent, limit)
        if key not in self._refusals:
            self._refusals[key] = self._refusal(budget, spent, limit)
        refusal = self._refusals[key]
        if refusal is not None:
            raise refusal

    def _refusal(self, budget: Budget, spent: _Spent, limit: float) -> PrivacyError | None:
        others, of_run = Composition(), Composition()
        for of_this_run, steps, *release in spent:
            (of_run if of_this_run else others)[_release(tuple(release))] += steps
        try:
            budget.verify(self._requested, others=others, of_run=of_run, planned=self._planned, limit=limit)
        except PrivacyError as error:
            return error
        return None

    def put(self, owner: str, identifier: int) -> int:
        """Notes an owner's events, from an identifier on; returns the next identifier."""
        for rows in self._rows:
            rows[identifier] = owner
            identifier += 1
        return identifier

    def write(self, connection: sqlite3.Connection, entry: Sequence[str | int]) -> None:
        """Inserts what was noted."""
        for event, rows in zip(self._events, self._rows, strict=True):
            if rows:
                connection.execute(_INSERT, (_json(rows), *entry, *(getattr(event, name) for name in EVENT)))
                rows.clear()


def _groups(clients: Sequence[Sequence[Spending]]) -> Iterator[dict[str, Sequence[Spending]]]:
    """Clients in their order, as many as one statement may look at: none twice, as the second has to see the first."""
    group: dict[str, Sequence[Spending]] = {}
    for spendings in clients:
        client = client_of(spendings[0].owner) if spendings else ""
        if client in group or len(group) == _TOGETHER:
            yield group
            group = {}
        group[client] = spendings
    yield group


def _verify_accounts(client: str, spendings: Sequence[Spending]) -> None:
    if client == EVERYONE:
        raise PrivacyError(
            f"Expected an owner other than '{EVERYONE}', got that. No data was read. Say whose the events are."
        )
    if len(spendings) == 1:
        return
    owners = [spending.owner for spending in spendings]
    whose = {(client_of(owner), _division(owner)) for owner in owners}
    if not owners or len(whose) > 1 or len(set(owners)) < len(owners):
        raise PrivacyError(
            f"Expected one or more accounts of one client, all different and divided in the same way, got another list of "
            f"{len(owners)}. No data was read. Reserve for each client by itself, and name each account once."
        )


def _division(owner: str) -> str:
    """How a client's users are divided into accounts: the end that the names of all its accounts have in common.

    Empty for a client as a whole, `-of-8` for a group of eight.
    """
    _, slash, group = owner.partition("/")
    if not slash:
        return ""
    _, of, number = group.rpartition("-of-")
    return of + number if of else slash + group


def _other_accounts(spendings: Sequence[Spending]) -> PrivacyError:
    how = "groups of this kind" if _division(spendings[0].owner) else "one account"
    return PrivacyError(
        f"Expected a ledger that accounts for this client's users in {how}, found other accounts of theirs. No data was "
        "read. A new ledger would forget what these users spent: use the mechanism and the separation of the earlier runs."
    )


def _other_kind() -> PrivacyError:
    return PrivacyError(
        "Expected a ledger whose accounts are of the same kind, of users, of silos by number or of an attribute's values, "
        "found another kind. No data was read. It cannot say what these users spent: use federation.clients, "
        "federation.sizes and federation.attribute of the earlier runs, and their version if it named accounts in another "
        "way."
    )


def _limits_of_other_kind() -> PrivacyError:
    return PrivacyError(
        "Expected limits of everyone or of accounts of the same kind as those that are charged, found limits of an account "
        "of another kind. No data was read. They would guard nobody: `tacit node budget export` says whose they are, and "
        "`tacit node budget set-limit --clear --owner NAME` takes them away; then limit the account that is charged."
    )


def _too_close(message: Message, gap: int) -> PolicyRefused:
    return PolicyRefused(
        f"Expected at least {message.min_separation} rounds between two participations in one run, got {gap} to "
        f"round_number={message.round_number}. No data was read. Ask this device again in a later round."
    )


def _verify_event(event: Event) -> None:
    ranges = {
        "noise_multiplier": ("noise_multiplier > 0 and finite", 0 < event.noise_multiplier < math.inf),
        "sampling_rate": ("0 < sampling_rate <= 1", 0 < event.sampling_rate <= 1),
        "steps": ("1 <= steps < 2**32", 1 <= event.steps < 2**32),
    }
    for name, (relation, holds) in ranges.items():
        if not holds:
            raise PrivacyError(
                f"Expected an event with {relation}, got {name}={getattr(event, name)}. No data was read. Use another plan."
            )


@lru_cache(maxsize=64)
def _composition_of(events: tuple[Event, ...]) -> Composition:
    """What a run asks in one round it asks in the next. Nobody may change the result."""
    return composition(events)


@lru_cache(maxsize=1024)
def _release(release: tuple[Any, ...]) -> Event:
    """One release as a composition counts it."""
    (counted,) = composition([event_of(release, steps=1)])
    return counted


@lru_cache(maxsize=1)
def _software() -> str:
    try:
        return f"tacit {metadata.version('tacit')}"
    except metadata.PackageNotFoundError:
        return "unknown"
