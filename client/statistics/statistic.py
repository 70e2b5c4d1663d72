"""`Statistic`: what a client computes from histories for one kind of release, a bounded vector a unit; and what it is asked.

A statistic is a class with a name and one method, in a file of its own beside this one. Bounding happens there; noise, the
encoding and the account are the same for all (`client/answering.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from client.batch import ClientBatch
from client.statistics.sparse import SparseRows
from client.store.data import ClientRows
from shared.config import RunConfig
from shared.model.recommender import Recommender
from shared.privacy.shapes import StatisticShapes
from shared.protocol.messages import ReleaseInstruction


@dataclass(frozen=True, eq=False)
class Asked:
    """What a client is asked to contribute to. (public)

    Attributes:
        task: The server's instruction.
        recommender: With what was learned so far loaded.
        config: The client's own.
        shapes: How large the statistics of the run are.
    """

    task: ReleaseInstruction
    recommender: Recommender
    config: RunConfig
    shapes: StatisticShapes

    @property
    def size(self) -> int:
        """Values of an answer."""
        return self.shapes.size_of(self.task.purpose)

    def counted(self, rows: ClientRows) -> NDArray[np.int64] | None:
        """The position from which on each unit's interactions are new; None where all are. (private)

        In a run that continues another, a statistic is over what no earlier run counted: interactions from a position on
        that the client remembers, each with what came before it as its context. So the sums of both runs add up to a sum
        over all; where rows came late, an interaction at that position may count twice.
        """
        return rows.counted if self.config.run.continues else None


class Statistic(Protocol):
    """One kind of vectors."""

    @property
    def name(self) -> str:
        """What the vectors of a request hold (`shared/privacy/releases.py: statistic_of`)."""
        ...

    def vectors(self, asked: Asked, batch: ClientBatch, rows: ClientRows) -> NDArray[np.float64] | SparseRows:
        """Each client's sum of its units' bounded vectors, (N, size); exact.

        Guarantee:
            Adding or removing one unit moves its client's row by at most 1 in L2 norm, up to the rounding of floats,
            wherever the client says that its new interactions begin.

        Args:
            asked: The question. (public)
            batch: Whose answers are worked out.
            rows: Their HISTORIES TABLE. (private)
        """
        ...
