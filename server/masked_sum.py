"""A cohort's sum by secure aggregation: six exchanges of messages, after which the server has the sum and no single input.

The counterpart of the one exchange of a sum in the open (`server/cohort.py`). The protocol itself is `server/unmasking.py`;
this file sends its messages through Flower. A client that fails in a stage has dropped out and is asked nothing more.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from server import cohort
from server.event_log import Progress
from server.unmasking import SecureSum
from shared.config import RunConfig
from shared.errors import SecureAggregationError
from shared.privacy.plan import PrivacyPlan
from shared.protocol.secure_sums import (
    ACKNOWLEDGE,
    ADVERTISE,
    CHOOSE_HOLDERS,
    MASK,
    OPEN,
    SHARE,
    SumTask,
    payload_of,
    stage_record,
    with_stage,
)
from shared.run_folder import IDENTITIES
from shared.secagg.identities import ROSTER_FILE, read_roster
from shared.secagg.keys import Roster
from shared.secagg.parameters import Assumptions

# The message type of every stage except the one that carries a contribution.
STAGES_OF_SUMS = f"{MessageType.QUERY}.secure_sum"
# The part of a sum's time by which each stage ends. Otherwise one client that is silent in the first stage would leave no
# time for the others. That stage may have to load a model, and the fourth trains one; a stage that ends early leaves its
# time to the next.
_ENDS: Final = {ADVERTISE: 0.5, CHOOSE_HOLDERS: 0.58, SHARE: 0.66, MASK: 0.9, ACKNOWLEDGE: 0.95, OPEN: 1.0}


@dataclass(frozen=True, eq=False)
class Opened:
    """A sum that was opened.

    Attributes:
        total: (length,) ring integers, the sum of the survivors' contributions.
        asked: Number of clients asked to take part.
        survivors: The nodes whose contributions are in the sum.
        answered: Stage -> number of clients whose answer was accepted.
        bytes_down: Sent to all clients together for the protocol, without the task and the instruction.
        bytes_up: Received from all clients together, masked contributions included.
        seconds: Duration of all stages.
        failures: Why clients dropped out.
    """

    total: NDArray[np.uint32]
    asked: int
    survivors: tuple[int, ...]
    answered: Mapping[str, int]
    bytes_down: int
    bytes_up: int
    seconds: float
    failures: list[str]


class MaskedSums:
    """The secure sums of one run.

    A client whose secret cannot be opened ends one sum and is left out of those that follow, as if it had dropped out, until
    this process ends (`left_out`).

    Args:
        grid: Flower's connection to the nodes.
        roster: Returns the identities that may take part now: nodes join and are revoked while a run goes on.
        assumptions: About a cohort.
        timeout_seconds: Time of a sum, all its stages together; a client that is silent in one stage costs that stage's
            part of it, and has dropped out.
    """

    def __init__(
        self, grid: Grid, roster: Callable[[], Roster], assumptions: Assumptions, *, timeout_seconds: float
    ) -> None:
        self._grid, self._roster, self._assumptions = grid, roster, assumptions
        self._timeout_seconds = timeout_seconds
        self._left_out: Set[int] = frozenset()
        self._attempts: Counter[SumTask] = Counter()

    @classmethod
    def of(cls, grid: Grid, config: RunConfig, plan: PrivacyPlan, run_dir: Path) -> MaskedSums | None:
        """The secure sums of a run; None if the plan adds contributions up in the open.

        Raises:
            ConfigError: If the roster is missing or damaged.
        """
        if not plan.masks_contributions:
            return None
        settings = config.secure_aggregation
        roster = Path(settings.roster) if settings.roster else run_dir / IDENTITIES / ROSTER_FILE
        timeout = config.federation.timeout_seconds
        read_roster(roster)  # a missing one is told before anybody is asked
        return cls(grid, lambda: read_roster(roster), Assumptions.of(settings), timeout_seconds=timeout)

    def open(
        self,
        nodes: Sequence[int],
        task: SumTask,
        instruction: RecordDict,
        message_type: str,
        *,
        group: str,
        progress: Progress,
        came: Callable[[Message], None] = lambda message: None,
    ) -> Opened:
        """Asks for contributions and opens their sum.

        Args:
            nodes: The clients to ask.
            task: What the sum is about.
            instruction: Asks a client for its contribution.
            message_type: Of the instruction.
            group: The round, for Flower's records.
            progress: Called in each stage with the number of answers that have come.
            came: Shown each reply that holds a masked contribution; it is dropped where this raises.

        Raises:
            CohortTooSmall: If too few took part; no sum was opened.
            SecureAggregationError: If too few holders answered for a secret, or a share is wrong; no sum was opened.
        """
        exchanges = _Exchanges(self._grid, group, timeout_seconds=self._timeout_seconds, progress=progress)
        try:
            return self._opened(exchanges, nodes, task, instruction, message_type, came)
        except SecureAggregationError as error:
            if not exchanges.failures:
                raise
            raise type(error)(f"{error} The first failure: {exchanges.failures[0]}") from None

    def _opened(
        self,
        exchanges: _Exchanges,
        nodes: Sequence[int],
        task: SumTask,
        instruction: RecordDict,
        message_type: str,
        came: Callable[[Message], None],
    ) -> Opened:
        # A client answers each stage of a sum once, so a sum that was not opened is begun anew with other keys.
        self._attempts[task] += 1
        task = replace(task, attempt=self._attempts[task] - 1)
        secure = SecureSum(task.context(self._assumptions), self._roster(), now=int(time.time()))
        asked_first = [node for node in nodes if node not in self._left_out]
        found = dict(exchanges.answers(dict.fromkeys(asked_first, task.to_record()), ADVERTISE))
        found = dict(exchanges.stage(CHOOSE_HOLDERS, secure.announce(found)))
        found = dict(exchanges.stage(SHARE, secure.introduce(found)))
        deliveries = secure.deliver(found)
        asked = {node: with_stage(instruction, MASK, payload) for node, payload in deliveries.items()}
        exchanges.down += sum(map(len, deliveries.values()))
        masked = exchanges.answers(asked, MASK, message_type=message_type, came=came)
        found = dict(exchanges.stage(ACKNOWLEDGE, secure.report_survivors(masked)))
        found = dict(exchanges.stage(OPEN, secure.deliver_acknowledgments(found)))
        try:
            opened = secure.unmask(found)
        finally:
            corrupt = self._assumptions.corrupt_fraction
            self._left_out = left_out(self._left_out, secure.unopened, asked=len(nodes), corrupt_fraction=corrupt)
        if len(asked_first) < len(nodes):
            exchanges.failures.append(f"{len(nodes) - len(asked_first)} clients were left out: their secrets did not open.")
        if secure.mended:
            exchanges.failures.append(f"{secure.mended} secrets had a wrong share among theirs, which was left out.")
        return Opened(
            opened.values,
            asked=len(nodes),
            survivors=opened.survivors,
            answered=dict(secure.answered),
            bytes_down=exchanges.down,
            bytes_up=exchanges.up,
            seconds=time.monotonic() - exchanges.started,
            failures=exchanges.failures,
        )


def left_out(before: Set[int], unopened: Collection[int], *, asked: int, corrupt_fraction: float) -> Set[int]:
    """The clients that a run leaves out after a sum could not be opened: in all no more than may be corrupt, or one.

    A secret does not open if its owner dealt wrong shares, or if too many of its holders lie; nothing shows which. If every
    such owner were left out, lying holders could drive the honest clients out of a run, until the corrupt part is larger
    than any neighborhood is made for. So no owner is left out who would raise their number above the assumed one.

    Guarantee:
        If at most the part f of a cohort is corrupt, at most the part f / (1 - f) of the remaining clients is, or one client
        more.

    Args:
        before: Who is left out already.
        unopened: Whose secrets did not open.
        asked: Clients of a sum, those that are left out among them.
        corrupt_fraction: f. (public)
    """
    named = before | set(unopened)
    return named if len(named) <= max(1, math.floor(asked * corrupt_fraction + 1e-9)) else before


class _Exchanges:
    """The exchanges of one sum, and the bytes that they carried."""

    def __init__(self, grid: Grid, group: str, *, timeout_seconds: float, progress: Progress) -> None:
        self._grid, self._group, self._timeout_seconds, self._progress = grid, group, timeout_seconds, progress
        self.started = time.monotonic()
        self.down = self.up = 0
        self.failures: list[str] = []

    def stage(self, stage: str, payloads: Mapping[int, bytes]) -> Iterator[tuple[int, bytes]]:
        """Sends each client its bytes of one stage, and yields their answers."""
        self.down += sum(map(len, payloads.values()))
        return self.answers({node: stage_record(stage, payload) for node, payload in payloads.items()}, stage)

    def answers(
        self,
        contents: Mapping[int, RecordDict],
        stage: str,
        *,
        message_type: str = STAGES_OF_SUMS,
        came: Callable[[Message], None] = lambda message: None,
    ) -> Iterator[tuple[int, bytes]]:
        """The bytes that came back, each after its client."""
        messages = [
            Message(content, dst_node_id=node, message_type=message_type, group_id=self._group)
            for node, content in contents.items()
        ]
        nodes = sorted(contents)

        def read(message: Message) -> bytes:
            came(message)
            return payload_of(message, stage)

        found = cohort.replies(
            self._grid,
            messages,
            nodes,
            read=read,
            timeout_seconds=max(self.started + _ENDS[stage] * self._timeout_seconds - time.monotonic(), 0.0),
            failures=self.failures,
            progress=lambda answered: self._progress(answered, stage),
        )
        for place, payload in found:
            self.up += len(payload)
            yield nodes[place], payload


# What gives the secure sums of a run: its grid, configuration, plan and folder; None for sums in the open.
SumsOf = Callable[[Grid, RunConfig, PrivacyPlan, Path], MaskedSums | None]
