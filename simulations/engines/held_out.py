"""The grid of a copy of a run in which some users are left out, as if they had never had an interaction.

It changes what data the clients have, and nothing of what they do with them. What never lives here: who is left out and why
(`simulations/audits/membership_inference.py`).
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from flwr.serverapp import ServerApp
from numpy.typing import NDArray

from client.batch import ClientBatch
from client.store.data import ClientData, ClientRows
from server.cohort import Broadcast
from simulations.engines.cohort import CohortGrid
from simulations.engines.local_grid import RunValues, serve


@dataclasses.dataclass(frozen=True, eq=False)
class WithoutUsers:
    """The interactions of clients without those of some users; as `ClientData`.

    Attributes:
        data: The clients' own. (private)
        left_out: Ids of users. (private)
        ledger: The copy's ledger: its releases are charged to nobody's real budget.
    """

    data: ClientData
    left_out: pl.Series
    ledger: Path

    @property
    def data_name(self) -> str:
        """As `ClientData.data_name`."""
        return self.data.data_name

    @property
    def shaped_by_all(self) -> tuple[str, ...]:
        """As `ClientData.shaped_by_all`."""
        return self.data.shaped_by_all

    @property
    def ledger_file(self) -> Path:
        """As `ClientData.ledger_file`."""
        return self.ledger

    def account(self, client_index: int) -> str:
        """As `ClientData.account`."""
        return self.data.account(client_index)

    def rows(self, client_indices: NDArray[np.int64], columns: Sequence[str]) -> ClientRows:
        """As `ClientData.rows`; a client of whose users none is left has no row."""
        found = self.data.rows(client_indices, list(dict.fromkeys([*columns, "user"])))
        kept = ~found.histories["user"].is_in(self.left_out.to_list())
        return ClientRows(found.histories.filter(kept).select(columns), found.client[kept.to_numpy()])


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
        data = WithoutUsers(batch.data, self._left_out, self._ledger)
        return dataclasses.replace(batch, data=data, own_ledger=str(self._ledger))


def run_without_users(
    server_app: ServerApp,
    *,
    num_nodes: int,
    run_config: RunValues,
    node_ids: NDArray[np.uint64] | None,
    left_out: pl.Series,
    ledger: Path,
) -> None:
    """Runs a copy until the server app returns; arguments as in `HeldOutGrid`."""
    grid = HeldOutGrid(num_nodes=num_nodes, run_config=run_config, node_ids=node_ids, left_out=left_out, ledger=ledger)
    gc.freeze()
    try:
        serve(server_app, grid)
    finally:
        gc.unfreeze()
