"""Runs the real `ServerApp` and `ClientApp` on one machine.

Flower's `Grid` is what a server app talks to, and three are used here. `CohortGrid` (`cohort.py`, the default) plays
all clients of a cohort at once. `InProcessGrid` plays one after the other, through the `ClientApp` as a device runs it: the
apps, the messages and the records are Flower's own, which makes it the reference of the tests. The third is Flower's own, on
Ray (`flower.py`).

Flower gives a grid within a process no public way to do two things: to say which process a message comes from
(`TaskIdentity`) and to number a message (`_message_id`). Both private names are used in this module alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray

from shared.errors import TacitError

Scalar = bool | int | float | str
RunValues = Mapping[str, Scalar]

# Flower's code for an exception raised inside a client app.
_CLIENT_APP_RAISED = 2
_SERVER_NODE = 1
_FIRST_NODE = 2
_RUN = 1


class LocalGrid(Grid):
    """What the grids within one process have in common: nodes have an id and a partition-id each, and none ever leaves.

    Args:
        num_nodes: Nodes.
        run_config: What `flwr run --run-config` would give.
        node_ids: The id of each partition's node, (num_nodes,), distinct and above the server's own; by default node i + 2
            has partition-id i.
    """

    # The last exception of a client (a foreign one is its `__context__`), for whoever debugs a simulation.
    last_exception: Exception | None = None

    def __init__(self, *, num_nodes: int, run_config: RunValues, node_ids: NDArray[np.uint64] | None = None) -> None:
        self.num_nodes, self.run_config = num_nodes, dict(run_config)
        self._node_of = np.arange(_FIRST_NODE, _FIRST_NODE + num_nodes, dtype=np.uint64) if node_ids is None else node_ids
        self._partitions = np.argsort(self._node_of)
        self._run = Run.create_empty(run_id=_RUN)
        self._numbers = itertools.count(1)
        self._replies: dict[str, Message] = {}
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = _RUN, _SERVER_NODE, 1

    def set_run(self, run: Run) -> None:
        """Sets the run that messages belong to."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run that messages belong to."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Makes a message, as `flwr.app.Message` does."""
        return Message(content=content, message_type=message_type, dst_node_id=dst_node_id, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """All nodes, in the order of their ids."""
        ids: list[int] = self._node_of[self._partitions].tolist()
        return ids

    def partitions_of(self, nodes: Sequence[int]) -> NDArray[np.int64]:
        """Which clients of the population some nodes are, (nodes,)."""
        places = np.searchsorted(self._node_of, np.array(nodes, dtype=np.uint64), sorter=self._partitions)
        return self._partitions[places]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to these messages, once."""
        return [self._replies.pop(identifier) for identifier in message_ids if identifier in self._replies]

    def context_of(self, partition: int, node_config: RunValues | None = None) -> Context:
        """What a node is started with, and beside it what its owner sets."""
        return Context(
            run_id=self._run.run_id,
            node_id=int(self._node_of[partition]),
            node_config={"partition-id": partition, "num-partitions": self.num_nodes, **(node_config or {})},
            state=RecordDict(),
            run_config=dict(self.run_config),
        )

    def numbered(self, message: Message) -> Message:
        """Gives a message the number that Flower would."""
        message.metadata.__dict__["_message_id"] = str(next(self._numbers))
        return message

    def error_reply(self, message: Message, error: Exception) -> Message:
        """A client's exception as an error reply, as in deployment."""
        self.last_exception = error
        # A foreign exception's text may quote data; its type does not.
        reason = str(error) if isinstance(error, TacitError) else type(error).__name__
        return Message(Error(code=_CLIENT_APP_RAISED, reason=reason), reply_to=message)


class InProcessGrid(LocalGrid):
    """Flower nodes in this process, each with a context of its own that lives as long as the grid.

    A client's exception becomes an error reply, as in deployment. An interruption from the keyboard is not
    caught.

    Args:
        client_app: The app that every node runs.
        num_nodes: Nodes.
        run_config: What `flwr run --run-config` would give.
        node_config: What the owner of each node starts it with.
    """

    def __init__(
        self,
        client_app: ClientApp,
        *,
        num_nodes: int,
        run_config: RunValues,
        node_config: Callable[[int], RunValues] = lambda partition: {},
    ) -> None:
        super().__init__(num_nodes=num_nodes, run_config=run_config)
        self._client_app = client_app
        contexts = (self.context_of(partition, node_config(partition)) for partition in range(num_nodes))
        self._contexts = {context.node_id: context for context in contexts}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Runs every message's client at once and keeps the replies."""
        identifiers = []
        for message in messages:
            identifier = self.numbered(message).metadata.message_id
            self._replies[identifier] = self._answer(message)
            identifiers.append(identifier)
        return identifiers

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Yields each answer as it comes; a client of this process is never late, so `timeout` does nothing."""
        for message in messages:
            yield self._answer(self.numbered(message))

    def _answer(self, message: Message) -> Message:
        try:
            reply = self._client_app(message, self._contexts[message.metadata.dst_node_id])
        except Exception as error:
            reply = self.error_reply(message, error)
        return self.numbered(reply)


def serve(server_app: ServerApp, grid: LocalGrid) -> None:
    """Runs a server app on a grid of this process until it returns."""
    server_app(
        grid,
        Context(run_id=_RUN, node_id=_SERVER_NODE, node_config={}, state=RecordDict(), run_config=dict(grid.run_config)),
    )
