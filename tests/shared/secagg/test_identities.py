"""Identities on disk: what is written is read again, a secret key is for its owner alone, damage is refused in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from shared.errors import ConfigError, ProtocolViolation
from shared.secagg import keys
from shared.secagg.identities import (
    ROSTER_FILE,
    Credentials,
    read_credentials,
    read_roster,
    write_identities,
    write_roster,
)
from shared.secagg.keys import Roster, RosterEntry

UNTIL = 2_000_000_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_identities(tmp_path / "ids", ("a", "b"), valid_until=UNTIL)
    return tmp_path / "ids"


def _credentials(folder: Path, name: str) -> Credentials:
    return read_credentials(folder / f"{name}.key", folder / ROSTER_FILE)


def _verify(roster: Roster, own: Credentials, *, now: int = UNTIL) -> None:
    roster.verify(own.identity, keys.sign(own.signing_key, b"message"), b"message", now=now, stage="a test")


def test_what_one_signs_the_other_finds_in_the_roster(folder: Path) -> None:
    first, second = _credentials(folder, "a"), _credentials(folder, "b")
    assert first.identity != second.identity
    assert set(first.roster.entries) == {first.identity, second.identity}
    _verify(second.roster, first)
    with pytest.raises(ProtocolViolation, match="Expected a signature of this identity"):
        second.roster.verify(second.identity, keys.sign(first.signing_key, b"m"), b"m", now=UNTIL, stage="a test")
    with pytest.raises(ProtocolViolation, match="got an expired one"):
        _verify(second.roster, first, now=UNTIL + 1)


def test_a_roster_that_changes_on_disk_is_read_again(folder: Path) -> None:
    own = _credentials(folder, "a")
    path = folder / ROSTER_FILE
    _verify(read_roster(path), own)
    entries = read_roster(path).entries
    revoked = {name: RosterEntry(entry.public_key, entry.valid_until, revoked=True) for name, entry in entries.items()}
    before = path.stat().st_mtime_ns
    write_roster(path, Roster(revoked))
    os.utime(path, ns=(before + 10**9, before + 10**9))
    for roster in (read_roster(path), _credentials(folder, "a").roster):
        with pytest.raises(ProtocolViolation, match="got a revoked one"):
            _verify(roster, own)


def test_a_secret_key_is_readable_for_its_owner_alone(folder: Path) -> None:
    path = folder / "a.key"
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    with pytest.raises(ConfigError, match=r"Expected a\.key to be readable for its owner alone, got a wider mode"):
        _credentials(folder, "a")


def test_no_secret_is_in_what_is_printed(folder: Path) -> None:
    own = _credentials(folder, "a")
    secret = json.loads((folder / "a.key").read_text(encoding="utf-8"))
    for shown in (repr(own), str(own), repr(own.roster)):
        assert secret["key"] not in shown
        assert secret["identity"] not in shown


@pytest.mark.parametrize("name", [ROSTER_FILE, "a.key"])
@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"schema": "other"}', '{"schema": "tacit-roster-1", "identities": 3}',
     '{"schema": "tacit-roster-1", "identities": {"zz": {"key": "00", "valid_until": 1, "revoked": false}}}',
     '{"schema": "tacit-roster-1", "identities": {"00": {"key": "00", "valid_until": "1", "revoked": false}}}',
     '{"schema": "tacit-identity-1", "identity": "00", "key": "00"}', "\ud800"],
)  # fmt: skip
def test_a_damaged_file_is_refused_in_one_line(folder: Path, name: str, content: str) -> None:
    path = folder / name
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(ConfigError, match=r"^Expected (a roster|a client's identity) in \S+, could not read it \(\w+\)\. "):
        _credentials(folder, "a")


def test_an_absent_file_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^Expected a roster in roster\.json, could not read it \(FileNotFoundError\)"):
        read_roster(tmp_path / ROSTER_FILE)
    with pytest.raises(
        ConfigError, match=r"^Expected a client's identity in a\.key, could not read it \(FileNotFoundError\)"
    ):
        read_credentials(tmp_path / "a.key", tmp_path / ROSTER_FILE)
