"""The guard: sees every reply last, outside of the process that made it, and lets out what the run file says and no more.

It reads the reply as bytes and numbers and trusts nothing that the model's process says of it. What may leave is one of

    a contribution    one flat array of exactly the approved size: integers of the ring, or finite floats that are no longer
                      than public constants allow; an update of training may be smaller, with its rank beside it; with
                      privacy only after the ledger was charged for its run, release and round
    a secure sum's    message of the stage that was asked for, in its form; a masked contribution of exactly the approved
                      size, and only after the ledger was charged
    one bit           whether this node holds what the server handed out

and nothing beside it. What was let out or refused is written to a hash-chained log before it leaves. A refusal is no reply
of the model's process: the worker makes and signs it, and quotes at most 1,000 characters of that process's error.

Stated limits: the guard checks forms, sizes and norms. It cannot see what a compromised model's process writes into the
numbers of a contribution, or into keys and masked values, which look random. What never lives here: whether the node takes
part at all (`rules.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from numpy.typing import NDArray

from shared.errors import PolicyRefused, ProtocolViolation
from shared.privacy.plan import PrivacyPlan
from shared.privacy.releases import release_of
from shared.protocol.distribution import CATALOG, RELEASED, ROSTER, is_held_record
from shared.protocol.messages import ReleaseInstruction, TrainInstruction
from shared.protocol.reply_bounds import longest_count, longest_update
from shared.protocol.secure_sums import (
    ACKNOWLEDGE,
    ADVERTISE,
    CHOOSE_HOLDERS,
    MASK,
    OPEN,
    SHARE,
    TRAIN,
    is_stage_record,
    payload_of,
    stage_of,
)
from shared.run_file import RunFile
from shared.secagg import messages

# Keys, shares and statements for the neighbors of one client; the protocol's largest stage for thousands of them.
_LARGEST_STAGE: Final = 400_000
_FLOAT: Final = 4
# The client's message in each stage that reads no data.
_STAGES: Final[Mapping[str, type[messages.Message]]] = {
    ADVERTISE: messages.Advertisement,
    CHOOSE_HOLDERS: messages.HolderChoice,
    SHARE: messages.SealedShares,
    ACKNOWLEDGE: messages.Acknowledgments,
    OPEN: messages.OpenedShares,
}

M = TypeVar("M", bound=messages.Message)


@dataclass(frozen=True, eq=False)
class Guard:
    """What may leave in one run.

    Attributes:
        run_file: That the owner approved.
        charged: Whether the ledger holds an event for a run, a purpose and a round.
    """

    run_file: RunFile
    charged: Callable[[str, str, int], bool]

    def verify(self, request: Message, reply: RecordDict) -> int:
        """Passes a reply that may leave.

        Args:
            request: What it answers.
            reply: Its content. (private until it has passed)

        Returns:
            Its size in bytes.

        Raises:
            PolicyRefused: If it is anything else. The message never quotes a value.
        """
        kind = request.metadata.message_type.partition(".")[2] or request.metadata.message_type
        if kind in (CATALOG, ROSTER, RELEASED):
            _expect(is_held_record(reply), "one bit in answer to what the server hands out")
        elif kind == "secure_sum":
            self._stage(request, reply)
        elif self.run_file.plan.masks_contributions:
            self._masked(request, reply)
        else:
            self._contribution(request, reply)
        return _size(reply)

    def _stage(self, request: Message, reply: RecordDict) -> None:
        """A stage that reads no data: its message, of bounded length."""
        _expect(self.run_file.plan.masks_contributions, "nothing of a secure sum, because the plan has none")
        stage = str(stage_of(request))
        _expect(stage in _STAGES and is_stage_record(reply, stage), "the bytes of one stage")
        payload = _payload(request, reply, stage)
        _expect(len(payload) <= _LARGEST_STAGE, f"at most {_LARGEST_STAGE} bytes of a stage")
        _in_form(_STAGES[stage], payload)

    def _masked(self, request: Message, reply: RecordDict) -> None:
        _expect(is_stage_record(reply, MASK), "a masked contribution, because the plan masks them")
        run, purpose, round_number = _asked(request)
        masked = _in_form(messages.MaskedInput, _payload(request, reply, MASK))
        _expect(len(masked.packed) == self._approved(purpose), "a masked contribution of the approved size")
        self._is_charged(run, purpose, round_number)

    def _contribution(self, request: Message, reply: RecordDict) -> None:
        plan = self.run_file.plan
        run, purpose, round_number = _asked(request)
        values, rank = _flat(reply), self._rank(purpose, reply)
        approved = self._approved(purpose)
        if plan.clips_whole_updates:
            _expect(values.dtype == np.uint8, "packed integers of the ring")
            _expect(values.size == approved, "a contribution of the approved size")
        else:
            _expect(values.dtype == np.float32, "float32 values")
            # A device of a smaller rank sends a prefix of an update; of anything else there is one size.
            right = _FLOAT * values.size == approved or (rank is not None and _FLOAT * values.size < approved)
            _expect(right, "a contribution of the approved size")
            _expect(bool(np.isfinite(values).all()), "finite values")
            length = float(np.linalg.norm(values.astype(np.float64)))
            _expect(length <= self._longest(request, plan, purpose, values.size), "a norm that the plan allows")
        self._is_charged(run, purpose, round_number)

    def _approved(self, purpose: str) -> int:
        """Bytes of a contribution, as the owner approved them."""
        approved = self.run_file.message_bytes.get(purpose)
        if approved is None:
            raise _refused("a contribution to a release of the approved run")
        return approved

    def _rank(self, purpose: str, reply: RecordDict) -> int | None:
        """The rank beside a silo's update: one of those that the run gives its clients."""
        if "metrics" not in reply:
            return None
        record = reply["metrics"]
        rank = record["rank"] if isinstance(record, MetricRecord) and purpose == TRAIN else None
        if type(rank) is not int or rank not in self.run_file.config.adapter.largest_ranks():
            raise _refused("one rank of the run beside an update, and nothing beside anything else")
        return rank

    def _longest(self, request: Message, plan: PrivacyPlan, purpose: str, size: int) -> float:
        """The public bound on the length of this reply."""
        if purpose == TRAIN:
            state = TrainInstruction.from_message(request).state.astype(np.float64)
            training = self.run_file.config.local_training()
            return longest_update(plan, training, size=size, adapter_norm=float(np.linalg.norm(state)))
        release = plan.release(release_of(purpose))
        if release is None:
            return -math.inf
        return longest_count(plan, size=size, noise_stddev=plan.release_stddev(release))

    def _is_charged(self, run: str, purpose: str, round_number: int) -> None:
        if self.run_file.plan.adds_noise:
            _expect(self.charged(run, purpose, round_number), "a contribution that the ledger was charged for")


def _asked(request: Message) -> tuple[str, str, int]:
    """Run, purpose and round of a request for a contribution, as the ledger names them."""
    if request.metadata.message_type == TRAIN:
        training = TrainInstruction.from_message(request)
        return training.run_digest, TRAIN, training.round_number
    task = ReleaseInstruction.from_message(request)
    return task.run_digest, task.purpose, task.round_number


def _flat(reply: RecordDict) -> NDArray[np.generic]:
    """The one array of a contribution, if there is nothing else beside a rank."""
    metrics, record = reply.get("metrics"), reply.get("array")
    alone = set(reply) == {"array"} or (set(reply) == {"array", "metrics"} and set(metrics or ()) == {"rank"})
    array = record["flat"] if isinstance(record, ArrayRecord) and set(record) == {"flat"} else None
    if not alone or array is None or type(array) is not Array:
        raise _refused("one flat array and nothing beside it")
    values = array.numpy()
    _expect(values.ndim == 1, "one flat array")
    # Behind the values, or in their header, other bytes could travel.
    _expect(Array(values) == array, "an array in its one form")
    return values


def _in_form(kind: type[M], payload: bytes) -> M:
    """The message of a stage, read strictly: nothing stands behind its last field."""
    try:
        return kind.from_bytes(payload)
    except ProtocolViolation:
        raise _refused("the message of a stage in its form") from None


def _payload(request: Message, reply: RecordDict, stage: str) -> bytes:
    return payload_of(Message(reply, reply_to=request), stage)


def _size(reply: RecordDict) -> int:
    """Bytes of the values in a reply."""
    total = 0
    for record in reply.values():
        for value in record.values():
            total += len(value.data) if isinstance(value, Array) else len(value) if isinstance(value, bytes) else 8
    return total


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise _refused(what)


def _refused(what: str) -> PolicyRefused:
    return PolicyRefused(
        f"Expected {what} to leave this node, got something else. Nothing was sent; the node's own log says when."
    )
