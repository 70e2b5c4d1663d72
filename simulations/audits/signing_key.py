"""The Ed25519 key that signs audits: one file, mode 0600, in the user's own folder; a passphrase where one is wanted.

    ~/.tacit/audit/key.pem                  PKCS 8, encrypted where there is a passphrase (private)
    ~/.tacit/audit/key-FINGERPRINT.pem      earlier ones, after a rotation (private)

What never lives here: whose key is trusted. A reader compares the public key with its owner, over another channel.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from shared.errors import ConfigError
from shared.files import verify_owner_alone, write_atomically
from shared.signing import fingerprint

HOME = Path("~/.tacit/audit")
KEY_FILE = "key.pem"
PASSPHRASE_VARIABLE = "TACIT_AUDIT_PASSPHRASE"


def opened_or_made(home: Path) -> Ed25519PrivateKey:
    """The key of a folder; a new one where there is none. (private)

    A passphrase is read from the environment variable TACIT_AUDIT_PASSPHRASE; without it the key is not encrypted.

    Raises:
        ConfigError: If the file is damaged, others can read it, or the passphrase is another.
    """
    path = home.expanduser() / KEY_FILE
    return _opened(path) if path.exists() else _made(path)


def rotated(home: Path) -> Ed25519PrivateKey:
    """A new key; the one before is kept under its fingerprint, so that its signatures can still be told. (private)

    Raises:
        ConfigError: If there is one that cannot be read.
    """
    path = home.expanduser() / KEY_FILE
    if path.exists():
        before = _opened(path)
        path.rename(path.with_name(f"key-{fingerprint(before.public_key().public_bytes_raw())}.pem"))
    return _made(path)


def public_key_of(text: str) -> bytes:
    """The public key that a person names: 64 hexadecimal digits, or a file that holds them.

    Raises:
        ConfigError: If it is neither.
    """
    path = Path(text)
    digits = path.read_text(encoding="utf-8").strip() if path.is_file() else text.strip()
    try:
        found = bytes.fromhex(digits)
    except ValueError:
        found = b""
    if len(found) != 32:
        raise ConfigError("Expected a public key of 64 hexadecimal digits, got another text. Ask the auditor for it.")
    return found


def _made(path: Path) -> Ed25519PrivateKey:
    key, passphrase = Ed25519PrivateKey.generate(), _passphrase()
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    path.parent.mkdir(parents=True, exist_ok=True, mode=stat.S_IRWXU)
    write_atomically(path, lambda stream: stream.write(content), mode=stat.S_IRUSR | stat.S_IWUSR)
    return key


def _opened(path: Path) -> Ed25519PrivateKey:
    verify_owner_alone(path)
    try:
        key = load_pem_private_key(path.read_bytes(), _passphrase())
    except (ValueError, TypeError):
        raise ConfigError(
            f"Expected an audit key and its passphrase in {path.name}, could not open it. Set {PASSPHRASE_VARIABLE} to its "
            "passphrase (or unset it), or make a new key with `tacit audit key --rotate`."
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"Expected an Ed25519 key in {path.name}, found one of another kind. Name another folder.")
    return key


def _passphrase() -> bytes | None:
    return os.environ.get(PASSPHRASE_VARIABLE, "").encode() or None
