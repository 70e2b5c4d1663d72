"""One digest of all that the clients agree on. Every key, signature, share and mask of a round is bound to it.

A message of another run, round, release, cohort, configuration or protocol version has another digest. Its signature, its
key or its associated data then does not fit: the message is refused, or ignored where another client wrote it.
What never lives here: secrets.
"""

from __future__ import annotations

import functools
import hashlib
import struct
from dataclasses import dataclass

from shared.errors import ConfigError
from shared.secagg.encoding import LARGEST_BITS, SMALLEST_BITS
from shared.secagg.parameters import LARGEST_COHORT, Assumptions, Neighborhoods

# Changes whenever the same inputs would give other bytes on the wire.
PROTOCOL_VERSION = 3
_VERSION = bytes([PROTOCOL_VERSION])
_LENGTH = struct.Struct(">Q").pack
DIGEST_BYTES = 32
LARGEST_LENGTH = 2**28


@dataclass(frozen=True)
class RoundContext:
    """One secure sum, as each client knows it from its own configuration before any client answers; all public.

    Attributes:
        run: Name of the run.
        round_number: From 0.
        release: Which of the round's sums this is, e.g. "train".
        adapter_digest: SHA-256 of what contributions start from (`SumTask.state_digest`).
        plan_digest: SHA-256 of the privacy plan.
        assumptions: About the cohort; the sizes of its neighborhoods follow from them.
        min_survivors: t >= 2: a sum of fewer inputs is not opened, because the noise is shared among t.
        length: Values of an input, >= 1.
        bits: The ring is the integers modulo 2**bits, bits in [20, 32].
        smallest_active_sum: Honest clients that the plan counts on in every sum that an active server can open; a cohort
            that promises fewer is refused. 0: none.
        attempt: Number of the try, from 0: a sum that was not opened is begun anew. Each try has keys, masks, noise and a
            charge of its own.
    """

    run: str
    round_number: int
    release: str
    adapter_digest: bytes
    plan_digest: bytes
    assumptions: Assumptions
    min_survivors: int
    length: int
    bits: int
    smallest_active_sum: int = 0
    attempt: int = 0

    def __post_init__(self) -> None:
        for name, value, smallest, largest in (
            ("round_number", self.round_number, 0, 2**32 - 1),
            ("min_survivors", self.min_survivors, 2, LARGEST_COHORT),
            ("length", self.length, 1, LARGEST_LENGTH),
            ("bits", self.bits, SMALLEST_BITS, LARGEST_BITS),
            ("smallest_active_sum", self.smallest_active_sum, 0, LARGEST_COHORT),
            ("attempt", self.attempt, 0, 2**32 - 1),
            ("adapter_digest bytes", len(self.adapter_digest), DIGEST_BYTES, DIGEST_BYTES),
            ("plan_digest bytes", len(self.plan_digest), DIGEST_BYTES, DIGEST_BYTES),
        ):
            if not smallest <= value <= largest:
                raise ConfigError(f"Expected {name} in [{smallest}, {largest}], got {value}. A secure sum is bound to it.")

    @functools.cached_property
    def digest(self) -> bytes:
        """SHA-256 of the fields and of the protocol's version; the signature of an advertisement covers it."""
        fields = (
            *(self.run.encode(), struct.pack(">I", self.round_number), self.release.encode()),
            *(self.adapter_digest, self.plan_digest),
            struct.pack(">dd", self.assumptions.corrupt_fraction, self.assumptions.dropout_fraction),
            self.assumptions.server.encode(),
            struct.pack(">IIBII", self.min_survivors, self.length, self.bits, self.smallest_active_sum, self.attempt),
        )
        return digest("round", *fields)

    def with_cohort(self, root: bytes, num_clients: int) -> CohortContext:
        """The context with the cohort that the server committed to.

        Args:
            root: Root of the tree over all advertisements, 32 bytes.
            num_clients: n, the number of advertisements in the tree.

        Raises:
            ConfigError: If no neighborhood is large enough for n clients, or an active server could open too small a sum.
        """
        neighborhoods = Neighborhoods.derive(num_clients, self.assumptions)
        if neighborhoods.smallest_active_sum < self.smallest_active_sum:
            raise ConfigError(
                f"Expected a cohort in which no active server opens a sum of fewer than {self.smallest_active_sum} honest "
                f"clients, got num_clients={num_clients}. Ask more clients."
            )
        return CohortContext(self, root, neighborhoods)


@dataclass(frozen=True)
class CohortContext:
    """A round's context with its cohort: what shares, masks and statements are bound to.

    Attributes:
        round: The context from before the cohort was known.
        root: Commitment to every advertisement and to n.
        neighborhoods: Sizes that follow from n and the assumptions.
    """

    round: RoundContext
    root: bytes
    neighborhoods: Neighborhoods

    @functools.cached_property
    def digest(self) -> bytes:
        """SHA-256 of all fields."""
        sizes = self.neighborhoods
        return digest(
            "cohort",
            self.round.digest,
            self.root,
            struct.pack(">III", sizes.num_clients, sizes.degree, sizes.threshold),
        )


def digest(label: str, *fields: bytes) -> bytes:
    """SHA-256 of the protocol's version, a label and fields. Each follows its length, so other fields give other bytes."""
    parts = [b"tacit secure aggregation", _VERSION]
    for field in (label.encode(), *fields):
        parts.append(_LENGTH(len(field)))
        parts.append(field)
    return hashlib.sha256(b"".join(parts)).digest()
