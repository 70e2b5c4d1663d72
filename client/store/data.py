"""`ClientData`: what clients answer from, wherever it lies; a population folder, or a node's own database.

Public facts (`shared/public_facts.py`) are no part of it: a server hands them out, and no node has to hold a folder about
other people's users.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class ClientRows:
    """The histories of several clients.

    Attributes:
        histories: Columns of a HISTORIES TABLE, the rows of one client after those of another. (private)
        client: Shape (rows,), int64, ascending: for each row the position of its client among those
            that were asked for. (private: how many users each client has)
        counted: Shape (rows,), int64: how many training interactions of each user the statistics of earlier runs hold,
            which a run that continues them leaves out; None for none. (private)
    """

    histories: pl.DataFrame
    client: Ints
    counted: Ints | None = None

    def take(self, places: Ints) -> ClientRows:
        """Some of the rows, in this order; clients must ascend in it. (private)"""
        counted = None if self.counted is None else self.counted[places]
        return ClientRows(self.histories[places], self.client[places], counted)


class ClientData(Protocol):
    """Interactions of some clients, and whose budget they are charged to."""

    @property
    def data_name(self) -> str:
        """What the owner calls the data; the ledger is bound to it. Stays on the device."""
        ...

    @property
    def shaped_by_all(self) -> tuple[str, ...]:
        """Settings by which one user's data decided what another's training data are; a private run refuses any."""
        ...

    @property
    def ledger_file(self) -> Path:
        """Where the ledger lies if nothing else is said."""
        ...

    def account(self, client_index: int) -> str:
        """The account of a client in the ledger. (private where it is named by a user)"""
        ...

    def rows(self, client_indices: Ints, columns: Sequence[str]) -> ClientRows:
        """Some columns of the HISTORIES TABLE of all users of these clients, each with whose it is. (private)

        Raises:
            ConfigError: If there is no such client.
            DataError: If the data are missing or damaged.
        """
        ...
