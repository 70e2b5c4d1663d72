"""Who is asked and who answered: waiting for nodes, sending one instruction to all, sorting the replies.

Replies are read as they come, so that what is large in them can be added up and let go: memory grows with the replies in
flight and not with the cohort. One bad reply is dropped and counted, and the round goes on with the others. The round is
dropped as a whole when fewer clients answered than the plan needs, because the noise of the mean was promised for that many.
"""

from __future__ import annotations

import bisect
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from shared.errors import CohortTooSmall, TacitError
from shared.keyed_hash import mixed
from shared.privacy.plan import PrivacyPlan
from shared.protocol.refusals import in_words, refusal_in
from shared.randomness import NoiseSource

Reply = TypeVar("Reply")
_LONGEST_REASON = 300
_PATIENCE_SECONDS = 5.0
_MISSING = object()


@dataclass(frozen=True)
class Answers(Generic[Reply]):
    """What came back from one exchange.

    Attributes:
        replies: What was read from the well-formed ones, sorted by node, whoever was faster.
        asked: Clients asked.
        failures: One reason for each client that failed or sent something else; no reason names a user.
    """

    replies: list[Reply]
    asked: int
    failures: list[str]


class Broadcast(Sequence[Message]):
    """The same instruction to many nodes: a sequence of messages, made when somebody looks at them.

    Flower's own grids look twice, and write into each message, so those that were made are kept. A grid within the process
    need not look at them at all, and for it a million of them cost nothing.

    Attributes:
        content: The instruction.
        message_type: What is asked for.
        group_id: The round.
        nodes: To whom.
    """

    def __init__(self, content: RecordDict, message_type: str, group_id: str, nodes: Sequence[int]) -> None:
        self.content, self.message_type, self.group_id, self.nodes = content, message_type, group_id, nodes
        self._made: list[Message] = []

    def __len__(self) -> int:
        """Number of messages."""
        return len(self.nodes)

    def __getitem__(self, place: Any) -> Any:
        """One message, the same object each time."""
        if not self._made:
            self._made = [self.message(other) for other in range(len(self.nodes))]
        return self._made[place]

    def message(self, place: int) -> Message:
        """A new message to one of the nodes."""
        node = self.nodes[place]
        return Message(self.content, dst_node_id=node, message_type=self.message_type, group_id=self.group_id)


def wait_for_nodes(grid: Grid, *, count: int, timeout_seconds: float) -> list[int]:
    """Waits until `count` nodes are connected.

    Raises:
        CohortTooSmall: If they are not within the deadline.
    """
    start = time.monotonic()
    deadline, told = start + timeout_seconds, False
    while True:
        nodes = sorted(grid.get_node_ids())
        if len(nodes) >= count:
            return nodes
        if time.monotonic() > deadline:
            raise CohortTooSmall(
                f"{len(nodes)} of {count} clients connected within {timeout_seconds:.0f} seconds. Nothing "
                "was released. Start the missing ones; `flwr run` takes their number from "
                "--federation-config num-supernodes=N."
            )
        if not told and time.monotonic() > start + _PATIENCE_SECONDS:
            told = True
            # Flower's own logger is what `flwr run --stream` shows.
            logging.getLogger("flwr").warning(
                "Waiting for clients: %d of %d are connected; giving up after %.0f seconds.",
                len(nodes),
                count,
                timeout_seconds,
            )
        time.sleep(0.2)


def draw(nodes: Sequence[int], plan: PrivacyPlan, *, round_number: int, source: NoiseSource) -> list[int]:
    """The cohort of a round: everybody, an independent coin each (Poisson), or under DP-FTRL whose turn it is.

    A node's turn follows from its own id, so that another node's coming or going moves it to no other round.

    Guarantee:
        Without DP-FTRL each node is in the cohort with probability plan.sampling_rate, independent of all others and of all
        other rounds; a cohort above plan.cohort_cap is cut to a uniformly drawn part of it. Under DP-FTRL a node is in at
        most one of any plan.min_separation rounds in a row.

    Args:
        nodes: All clients, in a fixed order.
        plan: Rate, cap, separation.
        round_number: From 1.
        source: The system's CSPRNG in a private run; who knows the draw knows who took part.
    """
    if plan.min_separation and plan.clips_whole_updates:
        turns = mixed(np.array(nodes, dtype=np.uint64)) % np.uint64(plan.min_separation)
        chosen = np.flatnonzero(turns == (round_number - 1) % plan.min_separation)
        return [nodes[place] for place in chosen.tolist()]
    if not plan.clips_whole_updates or plan.sampling_rate == 1.0:
        return list(nodes)
    drawn = [
        node
        for node, taken in zip(nodes, source.bernoulli(len(nodes), probability=plan.sampling_rate), strict=True)
        if taken
    ]
    if plan.cohort_cap and len(drawn) > plan.cohort_cap:
        order = np.argsort(source.uniform(len(drawn)), kind="stable")
        drawn = sorted(drawn[place] for place in order[: plan.cohort_cap])
    return drawn


def exchange(
    grid: Grid,
    nodes: Sequence[int],
    content: RecordDict,
    *,
    message_type: str,
    read: Callable[[Message], Reply],
    timeout_seconds: float,
    group: str,
    progress: Callable[[int], None] = lambda answered: None,
) -> Answers[Reply]:
    """Sends the same content to every node and reads each reply as it comes, at most one a node.

    Args:
        grid: Flower's connection to the nodes.
        nodes: Whom to ask.
        content: The instruction.
        message_type: `train`, `query` or `evaluate`.
        read: Turns a reply into a checked value, or adds it to a sum; if it raises, that reply is dropped and counted.
        timeout_seconds: Deadline; who has not answered by then has failed.
        group: The round, for Flower's records.
        progress: Told how many have answered, after each reply.
    """
    messages = Broadcast(content, message_type, group, nodes)
    found: list[Any] = [_MISSING] * len(nodes)
    failures: list[str] = []
    for place, reply in replies(
        grid, messages, nodes, read=read, timeout_seconds=timeout_seconds, failures=failures, progress=progress
    ):
        found[place] = reply
    return Answers([reply for reply in found if reply is not _MISSING], len(nodes), failures)


def replies(
    grid: Grid,
    messages: Sequence[Message],
    nodes: Sequence[int],
    *,
    read: Callable[[Message], Reply],
    timeout_seconds: float,
    failures: list[str],
    progress: Callable[[int], None] = lambda answered: None,
) -> Iterator[tuple[int, Reply]]:
    """Sends a message to each of some nodes and reads each reply as it comes, at most one a node.

    Args:
        grid: Flower's connection to the nodes.
        messages: One a node.
        nodes: Whom to ask.
        read: As in `exchange`.
        timeout_seconds: Deadline; who has not answered by then has failed.
        failures: Takes one reason for each client that failed or sent something else; no reason names a user.
        progress: Told how many have answered, after each reply.

    Yields:
        The place of the node among those in ascending order, and what was read.
    """
    ascending = sorted(nodes)
    answered = np.zeros(len(nodes), dtype=np.bool_)
    answers = 0
    for message in grid.send_and_receive(messages, timeout=timeout_seconds):
        answers += 1
        progress(answers)
        if (reason := _reason(message)) is not None:
            failures.append(reason)
            continue
        node = message.metadata.src_node_id
        place = bisect.bisect_left(ascending, node)  # of a million nodes, a dictionary would take a hundred megabytes
        if place == len(nodes) or ascending[place] != node or answered[place]:
            failures.append("a reply from a client that was not asked, or had answered before")
            continue
        try:
            reply = read(message)
        except TacitError as error:
            failures.append(str(error))
        except Exception as error:
            # What a client sends must never end the run of the others, however it fails to be read.
            failures.append(f"a malformed reply ({type(error).__name__})")
        else:
            answered[place] = True
            yield place, reply
    failures += ["no answer within the deadline"] * (len(nodes) - answers)


def _reason(message: Message) -> str | None:
    """What a client that failed or refuses says, on one printable line of bounded length: it may be anything."""
    if message.has_error():
        text = message.error.reason or f"error code {message.error.code}"
    elif refusal := refusal_in(message):
        text = in_words(refusal)
    else:
        return None
    return "".join(sign if sign.isprintable() else " " for sign in text)[:_LONGEST_REASON]


def require(answers: Answers[Reply], *, minimum: int, what: str) -> list[Reply]:
    """The replies, if there are enough.

    Raises:
        CohortTooSmall: If fewer than `minimum` clients answered well.
    """
    if len(answers.replies) < minimum:
        reason = f" The first failure: {answers.failures[0]}" if answers.failures else ""
        raise CohortTooSmall(
            f"{len(answers.replies)} of {answers.asked} clients answered {what}; the plan needs {minimum}. "
            f"It was dropped and nothing was released.{reason}"
        )
    return answers.replies
