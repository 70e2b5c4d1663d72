"""The ledger that a device owns: every event that cost its users privacy, written down before data is read.

It stores events, never epsilons: an epsilon follows from all events together, and summing epsilons of unlike runs
overstates them (or understates, where somebody resets a counter). A round is *reserved* before any data is read, and counts
from then on; it is set free only by the process that reserved it, and only when nothing left the device. What a crash leaves
reserved counts as spent. Events of all rounds, runs and software versions count together, and all are about the same data,
unit, relation and delta.

The owner of the device sets the limits (`policy.py`), never a server. Whether a limit is reached is computed as if everybody
knew when the device took part: it cannot verify that the server's sampling stayed secret.

On a node one file holds one ledger. In a simulation one file holds those of all clients; `owner` tells them apart. What
never lives here: files and disks (`ledger_file.py`), whether more fits (`budget.py`), the price of events (`accounting.py`).
"""

from __future__ import annotations

import math
import os
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from importlib import metadata
from itertools import groupby
from pathlib import Path
from typing import Any

from shared.errors import PolicyRefused, PrivacyError, UnsupportedMechanism
from shared.privacy import accounting
from shared.privacy.budget import Budget, Composition, composition
from shared.privacy.events import Event, with_known_participation
from shared.privacy.ledger_file import SCHEMA_VERSION, LedgerFile
from shared.privacy.policy import EVERYONE, Binding, Policy, Request

__all__ = ["EVERYONE", "Account", "Binding", "Ledger", "Policy", "Request"]

# How far the clock may lie behind the newest entry: a device that travels, or corrects its clock, is no reason to stop.
_CLOCK_TOLERANCE = timedelta(hours=24)

_EVENT = [field.name for field in fields(Event)]
_RELEASE = ", ".join(name for name in _EVENT if name != "steps")
_BINDING = [field.name for field in fields(Binding)]
_POLICY = [field.name for field in fields(Policy)]
_ENTRY = ["owner", "run", "purpose", "round_number", "state", "software", "recorded_at"]
_POLICIES = f"SELECT owner, {', '.join(_POLICY)} FROM policies"
_POLICIES_OF = f"{_POLICIES} WHERE owner IN (?, ?, ?)"
_COUNTS = "state != 'freed'"


@dataclass(frozen=True)
class Account:
    """What one owner spent.

    Attributes:
        owner: Whose ledger.
        spent: The events that count, steps of equal ones added up.
        entries: Number of events that count, before they were added up.
        faults: Number of updates that could not be used. (private)
    """

    owner: str
    spent: list[Event]
    entries: int
    faults: int


class Ledger:
    """The events of one or many owners in one file. Safe between processes and threads, and across forks.

    Args:
        path: The file.
        binding: What the events of this run are about. A new file, and its missing parent folders, are made and bound to it;
            an old file must agree. None opens an existing ledger, to look at it or to set limits.
        timeout_seconds: How long to wait for another process that is writing.

    Raises:
        PrivacyError: If the file cannot be used, is not a ledger, or is about something else. No data may be read then.
    """

    def __init__(self, path: Path, *, binding: Binding | None = None, timeout_seconds: float = 30.0) -> None:
        self._file = LedgerFile(path, timeout_seconds=timeout_seconds)
        self._binding = binding
        self._budget = Budget(binding) if binding is not None else None
        # By process: a child of a fork did not reserve what its parent did.
        self._reserved: set[tuple[int, int]] = set()
        if binding is not None:
            self._file.create()
            self._bind(binding)
        elif path.exists():
            self._file.open()

    @property
    def path(self) -> Path:
        """The file."""
        return self._file.path

    @property
    def binding(self) -> Binding | None:
        """What the events are about; None before the first run."""
        if self._binding is None:
            ((*values,),) = self._file.read(f"SELECT {', '.join(_BINDING)} FROM binding")
            self._binding = None if None in values else Binding(*values)
        return self._binding

    def close(self) -> None:
        """Closes the file; using the ledger again opens it again."""
        self._file.close()

    def reserve(
        self,
        owner: str,
        events: Sequence[Event],
        *,
        run: str,
        purpose: str,
        round_number: int,
        request: Request | None = None,
        planned: Sequence[Event] = (),
        min_separation: int = 0,
    ) -> list[int]:
        """Records events before any data is read; they count as spent from now on.

        Guarantee:
            When this returns, the events are on the disk, and whatever kills the process later does not take them away.
            Together with all that was spent, by any process, they stay within the owner's limits at the time.

        Args:
            owner: Whose ledger. (public)
            events: What is going to be released. Without events nothing is recorded, but the policy is checked. (public)
            run: Name or digest of the run. (public)
            purpose: "train", or what else is released. (public)
            round_number: From 1; 0 for what is released before the first round. (public)
            request: What the plan asks of the device. (public)
            planned: All events of the whole run, these included. Where they fit as a whole, later rounds of the run need
                no computation of an epsilon. (public)
            min_separation: Rounds that must lie between two participations in the training of a run. (public)

        Returns:
            Identifiers for `sent` and `freed`.

        Raises:
            PolicyRefused: If the plan asks for more than the owner allows, or for a round too close to another.
            BudgetExceeded: If the events do not fit the owner's limit.
            PrivacyError: If the ledger cannot be written, or the clock went backwards by more than a day.
        """
        if self._budget is None or owner == EVERYONE:
            raise PrivacyError(
                f"Expected a ledger that was opened with a binding, and an owner other than '{EVERYONE}', got another. No "
                "data was read. Say what the events are about, and whose they are."
            )
        for event in events:
            _verify(event)
        with self._file.transaction("No data was read.") as connection:
            policy = _effective(connection.execute(_POLICIES_OF, (owner, _client(owner), EVERYONE)).fetchall(), owner)
            policy.verify(request)
            if request is not None:
                request.verify_about(self._budget.binding)
            if policy.epsilon is not None:
                others, of_run = _spending(connection, owner, run)
                self._budget.verify(
                    composition(events), others=others, of_run=of_run, planned=composition(planned), limit=policy.epsilon
                )
            _verify_separation(connection, owner, run, round_number, min_separation)
            entry = (owner, run, purpose, round_number, "reserved", _software(), _time(connection))
            identifiers = [_insert(connection, entry, event) for event in events]
        self._reserved.update((os.getpid(), identifier) for identifier in identifiers)
        return identifiers

    def sent(self, identifiers: Sequence[int]) -> None:
        """Marks reserved events as having left the device, for good. Call it before anything leaves.

        Raises:
            PrivacyError: If one was given back before, or never reserved: nothing may leave then.
        """
        self._mark(identifiers, "sent", "state IN ('reserved', 'sent')")

    def freed(self, identifiers: Sequence[int]) -> None:
        """Gives reserved events back. Only when it is certain that nothing left the device.

        Guarantee:
            What was sent, and what another process reserved (also one that was killed), is never given back.

        Raises:
            PrivacyError: If one was not reserved by this object in this process, or was sent.
        """
        if not {(os.getpid(), identifier) for identifier in identifiers} <= self._reserved:
            raise PrivacyError(
                "Expected events that this process reserved and did not send, got others. They stay spent; only who "
                "reserved an event can know that nothing left."
            )
        self._mark(identifiers, "freed", "state = 'reserved'")

    def spent(self, owner: str) -> list[Event]:
        """Every event of an owner that was sent or may have been, in the order of their reservation."""
        query = f"SELECT {', '.join(_EVENT)} FROM events WHERE owner = ? AND {_COUNTS} ORDER BY id"
        return [Event(**dict(zip(_EVENT, row, strict=True))) for row in self._file.read(query, owner)]

    def owners(self) -> list[str]:
        """Everybody who has an event here, freed ones included."""
        return [str(row[0]) for row in self._file.read("SELECT DISTINCT owner FROM events ORDER BY owner")]

    def accounts_of(self, client: str) -> list[str]:
        """The owners that are a client or a group of its users, `client/...`."""
        query = "SELECT DISTINCT owner FROM events WHERE owner = ? OR (owner > ? AND owner < ?) ORDER BY owner"
        return [str(row[0]) for row in self._file.read(query, client, f"{client}/", f"{client}0")]  # "0" follows "/"

    def accounts(self) -> list[Account]:
        """What each owner spent, in the order of their names; with two queries, however many there are."""
        faults = dict(self._file.read("SELECT owner, COUNT(*) FROM faults GROUP BY owner"))
        rows = self._file.read(
            f"SELECT owner, COUNT(*), SUM(steps), {_RELEASE} FROM events WHERE {_COUNTS} "
            f"GROUP BY owner, {_RELEASE} ORDER BY owner, {_RELEASE}"
        )
        by_owner = ((owner, list(found)) for owner, found in groupby(rows, key=lambda row: str(row[0])))
        return [
            Account(
                owner=owner,
                spent=[_event(row[3:], row[2]) for row in found],
                entries=sum(row[1] for row in found),
                faults=faults.get(owner, 0),
            )
            for owner, found in by_owner
        ]

    def largest_spending(self) -> list[list[Event]]:
        """The distinct lists of events over all owners, equal ones added up; an epsilon is the maximum over them."""
        return [list(events) for events in sorted({tuple(account.spent) for account in self.accounts()})]

    def participations(self, owner: str, *, run: str) -> list[int]:
        """Rounds of a run in whose training the owner took part, or may have, ascending."""
        query = (
            "SELECT DISTINCT round_number FROM events WHERE owner = ? AND run = ? AND purpose = 'train' "
            f"AND {_COUNTS} ORDER BY round_number"
        )
        return [int(row[0]) for row in self._file.read(query, owner, run)]

    def policy(self, owner: str) -> Policy:
        """The limits that hold for an owner: its own, or else its client's, or else everyone's."""
        return _effective(self._file.read(_POLICIES_OF, owner, _client(owner), EVERYONE), owner)

    def policies(self) -> dict[str, Policy]:
        """All limits that were set, by owner, `EVERYONE` among them."""
        return {str(row[0]): Policy(*row[1:]) for row in self._file.read(f"{_POLICIES} ORDER BY owner")}

    def set_policy(self, policy: Policy | None, owner: str = EVERYONE) -> None:
        """Sets the limits of one owner, or those of everyone who has none of its own. Only the owner of the device does.

        Args:
            policy: In place of the former limits; None takes them away, so that an owner follows everyone's again.
            owner: Whose.
        """
        self._file.create()
        with self._file.transaction("The limits are what they were.") as connection:
            connection.execute("DELETE FROM policies WHERE owner = ?", (owner,))
            if policy is not None:
                values = (owner, *(getattr(policy, name) for name in _POLICY))
                connection.execute(f"INSERT INTO policies (owner, {', '.join(_POLICY)}) VALUES ({_marks(values)})", values)

    def record_fault(self, owner: str, *, run: str, round_number: int, kind: str) -> None:
        """Counts an update that could not be used and was replaced by zero before noise.

        Guarantee:
            The count stays on the device: it is in no message and no export. That it cannot be written is passed over in
            silence, because an error would tell others that this device's update was faulty.

        Args:
            owner: Whose update. (public)
            run: Name or digest of the run. (public)
            round_number: Of the update. (public)
            kind: What was wrong, in a word. (private)
        """
        try:
            with self._file.transaction_without_sync("The fault was not counted.") as connection:
                connection.execute(
                    "INSERT INTO faults (owner, run, round_number, kind) VALUES (?, ?, ?, ?)",
                    (owner, run, round_number, kind),
                )
        except PrivacyError:
            return

    def faults(self, owner: str) -> int:
        """How many updates of an owner could not be used."""
        return int(self._file.read("SELECT COUNT(*) FROM faults WHERE owner = ?", owner)[0][0])

    def epsilons(self, events: Sequence[Event]) -> dict[str, float | None]:
        """Two upper bounds on epsilon, at the ledger's delta and relation.

        Returns:
            `known_participation`: for somebody who knows when the device took part; what limits hold for. `as_recorded`: for
            everybody else, if sampling was done as recorded and stayed secret. None where no finite bound is known.
        """
        binding = self.binding
        return {
            "known_participation": _bound(with_known_participation(events), binding),
            "as_recorded": _bound(events, binding),
        }

    def export(self, owner: str | None = None) -> dict[str, Any]:
        """All that the ledger says about one owner or all of them, ready for JSON. Faults stay on the device."""
        columns = ["id", *_ENTRY, *_EVENT]
        query = f"SELECT {', '.join(columns)} FROM events WHERE ? IS NULL OR owner = ? ORDER BY id"
        entries: list[dict[str, Any]] = []
        spent: dict[str, list[Event]] = {}
        for row in self._file.read(query, owner, owner):
            values = dict(zip(columns, row, strict=True))
            event = {name: values.pop(name) for name in _EVENT}
            entries.append({**values, "event": event})
            spent.setdefault(values["owner"], []).extend([Event(**event)] * (values["state"] != "freed"))
        binding = self.binding
        return {
            "schema": {"name": "tacit-privacy-ledger", "version": SCHEMA_VERSION},
            "binding": None if binding is None else asdict(binding),
            "policies": {
                name: asdict(policy)
                for name, policy in self.policies().items()
                if owner is None or name in {owner, EVERYONE}
            },
            "epsilons": {name: self.epsilons(events) for name, events in spent.items()},
            "events": entries,
        }

    def _bind(self, binding: Binding) -> None:
        """Compares with what the file is bound to, and writes down what it does not say yet."""
        with self._file.transaction("No data was read.") as connection:
            row = connection.execute(f"SELECT {', '.join(_BINDING)} FROM binding").fetchone()
            known = {name: value for name, value in zip(_BINDING, row, strict=True) if value is not None}
            binding.verify_same(replace(binding, **known))
            assignments = ", ".join(f"{name} = ?" for name in _BINDING)
            connection.execute(f"UPDATE binding SET {assignments}", tuple(asdict(binding).values()))

    def _mark(self, identifiers: Sequence[int], state: str, condition: str) -> None:
        if not identifiers:
            return
        # Without a sync: when the power fails, events are reserved again, which counts the same or more, and for good.
        consequence = "Nothing was released, and what was reserved counts as spent."
        with self._file.transaction_without_sync(consequence) as connection:
            for identifier in identifiers:
                changed = connection.execute(
                    f"UPDATE events SET state = ? WHERE id = ? AND {condition}", (state, identifier)
                )
                if changed.rowcount != 1:
                    raise PrivacyError(
                        f"Expected reserved events to become '{state}', got one that was never reserved, or was given back "
                        "or sent before. Nothing was released. Reserve the events again."
                    )
        self._reserved.difference_update((os.getpid(), identifier) for identifier in identifiers)


def _verify(event: Event) -> None:
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


def _verify_separation(connection: sqlite3.Connection, owner: str, run: str, round_number: int, min_separation: int) -> None:
    if min_separation <= 0:
        return
    query = f"SELECT MIN(ABS(round_number - ?)) FROM events WHERE owner = ? AND run = ? AND purpose = 'train' AND {_COUNTS}"
    (gap,) = connection.execute(query, (round_number, owner, run)).fetchone()
    if gap is not None and gap < min_separation:
        raise PolicyRefused(
            f"Expected at least {min_separation} rounds between two participations in one run, got {gap} to round_number="
            f"{round_number}. No data was read. Ask this device again in a later round."
        )


def _spending(connection: sqlite3.Connection, owner: str, run: str) -> tuple[Composition, Composition]:
    """What other runs spent, and what this one did."""
    query = f"SELECT run = ?, SUM(steps), {_RELEASE} FROM events WHERE owner = ? AND {_COUNTS} GROUP BY run = ?, {_RELEASE}"
    rows = connection.execute(query, (run, owner, run)).fetchall()
    others, of_run = (composition(_event(row[2:], row[1]) for row in rows if row[0] == same) for same in (0, 1))
    return others, of_run


def _insert(connection: sqlite3.Connection, entry: Sequence[Any], event: Event) -> int:
    columns, values = [*_ENTRY, *_EVENT], [*entry, *(getattr(event, name) for name in _EVENT)]
    query = f"INSERT INTO events ({', '.join(columns)}) VALUES ({_marks(values)})"
    return int(connection.execute(query, values).lastrowid or 0)


def _event(release: Sequence[Any], steps: int) -> Event:
    names = (name for name in _EVENT if name != "steps")
    return Event(**dict(zip(names, release, strict=True)), steps=steps)


def _time(connection: sqlite3.Connection) -> str:
    """Now, in UTC; the time of the newest entry where the clock lies a little behind it."""
    now = datetime.now(UTC)
    row = connection.execute("SELECT recorded_at FROM events ORDER BY id DESC LIMIT 1").fetchone()
    newest = now if row is None else datetime.fromisoformat(row[0])
    if newest - now > _CLOCK_TOLERANCE:
        raise PrivacyError(
            f"Expected the clock of this device to be at most 24 hours behind its ledger's newest entry, got "
            f"{(newest - now).total_seconds() / 3600:.0f} hours. No data was read. Set the clock."
        )
    return max(newest, now).isoformat(timespec="microseconds")


def _effective(rows: Sequence[Sequence[Any]], owner: str) -> Policy:
    found = {row[0]: Policy(*row[1:]) for row in rows}
    return found.get(owner, found.get(_client(owner), found.get(EVERYONE, Policy())))


def _client(owner: str) -> str:
    """Whose the account of a group of users is: the limits of `client-3` hold for `client-3/group-0-of-8` too."""
    return owner.partition("/")[0]


def _bound(events: Sequence[Event], binding: Binding | None) -> float | None:
    if binding is None:
        return None
    try:
        epsilon = accounting.epsilon(events, delta=binding.delta, relation=binding.relation)
    except UnsupportedMechanism:
        return None
    return epsilon if math.isfinite(epsilon) else None


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))


@lru_cache(maxsize=1)
def _software() -> str:
    try:
        return f"tacit {metadata.version('tacit')}"
    except metadata.PackageNotFoundError:
        return "unknown"
