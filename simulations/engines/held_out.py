"""The grid of a copy of a run in which some users are left out, as if they had never had an interaction.

It changes what data the clients have, and nothing of what they do with them. What never lives here: who is left out and why
(`simulations/audits/membership_inference.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from client.batch import ClientBatch
from client.store.data import ClientRows
from server.cohort import Broadcast
from simulations.engines.cohort import CohortGrid
from simulations.engines.copied_data import CopiedData
from simulations.engines.local_grid import RunValues


@dataclasses.dataclass(frozen=True, eq=False)
class WithoutUsers(CopiedData):
    """The interactions of clients without those of some users.

    Attributes:
        left_out: Ids of users. (private)
    """

    left_out: pl.Series

    def rows(self, client_indices: NDArray[np.int64], columns: Sequence[str]) -> ClientRows:
        """As `ClientData.rows`; a client of whose users none is left has no row."""
        found = self.data.rows(client_indices, list(dict.fromkeys([*columns, "user"])))
        kept = ~found.histories["user"].is_in(self.left_out.to_list())
        others = found.take(np.flatnonzero(kept.to_numpy()))
        return dataclasses.replace(others, histories=others.histories.select(columns))


class HeldOutGrid(CohortGrid):
    """All clients of a population in this process, without some users.

    Args:
        num_nodes: Clients.
        run_config: What `flwr run --run-config` would give.
        node_ids: As in `LocalGrid`.
        left_out: Ids of users. (private)
        ledger: Where the copy's releases are charged.
    """

    def __init__(
        self,
        *,
        num_nodes: int,
        run_config: RunValues,
        node_ids: NDArray[np.uint64] | None = None,
        left_out: pl.Series,
        ledger: Path,
    ) -> None:
        super().__init__(num_nodes=num_nodes, run_config=run_config, node_ids=node_ids)
        self._left_out, self._ledger = left_out, ledger

    def batch_of(self, broadcast: Broadcast) -> ClientBatch:
        """As in `CohortGrid`, without the users."""
        batch = super().batch_of(broadcast)
        data = WithoutUsers(batch.data, self._ledger, self._left_out)
        return dataclasses.replace(batch, data=data, own_ledger=str(self._ledger))
