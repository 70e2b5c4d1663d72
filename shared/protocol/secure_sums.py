"""A secure sum on the wire: its task, and the bytes of each stage.

The messages of a stage are bytes with a fixed layout (`shared/secagg/messages.py`) and travel in a record of their own. The
first message carries the task: what the sum is about. The fourth carries the instruction to contribute, so that data is
read, accounted for and bounded as in a sum in the open; its reply holds masked values and statements, and nothing else.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict
from numpy.typing import NDArray

from shared.privacy.plan import PrivacyPlan
from shared.protocol.wire import Received, array_of, fields_of_plan, record_of
from shared.secagg.context import RoundContext
from shared.secagg.encoding import RingEncoding
from shared.secagg.parameters import Assumptions

_RECORD = "secure_sum"
# The stages in their order. `MASK` travels with the instruction to contribute.
ADVERTISE: Final = "advertise"
CHOOSE_HOLDERS: Final = "choose-holders"
SHARE: Final = "share"
MASK: Final = "mask"
ACKNOWLEDGE: Final = "acknowledge"
OPEN: Final = "open"
STAGES: Final = (ADVERTISE, CHOOSE_HOLDERS, SHARE, MASK, ACKNOWLEDGE, OPEN)
TRAIN: Final = "train"


@dataclass(frozen=True)
class SumTask:
    """What one secure sum is about. (public)

    Attributes:
        run_digest: Identifies the run in the ledgers.
        round_number: Of the state; 0 before training.
        release: `train`, or the purpose of a release beside it.
        plan: What is done to every contribution.
        state_digest: SHA-256 of what contributions start from: the state, the items whose pairs are counted, the encoding.
        length: Number of ring integers in a contribution.
        bits: Bits of each.
        attempt: Number of the try, from 0: a sum that was not opened is begun anew.
    """

    run_digest: str
    round_number: int
    release: str
    plan: PrivacyPlan
    state_digest: bytes = field(repr=False)
    length: int
    bits: int
    attempt: int = 0

    @classmethod
    def of(
        cls,
        run_digest: str,
        round_number: int,
        release: str,
        plan: PrivacyPlan,
        state: NDArray[np.float32],
        ring: RingEncoding,
        *,
        head: Sequence[int] = (),
    ) -> SumTask:
        """The task of a sum of contributions from a state, encoded by `ring`; `head` as in `ReleaseInstruction`."""
        start = hashlib.sha256(np.ascontiguousarray(state).tobytes())
        start.update(json.dumps([list(head), ring.size, ring.scale.hex(), ring.l2_bound.hex()]).encode())
        digest = start.digest()
        return cls(run_digest, round_number, release, plan, digest, ring.dimension, ring.bits)

    def context(self, assumptions: Assumptions) -> RoundContext:
        """The context that keys, shares and masks are bound to.

        Args:
            assumptions: About the cohort; each side passes its own. (public)

        Raises:
            ConfigError: If no such sum can be secure, e.g. one of a single survivor.
        """
        return RoundContext(
            run=self.run_digest,
            round_number=self.round_number,
            release=self.release,
            adapter_digest=self.state_digest,
            plan_digest=_digest_of(self.plan),
            assumptions=assumptions,
            min_survivors=self.plan.minimum_survivors,
            length=self.length,
            bits=self.bits,
            smallest_active_sum=self.plan.smallest_active_sum,
            attempt=self.attempt,
        )

    def to_record(self) -> RecordDict:
        """The content of the message that starts the sum: the first stage."""
        names = ("round_number", "length", "bits", "attempt")
        numbers = {name: getattr(self, name) for name in names}
        fields = {
            "run_digest": self.run_digest,
            "release": self.release,
            "state_digest": self.state_digest,
            **numbers,
            **fields_of_plan(self.plan),
        }
        return with_stage(record_of(array_of(np.zeros(0, dtype=np.float32)), fields, {}), ADVERTISE, b"")

    @classmethod
    def from_message(cls, message: Message) -> SumTask:
        """Reads a message.

        Raises:
            ProtocolViolation: If a field is missing or of another type.
        """
        received = Received(message, "secure sum's task")
        return cls(
            run_digest=received.value("run_digest", str),
            round_number=received.value("round_number", int),
            release=received.value("release", str),
            plan=received.plan(),
            state_digest=received.value("state_digest", bytes),
            length=received.value("length", int),
            bits=received.value("bits", int),
            attempt=received.value("attempt", int),
        )


def _digest_of(plan: PrivacyPlan) -> bytes:
    text = json.dumps(dataclasses.asdict(plan), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).digest()


def with_stage(content: RecordDict, stage: str, payload: bytes) -> RecordDict:
    """A copy of a message's content with one stage's bytes beside it."""
    own = RecordDict(dict(content.items()))
    own[_RECORD] = ConfigRecord({"stage": stage, "payload": payload})
    return own


def stage_record(stage: str, payload: bytes) -> RecordDict:
    """The content of a message that holds only one stage's bytes."""
    return with_stage(RecordDict(), stage, payload)


def is_stage_record(content: RecordDict, stage: str) -> bool:
    """Whether a content holds one stage's bytes and nothing else."""
    record = content.get(_RECORD)
    if set(content) != {_RECORD} or not isinstance(record, ConfigRecord):
        return False
    return set(record) == {"stage", "payload"} and record["stage"] == stage and isinstance(record["payload"], bytes)


def stage_of(message: Message) -> str | None:
    """The stage that a message names; None if it names none. It may be any text; `payload_of` checks it."""
    record = message.content.get(_RECORD)
    stage = record.get("stage") if isinstance(record, ConfigRecord) else None
    return stage if isinstance(stage, str) else None


def payload_of(message: Message, stage: str) -> bytes:
    """The bytes of one stage.

    Raises:
        ProtocolViolation: If the message is of another stage, or has none.
    """
    record = message.content.get(_RECORD)
    payload = record.get("payload") if isinstance(record, ConfigRecord) else None
    if stage_of(message) != stage or not isinstance(payload, bytes):
        raise Received(message, "secure sum").violation("stage", f"{stage} with its bytes")
    return payload
