"""The `Grid` that plays all clients of a cohort at once, so that a federation costs what its arithmetic costs.

It is not a second federation. The same `ServerApp` sends the same messages, and the functions that answer them are those
that a device's `ClientApp` calls (`client/answering.py`), given all clients that got the same message instead of one:
one resident backbone, one forward and backward pass for many clients, one reservation in the ledger for all. What each
replies is a Flower message with the same record in it; only its numbers are neither packed nor serialized, because they do
not leave the process.

Replies are handed on as they come, so memory grows with the clients in flight. What this grid cannot do is to hold back
each client's reply for itself (`choose_engine` refuses it).
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Iterable, Iterator

import numpy as np
from flwr.app import Message
from flwr.serverapp import ServerApp
from numpy.typing import NDArray

from client.answering import answers, in_our_words
from client.batch import ClientBatch
from client.store.population import open_population, read_clients
from server.cohort import Broadcast
from shared.config import RunConfig
from shared.errors import ConfigError, DataError, TacitError
from shared.keyed_hash import keyed_hash
from simulations.engines.local_grid import LocalGrid, RunValues, serve


class CohortGrid(LocalGrid):
    """All clients of a population in this process, answering together; see the module."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Has all messages answered at once and keeps the replies."""
        identifiers: list[str] = []
        for broadcast in _broadcasts(messages):
            own = [self.numbered(broadcast.message(place)).metadata.message_id for place in range(len(broadcast.nodes))]
            identifiers += own
            self._replies.update((own[place], reply) for place, reply in self._answers(broadcast))
        return identifiers

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Yields the replies as they come; a client of this process is never late, so `timeout` does nothing."""
        for broadcast in _broadcasts(messages):
            for _, reply in self._answers(broadcast):
                yield reply

    def batch_of(self, broadcast: Broadcast) -> ClientBatch:
        """The clients that an instruction is for."""
        partitions = self.partitions_of(broadcast.nodes)
        return dataclasses.replace(ClientBatch.of(self.context_of(int(partitions[0]))), partitions=partitions)

    def _answers(self, broadcast: Broadcast) -> Iterator[tuple[int, Message]]:
        waiting = np.ones(len(broadcast.nodes), dtype=np.bool_)
        try:
            batch = self.batch_of(broadcast)
            message = broadcast.message(0)  # addressed anew for each reply, which only reads it
            for place, reply in answers(batch, broadcast.message(0)):
                waiting[place] = False
                message.metadata.dst_node_id = broadcast.nodes[place]
                if isinstance(reply, TacitError):
                    yield place, self.error_reply(message, reply)
                else:
                    yield place, Message(reply.to_resident_record(), reply_to=message)
        except Exception as error:
            for place in np.flatnonzero(waiting).tolist():
                yield place, self.error_reply(broadcast.message(place), in_our_words(error))


def _broadcasts(messages: Iterable[Message]) -> Iterator[Broadcast]:
    """Puts messages that say the same to different nodes together, for as long as they follow one another."""
    if isinstance(messages, Broadcast):
        yield from [messages] * bool(messages)
        return
    current: Broadcast | None = None
    for message in messages:
        metadata = message.metadata
        if (
            current is None
            or message.content is not current.content
            or (metadata.message_type, metadata.group_id) != (current.message_type, current.group_id)
        ):
            if current is not None:
                yield current
            nodes: list[int] = []
            current = Broadcast(message.content, metadata.message_type, metadata.group_id, nodes)
        nodes.append(metadata.dst_node_id)
    if current is not None:
        yield current


def run_as_cohorts(
    server_app: ServerApp, *, num_nodes: int, run_config: RunValues, node_ids: NDArray[np.uint64] | None = None
) -> CohortGrid:
    """Runs a federation in this process until the server app returns.

    Args:
        server_app: The server.
        num_nodes: Clients of the population.
        run_config: What `flwr run --run-config` would give.
        node_ids: As in `LocalGrid`.

    Returns:
        The grid that was used.
    """
    grid = CohortGrid(num_nodes=num_nodes, run_config=run_config, node_ids=node_ids)
    play(server_app, grid)
    return grid


def play(server_app: ServerApp, grid: CohortGrid) -> None:
    """Runs a federation on a grid of this process until the server app returns."""
    # A cohort makes many small objects. Each full collection would look through all that the imported libraries hold, for
    # nothing: 80 ms a round with 943 clients.
    gc.freeze()
    try:
        serve(server_app, grid)
    finally:
        gc.unfreeze()


def node_ids_of(folder: str) -> NDArray[np.uint64]:
    """An id for each node that follows from its user alone, as a device's own id would: turns follow from it.

    Args:
        folder: A population of one user a client. (private)

    Returns:
        Shape (clients,), distinct, in the order of partitions.

    Raises:
        DataError: If two users would have the same.
    """
    population = open_population(folder)
    users = read_clients(folder, np.arange(population.num_clients), ["user"]).histories["user"]
    # Flower's ids have 64 bits; those of the server and of none are small.
    ids = (keyed_hash(users, key=b"", person=b"tacit-nodes") >> np.uint64(1)) | np.uint64(1 << 62)
    if len(np.unique(ids)) < len(ids):
        raise DataError("Expected users with distinct node ids, found two alike. Rename a user.")
    return ids


def choose_engine(config: RunConfig) -> str:
    """The engine of a run: `cohort`, `flower`, or `messages`: one client after another, each as on a device.

    Raises:
        ConfigError: If the one that is asked for cannot do what the run needs, naming the setting.
    """
    needs_own_times = config.privacy.reply_bucket_seconds > 0
    needs_one_process = config.mechanism.users_take_turns
    engine = config.federation.engine
    if config.mechanism.shares_noise and config.secure_aggregation.enabled and config.secure_aggregation.simulate == "full":
        if engine != "auto" or needs_own_times:
            raise ConfigError(
                f"Expected federation.engine=auto with secure_aggregation.simulate=full, got federation.engine={engine}. A "
                "client's secrets stay in one process; leave the engine and privacy.reply_bucket_seconds at their defaults."
            )
        return "messages"
    if engine == "auto":
        engine = "flower" if needs_own_times and not needs_one_process else "cohort"
    if engine == "cohort" and needs_own_times:
        raise ConfigError(
            "Expected privacy.reply_bucket_seconds=0 with federation.engine=cohort, got "
            f"privacy.reply_bucket_seconds={config.privacy.reply_bucket_seconds}. Its clients answer together; leave it "
            "at 0 in a simulation, or use --engine flower."
        )
    if engine == "flower" and needs_one_process:
        raise ConfigError(
            "Expected another mechanism than dp-ftrl-silo with federation.engine=flower, got "
            f"privacy.mechanism={config.mechanism}. Its noise over time lives in one process, and Flower's engine may start "
            "one for every message; use --engine cohort."
        )
    if engine == "flower":
        from simulations.engines.flower import check_ray

        check_ray()
    return engine
