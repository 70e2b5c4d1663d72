"""The ledger that a device owns: every event that cost its users privacy, written down before data is read.

It stores events, never epsilons: an epsilon follows from all events together, and summing epsilons of unlike runs
overstates them (or understates, where somebody resets a counter). A round is *reserved* before any data is read, and counts
from then on; it is set free only by the process that reserved it, and only when nothing left the device. What a crash leaves
reserved counts as spent. SQLite in WAL mode with full synchronization: what `reserve` returned from is on the disk.

In a simulation one file holds the ledgers of all clients (`owner` tells them apart); on a node it holds one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from shared.errors import PrivacyError
from shared.privacy.events import Event

_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY,
    owner TEXT NOT NULL,
    run TEXT NOT NULL,
    purpose TEXT NOT NULL,
    round_number INTEGER NOT NULL,
    noise_multiplier REAL NOT NULL,
    sampling_rate REAL NOT NULL,
    steps INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('reserved', 'sent', 'freed')),
    recorded_at TEXT NOT NULL DEFAULT (datetime('now'))
);
CREATE INDEX IF NOT EXISTS events_by_owner ON events (owner, state);
"""


class Ledger:
    """The events of one or many owners in one SQLite file.

    Args:
        path: The file; missing parent folders are made.
        timeout_seconds: How long to wait for another process that is writing.

    Raises:
        PrivacyError: If the file cannot be opened or written, or is not a ledger. No data may be read then.
    """

    def __init__(self, path: Path, *, timeout_seconds: float = 30.0) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=timeout_seconds, isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.executescript(_SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise PrivacyError(
                f"The privacy ledger {path.name} cannot be used ({error}). No data was read. Restore it from a copy, or "
                "mend the disk; a ledger is never replaced silently."
            ) from None

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def reserve(self, owner: str, events: Sequence[Event], *, run: str, purpose: str, round_number: int) -> list[int]:
        """Records events before any data is read; they count as spent from now on.

        Returns:
            Identifiers for `sent` and `freed`.
        """
        with self._transaction() as connection:
            return [
                int(
                    connection.execute(
                        "INSERT INTO events (owner, run, purpose, round_number, noise_multiplier, sampling_rate, steps, "
                        "state) VALUES (?, ?, ?, ?, ?, ?, ?, 'reserved')",
                        (
                            owner,
                            run,
                            purpose,
                            round_number,
                            event.noise_multiplier,
                            event.sampling_rate,
                            event.steps,
                        ),
                    ).lastrowid
                    or 0
                )
                for event in events
            ]

    def sent(self, identifiers: Sequence[int]) -> None:
        """Marks reserved events as having left the device."""
        self._mark(identifiers, "sent")

    def freed(self, identifiers: Sequence[int]) -> None:
        """Gives reserved events back. Only when it is certain that nothing left the device."""
        self._mark(identifiers, "freed")

    def spent(self, owner: str) -> list[Event]:
        """Every event of an owner that was sent or may have been."""
        rows = self._read(
            "SELECT noise_multiplier, sampling_rate, steps FROM events WHERE owner = ? AND state != 'freed'",
            owner,
        )
        return [Event(*row) for row in rows]

    def owners(self) -> list[str]:
        """Everybody who has an event here."""
        return [str(row[0]) for row in self._read("SELECT DISTINCT owner FROM events ORDER BY owner")]

    def largest_spending(self) -> list[list[Event]]:
        """The distinct lists of events over all owners; an epsilon is the maximum over them."""
        distinct = {tuple(sorted(self.spent(owner))) for owner in self.owners()}
        return [list(events) for events in sorted(distinct)]

    def _read(self, query: str, *values: str) -> list[Any]:
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise PrivacyError(
                f"The privacy ledger {self.path.name} cannot be read ({error}). Nothing was released. "
                "Restore it from a copy; a ledger is never replaced silently."
            ) from None

    def _mark(self, identifiers: Sequence[int], state: str) -> None:
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE events SET state = ? WHERE id = ? AND state = 'reserved'",
                [(state, identifier) for identifier in identifiers],
            )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection
            self._connection.execute("COMMIT")
        except BaseException as error:
            if self._connection.in_transaction:
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
            if not isinstance(error, sqlite3.Error):
                raise
            raise PrivacyError(
                f"The privacy ledger {self.path.name} could not be written ({error}). Nothing was released. "
                "Free disk space or make the file writable."
            ) from None
