"""Flower's grid, asked more often: replies are taken as they come, a few times a second, up to a deadline.

Flower's own `send_and_receive` looks every three seconds and returns all replies at the end. Of a round over a network whose
nodes answer within a second, most would be waiting.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from flwr.app import Message
from flwr.serverapp import Grid

_FIRST_SECONDS = 0.1
_LONGEST_SECONDS = 1.0
_GROWTH = 1.2


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
        """Sends messages and yields each reply as it comes.

        Args:
            messages: One a node.
            timeout: Seconds; what has not come by then is not waited for.
        """
        waiting = set(self._grid.push_messages(messages))
        end = None if timeout is None else time.monotonic() + timeout
        pause = _FIRST_SECONDS
        while waiting:
            found = list(self._grid.pull_messages(waiting))
            for reply in found:
                waiting.discard(reply.metadata.reply_to_message_id)
                yield reply
            if end is not None and time.monotonic() >= end:
                return
            pause = _FIRST_SECONDS if found else min(pause * _GROWTH, _LONGEST_SECONDS)
            if waiting:
                time.sleep(pause if end is None else max(0.0, min(pause, end - time.monotonic())))
