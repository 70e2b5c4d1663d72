"""`LocalData`: what a node answers from, out of its own interactions alone.

What lives here: which of the interactions a run's catalog knows, how they are split, whose account pays. What never does:
the database (`interactions.py`), and other nodes' data.

The table is made by the code that makes a simulation's (`shared/data/splitting.py`), so a node trains on what it would
train on there. It is kept until the database changes, since a run asks for it once a message.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from client.ledger.accounts import account_of_user
from client.store.data import ClientRows
from client.store.interactions import Contents, InteractionStore
from client.store.population import DATA_NAME
from shared.config.run import RunConfig
from shared.data.catalog import ItemCatalog
from shared.data.splitting import HISTORIES_SCHEMA, histories_of
from shared.errors import ConfigError, DataError

Ints = NDArray[np.int64]

# As the account of the first of several silos in a simulation: a node has no other.
SILO: Final = "client-0"


class LocalData:
    """The interactions of one node as `ClientData`: one client, number 0.

    Args:
        store: The interactions. (private)
        catalog: The items of the run. (public)
        config: The run: how histories are split, whether every user is a client, which run it continues. (public)
        ledger_file: Where the ledger lies if nothing else is said; None: `ledger.sqlite` beside the interactions.
        data_name: What the owner calls the data.
    """

    def __init__(
        self,
        store: InteractionStore,
        catalog: ItemCatalog,
        config: RunConfig,
        *,
        ledger_file: Path | None = None,
        data_name: str = DATA_NAME,
    ) -> None:
        self._store, self._catalog, self._config = store, catalog, config
        self._ledger_file, self._data_name = ledger_file or store.path.with_name("ledger.sqlite"), data_name
        self._table: tuple[int, pl.DataFrame] | None = None

    @classmethod
    def open(
        cls,
        path: Path,
        catalog: ItemCatalog,
        config: RunConfig,
        *,
        key: bytes | None = None,
        data_name: str = DATA_NAME,
    ) -> LocalData:
        """Opens the database at a path, which must exist.

        Args:
            path: The database's file.
            catalog: The items of the run. (public)
            config: The run. (public)
            key: What the database is encrypted with; None for one in clear. (private)
            data_name: What the owner calls the data.

        Raises:
            StoreUnavailable: If it is missing, damaged, or has another key.
        """
        store = InteractionStore(path, secret=key)
        store.verify()
        return cls(store, catalog, config, data_name=data_name)

    @property
    def data_name(self) -> str:
        """As `ClientData.data_name`."""
        return self._data_name

    @property
    def shaped_by_all(self) -> tuple[str, ...]:
        """As `ClientData.shaped_by_all`."""
        return self._config.data.shaped_by_all

    @property
    def ledger_file(self) -> Path:
        """As `ClientData.ledger_file`."""
        return self._ledger_file

    def account(self, client_index: int) -> str:
        """As `ClientData.account`: a user's where every user is a client, else one name for whoever is in the database.

        Raises:
            ConfigError: If there is no such client.
            DataError: If a client is one user and the database holds none, or several.
            StoreUnavailable: If it cannot be read.
        """
        _verify_number(np.array([client_index]))
        if not self._config.one_user_a_client:
            return SILO
        users = self._store.users()
        if len(users) != 1:
            raise DataError(
                f"Expected interactions of one user where every user is a client, found those of {len(users) or 'nobody'}. "
                "Use a node for each user, or take part in runs in which a client holds several."
            )
        return account_of_user(users[0])

    def rows(self, client_indices: Ints, columns: Sequence[str]) -> ClientRows:
        """As `ClientData.rows`; interactions with items that the catalog lacks are left out.

        Guarantee:
            The rows are those that a simulation makes of the same interactions, whatever the order in which they came.

        Raises:
            ConfigError: If there is no such client.
            StoreUnavailable: If the database cannot be read.
        """
        _verify_number(client_indices)
        histories = self._histories()
        times = len(client_indices)
        client = np.repeat(np.arange(times), histories.height)
        table = pl.concat([histories] * times) if times else histories.clear()
        counted = self._counted(table["user"])
        return ClientRows(table.select(columns), client, counted if counted is not None and counted.any() else None)

    def mark_counted(self, run: str) -> None:
        """Notes that the statistics of a run hold every training history as it is now, for runs that continue it.

        Args:
            run: The name by which those will call it in `run.continues`.

        Raises:
            StoreUnavailable: If the database cannot be written.
        """
        lengths = self._histories().select("user", pl.col("train").list.len())
        self._store.mark_counted(run, dict(lengths.iter_rows()))

    def _counted(self, users: pl.Series) -> Ints | None:
        run = self._config.run.continues
        noted = self._store.counted(run) if run else {}
        return np.array([noted.get(user, 0) for user in users.to_list()], dtype=np.int64) if noted else None

    def _histories(self) -> pl.DataFrame:
        """The HISTORIES TABLE. (private)"""
        revision = self._store.revision()
        if self._table is None or self._table[0] != revision:
            self._store.verify()
            known = pl.col("item").is_in(pl.Series(self._catalog.ids).implode())
            data = self._config.data
            table = histories_of(
                self._store.read().filter(known),
                self._catalog,
                method=data.split,
                seed=self._config.run.seed,
                cut_offs=data.cut_off_seconds(),
            ).histories
            # A change between the two reads only has the table made once more.
            self._table = (revision, table.select(HISTORIES_SCHEMA.names()))
        return self._table[1]


def unknown_items(contents: Contents, catalog: ItemCatalog) -> int:
    """How many interactions a run with this catalog leaves out. (private)"""
    return sum(count for item, count in contents.items.items() if item not in catalog.row_of)


def _verify_number(client_indices: Ints) -> None:
    wrong = client_indices[client_indices != 0]
    if len(wrong):
        raise ConfigError(
            f"Expected partition_id=0 on a node with data of its own, got partition_id={wrong[0]}. Leave it out."
        )
