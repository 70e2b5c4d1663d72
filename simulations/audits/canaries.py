"""Canaries: made-up users whose coins the auditor throws, and the data of clients that hold them.

A canary has two items of the catalog's head and nothing else, so that in each statistic its vector is a direction of its
own, as long as the bound allows. Every tenth has many items: where a bound on one user were missing, it would stand out.

Inside silos canaries are added to the users that are there, and one whose coin says no is left out. Where every user is a
client they take real clients' places, because each client adds a share of noise, and a coin that says no leaves an empty
history: the neighbor that is claimed there.

What never lives here: what a canary's vector is; the clients' own code says that (`client/statistics/`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from client.store.data import ClientRows
from shared.data.splitting import HISTORIES_SCHEMA
from shared.errors import ConfigError
from shared.randomness import NoiseSource
from simulations.engines.copied_data import CopiedData

# Every so many canaries one has a long history, of so many different items.
_EVERY, _LONG = 10, 40
# Items of the head, of which the least used may fall out of it under noise.
_SURE_PART = 0.7
# Canaries share an item the less, the more items there are.
_ITEMS_A_CANARY = 0.5
FEWEST = 10


@dataclass(frozen=True, eq=False)
class Canaries:
    """The canaries of one audit.

    Attributes:
        histories: A HISTORIES TABLE, one row a canary.
        included: (m,), the coins. (private until the audit is over)
        home: (m,), the client that holds each.
        long: (m,), which have a long history.
        displace: Whether a canary takes the place of all its client's users.
    """

    histories: pl.DataFrame
    included: NDArray[np.bool_]
    home: NDArray[np.int64]
    long: NDArray[np.bool_]
    displace: bool

    def __len__(self) -> int:
        """m."""
        return len(self.included)

    def rows(self, columns: Sequence[str]) -> ClientRows:
        """All canaries, in or out, each as a client of its own."""
        return ClientRows(self.histories.select(columns), np.arange(len(self)))


def plant(
    counts: NDArray[np.int64],
    *,
    wanted: int,
    clients: int,
    head: int,
    displace: bool,
    rng: np.random.Generator,
    coins: NoiseSource,
) -> Canaries:
    """Makes canaries; only the coins are secret.

    Args:
        counts: (I,), how often each item was used; canaries take often used ones, so that they stay in the head.
        wanted: Canaries, fewer where there is no room.
        clients: Number of clients.
        head: H, the items whose pairs are counted.
        displace: Whether canaries take clients' places.
        rng: Which items go together.
        coins: Who is in.

    Raises:
        ConfigError: If there is no room for so many that anything could be said.
    """
    pool = min(len(counts), max(3, int(_SURE_PART * head)), max(64, int(_ITEMS_A_CANARY * wanted)))
    if pool < 3:
        raise ConfigError(f"Expected at least 3 items for canaries, got items={len(counts)}. Audit a run on more items.")
    items = rng.permutation(np.argsort(-counts, kind="stable")[:pool])
    room = {
        "Ask for more, or audit a run of a smaller model.": wanted,
        "Audit a run on more items: each canary has two that no other has together.": pool * (pool - 1) // 2,
        **({"Audit a run of more clients: each canary takes the place of one.": clients} if displace else {}),
    }
    advice, most = min(room.items(), key=lambda one: one[1])
    if most < FEWEST:
        raise ConfigError(f"Expected room for at least {FEWEST} canaries, found room for {most}. {advice}")
    number = np.arange(most)
    first, shift = number % pool, 1 + number // pool
    train = np.stack([items[first], items[(first + shift) % pool]], axis=1).tolist()
    long = number % _EVERY == _EVERY - 1
    for place in np.flatnonzero(long).tolist():
        others = rng.choice(items, size=min(_LONG, pool), replace=False)
        train[place] = [*train[place], *others[~np.isin(others, train[place])].tolist()]
    targets = rng.integers(0, len(counts), size=(most, 2))
    histories = pl.DataFrame(
        {
            "user": [f"canary-{one}" for one in range(most)],
            "train": train,
            "validation": targets[:, :1].tolist(),
            "test": targets[:, 1:].tolist(),
        },
        schema=HISTORIES_SCHEMA,
    )
    home = rng.permutation(clients)[:most] if displace else rng.permutation(number % clients)
    return Canaries(histories, coins.bernoulli(most, probability=0.5), home.astype(np.int64), long, displace)


@dataclass(frozen=True, eq=False)
class WithCanaries(CopiedData):
    """The interactions of clients with canaries among them.

    Attributes:
        canaries: What was planted.
    """

    canaries: Canaries

    def rows(self, client_indices: NDArray[np.int64], columns: Sequence[str]) -> ClientRows:
        """As `ClientData.rows`: the clients' own users, and the canaries that are in."""
        real = self.without(client_indices, columns)
        planted = np.flatnonzero(self.canaries.included & np.isin(self.canaries.home, client_indices))
        order = np.argsort(client_indices, kind="stable")
        places = order[np.searchsorted(client_indices, self.canaries.home[planted], sorter=order)]
        histories = pl.concat([real.histories, self.canaries.histories[planted].select(columns)])
        clients = np.concatenate([real.client, places])
        # No earlier run has counted anything of a canary.
        counted = None if real.counted is None else np.concatenate([real.counted, np.zeros(len(planted), dtype=np.int64)])
        sorted_by_client = np.argsort(clients, kind="stable")
        return ClientRows(histories, clients, counted).take(sorted_by_client)

    def without(self, client_indices: NDArray[np.int64], columns: Sequence[str]) -> ClientRows:
        """The clients' own users alone, but for those whose place a canary took. (private)"""
        real = self.data.rows(client_indices, columns)
        if not self.canaries.displace:
            return real
        kept = ~np.isin(client_indices[real.client], self.canaries.home)
        return real.take(np.flatnonzero(kept))
