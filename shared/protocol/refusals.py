"""A node's refusal: typed, signed by the node, and a reply like any other, so that a round goes on without it.

The reason is a message of `shared/errors.py`: it never holds user ids, items or weights. It says which rule of the owner was
not met; what an owner allows is no secret towards the server, which proposed the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ConfigRecord, Message, RecordDict

from shared.errors import ConfigError
from shared.signing import Signed, sign, verified

KIND: Final = "refusal"
_RECORD: Final = "refusal"
_LONGEST = 4000

# not-approved: the owner has not approved this run; policy: a rule of the owner; not-now: the same, and later it may fit;
# budget: the ledger; guard: the reply was not what may leave; protocol: the message was not of this version or run.
Why = Literal["not-approved", "policy", "not-now", "budget", "guard", "protocol", "failed"]
WHYS: Final = ("not-approved", "policy", "not-now", "budget", "guard", "protocol", "failed")


def refusal_record(
    why: Why, reason: str, *, node: str, run: str, message_type: str, group: str, now: int, key: Ed25519PrivateKey
) -> RecordDict:
    """The content of a reply that refuses.

    Args:
        why: What kind.
        reason: A message of `shared/errors.py`, or words of ours.
        node: Its name.
        run: Digest of the run file; empty where there was none.
        message_type: Of the request.
        group: Its round.
        now: Seconds since 1970.
        key: Of the node. (private)
    """
    body: Mapping[str, Any] = {
        "why": why,
        "reason": reason[: _LONGEST // 4],
        "node": node,
        "run": run,
        "message_type": message_type,
        "group": group,
        "time": now,
    }
    return RecordDict({_RECORD: ConfigRecord({_RECORD: sign(KIND, body, key).to_bytes()})})


def _document_in(content: RecordDict) -> bytes | None:
    record = content.get(_RECORD)
    if set(content) != {_RECORD} or not isinstance(record, ConfigRecord) or list(record) != [_RECORD]:
        return None
    document = record[_RECORD]
    return document if isinstance(document, bytes) and len(document) <= _LONGEST else None


def refusal_in(message: Message) -> Signed | None:
    """The refusal that a reply holds; None where it is none, or its signature does not fit."""
    content = None if message.has_error() else _document_in(message.content)
    if content is None:
        return None
    try:
        document = verified(content, KIND, signer=None, where="a refusal")
    except ConfigError:
        return None
    fields = ("why", "reason", "node", "run", "message_type", "group")
    whole = all(isinstance(document.body.get(name), str) for name in fields) and document.body["why"] in WHYS
    return document if whole else None


def in_words(refusal: Signed) -> str:
    """One line for the operator. It names no node: the signature shows that one key made it, and not whose key that is."""
    return f"a node refused ({refusal.body['why']}): {refusal.body['reason']}"
