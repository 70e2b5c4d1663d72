"""Keys of a round: their signatures, what two clients derive from them, and how one client seals a message to another.

A client has a lasting Ed25519 identity key, and two X25519 keys for one secure sum: a mask key, whose secret is opened if
the client drops out, and a channel key, whose secret is never opened. From the channel keys two clients derive, for each
direction, a sealing key that is used once and a key for statements. From the mask keys they derive the key of their common
mask.

What never lives here: which keys belong to a cohort (`merkle.py`), masks (`masks.py`).

Source:
    RFC 7748 (X25519; section 6.1 on all-zero results), RFC 8032 (Ed25519), RFC 5869 (HKDF), NIST SP 800-38D (AES-GCM).
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shared.errors import ProtocolViolation
from shared.secagg.context import digest

IDENTITY_BYTES = 16
KEY_BYTES = 32
SIGNATURE_BYTES = 64
SEAL_BYTES = 16  # sealing adds these
STATEMENT_BYTES = 16
# Every encoding of a point of order 1, 2, 4 or 8, with the highest bit cleared: X25519 ignores it.
LOW_ORDER_POINTS = frozenset(
    bytes.fromhex(point)
    for point in (
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    )
)


@dataclass(frozen=True)
class RosterEntry:
    """An identity's key as it was provisioned.

    Attributes:
        public_key: Ed25519, 32 bytes.
        valid_until: Last second at which the key is valid, since 1970.
        revoked: Whether the key was revoked.
    """

    public_key: bytes = field(repr=False)
    valid_until: int
    revoked: bool = False


@dataclass(frozen=True)
class Roster:
    """The identities that a client or a server knows from provisioning, and never from a round's messages.

    If the server's operator issues the roster, the operator can add invented clients: then nothing may be claimed against
    sybils.

    Attributes:
        entries: Identity (16 bytes) -> key.
    """

    entries: Mapping[bytes, RosterEntry] = field(repr=False)

    def verify(self, identity: bytes, signature: bytes, message: bytes, *, now: int, stage: str) -> None:
        """Passes if this identity signed the message with a valid key.

        Args:
            identity: Identity of the signer. (public)
            signature: 64 bytes.
            message: The signed bytes.
            now: Seconds since 1970.
            stage: For the error.

        Raises:
            ProtocolViolation: If the identity is unknown, expired or revoked, or the signature does not fit.
        """
        entry = self.entries.get(identity)
        if entry is None:
            raise ProtocolViolation(f"{stage}: Expected an identity of the roster, got another. Provision it first.")
        if entry.revoked:
            raise ProtocolViolation(f"{stage}: Expected an identity that counts, got a revoked one. Provision a new key.")
        if now > entry.valid_until:
            raise ProtocolViolation(f"{stage}: Expected an identity that counts, got an expired one. Provision a new key.")
        try:
            Ed25519PublicKey.from_public_bytes(entry.public_key).verify(signature, message)
        except (InvalidSignature, ValueError):
            raise ProtocolViolation(
                f"{stage}: Expected a signature of this identity over this context and these keys, got another. "
                "Ask the client for a message of this round."
            ) from None


@dataclass(frozen=True)
class AgreementKey:
    """One X25519 key pair of a round.

    Attributes:
        secret: 32 bytes. (private)
        public: 32 bytes.
    """

    secret: bytes = field(repr=False)
    public: bytes = field(repr=False)
    _key: X25519PrivateKey = field(repr=False, compare=False)

    @classmethod
    def generate(cls) -> AgreementKey:
        """From the system's CSPRNG."""
        return cls._of(X25519PrivateKey.generate())

    @classmethod
    def from_secret(cls, secret: bytes) -> AgreementKey:
        """The pair of a secret key, 32 bytes. (private)"""
        return cls._of(X25519PrivateKey.from_private_bytes(secret))

    @classmethod
    def _of(cls, key: X25519PrivateKey) -> AgreementKey:
        return cls(key.private_bytes_raw(), key.public_key().public_bytes_raw(), key)

    def agree(self, other: bytes, *, stage: str) -> bytes:
        """The secret that both owners derive from their own secret and the other's public key, 32 bytes. (private)

        Raises:
            ProtocolViolation: If the point is of low order: then anyone would know the secret.
        """
        verify_point(other, stage=stage)
        try:
            return self._key.exchange(X25519PublicKey.from_public_bytes(other))
        except ValueError:
            raise _low_order(stage) from None


def verify_point(point: bytes, *, stage: str) -> None:
    """Passes for every encoding of a point but those of low order.

    Raises:
        ProtocolViolation: If it is of low order, or has another length.
    """
    if len(point) != KEY_BYTES or point[:-1] + bytes([point[-1] & 0x7F]) in LOW_ORDER_POINTS:
        raise _low_order(stage)


def _low_order(stage: str) -> ProtocolViolation:
    return ProtocolViolation(
        f"{stage}: Expected an X25519 public key of high order, got a low-order point. "
        "The sender does not keep the protocol."
    )


def derive_key(secret: bytes, label: str, *, context: bytes, sender: int, receiver: int) -> bytes:
    """A key for one purpose, one direction and one cohort: HKDF-SHA256, 32 bytes. (private)

    Args:
        secret: From an agreement, or a seed. (private)
        label: The purpose.
        context: Digest of the cohort's context.
        sender: Index in the cohort.
        receiver: Index in the cohort.
    """
    info = label.encode() + struct.pack(">BII", 0, sender, receiver)
    return HKDF(SHA256(), KEY_BYTES, salt=context, info=info).derive(secret)


def seal(key: bytes, plaintext: bytes, *, associated: bytes) -> bytes:
    """AES-256-GCM. The key never seals a second message, so the nonce can be constant.

    Args:
        key: 32 bytes, for this message only. (private)
        plaintext: (private)
        associated: What both sides know; bound to the message.
    """
    return AESGCM(key).encrypt(bytes(12), plaintext, associated)


def unseal(key: bytes, sealed: bytes, *, associated: bytes, stage: str) -> bytes:
    """The inverse of `seal`. (private)

    Raises:
        ProtocolViolation: If a bit differs, or sender, receiver, cohort, round or configuration is another.
    """
    try:
        return AESGCM(key).decrypt(bytes(12), sealed, associated)
    except InvalidTag:
        raise ProtocolViolation(
            f"{stage}: Expected sealed shares for this client, from this sender, in this round and cohort, got others. "
            "Do not answer: somebody changed, repeated or reflected a message."
        ) from None


def statement(key: bytes, *what: bytes) -> bytes:
    """A statement that only two clients can make to each other: HMAC-SHA256, cut to 16 bytes.

    Args:
        key: Of the pair and the direction. (private)
        what: Label and content.
    """
    return hmac.digest(key, digest("statement", *what), "sha256")[:STATEMENT_BYTES]


def verify_statement(key: bytes, claimed: bytes, *what: bytes) -> None:
    """Passes if `claimed` is the statement of this content; compares in constant time.

    Raises:
        ProtocolViolation: If it is not.
    """
    if not hmac.compare_digest(claimed, statement(key, *what)):
        raise ProtocolViolation(
            "Expected a statement of this neighbor in this cohort, got another. "
            "Do not answer: somebody forged or repeated it."
        )


def sign(key: Ed25519PrivateKey, message: bytes) -> bytes:
    """Ed25519, 64 bytes."""
    return key.sign(message)
