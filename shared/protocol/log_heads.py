"""The hash of the last record of a log, exchanged: each end writes the other's head into a log of its own.

A node keeps a hash-chained log of what left it, a server one of what it asked and received. A chain alone proves nothing
against whoever can write it anew. So each instruction carries the head of the server's log, each contribution the head of
the node's, and each end writes down the other's head, and a digest of the bytes that were sent. Who changes a log after
that has to change the log of the other end too (`tacit audit reconcile`).

Guarantee:
    A head tells nothing of what its log says: each record holds 32 random bytes from the system's CSPRNG that never travel,
    so a head is a commitment that hides it, however few records are possible. Only noised or masked bytes have a digest. A
    digest of clean ones would confirm a guess of them, so there is none. A head has a fixed size.

What never lives here: the logs (`client/node/decisions.py`, `server/event_log.py`).
"""

from __future__ import annotations

import hashlib
from typing import Final

from flwr.app import Array, ConfigRecord, Message, RecordDict

from shared.errors import ProtocolViolation
from shared.privacy.plan import PrivacyPlan

RECORD: Final = "log"
_HEAD: Final = "head"
HEAD_BYTES: Final = 32


def with_head(content: RecordDict, head: str) -> RecordDict:
    """A copy of a message's content with the head of the sender's log beside it.

    Args:
        content: The message.
        head: SHA-256, hex. (public)
    """
    own = RecordDict(dict(content.items()))
    own[RECORD] = ConfigRecord({_HEAD: bytes.fromhex(head)})
    return own


def head_in(message: Message) -> str | None:
    """The head that a message carries, hex; None if it carries none, as a client without a log.

    Raises:
        ProtocolViolation: If there is anything else in its place.
    """
    if RECORD not in message.content:
        return None
    record = message.content[RECORD]
    head = record.get(_HEAD) if isinstance(record, ConfigRecord) and set(record) == {_HEAD} else None
    if not isinstance(head, bytes) or len(head) != HEAD_BYTES:
        raise ProtocolViolation(
            f"Expected a log's head of {HEAD_BYTES} bytes and nothing beside it, got something else. Update both ends."
        )
    return head.hex()


def contribution_digest(content: RecordDict, plan: PrivacyPlan) -> str | None:
    """SHA-256 of a contribution as it travels, hex; None where its values are clean or carry a share of the noise alone.

    Args:
        content: The reply; a log's head in it does not count.
        plan: What was done to the contribution. (public)
    """
    return _digest(content) if plan.adds_noise_locally or plan.masks_contributions else None


def instruction_digest(content: RecordDict, plan: PrivacyPlan) -> str | None:
    """SHA-256 of an instruction as it travels, hex; None where its state was made of exact sums.

    Args:
        content: The instruction; a log's head and a secure sum's shares in it do not count: they differ by client.
        plan: What is done to contributions. (public)
    """
    return _digest(content) if plan.adds_noise else None


def _digest(content: RecordDict) -> str:
    found = hashlib.sha256()
    alike = {RECORD, "secure_sum"} if "array" in content else {RECORD}  # an instruction is the same to all clients
    for name in sorted(set(content) - alike):
        for key, value in sorted(content[name].items()):
            data = (
                f"{value.dtype}{tuple(value.shape)}".encode() + value.data
                if isinstance(value, Array)
                else repr(value).encode()
            )
            found.update(f"{name}\n{key}\n{len(data)}\n".encode() + data)
    return found.hexdigest()
