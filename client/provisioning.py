"""Provisioning of a node: it makes its keys, asks to take part, and installs what the server's operator signed for it.

Secret keys are made here and never leave. A kit counts if its fingerprint is the one that the owner compared, if it is for
these keys, and if it holds now. Everything is checked before the first file is written; `kit.json` is written last, so that
a node has either the old kit or the new one.

What never lives here: who is approved, what the owner allows (`policy.toml`).
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_ssh_private_key

from client.home import NodeHome
from shared.errors import ConfigError
from shared.files import verify_owner_alone, verify_unused, write_atomically
from shared.folder_claim import claimed
from shared.provisioning.fields import NodeKeys, endpoint, supernode_key_text, verify_name
from shared.provisioning.fingerprint import verify_fingerprint
from shared.provisioning.kit import Kit, read_kit
from shared.provisioning.request import sign_request
from shared.provisioning.rosters import from_lines, merge, read_roster_document
from shared.provisioning.validity import expiry_warning, verify_current
from shared.secagg.identities import generate, read_key, read_roster, write_key, write_roster
from shared.secagg.keys import Roster

_SECRET: Final = 0o600
_RENEW: Final = "Ask the server's operator for a new kit, and install it with `tacit node install`."
_REVOKED: Final = (
    "Expected keys that count, found this node's revoked in its roster. Ask the server's operator why; with their consent "
    "move the folder of keys away, and make a new request."
)


def request(home: NodeHome, name: str, out: Path, *, now: int) -> bool:
    """Writes a request to take part; makes the node's keys where there are none.

    Args:
        home: The node's folder, made with mode 0700 if absent.
        name: What the node wants to be called.
        out: The request's file, which must not exist.
        now: Seconds since 1970.

    Returns:
        Whether keys were made.

    Raises:
        ConfigError: If the name is not allowed, the file exists, or the node's keys cannot be used; nothing is changed.
    """
    verify_name(name)
    verify_unused(out)
    if home.keys.exists():
        identity, identity_key, supernode_key = _read_keys(home)
        sign_request(name, identity, identity_key, supernode_key, now=now).write(out)
        return False
    home.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    prepared = NodeHome(Path(tempfile.mkdtemp(dir=home.path, prefix=".keys.")))  # of mode 0700
    try:
        prepared.keys.mkdir(mode=0o700)
        identity, identity_key, _ = generate(valid_until=0)
        supernode_key = ec.generate_private_key(ec.SECP384R1())
        write_key(prepared.identity, identity, identity_key)
        content = supernode_key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        write_atomically(prepared.supernode_key, lambda stream: stream.write(content), mode=_SECRET)
        sign_request(name, identity, identity_key, supernode_key, now=now).write(out)
        try:
            prepared.keys.rename(home.keys)
        except BaseException:
            out.unlink(missing_ok=True)
            raise
    finally:
        shutil.rmtree(prepared.path, ignore_errors=True)
    return True


def install(home: NodeHome, path: Path, fingerprint: str, *, now: int) -> Kit:
    """Installs a kit: `kit.json`, `ca.crt`, `roster.json`, and `node.toml` where there is none.

    Args:
        home: The node's folder, with its keys.
        path: The kit's file.
        fingerprint: Of the server, as the owner compared it.
        now: Seconds since 1970.

    Raises:
        ConfigError: If the kit is damaged, from another server, for other keys, older than the one that is installed, or
            does not hold now; nothing is changed then.
    """
    kit, document = read_kit(path)
    verify_fingerprint(kit.fingerprint, fingerprint, where=path.name)
    if kit.keys != _public_keys(home):
        raise ConfigError(
            f"Expected a kit for this node's keys, found another node's in {path.name}. Install it on the node that asked "
            "for it."
        )
    verify_current(
        "a kit", valid_from=kit.valid_from, valid_until=kit.valid_until, now=now, remedy="Ask the operator to renew it."
    )
    with claimed(home.keys, lambda _: None):
        known = _verify_newer(home, kit, path.name)
        roster = merge(known, from_lines(kit.roster))
        _verify_not_revoked(kit, roster)
        write_atomically(home.authority, lambda stream: stream.write(kit.authority.encode()))
        write_roster(home.roster, roster)
        if not home.settings.exists():
            write_atomically(home.settings, lambda stream: stream.write(_settings(kit).encode()))
        document.write(home.kit)
    return kit


def installed_kit(home: NodeHome) -> Kit:
    """The kit of a node.

    Raises:
        ConfigError: If no kit is installed, or the file is damaged.
    """
    if not home.kit.exists() and home.statement.exists():
        raise ConfigError(
            f"Expected a node of a federation, found one that has left; {home.statement.name} is its signed statement. "
            "To take part again, make new keys and a request in another folder (--home)."
        )
    if not home.kit.exists():
        raise ConfigError(
            "Expected a kit in this node's folder, found none. Make a request with `tacit node request`, and install the "
            "kit that the server's operator sends."
        )
    return read_kit(home.kit)[0]


def accept_roster(home: NodeHome, content: bytes) -> None:
    """Takes over a roster that the server signed: new nodes, prolonged keys, revocations.

    Args:
        home: The node's folder, with a kit.
        content: The signed document, as it came.

    Raises:
        ConfigError: If it is not the server's, or gives an identity another key; nothing is changed then.
    """
    signer = bytes.fromhex(installed_kit(home).server_key)
    found = read_roster_document(content, signer=signer, where="the server's roster")
    with claimed(home.keys, lambda _: None):
        write_roster(home.roster, merge(read_roster(home.roster), found))


def verify_kit(home: NodeHome, *, now: int) -> Kit:
    """The kit of a node, if it holds now, for the node's keys, and these were not revoked: for what starts the node.

    Raises:
        ConfigError: If it does not.
    """
    kit = installed_kit(home)
    if kit.keys != _public_keys(home):
        raise ConfigError("Expected a kit for this node's keys, found one for others. Install the kit of this node.")
    verify_current("a kit", valid_from=kit.valid_from, valid_until=kit.valid_until, now=now, remedy=_RENEW)
    _verify_not_revoked(kit, read_roster(home.roster))
    return kit


def warnings(home: NodeHome, *, now: int) -> list[str]:
    """What ends within 30 days, or has ended: this node's kit, the server's authority; and that the keys were revoked.

    Raises:
        ConfigError: If there is no kit, or it is damaged.
    """
    kit = installed_kit(home)
    found = (
        _REVOKED if _is_revoked(kit, read_roster(home.roster)) else None,
        expiry_warning("This node's kit", kit.valid_until, now=now, remedy=_RENEW),
        expiry_warning("The certificate of the server's authority", kit.authority_ends, now=now, remedy=_RENEW),
    )
    return [warning for warning in found if warning is not None]


def _verify_newer(home: NodeHome, kit: Kit, where: str) -> Roster:
    """What the node knows of others; passes if the kit may take the place of the one that is installed."""
    if not home.kit.exists():
        return _known_of(home, kit)
    installed = installed_kit(home)
    if installed.fingerprint != kit.fingerprint:
        raise ConfigError(
            f"Expected a kit of the server that this node belongs to, found another server's in {where}. Use another --home "
            "for another federation."
        )
    if installed.keys == kit.keys and kit.number < installed.number:
        raise ConfigError(
            f"Expected a kit that is newer than the one in this node, found an older one in {where}. Nothing was changed: "
            "install the newest that you were sent."
        )
    return (
        merge(from_lines(installed.roster), read_roster(home.roster))
        if home.roster.exists()
        else from_lines(installed.roster)
    )


def _known_of(home: NodeHome, kit: Kit) -> Roster:
    """What a node without a kit, such as one that has left, knows of the identities in a new kit: above all, revocations.

    Other identities may belong to an earlier federation, and have no place in this one.
    """
    if not home.roster.exists():
        return Roster({})
    named = from_lines(kit.roster).entries.keys()
    return Roster({identity: one for identity, one in read_roster(home.roster).entries.items() if identity in named})


def _verify_not_revoked(kit: Kit, roster: Roster) -> None:
    if _is_revoked(kit, roster):
        raise ConfigError(_REVOKED)


def _is_revoked(kit: Kit, roster: Roster) -> bool:
    own = roster.entries.get(bytes.fromhex(kit.keys.identity))
    return own is not None and own.revoked


def _read_keys(home: NodeHome) -> tuple[bytes, Ed25519PrivateKey, ec.EllipticCurvePrivateKey]:
    """Identity, identity key and SuperNode's key. (private)"""
    identity, identity_key = read_key(home.identity)
    try:
        verify_owner_alone(home.supernode_key)
        key = load_ssh_private_key(home.supernode_key.read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
            raise ValueError
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"Expected an ECDSA key on P-384 in {home.supernode_key.name}, could not read it ({type(error).__name__}). Move "
            "the folder of keys away, and make a new request."
        ) from None
    return identity, identity_key, key


def _public_keys(home: NodeHome) -> NodeKeys:
    if not home.keys.exists():
        raise ConfigError(
            "Expected this node's keys in its folder, found none. Make them with `tacit node request`, or name the node's "
            "folder with --home."
        )
    identity, identity_key, supernode_key = _read_keys(home)
    return NodeKeys(
        identity=identity.hex(),
        identity_key=identity_key.public_key().public_bytes_raw().hex(),
        supernode_key=supernode_key_text(supernode_key.public_key()),
    )


def _settings(kit: Kit) -> str:
    """The first `node.toml`; names and hosts hold no character that TOML escapes."""
    return (
        "# What the owner of this node sets. `tacit node install` wrote it once and does not change it.\n"
        f'name = "{kit.name}"\n'
        f'server = "{endpoint(kit.hosts[0], kit.port)}"\n'
    )
