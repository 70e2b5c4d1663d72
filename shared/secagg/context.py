"""What every key, signature, share and mask of a round is bound to: one digest of all that the clients agree on.

A message of another run, round, release, cohort, configuration or protocol version has another digest, so its signature,
its key or its associated data does not fit, and it is refused. What never lives here: secrets.
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
PROTOCOL_VERSION = 1
DIGEST_BYTES = 32
LARGEST_LENGTH = 2**28


@dataclass(frozen=True)
class RoundContext:
    """One secure sum, as each client knows it from its own configuration before anybody answered; all public.

    Attributes:
        run: Name of the run.
        round_number: From 0.
        release: Which of the round's sums this is, e.g. "update".
        adapter_digest: SHA-256 of what the clients start from.
        plan_digest: SHA-256 of the privacy plan.
        assumptions: Of the cohort; they give the sizes of its neighborhoods.
        min_survivors: Fewest inputs in a sum that is opened, t >= 2: the noise is shared among so many.
        length: Values of an input, >= 1.
        bits: The ring is the integers modulo 2**bits, bits in [20, 32].
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

    def __post_init__(self) -> None:
        for name, value, smallest, largest in (
            ("round_number", self.round_number, 0, 2**32 - 1),
            ("min_survivors", self.min_survivors, 2, LARGEST_COHORT),
            ("length", self.length, 1, LARGEST_LENGTH),
            ("bits", self.bits, SMALLEST_BITS, LARGEST_BITS),
            ("adapter_digest bytes", len(self.adapter_digest), DIGEST_BYTES, DIGEST_BYTES),
            ("plan_digest bytes", len(self.plan_digest), DIGEST_BYTES, DIGEST_BYTES),
        ):
            if not smallest <= value <= largest:
                raise ConfigError(f"Expected {name} in [{smallest}, {largest}], got {value}. A secure sum is bound to it.")

    @functools.cached_property
    def digest(self) -> bytes:
        """SHA-256 of all of it and of the protocol's version; what an advertisement is signed for."""
        fields = (
            *(self.run.encode(), struct.pack(">I", self.round_number), self.release.encode()),
            *(self.adapter_digest, self.plan_digest),
            struct.pack(">dd", self.assumptions.corrupt_fraction, self.assumptions.dropout_fraction),
            *(self.assumptions.server.encode(), struct.pack(">IIB", self.min_survivors, self.length, self.bits)),
        )
        return digest("round", *fields)

    def with_cohort(self, root: bytes, num_clients: int) -> CohortContext:
        """The context once the cohort is committed to.

        Args:
            root: Of the tree over all advertisements, 32 bytes.
            num_clients: n, advertisements in it.

        Raises:
            ConfigError: If no neighborhood is large enough for n clients.
        """
        return CohortContext(self, root, Neighborhoods.derive(num_clients, self.assumptions))


@dataclass(frozen=True)
class CohortContext:
    """A round's context with its cohort: what shares, masks and statements are bound to.

    Attributes:
        round: What was known before.
        root: Commitment to every advertisement and to n.
        neighborhoods: Sizes that follow from n and the assumptions.
    """

    round: RoundContext
    root: bytes
    neighborhoods: Neighborhoods

    @functools.cached_property
    def digest(self) -> bytes:
        """SHA-256 of all of it."""
        sizes = self.neighborhoods
        return digest(
            "cohort",
            self.round.digest,
            self.root,
            struct.pack(">III", sizes.num_clients, sizes.degree, sizes.threshold),
        )


def digest(label: str, *fields: bytes) -> bytes:
    """SHA-256 of the protocol's version, a label and fields, each after its length: other fields never give equal bytes."""
    text = b"tacit secure aggregation%c" % PROTOCOL_VERSION
    for field in (label.encode(), *fields):
        text += len(field).to_bytes(8, "big") + field
    return hashlib.sha256(text).digest()
