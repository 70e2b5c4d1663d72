"""Whole secure sums for tests: a population with a roster, and a round in which anybody may drop out anywhere."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from client.masking import MaskingSession
from server.unmasking import RingSum, SecureSum
from shared.secagg.context import RoundContext
from shared.secagg.identities import Credentials
from shared.secagg.keys import Roster, RosterEntry
from shared.secagg.parameters import Assumptions

NOW = 1_800_000_000
FIRST_HANDLE = 1000  # the server's numbers of clients are not their places in the cohort
STAGES = ("advertise", "choose", "share", "mask", "acknowledge", "open")
ROUND = RoundContext(
    run="run",
    round_number=3,
    release="update",
    adapter_digest=bytes(32),
    plan_digest=bytes([1]) * 32,
    assumptions=Assumptions(0.0, 0.375, "active"),
    min_survivors=2,
    length=5,
    bits=20,
)


def context(**changes: object) -> RoundContext:
    """ROUND, otherwise."""
    return dataclasses.replace(ROUND, **changes)  # type: ignore[arg-type]


def identity(number: int) -> bytes:
    return hashlib.sha256(b"identity %d" % number).digest()[:16]


@functools.cache
def signing_key(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"key %d" % number).digest())


def roster(count: int) -> Roster:
    return Roster({
        identity(number): RosterEntry(signing_key(number).public_key().public_bytes_raw(), NOW + 60)
        for number in range(count)
    })  # fmt: skip


def session(number: int, round_context: RoundContext, count: int) -> MaskingSession:
    return MaskingSession(round_context, Credentials(identity(number), signing_key(number), roster(count)), now=NOW)


def inputs_of(round_context: RoundContext, count: int, seed: int = 0) -> list[NDArray[np.uint32]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 2**round_context.bits, round_context.length, dtype=np.uint32) for _ in range(count)]


def plain_sum(vectors: Collection[NDArray[np.uint32]], bits: int) -> list[int]:
    """In Python's own integers."""
    return [sum(map(int, column)) % 2**bits for column in zip(*vectors, strict=True)]


Tamper = Callable[[dict[int, bytes]], Mapping[int, bytes]]


@dataclass
class Federation:
    """Sessions and a server; `advance` runs one stage after another.

    Attributes:
        sessions: By the server's number.
        to_clients: The server's latest messages.
        log: Stage -> all that clients sent.
        told: Stage -> all that the server sent for it.
    """

    round_context: RoundContext
    count: int
    seed: int = 0
    sessions: dict[int, MaskingSession] = field(default_factory=dict)
    to_clients: dict[int, bytes] = field(default_factory=dict)
    log: dict[str, dict[int, bytes]] = field(default_factory=dict)
    told: dict[str, dict[int, bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.server = SecureSum(self.round_context, roster(self.count), now=NOW)
        self.inputs = dict(enumerate(inputs_of(self.round_context, self.count, self.seed), start=FIRST_HANDLE))
        for number in range(self.count):
            self.sessions[FIRST_HANDLE + number] = session(number, self.round_context, self.count)

    def replies(self, stage: str, *, lost: Collection[int] = ()) -> dict[int, bytes]:
        """What clients that are not lost answer in a stage."""
        self.told[stage] = dict(self.to_clients)
        asked = self.sessions if stage == "advertise" else self.to_clients
        self.log[stage] = {client: self.reply(stage, client) for client in asked if client not in lost}
        return self.log[stage]

    def reply(self, stage: str, client: int) -> bytes:
        member = self.sessions[client]
        if stage == "advertise":
            return member.advertise()
        asked = self.to_clients[client]
        if stage == "mask":
            return member.mask(asked, self.inputs[client])
        methods = {
            "choose": member.choose_holders, "share": member.share,
            "acknowledge": member.acknowledge, "open": member.open_shares,
        }  # fmt: skip
        return methods[stage](asked)

    def answer(self, stage: str, replies: Mapping[int, bytes]) -> RingSum | None:
        """The server's next messages, or its result."""
        if stage == "open":
            return self.server.unmask(replies)
        if stage == "mask":
            self.to_clients = self.server.report_survivors(iter(replies.items()))
            return None
        methods = {
            "advertise": self.server.announce, "choose": self.server.introduce,
            "share": self.server.deliver, "acknowledge": self.server.deliver_acknowledgments,
        }  # fmt: skip
        self.to_clients = methods[stage](replies)
        return None

    def advance(self, until: str = "open", *, lost: Mapping[str, Collection[int]] | None = None) -> RingSum | None:
        """Runs the stages that are left up to and with `until`; `lost` are drop-outs by stage."""
        result = None
        for stage in STAGES[len(self.log) : STAGES.index(until) + 1]:
            result = self.answer(stage, self.replies(stage, lost=(lost or {}).get(stage, ())))
        return result

    def finish(self, lost: Mapping[str, Collection[int]] | None = None) -> RingSum:
        result = self.advance(lost=lost)
        assert result is not None
        return result
