"""What a row of the database holds in place of ids, items and times: the same, or ciphertext.

Rows are encrypted one by one with AES-SIV, whose ciphertext follows from the key and the plain text: the same row has the
same ciphertext, so that it is found, and added once, without being decrypted. That is all that equal ciphertexts tell, and
since a row is bound to its user (associated data), equal items of two users have nothing in common, and no row can be put
among another user's.

What is encrypted: user ids, item ids, times; lengths of ids up to multiples of 32 bytes. What stays in clear: how many users
there are, in the order in which they came, and how many interactions each has. Items have no table of their own: how often
each occurs would tell which one of a public catalog it is.

Why fields instead of a file that a library encrypts: `cryptography` is here already, is pinned by Flower and kept by many.
Why SIV and not GCM with a keyed hash beside it: one primitive instead of two, half the time, no nonce to be repeated.

What never lives here: where rows lie, and who opens the key's file for what (`interactions.py`).

Source:
    RFC 5297 (AES-SIV, deterministic authenticated encryption).
"""

from __future__ import annotations

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from shared.errors import ConfigError, StoreUnavailable

KEY_BYTES: Final = 64  # AES-256 twice
_BLOCK: Final = 32
_END: Final = b"\x80"
_CHANGED: Final = (
    "Expected encrypted rows as they were written, found one that was changed. Nothing was changed by this command. Restore "
    "the database from a copy, or move it away and ingest again."
)


class Sealing(Protocol):
    """How rows are written and read."""

    name: str

    def seal(self, said: bytes, of: bytes = b"") -> bytes:
        """What stands in the database for a row that says this, of the user for whom `of` stands there. The same for the
        same row. (private in clear)"""
        ...

    def open(self, sealed: bytes, of: bytes = b"") -> bytes:
        """What such a row says. (private)

        Raises:
            StoreUnavailable: If it was changed, or is another user's.
        """
        ...


class Clear:
    """Rows in clear."""

    name = "none"

    def seal(self, said: bytes, of: bytes = b"") -> bytes:
        """As `Sealing.seal`."""
        return said

    def open(self, sealed: bytes, of: bytes = b"") -> bytes:
        """As `Sealing.open`."""
        return sealed


class Encrypted:
    """Rows as AES-SIV ciphertexts.

    Guarantee:
        Without the secret, sealed rows tell equal rows of one user from unequal ones and nothing else of what they say but
        its length, in blocks of 32 bytes.

    Args:
        secret: 64 bytes. (private)
    """

    name = "AES-SIV"

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_BYTES:
            raise ConfigError(f"Expected a key of {KEY_BYTES} bytes, got {len(secret)}. Restore the key's file from a copy.")
        self._cipher = AESSIV(secret)

    @property
    def check(self) -> bytes:
        """What tells this secret from others, and nothing about it."""
        return self._cipher.encrypt(b"tacit-data-check", [b"of the secret itself"])

    def seal(self, said: bytes, of: bytes = b"") -> bytes:
        """As `Sealing.seal`."""
        return self._cipher.encrypt(said + _END + bytes(-(len(said) + 1) % _BLOCK), [of])

    def open(self, sealed: bytes, of: bytes = b"") -> bytes:
        """As `Sealing.open`."""
        try:
            padded = self._cipher.decrypt(sealed, [of])
        except (InvalidTag, ValueError):
            raise StoreUnavailable(_CHANGED) from None
        return padded[: padded.rindex(_END)]


def read_key(path: Path) -> bytes:
    """The secret in a file that `write_key` wrote. (private)

    Raises:
        ConfigError: If it is missing, others can read it, or it holds something else.
    """
    try:
        mode, text = path.stat().st_mode, path.read_bytes()
    except OSError:
        raise ConfigError(
            f"Expected the key of the encrypted interactions in {path.name}, found none that can be read. Put it back from "
            "a copy; without it the interactions are lost."
        ) from None
    if mode & 0o077:
        raise ConfigError(
            f"Expected {path.name} to be readable for its owner alone, got mode={mode & 0o777:o}. Run chmod 600."
        )
    with suppress(ValueError):
        secret = bytes.fromhex(text.decode("ascii"))
        if len(secret) == KEY_BYTES:
            return secret
    raise ConfigError(f"Expected {2 * KEY_BYTES} hex digits in {path.name}, got something else. Put it back from a copy.")


def write_key(path: Path) -> None:
    """Draws a secret and writes it, mode 0600, unless a file is there."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(secrets.token_hex(KEY_BYTES).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        with suppress(FileExistsError):  # nothing is ever written over a key
            path.hardlink_to(name)
    finally:
        Path(name).unlink(missing_ok=True)
