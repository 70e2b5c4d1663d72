"""Who can be asked now: nodes come, go and come back, and a round goes on with those that are there.

Before a node is asked for anything it gets what it needs to know: the roster as of now, and the catalog of the run if it
does not hold it. A node that does not take them is not asked. What never lives here: how many contributions a sum needs
(`releases.py`, from the plan), and who may take part at all (`provisioning/members.py`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from flwr.app import Message, MessageType, RecordDict

from server import cohort
from server.polling import PollingGrid
from shared.errors import CohortTooSmall
from shared.protocol.distribution import CATALOG, ROSTER, Offer, held_of
from shared.signing import Signed

_log = logging.getLogger("flwr")
_LOOK_SECONDS = 0.5
_MOST_REASONS = 3
_PREPARING_SECONDS = 300.0
# The pause before a node that did not take an offer is asked again: its owner may approve the run meanwhile. Where a silent
# node made the offer slow, each pause is twice as long as the one before.
_AGAIN_SECONDS, _LONGEST_AGAIN_SECONDS, _LONG_SECONDS = 30.0, 3600.0, 10.0


class Members(Protocol):
    """The nodes of a run."""

    def required(self, planned: int) -> int:
        """How many have to answer, where the plan says so many."""
        ...

    def ready(self, minimum: int) -> Sequence[int]:
        """The nodes that can be asked now, in a fixed order.

        Args:
            minimum: Of fewer nobody is asked.

        Raises:
            CohortTooSmall: If there are fewer within the deadline; nobody was asked, and nobody's budget was charged.
        """
        ...

    def look_again(self) -> None:
        """To be called after a request that too few answered: a node that refuses is then found before others are asked."""
        ...


@dataclass(frozen=True)
class FixedMembers:
    """The same nodes throughout, as in a simulation.

    Attributes:
        nodes: In a fixed order.
    """

    nodes: Sequence[int]

    def required(self, planned: int) -> int:
        """What the plan says."""
        return planned

    def ready(self, minimum: int) -> Sequence[int]:
        """All of them."""
        return self.nodes

    def look_again(self) -> None:
        """They stay the same."""


@dataclass
class OnlineMembers:
    """The nodes that are connected, each prepared once.

    Attributes:
        grid: Flower's connection to them.
        most: Clients that the run file declares; of more nodes the first by number are asked, so that the plan holds.
        timeout_seconds: For how long to wait for enough of them.
        catalog: The content of the catalog's file, and its digest.
        roster: Signs the roster as of now.
        quorum: Nodes that have to answer, where the operator has changed that (`terms.py`); None: what the plan says.
        note: Called at each change while the run waits for nodes: how many are ready, how many are needed, and the first
            reasons of the others.
    """

    grid: PollingGrid
    most: int
    timeout_seconds: float
    catalog: tuple[str, bytes]
    roster: Callable[[], Signed]
    quorum: int | None = None
    note: Callable[[int, int, Sequence[str]], None] = lambda ready, needed, reasons: None
    _reasons: tuple[str, ...] = ()
    _prepared: dict[int, str] = field(default_factory=dict)
    _tried: dict[int, tuple[str, float, float]] = field(default_factory=dict)

    def required(self, planned: int) -> int:
        """As `Members.required`."""
        return planned if self.quorum is None else self.quorum

    def ready(self, minimum: int) -> Sequence[int]:
        """As `Members.ready`."""
        start, told = time.monotonic(), (-1, self._reasons)
        while True:
            online = sorted(self.grid.get_node_ids())
            roster = self.roster()
            self._prepare([node for node in online if self._may_be_told(node, roster)], roster)
            nodes = [node for node in online if self._prepared.get(node) == roster.digest][: self.most]
            if len(nodes) >= max(minimum, 1):
                return nodes
            if time.monotonic() - start > self.timeout_seconds:
                raise CohortTooSmall(
                    f"{len(nodes)} nodes were ready within {self.timeout_seconds:.0f} seconds; this run needs {minimum}. "
                    f"Nobody was asked, and nothing was released. {self._advice()}"
                )
            if (len(nodes), self._reasons) != told:
                told = len(nodes), self._reasons
                _log.warning("Waiting for nodes: %d of %d are ready.", len(nodes), minimum)
                self.note(len(nodes), minimum, self._reasons)
            time.sleep(_LOOK_SECONDS)

    def look_again(self) -> None:
        """As `Members.look_again`."""
        for node in self._prepared:
            self._tried.pop(node, None)
        self._prepared.clear()

    def _advice(self) -> str:
        return f"The first reason: {self._reasons[0]}" if self._reasons else "Start the missing ones."

    def _may_be_told(self, node: int, roster: Signed) -> bool:
        """Whether a node lacks the roster, and was not told a moment ago: one that refuses is not asked all the time."""
        digest, at, pause = self._tried.get(node, ("", 0.0, 0.0))
        recently = digest == roster.digest and time.monotonic() - at < pause
        return self._prepared.get(node) != roster.digest and not recently

    def _prepare(self, nodes: Sequence[int], roster: Signed) -> None:
        """Hands out roster and catalog; notes who holds both."""
        if not nodes:
            return
        started, failures = time.monotonic(), list[str]()
        told = self._told(nodes, ROSTER, Offer(roster.digest, {"roster.json": roster.to_bytes()}).to_record(), failures)
        digest, content = self.catalog
        asked = self._told([node for node, held in told.items() if held], CATALOG, Offer(digest, {}).to_record(), failures)
        without = [node for node, held in asked.items() if not held]
        sent = self._told(without, CATALOG, Offer(digest, {"catalog.parquet": content}).to_record(), failures)
        self._reasons = tuple(sorted(set(failures)))[:_MOST_REASONS]
        long = time.monotonic() - started > _LONG_SECONDS
        for node, held in {**asked, **sent}.items():
            if held:
                self._prepared[node] = roster.digest
        for node in nodes:
            before = self._tried.get(node, ("", 0.0, 0.0))
            again = long and before[0] == roster.digest
            pause = min(2 * before[2], _LONGEST_AGAIN_SECONDS) if again else _AGAIN_SECONDS
            self._tried[node] = roster.digest, time.monotonic(), pause

    def _told(self, nodes: Sequence[int], kind: str, content: RecordDict, failures: list[str]) -> Mapping[int, bool]:
        """What each node said: whether it holds the content; takes the reasons of the others."""
        seconds = min(_PREPARING_SECONDS, self.timeout_seconds)
        return tell(self.grid, nodes, kind, content, timeout_seconds=seconds, failures=failures)


def tell(
    grid: PollingGrid,
    nodes: Sequence[int],
    kind: str,
    content: RecordDict,
    *,
    timeout_seconds: float = _PREPARING_SECONDS,
    failures: list[str] | None = None,
) -> dict[int, bool]:
    """Hands something out and reads who holds it.

    Args:
        grid: Flower's connection to the nodes.
        nodes: To whom.
        kind: The query.
        content: An offer.
        timeout_seconds: Who has not answered by then does not hold it.
        failures: Takes the reason of each node that did not answer with a yes or a no.
    """
    failed = list[str]()
    ascending = sorted(nodes)
    messages: Any = [
        Message(content, dst_node_id=node, message_type=f"{MessageType.QUERY}.{kind}", group_id=kind) for node in ascending
    ]
    found = cohort.replies(
        grid,  # type: ignore[arg-type]
        messages,
        ascending,
        read=held_of,
        timeout_seconds=timeout_seconds,
        failures=failed,
    )
    said = {ascending[place]: held for place, held in found}
    for failure in failed[:_MOST_REASONS]:
        _log.warning("A node did not take the %s: %s", kind, failure)
    if failures is not None:
        failures += failed
    return said
