"""What server and clients send each other, as typed messages.

This module is the allow-list of what a client may send: a reply is built from these fields and from nothing else. The stages
of a secure sum have their own messages (`shared/secagg/messages.py`). What each field holds under each mechanism stands in
`shared/privacy/sent.py`, which reports and pages quote.

No reply has a field for an exact loss or metric. In a simulation the simulator made the data, so it evaluates the server's
states itself (`simulations/evaluation.py`); a deployment has the noised metrics alone.

A contribution's size depends on public constants alone, and so does whether there is one: a client whose update is faulty
sends the contribution of a user without data. Weights are public constants and are not sent: nothing a client says decides
how much it counts. How a field travels: `wire.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from flwr.app import Message, RecordDict
from numpy.typing import NDArray

from shared.privacy.plan import PrivacyPlan
from shared.privacy.releases import Purpose
from shared.protocol.wire import Received, ResidentArray, SparseValues, array_of, fields_of_plan, record_of
from shared.secagg.encoding import RingEncoding

Target = Literal["validation", "test"]


@dataclass(frozen=True, eq=False)
class TrainInstruction:
    """Server -> client: train once, from this state."""

    run_digest: str
    round_number: int
    plan: PrivacyPlan
    l2_clip_norm: float  # of this round; adaptive clipping moves it
    state: NDArray[np.float32]

    def to_record(self) -> RecordDict:
        """The content of the message."""
        fields = {
            "run_digest": self.run_digest,
            "round_number": self.round_number,
            "l2_clip_norm": self.l2_clip_norm,
            **fields_of_plan(self.plan),
        }
        return record_of(array_of(self.state), fields, {})

    @classmethod
    def from_message(cls, message: Message) -> TrainInstruction:
        """Reads a message.

        Raises:
            ProtocolViolation: If a field is missing or of another type.
        """
        received = Received(message, "train instruction")
        return cls(
            run_digest=received.value("run_digest", str),
            round_number=received.value("round_number", int),
            plan=received.plan(),
            l2_clip_norm=received.value("l2_clip_norm", float),
            state=received.array(np.float32),
        )


@dataclass(frozen=True, eq=False)
class ContributionReply:
    """Client -> server: one bounded contribution to a sum.

    Attributes:
        values: float32, noised on the device (or exact without privacy); or (D,) uint32 ring integers, uint8 when packed.
            Sparse values travel as all of them.
        encoding: Where there is one, uint32 integers are packed by it before they travel. (public)
        rank: The largest rank of this client; `values` then hold that prefix of an update alone. None: all of it. Sums in
            the ring have no prefixes. (public)
    """

    values: NDArray[np.float32] | NDArray[np.uint32] | NDArray[np.uint8] | SparseValues
    encoding: RingEncoding | None = None
    rank: int | None = None

    def to_record(self) -> RecordDict:
        """The content of the reply."""
        values: NDArray[Any] = self.values.dense() if isinstance(self.values, SparseValues) else self.values
        if self.encoding is not None:
            values = self.encoding.pack(values)
        return record_of(array_of(values), {}, self._metrics)

    def to_resident_record(self) -> RecordDict:
        """The same for a server in this process: neither packed nor serialized."""
        return record_of(ResidentArray(self.values), {}, self._metrics)

    @property
    def _metrics(self) -> dict[str, float]:
        return {} if self.rank is None else {"rank": self.rank}

    @classmethod
    def from_message(cls, message: Message, *, in_ring: bool) -> ContributionReply:
        """Reads a reply.

        Args:
            message: The reply.
            in_ring: Whether ring integers are expected (packed as uint8, or uint32 where they never left the process), or
                floats.

        Raises:
            ProtocolViolation: If it is not of this form.
        """
        received = Received(message, "contribution")
        if (sparse := received.sparse) is not None:
            if sparse.values.dtype != (np.uint32 if in_ring else np.float32):
                raise received.violation("array", "ring integers" if in_ring else "floats")
            return cls(sparse)
        received.verify_contribution()
        if not in_ring:
            rank = received.rank()
            return cls(received.array(np.float32), rank=rank)
        return cls(received.array(np.uint32 if received.is_resident else np.uint8))


@dataclass(frozen=True, eq=False)
class ReleaseInstruction:
    """Server -> client: contribute once to a release beside training.

    Attributes:
        run_digest: Identifies the run in the ledgers.
        plan: What is done to every contribution.
        purpose: A release of the plan, or the interactions that metrics are about.
        round_number: Of the state; 0 before training.
        state: What was learned so far; empty where nothing was.
        head: The items whose pairs are counted, ascending; empty for the most popular ones by the state's prior.
        step: Which request for this purpose and round it is, from 0, where a run has several: in a reproducible run each
            has noise of its own.
    """

    run_digest: str
    plan: PrivacyPlan
    purpose: Purpose
    round_number: int
    state: NDArray[np.float32]
    head: tuple[int, ...] = ()
    step: int = 0

    def to_record(self) -> RecordDict:
        """The content of the message."""
        fields = {
            "run_digest": self.run_digest,
            "purpose": self.purpose,
            "round_number": self.round_number,
            **({"head": list(self.head)} if self.head else {}),
            **({"step": self.step} if self.step else {}),
            **fields_of_plan(self.plan),
        }
        return record_of(array_of(self.state), fields, {})

    @classmethod
    def from_message(cls, message: Message) -> ReleaseInstruction:
        """Reads a message.

        Raises:
            ProtocolViolation: If a field is missing or of another type.
        """
        received = Received(message, "release instruction")
        return cls(
            run_digest=received.value("run_digest", str),
            plan=received.plan(),
            purpose=received.purpose(),
            round_number=received.value("round_number", int),
            state=received.array(np.float32),
            head=received.head(),
            step=received.step(),
        )
