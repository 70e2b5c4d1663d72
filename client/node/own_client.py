"""The one client of a node: the approved run file, the public catalog by its digest, and the node's own interactions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from client.batch import ClientBatch
from client.home import NodeHome
from client.node.settings import read_settings
from client.store.local import LocalData
from client.store.settings import data_key, data_settings
from shared.config.defaults import fitted
from shared.data.catalog import ItemCatalog
from shared.errors import ConfigError
from shared.privacy.releases import POPULARITY
from shared.public_facts import PublicFacts
from shared.run_file import RunFile


@dataclass(frozen=True, eq=False)
class OwnClient:
    """The client that answers a run.

    Attributes:
        run: The approved run file.
        batch: The client.
    """

    run: RunFile
    batch: ClientBatch
    _data: LocalData

    @classmethod
    def of(cls, home: NodeHome, run_file: bytes, server: bytes) -> OwnClient:
        """Opens what a run is answered from.

        Args:
            home: Of the node.
            run_file: The signed document.
            server: Whose signature it bears, 32 bytes.

        Raises:
            ConfigError: If the document is not that server's, or the catalog is not here.
            DataError: If the interactions cannot be opened.
        """
        run, settings = RunFile.read(run_file, server=server, where="the run file"), read_settings(home)
        catalog = read_catalog(home, run)
        config = run.config.with_values({"run.device": settings.device, "run.continues": run.continues})
        config = fitted(config, num_users=run.size.users, num_clients=run.size.clients)
        own = data_settings(home)
        data = LocalData.open(home.interactions, catalog, config, key=data_key(home, own), data_name=own.name)
        batch = ClientBatch(
            config,
            PublicFacts(run.size, catalog),
            data,
            np.zeros(1, dtype=np.int64),
            own_ledger=str(home.ledger),
            own_data_name=own.name,
            own_identity=str(home.identity),
            own_roster=str(home.roster),
        )
        return cls(run, batch, data)

    def answered(self, message_type: str) -> None:
        """Notes how long histories were when the run's first statistic was answered: a run that continues it counts from
        there on. Asked again, the answer that was given last is the one in the sum.

        Args:
            message_type: Of the message that was answered.

        Raises:
            StoreUnavailable: If the database cannot be written.
        """
        if message_type.partition(".")[2] == POPULARITY.name:
            self._data.mark_counted(self.run.digest)


def read_catalog(home: NodeHome, run: RunFile) -> ItemCatalog:
    """The public catalog of a run.

    Raises:
        ConfigError: If it is not on this node, or another one lies in its place.
    """
    path = home.catalogs / f"{run.catalog_digest}.parquet"
    if not path.exists():
        raise ConfigError("Expected the catalog of this run on the node, found none. The server sends it before it asks.")
    catalog = ItemCatalog.load(path)
    if catalog.digest != run.catalog_digest:
        raise ConfigError("Expected the catalog that the run file names, found another in its place. Remove it.")
    return catalog
