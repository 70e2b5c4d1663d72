"""What a ledger says to whoever looks at it: spendings, limits, epsilons, an export.

A simulation's file has a million owners: what is said about all of them is read some thousand owners at a time, each as it
is when its turn comes. What never lives here: anything that is written (`ledger.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any

from client.ledger.file import LedgerFile
from client.ledger.limits import EVERYONE, Binding, Policy
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
    kinds_of,
    policies_of,
)
from client.ledger.schema import SCHEMA_VERSION
from shared.errors import UnsupportedMechanism
from shared.privacy import accounting
from shared.privacy.events import Event, with_known_participation

BINDING = tuple(field.name for field in fields(Binding))

# Owners that are read at once.
_TOGETHER = 4096


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


class LedgerView:
    """What is in one file.

    Args:
        file: The file.
        binding: What the events are about, if that is known before it is read.
    """

    def __init__(self, file: LedgerFile, binding: Binding | None) -> None:
        self._file = file
        self._binding = binding

    @property
    def path(self) -> Path:
        """The file."""
        return self._file.path

    @property
    def binding(self) -> Binding | None:
        """What the events are about; None before the first run."""
        if self._binding is None:
            ((*values,),) = self._file.read(f"SELECT {', '.join(BINDING)} FROM binding")
            self._binding = None if None in values else Binding(*values)
        return self._binding

    def verify_newest(self) -> None:
        """Raises if the file is an older copy of the ledger that was here, so that what it says is too low.

        Raises:
            PrivacyError: If it is, or cannot be read.
        """
        self._file.verify_newest()

    def close(self) -> None:
        """Closes the file; using the ledger again opens it again."""
        self._file.close()

    def spent(self, owner: str) -> list[Event]:
        """Every event of an owner that was sent or may have been, in the order of their reservation."""
        query = f"SELECT {', '.join(EVENT)} FROM events WHERE owner = ? AND {COUNTS} ORDER BY id"
        return [Event(**dict(zip(EVENT, row, strict=True))) for row in self._file.read(query, owner)]

    def owners(self) -> list[str]:
        """Everybody who has an event here, freed ones included."""
        return [str(row[0]) for row in self._file.read("SELECT DISTINCT owner FROM events ORDER BY owner")]

    def kinds(self) -> set[str]:
        """The kinds of accounts that have an event here (`kind_of`), freed ones included; none where there is no file."""
        return kinds_of(str(row[0]) for row in self._file.read(ENDS_OF_KINDS)) if self.path.exists() else set()

    def has_run(self, run: str) -> bool:
        """Whether a run has an event here that counts."""
        return bool(self._file.read(f"SELECT EXISTS (SELECT 1 FROM events WHERE run = ? AND {COUNTS})", run)[0][0])

    def charged(self, run: str, purpose: str, round_number: int) -> bool:
        """Whether a contribution to a release of a run has an event here that counts."""
        query = f"SELECT EXISTS (SELECT 1 FROM events WHERE run = ? AND purpose = ? AND round_number = ? AND {COUNTS})"
        return bool(self._file.read(query, run, purpose, round_number)[0][0])

    def charged_for(self, run: str) -> set[Event]:
        """The kinds of events that any account was charged for in a run, each once, as one release."""
        rows = self._file.read(f"SELECT DISTINCT {RELEASE} FROM events WHERE run = ? AND {COUNTS}", run)
        return {event_of(row, 1) for row in rows}

    def number_of_owners(self) -> int:
        """How many have an event here, freed ones included."""
        return int(self._file.read("SELECT COUNT(*) FROM (SELECT DISTINCT owner FROM events)")[0][0])

    def accounts(self) -> Iterator[Account]:
        """What each owner spent, in the order of their names."""
        for first, last in self._parts():
            query = "SELECT owner, COUNT(*) FROM faults WHERE owner BETWEEN ? AND ? GROUP BY owner"
            faults = dict(self._file.read(query, first, last))
            for owner, rows in self._spendings(first, last):
                yield Account(
                    owner=owner,
                    spent=[event_of(row[3:], row[2]) for row in rows],
                    entries=sum(row[1] for row in rows),
                    faults=faults.get(owner, 0),
                )

    def largest_spending(self) -> list[list[Event]]:
        """The distinct lists of events over all owners, equal ones added up; an epsilon is the maximum over them."""
        distinct = {tuple(row[2:] for row in rows) for part in self._parts() for _, rows in self._spendings(*part)}
        return sorted([event_of(row[1:], row[0]) for row in rows] for rows in distinct)

    def _parts(self) -> Iterator[tuple[str, str]]:
        """First and last of each some thousand owners, in the order of their names."""
        last: str | None = None
        while True:
            after = "" if last is None else "WHERE owner > ?"
            query = f"SELECT DISTINCT owner FROM events {after} ORDER BY owner LIMIT {_TOGETHER}"
            owners = self._file.read(query, *([] if last is None else [last]))
            if not owners:
                return
            (first,), (last,) = owners[0], owners[-1]
            yield first, last

    def _spendings(self, first: str, last: str) -> Iterator[tuple[str, list[Any]]]:
        """By owner, rows of owner, number of entries, steps, release."""
        rows = self._file.read(
            f"SELECT owner, COUNT(*), SUM(steps), {RELEASE} FROM events WHERE owner BETWEEN ? AND ? AND {COUNTS} "
            f"GROUP BY owner, {RELEASE} ORDER BY owner, {RELEASE}",
            first,
            last,
        )
        return ((owner, list(found)) for owner, found in groupby(rows, key=lambda row: str(row[0])))

    def participations(self, owner: str, *, run: str) -> list[int]:
        """Rounds of a run in whose training the owner took part, or may have, ascending."""
        query = (
            "SELECT DISTINCT round_number FROM events WHERE owner = ? AND run = ? AND purpose = 'train' "
            f"AND {COUNTS} ORDER BY round_number"
        )
        return [int(row[0]) for row in self._file.read(query, owner, run)]

    def policy(self, owner: str) -> Policy:
        """The limits that hold for an owner: its own, or else its client's, or else everyone's."""
        rows = self._file.read(f"{POLICIES} WHERE owner IN (?, ?, ?)", owner, client_of(owner), EVERYONE)
        return effective(policies_of(rows), owner, none=Policy())

    def policies(self) -> dict[str, Policy]:
        """All limits that were set, by owner, `EVERYONE` among them."""
        return policies_of(self._file.read(f"{POLICIES} ORDER BY owner"))

    def faults(self, owner: str | None = None) -> int:
        """How many updates of an owner, or of all, could not be used. (private)"""
        return int(self._file.read("SELECT COUNT(*) FROM faults WHERE ? IS NULL OR owner = ?", owner, owner)[0][0])

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
        columns = ["id", *ENTRY, *EVENT]
        query = f"SELECT {', '.join(columns)} FROM events WHERE ? IS NULL OR owner = ? ORDER BY id"
        entries: list[dict[str, Any]] = []
        spent: dict[str, list[Event]] = {}
        for row in self._file.read(query, owner, owner):
            values = dict(zip(columns, row, strict=True))
            event = {name: values.pop(name) for name in EVENT}
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


def _bound(events: Sequence[Event], binding: Binding | None) -> float | None:
    if binding is None:
        return None
    try:
        epsilon = accounting.epsilon(events, delta=binding.delta, relation=binding.relation)
    except UnsupportedMechanism:
        return None
    return epsilon if math.isfinite(epsilon) else None
