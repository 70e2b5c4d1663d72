"""Ledgers of earlier versions are taken over without losing an event."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from client.ledger.ledger import Ledger, Policy
from shared.errors import PrivacyError
from tests.ledgers import BINDING, EVENT, OTHER, reserve


def test_a_ledger_without_a_version_is_taken_over_with_all_that_was_spent(path: Path) -> None:
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
    with pytest.raises(PrivacyError, match="Expected a plan with the unit of the privacy ledger"):  # it was about users
        Ledger(path, binding=replace(BINDING, unit="window"))
    ledger = Ledger(path, binding=BINDING)
    reserve(ledger, OTHER)
    entries = ledger.export()["events"]
    assert [entry["state"] for entry in entries] == ["sent", "freed", "reserved", "reserved"]
    assert entries[0]["recorded_at"] == "2025-01-02T03:04:05.000000+00:00"
    assert entries[0]["software"] == "unknown"


_DIGEST = "0123456789abcdef" * 4
_VERSION_1 = f"""
    CREATE TABLE binding (
        only INTEGER PRIMARY KEY CHECK (only = 1), dataset TEXT, unit TEXT, relation TEXT, delta REAL);
    INSERT INTO binding VALUES (1, '{_DIGEST}', 'user', 'add-or-remove-one', 1e-5);
    CREATE TABLE policies (
        owner TEXT PRIMARY KEY, epsilon REAL, unit TEXT, l2_clip_norm_at_most REAL, noise_multiplier_at_least REAL,
        rounds_at_most INTEGER, delta_at_most REAL);
    INSERT INTO policies VALUES ('*', 8.0, 'user', 0.5, 1.25, 100, 1e-4), ('b', NULL, NULL, NULL, NULL, 7, NULL);
    CREATE TABLE events (
        id INTEGER PRIMARY KEY, owner TEXT NOT NULL, run TEXT NOT NULL, purpose TEXT NOT NULL,
        round_number INTEGER NOT NULL, state TEXT NOT NULL CHECK (state IN ('reserved', 'sent', 'freed')),
        software TEXT NOT NULL, recorded_at TEXT NOT NULL, noise_multiplier REAL NOT NULL, sampling_rate REAL NOT NULL,
        steps INTEGER NOT NULL CHECK (steps >= 1), mechanism TEXT NOT NULL, sampling TEXT NOT NULL,
        sampled_by TEXT NOT NULL, population INTEGER NOT NULL, sample_cap INTEGER NOT NULL, l2_sensitivity REAL NOT NULL);
    CREATE INDEX events_by_owner ON events (owner);
    INSERT INTO events VALUES
        (1, 'a', 'r', 'train', 1, 'sent', 'tacit 1', '2099-01-01', 1.5, 0.25, 4, 'gaussian', 'poisson', 'device', 0, 0, 0.0),
        (2, 'a', 'r', 'train', 2, 'freed', 'tacit 1', '2025-01-01', 1.5, 0.25, 4, 'gaussian', 'poisson', 'device', 0, 0, 0),
        (3, 'b', 'r', 'train', 3, 'reserved', 'tacit 1', '2025-01-01', 3.0, 1, 1, 'gaussian', 'poisson', 'device', 0, 0, 0);
    CREATE TABLE faults (
        id INTEGER PRIMARY KEY, owner TEXT NOT NULL, run TEXT NOT NULL, round_number INTEGER NOT NULL, kind TEXT NOT NULL);
    INSERT INTO faults (owner, run, round_number, kind) VALUES ('b', 'r', 3, 'missing');
    PRAGMA application_id = {0x5441434C};
    PRAGMA user_version = 1;
    PRAGMA journal_mode = WAL;
"""


def test_a_ledger_that_was_bound_to_a_digest_keeps_all_but_the_digest_and_is_given_a_name(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.executescript(_VERSION_1)
    connection.close()
    looking = Ledger(path)
    assert (looking.spent("a"), looking.spent("b"), looking.faults()) == ([EVENT], [OTHER], 1)
    assert looking.policies() == {"*": Policy(8.0, "user", 0.5, 1.25, 100, 1e-4), "b": Policy(rounds_at_most=7)}
    assert looking.binding is None
    for change in ({"unit": "window"}, {"delta": 1e-6}):  # what it was about besides the digest still holds
        with pytest.raises(PrivacyError, match=r"Expected a plan with the (unit|delta) of the privacy ledger"):
            Ledger(path, binding=replace(BINDING, **change))
    ledger = Ledger(path, binding=BINDING)
    reserve(ledger, OTHER)
    assert [entry["state"] for entry in ledger.export()["events"]] == ["sent", "freed", "reserved", "reserved"]
    with pytest.raises(PrivacyError, match="got one that is bound to another name"):
        Ledger(path, binding=replace(BINDING, data_name="songs"))
    ledger.close(), looking.close()
    found = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert _DIGEST.encode() not in found


def test_a_ledger_without_limits_on_assumptions_gets_them_and_keeps_its_own(path: Path) -> None:
    ledger = Ledger(path, binding=BINDING)
    ledger.set_policy(Policy(8.0, rounds_at_most=20))
    reserve(ledger)
    ledger.close()
    with sqlite3.connect(path) as connection:
        for name in ("corrupt_fraction_at_least", "dropout_fraction_at_most"):
            connection.execute(f"ALTER TABLE policies DROP COLUMN {name}")
        connection.execute("PRAGMA user_version = 2")
    connection.close()
    ledger = Ledger(path, binding=BINDING)
    assert ledger.policies() == {"*": Policy(8.0, rounds_at_most=20)}
    assert ledger.spent("a") == [EVENT]
    ledger.set_policy(Policy(8.0, corrupt_fraction_at_least=0.1))
    assert ledger.policies() == {"*": Policy(8.0, corrupt_fraction_at_least=0.1)}


def test_each_ledger_has_an_identity_of_its_own_that_no_output_holds(tmp_path: Path) -> None:
    """Data may grow, so nothing in a ledger is computed from them: the identity comes from the system's CSPRNG."""
    ledgers = [Ledger(tmp_path / name, binding=BINDING) for name in "ab"]
    for ledger in ledgers:
        ledger.set_policy(Policy(rounds_at_most=20))
        reserve(ledger)
    identities = []
    for ledger in ledgers:
        with sqlite3.connect(ledger.path) as connection:
            ((identity,),) = connection.execute("SELECT identity FROM binding")
        connection.close()
        identities.append(identity)
        assert len(bytes.fromhex(identity)) == 16
        assert identity not in str(ledger.export())
        ledger.close()
        assert identity.encode() not in (tmp_path / f"{ledger.path.name}.mark").read_bytes()
    assert identities[0] != identities[1]
