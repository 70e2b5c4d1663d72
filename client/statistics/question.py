"""From a server's question to the bounded vectors that answer it, before any noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from client.batch import Nodes
from client.statistics.blending import blending_vectors
from client.statistics.metrics import bounded_metrics
from client.statistics.pairs import pair_sums
from client.statistics.popularity import count_items
from client.statistics.selection import gain_vectors
from client.statistics.sparse import SparseRows
from client.statistics.transitions import transition_sums
from client.store.population import ClientRows
from shared.data.splitting import HISTORIES_SCHEMA
from shared.errors import ProtocolViolation
from shared.model.recommender import Recommender
from shared.model.statistics import LONGEST_TRANSITIONS, TRANSITION_DECAY, TRANSITION_ITEMS
from shared.privacy.releases import release_of, statistic_of
from shared.privacy.shapes import StatisticShapes
from shared.protocol import ReleaseInstruction, Target

Ints = NDArray[np.int64]
_TRAINING, _ALL = ("user", "train"), tuple(HISTORIES_SCHEMA)


@dataclass(frozen=True, eq=False)
class Question:
    """One release that a client is asked to contribute to. (public)

    Attributes:
        task: The server's instruction.
        recommender: With what was learned so far loaded.
        nodes: Who is asked; their configuration.
        shapes: How large the statistics of the run are.
    """

    task: ReleaseInstruction
    recommender: Recommender
    nodes: Nodes
    shapes: StatisticShapes

    @classmethod
    def of(cls, task: ReleaseInstruction, nodes: Nodes) -> Question:
        """Reads the state that the question is about, if it is about one.

        Raises:
            CheckpointError: If the state is not one of this model.
            ProtocolViolation: If the head is not one of this catalog and size.
        """
        recommender = nodes.recommender()
        if len(task.state):
            recommender.load_state(recommender.read_state(task.state))
        shapes = StatisticShapes.of(nodes.config, task.plan, recommender)
        if task.head and (len(task.head) != shapes.head or task.head[-1] >= recommender.num_items):
            raise ProtocolViolation(
                f"Expected {shapes.head} items of the catalog as the head of the pairs, got others. Use the same "
                "configuration on both ends."
            )
        return cls(task, recommender, nodes, shapes)

    @property
    def size(self) -> int:
        """Values of an answer."""
        return self.shapes.sizes[self.task.purpose]

    @property
    def columns(self) -> Sequence[str]:
        """What is read of the users' histories: held-out interactions for comparisons alone."""
        return _ALL if release_of(self.task.purpose) in ("blending", "selection", "metrics") else _TRAINING

    def vectors(self, some: Nodes, rows: ClientRows) -> NDArray[np.float64] | SparseRows:
        """Each client's sum of its units' bounded vectors, (N, size); exact.

        In a run that continues another, a statistic is over what no earlier run counted: interactions from a position on
        that the client remembers (`ClientRows.counted`), each with what came before it as its context. So the sums of both
        runs add up to a sum over all; where rows came late, an interaction at that position may count twice.

        Guarantee:
            Adding or removing one unit moves its client's row by at most 1 in L2 norm, up to the rounding of floats,
            wherever the client says that its new interactions begin.

        Args:
            some: Whose answers are worked out.
            rows: Their HISTORIES TABLE. (private)
        """
        counted = rows.counted if self.nodes.config.run.continues else None
        match statistic_of(self.task.purpose):
            case "popularity":
                units, clients = some.units(rows, self.task.plan)
                size = self.recommender.num_items
                return count_items(units, clients, num_clients=len(some), num_items=size, first=counted)
            case "pairs":
                units, clients = some.units(rows, self.task.plan)
                return self._pairs(units, clients, counted, num_clients=len(some))
            case "transitions":
                units, clients = some.units(rows, self.task.plan)
                return self._transitions(units, clients, counted, num_clients=len(some))
            case "blending":
                return blending_vectors(rows, self.recommender, self.nodes.config, num_clients=len(some))
            case "selection":
                return gain_vectors(rows, self.recommender, self.nodes.config, self.shapes, num_clients=len(some))
            case _:
                target: Target = "test" if self.task.purpose == "test" else "validation"
                return bounded_metrics(rows, self.recommender, self.nodes.config, target=target, num_clients=len(some))

    def _pairs(self, units: pl.Series, clients: Ints, first: Ints | None, *, num_clients: int) -> SparseRows:
        head = np.array(self.task.head, dtype=np.int64)
        if not len(head):
            head = self.shapes.head_of(self.recommender.attached.model.log_prior.cpu().numpy())
        places = np.full(self.recommender.num_items, -1, dtype=np.int64)
        places[head] = np.arange(len(head))
        return pair_sums(
            units,
            clients,
            places,
            num_clients=num_clients,
            head=len(head),
            window=self.shapes.window,
            decay=self.shapes.pair_decay,
            first=first,
        )

    def _transitions(self, units: pl.Series, clients: Ints, first: Ints | None, *, num_clients: int) -> NDArray[np.float64]:
        model = self.recommender.attached.model
        directions = model.directions_of(self.shapes.text_dimensions).float().cpu().numpy()
        if directions.shape[1] != self.shapes.dimensions:
            raise ProtocolViolation(
                f"Expected directions of {self.shapes.dimensions} numbers an item for the transitions, got "
                f"{directions.shape[1]}. Use the same configuration on both ends."
            )
        popularity = np.exp(model.log_prior.double().cpu().numpy())
        return transition_sums(
            units,
            clients,
            directions,
            popularity @ directions,
            num_clients=num_clients,
            last=TRANSITION_ITEMS,
            decay=TRANSITION_DECAY,
            longest=LONGEST_TRANSITIONS,
            first=first,
        )
