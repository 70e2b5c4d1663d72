"""Signed documents: a JSON object in canonical form (RFC 8785) with an Ed25519 signature over it and its kind.

Kits, run files, refusals and statements of leaving are such documents. A file holds the canonical form byte for byte, so
that one document has one digest and no reader sees another text than its verifier.

A signature says who wrote a document, and that nobody changed it. It does not say that its content is true.

What never lives here: what a document of some kind holds, and whose key is trusted.

Source:
    RFC 8785 (JSON Canonicalization Scheme, by the library `rfc8785`), RFC 8032 (Ed25519).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from shared.errors import ConfigError
from shared.files import write_atomically

# Whatever is longer is no document of ours.
LARGEST_DOCUMENT = 4_000_000
_LARGEST_INTEGER = 2**53 - 1


@dataclass(frozen=True)
class Signed:
    """A document whose signature was verified, or that was just signed.

    Attributes:
        kind: What it is: "run", "kit", ...
        body: Its content.
        signer: Ed25519 public key, 32 bytes.
        signature: 64 bytes.
    """

    kind: str
    body: Mapping[str, Any]
    signer: bytes
    signature: bytes

    @property
    def digest(self) -> str:
        """SHA-256 of kind and body, hex: the name of the document, whoever signed it."""
        return hashlib.sha256(_message(self.kind, self.body)).hexdigest()

    def to_bytes(self) -> bytes:
        """The canonical form, as it stands in a file."""
        return canonical(
            {
                "kind": self.kind,
                "body": self.body,
                "signer": self.signer.hex(),
                "signature": self.signature.hex(),
            }
        )

    def write(self, path: Path, *, mode: int = 0o644) -> None:
        """Writes the document, whole or not at all."""
        content = self.to_bytes()
        write_atomically(path, lambda stream: stream.write(content), mode=mode)


def canonical(value: Any) -> bytes:
    """RFC 8785: keys sorted, numbers in one form, no spaces; ASCII control characters escaped.

    Raises:
        ValueError: If the value is no JSON, or holds NaN, infinity or an integer beyond 2^53.
    """
    import rfc8785

    return rfc8785.dumps(value)


def parsed(content: bytes) -> Any:
    """The value of a JSON text in canonical form.

    An integer beyond 2^53 - 1 is read as a float: RFC 8785 writes 98615022211438670.0 without its point.

    Raises:
        ValueError: If it is no JSON.
        OverflowError: If a number is larger than any float.
        RecursionError: If it is nested too deeply.
    """
    return json.loads(content, parse_int=_number)


def _number(digits: str) -> int | float:
    number = int(digits)
    return number if abs(number) <= _LARGEST_INTEGER else float(number)


def sign(kind: str, body: Mapping[str, Any], key: Ed25519PrivateKey) -> Signed:
    """Signs a document.

    Args:
        kind: What it is. A signature of one kind counts for no other.
        body: JSON values.
        key: Of the author. (private)
    """
    return Signed(kind, body, key.public_key().public_bytes_raw(), key.sign(_message(kind, body)))


def read_signed(path: Path, kind: str, *, signer: bytes | None, largest: int = LARGEST_DOCUMENT) -> Signed:
    """Reads a signed document from a file.

    Args:
        path: The file.
        kind: What it has to be.
        signer: Whose signature it has to bear, 32 bytes; None takes the key that the document names: it is then intact, and
            from an unknown author.
        largest: Most bytes that are read.

    Raises:
        ConfigError: If the file is absent, too long or not of this kind, or the signature does not fit.
    """
    try:
        if path.stat().st_size > largest:
            raise ConfigError(
                f"Expected at most {largest} bytes in {path.name}, found more. It is no signed document of Tacit."
            )
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"Expected a signed document in {path.name}, could not read it ({error.strerror or type(error).__name__}). "
            "Name the file that you were given."
        ) from None
    return verified(content, kind, signer=signer, where=path.name)


def verified(content: bytes, kind: str, *, signer: bytes | None, where: str) -> Signed:
    """Verifies a signed document.

    Args:
        content: Its canonical form.
        kind: What it has to be.
        signer: As in `read_signed`.
        where: For errors: the name of the file or message.

    Raises:
        ConfigError: If it is not canonical, not of this kind, or the signature does not fit.
    """
    try:
        found = parsed(content)
        if set(found) != {"kind", "body", "signer", "signature"} or not isinstance(found["body"], dict):
            raise ValueError
        document = Signed(found["kind"], found["body"], bytes.fromhex(found["signer"]), bytes.fromhex(found["signature"]))
        intact = document.to_bytes() == content
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError):
        raise ConfigError(
            f"Expected a signed document in {where}, found something else. It is damaged, or of another version; ask for it "
            "again."
        ) from None
    if document.kind != kind:
        raise ConfigError(
            f"Expected a signed {kind} in {where}, found a signed document of another kind. Name another file."
        )
    try:
        Ed25519PublicKey.from_public_bytes(document.signer).verify(document.signature, _message(kind, document.body))
    except (InvalidSignature, ValueError):
        intact = False
    if not intact:
        raise ConfigError(
            f"Expected {where} as its author signed it, found another text. Somebody changed it; ask for it again, over a "
            "channel that you trust."
        )
    if signer is not None and document.signer != signer:
        raise ConfigError(
            f"Expected {where} to be signed by the key that this machine trusts, found another signer. Compare fingerprints "
            "with its author."
        )
    return document


def fingerprint(public_key: bytes) -> str:
    """A short name of a key, to be compared by people: the first 16 digits of its SHA-256."""
    return hashlib.sha256(public_key).hexdigest()[:16]


def _message(kind: str, body: Mapping[str, Any]) -> bytes:
    return f"tacit signed document\n{kind}\n".encode() + canonical(body)
