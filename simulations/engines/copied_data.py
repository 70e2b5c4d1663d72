"""The interactions of a run's clients as a copy of the run reads them, with a ledger of the copy's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.store.data import ClientData, ClientRows


@dataclass(frozen=True, eq=False)
class CopiedData:
    """As `ClientData`.

    Attributes:
        data: The clients' own. (private)
        ledger: The copy's ledger: its releases are charged to nobody's real budget.
    """

    data: ClientData
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
        """As `ClientData.rows`."""
        return self.data.rows(client_indices, columns)
