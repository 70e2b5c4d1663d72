"""The grid of a twin: clients that hold canaries too, and somebody who sees every message.

It changes what data the clients have, and nothing of what they do with them. What never lives here: what is read off the
messages (`simulations/audits/witness.py`).
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Message, MessageType
from flwr.serverapp import ServerApp
from numpy.typing import NDArray

from client.batch import ClientBatch
from server.cohort import Broadcast
from shared.protocol.messages import ContributionReply, ReleaseInstruction
from simulations.audits.canaries import Canaries, WithCanaries
from simulations.audits.witness import Witness
from simulations.engines.cohort import CohortGrid
from simulations.engines.local_grid import RunValues, serve


class TwinGrid(CohortGrid):
    """All clients of a population in this process, with canaries among their users.

    Args:
        num_nodes: Clients.
        run_config: What `flwr run --run-config` would give.
        node_ids: As in `LocalGrid`.
        canaries: What was planted.
        witness: Sees what is asked and answered.
        ledger: Where the twin's releases are charged.
    """

    def __init__(
        self,
        *,
        num_nodes: int,
        run_config: RunValues,
        node_ids: NDArray[np.uint64] | None = None,
        canaries: Canaries,
        witness: Witness,
        ledger: Path,
    ) -> None:
        super().__init__(num_nodes=num_nodes, run_config=run_config, node_ids=node_ids)
        self._canaries, self._witness, self._ledger = canaries, witness, ledger

    def batch_of(self, broadcast: Broadcast) -> ClientBatch:
        """As in `CohortGrid`, with canaries."""
        batch = super().batch_of(broadcast)
        data = WithCanaries(batch.data, self._canaries, self._ledger)
        return dataclasses.replace(batch, data=data, own_ledger=str(self._ledger))

    def _answers(self, broadcast: Broadcast) -> Iterator[tuple[int, Message]]:
        asks_a_release = broadcast.message_type != MessageType.TRAIN
        if asks_a_release:
            batch = self.batch_of(broadcast)
            task = ReleaseInstruction.from_message(broadcast.message(0))
            self._witness.asked(task, batch, WithCanaries(super().batch_of(broadcast).data, self._canaries, self._ledger))
        for place, reply in super()._answers(broadcast):
            if not reply.has_error():
                self._witness.beside |= _beside(reply)
                if asks_a_release:
                    values = ContributionReply.from_message(reply, in_ring=task.plan.clips_whole_updates).values
                    self._witness.answered(place, values)
            yield place, reply


def _beside(reply: Message) -> set[str]:
    """What a reply holds beside one array, and the rank that a client may say."""
    found = set()
    for name, record in reply.content.items():
        if isinstance(record, ArrayRecord):
            found |= {f"{name}.{key}" for key in list(record)[1:]}
        else:
            found |= {f"{name}.{key}" for key in record if key != "rank"}
    return found


def run_twin(
    server_app: ServerApp,
    *,
    num_nodes: int,
    run_config: RunValues,
    node_ids: NDArray[np.uint64] | None,
    canaries: Canaries,
    witness: Witness,
    ledger: Path,
) -> None:
    """Runs the federation of a twin until the server app returns; arguments as in `TwinGrid`."""
    grid = TwinGrid(
        num_nodes=num_nodes,
        run_config=run_config,
        node_ids=node_ids,
        canaries=canaries,
        witness=witness,
        ledger=ledger,
    )
    gc.freeze()
    try:
        serve(server_app, grid)
    finally:
        gc.unfreeze()
