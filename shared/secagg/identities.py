"""Who may take part in secure sums, on disk: the roster of identities, and a client's own signing key.

The roster is JSON, the same for all: identity (hex, 16 bytes) -> Ed25519 key (hex), the last second at which it is valid,
and whether it was revoked. A client's own file holds its identity and its secret key; only its owner can read it. The author
of the roster decides who may take part. If that is the server's operator, the operator can add invented clients, and nothing
may be claimed against sybils.

What never lives here: keys of a round (`keys.py`).
"""

from __future__ import annotations

import json
import secrets
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.errors import ConfigError
from shared.files import verify_owner_alone, write_atomically
from shared.secagg.keys import IDENTITY_BYTES, Roster, RosterEntry

ROSTER_FILE = "roster.json"
_SCHEMA = "tacit-roster-1"
_KEY_SCHEMA = "tacit-identity-1"


@dataclass(frozen=True)
class Credentials:
    """What a client was provisioned with.

    Attributes:
        identity: 16 bytes, of the roster.
        signing_key: Ed25519. (private)
        roster: The identities that the client knows.
    """

    identity: bytes = field(repr=False)
    signing_key: Ed25519PrivateKey = field(repr=False)
    roster: Roster = field(repr=False)


def generate(*, valid_until: int) -> tuple[bytes, Ed25519PrivateKey, RosterEntry]:
    """A new identity, its secret key and its roster entry; from the system's CSPRNG.

    Args:
        valid_until: Last second at which the key is valid, since 1970.
    """
    key = Ed25519PrivateKey.generate()
    entry = RosterEntry(key.public_key().public_bytes_raw(), valid_until)
    return secrets.token_bytes(IDENTITY_BYTES), key, entry


def write_roster(path: Path, roster: Roster) -> None:
    """Writes a roster, whole or not at all."""
    entries = {
        identity.hex(): {"key": entry.public_key.hex(), "valid_until": entry.valid_until, "revoked": entry.revoked}
        for identity, entry in sorted(roster.entries.items())
    }
    text = json.dumps({"schema": _SCHEMA, "identities": entries}, indent=1)
    write_atomically(path, lambda stream: stream.write(text.encode()))


def write_key(path: Path, identity: bytes, key: Ed25519PrivateKey) -> None:
    """Writes a client's own file, mode 0600. (private)"""
    text = json.dumps({"schema": _KEY_SCHEMA, "identity": identity.hex(), "key": key.private_bytes_raw().hex()})
    write_atomically(path, lambda stream: stream.write(text.encode()), mode=stat.S_IRUSR | stat.S_IWUSR)


def read_roster(path: Path) -> Roster:
    """The roster of a file; the file is read again only if it has changed.

    Raises:
        ConfigError: If the file is absent or holds no roster.
    """
    try:
        changed = path.stat().st_mtime_ns
    except OSError as error:
        raise _unreadable("a roster", path, error) from None
    return _roster(path, changed)


@lru_cache(maxsize=4)
def _roster(path: Path, changed: int) -> Roster:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["schema"] != _SCHEMA:
            raise ValueError
        return Roster({bytes.fromhex(name): _entry(one) for name, one in found["identities"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable("a roster", path, error) from None


def _entry(found: dict[str, object]) -> RosterEntry:
    key, until, revoked = found["key"], found["valid_until"], found["revoked"]
    if not isinstance(key, str) or type(until) is not int or type(revoked) is not bool:
        raise ValueError
    return RosterEntry(bytes.fromhex(key), until, revoked)


def read_credentials(key_file: Path, roster_file: Path) -> Credentials:
    """What a client was provisioned with, and the roster as the file holds it now. (private)

    Raises:
        ConfigError: If a file is absent or damaged, or if others can read the key's file.
    """
    identity, key = read_key(key_file)
    return Credentials(identity, key, read_roster(roster_file))


def read_key(key_file: Path) -> tuple[bytes, Ed25519PrivateKey]:
    """The identity and the secret key of a client's own file. (private)

    Raises:
        ConfigError: If the file is absent or damaged, or if others can read it.
    """
    try:
        verify_owner_alone(key_file)
        found = json.loads(key_file.read_text(encoding="utf-8"))
        if found["schema"] != _KEY_SCHEMA:
            raise ValueError
        identity, secret = bytes.fromhex(found["identity"]), bytes.fromhex(found["key"])
        key = Ed25519PrivateKey.from_private_bytes(secret)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable("a client's identity", key_file, error) from None
    return identity, key


def write_identities(folder: Path, names: Iterable[str], *, valid_until: int) -> None:
    """Identities for a simulation: `roster.json`, and NAME.key for each client.

    Args:
        folder: Made if absent.
        names: Names of the clients.
        valid_until: Last second at which the keys are valid, since 1970.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries = {}
    for name in names:
        identity, key, entry = generate(valid_until=valid_until)
        write_key(folder / f"{name}.key", identity, key)
        entries[identity] = entry
    write_roster(folder / ROSTER_FILE, Roster(entries))


def _unreadable(what: str, path: Path, error: Exception) -> ConfigError:
    return ConfigError(
        f"Expected {what} in {path.name}, could not read it ({type(error).__name__}). Provision this node again."
    )
