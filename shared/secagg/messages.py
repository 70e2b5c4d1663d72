"""What clients and server send each other in a round of secure aggregation: frozen records with one fixed layout each.

Every message begins with the protocol's version and its own kind; numbers are big-endian; counts come before what they
count; nothing may follow the end. Any other bytes raise `ProtocolViolation`, and no other exception, with the stage, the
field and what was expected. The receiver checks what a number *means* (`client/masking.py`, `server/unmasking.py`). Nothing
in a message depends on an input, except the masked values themselves: there is no count of examples and no loss.

A holder of a client keeps shares of its secrets; an owner is a client whose shares the receiver holds. Lists of neighbors
carry no indices where both sides know the order: a client's holders and its owners ascend by index.
"""

from __future__ import annotations

import functools
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self, TypeVar

from shared.errors import ProtocolViolation
from shared.secagg.context import DIGEST_BYTES, PROTOCOL_VERSION, RoundContext, digest
from shared.secagg.keys import IDENTITY_BYTES, KEY_BYTES, SEAL_BYTES, SIGNATURE_BYTES, STATEMENT_BYTES
from shared.secagg.merkle import NODE_BYTES, ORDER_BYTES, Path, PathNode
from shared.secagg.parameters import LARGEST_COHORT
from shared.secagg.secret_sharing import SHARE_BYTES

SEALED_BYTES = 2 * SHARE_BYTES + SEAL_BYTES
_LONGEST_PATH = LARGEST_COHORT.bit_length()

T = TypeVar("T")


class _Reader:
    """Reads fields in order; an error names the field."""

    def __init__(self, data: bytes, message: type[Message]) -> None:
        self._data, self._at, self._stage = bytes(data), 0, message.stage
        if self.octets("version and kind", 2) != bytes([PROTOCOL_VERSION, message.kind]):
            raise self.violation("version and kind", f"{PROTOCOL_VERSION}, {message.kind}", "others")

    def octets(self, name: str, size: int) -> bytes:
        part = self._data[self._at : self._at + size]
        if len(part) != size:
            raise self.violation(name, f"{size} bytes", f"bytes={len(part)}")
        self._at += size
        return part

    def rest(self) -> bytes:
        return self.octets("rest", len(self._data) - self._at)

    def number(self, name: str, largest: int = 2**32 - 1) -> int:
        (value,) = struct.unpack(">I", self.octets(name, 4))
        if value > largest:
            raise self.violation(name, f"at most {largest}", "a larger number")
        return int(value)

    def flag(self, name: str) -> bool:
        octet = self.octets(name, 1)
        if octet not in (b"\x00", b"\x01"):
            raise self.violation(name, "0 or 1", "another byte")
        return octet == b"\x01"

    def many(self, name: str, read: Callable[[str], T], largest: int = LARGEST_COHORT) -> tuple[T, ...]:
        return tuple(read(name) for _ in range(self.number(f"count of {name}", largest)))

    def end(self) -> None:
        if self._at != len(self._data):
            raise self.violation("end", "nothing after the last field", f"bytes={len(self._data) - self._at}")

    def violation(self, name: str, expected: str, got: str) -> ProtocolViolation:
        return ProtocolViolation(f"{self._stage}: Expected {name}: {expected}, got {got}. The sender runs another version.")


def _counted(parts: Sequence[bytes]) -> bytes:
    return struct.pack(">I", len(parts)) + b"".join(parts)


@dataclass(frozen=True)
class Message(ABC):
    """A message; `from_bytes` is the inverse of `to_bytes`."""

    kind: ClassVar[int]
    stage: ClassVar[str]

    def to_bytes(self) -> bytes:
        """The wire form."""
        return bytes([PROTOCOL_VERSION, self.kind]) + self._body()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Reads the wire form.

        Raises:
            ProtocolViolation: If it is any other sequence of bytes.
        """
        reader = _Reader(data, cls)
        message = cls._read(reader)
        reader.end()
        return message

    @abstractmethod
    def _body(self) -> bytes:
        """The fields, in their order."""

    @classmethod
    @abstractmethod
    def _read(cls, reader: _Reader) -> Self:
        """The inverse of `_body`."""


@dataclass(frozen=True)
class Advertisement(Message):
    """Client, stage 1: its keys for this round, signed.

    Attributes:
        identity: 16 bytes, of the roster.
        mask_key: X25519, public; opened if the client drops out.
        channel_key: X25519, public; its secret never leaves.
        signature: Ed25519, over `signed(context)`.
    """

    kind, stage = 1, "advertise"
    identity: bytes = field(repr=False)
    mask_key: bytes = field(repr=False)
    channel_key: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    def signed(self, context: RoundContext) -> bytes:
        """The bytes that are signed."""
        return digest("advertisement", context.digest, self.identity, self.mask_key, self.channel_key)

    def _body(self) -> bytes:
        return self.identity + self.mask_key + self.channel_key + self.signature

    @classmethod
    def _read(cls, reader: _Reader) -> Self:
        return cls(
            reader.octets("identity", IDENTITY_BYTES),
            reader.octets("mask key", KEY_BYTES),
            reader.octets("channel key", KEY_BYTES),
            reader.octets("signature", SIGNATURE_BYTES),
        )


@dataclass(frozen=True)
class Member:
    """An advertisement with the proof that it is in the cohort."""

    advertisement: Advertisement
    path: Path = field(repr=False)

    @functools.cached_property
    def body(self) -> bytes:
        """The wire form inside a message; a server sends each member to many."""
        return self.advertisement._body() + _path_bytes(self.path)

    @classmethod
    def read(cls, reader: _Reader) -> Member:
        """From inside a message."""
        return cls(Advertisement._read(reader), _read_path(reader))


def _path_bytes(path: Path) -> bytes:
    return _counted([step.sibling + step.boundary for step in path])


def _read_path(reader: _Reader) -> Path:
    nodes = reader.many("path", lambda name: reader.octets(name, NODE_BYTES), _LONGEST_PATH)
    return tuple(PathNode(node[:-ORDER_BYTES], node[-ORDER_BYTES:]) for node in nodes)


@dataclass(frozen=True)
class CohortAnnouncement(Message):
    """Server, stage 2: the commitment to the cohort, the server's parameters, and the client's place in the cohort.

    Attributes:
        context: Digest of the server's round context.
        root: Commitment to all advertisements.
        num_clients: n.
        degree: k.
        threshold: Shares that open a secret.
        min_survivors: t.
        length: Values of an input.
        bits: Of the ring.
        index: The client's own, in [0, n).
        path: From its own advertisement to the root.
    """

    kind, stage = 2, "announce"
    context: bytes = field(repr=False)
    root: bytes = field(repr=False)
    num_clients: int
    degree: int
    threshold: int
    min_survivors: int
    length: int
    bits: int
    index: int
    path: Path = field(repr=False)

    def _body(self) -> bytes:
        numbers = (self.num_clients, self.degree, self.threshold, self.min_survivors, self.length, self.bits, self.index)
        return self.context + self.root + struct.pack(">7I", *numbers) + _path_bytes(self.path)

    @classmethod
    def _read(cls, reader: _Reader) -> Self:
        context, root = reader.octets("context", DIGEST_BYTES), reader.octets("root", DIGEST_BYTES)
        names = ("num_clients", "degree", "threshold", "min_survivors", "length", "bits", "index")
        return cls(context, root, **{name: reader.number(name) for name in names}, path=_read_path(reader))


@dataclass(frozen=True)
class HolderChoice(Message):
    """Client, stage 2: the out-neighbors that it drew, ascending."""

    kind, stage = 3, "choose holders"
    holders: tuple[int, ...] = field(repr=False)

    def _body(self) -> bytes:
        return _counted([struct.pack(">I", index) for index in self.holders])

    @classmethod
    def _read(cls, reader: _Reader) -> Self:
        return cls(reader.many("holders", reader.number))


@dataclass(frozen=True)
class HolderAdvertisements(Message):
    """Server, stage 3: the holders' advertisements with proofs, in the order of the choice."""

    kind, stage = 4, "introduce"
    members: tuple[Member, ...]

    def _body(self) -> bytes:
        return _counted([member.body for member in self.members])

    @classmethod
    def _read(cls, reader: _Reader) -> Self:
        return cls(reader.many("members", lambda _: Member.read(reader)))


@dataclass(frozen=True)
class SealedShares(Message):
    """Client, stage 3: a sealed pair of shares for each holder, and a commitment to the seed of its own mask.

    Attributes:
        commitment: SHA-256 of the seed and the cohort. The seed is 32 random bytes, so the commitment does not reveal it.
        sealed: 82 bytes per holder, in the order of the choice.
    """

    kind, stage = 5, "share"
    commitment: bytes = field(repr=False)
    sealed: tuple[bytes, ...] = field(repr=False)

    def _body(self) -> bytes:
        return self.commitment + _counted(self.sealed)

    @classmethod
    def _read(cls, reader: _Reader) -> Self:
        commitment = reader.octets("commitment", DIGEST_BYTES)
        return cls(commitment, reader.many("sealed shares", lambda name: reader.octets(name, SEALED_BYTES)))


@dataclass(frozen=True)
class Owner:
    """A client that drew the receiver as a holder.

    Attributes:
        index: In the cohort.
        member: Its advertisement and proof.
        sealed: Its shares for the receiver.
    """

    index: int
    member: Member
    sealed: bytes = field(repr=False)


@dataclass(frozen=True)
class ShareDelivery(Message):
    """Server, stage 4: which holders sent shares of their own, and the shares that the client holds for its owners.

    Attributes:
        took_part: One flag per holder, in the order of the choice.
        owners: Ascending by index.
    """

    kind, stage = 6, "deliver"
    took_part: tuple[bool, ...] = field(repr=False)
    owners: tuple[Owner, ...]

    def _body(self) -> bytes:
        owners = [struct.pack(">I", owner.index) + owner.member.body + owner.sealed for owner in self.owners]
        return _counted([bytes([flag]) for flag in self.took_part]) + _counted(owners)

    @classmethod
    def _read(cls, reader: _Reader) -> Self:
        def owner(_: str) -> Owner:
            return Owner(reader.number("owner"), Member.read(reader), reader.octets("sealed shares", SEALED_BYTES))

        return cls(reader.many("took part", reader.flag), reader.many("owners", owner))


@dataclass(frozen=True)
class MaskedInput(Message):
    """Client, stage 4: its input under all masks, and a statement to each holder that took part that the two share a mask.

    Attributes:
        statements: 16 bytes for each holder that took part, in the order of the choice.
        packed: The masked values, `bits` bits each.
    """

    kind, stage = 7, "mask"
    statements: tuple[bytes, ...] = field(repr=False)
    packed: bytes = field(repr=False)

    def _body(self) -> bytes:
        return _counted(self.statements) + self.packed

    @classmethod
    def _read(cls, reader: _Reader) -> Self:
        return cls(reader.many("statements", lambda name: reader.octets(name, STATEMENT_BYTES)), reader.rest())


def _optional(statements: tuple[bytes | None, ...]) -> bytes:
    return _counted([b"\x00" if statement is None else b"\x01" + statement for statement in statements])


def _read_optional(reader: _Reader, name: str) -> tuple[bytes | None, ...]:
    return reader.many(name, lambda name: reader.octets(name, STATEMENT_BYTES) if reader.flag(name) else None)


@dataclass(frozen=True)
class SurvivorReport(Message):
    """Server, stage 5: how many inputs arrived, and which of the client's owners sent one.

    Attributes:
        num_survivors: Inputs in the sum.
        owners: For each owner, in the order of the delivery: its statement to this client, or None if it dropped out.
    """

    kind, stage = 8, "report survivors"
    num_survivors: int
    owners: tuple[bytes | None, ...] = field(repr=False)

    def _body(self) -> bytes:
        return struct.pack(">I", self.num_survivors) + _optional(self.owners)

    @classmethod
    def _read(cls, reader: _Reader) -> Self:
        return cls(reader.number("num_survivors"), _read_optional(reader, "owners"))


@dataclass(frozen=True)
class Acknowledgments(Message):
    """Client, stage 5: a statement to each owner that it counts as living, in the order of the delivery.

    An owner that was said to have sent an input and whose own statement is false gets random bytes.
    """

    kind, stage = 9, "acknowledge"
    statements: tuple[bytes, ...] = field(repr=False)

    def _body(self) -> bytes:
        return _counted(self.statements)

    @classmethod
    def _read(cls, reader: _Reader) -> Self:
        return cls(reader.many("statements", lambda name: reader.octets(name, STATEMENT_BYTES)))


@dataclass(frozen=True)
class AcknowledgmentDelivery(Message):
    """Server, stage 6: what the client's holders acknowledged.

    Attributes:
        holders: For each holder, in the order of the choice: its statement to this client, or None.
    """

    kind, stage = 10, "deliver acknowledgments"
    holders: tuple[bytes | None, ...] = field(repr=False)

    def _body(self) -> bytes:
        return _optional(self.holders)

    @classmethod
    def _read(cls, reader: _Reader) -> Self:
        return cls(_read_optional(reader, "holders"))


@dataclass(frozen=True)
class OpenedShares(Message):
    """Client, stage 6: one share for each owner, in the order of the delivery.

    For a living owner it is a share of the seed of its own mask, for one that dropped out a share of its mask key. It is
    zeros where the owner's shares did not unseal.
    """

    kind, stage = 11, "open"
    shares: tuple[bytes, ...] = field(repr=False)

    def _body(self) -> bytes:
        return _counted(self.shares)

    @classmethod
    def _read(cls, reader: _Reader) -> Self:
        return cls(reader.many("shares", lambda name: reader.octets(name, SHARE_BYTES)))


MESSAGES: tuple[type[Message], ...] = (
    *(Advertisement, CohortAnnouncement, HolderChoice, HolderAdvertisements, SealedShares, ShareDelivery),
    *(MaskedInput, SurvivorReport, Acknowledgments, AcknowledgmentDelivery, OpenedShares),
)
