"""The witness: stands where an adversary of a twin stands, and reads each release.

Before the clients answer an instruction, it works out what they should contribute: the real users' exact sum and each
canary's vector, by the statistic's own function. It is then shown the replies and the noised sum, and takes away what it
knows. A sum in which anything is counted twice, unbounded or left out no longer fits.

What never lives here: the noise, the encoding and the sum; these are the clients' and the server's own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.batch import ClientBatch
from client.statistics.question import columns_for, question_of, statistic_for
from client.statistics.sparse import SparseRows
from client.store.data import ClientRows
from server.observer import Unobserved
from server.statistics.statistic import Total
from shared.privacy.plan import PrivacyPlan
from shared.privacy.releases import Purpose, release_of
from shared.protocol.messages import ReleaseInstruction
from simulations.audits.canaries import Canaries, WithCanaries
from simulations.audits.views import Floats, Vectors, View


@dataclasses.dataclass(frozen=True, eq=False)
class _Expected:
    """What the clients should contribute.

    Attributes:
        vectors: (m, size) of the canaries.
        others: (N, size) exact sums of the real users of each client; across devices (1, size) of all. (private)
        homes: (N,) which clients these are.
    """

    vectors: Vectors
    others: Vectors
    homes: NDArray[np.int64]


class Witness(Unobserved):
    """Reads the releases of one twin.

    Args:
        canaries: What was planted.
        plan: The run's.
        say: Told the purpose of each release once it has been read.

    Attributes:
        sums: What is seen of the released sums.
        replies: What is seen by a server that looks at each silo's reply; None across devices.
        beside: Names of fields in replies beside the contribution; there must be none.
    """

    def __init__(self, canaries: Canaries, plan: PrivacyPlan, *, say: Callable[[str], None] = lambda what: None) -> None:
        self._canaries, self._plan, self._say = canaries, plan, say
        self.sums = View("sums", canaries.included, canaries.long)
        self.replies = None if plan.clips_whole_updates else View("replies", canaries.included, canaries.long)
        self.beside: set[str] = set()
        self._expected: dict[tuple[str, int], _Expected] = {}
        self._replied: dict[int, Any] = {}

    def asked(self, task: ReleaseInstruction, batch: ClientBatch, data: WithCanaries) -> None:
        """Works out what these clients should contribute, before they answer.

        Args:
            task: The instruction.
            batch: The clients.
            data: Their data.
        """
        asked, statistic, columns = question_of(task, batch), statistic_for(task), columns_for(task)
        as_clients = dataclasses.replace(batch, partitions=np.zeros(len(self._canaries), dtype=np.int64))
        vectors = statistic.vectors(asked, as_clients, self._canaries.rows(columns))
        real = data.without(batch.partitions, columns)
        if self.replies is None:  # one client of all users, so that there is one sum
            real, batch = ClientRows(real.histories, np.zeros_like(real.client)), batch.take(np.array([0]))
        others = statistic.vectors(asked, batch, real)
        self._expected[task.purpose, task.round_number] = _Expected(vectors, others, batch.partitions)
        self._replied.clear()

    def answered(self, place: int, values: Any) -> None:
        """Takes one client's contribution as it came; kept inside silos alone."""
        if self.replies is not None:
            self._replied[place] = values

    def summed(self, purpose: Purpose, round_number: int, total: Total) -> None:
        """Reads a release: the sum, and inside silos each reply."""
        expected = self._expected.pop((purpose, round_number))
        others = expected.others
        known = sum(_row(others, place) for place in range(len(others)))
        everyone = np.arange(len(self._canaries))
        values = np.asarray(total.values, dtype=np.float64)
        self.sums.add(purpose, round_number, expected.vectors, [values - known], [everyone], noise_stddev=total.noise_stddev)
        release = self._plan.release(release_of(purpose))
        if self.replies is not None and release is not None:
            places = sorted(self._replied)
            self.replies.add(
                purpose,
                round_number,
                expected.vectors,
                left=[_dense(self._replied[place]) - _row(others, place) for place in places],
                parts=[everyone[self._canaries.home == expected.homes[place]] for place in places],
                noise_stddev=self._plan.release_stddev(release),
            )
        self._say(purpose)


def _row(vectors: Vectors, place: int) -> Floats:
    return vectors.dense(place) if isinstance(vectors, SparseRows) else vectors[place]


def _dense(values: Any) -> NDArray[np.float64]:
    whole = values.dense() if hasattr(values, "dense") else values
    return np.asarray(whole, dtype=np.float64)
