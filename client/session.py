"""A client's secure sums between messages: which one it takes part in, and the stages in their order.

A sum is opened by the server's task, which is held against this client's own configuration before a key is made. The
contribution is made as it is for a sum in the open (`client/answering.py`: admitted, reserved in the ledger, bounded, with
this client's share of the noise) and masked before it leaves. The instruction that asks for it has to be what the task
announced: the same run, round, release, plan, state and encoding.

Sessions live in this process' memory alone. A session that is lost with its process has dropped out, and one is never
restored: a copy could be made to give both shares of a neighbor.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from pathlib import Path

from flwr.app import Context, Message, RecordDict

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

# Sums that a process keeps; the oldest has dropped out. One a client, and a simulation plays many in one process.
_MOST_SESSIONS = 20_000
_sessions: OrderedDict[tuple[int, int], tuple[RoundContext, MaskingSession]] = OrderedDict()


def answer_stage(message: Message, context: Context) -> RecordDict:
    """The answer to a stage without data.

    Raises:
        PolicyRefused: If the plan is not that of this client, or sums are not secure under it.
        PrivacyError: If the owner's limits do not allow the contribution, which is not yet asked for.
        SecureAggregationError: If the server does not keep the protocol, or too few take part.
        ConfigError: If this node was not provisioned with an identity.
    """
    stage = stage_of(message)
    if stage == ADVERTISE:
        return stage_record(ADVERTISE, _opened(message, context).advertise())
    _, session = _session_of(context)
    answers = {
        CHOOSE_HOLDERS: session.choose_holders,
        SHARE: session.share,
        ACKNOWLEDGE: session.acknowledge,
        OPEN: session.open_shares,
    }
    if stage not in answers:
        raise ProtocolViolation(f"Expected a stage among {', '.join(answers)}, got another. Update both ends.")
    return stage_record(stage, answers[stage](payload_of(message, stage)))


def checked(task: SumTask, message: Message, context: Context) -> RecordDict | None:
    """Looks at a request for a masked contribution before data are read and the ledger is charged.

    Args:
        task: What the message asks for.
        message: With the shares that others sealed for this client.
        context: Of this node.

    Returns:
        What this very request was answered with before, and is again; None where it is to be answered.

    Raises:
        ProtocolViolation: If the sum was opened for something else.
        SecureAggregationError: If the server does not keep the protocol, or too few take part.
    """
    opened, session = _session_of(context)
    if task.context(opened.assumptions) != opened:
        raise ProtocolViolation(
            "Expected an instruction for the secure sum that was opened, got one for another run, round, release, plan, "
            "state or encoding. Nothing was sent; open a sum for it."
        )
    before = session.check(payload_of(message, MASK))
    return None if before is None else stage_record(MASK, before)


def masked(reply: ContributionReply, message: Message, context: Context) -> RecordDict:
    """A contribution under all masks: what leaves in its place, once `checked` has found nothing.

    Args:
        reply: Ring integers with this client's share of the noise. (private)
        message: With the shares that others sealed for this client.
        context: Of this node.
    """
    _, session = _session_of(context)
    return stage_record(MASK, session.mask(payload_of(message, MASK), reply.values))  # type: ignore[arg-type]


def _opened(message: Message, context: Context) -> MaskingSession:
    """The session of a task; the same one for the same task, so that no client is in one sum twice."""
    task, batch = SumTask.from_message(message), ClientBatch.of(context)
    admission.verify(batch, task.plan, round_number=task.round_number or None)
    if not task.plan.masks_contributions:
        raise PolicyRefused(
            "Expected a plan whose sums are secure, got one whose sums are formed in the open. No data was read; use the "
            "same configuration on both ends."
        )
    about = task.context(Assumptions.of(batch.config.secure_aggregation))
    key = (context.run_id, context.node_id)
    if key in _sessions and _sessions[key][0] == about:
        return _sessions[key][1]
    # What the owner would refuse is refused before keys are made: later it would cost all others the sum. Nothing is kept.
    with admission.reserve(batch, task.plan, task.release, run=task.run_digest, round_number=task.round_number) as dry:
        for refusal in dry.refused.values():
            raise refusal
    session = MaskingSession(about, read_credentials(*_files(batch)), now=int(time.time()))
    _sessions[key] = about, session
    _sessions.move_to_end(key)
    while len(_sessions) > _MOST_SESSIONS:
        _sessions.popitem(last=False)
    return session


def _session_of(context: Context) -> tuple[RoundContext, MaskingSession]:
    found = _sessions.get((context.run_id, context.node_id))
    if found is None:
        raise ProtocolViolation(
            "Expected a secure sum that this client takes part in, found none. It was opened in another process, or never; "
            "open it again."
        )
    return found


def _files(batch: ClientBatch) -> tuple[Path, Path]:
    """This node's key, and the roster that it was provisioned with."""
    if not batch.own_identity or not batch.own_roster:
        raise ConfigError(
            "Expected identity and roster in the node's configuration, found none. A secure sum needs to know who takes "
            "part; provision this node and start it with both."
        )
    return Path(batch.own_identity), Path(batch.own_roster)
