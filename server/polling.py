"""Flower's grid, asked more often: replies are taken as they come, a few times a second, up to a deadline.

Flower's own `send_and_receive` looks every three seconds and returns all replies at the end. Of a round over a network whose
nodes answer within a second, most would be waiting.

Flower announces a reply before its values have been uploaded, and waits for these for minutes, with all other replies in its
hands. A node that is killed in between, or that withholds them, would hold a round for as long, and the others' replies
would be late; here the deadline of the exchange ends that too. As of Flower 1.41 that time is an argument of a function of
one private module.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid
from flwr.superlink.grid import http_grid

_FIRST_SECONDS = 0.1
_LONGEST_SECONDS = 1.0
_GROWTH = 1.2
# Until when the values of an announced reply are waited for, by the monotonic clock; None: as long as Flower does.
_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)
_pull_objects = vars(http_grid)["pull_objects"]


def _pull_until_deadline(*arguments: Any, **named: Any) -> Any:
    """Flower's function, which gives up at the deadline: the reply is then an error, and the other replies are there."""
    end = _deadline.get()
    if end is not None:
        named |= {"max_time": max(0.0, end - time.monotonic()), "backoff_cap": _LONGEST_SECONDS}
    return _pull_objects(*arguments, **named)


vars(http_grid)["pull_objects"] = _pull_until_deadline


class PollingGrid:
    """A grid whose replies come one after the other.

    Args:
        grid: Flower's.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def get_node_ids(self) -> Iterable[int]:
        """The nodes that are connected."""
        return self._grid.get_node_ids()

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Sends messages and yields each reply as it comes; the last look is after the deadline.

        Args:
            messages: One a node.
            timeout: Seconds; what has not come by then is not waited for.
        """
        waiting = set(self._grid.push_messages(messages))
        end = None if timeout is None else time.monotonic() + timeout
        pause = _FIRST_SECONDS
        while waiting:
            last = end is not None and time.monotonic() >= end
            found = self._pulled(waiting, end)
            for reply in found:
                waiting.discard(reply.metadata.reply_to_message_id)
                yield reply
            if last:
                return
            pause = _FIRST_SECONDS if found else min(pause * _GROWTH, _LONGEST_SECONDS)
            if waiting:
                time.sleep(pause if end is None else max(0.0, min(pause, end - time.monotonic())))

    def _pulled(self, waiting: set[str], end: float | None) -> list[Message]:
        """The replies that are there now."""
        token = _deadline.set(end)
        try:
            return list(self._grid.pull_messages(waiting))
        finally:
            _deadline.reset(token)
