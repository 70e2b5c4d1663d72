"""A client's secure sums between messages: which one it takes part in, and its answer to each stage.

The server's task starts a sum. The client checks the task against its own configuration before it makes a key. The
contribution is made as for a sum in the open (`client/answering.py`: admitted, reserved in the ledger, bounded, with this
client's share of the noise) and masked before it leaves. The instruction that asks for it must match the task: the same run,
round, release, plan, state and encoding.

Sessions live only in the memory of this process. A client whose session is lost with its process has dropped out. A session
is never restored, because a copy could be made to give both shares of a neighbor.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

from flwr.app import Message, RecordDict

from client import admission
from client.batch import ClientBatch
from client.masking import MaskingSession
from shared.errors import ConfigError, PolicyRefused, ProtocolViolation
from shared.protocol.messages import ContributionReply
from shared.protocol.secure_sums import (
    ACKNOWLEDGE,
    ADVERTISE,
    CHOOSE_HOLDERS,
    MASK,
    OPEN,
    SHARE,
    SumTask,
    payload_of,
    stage_of,
    stage_record,
)
from shared.secagg.context import RoundContext
from shared.secagg.identities import read_credentials
from shared.secagg.parameters import Assumptions

# Sessions that a process keeps, one per client; beyond that the oldest is dropped. A simulation runs many clients in one.
_MOST_SESSIONS = 20_000
# What a process tells clients apart by: Flower's number of the run, and of the node.
Key = tuple[int, int]
_sessions: OrderedDict[Key, tuple[RoundContext, MaskingSession]] = OrderedDict()


def answer_stage(message: Message, batch: ClientBatch, key: Key) -> RecordDict:
    """Answers a stage that reads no data.

    Args:
        message: Of the stage.
        batch: This client.
        key: Tells this client in this run from all others of the process.

    Raises:
        PolicyRefused: If the plan is not this client's own, or does not mask contributions.
        PrivacyError: If the owner's limits do not allow the contribution; it is not asked for yet.
        SecureAggregationError: If the server breaks the protocol, or too few clients take part.
        ConfigError: If this node was not provisioned with an identity.
    """
    stage = stage_of(message)
    if stage == ADVERTISE:
        return stage_record(ADVERTISE, _opened(message, batch, key).advertise())
    _, session = _session_of(key)
    answers = {
        CHOOSE_HOLDERS: session.choose_holders,
        SHARE: session.share,
        ACKNOWLEDGE: session.acknowledge,
        OPEN: session.open_shares,
    }
    if stage not in answers:
        raise ProtocolViolation(f"Expected a stage among {', '.join(answers)}, got another. Update both ends.")
    return stage_record(stage, answers[stage](payload_of(message, stage)))


def checked(task: SumTask, message: Message, key: Key) -> RecordDict | None:
    """Checks a request for a masked contribution before data is read and the ledger is charged.

    Args:
        task: The secure sum that the message asks a contribution for.
        message: With the shares that others sealed for this client.
        key: As in `answer_stage`.

    Returns:
        The earlier answer to this very request, to be sent again; None if it has not been answered.

    Raises:
        ProtocolViolation: If the sum was started for something else.
        SecureAggregationError: If the server breaks the protocol, or too few clients take part.
    """
    opened, session = _session_of(key)
    if replace(task, attempt=opened.attempt).context(opened.assumptions) != opened:
        raise ProtocolViolation(
            "Expected an instruction for the secure sum that was started, got one for another run, round, release, plan, "
            "state or encoding. Nothing was sent; start a sum for it."
        )
    before = session.check(payload_of(message, MASK))
    return None if before is None else stage_record(MASK, before)


def masked(reply: ContributionReply, message: Message, key: Key) -> RecordDict:
    """The masked contribution, which leaves in place of the reply; call it only after `checked` returned None.

    Args:
        reply: Ring integers with this client's share of the noise. (private)
        message: With the shares that others sealed for this client.
        key: As in `answer_stage`.
    """
    _, session = _session_of(key)
    return stage_record(MASK, session.mask(payload_of(message, MASK), reply.values))  # type: ignore[arg-type]


def _opened(message: Message, batch: ClientBatch, key: Key) -> MaskingSession:
    """The session of a task. The same task gets the same session, so that no client is in one sum twice."""
    task = SumTask.from_message(message)
    admission.verify(batch, task.plan, round_number=task.round_number or None)
    if not task.plan.masks_contributions:
        raise PolicyRefused(
            "Expected a plan whose sums are secure, got one whose sums are formed in the open. No data was read; use the "
            "same configuration on both ends."
        )
    about = task.context(Assumptions.of(batch.config.secure_aggregation))
    if key in _sessions and _sessions[key][0] == about:
        return _sessions[key][1]
    # The owner's limits refuse before keys are made: a later refusal could cost the others the sum. Nothing is reserved.
    with admission.reserve(batch, task.plan, task.release, run=task.run_digest, round_number=task.round_number) as dry:
        for refusal in dry.refused.values():
            raise refusal
    session = MaskingSession(about, read_credentials(*_files(batch)), now=int(time.time()))
    _sessions[key] = about, session
    _sessions.move_to_end(key)
    while len(_sessions) > _MOST_SESSIONS:
        _sessions.popitem(last=False)
    return session


def _session_of(key: Key) -> tuple[RoundContext, MaskingSession]:
    found = _sessions.get(key)
    if found is None:
        raise ProtocolViolation(
            "Expected a secure sum that this client takes part in, found none. It was started in another process, or never; "
            "start it again."
        )
    return found


def _files(batch: ClientBatch) -> tuple[Path, Path]:
    """The files of this node's key and of the roster that it was provisioned with."""
    if not batch.own_identity or not batch.own_roster:
        raise ConfigError(
            "Expected identity and roster in the node's configuration, found none. A secure sum needs to know who takes "
            "part; provision this node and start it with both."
        )
    return Path(batch.own_identity), Path(batch.own_roster)
