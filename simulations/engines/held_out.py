"""The grid of a copy of a run in which some users, or some windows of histories, are left out, as if they had never been.

It changes what data the clients have, and nothing of what they do with them. What never lives here: who is left out and why
(`simulations/audits/membership_inference.py`, `window_inference.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from client.batch import ClientBatch
from client.store.data import ClientData, ClientRows
from server.cohort import Broadcast
from simulations.engines.cohort import CohortGrid
from simulations.engines.copied_data import CopiedData
from simulations.engines.local_grid import RunValues

Without = Callable[[ClientData, Path], ClientData]


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


@dataclasses.dataclass(frozen=True, eq=False)
class WithoutWindows(CopiedData):
    """The interactions of clients without a window of some training histories.

    Attributes:
        windows: One row a user: `user`, and `start` and `stop`, the positions in the training history between which nothing
            is left. (private)
    """

    windows: pl.DataFrame

    def rows(self, client_indices: NDArray[np.int64], columns: Sequence[str]) -> ClientRows:
        """As `ClientData.rows`; what stands before a window is followed by what stood behind it."""
        if "train" not in columns:
            return self.data.rows(client_indices, columns)
        found = self.data.rows(client_indices, list(dict.fromkeys([*columns, "user"])))
        cut = found.histories.join(self.windows, on="user", how="left", maintain_order="left")
        whole = pl.col("start").is_null()
        rest = pl.concat_list(pl.col("train").list.head("start"), pl.col("train").list.slice("stop"))
        train = pl.when(whole).then("train").otherwise(rest)
        return ClientRows(cut.with_columns(train=train).select(columns), found.client)


class HeldOutGrid(CohortGrid):
    """All clients of a population in this process, without some of their data.

    Args:
        num_nodes: Clients.
        run_config: What `flwr run --run-config` would give.
        node_ids: As in `LocalGrid`.
        without: Makes what clients have from their own data and a ledger; charged there are the copy's releases. (private)
        ledger: That ledger.
    """

    def __init__(
        self,
        *,
        num_nodes: int,
        run_config: RunValues,
        node_ids: NDArray[np.uint64] | None = None,
        without: Without,
        ledger: Path,
    ) -> None:
        super().__init__(num_nodes=num_nodes, run_config=run_config, node_ids=node_ids)
        self._without, self._ledger = without, ledger

    def batch_of(self, broadcast: Broadcast) -> ClientBatch:
        """As in `CohortGrid`, without what is left out."""
        batch = super().batch_of(broadcast)
        data = self._without(batch.data, self._ledger)
        return dataclasses.replace(batch, data=data, own_ledger=str(self._ledger))
