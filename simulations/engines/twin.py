"""The grid of a twin: clients that hold canaries too, and somebody who sees every message.

It changes what data the clients have, and nothing of what they do with them. What never lives here: what is read off the
messages (`simulations/audits/witness.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Message, MessageType
from numpy.typing import NDArray

from client.batch import ClientBatch, Vectors
from client.statistics.sparse import SparseRows
from client.store.data import ClientRows
from client.training.dp_sgd import TrainingTask, train
from server.cohort import Broadcast
from shared.config import TrainingSection
from shared.privacy.plan import PrivacyPlan
from shared.protocol.messages import ReleaseInstruction, TrainInstruction
from simulations.audits.canaries import Canaries, WithCanaries
from simulations.audits.witness import Witness
from simulations.engines.cohort import CohortGrid
from simulations.engines.local_grid import RunValues


@dataclasses.dataclass(frozen=True, eq=False)
class WatchedBatch(ClientBatch):
    """Clients of a twin: canaries among them train to directions of their own.

    Attributes:
        witness: Says which.
    """

    witness: Witness | None = None

    def trained(self, tasks: Sequence[TrainingTask], plan: PrivacyPlan, settings: TrainingSection) -> NDArray[np.float32]:
        """As `ClientBatch.trained`."""
        if self.witness is None:
            return super().trained(tasks, plan, settings)
        rate = tasks[0].learning_rate
        gradients = self.witness.gradients(self.partitions, learning_rate=rate, settings=settings)
        updates = train(tasks, self.recommender(), plan, settings, gradients=gradients)
        return self.witness.trained(self.partitions, updates)

    def contributed(self, vectors: Vectors, rows: ClientRows) -> NDArray[np.float64] | SparseRows:
        """As `ClientBatch.contributed`; the witness takes note of the real users' part."""
        return super().contributed(vectors, rows) if self.witness is None else self.witness.contributed(self, vectors, rows)


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
        own = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
        data = WithCanaries(batch.data, self._ledger, self._canaries)
        return WatchedBatch(**{**own, "data": data, "own_ledger": str(self._ledger)}, witness=self._witness)

    def _answers(self, broadcast: Broadcast) -> Iterator[tuple[int, Message]]:
        message, trains = broadcast.message(0), broadcast.message_type == MessageType.TRAIN
        round_number = 0
        if trains:
            task = TrainInstruction.from_message(message)
            round_number = task.round_number
            self._witness.asked_to_train(task, self.partitions_of(broadcast.nodes))
        else:
            self._witness.asked(ReleaseInstruction.from_message(message), self.batch_of(broadcast))
        for place, reply in super()._answers(broadcast):
            if not reply.has_error():
                self._witness.beside |= _beside(reply)
                self._witness.answered(place, reply)
            yield place, reply
        if trains:
            self._witness.all_trained(round_number, self.partitions_of(broadcast.nodes))


def _beside(reply: Message) -> set[str]:
    """What a reply holds beside one array, and the rank that a client may say."""
    found = set()
    for name, record in reply.content.items():
        if isinstance(record, ArrayRecord):
            found |= {f"{name}.{key}" for key in list(record)[1:]}
        else:
            found |= {f"{name}.{key}" for key in record if key != "rank"}
    return found
