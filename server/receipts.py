"""What came in answer to one request, as the server's log holds it: the head of each node's log, and its reply's fate.

Nodes with a log of their own send its head with each contribution (`shared/protocol/log_heads.py`). In a simulation clients
have none, so nothing is written. Replies stand in the order of their heads, which are random: no line says which node sent
which, nor when.

What never lives here: how a log of a node is compared with this one (`simulations/audits/reconciliation.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from flwr.app import Message

from server.event_log import EventLog
from shared.privacy.plan import PrivacyPlan
from shared.protocol.log_heads import contribution_digest, head_in


@dataclass(eq=False)
class Receipts:
    """The replies to one request.

    Attributes:
        plan: Whether contributions may have a digest.
        purpose, round_number: What was asked for.
    """

    plan: PrivacyPlan
    purpose: str
    round_number: int
    _heads: dict[int, tuple[str, str | None]] = field(default_factory=dict)
    _used: set[int] = field(default_factory=set)

    def came(self, message: Message) -> None:
        """Takes note of a reply as it came.

        Raises:
            ProtocolViolation: If what stands in the place of a head is none.
        """
        head = head_in(message)
        if head is not None:
            self._heads[message.metadata.src_node_id] = (head, contribution_digest(message.content, self.plan))

    def used(self, *nodes: int) -> None:
        """Takes note of the nodes whose replies are in the sum."""
        self._used.update(nodes)

    def write(self, log: EventLog) -> None:
        """Writes all of them as one event; none where no reply carried a head."""
        if not self._heads:
            return
        replies = [
            {"head": head, "contribution": digest, "used": node in self._used}
            for node, (head, digest) in self._heads.items()
        ]
        replies.sort(key=lambda reply: str(reply["head"]))
        log.append("received", purpose=self.purpose, round_number=self.round_number, replies=replies)
