"""The tables of a ledger, and how a file of an earlier version becomes one of this version without losing an event.

What never lives here: opening, checking and locking the file (`file.py`), and what the rows mean (`rows.py`).
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

SCHEMA_VERSION = 3

# Bytes "TACL" in the file's header, so that a database of something else is not taken for a ledger.
_APPLICATION_ID = 0x5441434C
# NULL is what is not known yet; the first run fills it in. The identity tells this ledger from all others; it is random and
# leaves the file as a hash alone, for the mark beside it. The revision counts reservations and changed limits.
_BINDING = (
    """CREATE TABLE binding (
        only INTEGER PRIMARY KEY CHECK (only = 1),
        data_name TEXT,
        unit TEXT,
        relation TEXT,
        delta REAL,
        identity TEXT NOT NULL,
        revision INTEGER NOT NULL
    )""",
    "INSERT INTO binding (only, identity, revision) VALUES (1, new_identity(), 0)",
)
_SCHEMA = (
    *_BINDING,
    """CREATE TABLE policies (
        owner TEXT PRIMARY KEY,
        epsilon REAL,
        unit TEXT,
        l2_clip_norm_at_most REAL,
        noise_multiplier_at_least REAL,
        rounds_at_most INTEGER,
        delta_at_most REAL,
        mechanisms TEXT,
        adversary TEXT,
        corrupt_fraction_at_least REAL,
        dropout_fraction_at_most REAL
    )""",
    """CREATE TABLE events (
        id INTEGER PRIMARY KEY,
        owner TEXT NOT NULL,
        run TEXT NOT NULL,
        purpose TEXT NOT NULL,
        round_number INTEGER NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('reserved', 'sent', 'freed')),
        software TEXT NOT NULL,
        recorded_at TEXT NOT NULL,
        noise_multiplier REAL NOT NULL,
        sampling_rate REAL NOT NULL,
        steps INTEGER NOT NULL CHECK (steps >= 1),
        mechanism TEXT NOT NULL,
        sampling TEXT NOT NULL,
        sampled_by TEXT NOT NULL,
        population INTEGER NOT NULL,
        sample_cap INTEGER NOT NULL,
        l2_sensitivity REAL NOT NULL
    )""",
    "CREATE INDEX events_by_owner ON events (owner)",
    """CREATE TABLE faults (
        id INTEGER PRIMARY KEY,
        owner TEXT NOT NULL,
        run TEXT NOT NULL,
        round_number INTEGER NOT NULL,
        kind TEXT NOT NULL
    )""",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)

# Files without a version had this one table. All their events were Gaussian, drawn by the device, about users.
_FORMER_COLUMNS = [
    *("id", "owner", "run", "purpose", "round_number"),
    *("noise_multiplier", "sampling_rate", "steps", "state", "recorded_at"),
]
_FROM_UNVERSIONED = (
    "DROP INDEX IF EXISTS events_by_owner",
    "ALTER TABLE events RENAME TO former",
    *_SCHEMA,
    "UPDATE binding SET unit = 'user'",
    """INSERT INTO events SELECT id, owner, run, purpose, round_number, state, 'unknown',
        replace(recorded_at, ' ', 'T') || '.000000+00:00', noise_multiplier, sampling_rate, steps,
        'gaussian', 'poisson', 'device', 0, 0, 0.0 FROM former ORDER BY id""",
    "DROP TABLE former",
)
# Version 2 had no limits on what secure sums assume of a cohort.
_FROM_VERSION_2 = (
    "ALTER TABLE policies ADD COLUMN corrupt_fraction_at_least REAL",
    "ALTER TABLE policies ADD COLUMN dropout_fraction_at_most REAL",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
# Version 1 was bound to a digest of the data. It is dropped, and the next run gives the data their name; all events stay.
_FROM_VERSION_1 = (
    "ALTER TABLE binding RENAME TO former",
    *_BINDING,
    "UPDATE binding SET (unit, relation, delta) = (SELECT unit, relation, delta FROM former)",
    "DROP TABLE former",
    "ALTER TABLE policies ADD COLUMN mechanisms TEXT",
    "ALTER TABLE policies ADD COLUMN adversary TEXT",
    *_FROM_VERSION_2,
)


def version_of(connection: sqlite3.Connection) -> int | None:
    """The version of a ledger's schema; None where the database is of something else."""
    if _pragma(connection, "application_id") != _APPLICATION_ID:
        return None
    return _pragma(connection, "user_version")


def lay_out(connection: sqlite3.Connection) -> None:
    """Makes the tables of a ledger without events, with an identity of its own."""
    _execute(connection, _SCHEMA)


def _migration(connection: sqlite3.Connection) -> tuple[str, ...]:
    """What brings a file of an earlier version to this one; nothing where it is of this one, or no ledger."""
    version = (_pragma(connection, "application_id"), _pragma(connection, "user_version"))
    if version[0] == _APPLICATION_ID:
        return {1: _FROM_VERSION_1, 2: _FROM_VERSION_2}.get(version[1], ())
    columns = [row[1] for row in connection.execute("PRAGMA table_info(events)")]
    return _FROM_UNVERSIONED if version == (0, 0) and columns == _FORMER_COLUMNS else ()


def migrate(connection: sqlite3.Connection) -> None:
    """Brings a file of an earlier version to this one, in one transaction, and overwrites what it drops."""
    if not _migration(connection):
        return
    connection.execute("PRAGMA secure_delete = ON")
    connection.execute("BEGIN IMMEDIATE")
    with rolled_back_on_error(connection):
        _execute(connection, _migration(connection))  # still: another process may have been first
        connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # a log would keep what was dropped


def _execute(connection: sqlite3.Connection, statements: Iterable[str]) -> None:
    """Statements of a schema, in which `new_identity()` is a random one."""
    connection.create_function("new_identity", 0, lambda: secrets.token_hex(16))
    for statement in statements:
        connection.execute(statement)


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


@contextmanager
def rolled_back_on_error(connection: sqlite3.Connection) -> Iterator[None]:
    """A transaction that is under way when an error leaves the block is undone."""
    try:
        yield
    except BaseException:
        if connection.in_transaction:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        raise
