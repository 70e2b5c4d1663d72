"""The fingerprint of a server: one value that stands for its authority's certificate and its own signing key.

A node's owner compares it with what the operator says over another channel. From then on the node trusts both keys: TLS
through the authority, and kits, rosters and run files through the server's signature.

Source:
    FIPS 180-4 (SHA-256), over the DER form of the certificate (X.690) and the key's 32 bytes (RFC 8032).
"""

from __future__ import annotations

import hashlib
import re

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from shared.errors import ConfigError

_DIGITS = re.compile(r"[0-9a-f]{64}")


def fingerprint(authority: str, server_key: str) -> str:
    """SHA-256 in 64 hexadecimal digits.

    Args:
        authority: The authority's certificate, PEM.
        server_key: The server's Ed25519 key, in hexadecimal digits.

    Raises:
        ValueError: If one of them is malformed.
    """
    certificate = x509.load_pem_x509_certificate(authority.encode()).public_bytes(Encoding.DER)
    return hashlib.sha256(b"tacit server\n" + certificate + bytes.fromhex(server_key)).hexdigest()


def verify_fingerprint(found: str, expected: str, *, where: str) -> None:
    """Passes if the fingerprint is the one that the owner compared.

    Args:
        found: Of the file.
        expected: As a person typed it: colons, blanks and capital letters do not matter.
        where: The file's name, for errors.

    Raises:
        ConfigError: If it is another, or no fingerprint.
    """
    digits = re.sub(r"[\s:]", "", expected).lower()
    if not _DIGITS.fullmatch(digits):
        raise ConfigError(
            "Expected --fingerprint to be the 64 hexadecimal digits that the server's operator tells you, got something "
            "else. `tacit server nodes` shows them to the operator."
        )
    if digits != found:
        raise ConfigError(
            f"Expected {where} to come from the server with this fingerprint, found another server's. Nothing was "
            "installed. Compare the fingerprint with the operator's, over a channel that you trust."
        )
